"""What a tile is: how much tissue it shows, and how many pixels the encoder sees of it."""

import dataclasses
from typing import Any

from spam.errors import ConfigError

__all__ = ["TileSpec"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TileSpec:
    """A square tile: its extent on the slide, and the size that it is resampled to for the encoder.

    Exactly one of `tile_um` and `tile_px` is set. Three sizes must not be confused: the extent in tissue
    (`tile_um`), the extent in full-resolution slide pixels (`tile_px`, or ``tile_um / slide_mpp``), and the
    encoder's input (`out_px`). A tile is centred on its spot, cut at the pyramid level that is just fine
    enough, resampled with antialiasing, and padded with its own edge where it leaves the slide.

    Attributes
    ----------
    tile_um
        Side of the tile in µm, or None when it was asked for in slide pixels.
    tile_px
        Side of the tile in full-resolution slide pixels, or None when it was asked for in µm.
    out_px
        Side of the image that the encoder sees, in pixels.
    """

    tile_um: float | None = None
    tile_px: int | None = None
    out_px: int = 224

    def __post_init__(self) -> None:
        if (self.tile_um is None) == (self.tile_px is None):
            message = (
                f"a tile is asked for either in µm or in slide pixels, not tile_um={self.tile_um!r} with "
                f"tile_px={self.tile_px!r}; give one of --tile-um and --tile-px"
            )
            raise ConfigError(message)
        size = self.tile_um if self.tile_um is not None else self.tile_px
        if not size or not size > 0 or self.out_px < 1:
            message = (
                f"a tile needs a positive size, not {size!r} (out_px={self.out_px!r}); "
                "see --tile-um, --tile-px"
            )
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
        if self.tile_px is not None:
            return float(self.tile_px)
        if mpp is None:
            message = (
                f"a tile of {self.tile_um:g} µm cannot be cut from a slide of unknown µm per pixel; "
                "give --mpp, or ask for the tile in slide pixels with --tile-px"
            )
            raise ConfigError(message)
        assert self.tile_um is not None
        return self.tile_um / mpp

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)
