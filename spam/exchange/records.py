"""What comes out of a foreign file: as it was found, and checked."""

import dataclasses

from spam.schemas.store_config import ForeignKind
from spam.typing import Array, Float32, Float64, Shaped

__all__ = ["FeatureSource", "ForeignFeatures", "ForeignKind", "Found", "Places"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSource:
    """The file that features were read from: its name without any folder, its size and digest."""

    name: str
    n_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFeatures:
    """Features of tiles that another program embedded, one row per tile.

    Attributes
    ----------
    features
        The features, finite.
    xy_px
        Centres of the tiles in full-resolution slide pixels (x = column, y = row), each place once, or None.
    ids
        Names of the spots (``<U``), each once, or None. There is at least one of `xy_px` and `ids`.
    tile_px
        Side of a tile in full-resolution slide pixels, or None where the files do not say.
    mpp
        µm per full-resolution slide pixel, or None where the files do not say. A nominal magnification
        (``40x``) says nothing about it.
    encoder_name
        Name that the other program gave to its encoder, or None.
    kind
        The program, or the file format, that they come from.
    source
        The file of the features.
    notes
        What is worth telling, one sentence each.
    """

    features: Float32[Array, "n_tiles dim"]
    xy_px: Float64[Array, "n_tiles 2"] | None
    ids: Shaped[Array, " n_tiles"] | None
    tile_px: float | None
    mpp: float | None
    encoder_name: str | None
    kind: ForeignKind
    source: FeatureSource
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where tiles lie, as a file states it, not checked yet.

    Attributes
    ----------
    name
        The file (and array) that says so, for messages.
    xy
        One row per tile, of any number type, in full-resolution slide pixels.
    is_corner
        Whether `xy` are top-left corners; else they are centres.
    side_px, mpp, ids
        As in `ForeignFeatures`.
    """

    name: str
    xy: Array | None = None
    is_corner: bool = False
    side_px: float | None = None
    mpp: float | None = None
    ids: Array | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the reader of one format found, not checked yet."""

    features: Array
    places: Places
    encoder_name: str | None = None
    notes: tuple[str, ...] = ()
