"""Writers that are killed leave nothing that reads as whole, and the next one ends where an unbroken one does."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_writers.py")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def kill_writers(operation: str, n_kills: int) -> str:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        done = subprocess.run(
            [sys.executable, "-P", SCRIPT, folder, operation, str(n_kills)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("operation", "n_kills"),
    [("add", 3), ("replace", 5), ("graph", 7), ("features", 5), ("features anew", 9)],
)
def test_a_killed_writer_leaves_old_or_new_or_nothing(operation, n_kills):
    assert "changes" in kill_writers(operation, n_kills)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_two_hundred_kills_end_in_the_store_of_an_unbroken_run():
    assert "200 kills on the way" in kill_writers("cohort", 200)


def test_the_store_needs_neither_torch_nor_anndata():
    code = (
        "import sys, spam.store; "
        "print([name for name in ('torch', 'timm', 'anndata', 'pandas', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
