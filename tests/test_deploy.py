"""The files of deploy/: job arrays and workflow engines end as the plain commands do, and containers copy what there is."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest
from embedding_lab import files_of
from published import run

from spam.schemas.simulate_config import SimulateConfig
from spam.simulation import simulate

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
# As a user has it: the command `spam` is on the path. Snakemake sets the number of threads, which sets the order of sums.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
}
FINETUNE = "--epochs 2 --members 2 --device cpu"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", ENVIRONMENT["OMP_NUM_THREADS"])
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "lab"
    simulate(SimulateConfig(out_dir=folder, n_donors=3, n_sections=1, n_spots=41, n_genes=60))
    return folder


@pytest.fixture(scope="module")
def plain(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the plain commands write."""
    out = tmp_path_factory.mktemp("plain")
    store, tuned = out / "cohort.zarr", out / "finetune"
    commands = (
        ("embed", "--manifest", cohort / "sections.csv", "--store", store, "--device", "cpu"),
        ("finetune", "--store", store, "--sections", "D1S1,D2S1", "--save-dir", tuned, *FINETUNE.split()),
        (
            "predict",
            "--store",
            store,
            "--section",
            "D3S1",
            "--ckpt",
            tuned / "best.safetensors",
            "--out-dir",
            out / "D3S1",
        ),
    )
    for command in commands:
        done = run(*command)
        assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_tasks_of_a_slurm_array_embed_as_one_process(cohort: Path, tmp_path: Path) -> None:
    """SLURM gives a task its number in the environment and starts the script; nothing else of it is needed."""
    store = tmp_path / "cohort.zarr"
    command = ["bash", DEPLOY / "embed.sbatch", "--manifest", cohort / "sections.csv", "--store", store]
    command += ["--device", "cpu", "--chunk-rows", "7"]
    for task in (1, 0):
        numbers = {"ID": task, "COUNT": 2, "MIN": 0, "MAX": 1, "STEP": 1}
        array = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}
        cache = {"SLURM_TMPDIR": str(tmp_path / "scratch")}
        done = subprocess.run(
            command, env={**ENVIRONMENT, **array, **cache}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "scratch").exists()
    whole = tmp_path / "whole.zarr"
    done = run("embed", "--manifest", cohort / "sections.csv", "--store", whole, *command[-4:])
    assert done.returncode == 0, done.stderr
    assert files_of(store) == files_of(whole)


ENGINES = {
    "snakemake": [
        "--snakefile",
        DEPLOY / "Snakefile",
        "--cores",
        "1",
        "--config",
        "manifest={}",
        "test=D3S1",
        "out=results",
    ],
    "nextflow": ["run", DEPLOY / "main.nf", "--manifest", "{}", "--test", "D3S1", "--out", "results"],
}
ENGINES["snakemake"] += ["embed=--device cpu", f"finetune={FINETUNE}"]
ENGINES["nextflow"] += ["--embed", "--device cpu", "--finetune", FINETUNE]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_workflow_engines_end_with_the_predictions_of_the_plain_commands(
    cohort: Path, plain: Path, tmp_path: Path, engine: str
) -> None:
    found = os.environ.get(f"SPAM_TEST_{engine.upper()}") or shutil.which(engine)
    if found is None:
        pytest.skip(
            f"{engine} is not installed; SPAM_TEST_{engine.upper()} names another place than the path"
        )
    options = [str(option).format(cohort / "sections.csv") for option in ENGINES[engine]]
    done = subprocess.run(
        [found, *options], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / "D3S1"
    assert (results / "report.html").stat().st_size > 1e5
    ours, theirs = (anndata.read_h5ad(folder / "predictions.h5ad") for folder in (results, plain / "D3S1"))
    assert list(ours.obs_names) == list(theirs.obs_names)
    assert set(ours.layers) == set(theirs.layers)
    np.testing.assert_array_equal(ours.X, theirs.X)
    for name in theirs.layers:
        np.testing.assert_array_equal(ours.layers[name], theirs.layers[name])
    verified = run("store", "verify", tmp_path / "results" / "cohort.zarr")
    assert verified.returncode == 0, verified.stdout
    if engine == "snakemake":
        assert_plans(found, options, tmp_path)


def assert_plans(snakemake: str, options: list[str], folder: Path) -> None:
    """Compare what a second call would do, for several sections to predict."""

    def planned(test: str) -> tuple[int, str, list[str]]:
        again = [option.replace("test=D3S1", f"test={test}") for option in options]
        command = [snakemake, *again, "--dry-run"]
        done = subprocess.run(
            command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        return done.returncode, said, sorted(set(re.findall(r"^rule (\w+):", said, re.MULTILINE)))

    assert planned("D3S1")[::2] == (0, [])
    # D2S1 was trained on, so that the checkpoint must not predict it.
    assert planned("D2S1,D3S1")[::2] == (0, ["all", "finetune", "predict", "report"])
    code, said, _ = planned("D33")
    assert code != 0
    assert "test=D33" in said


def test_containers_copy_the_files_of_the_package() -> None:
    docker, apptainer = ((DEPLOY / name).read_text(encoding="utf-8") for name in ("Dockerfile", "spam.def"))
    copied = {
        source for line in re.findall(r"^COPY (.+) \S+$", docker, re.MULTILINE) for source in line.split()
    }
    listed = apptainer.partition("%files")[2].partition("%post")[0]
    assert {line.split()[0] for line in listed.strip().splitlines()} == copied
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "spam", "cli", "schemas"}
    assert all((DEPLOY.parent / source).exists() for source in copied)
    (base,) = re.findall(r"^FROM (.+)$", docker, re.MULTILINE)
    assert f"From: {base}\n" in apptainer
