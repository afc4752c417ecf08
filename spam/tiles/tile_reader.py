"""The tiles of one section at one size by the index of their spot, one by one or read ahead in threads."""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from spam.errors import SlideError, TileError
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, TileFiles
from spam.typing import Array, Float32, Int64, UInt8

from .slide import Slide
from .slide_cache import CachedSlide
from .slide_formats import ImageSlide, open_slide
from .tile_cutting import Interpolation, cut_tile
from .tile_quality import measure_quality
from .tile_specs import common_side_px

Spots: TypeAlias = Sequence[int] | Int64[Array, " n"]
"""Indices of spots."""

_ROUNDING_PX = 0.5  # the rounded extent in µm may be a fraction of a pixel larger than its file


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileBatch:
    """Some tiles of a section, read together.

    Attributes
    ----------
    pixels
        RGB pixels; zero if a tile could not be read.
    quality
        Quality measures of each, see `spam.schemas.tile_spec.MEASURES`; zero if a tile could not be read.
    faults
        Errors of unreadable tiles, by their index in the batch.
    """

    pixels: UInt8[Array, "n out_px out_px 3"]
    quality: Float32[Array, "n 4"]
    faults: dict[int, SlideError]


class TileReader(contextlib.ExitStack):
    """Cuts the tiles of a section from its slide or its tile files; threads may read at the same time.

    The slide is decoded region by region, and the most recently used regions are kept: in the order of `sweep_order` each
    is decoded once, however many tiles overlap it. A tile file is a very small slide with the spot in its middle: a
    smaller extent than the file's is its centre. Close the reader, or use it as a context manager.

    Parameters
    ----------
    section
        Section, with its mpp known if the spec is in µm (see `locate`).
    spec
        Size of the tiles.
    slide
        The section's slide if it is already open; it is shared and stays open. None opens it for this reader.
    interpolation
        Filter of the resampling.
    is_forgiving
        Whether `read_batch` continues if a tile cannot be read.

    Raises
    ------
    ConfigError
        If the spec is in µm and the section's µm per pixel is unknown.
    MissingInputError
        If the slide or a tile file does not exist.
    SlideError
        If the slide or a tile file cannot be read.
    TileError
        If the tile files differ in size, are not square, or are smaller than the tile.
    """

    def __init__(
        self,
        section: Section,
        spec: TileSpec,
        *,
        slide: Slide | None = None,
        interpolation: Interpolation = "bicubic",
        is_forgiving: bool = False,
    ) -> None:
        super().__init__()  # closes what is entered below
        self._section, self._spec = section, spec
        self._interpolation: Interpolation = interpolation
        self._is_forgiving = is_forgiving
        self._native_px = spec.native_px(section.mpp)
        self._slide: Slide | None = None
        if isinstance(section.tiles, TileFiles):
            self._files = section.tiles.paths
            side = self._file_px = common_side_px(self._files, is_forgiving=is_forgiving)
            if self._native_px > side + _ROUNDING_PX:
                found = f"need {self._native_px:.1f} px, but the tile files of section {section.name!r} have {side} px"
                message = f"Tiles of {spec.label} {found}. Choose a smaller --tile-um or --tile-px."
                raise TileError(message)
        else:
            assert section.tiles is not None  # only features of other programs come without an image
            slide = slide or self.enter_context(open_slide(section.tiles.path))
            # A PNG or JPEG is decoded whole and needs no cache.
            self._slide = slide if isinstance(slide, ImageSlide) else self.enter_context(CachedSlide(slide))

    def __len__(self) -> int:
        """Return the number of spots of the section."""
        return len(self._section.ids)

    def require_readable(self) -> None:
        """Raise if no tile can be read; stops at the first one that can.

        Raises
        ------
        SlideError
            Counts the tiles, and quotes the error of the last one.
        """
        fault: SlideError | None = None
        for index in range(len(self)):
            try:
                self.read(index)
            except SlideError as error:
                fault = error
            else:
                return
        message = f"None of the {len(self)} tiles of section {self._section.name!r} can be read: {fault}"
        raise SlideError(message) from fault

    def read(self, index: int) -> UInt8[Array, "out_px out_px 3"]:
        """Cut the tile of one spot.

        Raises
        ------
        SlideError
            If the slide or the tile file cannot be decoded.
        """
        size, px, filtering = self._native_px, self._spec.out_px, self._interpolation
        if self._slide is not None:
            x, y = self._section.xy_px[index].tolist()
            return cut_tile(self._slide, x, y, native_px=size, out_px=px, interpolation=filtering)
        with open_slide(self._files[index]) as tile:
            middle = self._file_px / 2
            return cut_tile(tile, middle, middle, native_px=size, out_px=px, interpolation=filtering)

    def read_batch(self, indices: Spots) -> TileBatch:
        """Cut the tiles of several spots in the given order, and measure their quality.

        Raises
        ------
        SlideError
            If a tile cannot be read and the reader is not forgiving; names the spot.
        """
        pixels = np.zeros((len(indices), self._spec.out_px, self._spec.out_px, 3), dtype=np.uint8)
        faults: dict[int, SlideError] = {}
        for row, index in enumerate(indices):
            try:
                pixels[row] = self.read(index)
            except SlideError as fault:
                if not self._is_forgiving:
                    spot = f"spot '{self._section.ids[index]}' of section {self._section.name!r}"
                    message = f"Cannot read the tile of {spot}: {fault} To skip it, use --skip-bad-tiles."
                    raise SlideError(message) from fault
                faults[row] = fault
        quality = measure_quality(pixels, native_px=self._native_px)
        quality[list(faults)] = 0
        return TileBatch(pixels=pixels, quality=quality, faults=faults)


def read_batches(
    reader: TileReader, batches: Sequence[Spots], *, n_threads: int
) -> Generator[TileBatch, None, None]:
    """Read batches of tiles in the given order, up to ``n_threads + 1`` of them ahead, so that memory stays bounded.

    Parameters
    ----------
    reader
        Source of the tiles.
    batches
        Indices of the spots of each batch.
    n_threads
        Threads that read; 0 reads in the calling thread, nothing ahead.

    Raises
    ------
    SlideError
        If a tile cannot be decoded; raised in place of its batch.
    """
    if n_threads == 0:
        yield from map(reader.read_batch, batches)
        return
    ahead: deque[Future[TileBatch]] = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="tiles")
    try:
        for batch in batches:
            ahead.append(pool.submit(reader.read_batch, batch))
            if len(ahead) > n_threads:
                yield ahead.popleft().result()
        yield from (future.result() for future in ahead)
    finally:
        pool.shutdown(cancel_futures=True)
