"""Metadata of a feature store: sections, features, graphs and files, as they are written to its ``zarr.json`` files."""

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Collection
from typing import Any, Literal

from spam.errors import ConfigError, shortened

from .encoder_card import check_card
from .records import Record, number
from .tile_spec import check_tiles

STORE_FORMAT = "spam-store"
STORE_VERSION = 3
UNKNOWN_WEIGHTS = "unknown"
"""Digest of the encoder's weights where features were computed by other software."""

QUALITY = "quality"
"""Origin of arrays that hold quality measures of the tiles instead of features."""

_SIZE = "[0,9223372036854775807]"
FeatureDtype = Literal["float16", "float32"]
"""Number formats of stored features."""


_MOST_NAME_BYTES = 200  # file systems allow 255, and the store adds to a name while it writes
# files beside the sections; AnnData's name of the row names
_RESERVED_NAMES = ("zarr.json", "readme.md", "_index")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size and SHA-256 (64 hexadecimal digits) of one file of a section."""

    n_bytes: int
    sha256: str


def name_fault(name: str, what: str, *, reserved: Collection[str] = ()) -> str | None:
    """Describe why `name` cannot be the name of a section, a column or an array of a store; None if it can."""
    if not name:
        return f"{what} is empty"
    if name.casefold() in {*_RESERVED_NAMES, *reserved} or name.endswith(".partial"):
        return f"{what} {name!r} is reserved by the store"
    if (n_bytes := len(name.encode("utf-8", "surrogatepass"))) > _MOST_NAME_BYTES:
        return f"{what} {shortened(name)} has {n_bytes} bytes, more than {_MOST_NAME_BYTES}"
    if name.startswith((".", "__")) or any(
        c in "/\\" or unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in name
    ):
        return f"{what} {name!r} holds '/', '\\' or a control character, or starts with '.' or '__'"
    return None


def feature_key(encoder: str, tile_label: str, *, is_averaged: bool = False) -> str:
    """Name the features of one encoder and one tile size within a section, e.g. ``efficientnet_lite0_112um``.

    Means over the symmetries of the square end in ``_d4``. Characters that do not suit a file name are replaced by ``-``.

    Raises
    ------
    ConfigError
        If the encoder's name has a comma, which separates names in ``--enc-name``.
    """
    if "," in encoder:
        message = (
            f"The encoder name {shortened(encoder)} has a comma, which separates encoders in --enc-name. Rename its file or "
            "folder; for `spam store import`, give another name with --enc-name."
        )
        raise ConfigError(message)
    safe = "".join(c if c.isalnum() or c in "_.-" else "-" for c in encoder)
    return "_".join([safe, tile_label, *(["d4"] if is_averaged else [])])


def quality_key(key: str) -> str:
    """Name the array with the quality of the tiles behind the features `key`."""
    return f"{key}_{QUALITY}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile(Record):
    """A file that a section was made from: its role, its name without any folder, its size and digest."""

    role: Literal["h5ad", "csv", "slide", "tiles", "folder"]
    name: str
    n_bytes: int = number(_SIZE)
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionMeta(Record):
    """One tissue section of a store.

    Attributes
    ----------
    name, donor
        Section and donor; the donor is None if unknown.
    n_spots, n_genes
        Sizes; ``n_genes`` is 0 and ``has_counts`` False for a section without counts.
    mpp
        µm per full-resolution pixel, or None where unknown (then there are no µm coordinates).
    mpp_source
        Where `mpp` came from: ``option``, ``h5ad``, ``folder`` (of an instrument), ``slide`` or None.
    slide_width_px, slide_height_px
        Full-resolution size of the slide, or None for a folder of tile files.
    sources
        Files that the section was made from.
    software
        Versions of spam and of the packages that touch the data.
    has_coordinates
        False for a copy without coordinates.
    spots_sha256
        Digest of the spots' ids and pixel coordinates as they were embedded, see `spots_digest` in
        ``spam/store``; random in a copy whose spots were shuffled; None where that is not known.
    licence
        Licence of the counts and images, as an SPDX name (``CC-BY-4.0``), or None if unknown.
    placement_doubt
        Why the spots may not lie where they belong on their slide, as found on embedding; None without such a doubt.
    redacted
        What was removed from this copy before it was shared: ``counts``, ``coordinates``, ``ids``, ``genes``.
    """

    name: str
    donor: str | None
    n_spots: int = number("[1,1000000000]")
    n_genes: int = number("[0,10000000]")
    has_counts: bool
    mpp: float | None = number("(0,10000]")
    mpp_source: str | None
    slide_width_px: int | None = number(_SIZE)
    slide_height_px: int | None = number(_SIZE)
    sources: tuple[SourceFile, ...]
    software: dict[str, str]
    has_coordinates: bool = True
    spots_sha256: str | None = None
    licence: str | None = None
    placement_doubt: str | None = None
    redacted: tuple[Literal["counts", "coordinates", "ids", "genes"], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampling(Record):
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

    mpp: float | None = number("(0,10000]")
    native_px: float = number("(0,10000000]")
    level: int | None = number("[0,100]")
    padding: Literal["edge"]
    interpolation: Literal["bicubic", "bilinear"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMeta(Record):
    """One feature array of a section.

    Attributes
    ----------
    key
        Name of the array, see `feature_key`.
    origin
        ``embed`` for features of `spam embed`; ``import:<kind>`` for features of other software
        (``import:trident``); ``quality`` for quality measures of the tiles.
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
    is_averaged
        Whether features are means over the eight symmetries of the square.
    adapted_on
        Sections on whose counts the encoder was adapted; scores on them are not scores on unseen tissue.
    """

    key: str
    origin: str
    encoder: dict[str, Any]
    weights_sha256: str | None
    lora_sha256: str | None
    tile: dict[str, Any]
    sampling: Sampling | None
    precision: Literal["float32", "float16", "bfloat16"] | None
    dim: int = number("[1,1000000]")
    dtype: FeatureDtype
    chunk_rows: int = number("[1,1000000000]")
    software: dict[str, str]
    is_averaged: bool = False
    adapted_on: tuple[str, ...] = ()

    def check_parts(self) -> None:
        """Check the entries that are mappings."""
        check_card(self.encoder)
        check_tiles([self.tile])


_OF_CARD = (
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

_NOT_IDENTITY = ("key", "encoder", "chunk_rows", "software")
"""Fields of `FeatureMeta` that do not change the features; the encoder enters by `_OF_CARD`."""


def feature_identity(section: SectionMeta, features: FeatureMeta) -> str:
    """Hash what features were computed from and how: equal on every machine, even if the last bits differ.

    The SHA-256 covers the spots (ids and coordinates), the digests of slide or tile files, the encoder with its weights
    and its transform, the tile, how it was cut, the precision and the number format. Counts, donors and software versions
    are not part of it.
    """
    made = features.to_mapping()
    inputs = {
        "spots": section.spots_sha256,
        "images": sorted(source.sha256 for source in section.sources if source.role in ("slide", "tiles")),
        "encoder": {key: features.encoder.get(key) for key in _OF_CARD},
        **{key: value for key, value in made.items() if key not in _NOT_IDENTITY},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphMeta(Record):
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
    k: int = number("[0,1000000]")
    metric: Literal["euclidean", "cosine"]
    unit: str
    sigma: float = number("[0,1e300]")
    backend: str
    features_key: str | None = None
    features_identity: str | None = None
    recall: float = number("[0,1]", 1.0)
