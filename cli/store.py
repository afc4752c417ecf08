"""`spam store …`: looking into stores, checking, copying, packing, sharing and exchanging them."""

from spam.schemas import store_config

from .store_command import has_faults, in_short, store_command

__all__ = ["STORE_COMMANDS"]

STORE_COMMANDS = (
    store_command(
        "ls",
        "List the sections of a store, a line each.",
        "spam store ls cohort.zarr",
        store_config.InfoConfig,
        ("store",),
        twin="describing.describe",
        shown=in_short,
    ),
    store_command(
        "info",
        "Show what a feature store holds. For each section: spots, genes, features, graphs, licences, digests.",
        "spam store info cohort.zarr\nspam store info s3://bucket/cohort.zarr",
        store_config.InfoConfig,
        ("store",),
        twin="describing.describe",
    ),
    store_command(
        "verify",
        "Compare every byte of a store with its digests. Damage is named by array, chunk and rows; exit code 2 then.",
        "spam store verify cohort.zarr\nspam store verify cohort.zarr.zip",
        store_config.VerifyConfig,
        ("store",),
        twin="verifying.verify",
        exit_code=has_faults,
    ),
    store_command(
        "merge",
        "Take the sections, features and graphs of several stores into one. What is there stays as it is.",
        "spam store merge all.zarr a.zarr b.zarr",
        store_config.MergeConfig,
        ("out", "stores"),
        twin="copying.merge",
    ),
    store_command(
        "select",
        "Copy a part of a store: some sections, features or genes, or without what must not leave.",
        "spam store select cohort.zarr part.zarr --sections C2,C3 --genes ERBB2,CD74\n"
        "spam store select cohort.zarr open.zarr --without-counts",
        store_config.SelectConfig,
        ("store", "out"),
        twin="copying.select",
    ),
    store_command(
        "pack",
        "Put a store into one ZIP file, which every command reads as it is.",
        "spam store pack cohort.zarr",
        store_config.PackConfig,
        ("store", "out"),
        twin="packing.pack",
    ),
    store_command(
        "unpack",
        "Make a folder of a packed store again. Every file is compared with its digest.",
        "spam store unpack cohort.zarr.zip",
        store_config.UnpackConfig,
        ("packed", "out"),
        twin="packing.unpack",
    ),
    store_command(
        "export",
        "Write sections as files of other tools: h5ad, AnnData-Zarr or Parquet.",
        "spam store export cohort.zarr exported --to h5ad",
        store_config.ExportConfig,
        ("store", "out"),
        twin="exporting.export",
    ),
    store_command(
        "import",
        "Take up features that were made elsewhere (TRIDENT, CLAM, slide2vec, NumPy, AnnData).",
        "spam store import cohort.zarr C2.h5 --section C2",
        store_config.ImportConfig,
        ("store", "file"),
        twin="importing.import_features",
    ),
    store_command(
        "push",
        "Share a store: to the Hugging Face Hub, an object store or a folder. Only what changed is sent.",
        "spam store push cohort.zarr hf://datasets/org/name",
        store_config.PushConfig,
        ("store", "to"),
        twin="publishing.push",
    ),
    store_command(
        "pull",
        "Fetch a shared store, or some of its sections and features, into a folder. Only what is missing is fetched.",
        "spam store pull hf://datasets/org/name cohort.zarr --sections C2",
        store_config.PullConfig,
        ("store", "out"),
        twin="publishing.pull",
    ),
)
