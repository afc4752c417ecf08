"""Options of `spam store …`: describing, checking, copying, packing, sharing, importing and exporting stores."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .config import Config, flag, option

ForeignKind = Literal["trident", "clam", "slide2vec", "lazyslide", "npy", "h5ad"]
"""Program or format of foreign features; `spam.store.foreign_files` recognises them."""

ExportFormat = Literal[
    "h5ad", "zarr", "csv", "parquet", "mex", "geojson", "ome-tiff", "vitessce", "spatialdata"
]
FEATURE_FORMATS: tuple[ExportFormat, ...] = ("h5ad", "zarr", "csv", "parquet", "spatialdata")
"""Formats with the features of a store."""
GENE_FORMATS: tuple[ExportFormat, ...] = ("geojson", "ome-tiff", "vitessce")
"""Formats with some genes, or that show one first."""

_STORE = "store: a folder, a packed store (.zip), or an address such as s3://bucket/cohort.zarr"
_SECTIONS = "sections, e.g. C2,C3 (default: all)"
_FEATURES = "features, by key or encoder name (default: all)"
_NO_COUNTS = (
    "leave out counts, genes and obs columns, which may be computed from counts (those of the array stay)"
)
_NO_PLACES = "leave out coordinates, graphs, overview image, file names and obs columns; number the spots in random order"
_KEEP_OBS = "obs columns to keep although counts or coordinates are left out, e.g. label"
_SELECT = "select cohort.zarr part.zarr --sections C2"
_MERGE = "merge all.zarr a.zarr b.zarr"
_IMPORT = "import cohort.zarr C2.h5 --section C2"
_PUSH = "push cohort.zarr hf://datasets/org/name"
_PULL = "pull hf://datasets/org/name cohort.zarr"


def _argument(help: str, example: str | None = None, *, default: Any = None) -> Any:
    """Declare a positional field; it is required if an example is given."""
    required = None if example is None else f"run e.g. spam store {example}"
    return option(default, help, required=required, is_argument=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InfoConfig(Config):
    """Options of `spam store info` and `spam store ls`."""

    store: Path | str | None = _argument(_STORE, "info cohort.zarr")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig(Config):
    """Options of `spam store verify`."""

    store: Path | str | None = _argument(_STORE, "verify cohort.zarr")
    sections: tuple[str, ...] = option((), _SECTIONS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig(Config):
    """Options of `spam store merge`."""

    out: Path | None = _argument("store to merge into (created if needed)", _MERGE)
    stores: tuple[Path | str, ...] = _argument(
        "stores to copy from, each a folder, a packed store or an address", _MERGE, default=()
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig(Config):
    """Options of `spam store select`."""

    store: Path | str | None = _argument(_STORE, _SELECT)
    out: Path | None = _argument("folder to write; it must not exist", _SELECT)
    sections: tuple[str, ...] = option((), _SECTIONS)
    features: tuple[str, ...] = option((), _FEATURES)
    genes: tuple[str, ...] = option((), "genes to keep (default: all)")
    genes_file: Path | None = option(None, "text file of the genes to keep, one per line")
    without_counts: bool = option(False, _NO_COUNTS)
    without_coordinates: bool = option(False, _NO_PLACES)
    keep_obs: tuple[str, ...] = option((), _KEEP_OBS)

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        has_genes = bool(self.genes or self.genes_file)
        return [
            "give --genes or --genes-file, not both" if self.genes and self.genes_file else None,
            "--without-counts leaves no genes; omit --genes" if self.without_counts and has_genes else None,
            _unused_keep_obs(self),
        ]


def _unused_keep_obs(config: "SelectConfig | PushConfig") -> str | None:
    if config.keep_obs and not (config.without_counts or config.without_coordinates):
        return "--keep-obs needs --without-counts or --without-coordinates; without them all obs columns stay"
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig(Config):
    """Options of `spam store pack`."""

    store: Path | None = _argument("store to pack, a folder", "pack cohort.zarr")
    out: Path | None = _argument("ZIP file to write (default: the store's name with .zip)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackConfig(Config):
    """Options of `spam store unpack`."""

    packed: Path | None = _argument("packed store, a ZIP file", "unpack cohort.zarr.zip")
    out: Path | None = _argument("folder to write (default: the file's name without .zip)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(Config):
    """Options of `spam export`."""

    source: Path | str | None = option(
        None,
        "predictions (.h5ad), or a store: a folder, a packed store (.zip), or an address",
        required="name predictions.h5ad or a store, e.g. spam export cohort.zarr out",
        is_argument=True,
    )
    out: Path | None = option(
        None,
        "folder to write one file (or folder) per section to",
        required="name a folder to write to, e.g. spam export cohort.zarr out",
        is_argument=True,
    )
    format: ExportFormat = option(
        "h5ad",
        "AnnData (h5ad, zarr), tables (csv, parquet), Space Ranger's folder (mex), QuPath (geojson), maps (ome-tiff), "
        "vitessce or spatialdata",
        flags=("--to",),
    )
    sections: tuple[str, ...] = option((), _SECTIONS)
    features: tuple[str, ...] = option((), f"{_FEATURES}; for {', '.join(FEATURE_FORMATS)}")
    genes: tuple[str, ...] = option(
        (), f"genes for {', '.join(GENE_FORMATS)} (default: the 20 best predicted, or the most variable)"
    )

    def faults(self) -> list[str | None]:
        """List options that the format does not use."""
        no_features = self.features and self.format not in FEATURE_FORMATS
        no_genes = self.genes and self.format not in GENE_FORMATS
        return [
            f"--format {self.format} holds no features; omit --features" if no_features else None,
            f"--format {self.format} holds all genes; omit --genes" if no_genes else None,
        ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportFeaturesConfig(Config):
    """Options of `spam store import`."""

    store: Path | None = _argument("store with the section (created if needed, with --h5ad)", _IMPORT)
    file: Path | None = _argument(
        "file of features: TRIDENT or CLAM (.h5, .pt), slide2vec (.pt, .npz), LazySlide (.zarr), .npy, .h5ad",
        _IMPORT,
    )
    section: str | None = option(
        None, "section that the features belong to (default: the only one; that of --h5ad; the name of FILE)"
    )
    h5ad: Path | None = option(
        None, "AnnData file with raw counts and obsm['spatial']: creates the section, without any image"
    )
    all_tiles: bool = option(
        False, "create the section without counts, for prediction: every tile of FILE is a spot"
    )
    donor: str | None = option(None, "donor of the new section (default: as `spam embed`)")
    mpp: float | None = option(
        None, "µm per full-resolution pixel of the new section (default: from the h5ad)", limits="[0.01,100]"
    )
    counts_layer: str | None = option(
        None, "layer of the h5ad with raw counts, or X or raw (default: 'counts' if it exists, else X)"
    )
    key: str | None = option(
        None, "for .h5ad: the obsm key of the features; for LazySlide: the table, e.g. uni_tiles"
    )
    coordinates: Path | None = option(
        None, "table (x, y or spot_id per row) or file of coordinates that belongs to .npy or .pt"
    )
    enc_name: str | None = option(None, "encoder that made the features (default: as in the file)")
    licence: str | None = option(None, "licence of that encoder's features (default: unknown)")
    tile_um: float | None = option(
        None, "side of a tile in µm (default: as in the file)", limits="(0,100000]"
    )
    tile_px: int | None = option(
        None, "side of a tile in full-resolution pixels, instead of --tile-um", limits="[1,100000]"
    )
    tolerance_um: float = option(
        1.0,
        "largest distance of a tile's centre from its spot, in µm (in pixels if the scale is unknown)",
        limits="[0,100000]",
    )
    dtype: Literal["float16", "float32"] = option("float16", "number format of the stored features")
    overwrite: bool = option(False, "replace features of that name")

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        is_new = self.h5ad is not None or self.all_tiles
        of_new = [flag(name) for name in ("donor", "mpp") if getattr(self, name) is not None and not is_new]
        return [
            "give --tile-um or --tile-px, not both" if self.tile_um and self.tile_px else None,
            "give --h5ad or --all-tiles, not both" if self.h5ad and self.all_tiles else None,
            f"{', '.join(of_new)} {'is' if len(of_new) == 1 else 'are'} for a new section; add --h5ad or --all-tiles"
            if of_new
            else None,
            "--counts-layer belongs to --h5ad, which is missing"
            if self.counts_layer and not self.h5ad
            else None,
        ]

    def check_paths(self, *, leave_out: Iterable[str] = ()) -> None:
        """Check the paths as `Config.check_paths`; a new section can be the first of a new store."""
        is_new = self.h5ad is not None or self.all_tiles
        Config.check_paths(self, leave_out=[*leave_out, "store"] if is_new else leave_out)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig(Config):
    """Options of `spam store push`."""

    store: Path | None = _argument("store to share, a folder", _PUSH)
    to: Path | str | None = _argument(
        "address: hf://datasets/org/name, s3://bucket/name.zarr or a folder", _PUSH
    )
    licence: str | None = option(None, "licence of counts and images for sections that state none")
    i_have_the_right_to_share: bool = option(
        False, "share although a licence forbids it or is unknown; recorded in the README of the copy"
    )
    without_counts: bool = option(False, _NO_COUNTS)
    without_coordinates: bool = option(False, _NO_PLACES)
    keep_obs: tuple[str, ...] = option((), _KEEP_OBS)
    private: bool = option(True, "make a new Hub repository private")
    overwrite: bool = option(False, "replace sections that differ at the address")

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        return [_unused_keep_obs(self)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullConfig(Config):
    """Options of `spam store pull`."""

    store: Path | str | None = _argument(
        "store to copy: address (hf://datasets/org/name, s3://…, https://…) or folder", _PULL
    )
    out: Path | None = _argument("folder to write; files that it has are not fetched again", _PULL)
    sections: tuple[str, ...] = option((), _SECTIONS)
    features: tuple[str, ...] = option((), _FEATURES)
