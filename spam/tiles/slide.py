"""A slide: a picture too large to hold, read region by region from the level of its pyramid that fits."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from spam.typing import Array, UInt8

__all__ = ["Slide"]


class Slide(ABC):
    """An open slide; close it, or use it as a context manager. Reading is safe from several threads at once.

    Attributes
    ----------
    path
        File that it was opened from.
    level_sizes
        (width, height) of each pyramid level in pixels, level 0 being the full resolution.
    level_downsamples
        Full-resolution pixels per pixel of each level, the mean of both axes; ``level_downsamples[0]`` is 1.
    block_sizes
        (width, height) of the compressed blocks of each level: the file decodes nothing smaller, and the blocks
        begin at the upper left corner. Those at the right and lower border may be cut off.
    mpp
        µm per full-resolution pixel as the file states it, or None.
    mpp_note
        Where `mpp` is None, what the file states instead, as the end of a sentence about the slide.
    """

    def __init__(
        self,
        path: Path,
        *,
        level_sizes: tuple[tuple[int, int], ...],
        block_sizes: tuple[tuple[int, int], ...],
        mpp: float | None,
        mpp_note: str | None = None,
    ) -> None:
        self.path = path
        self.level_sizes = level_sizes
        self.block_sizes = block_sizes
        self.mpp = mpp
        self.mpp_note = mpp_note
        self.level_downsamples = tuple(
            (self.width / width + self.height / height) / 2 for width, height in level_sizes
        )

    @property
    def width(self) -> int:
        """Width at full resolution, in pixels."""
        return self.level_sizes[0][0]

    @property
    def height(self) -> int:
        """Height at full resolution, in pixels."""
        return self.level_sizes[0][1]

    def read(self, x: int, y: int, w: int, h: int, level: int = 0) -> UInt8[Array, "h w 3"]:
        """Read a region of RGB pixels; what lies outside the slide repeats its edge.

        Parameters
        ----------
        x, y
            Column and row of the upper left pixel, counted in pixels **of this level**; may be negative.
        w, h
            Size in pixels of this level, at least 1.
        level
            Pyramid level; 0 is the full resolution.

        Raises
        ------
        SlideError
            If the file cannot be decoded there.
        """
        width, height = self.level_sizes[level]
        columns = np.clip(np.arange(x, x + w), 0, width - 1)
        rows = np.clip(np.arange(y, y + h), 0, height - 1)
        left, top = int(columns[0]), int(rows[0])
        inside = self._read_inside(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1, level)
        if inside.shape[:2] == (h, w):
            return inside
        return inside[np.ix_(rows - top, columns - left)]

    @abstractmethod
    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        """Read a region that lies inside the level."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self:
        """Return the slide itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the slide."""
        self.close()
