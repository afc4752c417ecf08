"""Stain normalisation: the colours of one section brought to those of a reference, estimated once per section."""

import dataclasses
import math
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeAlias

import numpy as np
from scipy import ndimage

from spam.errors import ConfigError, SlideError
from spam.schemas.store_format import Stain
from spam.typing import Array, Float32, Float64, UInt8

from .quality import is_tissue

__all__ = ["StainNormaliser", "mosaic"]

_LIGHT = 240.0  # torchstain's intensity of light without tissue
_TRANSPARENT_BELOW = (
    0.15  # torchstain's optical density of transparent pixels, which Macenko's method leaves out
)
_PLAIN_PX, _PLAIN_BELOW = (
    9,
    3.0,
)  # side of a neighbourhood, and the spread of green in it, below which it is plain
_MIN_PIXELS = 1000  # fewer say nothing about a section's stains
_LARGEST_CONDITION = (
    30.0  # of the two stains' colours: about 4 degrees between them, where real ones have 20 to 40
)

# Mean and standard deviation of L*, a* and b* (CIE, D65) over about 50 000 tiles of 450 slides of TCGA: preset "v3" of
# Slideflow's `reinhard_fast` (Dolezal et al. 2024, doi:10.1186/s12859-024-05758-x).
_REFERENCE_MEANS = (58.12343, 26.483482, -12.701005)
_REFERENCE_STDS = (14.675022, 7.5744166, 5.226378)

# CIE L*a*b* is affine in the cube roots of X, Y and Z: L* = 116 y - 16, a* = 500 (x - y), b* = 200 (y - z).
_LAB_OF_ROOTS = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_XYZ_OF_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_LINEAR_ROOT = 0.2068966  # below it the "cube root" of CIE is a straight line
_FINE = 1 << 14  # steps of the tables over [0, 1]; a fifth of a grey level at most, where they are steepest


_Recolour: TypeAlias = Callable[[UInt8[Array, "n 3"]], UInt8[Array, "n 3"]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StainNormaliser:
    """Recolours tiles of one section, each pixel by itself: a tile's result depends on no other tile.

    ``macenko`` (Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250) finds the colours of haematoxylin and eosin, and
    how strong the staining is, and puts torchstain's reference in their place. ``reinhard`` (Reinhard et al. 2001,
    doi:10.1109/38.946629) brings mean and spread of L*, a* and b* to those of a reference. The numbers are torchstain's
    (Barbano and Pedersen 2022, doi:10.5281/zenodo.6979540) to one grey level; ours is faster, since a section's
    colours are estimated once, and the rest is tables and one or two 3 x 3 matrices.

    Relative to the papers: they estimate per image; here one estimate, from the section's tissue alone, serves all
    tiles. Reinhard et al. work in the colour space of Ruderman; torchstain, and so we, in CIE L*a*b*.

    Attributes
    ----------
    name
        Method.
    parameters
        What was estimated and the reference, JSON-ready: ``stain_matrix`` (columns haematoxylin and eosin) and
        ``max_concentrations``, or ``means`` and ``stds``; the same with ``target_`` before it; ``torchstain``, its version.
    """

    name: Stain
    parameters: dict[str, Any]

    @classmethod
    def fit(cls, name: Stain, overview: UInt8[Array, "h w 3"]) -> "StainNormaliser":
        """Estimate the colours of a section from a small picture of it.

        Parameters
        ----------
        name
            Method.
        overview
            The section (`spam.tiles.overview`), or some of its tiles (`mosaic`). Its tissue alone counts: pixels that
            `is_tissue` accepts, in places that are not plain, so that tinted glass is left out.

        Raises
        ------
        ConfigError
            If torchstain is not installed (says how to get it).
        SlideError
            If there is too little tissue to estimate from.
        """
        try:
            from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer
        except ImportError as error:
            message = f"--stain {name} needs torchstain, which is not installed; get it with `pip install 'spam-st[stain]'`"
            raise ConfigError(message) from error
        pixels = overview[_tissue_mask(overview)]
        # torchstain finds the colours of the stains in those pixels alone that hold back light of every colour.
        is_used = name == "reinhard" or (_LOG_OF_LIGHT[pixels] <= -_TRANSPARENT_BELOW).all(axis=1)
        n_used = int(np.broadcast_to(is_used, len(pixels)).sum())
        if n_used < _MIN_PIXELS:
            message = (
                f"--stain {name} finds {n_used} pixels of tissue in an overview of {overview.shape[1]} x "
                f"{overview.shape[0]} px, and needs {_MIN_PIXELS}: nothing tells how this section was stained; embed it "
                "without --stain"
            )
            raise SlideError(message)
        if name == "macenko":
            source, target = NumpyMacenkoNormalizer(), NumpyMacenkoNormalizer()
            source.fit(pixels[:, None])
            if np.linalg.cond(source.HERef) > _LARGEST_CONDITION:
                message = (
                    "--stain macenko finds one stain in this section, not two; is it stained with haematoxylin and eosin? "
                    "Embed it with --stain reinhard, or without --stain"
                )
                raise SlideError(message)
            found = {
                "stain_matrix": source.HERef,
                "max_concentrations": source.maxCRef,
                "target_stain_matrix": target.HERef,
                "target_max_concentrations": target.maxCRef,
            }
        else:
            source = NumpyReinhardNormalizer()
            source.fit(pixels[:, None])
            found = {
                "means": source.target_means,
                "stds": source.target_stds,
                "target_means": np.array(_REFERENCE_MEANS),
                "target_stds": np.array(_REFERENCE_STDS),
            }
        plain = {key: values.tolist() for key, values in found.items()}
        return cls(name=name, parameters={**plain, "torchstain": metadata.version("torchstain")})

    def apply(self, tiles: UInt8[Array, "n h w 3"]) -> UInt8[Array, "n h w 3"]:
        """Recolour tiles."""
        numbers = {
            key: np.array(values) for key, values in self.parameters.items() if isinstance(values, list)
        }
        recolour = (_macenko if self.name == "macenko" else _reinhard)(**numbers)
        recoloured = np.empty_like(tiles)
        for tile, result in zip(tiles, recoloured, strict=True):  # one at a time fits the processor's cache
            result[:] = recolour(tile.reshape(-1, 3)).reshape(tile.shape)
        return recoloured


def mosaic(tiles: UInt8[Array, "n px px 3"]) -> UInt8[Array, "h w 3"]:
    """Lay tiles side by side in rows, about as many rows as columns; what is left over at the end is white."""
    n, px = tiles.shape[:2]
    columns = max(1, math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    laid = np.full((rows * columns, px, px, 3), 255, dtype=np.uint8)
    laid[:n] = tiles
    return laid.reshape(rows, columns, px, px, 3).swapaxes(1, 2).reshape(rows * px, columns * px, 3)


def _tissue_mask(overview: UInt8[Array, "h w 3"]) -> Array:
    """Tell which pixels of a small picture show tissue, without glass that is tinted like tissue."""
    green = overview[..., 1].astype(np.float32)
    mean = ndimage.uniform_filter(green, _PLAIN_PX)
    variance = ndimage.uniform_filter(green * green, _PLAIN_PX) - mean * mean
    return np.asarray(is_tissue(overview) & (variance > _PLAIN_BELOW**2))


def _macenko(
    *,
    stain_matrix: Float64[Array, "3 2"],
    max_concentrations: Float64[Array, " 2"],
    target_stain_matrix: Float64[Array, "3 2"],
    target_max_concentrations: Float64[Array, " 2"],
) -> _Recolour:
    r"""Recolour by :math:`\log I' = T \operatorname{diag}(t/s) S^+ \log I`, one matrix for all pixels."""
    scale = np.diag(target_max_concentrations / max_concentrations)
    matrix = (target_stain_matrix @ scale @ np.linalg.pinv(stain_matrix)).T.astype(np.float32)

    def recolour(pixels: UInt8[Array, "n 3"]) -> UInt8[Array, "n 3"]:
        light = np.exp(_LOG_OF_LIGHT.take(pixels) @ matrix)
        light *= np.float32(_LIGHT)
        return np.asarray(np.minimum(light, 255, out=light).astype(np.uint8))

    return recolour


def _reinhard(
    *,
    means: Float64[Array, " 3"],
    stds: Float64[Array, " 3"],
    target_means: Float64[Array, " 3"],
    target_stds: Float64[Array, " 3"],
) -> _Recolour:
    """Recolour by a shift and a scale of L*, a* and b*, written as one matrix on the cube roots of X, Y and Z."""
    to_xyz = (_XYZ_OF_RGB / _WHITE[:, None]).T.astype(np.float32) * np.float32(_FINE - 1)
    to_rgb = (np.linalg.inv(_XYZ_OF_RGB) * _WHITE).T.astype(np.float32) * np.float32(_FINE - 1)
    roots_of_lab = np.linalg.inv(_LAB_OF_ROOTS)
    scale = target_stds / stds
    matrix = (roots_of_lab @ np.diag(scale) @ _LAB_OF_ROOTS).T.astype(np.float32)
    offset = np.array([16.0, 0.0, 0.0])  # L* + 16 is linear in the roots
    shift = (roots_of_lab @ (target_means + offset - scale * (means + offset))).astype(np.float32)

    def recolour(pixels: UInt8[Array, "n 3"]) -> UInt8[Array, "n 3"]:
        xyz = _LINEAR_OF_RGB.take(pixels) @ to_xyz
        roots = _ROOT.take(_place(xyz)) @ matrix
        roots += shift
        cubes = roots * roots * roots
        below = roots <= _LINEAR_ROOT
        if below.any():
            cubes[below] = (roots[below] - np.float32(16 / 116)) / np.float32(7.787)
        return _RGB_OF_LINEAR.take(_place(cubes @ to_rgb))

    return recolour


def _place(values: Float32[Array, "n 3"]) -> Array:
    """Find the entries of a fine table; what lies beyond its ends takes the last one."""
    return np.clip(values + np.float32(0.5), 0, _FINE - 1).astype(np.int32)


def _srgb(linear: Float64[Array, " n"]) -> Float64[Array, " n"]:
    """Encode linear light as sRGB does."""
    return np.where(linear > 0.0031308, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)


_BYTES = np.arange(256) / 255
_STEPS = np.linspace(0, 1, _FINE)
_LOG_OF_LIGHT = np.log((np.arange(256) + 1) / _LIGHT).astype(np.float32)
_LINEAR_OF_RGB = np.where(_BYTES > 0.04045, ((_BYTES + 0.055) / 1.055) ** 2.4, _BYTES / 12.92).astype(
    np.float32
)
_ROOT = np.where(_STEPS > 0.008856, np.cbrt(_STEPS), 7.787 * _STEPS + 16 / 116).astype(np.float32)
_RGB_OF_LINEAR = (255 * _srgb(_STEPS)).astype(np.uint8)  # cut, not rounded, as torchstain does
