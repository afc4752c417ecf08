"""A backbone with what its card says of it: pixels in, one vector a tile out. It can be trained."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard, Pooling

__all__ = ["TileNetwork", "pool_stages", "pool_tokens", "weights_digest"]


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
        If the card pools tokens or stages that the backbone does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.card, self.backbone = card, backbone
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1) * 255, persistent=False)
        self._n_prefix = int(getattr(backbone, "num_prefix_tokens", -1))
        needed = {"model": None, "stages": "maps of stages"}.get(card.pooling, "tokens")
        is_there = hasattr(backbone, "forward_intermediates") if needed != "tokens" else self._n_prefix >= 0
        if needed and not is_there:
            message = (
                f"encoder {card.name!r} has no {needed} that pooling {card.pooling!r} could work on; "
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
        if self.card.pooling == "stages":
            return pool_stages(model.forward_intermediates(normalised, intermediates_only=True))
        tokens = model.forward_features(normalised)
        return pool_tokens(tokens, n_prefix=self._n_prefix, pooling=self.card.pooling)


def pool_stages(maps: Sequence[Tensor]) -> Tensor:
    """Describe a tile by the statistics of a convolutional network's maps, one stage after the other.

    Early stages tell colour and texture, late ones shapes: a network that was trained on photographs keeps more of what
    matters in tissue in the early ones (docs/experiments.md). Means and standard deviations of channels are the style
    statistics of Huang and Belongie, arXiv:1703.06868.

    Parameters
    ----------
    maps
        Map of each stage, (n, channels, height, width); sizes differ from stage to stage.

    Returns
    -------
    Array (n, 2 * sum of channels): of each stage the means of its channels, then their standard deviations (ddof 0).
    """
    parts = [(one.mean(dim=(2, 3)), one.std(dim=(2, 3), correction=0)) for one in maps]
    return torch.cat([statistic for pair in parts for statistic in pair], dim=1)


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
