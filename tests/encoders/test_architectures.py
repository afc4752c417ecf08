"""Networks of our own making: their sizes, their parts, and what is said where there is none."""

from typing import Any

import pytest
import torch
from dino_truth import attend
from random_weights import randomise
from torch import nn

from spam.encoders.architectures import ARCHITECTURES, create
from spam.encoders.tile_network import AttentionPool, ConvStem
from spam.errors import EncoderError

# Name -> side of the image, length of the features.
SIZES = {
    "spam/phikon_b16": (224, 768),
    "spam/clip_vision_b32": (224, 512),
    "spam/conch_b16": (448, 512),
    "spam/conch_l16": (448, 768),
    "spam/ctranspath": (224, 768),
}


def test_every_architecture_has_its_sizes() -> None:
    assert set(SIZES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", SIZES)
def test_true_size(name: str) -> None:
    px, dim = SIZES[name]
    with torch.device("meta"):
        network: Any = create(name, {}).eval()
        features = network(torch.zeros(2, 3, px, px))
    assert features.shape == (2, dim)
    assert network.num_classes == 0  # nobody looks for a classifier to drop


def test_unknown_architectures_are_told() -> None:
    with pytest.raises(
        EncoderError, match=r"no architecture 'spam/conch'; spam has spam/clip_vision_b32, spam/c"
    ):
        create("spam/conch", {})


def test_epsilons_are_those_of_the_originals() -> None:
    narrow = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    epsilons = {
        name: [m.eps for m in create(name, narrow).modules() if isinstance(m, nn.LayerNorm)]
        for name in ("spam/phikon_b16", "spam/clip_vision_b32", "spam/conch_b16", "spam/conch_l16")
    }
    trunk, pool = [1e-6] * 5, [1e-5] * 3
    assert epsilons == {
        "spam/phikon_b16": [1e-12] * 5,
        "spam/clip_vision_b32": [1e-5] * 6,  # one more, before the first block
        "spam/conch_b16": trunk + pool,
        "spam/conch_l16": trunk + pool,
    }


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("n_tokens", [1, 7])
def test_attention_pool_is_attention(has_bias: bool, n_tokens: int) -> None:
    pool = randomise(AttentionPool(width=5, dim=12, n_heads=3, has_bias=has_bias))
    tokens = torch.randn(2, n_tokens, 5, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        key, value = pool.to_key_value(pool.norm_tokens(tokens)).tensor_split(2, dim=-1)
        query = pool.to_query(pool.norm_query(pool.query)).expand(2, 1, 12)
        expected = pool.out(attend(query, key, value, 3))[:, 0]
        torch.testing.assert_close(pool(tokens), expected)
        # Tokens have no order for it.
        torch.testing.assert_close(pool(tokens.flip(1)), expected)


def test_stem_keeps_the_grid() -> None:
    stem = randomise(ConvStem(img_size=(32, 48), embed_dim=16, norm_layer=nn.LayerNorm))
    with torch.inference_mode():
        tokens = stem(torch.randn(2, 3, 32, 48))
    assert tokens.shape == (2, *stem.grid_size, 16) == (2, 8, 12, 16)


def test_networks_can_be_trained() -> None:
    network = create(
        "spam/conch_l16", {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 3, "dim": 16}
    )
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
