"""What a tile is (its extent on the slide and its size for the encoder), and the measures and flags of its quality."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spam.errors import ConfigError

from .records import Record, number, record_of

MEASURES = ("readable", "tissue", "pen", "sharpness")
"""Columns of a quality array, float32 (see `spam.tiles.measure_quality`).

``readable``: 1, or 0 for a tile that could not be read, whose other measures and features are zero; ``tissue``: share of
pixels that show tissue; ``pen``: share of pixels that show marker ink; ``sharpness``: 1 for a typical sharp tile, less with
every blur.
"""

TileFlag = Literal["unreadable", "blank", "pen", "blurred"]

# Thresholds measured on real tiles, see docs/experiments-log.md ("Quality of tiles").
_BLANK_BELOW = 0.05  # share of tissue
_PEN_ABOVE = 0.25  # share of ink; dense haematoxylin looks like ink in up to 0.18 of a tile
_BLURRED_BELOW = 0.4  # sharp tiles of tissue have 0.45 and more, tiles blurred by 3 px at most 0.31


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TileSpec(Record):
    """A square tile: its extent on the slide, and the size that it is resampled to for the encoder.

    Exactly one of `tile_um` and `tile_px` is set. Three sizes must not be confused: the extent in tissue
    (`tile_um`), the extent in full-resolution slide pixels (`tile_px`, or ``tile_um / slide_mpp``), and the
    encoder's input (`out_px`). A tile is centred on its spot, cut at the pyramid level that is just fine
    enough, resampled with antialiasing, and padded with its own edge where it leaves the slide.

    Attributes
    ----------
    tile_um
        Side of the tile in µm, or None if it is given in slide pixels.
    tile_px
        Side of the tile in full-resolution slide pixels, or None if it is given in µm.
    out_px
        Side of the encoder's input in pixels.
    """

    tile_um: float | None = number("(0,100000]", None)
    tile_px: int | None = number("[1,100000]", None)
    out_px: int = number("[1,10000]", 224)

    def __post_init__(self) -> None:
        if (self.tile_um is None) == (self.tile_px is None):
            message = f"Give one of --tile-um and --tile-px, not tile_um={self.tile_um!r} with tile_px={self.tile_px!r}."
            raise ConfigError(message)
        size = self.tile_px if self.tile_um is None else self.tile_um
        if not size or not size > 0 or self.out_px < 1:
            message = f"--tile-um and --tile-px must be positive, not {size!r} (out_px={self.out_px!r})."
            raise ConfigError(message)

    @property
    def label(self) -> str:
        """Short name used in feature keys: ``112um`` or ``224px``."""
        return f"{self.tile_um:g}um" if self.tile_um is not None else f"{self.tile_px}px"

    def native_px(self, mpp: float | None) -> float:
        """Side of the tile in full-resolution slide pixels.

        Raises
        ------
        ConfigError
            If the tile is in µm and the slide's µm per pixel is unknown.
        """
        if self.tile_um is None:
            return float(self.tile_px or 0)
        if mpp is None:
            message = f"A tile of {self.tile_um:g} µm needs µm per pixel: give --mpp, or use --tile-px."
            raise ConfigError(message)
        return self.tile_um / mpp


def check_tiles(tiles: Sequence[Mapping[str, Any]]) -> None:
    """Check tile specs in the metadata of features, a checkpoint or an adapter; TypeError or ConfigError if one does not fit."""
    for i, tile in enumerate(tiles):
        record_of(TileSpec, tile, f"tile {i + 1}: ")


def describe_tile(tile: Mapping[str, Any]) -> str:
    """Describe a tile spec of metadata in words, e.g. ``112 µm in 224 px``."""
    extent = f"{tile['tile_um']:g} µm" if tile["tile_um"] else f"{tile['tile_px']} px of the slide"
    return f"{extent} in {tile['out_px']} px"


def dim_of_smallest(tiles: Sequence[Mapping[str, Any]], dims: Sequence[int]) -> int:
    """Length of the features of the smallest tiles, which come first; those of all encoders count."""
    sizes = [(tile.get("tile_um"), tile.get("tile_px")) for tile in tiles]
    return sum(dim for size, dim in zip(sizes, dims, strict=True) if size == sizes[0])


def flag_column(flag: TileFlag) -> str:
    """Return the column name of a flag in a table of spots, e.g. ``tile_blank``."""
    return f"tile_{flag}"


def tile_flags(measures: Any) -> dict[TileFlag, Any]:
    """Flag tiles by their quality, (n_tiles, 4), see `MEASURES`.

    Returns one boolean array (n_tiles,) per flag. An unreadable tile has no other flag; a blank tile is not blurred.
    """
    readable, tissue, pen, sharpness = measures.T
    is_read = readable > 0
    is_blank = is_read & (tissue < _BLANK_BELOW)
    is_blurred = is_read & ~is_blank & (sharpness < _BLURRED_BELOW)
    return {
        "unreadable": ~is_read, "blank": is_blank, "pen": is_read & (pen > _PEN_ABOVE), "blurred": is_blurred
    }  # fmt: skip
