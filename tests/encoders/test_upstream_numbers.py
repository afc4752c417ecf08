"""Cards against what their makers state: numbers gathered by hand from model cards, papers and public registries."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import published_shapes
import pytest
import timm
import torch
from beit3_truth import Musk
from conch_truth import Conch, ConchTower, ConchV15
from dino_truth import DinoTransformer
from genbio_truth import GenBio
from random_weights import randomise
from swin_truth import CTransPath
from torch import Tensor, nn

from spam.encoders import encoder_card, list_encoders
from spam.encoders.published_weights import to_timm
from spam.encoders.tile_network import TileNetwork
from spam.encoders.timm_models import create_network
from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HISTAI = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
GENBIO = ((0.697, 0.575, 0.728), (0.188, 0.240, 0.187))
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
    n_registers: int | None  # None: it has no tokens to pool
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
    # CONCH: factory.py, conch_ViT-B-16.json; T
    "conch_v1": Upstream(512, 448, OPENAI, "bicubic", None, 87.6),
    "conch_v1_5": Upstream(768, 448, IMAGENET, "bilinear", None, 306.7),  # T, R (ViT-L/16 and attention pool)
    "virchow": Upstream(2560, 224, IMAGENET, "bicubic", 0, 631.2),  # T, S, R; page: 632 M, 257 tokens
    # T, S, R; page: 261 tokens, 1 to 4 registers
    "virchow2": Upstream(2560, 224, IMAGENET, "bicubic", 4, 631.2),
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
    # T; kaiko-ai/towards_large_pathology_fms: hubconf.py
    "kaiko_s8": Upstream(384, 224, HALF, "bilinear", 0, 21.7),
    "kaiko_s16": Upstream(384, 224, HALF, "bilinear", 0, 21.7),
    "kaiko_b8": Upstream(768, 224, HALF, "bilinear", 0, 85.8),
    "kaiko_b16": Upstream(768, 224, HALF, "bilinear", 0, 85.8),
    "kaiko_l14": Upstream(1024, 224, HALF, "bilinear", 4, 304.4),
    # lunit-io/benchmark-ssl-pathology: README; S, L
    "lunit_s8": Upstream(384, 224, LUNIT, "bicubic", 0, 21.7),
    "lunit_s16": Upstream(384, 224, LUNIT, "bicubic", 0, 21.7),
    "gpfm": Upstream(1024, 224, IMAGENET, "bicubic", 0, 303.2),  # S, T, R; L: 303 M
    # T, S; genbio-ai/genbio-pathfm: genbio_pathfm/model.py and README (1.1 B; PIL's bilinear filter). Counted by hand:
    # 40 layers of 28 332 032, 257 * 1536 for the patches, 5 * 1536 for class token and registers, a norm
    "genbio_pathfm": Upstream(4608, 224, GENBIO, "bilinear", None, 1133.69),
    # torchvision: ResNet50_Weights, 25.6 M - fc
    "resnet50": Upstream(2048, 224, IMAGENET, "bilinear", None, 23.5),
    "dinov2_s": Upstream(384, 224, IMAGENET, "bicubic", 0, 22.1),  # facebookresearch/dinov2: README, 21 M
    "dinov2_b": Upstream(768, 224, IMAGENET, "bicubic", 0, 86.6),
    "dinov2_l": Upstream(1024, 224, IMAGENET, "bicubic", 0, 304.4),
    # facebookresearch/dinov3: README (21 M, 86 M and 300 M; four registers), transforms of the pages of timm. Counted by hand:
    # 12 width^2 + 12 width a layer, 769 width for the patches, 5 width for class token and registers, a norm.
    "dinov3_s": Upstream(384, 224, IMAGENET, "bicubic", 4, 21.587),
    "dinov3_b": Upstream(768, 224, IMAGENET, "bicubic", 4, 85.641),
    "dinov3_l": Upstream(1024, 224, IMAGENET, "bicubic", 4, 303.079, 1_212_347_640),  # size as others pin it
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


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_network_of_true_size_has_the_published_weights_and_dim(name: str) -> None:
    card, upstream = encoder_card(name), UPSTREAM[name]
    model: Any = on_paper(card)
    n_weights = sum(weight.numel() for weight in model.parameters())
    assert n_weights / 1e6 == pytest.approx(upstream.millions, rel=2e-3, abs=0.06)
    if upstream.n_bytes is not None:
        # Names and shapes of some hundred weights take the rest: 200 bytes each at most, a pickle twice that.
        assert 0 < upstream.n_bytes - 4 * n_weights < 400 * len(model.state_dict())
    if upstream.n_registers is not None:
        assert model.num_prefix_tokens == 1 + upstream.n_registers
    with torch.device("meta"), torch.no_grad():
        features = TileNetwork(model, card)(torch.empty(2, 3, card.input_px, card.input_px))
    assert features.shape == (2, upstream.dim)


NOT_TOKENS = {  # networks whose own output is the feature, or its stages
    "efficientnet_lite0", "efficientnet_lite0_stages", "resnet50", "ctranspath", "conch_v1", "conch_v1_5", "plip",
    "genbio_pathfm",
}  # fmt: skip
# class token and mean of the patches; all others: class token
WITH_MEAN = {"virchow", "virchow2", "midnight"}


@pytest.mark.parametrize("name", sorted(UPSTREAM.keys() - NOT_TOKENS))
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
    if name in WITH_MEAN:
        expected = torch.cat([expected, sum(patches[:, i] for i in range(side**2)) / side**2], dim=1)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"architecture": "vit_huge_patch14_225"}, "vit_huge_patch14_225"),
        ({"pooling": "stages", "architecture": "vit_tiny_patch16_224", "kwargs": ()}, None),
    ],
)
def test_a_card_that_cannot_be_built_is_named(changed: dict[str, Any], words: str | None) -> None:
    card = dataclasses.replace(encoder_card("virchow2"), **changed)
    if words is None:
        with pytest.raises(EncoderError, match=r"'virchow2'.*'stages'"):
            TileNetwork(nn.Flatten(), card)
        return
    with pytest.raises(EncoderError, match=rf"'virchow2'.*{words}"):
        on_paper(card)


TRUE_SIZES: dict[str, tuple[Callable[[], dict[str, Any]], int | None]] = {
    "phikon": (
        lambda: published_shapes.vit(
            width=768, depth=12, hidden=3072, patch_px=16, n_patches=196, has_pooler=False
        ),
        None,
    ),
    "phikon_v2": (
        lambda: published_shapes.dinov2(width=1024, depth=24, hidden=4096, patch_px=16, n_patches=196),
        439,
    ),
    "midnight": (
        lambda: published_shapes.dinov2(
            width=1536, depth=40, hidden=4096, patch_px=14, n_patches=256, is_gated=True
        ),
        727,
    ),
    "hibou_b": (
        lambda: published_shapes.dinov2(
            width=768, depth=12, hidden=2048, patch_px=14, n_patches=256, is_gated=True, n_registers=4
        ),
        None,
    ),
    "hibou_l": (
        lambda: published_shapes.dinov2(
            width=1024, depth=24, hidden=2736, patch_px=14, n_patches=256, is_gated=True, n_registers=4
        ),
        None,
    ),
    "plip": (
        lambda: published_shapes.clip(
            width=768,
            depth=12,
            hidden=3072,
            patch_px=32,
            n_patches=49,
            dim=512,
            text_width=512,
            text_depth=12,
            n_words=49408,
            text_length=77,
        ),
        None,
    ),
    "gpfm": (
        lambda: state_of(DinoTransformer, px=224, patch_px=14, width=1024, depth=24, n_heads=16, hidden=4096),
        None,
    ),
    "openmidnight": (
        lambda: state_of(
            DinoTransformer,
            px=224,
            patch_px=14,
            width=1536,
            depth=40,
            n_heads=24,
            hidden=4096,
            is_gated=True,
            n_registers=4,
        ),
        None,
    ),
    "conch_v1": (lambda: state_of(conch_at_true_size), None),
    "conch_v1_5": (lambda: state_of(conch_v1_5_at_true_size), None),
    "ctranspath": (lambda: state_of(CTransPath, depths=(2, 2, 6, 2), n_heads=(3, 6, 12, 24)), 200),
    "genbio_pathfm": (lambda: state_of(GenBio, width=1536, depth=40, n_heads=24, hidden=4096), 607),
    "musk": (
        lambda: state_of(Musk, px=384, patch_px=16, width=1024, depth=24, n_heads=16, hidden=4096),
        None,
    ),
}


def conch_at_true_size() -> Conch:
    trunk = timm.create_model("vit_base_patch16_224", img_size=448, num_classes=0)
    return Conch(ConchTower(trunk, width=768, dim=512, n_heads=8))


def conch_v1_5_at_true_size() -> ConchV15:
    trunk = DinoTransformer(
        px=224, patch_px=16, width=1024, depth=24, n_heads=16, hidden=4096, has_mask_token=False
    )
    return ConchV15(trunk, width=1024, dim=768, n_heads=8)


def state_of(make: Callable[..., nn.Module], **sizes: Any) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in make(**sizes).state_dict().items()}


@pytest.mark.parametrize("name", TRUE_SIZES)
def test_published_lists_fit_at_true_size(name: str) -> None:
    listed, n_published = TRUE_SIZES[name]
    card = encoder_card(name)
    with torch.device("meta"):
        shapes = listed()
        network = on_paper(card)
        state = to_timm(card, {key: torch.empty(shape) for key, shape in shapes.items()}, network)
    network.load_state_dict(state, strict=True, assign=True)
    assert n_published in (None, len(shapes))


def test_every_card_in_another_layout_has_its_list() -> None:
    assert {card.name for card in list_encoders() if card.layout not in ("timm", "in-order")} == set(
        TRUE_SIZES
    )
