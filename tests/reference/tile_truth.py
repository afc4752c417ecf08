"""What quality of a tile is, pixel by pixel and with scipy: slow, and plain to read."""

import numpy as np
from scipy import ndimage

SYMMETRIES = tuple(
    lambda tiles, turns=turns, flip=flip: np.rot90(tiles[:, :, ::-1] if flip else tiles, turns, axes=(1, 2))
    for turns in range(4)
    for flip in (False, True)
)
"""The eight symmetries of the square, on arrays (n, px, px, 3)."""


def detail_ratio(tile, step):
    """Energy of the second over that of the first differences of the smoothed luminance, by convolution."""
    light = tile.astype(float) @ (1, 2, 1)
    binomial = np.zeros(2 * step + 1)
    binomial[[0, step, -1]] = 1, 2, 1
    once = np.zeros(step + 1)
    once[[0, -1]] = 1, -1
    smooth = ndimage.convolve1d(ndimage.convolve1d(light, binomial, axis=0), binomial, axis=1)
    smooth = smooth[step:-step, step:-step]
    energies = []
    for order in (2, 1):
        energy = 0.0
        for axis in (0, 1):
            values = smooth
            for _ in range(order):
                values = np.diff(np.stack([values, np.roll(values, -step, axis)]), axis=0)[0]
                values = np.take(values, range(values.shape[axis] - step), axis=axis)
            energy += (values**2).mean()
        energies.append(energy)
    return energies[0] / energies[1]
