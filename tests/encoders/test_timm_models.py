"""Models that timm knows: described by its own configuration, loaded whole or not at all."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from spam.encoders import build_encoder, encoder_card, list_encoders
from spam.encoders.tile_network import TileNetwork
from spam.encoders.timm_models import LAYERS, build_timm_model, create_network
from spam.errors import EncoderError

# As conftest.py writes it.
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "reg_tokens": 2}
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


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_stages_of_a_timm_model(name: str) -> None:
    card = encoder_card(f"timm:{name}+stages")
    whole = encoder_card(f"timm:{name}")
    dim = 2 * sum(timm.create_model(name, features_only=True).feature_info.channels())
    assert card == dataclasses.replace(whole, name=f"timm:{name}+stages", pooling="stages", dim=dim)
    network = TileNetwork(create_network(card), card).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, dim)


@pytest.mark.parametrize("name", ["test_vit", "mixer_b16_224"])
def test_networks_of_one_resolution_have_no_stages(name: str) -> None:
    with pytest.raises(
        EncoderError, match=rf"'timm:{name}' has no stages of maps.*ask for 'timm:{name}' alone"
    ):
        encoder_card(f"timm:{name}+stages")


def test_cards_of_the_registry_take_no_other_pooling() -> None:
    with pytest.raises(EncoderError, match=r"no encoder 'uni_v1\+stages'; did you mean 'uni_v1'"):
        encoder_card("uni_v1+stages")


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
    with pytest.raises(EncoderError, match=r"holds no weights.*model\.safetensors.*beside config\.json"):
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
    named = {value for card in list_encoders() for key, value in card.kwargs if key.endswith("_layer")}
    assert named == set(LAYERS)


def test_arguments_of_a_described_model_are_in_its_card(tiny_folder: Path) -> None:
    card = encoder_card(f"local:{tiny_folder}")
    assert dict(card.kwargs) == TINY
    assert card.n_registers == 2
    assert {card} == {encoder_card(f"local:{tiny_folder}")}  # it can be a key


def test_names_that_timm_itself_has_changed_are_still_read(
    tmp_path: Path, write_folder: Callable[..., Path]
) -> None:
    sizes = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, **sizes).eval()
    folder = write_folder(tmp_path / "swin")
    config = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 7, "model_args": sizes}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"num_classes": 7}}))
    # Before timm 0.9 a stage ended with its downsampling, and the classifier had no pooling before it.
    weights = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name).replace(
            "head.fc", "head"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    built = build_timm_model(encoder_card(f"local:{folder}"))
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head")}
    found = built.state_dict()
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_architecture_that_timm_has_not_is_told(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "tiny")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "architecture": "vit_of_nobody"}))
    with pytest.raises(EncoderError, match=r"cannot be built.*vit_of_nobody"):
        encoder_card(f"local:{folder}")
    (folder / "config.json").write_text(json.dumps({**values, "model_args": {"depths": 3}}))
    with pytest.raises(EncoderError, match=r"cannot be built.*depths"):
        encoder_card(f"local:{folder}")
