"""Position embeddings of another image size: resampled just as each original implementation does it."""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Resampling", "fit_positions"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How an implementation resamples position embeddings.

    Attributes
    ----------
    mode
        Interpolation.
    is_antialiased
        Whether it is smoothed where the grid shrinks.
    offset
        Patches that are added to the new side before the scale is computed from it (0.1 in DINO and DINOv2, against
        rounding): the samples lie slightly closer to each other then.
    """

    mode: Literal["bicubic", "bilinear"]
    is_antialiased: bool = False
    offset: float = 0.0


def fit_positions(positions: Tensor, *, grid: tuple[int, int], resampling: Resampling | None) -> Tensor:
    """Resample the position embedding of a class token and a square of patches, (1, 1 + side², width), to a grid.

    What has another shape, or fits already, is given back as it is.
    """
    if resampling is None or positions.ndim != 3 or len(positions) != 1:
        return positions
    n_patches = positions.shape[1] - 1
    side = math.isqrt(max(n_patches, 0))
    if side == 0 or side**2 != n_patches or grid == (side, side):
        return positions
    square = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    # The scale itself goes into the interpolation only where the original says so: it shifts the samples.
    size = None if resampling.offset else grid
    scale = tuple((length + resampling.offset) / side for length in grid) if resampling.offset else None
    fitted = functional.interpolate(
        square, size=size, scale_factor=scale, mode=resampling.mode, antialias=resampling.is_antialiased
    )
    patches = fitted.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)  # (1, n_patches, width)
    return torch.cat([positions[:, :1], patches], dim=1)
