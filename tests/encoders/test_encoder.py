"""Encoders: preprocessing, pooling, digests, symmetries and precision against calculation by hand; memory limits."""

import dataclasses
import hashlib
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from spam.encoders import build_encoder, encoder_card
from spam.encoders.encoder import Encoder
from spam.encoders.tile_network import TileNetwork, pool_stages, weights_digest
from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

CPU = torch.device("cpu")
PX = 32


def some_tiles(n_tiles: int, px: int = PX) -> np.ndarray:
    return np.random.default_rng(n_tiles).integers(0, 256, size=(n_tiles, px, px, 3), dtype=np.uint8)


def tokens_by_hand(folder: Path, tiles: np.ndarray) -> torch.Tensor:
    """Tokens of the tiny model for tiles normalised one pixel type at a time, in float64 until the last step."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    scaled = (tiles.astype(np.float64) / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    with torch.inference_mode():
        return model.forward_features(torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32)))


@pytest.fixture
def encoder(tiny_folder: Path) -> Encoder:
    return build_encoder(encoder_card(f"local:{tiny_folder}"), device=CPU)


def test_card_of_a_folder_is_what_its_configuration_says(tiny_folder: Path) -> None:
    card = encoder_card(f"local:{tiny_folder}")
    assert dict(card.kwargs)["reg_tokens"] == 2
    assert card.to_mapping()["source"] == card.name == "local:tiny"  # no path of this machine
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
        (np.zeros((2, 31, 31, 3), np.uint8), r"uint8 \(2, 31, 31, 3\)"),
        (np.zeros((2, 3, PX, PX), np.uint8), r"uint8 \(2, 3, 32, 32\)"),
        (np.zeros((2, PX, PX, 3), np.float32), "float32"),
    ],
)
def test_other_tiles_are_refused(encoder: Encoder, tiles: np.ndarray, what: str) -> None:
    with pytest.raises(EncoderError, match=rf"'local:tiny'.*32 x 32.*{what}"):
        encoder.embed(tiles)


def test_statistics_of_counted_maps() -> None:
    first = torch.arange(12.0).reshape(1, 2, 2, 3)  # channels 0..5 and 6..11
    second = torch.tensor([[[[7.0]]]])  # one pixel: no spread, and no NaN
    spread = math.sqrt(35 / 12)  # variance of six consecutive numbers, (6² - 1) / 12
    expected = torch.tensor([[2.5, 8.5, spread, spread, 7.0, 0.0]])
    torch.testing.assert_close(pool_stages([first, second]), expected)


SIDE = 6


class Backbone(torch.nn.Module):
    """A linear map of the pixels, and a memory that holds only so many tiles at a time."""

    def __init__(self, *, fits: int = 10**9, error: str = "") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.from_numpy(np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, 5))).float()
        )
        self.fits, self.error, self.batches = fits, error, []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        if len(pixels) > self.fits:
            raise RuntimeError(self.error) if self.error else torch.OutOfMemoryError("CUDA out of memory")
        return pixels.flatten(1) @ self.weight


def make(backbone, **options):
    card = EncoderCard(name="linear", source="local:linear", dim=5, input_px=SIDE)
    return Encoder(TileNetwork(backbone, card), device=CPU, **options)


def small_tiles(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "error", ["", "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"]
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog, error, monkeypatch):
    monkeypatch.setattr("spam.encoders.encoder._PASS", 13)
    backbone = Backbone(fits=3, error=error)
    encoder = make(backbone)
    tiles = small_tiles(13)
    with caplog.at_level(logging.WARNING):
        found = encoder.embed(tiles)
    np.testing.assert_allclose(found, make(Backbone()).embed(tiles), rtol=1e-5, atol=1e-4)
    assert backbone.batches == [13, 6, 3, 3, 3, 3, 1]
    assert [record.args[0] for record in caplog.records] == [13, 6]
    assert [record.args[2] for record in caplog.records] == [6, 3]  # the --batch-size to use
    caplog.clear()
    encoder.embed(tiles[:7])
    assert backbone.batches[7:] == [3, 3, 1]  # what was found out holds for later batches
    assert not caplog.records


def test_threads_compute_few_tiles_each_and_do_not_change_the_features():
    before, tiles, found = torch.get_num_threads(), small_tiles(13), []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            backbone = Backbone()
            found.append(make(backbone).embed(tiles))
            assert sorted(backbone.batches) == [1, 2, 2, 2, 2, 2, 2]
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = TileNetwork(Backbone(), make(Backbone()).card)(pixels)
    np.testing.assert_allclose(found[0], expected.numpy(), rtol=1e-5, atol=1e-4)


def test_a_single_tile_that_does_not_fit_is_an_error():
    with pytest.raises(EncoderError, match=r"'linear'.*cpu.*--amp"):
        make(Backbone(fits=0)).embed(small_tiles(2))


def test_another_error_is_not_taken_for_a_lack_of_memory():
    backbone = Backbone(fits=1, error="shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        make(backbone).embed(small_tiles(2))
    assert backbone.batches == [2]


def test_the_mean_over_symmetries_is_that_of_eight_images():
    tiles = small_tiles(3)
    plain = make(Backbone())
    views = [np.rot90(image, turns, (1, 2)) for image in (tiles, tiles[:, :, ::-1]) for turns in range(4)]
    expected = np.mean([plain.embed(np.ascontiguousarray(view)) for view in views], axis=0)
    averaged = make(Backbone(), is_averaged=True)
    np.testing.assert_allclose(averaged.embed(tiles), expected, rtol=1e-4, atol=1e-4)
    for view in views:  # an average over a group is the same for all of its members
        np.testing.assert_allclose(averaged.embed(np.ascontiguousarray(view)), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - plain.embed(tiles)).max() > 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_mixed_precision_is_that_of_the_card(precision):
    card = EncoderCard(name="linear", source="local:linear", dim=5, input_px=SIDE, precision=precision)
    full = Encoder(TileNetwork(Backbone(), card), device=CPU)
    mixed = Encoder(TileNetwork(Backbone(), card), device=CPU, is_amp=True)
    assert (full.precision, mixed.precision) == ("float32", precision)
    tiles = small_tiles(7)
    exact, found = full.embed(tiles), mixed.embed(tiles)
    eps = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[precision]
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < error < 4 * eps


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_features():
    tiles = small_tiles(5)
    compiled = make(Backbone(), is_compiled=True)
    np.testing.assert_allclose(compiled.embed(tiles), make(Backbone()).embed(tiles), rtol=1e-4, atol=1e-4)
    assert compiled.weights_sha256 == make(Backbone()).weights_sha256


@pytest.mark.gpu
def test_a_gpu_computes_ahead_what_the_cpu_computes():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu = torch.device("cuda")
    card = EncoderCard(name="linear", source="local:linear", dim=5, input_px=SIDE)
    encoder = Encoder(TileNetwork(Backbone(), card), device=gpu)
    batches = [small_tiles(n, seed=n) for n in (7, 11, 13)]
    waiting = [encoder.begin(batch) for batch in batches]
    for batch, wait in zip(batches, waiting, strict=True):
        np.testing.assert_allclose(wait(), make(Backbone()).embed(batch), rtol=1e-3, atol=1e-2)
