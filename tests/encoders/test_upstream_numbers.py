"""Cards against what their makers state: numbers gathered by hand from model cards, papers and public registries."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn

from spam.encoders import encoder_card, list_encoders
from spam.encoders.tile_network import TileNetwork
from spam.encoders.timm_models import create_network
from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HISTAI = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))


@dataclasses.dataclass(frozen=True)
class Upstream:
    """What is published of a model: length of a feature, image, statistics, tokens, and millions of weights or bytes.

    `n_bytes` is the size of the published file where it is public: four bytes a weight, and a header.
    """

    dim: int
    px: int
    stats: tuple[tuple[float, ...], tuple[float, ...]]
    interpolation: str
    n_registers: int | None  # None: no tokens of its own to pool
    millions: float
    n_bytes: int | None = None


# Sources, all read in November 2026. T: TRIDENT (github.com/mahmoodlab/TRIDENT, patch_encoder_models/load.py and its
# table of encoders); S: slide2vec (github.com/clemsgrs/slide2vec, encoders/models); L: lazyslide-models
# (github.com/rendeirolab/lazyslide-models, vision and multimodal); R: raw2features (github.com/CraigMyles/raw2features,
# embedders/registry.yaml, which cites the pages of the models). The millions of weights are those of L unless another
# source is named.
UPSTREAM = {
    # ml-illustrated/EfficientNet-Lite-PyTorch: README (mean and std 127 of 255), 4.7 M with a classifier of 1.281 M
    "efficientnet_lite0": Upstream(1280, 224, HALF, "bicubic", None, 3.37),
    # Its five stages have 16, 24, 40, 112 and 320 channels (table 1 of EfficientNet, arXiv:1905.11946).
    "efficientnet_lite0_stages": Upstream(1024, 224, HALF, "bicubic", None, 3.37),
    "uni_v1": Upstream(1024, 224, IMAGENET, "bilinear", 0, 303.4),  # T, R; UNI's page: ViT-L/16, 0.3 B
    "uni2_h": Upstream(1536, 224, IMAGENET, "bilinear", 8, 681.0),  # T, R; UNI2-h's page: 681 M
    "conch_v1": Upstream(
        512, 448, OPENAI, "bicubic", None, 87.6
    ),  # CONCH: factory.py, conch_ViT-B-16.json; T
    "conch_v1_5": Upstream(768, 448, IMAGENET, "bilinear", None, 306.7),  # T, R (ViT-L/16 and attention pool)
    "virchow": Upstream(2560, 224, IMAGENET, "bicubic", 0, 631.2),  # T, S, R; page: 632 M, 257 tokens
    "virchow2": Upstream(
        2560, 224, IMAGENET, "bicubic", 4, 631.2
    ),  # T, S, R; page: 261 tokens, 1 to 4 registers
    # T (kwargs of its checkpoint), R; size of pytorch_model.bin as other users pin it
    "gigapath": Upstream(1536, 224, IMAGENET, "bicubic", 0, 1135.0, 4_540_023_137),
    "hoptimus0": Upstream(1536, 224, BIOPTIMUS, "bicubic", 4, 1134.8, 4_539_305_018),  # S, R; size likewise
    "hoptimus1": Upstream(1536, 224, BIOPTIMUS, "bicubic", 4, 1134.8, 4_539_151_464),  # S, R; size likewise
    "h0_mini": Upstream(768, 224, BIOPTIMUS, "bicubic", 4, 85.7, 342_974_184),  # R, L; size likewise
    "phikon": Upstream(768, 224, IMAGENET, "bilinear", 0, 85.8),  # T, R, L
    "phikon_v2": Upstream(1024, 224, IMAGENET, "bicubic", 0, 303.4),  # R (preprocessor_config.json), L
    "plip": Upstream(512, 224, OPENAI, "bicubic", 0, 87.8),  # R (preprocessor_config.json), L
    # T, S, R; the images' branch of BEiT-3 large, counted by hand: 24 layers of 12 606 464, 787 456 for the patches,
    # 577 positions, a class token, a norm
    "musk": Upstream(1024, 384, HALF, "bicubic", 0, 303.94),
    "ctranspath": Upstream(768, 224, IMAGENET, "bilinear", None, 27.5),  # T, L; page of its copy: 27.5 M
    "hibou_b": Upstream(768, 224, HISTAI, "bicubic", 4, 85.7),  # S, L; HistAI/hibou: models/__init__.py
    "hibou_l": Upstream(1024, 224, HISTAI, "bicubic", 4, 303.7),  # S, L, T
    "midnight": Upstream(3072, 224, HALF, "bilinear", 0, 1135.0),  # S, R; L: 1.14 B
    "openmidnight": Upstream(1536, 224, IMAGENET, "bilinear", 4, 1134.8),  # T, L: dinov2_vitg14_reg, 1.1 B
    "kaiko_s8": Upstream(
        384, 224, HALF, "bilinear", 0, 21.7
    ),  # T; kaiko-ai/towards_large_pathology_fms: hubconf.py
    "kaiko_s16": Upstream(384, 224, HALF, "bilinear", 0, 21.7),
    "kaiko_b8": Upstream(768, 224, HALF, "bilinear", 0, 85.8),
    "kaiko_b16": Upstream(768, 224, HALF, "bilinear", 0, 85.8),
    "kaiko_l14": Upstream(1024, 224, HALF, "bilinear", 4, 304.4),
    "lunit_s8": Upstream(
        384, 224, LUNIT, "bicubic", 0, 21.7
    ),  # lunit-io/benchmark-ssl-pathology: README; S, L
    "lunit_s16": Upstream(384, 224, LUNIT, "bicubic", 0, 21.7),
    "gpfm": Upstream(1024, 224, IMAGENET, "bicubic", 0, 303.2),  # S, T, R; L: 303 M
    "resnet50": Upstream(
        2048, 224, IMAGENET, "bilinear", None, 23.5
    ),  # torchvision: ResNet50_Weights, 25.6 M - fc
    "dinov2_s": Upstream(384, 224, IMAGENET, "bicubic", 0, 22.1),  # facebookresearch/dinov2: README, 21 M
    "dinov2_b": Upstream(768, 224, IMAGENET, "bicubic", 0, 86.6),
    "dinov2_l": Upstream(1024, 224, IMAGENET, "bicubic", 0, 304.4),
}


@functools.cache
def on_paper(card: EncoderCard) -> nn.Module:
    """Build the network of a card at its true size, without any memory for its weights."""
    with torch.device("meta"):
        return create_network(card)


def two_images(px: int) -> Tensor:
    """Make two images of noise, a dark one and a bright one, in bytes."""
    noise = torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(3))
    return noise * torch.tensor([60.0, 255.0]).reshape(2, 1, 1, 1)


def test_every_encoder_has_its_numbers() -> None:
    assert set(UPSTREAM) == {card.name for card in list_encoders()}


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_card_says_what_its_makers_say(name: str) -> None:
    card, upstream = encoder_card(name), UPSTREAM[name]
    assert (card.dim, card.input_px, card.interpolation) == (
        upstream.dim,
        upstream.px,
        upstream.interpolation,
    )
    assert (card.mean, card.std) == upstream.stats
    assert card.n_registers == (upstream.n_registers or 0)


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_network_of_true_size_has_the_published_weights(name: str) -> None:
    card, upstream = encoder_card(name), UPSTREAM[name]
    model: Any = on_paper(card)
    n_weights = sum(weight.numel() for weight in model.parameters())
    assert n_weights / 1e6 == pytest.approx(upstream.millions, rel=2e-3, abs=0.06)
    if upstream.n_bytes is not None:
        # Names and shapes of some hundred weights take the rest: 200 bytes each at most, a pickle twice that.
        assert 0 < upstream.n_bytes - 4 * n_weights < 400 * len(model.state_dict())
    if upstream.n_registers is not None:
        assert model.num_prefix_tokens == 1 + upstream.n_registers


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_network_of_true_size_gives_features_of_the_stated_length(name: str) -> None:
    card = encoder_card(name)
    with torch.device("meta"), torch.no_grad():
        features = TileNetwork(on_paper(card), card)(torch.empty(2, 3, card.input_px, card.input_px))
    assert features.shape == (2, UPSTREAM[name].dim)


# Which tokens make the feature: read off by pooling the tokens of a small twin in this file.
POOLED = {
    "uni_v1": "cls",
    "uni2_h": "cls",
    "virchow": "cls+mean",
    "virchow2": "cls+mean",
    "gigapath": "cls",
    "hoptimus0": "cls",
    "hoptimus1": "cls",
    "h0_mini": "cls",
    "phikon": "cls",
    "phikon_v2": "cls",
    "hibou_b": "cls",
    "hibou_l": "cls",
    "midnight": "cls+mean",
    "openmidnight": "cls",
    "kaiko_s8": "cls",
    "kaiko_s16": "cls",
    "kaiko_b8": "cls",
    "kaiko_b16": "cls",
    "kaiko_l14": "cls",
    "lunit_s8": "cls",
    "lunit_s16": "cls",
    "gpfm": "cls",
    "musk": "cls",
    "dinov2_s": "cls",
    "dinov2_b": "cls",
    "dinov2_l": "cls",
}


@pytest.mark.parametrize("name", POOLED)
def test_a_small_twin_pools_the_tokens_that_its_makers_pool(name: str) -> None:
    card = encoder_card(name)
    twin: Any = randomise(create_network(card, embed_dim=24, depth=2, num_heads=3))
    pixels = two_images(card.input_px)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in UPSTREAM[name].stats)
    with torch.inference_mode():
        tokens = twin.forward_features((pixels / 255 - mean) / std)
        features = TileNetwork(twin, card)(pixels)
    n_registers = UPSTREAM[name].n_registers
    assert n_registers is not None
    patches = tokens[:, 1 + n_registers :]
    side = card.input_px // twin.patch_embed.patch_size[0]
    assert patches.shape == (2, side**2, 24)
    expected = tokens[:, 0]
    if POOLED[name] == "cls+mean":
        expected = torch.cat([expected, sum(patches[:, i] for i in range(side**2)) / side**2], dim=1)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sizes", "dim"),
    [
        ("efficientnet_lite0", {}, 1280),  # small enough
        ("resnet50", {"layers": (1, 1, 1, 1), "channels": (4, 6, 8, 10)}, 40),
        ("ctranspath", {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}, 192),
        ("conch_v1", {"embed_dim": 24, "depth": 2, "num_heads": 3, "dim": 16}, 16),
        ("conch_v1_5", {"embed_dim": 24, "depth": 2, "num_heads": 3, "dim": 16}, 16),
        ("plip", {"embed_dim": 24, "depth": 2, "num_heads": 3, "dim": 17}, 17),
    ],
)
def test_a_small_twin_gives_what_the_network_itself_returns(
    name: str, sizes: dict[str, Any], dim: int
) -> None:
    card = encoder_card(name)
    twin = randomise(create_network(card, **sizes))
    pixels = two_images(card.input_px)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in UPSTREAM[name].stats)
    with torch.inference_mode():
        features = TileNetwork(twin, card)(pixels)
        expected = twin((pixels / 255 - mean) / std)
    assert features.shape == (2, dim)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


def test_all_encoders_have_a_twin() -> None:
    others = {"efficientnet_lite0", "resnet50", "ctranspath", "conch_v1", "conch_v1_5", "plip"}
    elsewhere = {"efficientnet_lite0_stages"}  # test_encoder.py
    assert {*POOLED, *others, *elsewhere} == set(UPSTREAM)


def test_another_number_of_registers_is_refused() -> None:
    card = dataclasses.replace(encoder_card("virchow2"), n_registers=0)
    with pytest.raises(
        EncoderError, match=r"'virchow2' was built with 4 register tokens, and its card says 0"
    ):
        on_paper(card)


def test_a_card_without_an_architecture_is_told() -> None:
    card = dataclasses.replace(encoder_card("virchow2"), architecture=None)
    with pytest.raises(
        EncoderError, match=r"'virchow2' names no architecture to build.*'hf-hub:paige-ai/Virchow2'"
    ):
        on_paper(card)
    card = dataclasses.replace(card, architecture="vit_huge_patch14_225")
    with pytest.raises(EncoderError, match=r"cannot be built.*vit_huge_patch14_225"):
        on_paper(card)
