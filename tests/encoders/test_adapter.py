"""Low-rank updates: where they go, that new ones change nothing, and that files and merged weights agree."""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import peft
import pytest
import timm
import torch
from edited_metadata import edited, outcome
from hub_models import HubModels
from torch import nn

from spam.encoders import build_encoder, read_adapter
from spam.encoders.encoder import build_network
from spam.encoders.lora_adapter import (
    CARD,
    CONFIG,
    WEIGHTS,
    add_lora,
    frozen_name,
    lora_targets,
    merge_adapter,
    write_adapter,
)
from spam.encoders.registry import encoder_card
from spam.encoders.tile_network import TileNetwork, weights_digest
from spam.errors import EncoderError, MissingInputError
from spam.schemas.encoder_card import AdapterCard, EncoderCard

# One small model per kind: how many layers of each name LoRA updates, counted by hand on the printed models.
KINDS: dict[str, dict[str, int]] = {
    "test_vit": {"qkv": 6, "proj": 6, "fc1": 6, "fc2": 6},
    "test_efficientnet": {"conv_pw": 2, "conv_pwl": 4, "conv_head": 1, "conv_reduce": 2, "conv_expand": 2},
    "test_resnet": {"conv1": 1, "conv3": 1, "1": 3},  # the last: convolutions of the shortcuts
    "test_convnext": {"fc1": 9, "fc2": 9},
}


Written: TypeAlias = tuple[Path, torch.Tensor, torch.Tensor, EncoderCard]


def network_of(name: str, **kwargs: Any) -> TileNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = timm.create_model(name, num_classes=0, **kwargs)
    for name, value in model.named_parameters():
        if value.ndim == 1 and name.endswith(("gamma", "weight")):
            nn.init.ones_(value)  # else whole branches of a random network are multiplied by nothing
    px = model.pretrained_cfg["input_size"][1]
    card = EncoderCard(name=name, source=f"timm:{name}", dim=model.num_features, input_px=px)
    return TileNetwork(model, card).eval()


def pixels(network: TileNetwork, n: int = 3) -> torch.Tensor:
    px = network.card.input_px
    return torch.randint(0, 256, (n, 3, px, px), generator=torch.Generator().manual_seed(2)).float()


def shaken(network: TileNetwork) -> Any:
    """Add an adapter whose updates are far from nothing."""
    adapted = add_lora(network, r=3, alpha=5.0, dropout=0.2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    network.eval()
    return adapted


def card_of(network: TileNetwork, digest: str) -> AdapterCard:
    return AdapterCard(
        encoder=network.card.to_mapping(),
        weights_sha256=digest,
        adapter_sha256="",
        tiles=({"tile_um": 16.0, "tile_px": None, "out_px": 32},),
        train_sections=("A",),
        val_sections=("B",),
        genes=("G1", "G2"),
        epochs=2,
        best_epoch=1,
        history=[{"epoch": 0.0}],
        config={},
        software={},
    )


@pytest.fixture
def written(tiny_folder: Path, tmp_path: Path) -> Written:
    """An adapter of the tiny encoder; its features of some tiles; the tiles; the card."""
    card = encoder_card(f"local:{tiny_folder}")
    network = build_network(card)
    digest = weights_digest(network.backbone)
    adapted = shaken(network)
    tiles = pixels(network, 5)
    with torch.inference_mode():
        features = network(tiles)
    write_adapter(tmp_path / "lora", adapted, card_of(network, digest))
    return tmp_path / "lora", features, tiles, card


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_linear_layers_and_pointwise_convolutions(kind: str) -> None:
    network = network_of(kind)
    targets = lora_targets(network)
    names = [name.rsplit(".", 1)[-1] for name in targets]
    assert {name: names.count(name) for name in names} == KINDS[kind]
    assert not [name for name in targets if "patch_embed" in name or "stem" in name]
    adapted = add_lora(network, r=2, alpha=4.0, dropout=0.0)
    updated = {
        name.removeprefix("base_model.model.") for name, m in adapted.named_modules() if hasattr(m, "lora_A")
    }
    assert updated == set(targets)


class _Odd(nn.Module):
    """Two layers of one name but for a number, of which a pass calls one; and one that is used without being called."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
        self.bare = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.layers[1](x.mean(dim=(2, 3))), self.bare.weight)


def test_layers_that_no_pass_calls_are_left_out() -> None:
    network = TileNetwork(_Odd(), EncoderCard(name="odd", source="x", dim=4, input_px=5))
    assert lora_targets(network) == ("layers.1",)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing_and_all_of_it_learns(kind: str) -> None:
    network = network_of(kind)
    tiles = pixels(network)
    with torch.inference_mode():
        before = network(tiles)
    add_lora(network, r=2, alpha=4.0, dropout=0.0)
    after = network.eval()(tiles)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    (after**2).sum().backward()
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * len(lora_targets(network_of(kind)))
    assert all("lora_" in name for name in trained)
    # The gradient of A is zero as long as B is; that of B is not.
    assert [n for n, value in trained.items() if "lora_B" in n and not value.grad.abs().max() > 0] == []


@pytest.mark.parametrize("kind", ["test_vit", "test_resnet"])
def test_merged_features_are_those_of_the_adapter_apart(kind: str, tmp_path: Path) -> None:
    network, again = network_of(kind), network_of(kind)
    tiles, digest = pixels(network), weights_digest(network.backbone)
    with torch.inference_mode():
        frozen = network(tiles)
    adapted = shaken(network)
    write_adapter(tmp_path, adapted, card_of(network, digest))
    with torch.inference_mode():
        apart, merged = network(tiles), merge_adapter(again, tmp_path)(tiles)
    assert (apart - frozen).norm() > 0.01 * frozen.norm()
    assert (merged - apart).norm() < 1e-5 * apart.norm()
    assert not [name for name, _ in again.named_parameters() if "lora" in name]


def test_plain_peft_reads_it(written: Written) -> None:
    folder, features, tiles, card = written
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS, CARD]
    assert not [p.name for p in folder.iterdir() if str(folder.parent).encode() in p.read_bytes()]
    network = build_network(card)
    network.backbone = peft.PeftModel.from_pretrained(network.backbone, folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(tiles), features, rtol=0, atol=0)


def test_an_encoder_with_an_adapter_has_a_name_of_its_own(written: Written) -> None:
    folder, features, tiles, card = written
    frozen = build_encoder(card, device=torch.device("cpu"))
    encoder = build_encoder(card, device=torch.device("cpu"), lora=folder)
    adapter = read_adapter(folder)
    expected = card_of(build_network(card), frozen.weights_sha256)
    assert adapter == dataclasses.replace(expected, adapter_sha256=adapter.adapter_sha256)
    assert frozen_name(encoder.card.name) == card.name
    assert encoder.card == dataclasses.replace(card, name=f"local:tiny-lora-{adapter.adapter_sha256[:8]}")
    assert encoder.weights_sha256 == frozen.weights_sha256 == adapter.weights_sha256
    assert (encoder.lora_sha256, frozen.lora_sha256) == (adapter.adapter_sha256, None)
    images = tiles.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    torch.testing.assert_close(torch.from_numpy(encoder.embed(images)), features, rtol=1e-5, atol=1e-5)
    assert np.abs(frozen.embed(images) - features.numpy()).max() > 0.01


def test_other_weights_of_the_same_name_are_refused(written: Written) -> None:
    folder, *_, card = written
    network = build_network(card)
    with torch.no_grad():
        next(network.backbone.parameters()).add_(1e-3)
    with pytest.raises(EncoderError, match=r"[0-9a-f]{8}.*[0-9a-f]{8}.*--revision"):
        merge_adapter(network, folder)


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


def _edit(**changes: object) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return work


@pytest.mark.parametrize(
    ("name", "damage", "parts"),
    [
        ("adapter_model.safetensors", _flip, "digest"),
        ("adapter_config.json", _edit(lora_alpha=77), "digest"),
        ("adapter_config.json", lambda path: path.write_text("{"), "adapter_config.json"),
        ("spam_adapter.json", lambda path: path.write_text("[]"), "spam_adapter.json"),
        ("spam_adapter.json", _edit(surprise=1), "surprise"),
        ("spam_adapter.json", _edit(format="other"), "other 1, expected spam-adapter 1"),
        ("spam_adapter.json", _edit(version=2), "spam-adapter 2, expected spam-adapter 1"),
    ],
)
def test_damage_is_reported(
    written: Written, name: str, damage: Callable[[Path], object], parts: str
) -> None:
    folder, *_ = written
    damage(folder / name)
    with pytest.raises(EncoderError, match=rf"--lora .*{parts}"):
        read_adapter(folder)
    (folder / name).unlink()
    with pytest.raises(MissingInputError, match=rf"--lora .*{re.escape(name)}"):
        read_adapter(folder)


@pytest.mark.parametrize("name", [CARD, CONFIG])
def test_edited_files_give_one_message_or_the_same_features(written: Written, name: str) -> None:
    """Every entry in every ninth way; peft's own reading of an edited description would fail."""
    folder, features, tiles, card = written
    path = folder / name
    whole, n_refused = path.read_text(), 0
    texts = [json.dumps(changed) for _, changed in edited(json.loads(whole), share=9)]
    for text in [*texts, "[" * 100_000, '{"r": ' + "9" * 5000 + "}", "", "null"]:
        path.write_text(text)
        _, message = outcome(lambda: read_adapter(folder))
        n_refused += bool(message)
        assert not message or message.startswith(f"--lora {str(folder)!r}")
        assert len(message) < 500
        if not message and name == CONFIG:  # the features do not depend on what only describes
            with torch.inference_mode():
                found = merge_adapter(build_network(card), folder)(tiles)
            torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-4)  # sums in another order
    assert n_refused > 50


def test_what_only_describes_is_not_in_the_digest(written: Written) -> None:
    folder, *_ = written
    before = read_adapter(folder)
    _edit(peft_version="9", inference_mode=False, base_model_name_or_path="x")(folder / "adapter_config.json")
    assert read_adapter(folder) == before


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("uni_v1-lora-0123abcd", "uni_v1"),
        ("my-lora-uni-lora-0123abcd", "my-lora-uni"),
        ("local:x-lora-0123abcd-lora-ffffffff", "local:x-lora-0123abcd"),
        ("uni_v1", None),
        ("local:vit-lora-0123abcde", None),
        ("-lora-0123abcd", None),
    ],
)
def test_only_the_name_of_an_adapted_encoder_is_taken_apart(name: str, frozen: str | None) -> None:
    assert frozen_name(name) == frozen


def test_without_peft_no_weights_are_fetched(
    written: Written, hub: HubModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"pip install 'spam-st\[lora\]'"):
        build_encoder(encoder_card("uni_v1"), device=torch.device("cpu"), lora=written[0])
    assert hub.requests == []
