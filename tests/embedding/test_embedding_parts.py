"""Several processes embed one section, each its own chunks; the last one finishes the features."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from embedding_lab import N_SPOTS, Lab, files_of, make_lab

from spam.embedding import embed
from spam.errors import ConfigError, StoreError
from spam.schemas.embed_config import EmbedConfig
from spam.store import open_store

KEY = "local-tiny_20um"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def command(lab: Lab, *more: str, store: str) -> list[str]:
    """Write the options of `Lab.values` as a command line."""
    values = lab.values(store=lab.folder / store)
    flags = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    flags["--tile-um"] = "20"
    return ["embed", *(str(part) for flag in flags.items() for part in flag), *more]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_equal_one_run(lab, order):
    embed(lab.config(store=lab.folder / "whole.zarr"))
    left = [4, 2, 0] if order[0] == 1 else None
    seen = []
    for number in order:
        report = embed(lab.config(shard=f"{number}/3")).sections[0]
        stored = open_store(lab.folder / "store.zarr").section("A")
        assert stored.feature_keys == ((KEY,) if report.n_left == 0 else ())
        assert report.n_embedded + report.n_left + report.n_present == N_SPOTS
        seen.append(report.n_left)
    assert seen[-1] == 0
    assert seen == sorted(seen, reverse=True)
    assert left is None or seen[0] < N_SPOTS
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "whole.zarr")


def test_parts_of_several_tile_sizes_end_as_one_run(lab):
    """The second process does all of its work while the first is between the sizes: nothing may be left out."""
    sizes = {"tile_um": (20.0, 40.0, 60.0)}  # of twelve chunks the first process has six
    embed(lab.config(store=lab.folder / "whole.zarr", **sizes))
    second = []

    class Between:
        @contextlib.contextmanager
        def task(self, description: str, total: int):
            if description.endswith("40um"):
                second.append(embed(lab.config(shard="2/2", **sizes)).sections[0])
            yield lambda steps=1, *, note="": None

    first = embed(lab.config(shard="1/2", **sizes), progress=Between()).sections[0]
    assert second[0].n_left > 0
    assert first.n_left == 0
    assert len(first.keys) == 3
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "whole.zarr")


# A new process, too: earlier tests of this one may have changed the last bits of sums, as `torch.set_num_threads` does.
ALONE = [sys.executable, "-P", "-c", "from spam.cli import main; main()"]


@pytest.mark.slow
def test_processes_at_once_equal_one_run(lab):
    subprocess.run([*ALONE, *command(lab, store="whole.zarr")], check=True, timeout=300)
    running = [
        subprocess.Popen(
            [*ALONE, *command(lab, "--shard", f"{i}/2", store="store.zarr")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (1, 2)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "whole.zarr")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_says_which_part_it_is(lab, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    # of another program's world
    assert embed(lab.config(store=lab.folder / "alone.zarr")).sections[0].n_left == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ConfigError, match=r"--overwrite.* 2 "):
        embed(lab.config(store=lab.folder / "torchrun.zarr", overwrite=True))
    one = embed(lab.config(store=lab.folder / "torchrun.zarr")).sections[0]
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    other = embed(lab.config(shard=f"{int(rank) + 1}/2")).sections[0]
    assert (one.n_embedded, one.n_left) == (other.n_embedded, other.n_left)
    assert one.n_left > 0


def test_tasks_of_a_slurm_array_equal_one_run(lab, monkeypatch):
    embed(lab.config(store=lab.folder / "whole.zarr"))
    n_left = []
    for task in (3, 7, 5):  # sbatch --array=3-7:2
        for name, value in {"ID": task, "COUNT": 3, "MIN": 3, "MAX": 7, "STEP": 2}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        n_left.append(embed(lab.config(shard="slurm")).sections[0].n_left)
    assert n_left[0] > n_left[1] > n_left[2] == 0
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "whole.zarr")


@pytest.mark.slow
def test_torchrun_embeds_with_two_processes(lab):
    subprocess.run([*ALONE, *command(lab, store="whole.zarr")], check=True, timeout=300)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "spam.cli"]
    done = subprocess.run(
        [*launch, *command(lab, store="store.zarr")],
        cwd=lab.folder,  # not where the sources are: those of the installation are meant
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "whole.zarr")


def test_a_second_process_is_refused_while_one_embeds(lab):
    embed(lab.config(shard="1/2"))  # so that there is a section
    hold = (
        "import sys; from spam.store import open_store\n"
        f"section = open_store({str(lab.folder / 'store.zarr')!r}, is_read_only=False).section('A')\n"
        f"with section.lock({KEY!r}):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        for shard in (None, "2/2"):
            with pytest.raises(StoreError, match=rf"A/{KEY}"):
                embed(lab.config(shard=shard))
    finally:
        holder.communicate()
    embed(lab.config())
    assert open_store(lab.folder / "store.zarr").section("A").feature_keys == (KEY,)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_impossible_parts_are_refused(lab, shard):
    with pytest.raises(ConfigError, match=rf"--shard .*{shard}"):
        lab.config(shard=shard)
    with pytest.raises(ConfigError, match=r"--overwrite .*--shard"):
        lab.config(shard="1/2", overwrite=True)
    assert EmbedConfig(**lab.values(shard="2/8")).shard_of == (1, 8)
