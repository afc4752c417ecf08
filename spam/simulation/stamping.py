"""Drawing thousands of soft ellipses at once."""

import numpy as np

from spam.typing import Array, Float, Float32

__all__ = ["stamp_ellipses"]

_PIXELS_AT_ONCE = 4_000_000  # bounds the memory of one batch of ellipses to some 100 MB


def stamp_ellipses(
    canvas: Float32[Array, "height width"],
    xy_px: Float[Array, "n 2"],
    diameters_px: Float[Array, "n 2"],
    angle: Float[Array, " n"],
    strength: Float[Array, " n"],
    *,
    rim: float = 0.0,
) -> None:
    """Draw ellipses onto `canvas` in place; where several overlap, the strongest is kept.

    Parameters
    ----------
    canvas
        Image to draw on; pixel ``(row, column)`` covers ``[column, column + 1) x [row, row + 1)``.
    xy_px
        Centres (x = column, y = row); an ellipse that leaves the canvas is cut at its border.
    diameters_px
        Long and short diameter. The edge is one pixel soft, so that ellipses smaller than a pixel fade out.
    angle
        Direction of the long diameter in radians, from x towards y.
    strength
        Value at the edge; the centre has ``(1 - rim) * strength``.
    rim
        How much darker the edge is than the centre, 0 to 1: chromatin gathers at the envelope of a nucleus.
    """
    if not len(xy_px):
        return
    height, width = canvas.shape
    half = int(np.ceil(diameters_px.max() / 2 + 1))
    offsets = np.arange(-half, half + 1)
    batch = max(1, _PIXELS_AT_ONCE // offsets.size**2)
    flat = canvas.reshape(-1)
    for start in range(0, len(xy_px), batch):
        part = slice(start, start + batch)
        corner = np.floor(xy_px[part]).astype(np.int64)
        columns = corner[:, 0, None] + offsets  # (batch, side)
        rows = corner[:, 1, None] + offsets
        x = (columns + 0.5 - xy_px[part, 0, None])[:, None, :].astype(np.float32)
        y = (rows + 0.5 - xy_px[part, 1, None])[:, :, None].astype(np.float32)
        cos, sin = np.cos(angle[part, None, None]), np.sin(angle[part, None, None])
        long_px, short_px = (diameters_px[part, axis, None, None] / 2 for axis in (0, 1))
        radius = np.hypot((x * cos + y * sin) / long_px, (y * cos - x * sin) / short_px)
        # The mean half diameter turns relative distance from the edge into pixels.
        cover = np.clip((1 - radius) * (long_px + short_px) / 2 + 0.5, 0, 1)
        value = strength[part, None, None] * cover * (1 - rim + rim * np.minimum(radius, 1) ** 2)
        is_inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
            :, None, :
        ]
        index = rows[:, :, None] * width + columns[:, None, :]
        np.maximum.at(flat, index[is_inside], value[is_inside].astype(np.float32))
