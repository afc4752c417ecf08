"""Which benchmark a folder holds: cells of another one are neither mixed in nor removed without being told to."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spam.atomic import write_text
from spam.errors import OutputExistsError
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.config import flag

from .folds import Fold

__all__ = ["open_folder"]

# Where things are, and how many cells there are, changes no cell; what the folds are stands in the record itself.
_NOT_IN_RECORD = (
    *("store", "out_dir", "overwrite", "methods", "seeds", "jobs"),
    *("by", "sections", "train_sections", "test_sections"),
)


def open_folder(
    config: BenchmarkConfig, folds: Sequence[Fold], *, data_digest: str, software: Mapping[str, str]
) -> Path:
    """Make the out dir ready, with a record of what it is for; return it.

    Parameters
    ----------
    data_digest
        Digest of the features, coordinates and counts that the benchmark reads.
    software
        Versions that the numbers depend on.

    Raises
    ------
    OutputExistsError
        If the folder holds a benchmark of other options, data, folds or versions and ``--overwrite`` was not given, or a
        ``cells`` folder that no benchmark made.
    """
    folder = config.out_dir
    assert folder is not None  # held by BenchmarkConfig
    options = {name: value for name, value in config.to_mapping().items() if name not in _NOT_IN_RECORD}
    now: dict[str, Any] = {
        "options": options,
        "folds": [dataclasses.asdict(fold) for fold in folds],
        "data_sha256": data_digest,
        "software": dict(software),
    }
    now = json.loads(json.dumps(now))  # as it reads back: lists for tuples
    path, cells = folder / "run.json", folder / "cells"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before is None and cells.exists():
        message = (
            f"{str(folder)!r} holds a folder 'cells' but no run.json, so spam benchmark has not made it; choose another "
            "--out-dir"
        )
        raise OutputExistsError(message)
    if before is not None and before != now:
        if not config.overwrite:
            message = (
                f"{str(folder)!r} holds a benchmark with {_difference(before, now)}; choose another --out-dir, or remove "
                "that benchmark and start again here with --overwrite"
            )
            raise OutputExistsError(message)
        path.unlink()
        shutil.rmtree(cells, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(now, indent=1))
    return folder


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in what two records differ."""
    told = []
    options = [
        f"{flag(name)} {before['options'].get(name)!r} (now {value!r})"
        for name, value in now["options"].items()
        if before["options"].get(name) != value
    ]
    if options:
        told.append(f"other options: {', '.join(options)}")
    if before["folds"] != now["folds"]:
        told.append(f"other folds: {', '.join(fold['name'] for fold in before['folds'])}")
    if before["data_sha256"] != now["data_sha256"]:
        told.append("other data in the store")
    if before["software"] != now["software"]:
        told.append(
            "other versions: "
            + ", ".join(
                f"{name} {before['software'].get(name)} (now {version})"
                for name, version in now["software"].items()
                if before["software"].get(name) != version
            )
        )
    return "; ".join(told) or "another record"
