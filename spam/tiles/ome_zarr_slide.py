"""OME-Zarr: a pyramid of Zarr arrays in a folder, as NGFF 0.4 (Zarr v2) and 0.5 (Zarr v3) have it."""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .resolution import UNSTATED, PixelSize, pixel_size, um_per_unit
from .rgb import rgb_from_array
from .slide import Slide

__all__ = ["OmeZarrSlide"]

# What zarr and its codecs raise on folders and chunks that are damaged.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, zlib.error)


class OmeZarrSlide(Slide):
    """The first image of an OME-Zarr, with the levels of its first ``multiscales``.

    Source: OME-NGFF 0.4 and 0.5 (ngff.openmicroscopy.org). Axes may stand in any order; time and depth must be
    of length one. A chunk that the file leaves out stands for its fill value, as in any Zarr, but where that
    is black it is an error: no scanner sees black glass, and copies of folders lose files.

    Raises
    ------
    SlideError
        If the folder holds no such image, is damaged, or its pixels are not 8-bit grey, RGB or RGBA.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._axes, self._levels, size = _open_image(path)
        except _UNREADABLE as error:
            message = (
                f"slide {str(path)!r} is not a readable OME-Zarr of version 0.4 or 0.5: {_reason(error)}; "
                "check that the folder was copied whole"
            )
            raise SlideError(message) from error
        first = self._levels[0]
        sizes = dict(zip(self._axes, first.shape, strict=True))
        n_channels = sizes.get("c", 1)
        is_stack = any(n > 1 for axis, n in sizes.items() if axis not in "yxc")
        if first.dtype != np.uint8 or n_channels not in (1, 3, 4) or is_stack:
            message = (
                f"slide {str(path)!r} holds an image of {first.dtype} with axes {''.join(self._axes)!r} and shape "
                f"{first.shape}; an H&E slide has 8-bit (uint8) grey, RGB or RGBA pixels; export it as 8-bit RGB"
            )
            raise SlideError(message)
        self._x, self._y = self._axes.index("x"), self._axes.index("y")
        super().__init__(
            path,
            level_sizes=tuple((level.shape[self._x], level.shape[self._y]) for level in self._levels),
            block_sizes=tuple((level.chunks[self._x], level.chunks[self._y]) for level in self._levels),
            mpp=size.mpp,
            mpp_note=size.note,
        )

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        array = self._levels[level]
        place = {"x": slice(x, x + w), "y": slice(y, y + h), "c": slice(None)}
        where = tuple(place.get(axis, slice(0, 1)) for axis in self._axes)
        try:
            _refuse_lost_chunks(self.path, array, where)
            pixels = np.asarray(array[where])
        except _UNREADABLE as error:
            message = (
                f"slide {str(self.path)!r} cannot be decoded at ({x}, {y}) of level {level}: {_reason(error)}; "
                "check that the folder was copied whole"
            )
            raise SlideError(message) from error
        order = sorted(
            range(pixels.ndim), key=lambda i: "yxc".find(self._axes[i])
        )  # the others, of length 1, first
        return rgb_from_array(pixels.transpose(order).reshape(h, w, -1), name=self.path.name)

    def close(self) -> None:
        """Do nothing: no file is open between two reads."""


def _open_image(path: Path) -> tuple[tuple[str, ...], list[Any], PixelSize]:
    """Return the names of the axes, the arrays of all levels and the size of a pixel."""
    group: Any = zarr.open_group(path, mode="r", use_consolidated=False)
    attributes = _ome_attributes(group)
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        group = group["0"]  # the first image of several, which bioformats2raw and its like number
        attributes = _ome_attributes(group)
    multiscales = attributes["multiscales"][0]
    axes = tuple(axis["name"] for axis in multiscales["axes"])
    if not {"x", "y"} <= set(axes):
        message = f"its axes are {axes}, without x and y"
        raise ValueError(message)
    levels = [group[dataset["path"]] for dataset in multiscales["datasets"]]
    return axes, levels, _pixel_size_of(multiscales, axes)


def _ome_attributes(group: Any) -> Mapping[str, Any]:
    """Return what OME says of a group: under ``ome`` since 0.5, else among all attributes."""
    attributes: Mapping[str, Any] = group.attrs.asdict()
    inner: Mapping[str, Any] = attributes.get("ome", attributes)
    return inner


def _pixel_size_of(multiscales: Mapping[str, Any], axes: Sequence[str]) -> PixelSize:
    """Multiply the scale of the first level with the one that all levels share, and bring it to µm."""
    steps = [
        *multiscales["datasets"][0].get("coordinateTransformations", ()),
        *multiscales.get("coordinateTransformations", ()),
    ]
    scales = [step["scale"] for step in steps if step["type"] == "scale"]
    if not scales:
        return UNSTATED
    mpp: list[float | None] = []
    words: list[str] = []
    for axis in "xy":
        number = axes.index(axis)
        size = float(np.prod([scale[number] for scale in scales]))
        unit = multiscales["axes"][number].get("unit")
        um = um_per_unit(unit)
        words.append(f"{axis}: {size:g} {unit or 'without a unit'}")
        mpp.append(None if um is None else size * um)
    stated = f"OME-Zarr scale, {', '.join(words)}"
    if None in mpp:
        return PixelSize(mpp=None, note=f"states its pixel size in what is no length ({stated})")
    return pixel_size(mpp[0], mpp[1], stated=stated)


def _refuse_lost_chunks(folder: Path, array: Any, where: tuple[slice, ...]) -> None:
    """Raise if a file with pixels of the region is not there, and zarr would show black in its place."""
    if array.metadata.fill_value:
        return
    sides = array.shards or array.chunks  # the files: shards of several chunks, or single chunks
    touched = (
        range((part.start or 0) // side, ((size if part.stop is None else part.stop) - 1) // side + 1)
        for part, side, size in zip(where, sides, array.shape, strict=True)
    )
    for chunk in itertools.product(*touched):
        name = array.metadata.encode_chunk_key(chunk)
        if not (folder / array.path / name).is_file():
            message = (
                f"chunk {array.path}/{name} is not there, lost or all black (if it is to be black, write the slide "
                "with write_empty_chunks)"
            )
            raise FileNotFoundError(message)


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
