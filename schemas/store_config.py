"""Options of `spam store …`: describing, checking, copying, packing, sharing, importing and exporting stores."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, check, option

ForeignKind = Literal["trident", "clam", "slide2vec", "npy", "h5ad"]
"""Program or format of foreign features; `spam.store.foreign_files` recognises them."""

_STORE = "store: a folder, a packed store (.zip), or an address such as s3://bucket/cohort.zarr"
_SECTIONS = "sections, e.g. C2,C3 (default: all)"
_FEATURES = "features, by key or encoder name (default: all)"
_NO_COUNTS = "leave out counts and genes"
_NO_COORDINATES = (
    "leave out coordinates, graphs, overview image and obs columns; number the spots in random order"
)


def _missing(value: object, what: str, example: str) -> str | None:
    return None if value else f"{what} is missing; write `spam store {example}`"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InfoConfig(Config):
    """Options of `spam store info` and `spam store ls`."""

    store: Path | str | None = option(None, _STORE)

    def __post_init__(self) -> None:
        check([_missing(self.store, "the store", "info cohort.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig(Config):
    """Options of `spam store verify`."""

    store: Path | str | None = option(None, _STORE)
    sections: tuple[str, ...] = option((), _SECTIONS)

    def __post_init__(self) -> None:
        check([_missing(self.store, "the store", "verify cohort.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig(Config):
    """Options of `spam store merge`."""

    out: Path | None = option(None, "store to merge into (made if it does not exist)")
    stores: tuple[Path | str, ...] = option((), "stores to merge")

    def __post_init__(self) -> None:
        example = "merge all.zarr a.zarr b.zarr"
        check(
            [
                _missing(self.out, "the store to write", example),
                _missing(self.stores, "what to merge", example),
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig(Config):
    """Options of `spam store select`."""

    store: Path | str | None = option(None, _STORE)
    out: Path | None = option(None, "folder to write; it must not exist")
    sections: tuple[str, ...] = option((), _SECTIONS)
    features: tuple[str, ...] = option((), _FEATURES)
    genes: tuple[str, ...] = option((), "genes to keep (default: all)")
    genes_file: Path | None = option(None, "text file of the genes to keep, one per line")
    without_counts: bool = option(False, _NO_COUNTS)  # noqa: FBT003
    without_coordinates: bool = option(False, _NO_COORDINATES)  # noqa: FBT003

    def __post_init__(self) -> None:
        example = "select cohort.zarr part.zarr --sections C2"
        check(
            [
                _missing(self.store, "the store", example),
                _missing(self.out, "the store to write", example),
                "give --genes or --genes-file, not both" if self.genes and self.genes_file else None,
                "--without-counts leaves no genes to select; leave out --genes"
                if self.without_counts and (self.genes or self.genes_file)
                else None,
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig(Config):
    """Options of `spam store pack`."""

    store: Path | None = option(None, "store to pack, a folder")
    out: Path | None = option(None, "ZIP file to write (default: the store's name with .zip)")

    def __post_init__(self) -> None:
        check([_missing(self.store, "the store", "pack cohort.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackConfig(Config):
    """Options of `spam store unpack`."""

    packed: Path | None = option(None, "packed store, a ZIP file")
    out: Path | None = option(None, "folder to write (default: the file's name without .zip)")

    def __post_init__(self) -> None:
        check([_missing(self.packed, "the packed store", "unpack cohort.zarr.zip")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(Config):
    """Options of `spam store export`."""

    store: Path | str | None = option(None, _STORE)
    out: Path | None = option(None, "folder to write one file (or folder) per section to")
    to: Literal["h5ad", "zarr", "parquet"] = option(
        "h5ad", "format: AnnData as HDF5 or Zarr, or a Parquet table"
    )
    sections: tuple[str, ...] = option((), _SECTIONS)
    features: tuple[str, ...] = option((), _FEATURES)

    def __post_init__(self) -> None:
        example = "export cohort.zarr out --to h5ad"
        check(
            [_missing(self.store, "the store", example), _missing(self.out, "the folder to write", example)]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig(Config):
    """Options of `spam store import`."""

    store: Path | None = option(None, "store that has the section")
    file: Path | None = option(
        None, "file of features: TRIDENT or CLAM (.h5, .pt), slide2vec (.pt, .npz), .npy, .h5ad"
    )
    section: str | None = option(None, "section that the features belong to (default: the only one)")
    kind: ForeignKind | None = option(None, "program that made the file (default: recognised by its content)")
    key: str | None = option(None, "for .h5ad: the obsm key of the features")
    coordinates: Path | None = option(
        None, "table (x, y or spot_id per row) or file of coordinates that belongs to .npy or .pt"
    )
    enc_name: str | None = option(None, "encoder that made the features (default: as in the file)")
    licence: str | None = option(None, "licence of that encoder's features (default: unknown)")
    tile_um: float | None = option(None, "side of a tile in µm (default: as in the file)")
    tile_px: int | None = option(None, "side of a tile in full-resolution pixels, instead of --tile-um")
    tolerance_um: float = option(
        1.0, "largest distance of a tile's centre from its spot, in µm (in pixels if the scale is unknown)"
    )
    dtype: Literal["float16", "float32"] = option("float16", "number format of the stored features")
    overwrite: bool = option(False, "replace features of that name")  # noqa: FBT003

    def __post_init__(self) -> None:
        example = "import cohort.zarr C2.h5 --section C2"
        check(
            [
                _missing(self.store, "the store", example),
                _missing(self.file, "the file of features", example),
                "give --tile-um or --tile-px, not both" if self.tile_um and self.tile_px else None,
                None
                if self.tolerance_um >= 0
                else f"--tolerance-um must not be negative, not {self.tolerance_um}",
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig(Config):
    """Options of `spam store push`."""

    store: Path | None = option(None, "store to share, a folder")
    to: Path | str | None = option(None, "address: hf://datasets/org/name, s3://bucket/name.zarr or a folder")
    licence: str | None = option(None, "licence of counts and images for sections that state none")
    i_have_the_right_to_share: bool = option(
        False,  # noqa: FBT003
        "share although a licence forbids it or is unknown; recorded in the README of the copy",
    )
    without_counts: bool = option(False, _NO_COUNTS)  # noqa: FBT003
    without_coordinates: bool = option(False, _NO_COORDINATES)  # noqa: FBT003
    private: bool = option(True, "make a new Hub repository private")  # noqa: FBT003
    overwrite: bool = option(False, "replace sections that differ at the address")  # noqa: FBT003

    def __post_init__(self) -> None:
        example = "push cohort.zarr hf://datasets/org/name"
        check([_missing(self.store, "the store", example), _missing(self.to, "the address", example)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullConfig(Config):
    """Options of `spam store pull`."""

    store: Path | str | None = option(None, "address: hf://datasets/org/name, s3://…, https://…")
    out: Path | None = option(None, "folder to write; files that it has are not fetched again")
    sections: tuple[str, ...] = option((), _SECTIONS)
    features: tuple[str, ...] = option((), _FEATURES)

    def __post_init__(self) -> None:
        example = "pull hf://datasets/org/name cohort.zarr"
        check(
            [_missing(self.store, "the address", example), _missing(self.out, "the folder to write", example)]
        )
