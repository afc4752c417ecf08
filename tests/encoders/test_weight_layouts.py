"""Published weights in other names than timm's: the same features as those of the implementation they were published for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_shapes
import pytest
import safetensors.torch
import timm
import torch
from beit3_truth import Musk
from conch_truth import Conch, ConchTower, ConchV15
from dino_truth import DinoTransformer
from random_weights import randomise
from swin_truth import CTransPath
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from spam.encoders import encoder_card, list_encoders
from spam.encoders.architectures import create
from spam.encoders.timm_models import create_network
from spam.encoders.weight_layouts import LAYOUTS, to_timm
from spam.errors import EncoderError
from spam.schemas.encoder_card import WeightLayout

# Random weights make features of about one, and float32 knows them to 1e-6.
CLOSE = 1e-5

WIDTH, DEPTH, HEADS = 24, 3, 3
NARROW = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
GATED = 64  # hidden width of the gated network: two thirds of 4 x 24, up to the next multiple of eight
GATED_KWARGS = {"mlp_ratio": 2 * GATED / WIDTH, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}


@dataclasses.dataclass(frozen=True)
class Case:
    """An original with random weights: its file, what it makes of images, and the network that shall do the same."""

    layout: WeightLayout
    weights: dict[str, Any]
    truth: Callable[[Tensor], Tensor]
    network: nn.Module
    features: Callable[[Tensor], Tensor]
    px: int


def saved(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Return the weights of a transformers model under the names that its published files have."""
    model.save_pretrained(folder)  # type: ignore[operator]
    return safetensors.torch.load_file(folder / "model.safetensors")


def vit(folder: Path) -> Case:
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=224,
        patch_size=16,
    )
    model = randomise(ViTModel(config))
    with torch.no_grad():  # tokens so small that the epsilon of the first normalisation shows
        for part in (model.embeddings.cls_token, model.embeddings.position_embeddings):
            part *= 1e-3
        for part in model.embeddings.patch_embeddings.parameters():
            part *= 1e-3
    network = create("spam/phikon_b16", NARROW)
    return Case(
        "vit",
        saved(model, folder),
        lambda x: model(x).last_hidden_state,
        network,
        network.forward_features,
        224,
    )


def dinov2(folder: Path, *, trained_px: int, patch_px: int, is_gated: bool) -> Case:
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=trained_px,
        patch_size=patch_px,
        use_swiglu_ffn=is_gated,
    )
    model = randomise(Dinov2Model(config))
    name = "vit_giant_patch14_dinov2" if is_gated else "vit_large_patch16_224"
    kwargs = GATED_KWARGS if is_gated else {"init_values": 1e-5}
    network = timm.create_model(name, img_size=224, patch_size=patch_px, num_classes=0, **NARROW, **kwargs)
    return Case(
        "dinov2",
        saved(model, folder),
        lambda x: model(x).last_hidden_state,
        network,
        network.forward_features,
        224,
    )


def dinov2_with_registers(folder: Path, *, trained_px: int) -> Case:
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=trained_px,
        patch_size=14,
        use_swiglu_ffn=True,
        num_register_tokens=5,
    )
    model = randomise(Dinov2WithRegistersModel(config))
    network = timm.create_model(
        "vit_base_patch14_reg4_dinov2", img_size=224, num_classes=0, reg_tokens=5, **NARROW, **GATED_KWARGS
    )
    return Case(
        "dinov2",
        saved(model, folder),
        lambda x: model(x).last_hidden_state,
        network,
        network.forward_features,
        224,
    )


def dinov2_original(*, trained_px: int, n_chunks: int) -> Case:
    model = randomise(
        DinoTransformer(
            px=trained_px,
            patch_px=14,
            width=WIDTH,
            depth=DEPTH,
            n_heads=HEADS,
            hidden=4 * WIDTH,
            n_chunks=n_chunks,
        )
    )
    network = timm.create_model("vit_large_patch14_dinov2", img_size=224, num_classes=0, **NARROW)
    weights: dict[str, Any] = model.state_dict()
    if n_chunks:  # as a training run leaves it
        weights = {f"backbone.{name}": tensor for name, tensor in weights.items()}
        weights |= {
            "dino_head.mlp.0.weight": torch.zeros(2, 3),
            "ibot_head.last_layer.weight_g": torch.zeros(2),
        }
        weights = {"teacher": weights, "iteration": 5}
    return Case("dinov2-original", weights, model, network, network.forward_features, 224)


def dinov2_original_with_registers(*, trained_px: int) -> Case:
    model = randomise(
        DinoTransformer(
            px=trained_px,
            patch_px=14,
            width=WIDTH,
            depth=DEPTH,
            n_heads=HEADS,
            hidden=GATED,
            is_gated=True,
            n_registers=4,
            offset=0.0,
            is_antialiased=True,
        )
    )
    network = timm.create_model(
        "vit_giant_patch14_reg4_dinov2", img_size=224, num_classes=0, **NARROW, **GATED_KWARGS
    )
    return Case("dinov2-original", model.state_dict(), model, network, network.forward_features, 224)


def clip(folder: Path) -> Case:
    towers = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "hidden_size": WIDTH}
    config = CLIPConfig(
        vision_config={**towers, "intermediate_size": 4 * WIDTH, "image_size": 224, "patch_size": 32},
        text_config={
            **towers,
            "intermediate_size": 7,
            "vocab_size": 11,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        projection_dim=17,
    )
    model = randomise(CLIPModel(config))
    network = create("spam/clip_vision_b32", {"dim": 17, **NARROW})

    def truth(images: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(images).pooler_output)

    return Case("clip", saved(model, folder), truth, network, network, 224)


def coca(*, trained_px: int) -> Case:
    def tower(px: int) -> Conch:
        trunk = timm.create_model("vit_base_patch16_224", img_size=px, num_classes=0, **NARROW)
        return Conch(ConchTower(trunk, width=WIDTH, dim=16, n_heads=8))

    published = randomise(tower(trained_px)).state_dict()
    model = tower(448).eval()
    fitted = dict(published)
    fitted["visual.trunk.pos_embed"] = resample_abs_pos_embed(  # upstream does it so on loading
        published["visual.trunk.pos_embed"], new_size=[28, 28], interpolation="bilinear", antialias=False
    )
    model.load_state_dict(fitted)
    network = create("spam/conch_b16", {"dim": 16, **NARROW})
    return Case("coca", published, model, network, network, 448)


def titan(*, trained_px: int) -> Case:
    trunk = DinoTransformer(
        px=trained_px,
        patch_px=16,
        width=WIDTH,
        depth=DEPTH,
        n_heads=HEADS,
        hidden=4 * WIDTH,
        has_mask_token=False,
    )
    model = randomise(ConchV15(trunk, width=WIDTH, dim=16, n_heads=8))
    network = create("spam/conch_l16", {"dim": 16, **NARROW})
    return Case("titan", model.state_dict(), model, network, network, 448)


def ctranspath() -> Case:
    depths, heads = (2, 2, 3, 2), (1, 2, 3, 4)
    model = randomise(CTransPath(width=WIDTH, depths=depths, n_heads=heads))
    network = create("spam/ctranspath", {"embed_dim": WIDTH, "depths": depths, "num_heads": heads})
    return Case("ctranspath", {"model": model.state_dict()}, model, network, network, 224)


def beit3(*, trained_px: int) -> Case:
    sizes = {"patch_px": 16, "width": WIDTH, "depth": DEPTH, "n_heads": HEADS, "hidden": 4 * WIDTH}
    published = randomise(Musk(px=trained_px, **sizes)).state_dict()
    fitted = dict(published)
    name = "beit3.encoder.embed_positions.A.weight"
    side = trained_px // 16
    if side != 24:  # upstream does it so on loading
        square = published[name][3:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
        square = nn.functional.interpolate(square, size=(24, 24), mode="bicubic", align_corners=False)
        fitted[name] = torch.cat([published[name][:3], square.permute(0, 2, 3, 1).reshape(-1, WIDTH)])
    model = Musk(px=384, **sizes).eval()
    model.load_state_dict(fitted)
    network = timm.create_model(
        "beit3_large_patch16_224", img_size=384, global_pool="token", num_classes=0, **NARROW
    )
    return Case("beit3", published, model, network, network, 384)


def tissue(px: int) -> Tensor:
    """Make two images that are as different as tissues are: patches of colour, and noise."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.randn(2, 3, 5, 5, generator=generator) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    smooth = nn.functional.interpolate(colours, size=(px, px), mode="bilinear")
    return smooth + 0.5 * torch.randn(2, 3, px, px, generator=generator)


CASES: dict[str, Callable[[Path], Case]] = {
    "vit": vit,
    "dinov2 like Phikon-v2": lambda folder: dinov2(folder, trained_px=224, patch_px=16, is_gated=False),
    "dinov2 like Midnight": lambda folder: dinov2(folder, trained_px=224, patch_px=14, is_gated=True),
    "dinov2 of 518 px": lambda folder: dinov2(folder, trained_px=518, patch_px=14, is_gated=True),
    "dinov2 of 98 px": lambda folder: dinov2(folder, trained_px=98, patch_px=14, is_gated=False),
    "dinov2 like Hibou": lambda folder: dinov2_with_registers(folder, trained_px=224),
    "dinov2 with registers of 518 px": lambda folder: dinov2_with_registers(folder, trained_px=518),
    "dinov2-original like GPFM": lambda _: dinov2_original(trained_px=224, n_chunks=0),
    "dinov2-original of a training run": lambda _: dinov2_original(trained_px=224, n_chunks=3),
    "dinov2-original of 518 px": lambda _: dinov2_original(trained_px=518, n_chunks=1),
    "dinov2-original like OpenMidnight": lambda _: dinov2_original_with_registers(trained_px=224),
    "dinov2-original with registers of 518 px": lambda _: dinov2_original_with_registers(trained_px=518),
    "clip": clip,
    "coca": lambda _: coca(trained_px=448),
    "coca of 224 px": lambda _: coca(trained_px=224),
    "titan": lambda _: titan(trained_px=224),
    "titan of 448 px": lambda _: titan(trained_px=448),
    "ctranspath": lambda _: ctranspath(),
    "beit3": lambda _: beit3(trained_px=384),
    "beit3 of 224 px": lambda _: beit3(trained_px=224),
}


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    images = tissue(case.px)
    case.network.load_state_dict(to_timm(case.layout, case.weights, case.network), strict=True)
    case.network.eval()
    with torch.inference_mode():
        expected, found = case.truth(images), case.features(images)
    assert found.shape == expected.shape
    assert (expected[0] - expected[1]).abs().max() > 1000 * CLOSE  # the images do make a difference
    assert (found - expected).abs().max() <= CLOSE


def test_every_layout_is_proven() -> None:
    assert set(LAYOUTS) == {
        "timm",
        "state-dict",
        "vit",
        "dinov2",
        "dinov2-original",
        "clip",
        "coca",
        "titan",
        "ctranspath",
        "beit3",
    }


# Of each layout: a weight that becomes part of another, or is cut up or renamed, the same as the network's pattern has
# it (without prefix, in the words of the plain feed-forward network), one of the patches' weights, and one of positions.
TELLING = {
    "vit": (
        "encoder.layer.1.attention.attention.key.weight",
        "encoder.layer.1.attention.attention.key.weight",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.position_embeddings",
    ),
    "dinov2 like Midnight": (
        "encoder.layer.1.mlp.weights_in.weight",
        "encoder.layer.1.mlp.fc1.weight",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.position_embeddings",
    ),
    "dinov2-original of a training run": (
        "backbone.blocks.2.2.ls1.gamma",
        "blocks.2.ls1.gamma",
        "backbone.patch_embed.proj.weight",
        "backbone.pos_embed",
    ),
    "clip": (
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
    ),
    "coca": (
        "visual.attn_pool_contrast.attn.in_proj_bias",
        "visual.attn_pool_contrast.attn.in_proj_bias",
        "visual.trunk.patch_embed.proj.weight",
        "visual.trunk.pos_embed",
    ),
    "titan": (
        "attn_pool_contrast.to_kv.weight",
        "attn_pool_contrast.to_kv.weight",
        "trunk.patch_embed.proj.weight",
        "trunk.pos_embed",
    ),
    "ctranspath": (
        "layers.1.downsample.reduction.weight",
        "layers.1.downsample.reduction.weight",
        "patch_embed.proj.6.weight",
        "layers.0.blocks.1.attn.relative_position_bias_table",
    ),
    "beit3": (
        "beit3.encoder.layers.2.self_attn.inner_attn_ln.A.bias",
        "beit3.encoder.layers.2.self_attn.inner_attn_ln.A.bias",
        "beit3.vision_embed.proj.weight",
        "beit3.encoder.embed_positions.A.weight",
    ),
}


def contents(case: Case) -> dict[str, Tensor]:
    for envelope in ("teacher", "model"):
        if envelope in case.weights:
            return dict(case.weights[envelope])
    return dict(case.weights)


@pytest.mark.parametrize("name", TELLING)
def test_all_that_does_not_fit_is_named_at_once(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    weights = contents(case)
    published, rewritten, patches, _ = TELLING[name]
    weights["blocks.99.something.weight"] = weights.pop(published)
    weights[patches] = weights[patches][1:]
    with pytest.raises(EncoderError) as caught:
        to_timm(case.layout, weights, case.network)
    text = str(caught.value)
    assert (
        f"missing: '{rewritten}'; unexpected: 'blocks.99.something.weight'; of another shape: '{patches}' "
        in text
    )
    found = tuple(weights[patches].shape)
    assert f"{found}, expected {(found[0] + 1, *found[1:])}; " in text
    assert f"by layout '{case.layout}'" in text
    assert "correct architecture, kwargs or layout of the card" in text


@pytest.mark.parametrize("name", TELLING)
def test_a_weight_of_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    for key in (TELLING[name][0], TELLING[name][3]):
        weights = contents(case)
        weights[key] = weights[key][..., 1:]
        with pytest.raises(EncoderError) as caught:
            to_timm(case.layout, weights, case.network)
        assert f"of another shape: '{key}' {tuple(weights[key].shape)}, expected (" in str(caught.value)
        assert "missing" not in str(caught.value)


def test_a_published_name_twice_and_what_is_no_weight_are_refused() -> None:
    case = dinov2_original(trained_px=224, n_chunks=0)
    weights = {**case.weights, "backbone.norm.weight": torch.zeros(WIDTH), "epoch": 3}
    with pytest.raises(EncoderError, match=r"unexpected: 'backbone.norm.weight', 'epoch'; correct"):
        to_timm(case.layout, weights, case.network)


def test_a_wrong_architecture_names_some_faults_and_counts_the_rest() -> None:
    case = titan(trained_px=224)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(
        EncoderError, match=r"missing: 'cls_token'.* and \d+ more; unexpected: .* and \d+ more"
    ):
        to_timm("timm", case.weights, network)


def test_names_of_timm_are_taken_as_they_are() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **NARROW)
    weights = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=0, **NARROW)).state_dict()
    for layout in ("timm", "state-dict"):
        state = to_timm(layout, weights, network)
        assert list(state) == list(network.state_dict())
        assert all(torch.equal(state[name], weights[name]) for name in state)
    # Nothing is resampled where the layout does not say how.
    weights["pos_embed"] = torch.zeros(1, 1 + 7 * 7, WIDTH)
    with pytest.raises(
        EncoderError, match=r"another shape: 'pos_embed' \(1, 50, 24\), expected \(1, 197, 24\)"
    ):
        to_timm("timm", weights, network)


def test_half_precision_is_kept_and_resampled_in_single() -> None:
    case = dinov2_original(trained_px=518, n_chunks=0)
    halves = {name: tensor.half() for name, tensor in case.weights.items()}
    state = to_timm(case.layout, halves, case.network)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    singles = to_timm(case.layout, {name: tensor.float() for name, tensor in halves.items()}, case.network)
    torch.testing.assert_close(state["pos_embed"], singles["pos_embed"].half(), rtol=0, atol=0)


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
