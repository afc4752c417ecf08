"""The tiles of one section at one size, by the number of their spot."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np

from spam.errors import SlideError, TileError
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, TileFiles
from spam.typing import Array, Int64, UInt8

from .block_cache import CachedSlide
from .cutting import Interpolation, cut_tile
from .image_slide import ImageSlide
from .opening import open_slide
from .quality import measure_quality
from .slide import Slide
from .stain import StainNormaliser
from .tile_batch import TileBatch
from .tile_files import common_side_px

__all__ = ["Spots", "TileReader"]

Spots: TypeAlias = Sequence[int] | Int64[Array, " n"]
"""Numbers of spots."""

_ROUNDING_PX = (
    0.5  # an extent in µm is rounded, and may come out a fraction of a pixel larger than its own file
)


class TileReader:
    """Cuts the tiles of a section, from its slide or its tile files; safe from several threads at once.

    The slide is decoded region by region, and those used last are kept: read tiles in the order of `sweep_order`, and each
    is decoded once, however many tiles overlap it. A tile file is treated like a very small slide with the spot in its
    middle: a smaller extent than the file's is its centre. Close the reader, or use it as a context manager.

    Parameters
    ----------
    section
        Section, with its mpp known if the spec is in µm (see `locate`).
    spec
        Size of the tiles.
    slide
        The section's slide, if it is open already: it is shared and stays open. None opens it for this
        reader.
    interpolation
        Filter of the resampling.
    stain
        Normalises the stains of the tiles that `read_batch` gives, after their quality was measured.
    is_forgiving
        Whether `read_batch` goes on when a tile cannot be read.

    Raises
    ------
    ConfigError
        If the spec is in µm and the section's µm per pixel is unknown.
    MissingInputError
        If the slide or a tile file is not there.
    SlideError
        If the slide or a tile file cannot be read.
    TileError
        If the tile files differ in size, are not square, or are smaller than the tile asked for.
    """

    def __init__(
        self,
        section: Section,
        spec: TileSpec,
        *,
        slide: Slide | None = None,
        interpolation: Interpolation = "bicubic",
        stain: StainNormaliser | None = None,
        is_forgiving: bool = False,
    ) -> None:
        self._section = section
        self._stain = stain
        self._is_forgiving = is_forgiving
        self._spec = spec
        self._interpolation: Interpolation = interpolation
        self._native_px = spec.native_px(section.mpp)
        self._slide: Slide | None = None
        self._own_slide: Slide | None = None
        if isinstance(section.tiles, TileFiles):
            self._file_px = common_side_px(section.tiles.paths, is_forgiving=is_forgiving)
            if self._native_px > self._file_px + _ROUNDING_PX:
                message = (
                    f"tiles of {spec.label} need {self._native_px:.1f} px, but the tile files of "
                    f"section {section.name!r} are {self._file_px} px wide; ask for less with --tile-um or "
                    "--tile-px, or give the slide itself in --root"
                )
                raise TileError(message)
        else:
            if slide is None:
                slide = self._own_slide = open_slide(section.tiles.path)
            # What is decoded whole is in memory already.
            self._slide = slide if isinstance(slide, ImageSlide) else CachedSlide(slide)

    def __len__(self) -> int:
        """Count the spots of the section."""
        return len(self._section.ids)

    def read(self, index: int) -> UInt8[Array, "out_px out_px 3"]:
        """Cut the tile of one spot.

        Raises
        ------
        SlideError
            If the slide or the tile file cannot be decoded.
        """
        if self._slide is not None:
            x, y = self._section.xy_px[index]
            return self._cut(self._slide, float(x), float(y))
        assert isinstance(self._section.tiles, TileFiles)  # held by __init__
        with open_slide(self._section.tiles.paths[index]) as tile:
            return self._cut(tile, self._file_px / 2, self._file_px / 2)

    def read_many(self, indices: Spots) -> UInt8[Array, "n out_px out_px 3"]:
        """Cut the tiles of several spots, in the order given; none gives an array of no tiles.

        Raises
        ------
        SlideError
            If the slide or a tile file cannot be decoded.
        """
        out_px = self._spec.out_px
        tiles = np.empty((len(indices), out_px, out_px, 3), dtype=np.uint8)
        for row, index in enumerate(indices):
            tiles[row] = self.read(index)
        return tiles

    def read_batch(self, indices: Spots) -> TileBatch:
        """Cut the tiles of several spots, as `read_many`, and measure their quality.

        Raises
        ------
        SlideError
            If a tile cannot be read, and the reader is not forgiving; names the spot.
        """
        out_px = self._spec.out_px
        pixels = np.zeros((len(indices), out_px, out_px, 3), dtype=np.uint8)
        faults: dict[int, SlideError] = {}
        for row, index in enumerate(indices):
            try:
                pixels[row] = self.read(index)
            except SlideError as fault:
                if not self._is_forgiving:
                    message = (
                        f"the tile of spot {str(self._section.ids[index])!r} of section {self._section.name!r} cannot "
                        f"be read: {fault}; or mark such tiles in the store and go on, with --skip-bad-tiles"
                    )
                    raise SlideError(message) from fault
                faults[row] = fault
        quality = measure_quality(pixels, native_px=self._native_px)
        quality[list(faults)] = 0
        if self._stain is not None:
            pixels = self._stain.apply(pixels)
        return TileBatch(pixels=pixels, quality=quality, faults=faults)

    def close(self) -> None:
        """Let go of the decoded blocks, and close the slide if this reader opened it."""
        if isinstance(self._slide, CachedSlide):
            self._slide.close()
        if self._own_slide is not None:
            self._own_slide.close()

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what this reader opened."""
        self.close()

    def _cut(self, slide: Slide, x: float, y: float) -> UInt8[Array, "out_px out_px 3"]:
        return cut_tile(
            slide,
            x,
            y,
            native_px=self._native_px,
            out_px=self._spec.out_px,
            interpolation=self._interpolation,
        )
