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


def run(**operations: int) -> str:
    """Run operations of the script, each with its number of kills or its size."""
    words = [word for name, n in operations.items() for word in (name.replace("_", " "), str(n))]
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = [sys.executable, "-P", SCRIPT, folder, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_writer_leaves_old_or_new_or_nothing() -> None:
    assert run(add=2, replace=2, graph=2, features=2, features_again=2).count("changes") == 5


@pytest.mark.slow
def test_two_hundred_kills_end_in_the_store_of_an_unbroken_run() -> None:
    assert "200 kills on the way" in run(cohort=200)


def test_several_processes_at_one_store() -> None:
    shown = run(parts=1, sections=1, readers=1)
    assert all(f"{what}: " in shown for what in ("parts", "sections", "readers"))
