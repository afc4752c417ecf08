"""A built encoder: uint8 tiles in, float32 features out."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard, Pooling
from spam.typing import Array, Float32

__all__ = ["Encoder", "pool_tokens", "weights_digest"]


class Encoder:
    """A frozen encoder on a device.

    Parameters
    ----------
    model
        The network, without a classifier.
    card
        What the network is; `Encoder.embed` prepares tiles and pools tokens by it.
    device
        Where it runs.
    is_amp
        Whether it runs in mixed precision (bfloat16); features are float32 all the same.

    Attributes
    ----------
    card
        The card that the encoder was built from.
    weights_sha256
        Digest of the weights, see `weights_digest`.
    device
        Where it runs.
    """

    def __init__(self, model: nn.Module, card: EncoderCard, *, device: torch.device, is_amp: bool) -> None:
        self.card = card
        self.weights_sha256 = weights_digest(model)
        # Tiles come with the channels last, and convolutions are up to twice as fast that way.
        self._model: Any = model.eval().to(device).to(memory_format=torch.channels_last)
        self.device = device
        self._is_amp = is_amp
        self._mean = torch.tensor(card.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(card.std, device=device).view(3, 1, 1) * 255

    def embed(self, tiles: Array) -> Float32[Array, "n_tiles dim"]:
        """Compute the features of tiles, all in one forward pass; no tiles give no rows.

        Parameters
        ----------
        tiles
            RGB tiles, uint8 (n_tiles, px, px, 3), of the side that the card asks for.

        Raises
        ------
        EncoderError
            If the tiles have another size or type, or the features are not of the length that the card
            states.
        """
        px = self.card.input_px
        if tiles.dtype != np.uint8 or tiles.shape[1:] != (px, px, 3):
            message = (
                f"encoder {self.card.name!r} takes uint8 tiles of {px} x {px} RGB pixels, not "
                f"{tiles.dtype} of shape {tiles.shape}; cut the tiles with TileSpec(out_px={px})"
            )
            raise EncoderError(message)
        if len(tiles) == 0:
            return np.empty((0, self.card.dim), dtype=np.float32)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_amp):
            pixels = torch.tensor(tiles, device=self.device).permute(0, 3, 1, 2).float()
            features = self._features((pixels - self._mean) / self._std)
        if features.shape != (len(tiles), self.card.dim):
            message = (
                f"encoder {self.card.name!r} gave features of shape {tuple(features.shape)} for "
                f"{len(tiles)} tiles, expected {self.card.dim} numbers a tile as its card says; "
                "correct dim or pooling of the card"
            )
            raise EncoderError(message)
        return features.float().cpu().numpy()

    def _features(self, pixels: Tensor) -> Tensor:
        if self.card.pooling == "model":
            features: Tensor = self._model(pixels)
            return features
        n_prefix = getattr(self._model, "num_prefix_tokens", None)
        if n_prefix is None:
            message = (
                f"encoder {self.card.name!r} has no tokens that pooling {self.card.pooling!r} could work on; "
                "set pooling = 'model' in its card"
            )
            raise EncoderError(message)
        return pool_tokens(self._model.forward_features(pixels), n_prefix=n_prefix, pooling=self.card.pooling)


def pool_tokens(tokens: Tensor, *, n_prefix: int, pooling: Pooling) -> Tensor:
    """Pool the tokens of a vision transformer, (n, n_tokens, width), into one vector a tile.

    Parameters
    ----------
    tokens
        The class token first, then registers if there are any, then one token a patch.
    n_prefix
        Tokens that are no patches: the class token and the registers.
    pooling
        ``cls``: the class token; ``mean``: the mean of the patch tokens; ``cls+mean``: both, one after the
        other.
    """
    if pooling == "cls":
        return tokens[:, 0]
    mean = tokens[:, n_prefix:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)


def weights_digest(model: nn.Module) -> str:
    """Hash names, types, shapes and bytes of all weights, in the order of their names (SHA-256)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
