"""OME-Zarr: a pyramid of Zarr arrays in a folder, NGFF 0.4 (Zarr v2) and 0.5 (Zarr v3)."""

import itertools
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .slide import UNSTATED, PixelSize, Slide, pixel_size, to_rgb


class OmeZarrSlide(Slide):
    """The largest image of an OME-Zarr, the first of several, with its levels.

    Source: OME-NGFF 0.4 and 0.5 (ngff.openmicroscopy.org). Axes may have any order; time and depth must have length one.
    A missing chunk stands for its fill value, as in any Zarr, but if that is black it is an error: no scanner sees black
    glass, and copies of folders lose files. A level without any chunk is an error too.

    Raises
    ------
    SlideError
        If the pixels are not 8-bit grey, RGB or RGBA.
    """

    kind = "OME-Zarr of version 0.4 or 0.5"
    unreadable = (
        OSError, EOFError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, zlib.error
    )  # fmt: skip

    def __init__(self, path: Path) -> None:
        root: Any = zarr.open_group(path, mode="r", use_consolidated=False)
        images = _images_of(root)
        name, group, multiscales = max(images, key=lambda image: math.prod(_levels_of(*image[1:])[0].shape))
        self._axes: list[str] = [axis["name"] for axis in multiscales["axes"]]
        column, row = self._axes.index("x"), self._axes.index("y")
        self._levels = _levels_of(group, multiscales)
        first = self._levels[0]
        sizes = dict(zip(self._axes, first.shape, strict=True))
        is_stack = any(n > 1 for axis, n in sizes.items() if axis not in "yxc")
        if first.dtype != np.uint8 or sizes.get("c", 1) not in (1, 3, 4) or is_stack:
            found = f"{first.dtype} with axes {''.join(self._axes)!r} and shape {first.shape}"
            message = f"Slide {str(path)!r} has {found}. Convert it to 8-bit grey, RGB or RGBA."
            raise SlideError(message)
        empty = [level.path for level in self._levels if not _has_chunks(path / level.path)]
        if empty:
            message = f"level {empty[0]!r} has no chunks"
            raise FileNotFoundError(message)
        sides = f"{first.shape[column]} x {first.shape[row]} px"
        note = f"{path.name} holds {len(images)} pictures; the largest, {name!r} of {sides}, is read"
        super().__init__(
            path,
            level_sizes=tuple((level.shape[column], level.shape[row]) for level in self._levels),
            block_sizes=tuple((level.chunks[column], level.chunks[row]) for level in self._levels),
            size=_pixel_size_of(multiscales, column, row),
            notes=(note,) if len(images) > 1 else (),
        )

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        array = self._levels[level]
        place = {"x": slice(x, x + w), "y": slice(y, y + h)}
        sizes = zip(self._axes, array.shape, strict=True)
        where = tuple(place.get(axis, slice(0, size)) for axis, size in sizes)
        _require_chunks(self.path, array, where)
        pixels = np.asarray(array[where])
        # Axes of length 1 first ("yxc".find gives -1), then rows, columns and channels.
        order = sorted(range(pixels.ndim), key=lambda i: "yxc".find(self._axes[i]))
        return to_rgb(pixels.transpose(order).reshape(h, w, -1))

    def close(self) -> None:
        """Do nothing: no file stays open between two reads."""


def _images_of(root: Any) -> list[tuple[str, Any, Mapping[str, Any]]]:
    """List name, group and ``multiscales`` of each image: of the root, else of the groups that bioformats2raw numbers."""
    attributes = _ome_attributes(root)
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        numbered = sorted((name for name in root.group_keys() if name.isdecimal()), key=int)
        images = [(name, root[name]) for name in numbered]
    else:
        images = [("", root)]
    return [
        (str(multiscales.get("name") or name), group, multiscales)
        for name, group in images
        for multiscales in _ome_attributes(group)["multiscales"]
    ]


def _levels_of(group: Any, multiscales: Mapping[str, Any]) -> list[Any]:
    return [group[dataset["path"]] for dataset in multiscales["datasets"]]


def _has_chunks(folder: Path) -> bool:
    return any(file.is_file() and not file.name.startswith((".z", "zarr.json")) for file in folder.rglob("*"))


def _ome_attributes(group: Any) -> Mapping[str, Any]:
    """Return the OME attributes of a group: under ``ome`` since 0.5, else among all attributes."""
    attributes = group.attrs.asdict()
    return dict(attributes.get("ome", attributes))


def _pixel_size_of(multiscales: Mapping[str, Any], column: int, row: int) -> PixelSize:
    """Multiply the scale of the first level with the one that all levels share."""
    parts = (multiscales["datasets"][0], multiscales)
    steps = [step for part in parts for step in part.get("coordinateTransformations", ())]
    scales = [step["scale"] for step in steps if step["type"] == "scale"]
    if not scales:
        return UNSTATED
    x, y = (float(np.prod([scale[axis] for scale in scales])) for axis in (column, row))
    units = [multiscales["axes"][axis].get("unit") for axis in (column, row)]
    words = [f"{size:g} {unit or 'without a unit'}" for size, unit in zip((x, y), units, strict=True)]
    return pixel_size(x, y, units=units, stated=f"OME-Zarr scale {' x '.join(words)}")


def _require_chunks(folder: Path, array: Any, where: tuple[slice, ...]) -> None:
    """Raise if a file with pixels of the region is missing, for which zarr would return black."""
    if array.metadata.fill_value:
        return
    sides = array.shards or array.chunks  # the files: shards of several chunks, or single chunks
    touched = [range(x.start // side, (x.stop - 1) // side + 1) for x, side in zip(where, sides, strict=True)]
    for chunk in itertools.product(*touched):
        name = f"{array.path}/{array.metadata.encode_chunk_key(chunk)}"
        if not (folder / name).is_file():
            message = f"chunk {name} is missing (all-black chunks must be written, see write_empty_chunks)"
            raise FileNotFoundError(message)
