"""`spam plan`: amounts that are exact, estimates that follow the measurements, and nothing left behind."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_lab import make_cohort_files
from hypothesis import given
from hypothesis import strategies as st
from published import run

from spam import probing
from spam.embedding import embed
from spam.hardware import Usage, measured
from spam.probing import plan
from spam.schemas.embed_config import EmbedConfig, PlanConfig
from spam.store import open_store

SIZES = {"tile_um": (16.0, 32.0), "probe_s": 1.0}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    """Sections A, B and C of 35 spots and 11 genes each, with a tiny encoder."""
    return make_cohort_files(tmp_path_factory.mktemp("lab"))


def planned(tiles: EmbedConfig, **others: object) -> PlanConfig:
    return PlanConfig.from_mapping({**tiles.to_mapping(), **SIZES, **others})


def test_amounts_are_those_of_the_files_and_of_the_store(tiles: EmbedConfig, tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    report = plan(planned(tiles, store=store))
    assert (report.n_sections, report.n_spots, report.n_tiles, report.n_left) == (3, 105, 210, 210)
    assert [step.step for step in report.steps] == ["embed", "pretrain", "finetune", "predict"]
    assert not list(tmp_path.iterdir())
    embed(EmbedConfig.from_mapping({**tiles.to_mapping(), "store": store, "tile_um": (16.0,)}))
    features = [open_store(store).section(name).stored_features("local-tiny_16um") for name in "ABC"]
    again = plan(planned(tiles, store=store))
    assert (again.n_tiles, again.n_left) == (210, 105)
    assert again.steps[0].disk_bytes == sum(values.nbytes for values in features)  # of the size that is left
    assert open_store(store).section("A").feature_keys == ("local-tiny_16um",)
    for step in again.steps:
        assert step.hours > 0
        assert step.memory_bytes > 1e8  # torch alone
        assert step.disk_bytes > 0


def test_what_is_replaced_is_planned_and_a_part_is_a_share(tiles: EmbedConfig, tmp_path: Path) -> None:
    assert tiles.manifest is not None
    folder, store = tiles.manifest.parent, tmp_path / "store.zarr"
    one = {"manifest": None, "csv": folder / "A.csv", "root": folder / "images", "store": store}
    embed(EmbedConfig.from_mapping({**tiles.to_mapping(), **one, "tile_um": SIZES["tile_um"]}))
    assert plan(planned(tiles, **one)).n_left == 0
    assert plan(planned(tiles, **one, overwrite=True)).n_left == 70
    (part,) = plan(planned(tiles, **one | {"store": tmp_path / "other.zarr"}, shard="2/7")).steps
    assert part.work.startswith("10 tiles")
    assert part.disk_bytes == 10 * open_store(store).section("A").stored_features("local-tiny_16um")[0].nbytes


def test_sections_of_different_sizes_are_probed(
    tiles: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first section has no more spots to give when the others still have."""
    monkeypatch.setattr(probing, "_FEWEST", 30)
    assert tiles.manifest is not None
    table = tiles.manifest.parent / "A.csv"
    rows = table.read_text()
    table.write_text("".join(rows.splitlines(keepends=True)[:12]))
    try:
        report = plan(planned(tiles, store=tmp_path / "s.zarr", allow_missing_tiles=True))
    finally:
        table.write_text(rows)
    assert report.n_spots == 11 + 35 + 35
    assert len(report.steps) == 4


def test_without_counts_only_the_embedding_is_planned(tiles: EmbedConfig, tmp_path: Path) -> None:
    assert tiles.manifest is not None
    folder = tiles.manifest.parent
    one = {"manifest": None, "csv": folder / "A.csv", "root": folder / "images", "store": tmp_path / "s.zarr"}
    report = plan(planned(tiles, **one))
    assert [step.step for step in report.steps] == ["embed"]
    assert report.steps[0].work.startswith("70 tiles")
    assert "no section has counts" in report.notes[0]


def test_a_cohort_that_cannot_be_trained_on_says_why(tiles: EmbedConfig, tmp_path: Path) -> None:
    assert tiles.manifest is not None
    lines = tiles.manifest.read_text().splitlines()
    few = tiles.manifest.with_name("few.csv")
    few.write_text("\n".join(lines[:2]))
    table = (tiles.manifest.parent / "A.csv").read_text().splitlines()
    (tiles.manifest.parent / "A.csv").write_text("\n".join(table[:4]))
    try:
        report = plan(planned(tiles, manifest=few, store=tmp_path / "s.zarr", allow_missing_tiles=True))
    finally:
        (tiles.manifest.parent / "A.csv").write_text("\n".join(table))
    assert [step.step for step in report.steps] == ["embed"]
    assert report.n_spots == 3
    assert "a small part fails" in report.notes[0]


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(tiles: EmbedConfig, tmp_path: Path) -> None:
    command = [
        "plan",
        "--manifest",
        tiles.manifest,
        "--store",
        tmp_path / "s.zarr",
        "--enc-name",
        tiles.enc_name,
    ]
    command += ["--mpp", "0.5", "--tile-um", "16", "--device", "cpu", "--probe-s", "1"]
    done = run(*command, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["n_tiles"], said["n_left"], said["device"]) == (105, 105, "cpu")
    assert {step["step"] for step in said["steps"]} == {"embed", "pretrain", "finetune", "predict"}


@given(
    per_epoch=st.floats(0, 1e-2),
    per_spot=st.floats(0, 1e-2),
    fixed=st.floats(0, 10),
    n=st.integers(1, 10**7),
    epochs=st.integers(1, 100),
)
def test_a_line_is_extrapolated_exactly(
    per_epoch: float, per_spot: float, fixed: float, n: int, epochs: int
) -> None:
    samples = [
        probing._Sample(
            n=size,
            epoch_s=per_epoch * size,
            other_s=fixed + per_spot * size,
            usage=Usage(memory_bytes=10**9 + 1000 * size, gpu_bytes=7 * size),
            disk_bytes=10**6 + 10 * size,
        )
        for size in (50, 200, 400)
    ]
    step = probing._extrapolated("finetune", samples, [n], epochs)
    assert step.hours * 3600 == pytest.approx(fixed + per_spot * n + epochs * per_epoch * n, abs=1e-6)
    assert (step.memory_bytes, step.gpu_bytes, step.disk_bytes) == (10**9 + 1000 * n, 7 * n, 10**6 + 10 * n)
    # The noise between two samples of nearly one size is no slope.
    nearly = probing._extrapolated("finetune", [*samples, dataclasses.replace(samples[-1], n=401)], [602], 1)
    assert nearly.hours * 3600 == pytest.approx(fixed + (per_spot + per_epoch) * 600, abs=1e-6)
    several = probing._extrapolated("predict", samples, [n, 2 * n], 0)
    assert several.hours * 3600 == pytest.approx(2 * fixed + 3 * per_spot * n, abs=1e-6)
    assert several.memory_bytes == 10**9 + 2000 * n


@pytest.mark.parametrize(
    ("hours", "words"), [(26, "26.0 h"), (0.1, "6.0 min"), (0.01, "36.0 s"), (0, "0.0 s")]
)
def test_times_are_shown_in_a_readable_unit(hours: float, words: str) -> None:
    step = probing.StepPlan(
        step="predict", work="it", hours=hours, memory_bytes=10**9, gpu_bytes=0, disk_bytes=2 * 10**6
    )
    assert step.row() == f"| predict | it | {words} | 1.0 GB | - | 2.0 MB |"


def test_the_stopwatch_adds_the_last_epoch_of_each_run() -> None:
    watch = probing._Stopwatch()
    for name in ("selection", "finetune", "reading"):
        with watch.task(name, 2) as advance:
            advance(0)
            time.sleep(0.3)  # the first epoch, with what is done once
            advance()
            time.sleep(0.1)
            advance()
    assert 0.2 <= watch.epoch_s < 0.3 * 2


def test_memory_is_the_largest_within_the_block() -> None:
    cpu = torch.device("cpu")
    with measured(cpu) as large:
        np.ones(10**8).sum()  # 800 MB, freed at once
    with measured(cpu) as small:
        np.ones(10**6).sum()
    assert large.memory_bytes - small.memory_bytes == pytest.approx(8e8, rel=0.1)
    assert small.seconds < large.seconds
