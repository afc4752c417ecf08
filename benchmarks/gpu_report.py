"""What a GPU does for each step, as one page: `benchmarks/gpu.sh` runs it after the tests marked ``gpu``.

Embedding: tiles per second of the bare encoder and of `spam embed`, and the share of the device's peak that the model's
operations use (model-FLOPs utilisation; the peak is that of a bfloat16 matrix product in the same run). Training: seconds of
the steps on cells with given features. Graph: neighbours by features with FAISS. The page is written after each part, so a run
that is stopped keeps what it has; what was not run is listed with its reason.
"""

import argparse
import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import faiss
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from test_embedding import config_of, paired, write_encoder, write_slide, write_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spam import FinetuneConfig, PredictConfig, PretrainConfig, finetune, predict, pretrain
from spam.encoders import build_encoder, encoder_card
from spam.graphs.neighbour_search import gpu_resources, knn
from spam.hardware import measured
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.store_config import ImportFeaturesConfig
from spam.schemas.tile_spec import TileSpec
from spam.sections import read_section
from spam.store.importing import import_features
from spam.tiles import TileReader, open_slide, read_batches, sweep_order

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.md"
LIMIT_S = 320.0  # benchmarks/gpu.sh stops after 340 s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of all parts."""

    models: dict[str, int]  # timm name -> tiles
    batch_size: int
    slide_px: int
    matmul: int
    cells: int
    dim: int
    n_genes: int
    epochs: int
    graph_points: int


LARGE = Sizes(
    models={
        "vit_large_patch16_224": 60_000,
        "vit_base_patch16_224": 80_000,
        "vit_small_patch16_224": 100_000,
    },
    batch_size=256,
    slide_px=8192,
    matmul=8192,
    cells=60_000,
    dim=1024,
    n_genes=300,
    epochs=3,
    graph_points=100_000,
)
SMALL = Sizes(
    models={"vit_tiny_patch16_224": 9},
    batch_size=4,
    slide_px=1024,
    matmul=256,
    cells=120,
    dim=11,
    n_genes=60,
    epochs=1,
    graph_points=500,
)


def gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


def peak_flops(device: torch.device, n: int) -> float:
    """Measure operations per second of a bfloat16 matrix product of n x n."""
    a = torch.ones((n, n), dtype=torch.bfloat16, device=device)
    best = 0.0
    for _ in range(5):
        with measured(device) as usage:
            for _ in range(10):
                a @ a
        best = max(best, 10 * 2 * n**3 / usage.seconds)
    return best


def flops_of(source: str) -> float:
    """Count the operations of one tile: two for each multiplication and addition."""
    encoder = build_encoder(encoder_card(source), device=torch.device("cpu"))
    px = encoder.card.input_px
    # Fused attention is not counted, nor are the operations of other threads, which `embed` uses.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder._forward(torch.zeros((1, px, px, 3), dtype=torch.uint8))
    return float(counter.get_total_flops())


def reading_rate(config: EmbedConfig, n: int) -> float:
    """Tiles per second that the reading threads of `spam embed` deliver, with the quality of each."""
    section = read_section(config)
    with (
        open_slide(config.root / "slide.tif") as slide,
        TileReader(section, TileSpec(tile_px=224), slide=slide) as reader,
    ):
        order = sweep_order(section.xy_px, slide, native_px=224, out_px=224)[:n]
        batches = np.split(order, range(config.batch_size, len(order), config.batch_size))
        n_threads = config.n_readers(torch.device(config.device).type)
        begun = time.perf_counter()
        for _ in read_batches(reader, batches, n_threads=n_threads):
            pass
    return len(order) / (time.perf_counter() - begun)


def embedding(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[str]:
    peak = peak_flops(device, sizes.matmul)
    yield f"Peak of a bfloat16 matrix product: {peak / 1e12:.1f} TFLOP/s."
    yield ""
    yield "Tiles per second: reading alone, the encoder alone, and `spam embed` from files to the finished store."
    yield ""
    yield "| model | GFLOP/tile | reading | encoder | of the peak | `spam embed` | of the encoder | memory | GPU |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    write_slide(folder / "slide.tif", sizes.slide_px)
    for name, n in sizes.models.items():
        source = write_encoder(folder / name, name)
        write_table(folder / f"{name}.csv", sizes.slide_px, n)
        config = dataclasses.replace(
            config_of(folder, name, source), device=str(device), amp=True, batch_size=sizes.batch_size
        )
        with measured(device) as usage:
            (pair,) = paired(config, n=n, n_pairs=1, n_in_memory=min(n, 4096))
        operations = flops_of(source)
        embedded = pair.bare * pair.ratio
        read = reading_rate(config, min(n, 20_000))
        rates = f"{read:.0f} | {pair.bare:.0f} | {pair.bare * operations / peak:.0%} | {embedded:.0f} | {pair.ratio:.2f}"
        yield f"| {name} | {operations / 1e9:.1f} | {rates} | {gb(usage.memory_bytes)} | {gb(usage.gpu_bytes)} |"


def add_cells(store: Path, name: str, sizes: Sizes, *, seed: int) -> None:
    """Add a section of cells whose features and counts follow the same hidden pattern."""
    rng, shared = np.random.default_rng([seed, 1]), np.random.default_rng(7)
    n = sizes.cells // 3
    hidden = rng.standard_normal((n, 8), dtype=np.float32)
    rate = np.exp(0.5 * hidden @ shared.standard_normal((8, sizes.n_genes), dtype=np.float32) - 1)
    ids = [f"{name}_{i}" for i in range(n)]
    adata = anndata.AnnData(
        X=csr_matrix(rng.poisson(rate).astype(np.int32)),
        obs=pd.DataFrame({"section": name, "donor": f"donor of {name}"}, index=ids),
        var=pd.DataFrame(index=[f"G{i}" for i in range(sizes.n_genes)]),
        obsm={"spatial": rng.random((n, 2)) * n**0.5 * 20},
    )
    adata.write_h5ad(store.with_name(f"{name}.h5ad"))
    features = store.with_name(f"{name}.npy")
    np.save(features, hidden @ shared.standard_normal((8, sizes.dim), dtype=np.float32))
    pd.DataFrame({"spot_id": ids}).to_csv(features.with_suffix(".csv"), index=False)
    import_features(
        ImportFeaturesConfig(
            store=store,
            file=features,
            h5ad=store.with_name(f"{name}.h5ad"),
            coordinates=features.with_suffix(".csv"),
            section=name,
            mpp=0.5,
            enc_name="given",
            tile_um=64.0,
        )
    )


def training(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[str]:
    store = folder / "cells.zarr"
    for seed, name in enumerate(("S1", "S2", "S3")):
        add_cells(store, name, sizes, seed=seed)
    amp = device.type == "cuda"
    shared = {
        "store": store,
        "device": str(device),
        "amp": amp,
        "epochs": sizes.epochs,
        "sections": ("S1", "S2"),
    }
    shared |= {"n_top_genes": sizes.n_genes}
    tuned = folder / "finetune"
    steps: dict[str, Callable[[], object]] = {
        f"pretrain, {sizes.epochs} epochs": lambda: pretrain(
            PretrainConfig(save_dir=folder / "pretrain", **shared)
        ),
        f"finetune, {sizes.epochs} epochs": lambda: finetune(FinetuneConfig(save_dir=tuned, **shared)),
        "predict, one section": lambda: predict(
            PredictConfig(
                store=store,
                section="S3",
                ckpt=tuned / "best.safetensors",
                out_dir=folder / "predict",
                device=str(device),
                plots=False,
            )
        ),
    }
    yield f"Three sections, {sizes.cells} cells in all, {sizes.dim} features, {sizes.n_genes} genes; two are trained on."
    yield ""
    yield "| step | seconds | memory | GPU |"
    yield "|---|---:|---:|---:|"
    for name, run in steps.items():
        with measured(device) as usage:
            run()
        yield f"| {name} | {usage.seconds:.1f} | {gb(usage.memory_bytes)} | {gb(usage.gpu_bytes)} |"


def graph(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[str]:
    if device.type == "cuda" and gpu_resources() is None:
        reason = f"FAISS {faiss.__version__} has no usable GPU"
        raise RuntimeError(reason)
    points = np.random.default_rng(0).standard_normal((sizes.graph_points, sizes.dim)).astype(np.float32)
    with measured(device) as usage:
        found = knn(points, k=15, metric="cosine", backend="faiss")
    yield "| points | features | k | search | recall | seconds | memory |"
    yield "|---:|---:|---:|---|---:|---:|---:|"
    how = f"{found.backend} | {found.recall:.4f}"
    yield f"| {len(points)} | {sizes.dim} | 15 | {how} | {usage.seconds:.1f} | {gb(usage.memory_bytes)} |"


PARTS = {"Embedding": embedding, "Training and prediction": training, "Feature graph": graph}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, to test this script")
    parser.add_argument("--tests", default="", help="last line of the tests marked gpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device, sizes = torch.device(options.device), SMALL if options.small else LARGE
    is_there = device.type != "cuda" or torch.cuda.is_available()
    named = torch.cuda.get_device_name(device) if device.type == "cuda" and is_there else str(device)
    head = (
        f"`benchmarks/gpu.sh`, {time.strftime('%d %B %Y')}; {named if is_there else 'no GPU'}; Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}, FAISS {faiss.__version__}"
    )
    sections = {"Tests marked `gpu`": [options.tests or "not run"]}
    sections |= {name: ["not run: no GPU was at hand"] for name in PARTS}
    begun, is_good = time.perf_counter(), True

    def write() -> None:
        parts = ["# On a GPU", head + (": small sizes, to test the script." if options.small else ".")]
        parts += [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items()]
        options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    write()
    for name, part in PARTS.items() if is_there else ():
        if time.perf_counter() - begun > LIMIT_S / 2:
            sections[name] = ["not run: no time was left"]
            continue
        lines = sections[name] = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                for line in part(device, sizes, Path(folder)):
                    lines.append(line)
                    print(line, file=sys.stderr, flush=True)
                    write()
            except Exception as error:  # noqa: BLE001  the other parts still run, and the page names the error
                lines.append(f"not run to its end: {error!r}")
                is_good = False
        write()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
