"""Quality of tiles: how much tissue and how much pen ink they show, and how sharp they are."""

import math
from itertools import starmap

import numpy as np

from spam.schemas.tile_quality import MEASURES
from spam.typing import Array, Bool, Float32, Int, UInt8

__all__ = ["is_tissue", "measure_quality"]

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

_PLAIN_BELOW = (
    3  # standard deviation of the luminance: spots of real sections have 8 to 50, tinted glass at most 2
)
_OTHER, _TISSUE, _INK = range(3)  # what a colour shows

_TYPICAL_SHARPNESS = 0.66  # median of the tiles of an Aperio scan at 20x, see docs/experiments.md
_SHARED_PX = 8  # a tile has at least as many lengths of its finest detail across it


def measure_quality(
    tiles: UInt8[Array, "n px px 3"], *, native_px: float | None = None
) -> Float32[Array, "n 4"]:
    r"""Measure how much tissue and ink tiles show, and how sharp they are.

    No measure changes when a tile is turned or mirrored, and none depends on the other tiles of the batch.

    **Tissue** is the share of pixels that `is_tissue` accepts; a tile that is all but plain, like tinted glass, shows
    none. **Pen** is the share of pixels in the colours of red,
    green and blue marker ink, by the rules of CODAIT's *deep-histopath* (also in *histolab*), or nearly black. Dense
    haematoxylin has such colours too: up to a sixth of the pixels of a real tile, so a flag needs more than that.

    **Sharpness** compares differences of second and first order. With the luminance :math:`g` smoothed by the
    binomial :math:`(1, 2, 1)/4` in both directions and :math:`\Delta` the difference over `step` pixels,

    .. math:: \frac{\sum (\Delta_x^2 g)^2 + (\Delta_y^2 g)^2}{\sum (\Delta_x g)^2 + (\Delta_y g)^2}

    divided by what a sharp scan typically has: 1 for such a scan, less with every blur. It is the energy of the
    Laplacian (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548) in the normalised form that pure contrast,
    and so the strength of the staining, cannot change; images whose spectrum falls like that of natural scenes
    (power :math:`1/f^2`) have the same value whatever they show. The smoothing keeps noise from passing as detail.

    Its limits: it falls where all detail is coarse (fat, mucus, smears), it says nothing of a blank tile, a strong
    pattern of compression counts as detail, and blur of less than a pixel of the slide goes unseen.

    Parameters
    ----------
    tiles
        RGB tiles.
    native_px
        Side of a tile in pixels of the slide, where it has fewer than `px`: then `step` is the length of one such
        pixel in the tile, since a tile that was enlarged has no finer detail. None takes it as not enlarged.

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


def is_tissue(pixels: UInt8[Array, "*shape 3"]) -> Bool[Array, "*shape"]:
    """Tell which pixels show tissue: they hold back green light, as both stains do, and are not grey.

    Green counts from an optical density of 0.15 (Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250), and grey is what
    *deep-histopath* calls so: channels within 15 of each other. Glass, dust and black borders are no tissue.
    """
    highest, lowest = pixels.max(axis=-1), pixels.min(axis=-1)
    return np.asarray((pixels[..., 1] < _GREEN_BELOW) & (highest - lowest > _GREY_RANGE))


def _is_ink(pixels: UInt8[Array, "*shape 3"]) -> Bool[Array, "*shape"]:
    """Tell which pixels have the colour of a marker pen."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    rules = (
        *starmap(lambda r, g, b: (red > r) & (green < g) & (blue < b), _RED_INK),
        *starmap(lambda r, g, b: (red < r) & (green > g) & (blue > b), _GREEN_INK),
        *starmap(lambda r, g, b: (red < r) & (green < g) & (blue > b), _BLUE_INK),
    )
    highest, lowest = pixels.max(axis=-1), pixels.min(axis=-1)
    is_black = (highest < _BLACK_BELOW) & (highest - lowest <= _GREY_RANGE)
    return np.asarray(np.any([*rules, is_black], axis=0))


def _colour_kinds() -> UInt8[Array, "32768"]:
    """Make the table of what colours show, ink before tissue; one entry for 8 x 8 x 8 colours, as its middle is."""
    centres = np.arange(4, 256, 8, dtype=np.uint8)
    colours = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.where(_is_ink(colours), _INK, np.where(is_tissue(colours), _TISSUE, _OTHER)).astype(np.uint8)


def _colour_bin(
    red: UInt8[Array, "px px"], green: UInt8[Array, "px px"], blue: UInt8[Array, "px px"]
) -> Array:
    """Find the entry of each pixel in the table of colours."""
    high = np.left_shift(red & 0xF8, 7, dtype=np.uint16)
    return np.asarray(high | np.left_shift(green & 0xF8, 2, dtype=np.uint16) | (blue >> 3))


def _sharpness(light: Int[Array, "px px"], step: int) -> float:
    """Compare the energy of second and first differences of one tile; 0 where there is no difference."""
    rows = light[: -2 * step] + light[2 * step :] + 2 * light[step:-step]
    smooth = rows[:, : -2 * step] + rows[:, 2 * step :] + 2 * rows[:, step:-step]
    first = second = 0.0
    for lines in (smooth, smooth.T):
        difference = lines[step:] - lines[:-step]
        first += _energy(difference)
        second += _energy(difference[step:] - difference[:-step])
    return second / first if first else 0.0


def _energy(values: Array) -> float:
    """Take the mean square."""
    flat = values.ravel(order="K").astype(np.float32)
    return float(flat @ flat) / flat.size


_COLOUR_KINDS = _colour_kinds()
