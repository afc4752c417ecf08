"""Models that timm knows: described by its own configuration, loaded whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from spam.encoders import build_encoder, encoder_card, list_encoders
from spam.encoders.timm_models import LAYERS, build_timm_model
from spam.errors import EncoderError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "source", "dim", "px"),
    [
        ("resnet18", "timm:resnet18.a1_in1k", 512, 224),
        ("resnet18.tv_in1k", "timm:resnet18.tv_in1k", 512, 224),
        ("mobilenetv3_small_100", "timm:mobilenetv3_small_100.lamb_in1k", 1024, 224),
        ("test_vit", "timm:test_vit.r160_in1k", 64, 160),
    ],
)
def test_card_of_a_timm_model(name: str, source: str, dim: int, px: int) -> None:
    card = encoder_card(f"timm:{name}")
    config = timm.get_pretrained_cfg(name)
    assert (card.name, card.source, card.dim, card.input_px) == (f"timm:{name}", source, dim, px)
    assert (card.mean, card.std) == (config.mean, config.std)
    # The length that the card states is the one that the model gives.
    model = timm.create_model(name, num_classes=0).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, px, px)).shape == (1, dim)


def test_unknown_models_are_told_with_the_nearest() -> None:
    with pytest.raises(EncoderError, match=r"no model 'resnet188'; did you mean timm:resnet18"):
        encoder_card("timm:resnet188")
    with pytest.raises(EncoderError, match=r"no model 'xxxxxxxxx'; see timm.list_models"):
        encoder_card("timm:xxxxxxxxx")
    with pytest.raises(EncoderError, match=r"'timm:resnet18.nothing' cannot be built.*nothing"):
        encoder_card("timm:resnet18.nothing")


def test_a_model_without_weights_is_not_taken_random() -> None:
    with_weights = {name.split(".")[0] for name in timm.list_models(pretrained=True)}
    without = next(name for name in timm.list_models("vit_*") if name not in with_weights)
    with pytest.raises(EncoderError, match=rf"no pretrained weights for '{without}', and a random encoder"):
        encoder_card(f"timm:{without}")


def test_classifier_is_loaded_and_dropped(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "classifier", num_classes=7)
    encoder = build_encoder(encoder_card(f"local:{folder}"), device=CPU)
    plain = safetensors.torch.load_file(folder / "model.safetensors")
    model = build_timm_model(encoder.card)
    assert model.num_classes == 0
    assert sorted(model.state_dict()) == sorted(name for name in plain if not name.startswith("head."))
    for name, values in model.state_dict().items():
        assert torch.equal(values, plain[name])
    assert encoder.embed(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 24)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, write_folder: Callable[..., Path], fault: str
) -> None:
    folder = write_folder(tmp_path / "tiny", num_classes=7)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    name = "blocks.1.mlp.fc2.weight"
    if fault == "missing":
        del weights[name]
    elif fault == "unexpected":
        weights["blocks.2.mlp.fc2.weight"] = weights[name].clone()
        name = "blocks.2.mlp.fc2.weight"
    else:
        weights[name] = weights[name][:, 1:].clone()
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    card = encoder_card(f"local:{folder}")
    with pytest.raises(EncoderError, match=rf"(?s)'local:tiny' cannot be built.*{name}.*all of its weights"):
        build_encoder(card, device=CPU)


def test_a_folder_without_its_parts_is_told(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    with pytest.raises(EncoderError, match=r"cannot be built.*[Cc]onfig.*config\.json"):
        encoder_card(f"local:{tmp_path / 'nothing'}")
    folder = write_folder(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"cannot be built.*model\.safetensors"):
        build_encoder(encoder_card(f"local:{folder}"), device=CPU)


def test_tiles_that_are_not_square_are_refused(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "wide")
    values = json.loads((folder / "config.json").read_text())
    values["model_args"]["img_size"] = [32, 48]
    values["pretrained_cfg"]["input_size"] = [3, 32, 48]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(EncoderError, match=r"takes 32 x 48 pixels.*expected square"):
        encoder_card(f"local:{folder}")
    with pytest.raises(EncoderError, match=r"resampled by 'nearest'; expected .* bicubic or bilinear"):
        encoder_card(f"local:{write_folder(tmp_path / 'coarse', interpolation='nearest')}")


def test_layers_that_cards_name_are_known() -> None:
    named = {value for card in list_encoders() for _, value in card.kwargs if isinstance(value, str)}
    assert named == set(LAYERS)


@pytest.mark.parametrize(
    ("name", "architecture", "arguments"),
    [
        # What each repository's own config.json holds, as far as it shapes the network.
        ("uni_v1", "vit_large_patch16_224", {"num_classes": 0}),
        ("uni2_h", "vit_giant_patch14_224", {}),
        ("virchow", "vit_huge_patch14_224", {"mlp_ratio": 5.3375, "init_values": 1e-5, "global_pool": ""}),
        (
            "virchow2",
            "vit_huge_patch14_224",
            {"mlp_ratio": 5.3375, "init_values": 1e-5, "global_pool": "", "reg_tokens": 4},
        ),
        ("gigapath", "vit_giant_patch14_dinov2", {"img_size": 224, "patch_size": 16, "num_classes": 0}),
        ("hoptimus0", "vit_giant_patch14_reg4_dinov2", {"img_size": 224, "num_classes": 0}),
        ("hoptimus1", "vit_giant_patch14_reg4_dinov2", {"img_size": 224, "num_classes": 0}),
    ],
)
def test_cards_of_the_hub_state_the_length_of_their_features(
    name: str, architecture: str, arguments: dict[str, object]
) -> None:
    card = encoder_card(name)
    kwargs = {
        key: LAYERS.get(value, value) if isinstance(value, str) else value for key, value in card.kwargs
    }
    with torch.device("meta"):
        model = timm.create_model(architecture, **{**arguments, **kwargs})
    per_token = 2 if card.pooling == "cls+mean" else 1
    assert card.dim == model.num_features * per_token
