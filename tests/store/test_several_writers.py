"""Several processes at one store: what they write together is what one writes, and readers never meet a mixture."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("racing_writers.py")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def race(what: str, n_rounds: int) -> str:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        done = subprocess.run(
            [sys.executable, SCRIPT, folder, what, str(n_rounds)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_of_one_array_by_several_processes_some_of_them_killed():
    assert "parts: 7 rounds" in race("parts", 7)


def test_sections_encoders_and_graphs_at_the_same_time():
    assert "sections: 5 rounds" in race("sections", 5)


def test_readers_meet_old_or_new_or_are_told():
    assert "times all of a section" in race("readers", 2)
