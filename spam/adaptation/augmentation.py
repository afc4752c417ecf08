"""What may change of a tile without changing what it shows: its orientation, and a little of its colour."""

import torch

from spam.typing import Float, Shaped

__all__ = ["augment"]

# Small: how dark a tile is says how many nuclei it shows, and a section's own stain is taken out by standardising.
_GAIN = 0.05  # of each channel, and of the contrast
_SHIFT = 2.55  # of each channel: 1 % of the range


def augment(pixels: Shaped[torch.Tensor, "n 3 px px"]) -> Float[torch.Tensor, "n 3 px px"]:
    """Show each tile in one of the eight symmetries of the square, and jitter its colour.

    Each channel is multiplied by a number from [0.95, 1.05] and shifted by up to 1 % of the range, the contrast about the
    tile's own mean is multiplied by another number from [0.95, 1.05], all drawn evenly; values stay within 0 to 255.
    Random numbers are those of PyTorch's generator of the CPU, on every device.
    """
    n = len(pixels)
    symmetry = torch.randint(8, (n,))
    gain, shift, contrast = (
        1 + _GAIN * _even(n, 3),
        _SHIFT * _even(n, 3),
        1 + _GAIN * _even(n, 1),
    )
    out = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    for code in range(8):
        chosen = torch.nonzero(symmetry == code)[:, 0].to(pixels.device)
        images = pixels[chosen].float().rot90(code % 4, (2, 3))
        out[chosen] = images.flip(3) if code >= 4 else images
    out = out * gain.to(out.device) + shift.to(out.device)
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    return ((out - mean) * contrast.to(out.device) + mean).clamp_(0, 255)


def _even(n: int, channels: int) -> torch.Tensor:
    """Draw from [-1, 1], (n, channels, 1, 1)."""
    return torch.rand(n, channels, 1, 1) * 2 - 1
