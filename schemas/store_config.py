"""Options of `spam store …`: looking into stores, checking, copying, packing, sharing and exchanging them."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, check, option

__all__ = [
    "DiffConfig",
    "ExportConfig",
    "ForeignKind",
    "ImportConfig",
    "InfoConfig",
    "MergeConfig",
    "PackConfig",
    "PullConfig",
    "PushConfig",
    "SelectConfig",
    "UnpackConfig",
    "ValidateConfig",
    "VerifyConfig",
]

ForeignKind = Literal["trident", "clam", "slide2vec", "npy", "h5ad"]
"""Who wrote foreign features; `spam.exchange.recognising` tells them apart."""

_STORE = "store: a folder, a packed store (.zip), or an address such as s3://bucket/cohort.zarr"
_OUT = "where to write it; nothing may be there yet"


def _missing(value: object, what: str, example: str) -> str | None:
    return None if value else f"{what} is missing; write `spam store {example}`"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InfoConfig(Config):
    """Options of `spam store info` and `spam store ls`."""

    store: Path | str | None = option(None, _STORE)

    def __post_init__(self) -> None:
        check([_missing(self.store, "the store", "info cohort.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ValidateConfig(Config):
    """Options of `spam store validate`."""

    store: Path | str | None = option(None, _STORE)

    def __post_init__(self) -> None:
        check([_missing(self.store, "the store", "validate cohort.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig(Config):
    """Options of `spam store verify`."""

    store: Path | str | None = option(None, _STORE)
    sections: tuple[str, ...] = option((), "sections to verify, e.g. C2,C3 (default: all)")

    def __post_init__(self) -> None:
        check([_missing(self.store, "the store", "verify cohort.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiffConfig(Config):
    """Options of `spam store diff`."""

    a: Path | str | None = option(None, _STORE)
    b: Path | str | None = option(None, "the store that it is compared with")

    def __post_init__(self) -> None:
        check([_missing(self.a and self.b, "one of the two stores", "diff a.zarr b.zarr")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig(Config):
    """Options of `spam store merge`."""

    out: Path | None = option(None, "store to merge into (made if it is not there)")
    stores: tuple[Path | str, ...] = option((), "stores to take everything from")

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
    """Options of `spam store select`: what of a store goes into a copy of it."""

    store: Path | str | None = option(None, _STORE)
    out: Path | None = option(None, _OUT)
    sections: tuple[str, ...] = option((), "sections to keep, e.g. C2,C3 (default: all)")
    features: tuple[str, ...] = option((), "features to keep, by key or encoder name (default: all)")
    genes: tuple[str, ...] = option((), "genes to keep (default: all)")
    genes_file: Path | None = option(None, "text file of the genes to keep, one a line")
    without_counts: bool = option(False, "leave out counts and genes")  # noqa: FBT003
    without_coordinates: bool = option(
        False,  # noqa: FBT003
        "leave out coordinates, graphs, the overview image and all columns that might tell where a spot lies",
    )
    salted_ids: bool = option(
        False,  # noqa: FBT003
        "replace ids of spots by salted digests, in another order; the salt is not kept",
    )

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
    sections: tuple[str, ...] = option((), "sections to export, e.g. C2,C3 (default: all)")
    features: tuple[str, ...] = option((), "features to export, by key or encoder name (default: all)")

    def __post_init__(self) -> None:
        example = "export cohort.zarr out --to h5ad"
        check(
            [_missing(self.store, "the store", example), _missing(self.out, "the folder to write", example)]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig(Config):
    """Options of `spam store import`."""

    store: Path | None = option(None, "store that holds the section")
    file: Path | None = option(
        None, "file of features: TRIDENT or CLAM (.h5, .pt), slide2vec (.pt), .npy, .h5ad"
    )
    section: str | None = option(None, "section that the features belong to (default: the only one)")
    kind: ForeignKind | None = option(None, "what made the file (default: told from its content)")
    key: str | None = option(None, "for .h5ad: the obsm key of the features")
    coordinates: Path | None = option(
        None, "table (x, y or spot_id a row) or file that goes with .npy or .pt"
    )
    enc_name: str | None = option(None, "encoder that made the features (default: what the file says)")
    licence: str | None = option(
        None, "licence of that encoder's features (default: that of the encoder's card)"
    )
    tile_um: float | None = option(None, "side of a tile in µm (default: what the file says)")
    tile_px: int | None = option(None, "side of a tile in full-resolution pixels, in place of --tile-um")
    tolerance_um: float = option(
        1.0, "how far a tile's centre may lie from its spot, in µm (in pixels where no µm)"
    )
    dtype: Literal["float16", "float32", "bfloat16"] = option(
        "float16", "number format of the stored features"
    )
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
    to: Path | str | None = option(None, "where: hf://datasets/org/name, s3://bucket/name.zarr, a folder, …")
    licence: str | None = option(None, "licence of the counts and images, where the store does not name one")
    i_have_the_right_to_share: bool = option(
        False,  # noqa: FBT003
        "share in spite of a licence that forbids it, or that is not known; it is recorded in the copy",
    )
    without_counts: bool = option(False, "leave out counts and genes")  # noqa: FBT003
    without_coordinates: bool = option(
        False,  # noqa: FBT003
        "leave out coordinates, graphs, the overview image and all columns that might tell where a spot lies",
    )
    salted_ids: bool = option(
        False,  # noqa: FBT003
        "replace ids of spots by salted digests, in another order; the salt is not kept",
    )
    private: bool = option(True, "make a new Hub repository a private one")  # noqa: FBT003
    overwrite: bool = option(False, "replace what is there and differs")  # noqa: FBT003

    def __post_init__(self) -> None:
        example = "push cohort.zarr hf://datasets/org/name"
        check([_missing(self.store, "the store", example), _missing(self.to, "the address", example)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullConfig(Config):
    """Options of `spam store pull`."""

    store: Path | str | None = option(None, "address of the store: hf://datasets/org/name, s3://…, https://…")
    out: Path | None = option(None, "folder to write; what is there already is not fetched again")
    sections: tuple[str, ...] = option((), "sections to fetch, e.g. C2,C3 (default: all)")
    features: tuple[str, ...] = option((), "features to fetch, by key or encoder name (default: all)")

    def __post_init__(self) -> None:
        example = "pull hf://datasets/org/name cohort.zarr"
        check(
            [_missing(self.store, "the address", example), _missing(self.out, "the folder to write", example)]
        )
