"""Processes of torchrun share the folds of stage 2: the result is that of one process, also if one of them is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cohorts import add_section
from safetensors.numpy import load_file
from training_runs import finetuning

from spam.atomic import claimed
from spam.errors import ConfigError
from spam.training import finetune

OPTIONS = {"epochs": 3, "with_bank": False, "attend": "none", "val_sections": ()}


def command_of(store: Path, out: Path) -> list[str]:
    values = finetuning(store, out, **OPTIONS).to_mapping()
    names = ("fuse_dim", "heads", "members", "k", "n_neighbours", "n_top_genes", "epochs", "batch_size")
    options = [word for name in names for word in (f"--{name.replace('_', '-')}", str(values[name]))]
    return ["finetune", "--store", str(store), "--save-dir", str(out), "--device", "cpu", *options]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sections of four donors: four folds."""
    store = tmp_path_factory.mktemp("cohort") / "store.zarr"
    for i in range(4):
        add_section(store, f"S{i + 1}", seed=i, n_spots=37 + 2 * i, donor=f"d{i}")
    return store


@pytest.fixture(scope="module")
def alone(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run by one process."""
    out = tmp_path_factory.mktemp("alone")
    assert len(finetune(finetuning(store, out / "run", device="cpu", **OPTIONS)).selections) == 4
    return out / "run"


def assert_same(found: Path, expected: Path) -> None:
    names = sorted(str(path.relative_to(expected)) for path in expected.rglob("*.safetensors"))
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*.safetensors")) == names
    assert "best.safetensors" in names
    for name in names:
        ours, theirs = (load_file(folder / name) for folder in (found, expected))
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=f"{name}: {key}")


@pytest.mark.slow
def test_two_processes_of_torchrun_end_as_one(store: Path, alone: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "spam.cli"]
    done = subprocess.run(
        [*launch, *command_of(store, tmp_path / "run")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_the_fold_of_a_killed_process_is_taken_over(store: Path, alone: Path, tmp_path: Path) -> None:
    """Process 1 begins with fold 2 and is killed there; process 0 does everything else, and that fold, too."""
    out = tmp_path / "run"
    running = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "spam.cli", *command_of(store, out)],
            env={**os.environ, "TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    while not (out / "selection" / "2" / "config.json").exists():
        time.sleep(0.01)
        assert running[1].poll() is None
    running[1].kill()
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, -signal.SIGKILL], said
    assert_same(out, alone)


def test_each_process_begins_with_another_fold(
    store: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    finetune(finetuning(store, tmp_path / "run", device="cpu", **OPTIONS))
    begun = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("run/*/*/config.json")}
    assert sorted(begun, key=begun.__getitem__) == ["3", "4", "1", "2"]
    assert_same(tmp_path / "run", alone)


def test_a_fold_that_another_process_trains_is_waited_for(
    store: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    is_held, freed = threading.Event(), []

    def other() -> None:
        with claimed(tmp_path / "run" / "selection" / "2", "--save-dir"):
            (tmp_path / "run" / "selection" / "2" / "history.json").write_text(
                "[]"
            )  # as of a run that was stopped
            is_held.set()
            time.sleep(2)
            freed.append(time.time_ns())

    thread = threading.Thread(target=other)
    thread.start()
    is_held.wait()
    finetune(finetuning(store, tmp_path / "run", device="cpu", **OPTIONS))
    thread.join()
    assert (tmp_path / "run" / "selection" / "2" / "config.json").stat().st_mtime_ns >= freed[0]
    assert_same(tmp_path / "run", alone)


def test_a_run_is_not_replaced_by_several_processes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"--overwrite .* 2 .*torchrun"):
        finetuning(store, tmp_path / "run", overwrite=True)
