"""What is published of each encoder, by name and shape, fits the network of its card at its true size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_shapes
import pytest
import timm
import torch
from beit3_truth import Musk
from conch_truth import Conch, ConchTower, ConchV15
from dino_truth import DinoTransformer
from original_networks import CASES, DEPTH, GATED, WIDTH
from swin_truth import CTransPath
from torch import nn

from spam.encoders import encoder_card, list_encoders
from spam.encoders.timm_models import create_network
from spam.encoders.published_weights import to_timm


def test_hand_written_lists_are_those_of_transformers(tmp_path: Path) -> None:
    square = {"width": WIDTH, "depth": DEPTH}
    expected = {
        "vit": published_shapes.vit(**square, hidden=4 * WIDTH, patch_px=16, n_patches=196, has_pooler=True),
        "dinov2 like Phikon-v2": published_shapes.dinov2(
            **square, hidden=4 * WIDTH, patch_px=16, n_patches=196
        ),
        "dinov2 like Hibou": published_shapes.dinov2(
            **square, hidden=GATED, patch_px=14, n_patches=256, is_gated=True, n_registers=5
        ),
    }
    for name, shapes in expected.items():
        weights = CASES[name](tmp_path / name).weights
        assert {key: tuple(tensor.shape) for key, tensor in weights.items()} == shapes


# Encoder -> list of what is published, and its length where that is known from elsewhere: from people who counted the
# weights of Phikon-v2 and Midnight, and from timm 0.5.4, which names those of CTransPath.
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
        network = create_network(card)
        state = to_timm(card.layout, {key: torch.empty(shape) for key, shape in shapes.items()}, network)
    network.load_state_dict(state, strict=True, assign=True)
    assert n_published in (None, len(shapes))


def test_every_card_in_another_layout_has_its_list() -> None:
    assert {card.name for card in list_encoders() if card.layout not in ("timm", "state-dict")} == set(
        TRUE_SIZES
    )
