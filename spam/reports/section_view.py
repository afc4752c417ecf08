"""The section that maps are drawn of: where its spots lie, and what it looks like."""

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from spam.typing import Array, Float, UInt8

__all__ = ["SectionView"]

_DIAMETER_PER_PITCH = 0.8  # where the diameter is unknown: spots nearly touch
_MARGIN = 0.75  # in spot diameters, around the outermost spot centres


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionView:
    """What a map needs to know of a section.

    Attributes
    ----------
    name
        Name of the section, for the title.
    xy_px
        Spot centres in full-resolution pixels (x = column, y = row).
    mpp
        µm per full-resolution pixel, or None: then there is no scale bar.
    spot_diameter_px
        Diameter of a spot in full-resolution pixels, or None: then 0.8 of the spots' distance.
    overview
        Small image of the slide, or None: then the maps lie on white.
    overview_scale
        Overview pixels per full-resolution pixel.
    """

    name: str
    xy_px: Float[Array, "n_spots 2"]
    mpp: float | None = None
    spot_diameter_px: float | None = None
    overview: UInt8[Array, "height width 3"] | None = None
    overview_scale: float = 1.0

    def drawn_diameter_px(self) -> float:
        """Diameter to draw the spots with, in full-resolution pixels."""
        if self.spot_diameter_px is not None:
            return self.spot_diameter_px
        if len(self.xy_px) < 2:  # no neighbour to measure by: as good as any
            return 100.0
        distance, _ = cKDTree(self.xy_px).query(self.xy_px, k=2)
        pitch_px = float(np.median(distance[:, 1]))
        return _DIAMETER_PER_PITCH * pitch_px if pitch_px > 0 else 100.0

    def bounds_px(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the part that is shown: the spots with a margin."""
        margin = self.drawn_diameter_px() * (0.5 + _MARGIN)
        (left, top), (right, bottom) = self.xy_px.min(axis=0) - margin, self.xy_px.max(axis=0) + margin
        return float(left), float(right), float(top), float(bottom)
