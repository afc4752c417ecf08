"""`spam store …`: looking into stores, checking, copying, packing, sharing and exchanging them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from spam.progress import Progress
from spam.schemas import store_config
from spam.schemas.config import Config

from .command import Command, Report
from .options import options_of

__all__ = ["STORE_COMMANDS"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _InShort:
    """A report whose text is one line a section."""

    report: Any

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        mapping: dict[str, Any] = self.report.to_mapping()
        return mapping

    def summary(self) -> str:
        """Write one line per section."""
        return str(self.report.names_only())


def _same(report: Any) -> Any:
    return report


def _in_short(report: Any) -> _InShort:
    return _InShort(report=report)


def _done(report: Any) -> int:
    return 0


def _has_faults(report: Any) -> int:
    return 2 if report.faults else 0


def _load(room: str) -> Any:
    if room == "sharing":
        from spam import sharing

        return sharing
    from spam import exchange  # heavier: AnnData and torch

    return exchange


def _command(
    name: str,
    does: str,
    example: str,
    config: type[Config],
    arguments: tuple[str, ...],
    *,
    twin: str,
    shown: Callable[[Any], Report] = _same,
    exit_code: Callable[[Any], int] = _done,
) -> Command:
    """Make a command whose library twin, ``room.function``, is imported when the command runs."""

    def work(values: dict[str, Any], progress: Progress) -> Report:
        made = config.from_mapping(values)
        room, function = twin.split(".")
        return shown(getattr(_load(room), function)(made, progress=progress))

    return Command(
        name=name,
        does=does,
        example=example,
        options=options_of(config, arguments=arguments),
        work=work,
        exit_code=exit_code,
    )


STORE_COMMANDS = (
    _command(
        "ls",
        "List the sections of a store, a line each.",
        "spam store ls cohort.zarr",
        store_config.InfoConfig,
        ("store",),
        twin="sharing.describe",
        shown=_in_short,
    ),
    _command(
        "info",
        "Show what a feature store holds. For each section: spots, genes, features, graphs, licences, digests.",
        "spam store info cohort.zarr\nspam store info s3://bucket/cohort.zarr",
        store_config.InfoConfig,
        ("store",),
        twin="sharing.describe",
    ),
    _command(
        "validate",
        "Check a store against the format. All faults are listed; exit code 2 if there are any.",
        "spam store validate cohort.zarr",
        store_config.ValidateConfig,
        ("store",),
        twin="sharing.validate",
        exit_code=_has_faults,
    ),
    _command(
        "verify",
        "Compare every byte of a store with its digests. Damage is named by array, chunk and rows; exit code 2 then.",
        "spam store verify cohort.zarr\nspam store verify cohort.zarr.zip",
        store_config.VerifyConfig,
        ("store",),
        twin="sharing.verify",
        exit_code=_has_faults,
    ),
    _command(
        "diff",
        "Say in what two stores differ.",
        "spam store diff cohort.zarr other.zarr",
        store_config.DiffConfig,
        ("a", "b"),
        twin="sharing.diff",
    ),
    _command(
        "merge",
        "Take the sections, features and graphs of several stores into one. What is there stays as it is.",
        "spam store merge all.zarr a.zarr b.zarr",
        store_config.MergeConfig,
        ("out", "stores"),
        twin="sharing.merge",
    ),
    _command(
        "select",
        "Copy a part of a store: some sections, features or genes, or without what must not leave.",
        "spam store select cohort.zarr part.zarr --sections C2,C3 --genes ERBB2,CD74\n"
        "spam store select cohort.zarr open.zarr --without-counts --salted-ids",
        store_config.SelectConfig,
        ("store", "out"),
        twin="sharing.select",
    ),
    _command(
        "pack",
        "Put a store into one ZIP file, which every command reads as it is.",
        "spam store pack cohort.zarr",
        store_config.PackConfig,
        ("store", "out"),
        twin="sharing.pack",
    ),
    _command(
        "unpack",
        "Make a folder of a packed store again. Every file is compared with its digest.",
        "spam store unpack cohort.zarr.zip",
        store_config.UnpackConfig,
        ("packed", "out"),
        twin="sharing.unpack",
    ),
    _command(
        "export",
        "Write sections as files of other tools: h5ad, AnnData-Zarr or Parquet.",
        "spam store export cohort.zarr exported --to h5ad",
        store_config.ExportConfig,
        ("store", "out"),
        twin="exchange.export",
    ),
    _command(
        "import",
        "Take up features that were made elsewhere (TRIDENT, CLAM, slide2vec, NumPy, AnnData).",
        "spam store import cohort.zarr C2.h5 --section C2",
        store_config.ImportConfig,
        ("store", "file"),
        twin="exchange.import_features",
    ),
    _command(
        "push",
        "Share a store: to the Hugging Face Hub, an object store or a folder. Only what changed is sent.",
        "spam store push cohort.zarr hf://datasets/org/name",
        store_config.PushConfig,
        ("store", "to"),
        twin="sharing.push",
    ),
    _command(
        "pull",
        "Fetch a shared store, or some of its sections and features, into a folder. Only what is missing is fetched.",
        "spam store pull hf://datasets/org/name cohort.zarr --sections C2",
        store_config.PullConfig,
        ("store", "out"),
        twin="sharing.pull",
    ),
)
