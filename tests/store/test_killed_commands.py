"""Commands that are killed at any change to the disk, that run twice at once, or that find a full disk end as they should."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from shared_stores import make_store, tree

from spam.schemas.store_config import VerifyConfig
from spam.store import create_store, verify
from spam.store.writing import locked_part

KILLER = Path(__file__).parents[1] / "reference" / "killed_command.py"
N_KILLS = int(os.environ.get("SPAM_N_KILLS", "1"))
COMMANDS = {
    "select": ("store", "select", "{store}", "{out}", "--sections", "S1"),
    "select redacted": ("store", "select", "{store}", "{out}", "--without-counts"),
    "merge": ("store", "merge", "{out}", "{store}"),
    "pull": ("store", "pull", "{store}", "{out}"),
    "push": ("store", "push", "{store}", "{out}", "--i-have-the-right-to-share"),
    "push redacted": (
        *("store", "push", "{store}", "{out}", "--i-have-the-right-to-share"),
        *("--without-coordinates", "--without-counts"),
    ),
    "pack": ("store", "pack", "{store}", "{out}"),
    "export": ("store", "export", "{store}", "{out}", "--to", "parquet"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("killed") / "s.zarr", "S1", "S2")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))


def words_of(name: str, store: Path, out: Path) -> list[str]:
    return [word.format(store=store, out=out) for word in COMMANDS[name]]


def run(words: list[str], step: int = -1, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command; kill it at change number `step` (-1: never); no file may be larger than `limit`."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-P", str(KILLER), str(step), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=restrict)


def content(out: Path) -> dict[str, bytes]:
    return {"": out.read_bytes()} if out.is_file() else tree(out) if out.exists() else {}


def in_default_run(*names: str) -> list[Any]:
    """All commands as parameters; those that are not named only run with ``-m slow``."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]


@pytest.mark.parametrize("name", in_default_run("merge"))
def test_a_killed_command_is_repeated(name: str, store: Path, tmp_path: Path) -> None:
    """The same command ends as an unbroken one, without further options, and leaves nothing else."""
    before = tree(store)
    done = run(words_of(name, store, tmp_path / "whole" / "out"))
    assert done.returncode == 0, done.stderr
    n_changes = int(done.stderr.splitlines()[-1])
    for i in range(N_KILLS):
        folder = tmp_path / f"killed {i}"
        words = words_of(name, store, folder / "out")
        if name == "push redacted":  # its order depends on the address
            run(words)
            whole = content(folder / "out")
            subprocess.run(["rm", "-r", folder], check=True)
        else:
            whole = content(tmp_path / "whole" / "out")
        killed = run(words, step=n_changes * (2 * i + 1) // (2 * N_KILLS))
        assert killed.returncode == -9
        again = run(words)
        assert again.returncode == 0, again.stderr
        assert content(folder / "out") == whole
        assert [path.name for path in folder.iterdir()] == ["out"]
        assert (
            not list(folder.rglob("*.partial"))
            + list(folder.rglob(".unfinished*"))
            + list(folder.glob("*/.lock"))
        )
    assert tree(store) == before


@pytest.mark.parametrize("name", in_default_run("merge"))
def test_two_at_once(name: str, store: Path, tmp_path: Path) -> None:
    """One of two equal commands, or both, succeed; the other says why not."""
    words = words_of(name, store, tmp_path / "out")
    command = [sys.executable, "-P", str(KILLER), "-1", *words]
    pair = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in pair]
    assert {code for _, code in ends} <= {0, 2}
    assert 0 in [code for _, code in ends]
    assert "Traceback" not in "".join(text for text, _ in ends)
    if name not in ("pack", "export"):
        assert not verify(VerifyConfig(store=tmp_path / "out")).faults
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow  # a full disk is in the default run: test_full_disk.py
@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_of_file_sizes_is_no_bug(name: str, store: Path, tmp_path: Path) -> None:
    failed = run(words_of(name, store, tmp_path / "out"), limit=700)
    assert failed.returncode == 2, failed.stderr
    assert "File too large" in failed.stderr
    assert "ulimit -f" in failed.stderr
    assert "Traceback" not in failed.stderr
    if name not in ("merge", "pull", "push", "push redacted"):  # these are resumed
        assert not (tmp_path / "out").exists()
    again = run(words_of(name, store, tmp_path / "out"))
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("year", [2000, 2100])
def test_a_lock_is_not_judged_by_clocks(store: Path, tmp_path: Path, year: int) -> None:
    """A lock file that a killed process left is free, whatever the clocks of this machine and of the file server."""
    folder = create_store(tmp_path / "s.zarr").folder
    with locked_part(folder, "S1/uni_112um", ""):
        pass
    seconds = time.mktime((year, 1, 1, 0, 0, 0, 0, 0, 0))
    for path in (folder / ".locks").rglob("*.lock"):
        os.utime(path, (seconds, seconds))
    with locked_part(folder, "S1/uni_112um", ""):
        pass
