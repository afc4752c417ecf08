"""Published weights in other names than timm's: the same features as those of the implementation they were published for."""

from pathlib import Path

import pytest
import timm
import torch
from original_networks import (
    CASES,
    NARROW,
    WIDTH,
    Case,
    dinov2_original,
    dinov2_original_with_registers,
    titan,
)
from random_weights import randomise
from torch import Tensor, nn

from spam.encoders.weight_layouts import LAYOUTS
from spam.encoders.published_weights import to_timm
from spam.errors import EncoderError

# Random weights make features of about one, and float32 knows them to 1e-6.
CLOSE = 1e-5


def tissue(px: int) -> Tensor:
    """Make two images that are as different as tissues are: patches of colour, and noise."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.randn(2, 3, 5, 5, generator=generator) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    smooth = nn.functional.interpolate(colours, size=(px, px), mode="bilinear")
    return smooth + 0.5 * torch.randn(2, 3, px, px, generator=generator)


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
        assert f"of another shape: '{key}' {tuple(weights[key].shape)}, " in str(caught.value)
        assert "expected (" in str(caught.value)
        assert "missing" not in str(caught.value)


def test_positions_that_cannot_be_fitted_are_told_with_what_they_become() -> None:
    for case, rows in ((dinov2_original_with_registers(trained_px=224), 256), (titan(trained_px=224), 785)):
        name = next(key for key in case.weights if key.endswith("pos_embed"))
        published = {**case.weights, name: case.weights[name][..., 1:]}
        # Titan's are resampled from 14 x 14 to 28 x 28 patches; those of the other are not joined to the class token.
        becomes = ", which becomes (1, 785, 23)" if rows == 785 else ""
        with pytest.raises(EncoderError) as caught:
            to_timm(case.layout, published, case.network)
        shape = tuple(published[name].shape)
        assert f"'{name}' {shape}{becomes}, expected (1, {rows}, 24); correct" in str(caught.value)
        for odd in (torch.zeros(()), torch.zeros(1, 12, WIDTH), torch.zeros(2, 5, WIDTH)):
            with pytest.raises(EncoderError, match=rf"another shape: '{name}'"):
                to_timm(case.layout, {**published, name: odd}, case.network)


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
