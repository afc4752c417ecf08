"""`spam embed` against what limits it, and against what users would do instead: ratios within one run.

``pytest benchmarks/test_embedding.py --benchmark-enable -n 0 -s`` takes half an hour on two cores. Without
``--benchmark-enable`` the same code runs once on small sizes, so that it cannot rot. The slide is drawn: blobs of the
colours of H&E, JPEG compressed, in a tiled pyramid that OpenSlide reads.
"""

import dataclasses
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import safetensors.torch
import tifffile
import timm
import torch
from scipy import ndimage

from spam.embedding import embed
from spam.encoders import build_encoder, encoder_card
from spam.hardware import resolve_device
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.simulate_config import SimulateConfig
from spam.schemas.tile_spec import TileSpec
from spam.schemas.training_config import PretrainConfig
from spam.sections import read_section
from spam.simulation import simulate
from spam.tiles import TileReader, open_slide, read_batches, sweep_order
from spam.training import pretrain
from spam.typing import Array

MPP, BATCH = 0.5, 64


def write_slide(path: Path, side: int) -> None:
    """Write a pyramid (1, 4) of JPEG tiles; the pixels repeat every 2048, which no reader can know."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2048, 2048, 3))
    layers = [ndimage.gaussian_filter(noise, (s, s, 0), mode="wrap") * s for s in (0.7, 3.0, 11.0)]
    patch = np.clip(np.array([190, 120, 170]) + 40 * sum(layers), 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, pixels in enumerate((patch, patch[::4, ::4].copy())):
            size, n = side // 4**level, pixels.shape[0]

            def tiles(size=size, n=n, pixels=pixels):
                for y in range(0, size, 256):
                    for x in range(0, size, 256):
                        yield pixels[y % n : y % n + 256, x % n : x % n + 256]

            writer.write(
                tiles(),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 80},
                photometric="rgb",
                subfiletype=int(level > 0),
                resolution=(1e4 / MPP / 4**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def write_encoder(folder: Path, architecture: str, **kwargs: object) -> str:
    """Write a vision transformer with random weights: what it costs does not depend on them."""
    folder.mkdir()
    model = timm.create_model(architecture, num_classes=0, **kwargs)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    data = {"input_size": [3, *model.patch_embed.img_size], "interpolation": "bicubic", "num_classes": 0}
    data |= {"fixed_input_size": True, "mean": [0.5] * 3, "std": [0.25] * 3}
    data |= {"first_conv": "patch_embed.proj", "classifier": "head"}
    config = {"architecture": architecture, "num_classes": 0, "num_features": model.num_features}
    (folder / "config.json").write_text(json.dumps({**config, "model_args": kwargs, "pretrained_cfg": data}))
    return f"local:{folder}"


def write_table(path: Path, side: int, n: int, *, seed: int = 0) -> None:
    """Write a table of tiles at random places, in random order, as the cells of a Xenium section come."""
    xy = np.random.default_rng(seed).uniform(200, side - 200, (n, 2)).round(1)
    table = pd.DataFrame(xy, columns=["x", "y"])
    table["source_image"], table["cell_id"] = "slide.tif", [f"cell{i}" for i in range(n)]
    table.to_csv(path, index=False)


@pytest.fixture(scope="module")
def is_timed(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--benchmark-enable"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, is_timed: bool) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    write_slide(folder / "slide.tif", 8192 if is_timed else 1024)
    return folder


def config_of(lab: Path, name: str, encoder: str, **options: object) -> EmbedConfig:
    return EmbedConfig(
        csv=lab / f"{name}.csv",
        root=lab,
        section=name,
        store=lab / f"{name}.zarr",
        enc_name=encoder,
        batch_size=BATCH,
        device="cpu",
        tile_um=(112.0,),
        **options,
    )


def said(what: str) -> None:
    print(what, file=sys.stderr)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Tiles a second of the bare encoder, and its time (by the clock, of the processor) over that of `spam embed`."""

    bare: float
    ratio: float
    cpu_ratio: float


def paired(config: EmbedConfig, *, n: int, n_pairs: int, n_in_memory: int) -> list[Pair]:
    """Measure `n` tiles through `spam embed`, from the files, between two runs of the bare encoder, from memory.

    What slows the machine for a while, or grows from run to run, then slows both halves of a ratio.
    """
    built = build_encoder(
        encoder_card(config.enc_name), device=resolve_device(config.device), is_amp=config.amp
    )
    section = read_section(config)
    with open_slide(config.root / "slide.tif") as slide:
        order = sweep_order(section.xy_px, slide, native_px=224, out_px=224)
        with TileReader(section, TileSpec(tile_px=224), slide=slide) as reader:
            tiles = np.array([reader.read(i) for i in order[:n_in_memory]])
    built.embed(tiles[: config.batch_size])  # the first batch is slower, wherever it comes from

    def bare() -> None:
        begun = []
        for first in range(0, n, config.batch_size):  # one batch ahead, as `spam embed` does on a GPU
            places = np.arange(first, min(first + config.batch_size, n)) % len(tiles)
            begun.append(built.begin(tiles[places]))
            if len(begun) > 1:
                begun.pop(0)()
        for wait in begun:
            wait()

    def seconds(work: Callable[[], object]) -> Array:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return np.array([time.perf_counter() - wall, time.process_time() - cpu])

    pairs, before = [], seconds(bare)
    for turn in range(n_pairs):
        end_to_end = dataclasses.replace(config, store=config.store.with_suffix(f".{turn}.zarr"))
        whole, after = seconds(lambda end_to_end=end_to_end: embed(end_to_end)), seconds(bare)
        ratio, cpu_ratio = (before + after) / 2 / whole
        pairs.append(Pair(bare=2 * n / (before + after)[0], ratio=ratio, cpu_ratio=cpu_ratio))
        said(
            f"bare {pairs[-1].bare:.1f} tiles/s, spam embed {n / whole[0]:.1f}: ratio {ratio:.3f}, of the processor's time "
            f"{cpu_ratio:.3f}"
        )
        before = after
    return pairs


def test_embedding_takes_as_long_as_its_encoder(lab: Path, is_timed: bool) -> None:
    """From the files to the finished store, against the bare encoder on the same tiles in memory, in turns."""
    n, n_pairs = (640, 6) if is_timed else (5, 2)
    name = "vit_small_patch16_224" if is_timed else "vit_tiny_patch16_224"
    write_table(lab / "share.csv", 8192 if is_timed else 1024, n)
    config = config_of(lab, "share", write_encoder(lab / "vit", name))
    print_ratio(name, paired(config, n=n, n_pairs=n_pairs, n_in_memory=n))


@pytest.mark.parametrize("name", ["efficientnet_lite0_stages", "vit_small_patch16_224"])
def test_few_tiles_a_thread_are_faster_on_the_cpu(name: str, lab: Path, is_timed: bool) -> None:
    """The passes of `Encoder` on a CPU, against all threads in one pass of the whole batch, in turns."""
    card = name if name.startswith("efficientnet") else write_encoder(lab / f"one_{name}", name)
    n, n_turns = (BATCH, 6) if is_timed else (5, 1)
    tiles = np.random.default_rng(0).integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)
    encoder = build_encoder(encoder_card(card), device=torch.device("cpu"))
    ways = {"few": encoder.embed, "whole": lambda given: encoder._forward(torch.from_numpy(given)).numpy()}
    np.testing.assert_allclose(ways["few"](tiles), ways["whole"](tiles), rtol=1e-3, atol=1e-3)
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(n_turns):
        for way, features_of in ways.items():
            begun = time.perf_counter()
            features_of(tiles)
            spent[way].append(time.perf_counter() - begun)
    few, whole = (n / np.median(spent[way]) for way in ways)
    said(f"{name}: {few:.1f} tiles/s, {n} in one pass {whole:.1f}: {few / whole:.2f} times")


@pytest.mark.gpu
def test_embedding_keeps_a_gpu_busy(lab: Path, is_timed: bool) -> None:
    """The same with a ViT-L of random weights in mixed precision on a GPU: the goal is .9 of the bare encoder."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    n, n_pairs = (100_000, 3) if is_timed else (BATCH, 1)
    write_table(lab / "busy.csv", 8192 if is_timed else 1024, n)
    config = dataclasses.replace(
        config_of(lab, "busy", write_encoder(lab / "large", "vit_large_patch16_224")),
        device="cuda",
        amp=True,
        batch_size=256,
    )
    ratio = print_ratio(
        "vit_large_patch16_224", paired(config, n=n, n_pairs=n_pairs, n_in_memory=min(n, 4096))
    )
    if is_timed:
        assert ratio >= 0.9


def print_ratio(name: str, pairs: list[Pair]) -> float:
    """Print median and spread of the pairs, and return the median ratio."""
    ratios = np.array([pair.ratio for pair in pairs])
    said(
        f"{name}, {len(pairs)} pairs: bare {np.median([pair.bare for pair in pairs]):.1f} tiles/s; ratio median "
        f"{np.median(ratios):.3f}, {ratios.min():.3f} to {ratios.max():.3f}; of the processor's time "
        f"{np.median([pair.cpu_ratio for pair in pairs]):.3f}"
    )
    return float(np.median(ratios))


def test_overlapping_tiles_are_read_by_sweeping(lab: Path, is_timed: bool) -> None:
    """Tiles that overlap twenty-fold: the reader of `spam embed` against one region call a tile, in one thread each."""
    side, n = (8192, 26_000) if is_timed else (1024, 300)
    write_table(lab / "dense.csv", side, n)
    section = read_section(config_of(lab, "dense", "efficientnet_lite0"))
    n_alone = n // 20
    alone = openslide.OpenSlide(lab / "slide.tif")
    begun = time.perf_counter()
    expected = []
    for x, y in section.xy_px[:n_alone]:
        corner = (int(np.floor(x - 112 + 0.5)), int(np.floor(y - 112 + 0.5)))
        expected.append(np.asarray(alone.read_region(corner, 0, (224, 224)).convert("RGB")))
    per_call = n_alone / (time.perf_counter() - begun)
    with (
        open_slide(lab / "slide.tif") as slide,
        TileReader(section, TileSpec(tile_px=224), slide=slide) as reader,
    ):
        order = sweep_order(section.xy_px, slide, native_px=224, out_px=224)
        found = np.zeros((n_alone, 224, 224, 3), dtype=np.uint8)
        batches = [order[first : first + BATCH] for first in range(0, n, BATCH)]
        begun = time.perf_counter()
        for batch in batches:
            [reader.read(i) for i in batch]
        swept = n / (time.perf_counter() - begun)
        begun = time.perf_counter()
        for batch, tiles in zip(batches, read_batches(reader, batches, n_threads=2), strict=True):
            for index, tile in zip(batch, tiles.pixels, strict=True):
                if index < n_alone:
                    found[index] = tile
        with_quality = n / (time.perf_counter() - begun)
    np.testing.assert_array_equal(found, expected)
    said(
        f"{n} tiles, {n * 224**2 / side**2:.0f}-fold: one region call a tile {per_call:.0f}/s, swept {swept:.0f}/s: "
        f"ratio {swept / per_call:.1f}; two threads, with the quality of each tile: {with_quality:.0f}/s"
    )


PEAK = """
    import resource, sys
    import torch
    from spam.embedding import embed
    from spam.schemas.embed_config import EmbedConfig
    torch.set_num_threads(1)
    folder, name = sys.argv[1:]
    embed(EmbedConfig.from_mapping({
        "csv": f"{folder}/{name}.csv", "root": folder, "section": name, "store": f"{folder}/{name}.zarr",
        "enc_name": f"local:{folder}/wide", "batch_size": 256, "device": "cpu", "tile_um": [112.0],
    }))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_tiles(lab: Path, is_timed: bool) -> None:
    """Peak memory of `spam embed`, in a separate process, with an encoder of negligible cost."""
    side = 8192 if is_timed else 1024
    write_encoder(
        lab / "wide", "vit_tiny_patch16_224", img_size=32, patch_size=32, embed_dim=768, depth=1, num_heads=1
    )
    peaks = {}
    for n in (10_000, 200_000) if is_timed else (50, 300):
        write_table(lab / f"n{n}.csv", side, n)
        begun = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-P", "-c", textwrap.dedent(PEAK), str(lab), f"n{n}"],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[n] = float(run.stdout)
        said(
            f"{n} tiles of 768 numbers: peak {peaks[n]:.0f} MB, {n / (time.perf_counter() - begun):.0f} tiles/s"
        )


def test_an_epoch_of_training_encodes_nothing(lab: Path, is_timed: bool, tmp_path: Path) -> None:
    """An epoch of alignment from the store, against an epoch that encodes every tile twice, as the research code did."""
    simulate(SimulateConfig(out_dir=tmp_path / "cohort", n_spots=150 if is_timed else 20))
    store = tmp_path / "store.zarr"
    begun = time.perf_counter()
    report = embed(
        EmbedConfig(manifest=tmp_path / "cohort/sections.csv", root=tmp_path / "cohort", store=store)
    )
    once = time.perf_counter() - begun
    epochs = 20 if is_timed else 2
    begun = time.perf_counter()
    pretrain(PretrainConfig(store=store, save_dir=tmp_path / "ckpt", epochs=epochs))
    per_epoch = (time.perf_counter() - begun) / epochs
    n = sum(section.n_spots for section in report.sections)
    said(
        f"{n} spots: embedding once {once:.1f} s, an epoch from the store {per_epoch:.2f} s, an epoch that "
        f"encodes twice {2 * once:.1f} s: {2 * once / per_epoch:.0f} times as long"
    )
