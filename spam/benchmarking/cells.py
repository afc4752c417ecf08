"""One finished piece of a benchmark, a method on a fold with a seed, as a file that is whole or not there."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.atomic import replacing, write_text
from spam.errors import NotApplicableError
from spam.evaluation import SetScore

from .scoring import FoldScores

__all__ = ["Cell", "Failure", "cell_path", "read_cell", "read_gene_tables", "write_cell"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a method gave no scores: the error's kind and its message."""

    kind: str
    message: str

    @property
    def is_expected(self) -> bool:
        """Whether the method has nothing to work on here, and so has not failed."""
        return self.kind == NotApplicableError.__name__


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A method on a fold with a seed.

    Attributes
    ----------
    fold, method, seed
        Which one.
    is_reference
        Whether the method is a baseline.
    seconds, peak_mb
        Cost of fitting and predicting, see `Cost`.
    jobs, threads
        How many cells ran side by side, and the threads that each of them had; None where an earlier version did not keep
        it.
    sections
        Scores of each test section; empty after a failure.
    hest
        Score on the HEST board, or None after a failure.
    prediction_sha256
        Digest of all that was predicted, or None after a failure.
    failure
        What went wrong, or None.
    """

    fold: str
    method: str
    seed: int
    is_reference: bool
    seconds: float
    peak_mb: float | None
    jobs: int | None = None
    threads: int | None = None
    sections: Mapping[str, tuple[SetScore, ...]] = dataclasses.field(default_factory=dict)
    hest: SetScore | None = None
    prediction_sha256: str | None = None
    failure: Failure | None = None


def cell_path(folder: Path, fold: str, method: str, seed: int) -> Path:
    """Name the JSON file of a cell; its scores per gene lie beside it as ``.npz``."""
    return folder / "cells" / _file_name(fold) / _file_name(method) / f"seed-{seed}.json"


def write_cell(path: Path, cell: Cell, scores: FoldScores | None) -> None:
    """Write a cell: first the scores per gene, then the JSON file, which makes it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = None
    if scores is not None:
        with replacing(_table_path(path)) as partial, partial.open("wb") as file:
            np.savez(file, **_arrays(scores.genes))  # type: ignore[arg-type]  # mypy takes one for allow_pickle
        digest = _sha256(_table_path(path))
    values = {**dataclasses.asdict(cell), "genes_sha256": digest}
    write_text(path, json.dumps(_without_nan(values), indent=1, allow_nan=False))


def read_cell(path: Path) -> Cell | None:
    """Read a cell that is whole and has scores, or None: then it is to be computed."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_whole = values.pop("genes_sha256") == _sha256(_table_path(path))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if not is_whole or values["failure"] is not None:
        return None
    sections = {name: tuple(map(_set_score, scores)) for name, scores in values["sections"].items()}
    return Cell(**{**values, "sections": sections, "hest": _set_score(values["hest"])})


def read_gene_tables(path: Path) -> dict[str, pd.DataFrame]:
    """Read the scores per gene of each test section of a cell."""
    with np.load(_table_path(path)) as arrays:
        names = [str(name) for name in arrays["sections"]]
        return {
            name: pd.DataFrame(
                arrays[f"{i}.scores"],
                index=pd.Index(arrays[f"{i}.genes"], name="gene"),
                columns=list(map(str, arrays["score_names"])),
            )
            for i, name in enumerate(names)
        }


def _arrays(tables: Mapping[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Lay the tables out as plain arrays, which NumPy reads without pickle."""
    arrays = {
        "sections": np.asarray(list(tables)),
        "score_names": np.asarray(list(next(iter(tables.values())).columns)),
    }
    for i, table in enumerate(tables.values()):
        arrays[f"{i}.genes"] = table.index.to_numpy().astype(str)
        arrays[f"{i}.scores"] = table.to_numpy(dtype=np.float64)
    return arrays


def _set_score(values: dict[str, Any]) -> SetScore:
    means = {name: math.nan if value is None else value for name, value in values["means"].items()}
    return SetScore(**{**values, "means": means})


def _without_nan(value: Any) -> Any:
    """Replace NaN by None, which JSON knows, as deep as it goes."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _table_path(path: Path) -> Path:
    return path.with_suffix(".npz")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file_name(name: str) -> str:
    """Make a name of a file that tells names apart which look alike once their odd characters are gone."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "unnamed"
    return f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
