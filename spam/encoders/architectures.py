"""Networks that timm has no name for, built of its parts: ``spam/<name>`` in the cards."""

import functools
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers.norm import LayerNorm
from torch import Tensor, nn
from torch.nn import functional

from spam.errors import EncoderError

__all__ = ["AttentionPool", "AttentionPooledNetwork", "ConvStem", "create"]


def create(architecture: str, kwargs: dict[str, Any]) -> nn.Module:
    """Build a network with random weights and without a classifier.

    Parameters
    ----------
    architecture
        One of `ARCHITECTURES`.
    kwargs
        What differs from its usual size: arguments of timm's transformer in it, and those that its builder has.

    Raises
    ------
    EncoderError
        If there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        message = (
            f"there is no architecture {architecture!r}; spam has {', '.join(sorted(ARCHITECTURES))}, all others are "
            "timm's own: correct the architecture of the card"
        )
        raise EncoderError(message)
    return ARCHITECTURES[architecture](**kwargs)


class AttentionPool(nn.Module):
    """Pools tokens by the attention that one learned query pays them (Yu et al., CoCa, arXiv:2205.01917).

    Its normalisation has PyTorch's epsilon of 1e-5, as upstream's has, where timm's layers have 1e-6.

    Parameters
    ----------
    width
        Length of a token.
    dim
        Length of the result.
    n_heads
        Heads of the attention.
    has_bias
        Whether its projections have one.
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
        pooled = functional.scaled_dot_product_attention(
            self._in_heads(query), self._in_heads(key), self._in_heads(value)
        )
        features: Tensor = self.out(pooled.flatten(1))  # (n, n_heads, 1, dim / n_heads) before
        return features

    def _in_heads(self, x: Tensor) -> Tensor:
        heads = x.reshape(len(x), x.shape[1], self._n_heads, -1)
        return heads.transpose(1, 2)  # (n, n_heads, n_tokens, dim / n_heads)


class AttentionPooledNetwork(nn.Module):
    """A vision transformer whose tokens, the class token among them, are pooled by attention and normalised."""

    num_classes = 0  # timm's way to say that there is no classifier

    def __init__(self, trunk: nn.Module, pool: AttentionPool, *, dim: int) -> None:
        super().__init__()
        self.trunk, self.pool, self.norm = trunk, pool, nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features, (n, dim), of normalised images, (n, 3, px, px)."""
        trunk: Any = self.trunk
        features: Tensor = self.norm(self.pool(trunk.forward_features(images)))
        return features


class ConvStem(nn.Module):
    """Patches of 4 x 4 pixels by convolutions, in place of Swin's linear map (Wang et al., CTransPath).

    Parameters
    ----------
    img_size, embed_dim
        Height and width of the image in pixels, and length of a token.
    norm_layer
        Normalisation of the tokens.
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
        """Turn images, (n, 3, px, px), into tokens on their grid, (n, px / 4, px / 4, embed_dim)."""
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


def _phikon_b16(**kwargs: Any) -> nn.Module:
    return _timm("vit_base_patch16_224", norm_layer=functools.partial(LayerNorm, eps=1e-12), **kwargs)


def _clip_vision_b32(*, dim: int = 512, **kwargs: Any) -> nn.Module:
    model: Any = _timm("vit_base_patch32_clip_quickgelu_224", **kwargs)
    model.head = nn.Linear(model.embed_dim, dim, bias=False)  # timm's own has a bias
    network: nn.Module = model
    return network


def _conch_b16(*, dim: int = 512, n_pool_heads: int = 8, **kwargs: Any) -> nn.Module:
    trunk: Any = _timm("vit_base_patch16_224", **{"img_size": 448, **kwargs})
    pool = AttentionPool(width=trunk.embed_dim, dim=dim, n_heads=n_pool_heads, has_bias=True)
    return AttentionPooledNetwork(trunk, pool, dim=dim)


def _conch_l16(*, dim: int = 768, n_pool_heads: int = 8, **kwargs: Any) -> nn.Module:
    trunk: Any = _timm("vit_large_patch16_224", **{"img_size": 448, "init_values": 1e-6, **kwargs})
    pool = AttentionPool(width=trunk.embed_dim, dim=dim, n_heads=n_pool_heads, has_bias=False)
    return AttentionPooledNetwork(trunk, pool, dim=dim)


def _ctranspath(**kwargs: Any) -> nn.Module:
    return _timm("swin_tiny_patch4_window7_224", embed_layer=ConvStem, **kwargs)


def _timm(name: str, **kwargs: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=0, **kwargs)
    return model


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "spam/phikon_b16": _phikon_b16,
    "spam/clip_vision_b32": _clip_vision_b32,
    "spam/conch_b16": _conch_b16,
    "spam/conch_l16": _conch_l16,
    "spam/ctranspath": _ctranspath,
}
