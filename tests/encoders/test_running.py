"""How an encoder runs: tiles that do not fit into memory, means over symmetries, precisions, compilation."""

import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from spam.encoders.encoder import Encoder
from spam.encoders.tile_network import TileNetwork
from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

CPU = torch.device("cpu")
PX = 6


class Backbone(torch.nn.Module):
    """A linear map of the pixels, and a memory that holds only so many tiles at a time."""

    def __init__(self, *, fits: int = 10**9, error: str = "") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.from_numpy(np.random.default_rng(0).normal(size=(3 * PX * PX, 5))).float()
        )
        self.fits, self.error, self.batches = fits, error, []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        if len(pixels) > self.fits:
            raise RuntimeError(self.error) if self.error else torch.OutOfMemoryError("CUDA out of memory")
        return pixels.flatten(1) @ self.weight


def make(backbone, **options):
    card = EncoderCard(name="linear", source="local:linear", dim=5, input_px=PX)
    return Encoder(TileNetwork(backbone, card), device=CPU, **options)


def some_tiles(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, PX, PX, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "error", ["", "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"]
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog, error):
    backbone = Backbone(fits=3, error=error)
    encoder = make(backbone)
    tiles = some_tiles(13)
    with caplog.at_level(logging.WARNING):
        found = encoder.embed(tiles)
    np.testing.assert_allclose(found, make(Backbone()).embed(tiles), rtol=1e-5, atol=1e-4)
    assert backbone.batches == [13, 6, 3, 3, 3, 3, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "13 tiles at once do not fit into the memory of cpu; going on with 6 (--batch-size 6 says so at once)",
        "6 tiles at once do not fit into the memory of cpu; going on with 3 (--batch-size 3 says so at once)",
    ]
    caplog.clear()
    encoder.embed(tiles[:7])
    assert backbone.batches[7:] == [3, 3, 1]  # what was found out holds for later batches
    assert not caplog.records


def test_a_single_tile_that_does_not_fit_is_an_error():
    with pytest.raises(
        EncoderError, match=r"'linear' does not fit into the memory of cpu with a single tile.*--amp"
    ):
        make(Backbone(fits=0)).embed(some_tiles(2))


def test_another_error_is_not_taken_for_a_lack_of_memory():
    backbone = Backbone(fits=1, error="shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        make(backbone).embed(some_tiles(2))
    assert backbone.batches == [2]


@pytest.mark.slow
def test_a_real_lack_of_memory_is_survived():
    """A process that may have 120 MB more is given a batch that needs more."""
    code = """
        import logging, resource
        import numpy as np, timm, torch
        from spam.encoders.encoder import Encoder
        from spam.encoders.network import TileNetwork
        from spam.schemas.encoder_card import EncoderCard
        logging.basicConfig(level=logging.WARNING)
        torch.set_num_threads(1)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
        card = EncoderCard(name="tiny", source="timm:vit_tiny_patch16_224", dim=192)
        encoder = Encoder(TileNetwork(model, card), device=torch.device("cpu"))
        tiles = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3), dtype=np.uint8)
        one = encoder.embed(tiles[:2])
        size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (size + (120 << 20),) * 2)
        features = encoder.embed(tiles)
        np.testing.assert_allclose(features[:2], one, rtol=1e-3, atol=1e-3)
        print("rows", len(features))
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("limits of address space are Linux's")
    run = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "rows 64\n"
    assert "64 tiles at once do not fit into the memory of cpu; going on with 32" in run.stderr


def test_the_mean_over_symmetries_is_that_of_eight_images():
    tiles = some_tiles(3)
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
    card = EncoderCard(name="linear", source="local:linear", dim=5, input_px=PX, precision=precision)
    full = Encoder(TileNetwork(Backbone(), card), device=CPU)
    mixed = Encoder(TileNetwork(Backbone(), card), device=CPU, is_amp=True)
    assert (full.precision, mixed.precision) == ("float32", precision)
    tiles = some_tiles(7)
    exact, found = full.embed(tiles), mixed.embed(tiles)
    eps = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[precision]
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < error < 4 * eps


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_features():
    tiles = some_tiles(5)
    compiled = make(Backbone(), is_compiled=True)
    np.testing.assert_allclose(compiled.embed(tiles), make(Backbone()).embed(tiles), rtol=1e-4, atol=1e-4)
    assert compiled.weights_sha256 == make(Backbone()).weights_sha256


@pytest.mark.gpu
def test_a_gpu_computes_ahead_what_the_cpu_computes():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu = torch.device("cuda")
    card = EncoderCard(name="linear", source="local:linear", dim=5, input_px=PX)
    encoder = Encoder(TileNetwork(Backbone(), card), device=gpu)
    batches = [some_tiles(n, seed=n) for n in (7, 11, 13)]
    waiting = [encoder.begin(batch) for batch in batches]
    for batch, wait in zip(batches, waiting, strict=True):
        np.testing.assert_allclose(wait(), make(Backbone()).embed(batch), rtol=1e-3, atol=1e-2)
