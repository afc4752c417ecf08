"""A slide whose compressed blocks are decoded once, however many tiles overlap them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

from spam.errors import SlideError
from spam.typing import Array, UInt8

from .slide import Slide

__all__ = ["CACHE_BYTES", "CachedSlide", "region_size"]

CACHE_BYTES = 256 << 20
"""Decoded pixels that are kept: what bounds the memory, whatever the size of the slide."""

_Region: TypeAlias = UInt8[Array, "h w 3"] | None
"""Decoded pixels; None where they cannot be decoded."""

_REGION_PX = 1024  # side of what is decoded at once, about: many blocks a call, and few calls a tile


def region_size(slide: Slide, level: int) -> tuple[int, int]:
    """Give width and height of the regions that a level is decoded in: whole compressed blocks, of about 1024 px."""
    return tuple(  # type: ignore[return-value]
        min(block * max(1, _REGION_PX // block), size)
        for block, size in zip(slide.block_sizes[level], slide.level_sizes[level], strict=True)
    )


class CachedSlide(Slide):
    """Reads another slide in regions of whole compressed blocks, and keeps those that were used last.

    The other slide stays open when this one is closed. Where a region cannot be decoded, which is tried once while it is
    kept, the part of it that is asked for is read by itself: a damaged block spoils the tiles that it is part of, and no
    others.

    Parameters
    ----------
    slide
        Where the pixels come from.
    most_bytes
        Decoded pixels to keep, at least one region.
    """

    def __init__(self, slide: Slide, *, most_bytes: int = CACHE_BYTES) -> None:
        super().__init__(
            slide.path,
            level_sizes=slide.level_sizes,
            block_sizes=slide.block_sizes,
            mpp=slide.mpp,
            mpp_note=slide.mpp_note,
        )
        self._slide = slide
        self._regions = _LatestUsed(most_bytes)
        self._sizes = [region_size(slide, level) for level in range(len(slide.level_sizes))]

    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        width, height = self._sizes[level]
        columns, rows = (
            range(x // width, (x + w - 1) // width + 1),
            range(y // height, (y + h - 1) // height + 1),
        )
        out = np.empty((h, w, 3), dtype=np.uint8)
        for row in rows:
            y0, y1 = max(y, row * height), min(y + h, (row + 1) * height)
            for column in columns:
                x0, x1 = max(x, column * width), min(x + w, (column + 1) * width)
                region = self._region(level, column, row)
                if region is None:
                    return self._slide.read(x, y, w, h, level)
                part = region[
                    y0 - row * height : y1 - row * height, x0 - column * width : x1 - column * width
                ]
                if part.shape == out.shape:
                    return part
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out

    def _region(self, level: int, column: int, row: int) -> _Region:
        def decode() -> _Region:
            (width, height), (level_width, level_height) = self._sizes[level], self.level_sizes[level]
            x, y = column * width, row * height
            try:
                return self._slide.read(
                    x, y, min(width, level_width - x), min(height, level_height - y), level
                )
            except SlideError:  # told by whoever reads the damaged part itself
                return None

        return self._regions.get((level, column, row), decode)

    def close(self) -> None:
        """Let go of the pixels."""
        self._regions = _LatestUsed(0)


class _LatestUsed:
    """Regions by key, each made once while it is kept, also where several threads ask for it at the same time."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._n_bytes = most_bytes, 0
        self._found: OrderedDict[tuple[int, int, int], Future[_Region]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int, int], make: Callable[[], _Region]) -> _Region:
        with self._lock:
            future = self._found.get(key)
            is_mine = future is None
            if future is None:
                future = self._found[key] = Future()
            self._found.move_to_end(key)
        if is_mine:
            try:
                made = make()
            except BaseException as error:
                with self._lock:
                    del self._found[key]
                future.set_exception(error)
                raise
            future.set_result(made)
            with self._lock:
                self._n_bytes += _n_bytes(made)
                self._evict(but=key)
        return future.result()

    def _evict(self, *, but: tuple[int, int, int]) -> None:
        for key in list(self._found):
            if self._n_bytes <= self._most_bytes:
                return
            if key != but and self._found[key].done():
                self._n_bytes -= _n_bytes(self._found.pop(key).result())


def _n_bytes(region: _Region) -> int:
    return 0 if region is None else region.nbytes
