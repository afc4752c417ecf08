"""The rectangle of a simulated slide: from µm around the tissue's origin to pixels of the image."""

import dataclasses

import numpy as np
from PIL import Image

from spam.errors import ConfigError
from spam.typing import Array, Float, Float32

__all__ = ["Frame"]

MAX_SIDE_PX = 9400  # a square of this side is about the largest that Pillow opens without a warning


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Position, size and resolution of an image; pixel ``i`` covers ``[i, i + 1)``."""

    x_um: float
    y_um: float
    width_px: int
    height_px: int
    mpp: float

    @classmethod
    def around(cls, xy_um: Float[Array, "n 2"], *, margin_um: float, mpp: float) -> "Frame":
        """Frame points with a margin.

        Raises
        ------
        ConfigError
            If the image would have more than `MAX_SIDE_PX` pixels a side.
        """
        low, high = xy_um.min(axis=0) - margin_um, xy_um.max(axis=0) + margin_um
        width_px, height_px = (int(n) for n in np.ceil((high - low) / mpp))
        if max(width_px, height_px) > MAX_SIDE_PX:
            message = (
                f"the simulated slide would have {width_px} x {height_px} pixels, more than {MAX_SIDE_PX} a "
                f"side; give a larger --mpp (not {mpp:g}) or fewer --n-spots"
            )
            raise ConfigError(message)
        return cls(x_um=float(low[0]), y_um=float(low[1]), width_px=width_px, height_px=height_px, mpp=mpp)

    @property
    def reach_um(self) -> float:
        """Largest coordinate (in absolute value) that lies in the frame."""
        right, bottom = self.x_um + self.width_px * self.mpp, self.y_um + self.height_px * self.mpp
        return max(abs(self.x_um), abs(self.y_um), abs(right), abs(bottom))

    def to_px(self, xy_um: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        """Convert positions in µm to pixels."""
        return np.asarray((xy_um - np.array([self.x_um, self.y_um])) / self.mpp)

    def grid(self, step_um: float) -> Float[Array, "n_rows n_columns 2"]:
        """Lay a grid of cells of side `step_um` over the frame, and give the cells' centres in µm."""
        n_columns, n_rows = (int(np.ceil(n * self.mpp / step_um)) for n in (self.width_px, self.height_px))
        x = self.x_um + (np.arange(n_columns) + 0.5) * step_um
        y = self.y_um + (np.arange(n_rows) + 0.5) * step_um
        return np.stack(np.meshgrid(x, y), axis=-1)

    def resample(
        self, values: Float[Array, "n_rows n_columns"], step_um: float
    ) -> Float32[Array, "height width"]:
        """Interpolate values on `grid` to the pixels of the image."""
        box = (0, 0, self.width_px * self.mpp / step_um, self.height_px * self.mpp / step_um)
        image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        return np.asarray(image.resize((self.width_px, self.height_px), Image.Resampling.BILINEAR, box=box))
