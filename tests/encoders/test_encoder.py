"""Encoders: preprocessing, pooling and digests against what is written out by hand."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from spam.encoders import build_encoder, encoder_card
from spam.encoders.encoder import Encoder
from spam.encoders.tile_network import TileNetwork, pool_stages, pool_tokens, weights_digest
from spam.encoders.timm_models import create_network
from spam.errors import EncoderError

CPU = torch.device("cpu")
PX = 32


def some_tiles(n_tiles: int, px: int = PX) -> np.ndarray:
    return np.random.default_rng(n_tiles).integers(0, 256, size=(n_tiles, px, px, 3), dtype=np.uint8)


def tokens_by_hand(folder: Path, tiles: np.ndarray) -> torch.Tensor:
    """Tokens of the tiny model for tiles normalised one pixel type at a time, in float64 until the last step."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert weights_digest(model) == weights_digest_by_hand(
        safetensors.torch.load_file(folder / "model.safetensors")
    )
    scaled = (tiles.astype(np.float64) / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    with torch.inference_mode():
        return model.forward_features(torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32)))


def weights_digest_by_hand(state: dict[str, torch.Tensor]) -> str:
    text = b""
    for name in sorted(state):
        array = state[name].numpy()
        text += f"{name} torch.{array.dtype} {array.shape}\n".encode() + array.tobytes()
    return hashlib.sha256(text).hexdigest()


@pytest.fixture
def encoder(tiny_folder: Path) -> Encoder:
    return build_encoder(encoder_card(f"local:{tiny_folder}"), device=CPU)


def test_card_of_a_folder_is_what_its_configuration_says(tiny_folder: Path) -> None:
    card = encoder_card(f"local:{tiny_folder}")
    assert (card.dim, card.input_px, card.architecture) == (24, PX, "vit_tiny_patch16_224")
    assert (card.mean, card.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (card.interpolation, card.licence, card.pooling) == ("bilinear", "cc0-1.0", "model")


def test_features_are_those_of_the_normalised_tiles(encoder: Encoder, tiny_folder: Path) -> None:
    tiles = some_tiles(5)
    features = encoder.embed(tiles)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, tokens_by_hand(tiny_folder, tiles)[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pooling", "dim"), [("cls", 24), ("mean", 24), ("cls+mean", 48)])
def test_tokens_are_pooled_without_registers(tiny_folder: Path, pooling: str, dim: int) -> None:
    card = dataclasses.replace(encoder_card(f"local:{tiny_folder}"), pooling=pooling, dim=dim)
    tiles = some_tiles(3)
    tokens = tokens_by_hand(tiny_folder, tiles)
    assert tokens.shape == (3, 1 + 2 + 16, 24)  # class token, registers, patches
    mean = sum(tokens[:, i] for i in range(3, 19)) / 16
    expected = {"cls": tokens[:, 0], "mean": mean, "cls+mean": torch.cat([tokens[:, 0], mean], dim=1)}[
        pooling
    ]
    np.testing.assert_allclose(build_encoder(card, device=CPU).embed(tiles), expected, rtol=1e-4, atol=1e-5)


def test_pooling_of_counted_tokens() -> None:
    tokens = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
    assert pool_tokens(tokens, n_prefix=2, pooling="cls").tolist() == [[0, 1, 2], [15, 16, 17]]
    assert pool_tokens(tokens, n_prefix=2, pooling="mean").tolist() == [[9, 10, 11], [24, 25, 26]]
    both = pool_tokens(tokens, n_prefix=2, pooling="cls+mean").tolist()
    assert both == [[0, 1, 2, 9, 10, 11], [15, 16, 17, 24, 25, 26]]


def test_permuting_tiles_permutes_features(encoder: Encoder) -> None:
    tiles = some_tiles(7)
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    np.testing.assert_allclose(encoder.embed(tiles[order]), encoder.embed(tiles)[order], rtol=1e-5, atol=1e-6)


def test_no_tiles_give_no_rows(encoder: Encoder) -> None:
    features = encoder.embed(some_tiles(0))
    assert (features.shape, features.dtype) == ((0, 24), np.float32)


def test_tiles_may_be_read_only_and_strided(encoder: Encoder) -> None:
    tiles = some_tiles(6)
    expected = encoder.embed(tiles[::2].copy())
    tiles.flags.writeable = False
    np.testing.assert_array_equal(encoder.embed(tiles[::2]), expected)


def test_mixed_precision_gives_float32_near_the_full_one(tiny_folder: Path, encoder: Encoder) -> None:
    mixed = build_encoder(encoder_card(f"local:{tiny_folder}"), device=CPU, amp=True)
    full, half = encoder.embed(some_tiles(5)), mixed.embed(some_tiles(5))
    assert half.dtype == np.float32
    assert (full != half).any()  # or the option would do nothing
    np.testing.assert_allclose(half, full, rtol=0.1, atol=0.1)  # bfloat16 keeps 8 bits


def test_digest_is_of_names_types_shapes_and_bytes() -> None:
    layer = torch.nn.BatchNorm1d(3)  # its counter is a tensor without dimensions
    expected = hashlib.sha256()
    for name, text, values in (
        ("bias", "torch.float32 (3,)", np.zeros(3, np.float32)),
        ("num_batches_tracked", "torch.int64 ()", np.zeros((), np.int64)),
        ("running_mean", "torch.float32 (3,)", np.zeros(3, np.float32)),
        ("running_var", "torch.float32 (3,)", np.ones(3, np.float32)),
        ("weight", "torch.float32 (3,)", np.ones(3, np.float32)),
    ):
        expected.update(f"{name} {text}\n".encode() + values.tobytes())
    assert weights_digest(layer) == expected.hexdigest()
    layer.weight.data[1] += 1e-7
    assert weights_digest(layer) != expected.hexdigest()
    assert len(weights_digest(layer.to(torch.bfloat16))) == 64


@pytest.mark.parametrize(
    ("tiles", "what"),
    [
        (np.zeros((2, 31, 31, 3), np.uint8), r"uint8 of shape \(2, 31, 31, 3\)"),
        (np.zeros((2, 3, PX, PX), np.uint8), r"uint8 of shape \(2, 3, 32, 32\)"),
        (np.zeros((2, PX, PX, 3), np.float32), "not float32"),
    ],
)
def test_other_tiles_are_refused(encoder: Encoder, tiles: np.ndarray, what: str) -> None:
    with pytest.raises(EncoderError, match=rf"'local:tiny' takes uint8 tiles of 32 x 32.*{what}.*out_px=32"):
        encoder.embed(tiles)


def test_features_of_another_length_are_refused(tiny_folder: Path) -> None:
    card = dataclasses.replace(encoder_card(f"local:{tiny_folder}"), dim=25)
    with pytest.raises(EncoderError, match=r"shape \(2, 24\).*expected 25.*correct dim or pooling"):
        build_encoder(card, device=CPU).embed(some_tiles(2))


def test_a_network_without_tokens_cannot_pool_them() -> None:
    card = dataclasses.replace(encoder_card("efficientnet_lite0"), pooling="cls", input_px=PX)
    with pytest.raises(EncoderError, match=r"no tokens that pooling 'cls' could work on"):
        build_encoder(card, device=CPU).embed(some_tiles(1))


def test_a_network_without_stages_cannot_pool_them() -> None:
    card = dataclasses.replace(encoder_card("efficientnet_lite0"), pooling="stages")
    with pytest.raises(EncoderError, match=r"no maps of stages that pooling 'stages' could work on"):
        TileNetwork(torch.nn.Flatten(), card)


def test_statistics_of_counted_maps() -> None:
    first = torch.arange(12.0).reshape(1, 2, 2, 3)  # channels 0..5 and 6..11
    second = torch.tensor([[[[7.0]]]])  # one pixel: no spread, and no NaN
    spread = math.sqrt(35 / 12)  # variance of six consecutive numbers, (6² - 1) / 12
    expected = torch.tensor([[2.5, 8.5, spread, spread, 7.0, 0.0]])
    torch.testing.assert_close(pool_stages([first, second]), expected)


def test_stages_are_those_that_a_network_passes_through() -> None:
    card = encoder_card("efficientnet_lite0_stages")
    backbone: Any = create_network(card)
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8))
    seen: dict[int, np.ndarray] = {}
    last = (0, 1, 2, 4, 6)  # the blocks before each halving of the map, and the last of all
    for number in last:
        backbone.blocks[number].register_forward_hook(
            lambda _module, _inputs, output, number=number: seen.update({number: output.double().numpy()})
        )
    with torch.inference_mode():
        features = TileNetwork(backbone.eval(), card)(tiles).numpy()
    assert [seen[number].shape[2] for number in last] == [112, 56, 28, 14, 7]
    expected = np.concatenate([f(seen[i], axis=(2, 3)) for i in last for f in (np.mean, np.std)], axis=1)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)
