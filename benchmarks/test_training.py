"""Both stages, graphs and prediction on simulated cells: seconds and peak memory by the number of cells.

``pytest benchmarks/test_training.py --benchmark-enable -n 0 -s`` writes three sections of cells with given features (1,024
numbers, 300 genes), at 10 000, 100 000 and 1 000 000 cells in all (``SPAM_CELLS=10000,100000`` names other numbers), and runs
each step in a new process. Exponents are slopes of log(processor time), and of log(memory beyond that of the imports), over
log(cells). ``-k large_section`` predicts 1 000 000 cells of 500 genes, also with ``--memory-budget 1``. ``-k one_section`` measures
both stages with their default epochs on one section of 5,000 spots (1,024 features, 2,000 genes), ``-k ten_million`` the spatial
graph of 10 000 000 points. Without the option, all steps run once on a few cells.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from spam import finetune, predict
from spam.graphs import spatial_knn_graph
from spam.schemas.predict_config import PredictConfig
from spam.schemas.store_format import FeatureMeta, SectionMeta, feature_key
from spam.schemas.training_config import FinetuneConfig
from spam.store import create_store, default_chunk_rows, open_store
from spam.store.writing import write_root, write_section

_ROWS = 1 << 14  # cells that are drawn at a time
_HIDDEN = 8  # what features and expression share
_WIDE = 11  # cells per turn of the spatial pattern
# Each step is timed without the imports.
_RUN = """
import json, re, sys, threading, time
import spam
from spam.schemas.graph_config import GraphConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam import build_graphs, finetune, predict, pretrain
from spam.graphs import ensure_spatial_graph
from spam.store import open_store
import spam.embedding, spam.predicting, spam.training
status = lambda field: int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
own = [0.0]
def watch():
    while True:
        own[0] = max(own[0], status("RssAnon"))
        time.sleep(0.1)
threading.Thread(target=watch, daemon=True).start()
step, options = sys.argv[1], json.loads(sys.argv[2])
def build_spatial(config):
    store = open_store(config.store, is_read_only=False)
    for name in store.section_names:
        ensure_spatial_graph(store.section(name), k=config.k_spatial, is_overwrite=True)
kinds = {"spatial": (GraphConfig, build_spatial), "graph": (GraphConfig, build_graphs), "pretrain": (PretrainConfig, pretrain),
         "finetune": (FinetuneConfig, finetune), "predict": (PredictConfig, predict)}
kind, run = kinds[step]
before, begun, cpu = status("VmHWM"), time.perf_counter(), time.process_time()
run(kind.from_mapping(options))
spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
print(json.dumps({**spent, "mb": status("VmHWM"), "own_mb": own[0], "imports_mb": before}))
"""


def add_cells(
    store: Path, name: str, n_cells: int, *, dim: int, n_genes: int, seed: int, depth: float = 200.0
) -> None:
    """Add a section of cells at random places, whose features and counts follow smooth patterns; written chunk by chunk."""
    shared = np.random.default_rng(7)  # the same genes and the same encoder in all sections
    loadings = shared.normal(size=(_HIDDEN, n_genes)) * 0.5 / math.sqrt(_HIDDEN)
    base = shared.normal(0.0, 1.0, n_genes)
    mixing = shared.normal(size=(_HIDDEN, dim)).astype(np.float32)
    turns = shared.normal(size=(2, _HIDDEN)) / _WIDE
    rng = np.random.default_rng([seed, 1])
    xy_um = rng.random((n_cells, 2)) * math.sqrt(n_cells) * 10
    parts = [slice(i, min(i + _ROWS, n_cells)) for i in range(0, n_cells, _ROWS)]

    def hidden(part: slice) -> np.ndarray:
        noise = np.random.default_rng([seed, 2, part.start]).normal(size=(part.stop - part.start, _HIDDEN))
        return np.sin(xy_um[part] / 10 @ turns + seed) + 0.5 * noise

    counts = []
    for part in parts:
        rate = np.exp(base + hidden(part) @ loadings)
        size = rng.lognormal(math.log(depth), 0.4, len(rate))
        counts.append(csr_matrix(rng.poisson(rate * (size / rate.sum(axis=1))[:, None]).astype(np.int32)))
    meta = SectionMeta(
        name=name,
        donor=f"donor of {name}",
        n_spots=n_cells,
        n_genes=n_genes,
        has_counts=True,
        mpp=0.5,
        mpp_source="option",
        slide_width_px=None,
        slide_height_px=None,
        sources=(),
        software={},
    )
    folder = create_store(store).folder
    genes = np.array([f"G{i}" for i in range(n_genes)])
    ids = np.arange(n_cells).astype(str)
    write_section(
        folder, meta, ids=ids, xy_px=xy_um * 2, xy_um=xy_um, counts=vstack(counts, format="csr"), genes=genes
    )
    write_root(folder)
    feature_meta = FeatureMeta(
        key=feature_key("given", "64um"),
        origin="embed",
        encoder={"name": "given"},
        weights_sha256="ab" * 32,
        lora_sha256=None,
        tile={"tile_um": 64.0, "tile_px": None, "out_px": 224},
        sampling=None,
        precision="float32",
        dim=dim,
        dtype="float16",
        chunk_rows=default_chunk_rows(dim, "float16"),
        software={},
    )
    writer = open_store(store, is_read_only=False).section(name).feature_writer(feature_meta)
    drawn = np.concatenate([hidden(part) for part in parts]).astype(np.float32)
    for chunk in list(writer.pending):
        noise = np.random.default_rng([seed, 3, chunk.start]).normal(size=(chunk.stop - chunk.start, dim))
        writer.write(chunk, drawn[chunk] @ mixing + 0.7 * noise.astype(np.float32))
    writer.finish()


def add_cohort(store: Path, n_cells: int, *, dim: int, n_genes: int) -> Path:
    for i in range(3):
        add_cells(store, f"S{i + 1}", n_cells // 3, dim=dim, n_genes=n_genes, seed=i)
    return store


def measure(step: str, **options: object) -> dict[str, float]:
    """Run one step in a new process: its seconds, peak memory, and memory after the imports.

    ``own_mb`` is without the pages of mapped files, which the operating system takes back when it needs room.
    """
    values = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _RUN, step, json.dumps(values)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def options_of(step: str, store: Path, out: Path) -> dict[str, object]:
    """Options of one step; a stage trains for one epoch."""
    training = {"store": store, "epochs": 1, "n_top_genes": 2000, "overwrite": True, "save_dir": out / step}
    checkpoint = {"ckpt": out / "finetune" / "best.safetensors", "out_dir": out / "predict"}
    return {
        "spatial": {"store": store},
        "graph": {"store": store, "overwrite": True},
        "pretrain": training,
        "finetune": training,
        "predict": {"store": store, "section": "S3", **checkpoint, "plots": False, "overwrite": True},
    }[step]


def test_steps_grow_with_the_cells(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--benchmark-enable"):
        store = add_cohort(tmp_path / "cells.zarr", 300, dim=13, n_genes=29)
        small = {"k": 5, "n_neighbours": 4, "members": 1}
        report = finetune(FinetuneConfig.from_mapping({**options_of("finetune", store, tmp_path), **small}))
        assert report.n_train == 300
        found = predict(PredictConfig.from_mapping(options_of("predict", store, tmp_path)))
        assert np.isfinite(found.predicted.expression).all()
        return
    sizes = [int(n) for n in os.environ.get("SPAM_CELLS", "10000,100000,1000000").split(",")]
    rows = []
    for step in ("spatial", "graph", "pretrain", "finetune", "predict"):
        found = []
        for n in sizes:
            store = tmp_path / f"{n}.zarr"
            if not store.exists():
                add_cohort(store, n, dim=1024, n_genes=300)
            found.append(measure(step, **options_of(step, store, tmp_path / str(n))))
            print(f"\n{step}, {n} cells: {found[-1]}")
        for name, values in (
            ("cpu_seconds", [each["cpu_seconds"] for each in found]),
            ("mb", [each["mb"] - each["imports_mb"] for each in found]),
        ):
            slope = float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) if len(sizes) > 1 else math.nan
            rows.append(f"| {step} | {name} | {' | '.join(f'{v:.0f}' for v in values)} | {slope:.2f} |")
            assert not slope > 1.1
    print("\n" + "\n".join(rows))


def test_predict_a_large_section(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    is_timed = request.config.getoption("--benchmark-enable")
    n, n_trained, dim, n_genes = (1_000_000, 10_000, 1024, 500) if is_timed else (101, 300, 13, 29)
    store = add_cohort(tmp_path / "trained.zarr", n_trained, dim=dim, n_genes=n_genes)
    small = {} if is_timed else {"k": 5, "n_neighbours": 4, "members": 1}
    finetune(FinetuneConfig.from_mapping(options_of("finetune", store, tmp_path) | small))
    new = tmp_path / "new.zarr"
    add_cells(new, "S3", n, dim=dim, n_genes=n_genes, seed=5)
    options = options_of("predict", new, tmp_path)
    if not is_timed:
        assert np.isfinite(predict(PredictConfig.from_mapping(options)).predicted.expression).all()
        return
    for budget in (None, 1.0):
        found = measure("predict", **options, memory_budget=budget)
        print(f"\n| {budget} | " + " | ".join(f"{name} {value:.0f}" for name, value in found.items()))
        assert found["own_mb"] < 12_000


def test_one_section(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    is_timed = request.config.getoption("--benchmark-enable")
    n, dim, n_genes = (5000, 1024, 2000) if is_timed else (101, 13, 29)
    store, used = tmp_path / "section.zarr", []
    add_cells(store, "S1", n, dim=dim, n_genes=n_genes, seed=0, depth=3000.0)
    if not is_timed:
        small = options_of("finetune", store, tmp_path) | {"k": 5, "n_neighbours": 4, "members": 1}
        assert finetune(FinetuneConfig.from_mapping(small)).n_train == n
        return
    for step, epochs in (("pretrain", 50), ("finetune", 30)):
        used.append(measure(step, **options_of(step, store, tmp_path) | {"epochs": epochs}))
        print(f"\n| {step} | " + " | ".join(f"{name} {value:.0f}" for name, value in used[-1].items()))
    assert sum(row["seconds"] for row in used) < 60


def test_spatial_graph_of_ten_million(request: pytest.FixtureRequest) -> None:
    n = 10_000_000 if request.config.getoption("--benchmark-enable") else 1009
    xy = np.random.default_rng(0).random((n, 2)) * math.sqrt(n)
    begun, cpu = time.perf_counter(), time.process_time()
    graph = spatial_knn_graph(xy, k=12)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{time.perf_counter() - begun:.0f} s, {time.process_time() - cpu:.0f} s of CPU, {peak:.0f} MB")
    some = np.random.default_rng(1).integers(0, n, 19)
    for row, near in zip(some, graph.distances[some], strict=True):
        distance = np.sort(np.hypot(*(xy - xy[row]).T))[1:13]
        np.testing.assert_allclose(np.sort(near.data), distance, rtol=1e-9)
