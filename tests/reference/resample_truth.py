"""Antialiased resampling, written out pixel by pixel."""

import numpy as np

from spam.typing import Array, Float64, UInt8


def _cubic(x: float) -> float:
    """Keys' cubic convolution kernel with a = -1/2 (Keys 1981, doi 10.1109/TASSP.1981.1163711)."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x < 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def _linear(x: float) -> float:
    return max(0.0, 1 - abs(x))


KERNELS = {"bicubic": (_cubic, 2), "bilinear": (_linear, 1)}


def resampled_tile(
    image: UInt8[Array, "h w 3"], x: float, y: float, side: float, out_px: int, kernel: str
) -> Float64[Array, "out_px out_px 3"]:
    """Resample the square of `side` pixels centred on (x, y); the image continues with its edge pixels for ever."""
    weight, support = KERNELS[kernel]
    scale = side / out_px
    stretch = max(1.0, scale)
    height, width, _ = image.shape

    def weights(start: float, limit: int) -> list[list[tuple[int, float]]]:
        found = []
        for i in range(out_px):
            centre = start + (i + 0.5) * scale
            pixels = range(
                int(np.floor(centre - support * stretch)) - 1, int(np.ceil(centre + support * stretch)) + 2
            )
            pairs = [(min(max(p, 0), limit - 1), weight((p + 0.5 - centre) / stretch)) for p in pixels]
            total = sum(w for _, w in pairs)
            found.append([(p, w / total) for p, w in pairs])
        return found

    columns, rows = weights(x - side / 2, width), weights(y - side / 2, height)
    result = np.zeros((out_px, out_px, 3))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for p, wp in row:
                for q, wq in column:
                    result[i, j] += wp * wq * image[p, q]
    return np.clip(result, 0, 255)
