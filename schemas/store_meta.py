"""Metadata that a feature store carries: the contract between whoever embeds and whoever trains."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

__all__ = [
    "MAY_BE_ABSENT",
    "QUALITY",
    "STORE_FORMAT",
    "STORE_VERSION",
    "UNKNOWN_WEIGHTS",
    "FeatureDtype",
    "FeatureMeta",
    "GraphMeta",
    "Sampling",
    "SectionMeta",
    "SourceFile",
    "Stain",
    "feature_identity",
    "feature_key",
    "quality_key",
]

STORE_FORMAT = "spam-store"
STORE_VERSION = 1
UNKNOWN_WEIGHTS = "unknown"
"""Stands for the digest of an encoder's weights where features were made elsewhere."""

MAY_BE_ABSENT = "may_be_absent"
"""Metadata of a field that only some stores have; all others are always written."""

QUALITY = "quality"
"""Origin of arrays that hold no features, but measures of the quality of the tiles that features were made from."""

Stain = Literal["macenko", "reinhard"]
"""Stain normalisation of Macenko et al. (doi:10.1109/ISBI.2009.5193250) or Reinhard et al. (doi:10.1109/38.946629)."""

FeatureDtype = Literal["float16", "float32", "bfloat16"]
"""Number formats of stored features; bfloat16 is stored as its bits, uint16, since Zarr has no such type."""


def feature_key(
    encoder: str, tile_label: str, *, stain: Stain | None = None, is_averaged: bool = False
) -> str:
    """Name the features of one encoder and one tile size within a section, e.g. ``efficientnet_lite0_112um``.

    Features of stain-normalised tiles, and means over the symmetries of the square, have names of their own
    (``efficientnet_lite0_112um_macenko_d4``). Characters that a file name or an AnnData key should not hold are
    replaced by ``-``.
    """
    safe = "".join(c if c.isalnum() or c in "_.-" else "-" for c in encoder)
    return "_".join([safe, tile_label, *([stain] if stain else []), *(["d4"] if is_averaged else [])])


def quality_key(key: str) -> str:
    """Name the array that holds the quality of the tiles that the features `key` were made from."""
    return f"{key}_{QUALITY}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that a section was made from: its role, its name without any folder, its size and digest."""

    role: Literal["h5ad", "csv", "slide", "tiles"]
    name: str
    n_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionMeta:
    """One tissue section of a store.

    Attributes
    ----------
    name, donor
        Section and donor; the donor is None where nobody said.
    n_spots, n_genes
        Sizes; ``n_genes`` is 0 and ``has_counts`` False for a section without counts.
    mpp
        µm per full-resolution pixel, or None where unknown (then there are no µm coordinates).
    mpp_source
        Where `mpp` came from: ``option``, ``h5ad``, ``slide`` or None.
    slide_width_px, slide_height_px
        Full-resolution size of the slide, or None for a folder of tile files.
    sources
        Files that the section was made from.
    software
        Versions of spam and of the packages that touch the data.
    has_coordinates
        False for a copy that was made without them.
    spots_sha256
        Digest of the spots' ids and pixel coordinates as they were embedded, see `spots_digest` in
        ``spam/store``; None where that is not known.
    licence
        Licence of the counts and images, as an SPDX name (``CC-BY-4.0``), or None where nobody said.
    redacted
        What was taken out of this copy before it was shared: ``counts``, ``coordinates``, ``ids``, ``genes``.
    """

    name: str
    donor: str | None
    n_spots: int
    n_genes: int
    has_counts: bool
    mpp: float | None
    mpp_source: str | None
    slide_width_px: int | None
    slide_height_px: int | None
    sources: tuple[SourceFile, ...]
    software: dict[str, str]
    has_coordinates: bool = True
    spots_sha256: str | None = None
    licence: str | None = None
    redacted: tuple[Literal["counts", "coordinates", "ids", "genes"], ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain = dataclasses.asdict(self)
        plain["sources"] = list(plain["sources"])
        plain["redacted"] = list(plain["redacted"])
        return plain

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "SectionMeta":
        """Rebuild from what `to_mapping` returned."""
        sources = tuple(SourceFile(**source) for source in values["sources"])
        return cls(**{**values, "sources": sources, "redacted": tuple(values["redacted"])})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tiles of one size were cut from the slide of one section.

    Attributes
    ----------
    mpp
        µm per full-resolution slide pixel, or None where unknown.
    native_px
        Side of a tile in full-resolution slide pixels.
    level
        Pyramid level that the tiles were cut from, 0 for the full resolution; None for tile files.
    padding
        What stands in for tissue beyond the border of the slide: ``edge``, its outermost pixels.
    interpolation
        Filter of the resampling to the encoder's input, antialiased.
    """

    mpp: float | None
    native_px: float
    level: int | None
    padding: Literal["edge"]
    interpolation: Literal["bicubic", "bilinear"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMeta:
    """One feature array of a section.

    Attributes
    ----------
    key
        Name of the array, see `feature_key`.
    origin
        ``embed`` for features of `spam embed`; ``import:<kind>`` for those that were made elsewhere
        (``import:trident``); ``quality`` for measures of the tiles' quality, which are no features.
    encoder
        The encoder card as a mapping (`EncoderCard.to_mapping`).
    weights_sha256
        Digest of the encoder's weights; None for imported features.
    lora_sha256
        Digest of the LoRA adapter that was merged into the encoder, or None.
    tile
        The tile spec as a mapping (`TileSpec.to_mapping`).
    sampling
        How the tiles were cut; None for imported features.
    precision
        Arithmetic of the encoder: ``float32``, or the type of its mixed precision; None where unknown.
    dim
        Length of a feature vector.
    dtype
        Stored number format.
    chunk_rows
        Rows in one chunk: what a killed run loses at most.
    software
        Versions of spam and of the packages that touch the features, when the array was begun.
    stain
        Stain normalisation of the tiles, or None.
    is_averaged
        Whether features are means over the eight symmetries of the square.
    adapted_on
        Sections whose counts the encoder has seen while it was adapted: no score on them is one on unseen tissue.
    """

    key: str
    origin: str
    encoder: dict[str, Any]
    weights_sha256: str | None
    lora_sha256: str | None
    tile: dict[str, Any]
    sampling: Sampling | None
    precision: Literal["float32", "float16", "bfloat16"] | None
    dim: int
    dtype: FeatureDtype
    chunk_rows: int
    software: dict[str, str]
    stain: Stain | None = dataclasses.field(default=None, metadata={MAY_BE_ABSENT: True})
    is_averaged: bool = dataclasses.field(default=False, metadata={MAY_BE_ABSENT: True})
    adapted_on: tuple[str, ...] = dataclasses.field(default=(), metadata={MAY_BE_ABSENT: True})

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; what says that nothing was done is left out."""
        plain = {**dataclasses.asdict(self), "adapted_on": list(self.adapted_on)}
        rare = ("stain", "is_averaged", "adapted_on")
        return {key: value for key, value in plain.items() if value or key not in rare}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "FeatureMeta":
        """Rebuild from what `to_mapping` returned."""
        sampling = None if values["sampling"] is None else Sampling(**values["sampling"])
        return cls(**{**values, "sampling": sampling, "adapted_on": tuple(values.get("adapted_on", ()))})


_CARD_IDENTITY = (
    "source",
    "revision",
    "architecture",
    "kwargs",
    "input_px",
    "mean",
    "std",
    "interpolation",
    "pooling",
)
"""Entries of an encoder card that change its features; the others only describe it."""


def feature_identity(section: SectionMeta, features: FeatureMeta) -> str:
    """Hash what features were made from and how: equal on every machine, whatever the bytes turned out to be.

    It covers the spots (ids and coordinates), the digests of slide or tile files, the encoder with its weights
    and its transform, the tile, how it was cut and normalised, the precision and the number format. Counts, donors and
    versions of software are not part of it.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    images = sorted(source.sha256 for source in section.sources if source.role in ("slide", "tiles"))
    made = features.to_mapping()
    kept = ("origin", "weights_sha256", "lora_sha256", "tile", "sampling", "precision", "dim", "dtype")
    inputs: Mapping[str, Any] = {
        "spots": section.spots_sha256,
        "images": images,
        "encoder": {key: made["encoder"].get(key) for key in _CARD_IDENTITY},
        **{key: made[key] for key in kept},
        # Left out where nothing was done, so that the digests of older stores stay what they are.
        **{key: made[key] for key in ("stain", "is_averaged", "adapted_on") if key in made},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphMeta:
    """How a neighbour graph was made.

    Attributes
    ----------
    kind
        ``spatial`` (coordinates) or ``features``.
    k
        Neighbours asked for; a section of fewer than ``k + 1`` spots gives ``n_spots - 1``.
    metric
        ``euclidean`` or ``cosine``.
    unit
        Unit of the distances: ``um``, ``px`` or ``cosine``.
    sigma
        Width of the Gaussian weights, in `unit`.
    backend
        Search that made it: ``scipy``, ``faiss-cpu`` or ``faiss-gpu``.
    features_key
        For ``features`` graphs: which features.
    features_identity
        For ``features`` graphs: `feature_identity` of those features.
    recall
        Share of true neighbours found on a sample; 1.0 for exact search.
    """

    kind: Literal["spatial", "features"]
    k: int
    metric: Literal["euclidean", "cosine"]
    unit: str
    sigma: float
    backend: str
    features_key: str | None = None
    features_identity: str | None = None
    recall: float = 1.0

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)
