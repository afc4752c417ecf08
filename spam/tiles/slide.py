"""The interface of every slide: RGB regions of any pyramid level, and the µm per pixel that the file states."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import simplejpeg

from spam.errors import SlideError
from spam.memory import available_bytes
from spam.sections.coordinates import PLAUSIBLE_MPP
from spam.typing import Array, UInt8

_NON_SQUARE = 0.02  # relative difference of the two axes
_SMALL_BYTES = 1 << 28  # never compared with the memory, because a section may have 100,000 tile files
_MOST_COMPRESSED = 100_000  # a blank JPEG 2000 tile has about 30,000 times its size, deflate reaches 1032
# OME-XML and OME-Zarr
_UNITS = {1e-3: "nm nanometer", 1.0: "µm \u03bcm um micrometer", 1e3: "mm millimeter", 1e4: "cm centimeter"}
_UM_PER_UNIT = {unit: um for um, units in _UNITS.items() for unit in units.split()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PixelSize:
    """Pixel size of a slide as its file states it.

    Attributes
    ----------
    mpp
        µm per full-resolution pixel; None if the file states none, or an implausible one.
    note
        If `mpp` is None, what the file states instead, as the end of a sentence about the slide; else None.
    """

    mpp: float | None
    note: str | None


UNSTATED = PixelSize(mpp=None, note="states no pixel size")


def pixel_size(x: float, y: float, *, stated: str, units: Sequence[str | None] = ("µm", "µm")) -> PixelSize:
    """Take the mean of both axes in µm, unless a unit is not a length, a size is not 0.05 to 20 µm, or pixels are not square.

    Software without a pixel size writes the resolution of a screen or a printer. `stated` quotes the file.
    """
    um_x, um_y = (_UM_PER_UNIT.get(unit or "") for unit in units)
    if um_x is None or um_y is None:
        return PixelSize(mpp=None, note=f"states its pixel size in a unit that is not a length ({stated})")
    (low, high), mpp_x, mpp_y = PLAUSIBLE_MPP, x * um_x, y * um_y
    if not low <= mpp_x <= high or not low <= mpp_y <= high:
        note = f"states {mpp_x:.4g} µm per pixel ({stated}), but microscopes have {low:g} to {high:g}"
        return PixelSize(mpp=None, note=note)
    if abs(mpp_x - mpp_y) > _NON_SQUARE * mpp_x:
        note = f"states pixels of {mpp_x:.4g} x {mpp_y:.4g} µm ({stated}), which are not square"
        return PixelSize(mpp=None, note=note)
    return PixelSize(mpp=(mpp_x + mpp_y) / 2, note=None)


class Slide(ABC):
    """An open slide; close it, or use it as a context manager. Threads may read at the same time.

    Attributes
    ----------
    kind
        Name of the format, for messages.
    unreadable
        Exceptions of the underlying libraries on damaged files.
    path
        File that it was opened from.
    level_sizes
        (width, height) of each pyramid level in pixels; level 0 is the full resolution.
    level_downsamples
        Full-resolution pixels per pixel of each level, the mean of both axes; ``level_downsamples[0]`` is 1.
    block_sizes
        (width, height) of the compressed blocks of each level, which are decoded as a whole. Blocks begin at the upper
        left corner; those at the right and lower border may be cut off.
    mpp
        µm per full-resolution pixel as the file states it, or None.
    mpp_note
        If `mpp` is None, what the file states instead, as the end of a sentence about the slide.
    notes
        What the user should know of how the file is read.
    orientation
        EXIF orientation of the stored pixels; 1 is upright.
    damage
        What is missing as far as the header shows, as the end of a sentence about the slide; else None.
    """

    kind: ClassVar[str] = "slide"
    unreadable: ClassVar[tuple[type[Exception], ...]] = ()
    orientation: int = 1
    damage: str | None = None

    def __init__(
        self,
        path: Path,
        *,
        level_sizes: tuple[tuple[int, int], ...],
        block_sizes: tuple[tuple[int, int], ...],
        size: PixelSize = UNSTATED,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.notes = notes
        self.level_sizes = level_sizes
        self.block_sizes = block_sizes
        self.mpp, self.mpp_note = size.mpp, size.note
        self.level_downsamples = tuple((self.width / w + self.height / h) / 2 for w, h in level_sizes)

    @property
    def width(self) -> int:
        """Width at full resolution, in pixels."""
        return self.level_sizes[0][0]

    @property
    def height(self) -> int:
        """Height at full resolution, in pixels."""
        return self.level_sizes[0][1]

    def read(self, x: int, y: int, w: int, h: int, level: int = 0) -> UInt8[Array, "h w 3"]:
        """Read a region of RGB pixels; outside the slide its edge is repeated.

        Parameters
        ----------
        x, y
            Column and row of the upper left pixel, in pixels **of this level**; may be negative.
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
        try:
            inside = self._read_inside(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1, level)
        except self.unreadable as error:
            where = f"at ({left}, {top}) of level {level}: {error}"
            message = f"Slide {str(self.path)!r} cannot be decoded {where}. Check that it was copied whole."
            raise SlideError(message) from error
        return inside if inside.shape[:2] == (h, w) else inside[np.ix_(rows - top, columns - left)]

    @abstractmethod
    def _read_inside(self, x: int, y: int, w: int, h: int, level: int) -> UInt8[Array, "h w 3"]:
        """Read a region that lies inside the level."""

    def release(self) -> None:  # noqa: B027
        """Free pixels that are decoded again when they are read next; most slides keep none."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        """Return the slide itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the slide."""
        self.close()


def require_memory(path: Path, n_bytes: float, what: str) -> None:
    """Raise if decoding would need more memory than is available.

    Raises
    ------
    SlideError
        Names what needs it, and the command that makes blocks of the slide.
    """
    if n_bytes > _SMALL_BYTES and n_bytes > (available := available_bytes()):
        needed = f"{what} need {n_bytes / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available"
        advice = "Convert it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
        message = f"Slide {str(path)!r}: {needed}. {advice}"
        raise SlideError(message)


def require_stored(n_bytes: float, n_stored: int, what: str) -> None:
    """Raise if so few bytes cannot hold what a header claims.

    Raises
    ------
    ValueError
        Names both sizes.
    """
    if n_bytes > _MOST_COMPRESSED * n_stored:
        message = f"{what} of {n_bytes:.3g} bytes cannot be stored in {n_stored}"
        raise ValueError(message)


def blocks_of(
    x: int, y: int, w: int, h: int, size: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Yield column and row of each block that a region touches, and its place (rows, columns) in region and in block."""
    width, height = size
    for row in range(y // height, (y + h - 1) // height + 1):
        for column in range(x // width, (x + w - 1) // width + 1):
            left, top = column * width, row * height
            x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, left + width), min(y + h, top + height)
            in_region = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
            yield column, row, in_region, (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def to_rgb(pixels: UInt8[Array, "h w c"]) -> UInt8[Array, "h w 3"]:
    """Convert grey (1 channel), RGB (3) or RGBA (4, composited over white) to RGB."""
    if pixels.shape[2] < 4:
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(colour)
    # Rounded to nearest in integers; 255 * 255 needs more than 16 signed bits.
    wide = alpha.astype(np.uint32)
    return ((colour * wide + 255 * (255 - wide) + 127) // 255).astype(np.uint8)


def decode_jpeg(data: bytes) -> UInt8[Array, "h w c"]:
    """Decode a grey (1 channel) or colour (3) JPEG strictly.

    If data is missing, libjpeg warns and fills the rest with grey; Pillow and imagecodecs hide the warning. simplejpeg
    uses the same library and turns its warnings into errors.

    Raises
    ------
    ValueError
        If the data is not an 8-bit JPEG, ends too early or is damaged.
    """
    colourspace = simplejpeg.decode_jpeg_header(data)[2]
    wanted = "GRAY" if colourspace == "Gray" else "RGB"
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace=wanted))
