"""Writers that are killed, or that write at the same time, end in the store of an unbroken run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("store_writers.py")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def run(operation: str, n: int) -> str:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = [sys.executable, "-P", SCRIPT, folder, operation, str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("operation", "n_kills"),
    [("add", 3), ("replace", 4), ("graph", 5), ("features", 5), ("features again", 8)],
)
def test_killed_writer_leaves_old_or_new_or_nothing(operation: str, n_kills: int) -> None:
    assert "changes" in run(operation, n_kills)


@pytest.mark.slow
def test_two_hundred_kills_end_in_the_store_of_an_unbroken_run() -> None:
    assert "200 kills on the way" in run("cohort", 200)


@pytest.mark.parametrize(("what", "n"), [("parts", 2), ("sections", 1), ("readers", 2)])
def test_several_processes_at_one_store(what: str, n: int) -> None:
    assert what in run(what, n)


def test_store_does_not_import_torch() -> None:
    code = (
        "import sys, spam.store; print([name for name in ('torch', 'timm', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
