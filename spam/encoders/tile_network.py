"""Torch modules of encoders: normalisation and pooling around a backbone, and layers that timm does not have."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard, Pooling


class TileNetwork(nn.Module):
    """Trainable network of an encoder: normalise pixels, run the backbone and pool its output as the card states.

    Raises
    ------
    EncoderError
        If the card names a pooling of tokens or stages that the backbone does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.card, self.backbone = card, backbone
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1) * 255, persistent=False)
        self._n_prefix = int(getattr(backbone, "num_prefix_tokens", -1))
        has_stages = hasattr(backbone, "forward_intermediates")
        if card.pooling != "model" and not (has_stages if card.pooling == "stages" else self._n_prefix >= 0):
            message = f"Encoder {card.name!r} has no output for pooling {card.pooling!r}. Set pooling = 'model' in its card."
            raise EncoderError(message)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features, (n, dim), of RGB pixels in 0..255 of any number type, (n, 3, px, px)."""
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
    """Pool the feature maps of all stages of a convolutional network, each (n, channels, height, width).

    Returns (n, 2 * sum of channels): for each stage the mean of every channel, then its standard deviation (ddof 0).
    Early stages encode colour and texture, late stages shapes; networks trained on photographs keep more of what matters in
    tissue in the early ones (docs/experiments-log.md). These are the style statistics of Huang and Belongie, arXiv:1703.06868.
    """
    parts = [(one.mean(dim=(2, 3)), one.std(dim=(2, 3), correction=0)) for one in maps]
    return torch.cat([statistic for pair in parts for statistic in pair], dim=1)


def pool_tokens(tokens: Tensor, *, n_prefix: int, pooling: Pooling) -> Tensor:
    """Pool the tokens of a vision transformer, (n, n_tokens, width): the class token, their mean, or both concatenated.

    Tokens are the class token, then registers, then patches; the first `n_prefix` are not patches and not in the mean.
    """
    if pooling == "cls":
        return tokens[:, 0]
    mean = tokens[:, n_prefix:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class AttentionPool(nn.Module):
    """Attention pooling of tokens with one learned query (Yu et al., CoCa, arXiv:2205.01917).

    Its normalisation has PyTorch's epsilon of 1e-5, as upstream; timm's layers have 1e-6.

    Parameters
    ----------
    width, dim
        Length of a token and of the result.
    n_heads, has_bias
        Attention heads, and whether the projections have a bias.
    """

    def __init__(self, *, width: int, dim: int, n_heads: int, has_bias: bool) -> None:
        super().__init__()
        self._n_heads = n_heads
        self.query = nn.Parameter(torch.randn(1, dim))
        self.norm_query = nn.LayerNorm(dim)
        self.norm_tokens = nn.LayerNorm(width)
        self.to_query = nn.Linear(dim, dim, bias=has_bias)
        self.to_key_value = nn.Linear(width, 2 * dim, bias=has_bias)
        self.out = nn.Linear(dim, dim, bias=has_bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens, (n, n_tokens, width), into one vector each, (n, dim)."""
        query = self.to_query(self.norm_query(self.query)).expand(len(tokens), 1, -1)
        key, value = self.to_key_value(self.norm_tokens(tokens)).chunk(2, dim=-1)
        heads = (x.unflatten(2, (self._n_heads, -1)).transpose(1, 2) for x in (query, key, value))
        pooled = functional.scaled_dot_product_attention(*heads)  # (n, n_heads, 1, dim / n_heads)
        features: Tensor = self.out(pooled.flatten(1))
        return features


class AttentionPooledNetwork(nn.Module):
    """A vision transformer whose tokens, class token included, are pooled by attention and normalised."""

    num_classes = 0  # as timm marks networks without a classifier

    def __init__(self, trunk: nn.Module, pool: AttentionPool, *, dim: int) -> None:
        super().__init__()
        self.trunk, self.pool, self.norm = trunk, pool, nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features, (n, dim), of normalised images, (n, 3, px, px)."""
        trunk: Any = self.trunk
        features: Tensor = self.norm(self.pool(trunk.forward_features(images)))
        return features


class ChannelwiseNetwork(nn.Module):
    """A vision transformer that sees one channel at a time; its class tokens of red, green and blue are concatenated."""

    num_classes = 0

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        """Compute features, (n, 3 * width), of normalised images, (n, 3, px, px)."""
        trunk: Any = self.trunk
        tokens: Tensor = trunk.forward_features(images.flatten(0, 1).unsqueeze(1))
        return tokens[:, 0].reshape(len(images), -1)


class ConvStem(nn.Module):
    """Convolutional patch embedding, 4 x 4 pixels, in place of Swin's linear one (Wang et al., CTransPath).

    Parameters are those that timm passes to an `embed_layer`: height and width in pixels, length of a token, normalisation.
    """

    def __init__(
        self, *, img_size: tuple[int, int], embed_dim: int, norm_layer: Callable[[int], nn.Module], **_: Any
    ) -> None:
        super().__init__()
        self.grid_size = (img_size[0] // 4, img_size[1] // 4)
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(3, narrow, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, embed_dim, kernel_size=1),
        )
        self.norm = norm_layer(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images, (n, 3, px, px), into a grid of tokens, (n, px / 4, px / 4, embed_dim)."""
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens
