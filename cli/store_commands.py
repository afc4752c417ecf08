"""The commands of `spam store ...`."""

import dataclasses
from typing import Any

from spam.progress import Progress
from spam.schemas import store_config as configs

from .command import Command, Shown, command
from .commands import EXPORT


def _has_faults(report: Any) -> int:
    return 2 if report.faults else 0


INFO = command(
    "info",
    "Show the content of a feature store: spots, genes, features, graphs, licences and digests of each section.",
    "spam store info cohort.zarr\nspam store info s3://bucket/cohort.zarr",
    configs.InfoConfig,
    "store.describing.describe",
)


def _ls(values: dict[str, Any], progress: Progress) -> Shown:
    report = INFO.work(values, progress)
    return Shown(values=report.to_mapping(), text=report.names_only())


LS = dataclasses.replace(
    INFO,
    name="ls",
    does="List the sections of a store, one per line.",
    example="spam store ls cohort.zarr",
    work=_ls,
)
VERIFY = command(
    "verify",
    "Compare every byte of a store with its digests. Damage is reported by array, chunk and rows, with exit code 2.",
    "spam store verify cohort.zarr\nspam store verify cohort.zarr.zip",
    configs.VerifyConfig,
    "store.verifying.verify",
    exit_code=_has_faults,
)
MERGE = command(
    "merge",
    "Copy the sections, features and graphs of several stores into one. Existing content is kept.",
    "spam store merge all.zarr a.zarr b.zarr",
    configs.MergeConfig,
    "store.merging.merge",
)
SELECT = command(
    "select",
    "Copy part of a store: some sections, features or genes, or without counts or coordinates.",
    "spam store select cohort.zarr part.zarr --sections C2,C3 --genes ERBB2,CD74\n"
    "spam store select cohort.zarr open.zarr --without-counts",
    configs.SelectConfig,
    "store.copying.select",
)
PACK = command(
    "pack",
    "Pack a store into one ZIP file, which every command can read.",
    "spam store pack cohort.zarr",
    configs.PackConfig,
    "store.packing.pack",
)
UNPACK = command(
    "unpack",
    "Unpack a packed store into a folder. Every file is compared with its digest.",
    "spam store unpack cohort.zarr.zip unpacked.zarr",
    configs.UnpackConfig,
    "store.packing.unpack",
)
IMPORT = command(
    "import",
    "Import features made by other tools (TRIDENT, CLAM, slide2vec, LazySlide, NumPy, AnnData).",
    "spam store import cohort.zarr C2.h5 --section C2\nspam store import cohort.zarr C2.h5 --h5ad C2.h5ad",
    configs.ImportFeaturesConfig,
    "store.importing.import_features",
)
PUSH = command(
    "push",
    "Upload a store to the Hugging Face Hub, an object store or a folder. Only changes are sent.",
    "spam store push cohort.zarr hf://datasets/org/name",
    configs.PushConfig,
    "store.publishing.push",
)
PULL = command(
    "pull",
    "Download a store, or some of its sections and features, into a folder. Only missing files are fetched.",
    "spam store pull hf://datasets/org/name cohort.zarr --sections C2",
    configs.PullConfig,
    "store.publishing.pull",
)
STORE_COMMANDS: tuple[Command, ...] = (
    *(LS, INFO, VERIFY, MERGE, SELECT, PACK, UNPACK, EXPORT, IMPORT, PUSH, PULL),
)
