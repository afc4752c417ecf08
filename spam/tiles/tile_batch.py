"""Some tiles of a section, read together."""

import dataclasses

from spam.errors import SlideError
from spam.typing import Array, Float32, UInt8

__all__ = ["TileBatch"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileBatch:
    """Tiles and what was found out about them.

    Attributes
    ----------
    pixels
        RGB pixels, their stains normalised if that was asked for; of no meaning where a tile could not be read.
    quality
        What was measured of each before that, see `spam.schemas.tile_quality.MEASURES`.
    faults
        Why tiles could not be read, by their place in the batch.
    """

    pixels: UInt8[Array, "n out_px out_px 3"]
    quality: Float32[Array, "n 4"]
    faults: dict[int, SlideError]
