"""Quality of tiles: share of tissue, share of pen ink, sharpness."""

import math

import numpy as np

from spam.schemas.tile_spec import MEASURES
from spam.typing import Array, Float32, Int, UInt8

# Borders of a colour that is the ink of a marker pen: red above, green and blue below; red below, green and blue
# above; red and green below, blue above.
_RED_INK = (
    (150, 80, 90), (110, 20, 30), (185, 65, 105), (195, 85, 125), (220, 115, 145), (125, 40, 70), (200, 120, 150),
    (100, 50, 65), (85, 25, 45),
)  # fmt: skip
_GREEN_INK = (
    (150, 160, 140), (70, 110, 110), (45, 115, 100), (30, 75, 60), (195, 220, 210), (225, 230, 225), (170, 210, 200),
    (20, 30, 20), (50, 60, 40), (30, 50, 35), (65, 70, 60), (100, 110, 105), (165, 180, 180), (140, 140, 150),
    (185, 195, 195),
)  # fmt: skip
_BLUE_INK = (
    (60, 120, 190), (120, 170, 200), (175, 210, 230), (145, 180, 210), (37, 95, 160), (30, 65, 130), (130, 155, 180),
    (40, 35, 85), (30, 20, 65), (90, 90, 140), (60, 60, 120), (110, 110, 175),
)  # fmt: skip
_BLACK_BELOW = 60

_GREEN_BELOW = 206  # optical density 0.15 under light of 240, Macenko's border of transparent pixels
_GREY_RANGE = 15  # channels that differ by no more are grey: glass, dust, the black of a scanner's border

_PLAIN_BELOW = 3  # standard deviation of the luminance: real spots have 8 to 50, tinted glass at most 2
_OTHER, _TISSUE, _INK = range(3)  # what a colour shows

_TYPICAL_SHARPNESS = 0.66  # median of the tiles of an Aperio scan at 20x, see docs/experiments-log.md
_SHARED_PX = 8  # a tile has at least as many lengths of its finest detail across it


def measure_quality(
    tiles: UInt8[Array, "n px px 3"], *, native_px: float | None = None
) -> Float32[Array, "n 4"]:
    r"""Measure share of tissue, share of pen ink, and sharpness of tiles.

    No measure changes when a tile is turned or mirrored, and none depends on the other tiles of the batch.

    **Tissue** is the share of pixels that hold back green light, as both stains do (optical density above 0.15, Macenko et
    al. 2009, doi:10.1109/ISBI.2009.5193250), and are not grey (channels within 15 of each other); it is 0 for a plain tile,
    such as tinted glass. **Pen** is the share of pixels in the colours of red, green and blue marker ink, by the rules of
    CODAIT's *deep-histopath* (also in *histolab*), or nearly black. Dense haematoxylin has such colours too, in up to a
    sixth of the pixels of a real tile, so a flag needs more than that.

    **Sharpness** compares differences of second and first order. With the luminance :math:`g` smoothed by the
    binomial :math:`(1, 2, 1)/4` in both directions and :math:`\Delta` the difference over `step` pixels,

    .. math:: \frac{\sum (\Delta_x^2 g)^2 + (\Delta_y^2 g)^2}{\sum (\Delta_x g)^2 + (\Delta_y g)^2}

    divided by the typical value of a sharp scan: 1 for such a scan, less with every blur. It is the energy of the
    Laplacian (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548), normalised so that contrast, and so the strength of
    the staining, does not change it; images with the spectrum of natural scenes (power :math:`1/f^2`) all have the same
    value. The smoothing keeps noise from passing as detail.

    Limits: it falls if all detail is coarse (fat, mucus, smears), is meaningless for a blank tile, counts strong
    compression artefacts as detail, and misses blur of less than a pixel of the slide.

    Parameters
    ----------
    tiles
        RGB tiles.
    native_px
        Side of a tile in pixels of the slide. If it is less than `px`, the tile was enlarged and has no detail finer than
        one such pixel, whose length in the tile is the `step`. None: not enlarged.

    Returns
    -------
    Float32[Array, "n 4"]
        Columns `MEASURES`; `readable` is 1. A tile of one colour has the sharpness 0.
    """
    px = tiles.shape[1]
    # A scale of 1.05 is a matter of how mpp is rounded, and 1 px is still the right step.
    step = 1 if native_px is None else max(1, min(math.ceil(px / native_px - 0.1), px // _SHARED_PX))
    measures = np.empty((len(tiles), len(MEASURES)), dtype=np.float32)
    for row, tile in enumerate(tiles):  # one at a time: all that is made of a tile fits the processor's cache
        red, green, blue = (np.ascontiguousarray(tile[..., channel]) for channel in range(3))
        kinds = _COLOUR_KINDS.take(_colour_bin(red, green, blue))
        tissue, ink = (np.count_nonzero(kinds == kind) / kinds.size for kind in (_TISSUE, _INK))
        # Four times the luminance: 1020 at most, so that 16 bits hold the sums and differences of `_sharpness`.
        light = np.left_shift(green, 1, dtype=np.int16) + red + blue
        is_plain = light.std(dtype=np.float32) < 4 * _PLAIN_BELOW
        measures[row] = (1, 0 if is_plain else tissue, ink, _sharpness(light, step) / _TYPICAL_SHARPNESS)
    return measures


def _colour_kinds() -> UInt8[Array, "32768"]:
    """Tabulate the kind of each colour, ink before tissue; one entry per 8 x 8 x 8 colours, judged by its centre."""
    centres = np.arange(4, 256, 8, dtype=np.uint8)
    colours = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(-1, 3)
    red, green, blue = colours.T
    highest, is_grey = colours.max(axis=1), np.ptp(colours, axis=1) <= _GREY_RANGE
    is_ink = (highest < _BLACK_BELOW) & is_grey
    for r, g, b in _RED_INK:
        is_ink |= (red > r) & (green < g) & (blue < b)
    for r, g, b in _GREEN_INK:
        is_ink |= (red < r) & (green > g) & (blue > b)
    for r, g, b in _BLUE_INK:
        is_ink |= (red < r) & (green < g) & (blue > b)
    is_tissue = (green < _GREEN_BELOW) & ~is_grey
    return np.where(is_ink, _INK, np.where(is_tissue, _TISSUE, _OTHER)).astype(np.uint8)


def _colour_bin(
    red: UInt8[Array, "px px"], green: UInt8[Array, "px px"], blue: UInt8[Array, "px px"]
) -> Array:
    """Return the index of each pixel in the table of colours."""
    high = np.left_shift(red & 0xF8, 7, dtype=np.uint16)
    return np.asarray(high | np.left_shift(green & 0xF8, 2, dtype=np.uint16) | (blue >> 3))


def _sharpness(light: Int[Array, "px px"], step: int) -> float:
    """Divide the energy of second by that of first differences of one tile; 0 for a tile of one colour."""
    rows = light[: -2 * step] + light[2 * step :] + 2 * light[step:-step]
    smooth = rows[:, : -2 * step] + rows[:, 2 * step :] + 2 * rows[:, step:-step]
    first = second = 0.0
    for lines in (smooth, smooth.T):
        difference = lines[step:] - lines[:-step]
        first += _energy(difference)
        second += _energy(difference[step:] - difference[:-step])
    return second / first if first else 0.0


def _energy(values: Array) -> float:
    """Return the mean square."""
    flat = values.ravel(order="K").astype(np.float32)
    return float(flat @ flat) / flat.size


_COLOUR_KINDS = _colour_kinds()
