"""From whatever a file holds to 8-bit RGB, the one kind of pixel that the rest of SPAM knows."""

import numpy as np
from PIL import Image

from spam.errors import SlideError
from spam.typing import Array, Shaped, UInt8

__all__ = ["rgb_from_array", "rgb_from_image"]

_N_CHANNELS = (1, 3, 4)  # grey, RGB, RGB with alpha


def rgb_from_array(pixels: Shaped[Array, "h w c"], *, name: str) -> UInt8[Array, "h w 3"]:
    """Make RGB of grey (1 channel), RGB (3) or RGBA (4, composited over white).

    Parameters
    ----------
    pixels
        Image of 8 bits per channel.
    name
        File that it came from, for the error.

    Raises
    ------
    SlideError
        If the pixels are not 8-bit, or the number of channels is none of 1, 3 and 4.
    """
    n_channels = pixels.shape[2]
    if pixels.dtype != np.uint8 or n_channels not in _N_CHANNELS:
        message = (
            f"{name!r} has {n_channels} channels of {pixels.dtype}; an H&E image has 8-bit (uint8) grey, RGB "
            "or RGBA pixels, and how to map others is not for us to guess; export it as 8-bit RGB, "
            "e.g. with `vips colourspace IN OUT.tif srgb`"
        )
        raise SlideError(message)
    if n_channels == 1:
        return np.repeat(pixels, 3, axis=2)
    if n_channels == 3:
        return pixels
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(colour)
    # Rounded to nearest in integers; 255 * 255 needs more than 16 signed bits.
    wide = alpha.astype(np.uint32)
    return ((colour * wide + 255 * (255 - wide) + 127) // 255).astype(np.uint8)


def rgb_from_image(image: Image.Image) -> UInt8[Array, "h w 3"]:
    """Make RGB of a Pillow image of an 8-bit mode; transparency is composited over white."""
    is_see_through = "A" in image.mode or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if is_see_through else "RGB"))
    return rgb_from_array(pixels, name=str(getattr(image, "filename", "image")))
