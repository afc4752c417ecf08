"""Commands on bad and odd stores, checkpoints, adapters and features of other programs."""

import dataclasses
import shutil
from pathlib import Path

import anndata
import model_cases
import numpy as np
import pytest
from adaptation_lab import make_cohort_files
from case_lab import Bench, Case, files_of, some
from cohorts import make_cohort
from command_server import CommandServer, Outcome

from spam.store import open_store

CASES = [
    *some(model_cases.checkpoint_cases(), 8),
    *some(model_cases.store_cases(), 8),
    *some(model_cases.feature_cases(), 8),
]


def _done(ran: Outcome) -> None:
    assert ran.code == 0, ran.err


@pytest.fixture(scope="module")
def models(server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A cohort in a store, a checkpoint of each stage, and the measured part of a section."""
    folder = tmp_path_factory.mktemp("models") / "inputs"
    folder.mkdir()
    make_cohort(folder / "st.zarr", 3, n_genes=29)
    shutil.rmtree(folder / "st.zarr" / ".locks", ignore_errors=True)
    shared = ("--store", "st.zarr", "--sections", "S1,S2", "--device", "cpu", "--epochs", 1, "--k", 5)
    _done(server("pretrain", *shared, "--save-dir", "p", "--proj-dim", 8, cwd=folder))
    small = ("--members", 1, "--fuse-dim", 8, "--heads", 2, "--n-neighbours", 3)
    _done(server("finetune", *shared, *small, "--save-dir", "t", cwd=folder))
    for run, name in (("p", "aligned"), ("t", "tuned")):
        (folder / run / "best.safetensors").rename(folder / f"{name}.safetensors")
        shutil.rmtree(folder / run)
    section = open_store(folder / "st.zarr").section("S3")
    genes = [str(gene) for gene in section.genes]
    panel = anndata.AnnData(section.counts().astype(np.float32))
    panel.obs_names, panel.var_names = [str(name) for name in section.ids], genes
    panel[::2].copy().write_h5ad(folder / "panel.h5ad")
    np.save(folder / "xy.npy", open_store(folder / "st.zarr").section("S1").xy_px)
    shutil.rmtree(folder / "st.zarr" / ".locks", ignore_errors=True)
    return Bench(inputs=folder, command=(), server=server)


@pytest.fixture(scope="module")
def adapters(server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A section with its tiny encoder and a LoRA adapter of it."""
    folder = tmp_path_factory.mktemp("adapters")
    tiles = make_cohort_files(folder / "lab")
    files = ("--manifest", "sections.csv", "--mpp", 0.5, "--tile-um", 16, "--device", "cpu")
    encoder = ("--enc-name", tiles.enc_name)
    _done(server("embed", *files, *encoder, "--store", "st.zarr", "--dtype", "float32", cwd=folder / "lab"))
    quick = ("--epochs", 1, "--proj-dim", 5, "--k", 3, "--lora-r", 2, "--batch-size", 17)
    words = (
        "adapt",
        *files,
        *encoder,
        "--store",
        "st.zarr",
        *quick,
        "--sections",
        "A,B",
        "--save-dir",
        "lora",
    )
    _done(server(*words, cwd=folder / "lab"))
    kept = ("A.csv", "A.h5ad", "images", "lora")
    (folder / "inputs").mkdir()
    for name in kept:
        (folder / "lab" / name).rename(folder / "inputs" / name)
    return Bench(inputs=folder / "inputs", command=encoder, server=server)


@pytest.mark.parametrize("case", CASES)
def test_model(models: Bench, tmp_path: Path, case: Case) -> None:
    models.check(case, tmp_path)


@pytest.mark.parametrize("case", some(model_cases.adapter_cases(), 12))
def test_adapter(adapters: Bench, tmp_path: Path, case: Case) -> None:
    adapters.check(dataclasses.replace(case, words=(*case.words, *adapters.command)), tmp_path)


@pytest.mark.parametrize("name", model_cases.NPY_READ)
def test_features_are_those_of_the_file(models: Bench, tmp_path: Path, name: str) -> None:
    """Any layout of the same numbers gives the same features, each row at its spot."""
    shutil.copytree(models.inputs, tmp_path, dirs_exist_ok=True)
    model_cases.NPY_READ[name](tmp_path)
    before = files_of(tmp_path)
    ran = models.server(*model_cases._NPY, "--dtype", "float32", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    after = files_of(tmp_path)
    assert all(after[file] == before[file] for file in ("f.npy", "ids.csv"))
    stored = open_store(tmp_path / "st.zarr").section("S1").features("mine_112um")
    expected = model_cases.FEATURES.astype(np.float16) if name == "half" else model_cases.FEATURES
    np.testing.assert_array_equal(stored, expected.astype(np.float32))
