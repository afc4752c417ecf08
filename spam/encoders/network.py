"""A backbone with what its card says of it: pixels in, one vector a tile out. It can be trained."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard, Pooling

__all__ = ["TileNetwork", "pool_tokens", "weights_digest"]


class TileNetwork(nn.Module):
    """Normalises pixels, runs the backbone and pools its tokens, all as the card says.

    Parameters
    ----------
    backbone
        The network, without a classifier.
    card
        What it is.

    Raises
    ------
    EncoderError
        If the card pools tokens that the backbone does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.card, self.backbone = card, backbone
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1) * 255, persistent=False)
        self._n_prefix = int(getattr(backbone, "num_prefix_tokens", -1))
        if card.pooling != "model" and self._n_prefix < 0:
            message = (
                f"encoder {card.name!r} has no tokens that pooling {card.pooling!r} could work on; "
                "set pooling = 'model' in its card"
            )
            raise EncoderError(message)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features, (n, dim), of RGB pixels from 0 to 255, (n, 3, px, px), of any number type."""
        model: Any = self.backbone
        normalised = (pixels.float() - self.mean) / self.std
        if self.card.pooling == "model":
            features: Tensor = model(normalised)
            return features
        tokens = model.forward_features(normalised)
        return pool_tokens(tokens, n_prefix=self._n_prefix, pooling=self.card.pooling)


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
