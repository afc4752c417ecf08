"""Metadata that a feature store carries: the contract between whoever embeds and whoever trains."""

import dataclasses
from typing import Any, Literal

__all__ = [
    "STORE_FORMAT",
    "STORE_VERSION",
    "FeatureMeta",
    "GraphMeta",
    "SectionMeta",
    "SourceFile",
    "feature_key",
]

STORE_FORMAT = "spam-store"
STORE_VERSION = 1


def feature_key(encoder: str, tile_label: str) -> str:
    """Name the features of one encoder and one tile size within a section, e.g. ``efficientnet_lite0_112um``.

    Characters that a file name or an AnnData key should not hold are replaced by ``-``.
    """
    safe = "".join(c if c.isalnum() or c in "_.-" else "-" for c in encoder)
    return f"{safe}_{tile_label}"


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

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain = dataclasses.asdict(self)
        plain["sources"] = list(plain["sources"])
        return plain

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "SectionMeta":
        """Rebuild from what `to_mapping` returned."""
        sources = tuple(SourceFile(**source) for source in values["sources"])
        return cls(**{**values, "sources": sources})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMeta:
    """One feature array of a section.

    Attributes
    ----------
    key
        Name of the array, see `feature_key`.
    encoder
        The encoder card as a mapping (`EncoderCard.to_mapping`).
    weights_sha256
        Digest of the encoder's weights.
    tile
        The tile spec as a mapping (`TileSpec.to_mapping`).
    dim
        Length of a feature vector.
    dtype
        Stored number format.
    chunk_rows
        Rows in one chunk: what a killed run loses at most.
    """

    key: str
    encoder: dict[str, Any]
    weights_sha256: str
    tile: dict[str, Any]
    dim: int
    dtype: Literal["float16", "float32"]
    chunk_rows: int

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "FeatureMeta":
        """Rebuild from what `to_mapping` returned."""
        return cls(**values)


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
    recall: float = 1.0

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)
