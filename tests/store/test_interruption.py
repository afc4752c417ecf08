"""Writers that are killed leave nothing that reads as whole, and the next one ends where an unbroken one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_writers.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("operation", "n_kills"),
    [("add", 3), ("replace", 4), ("graph", 4), ("features", 11), ("features anew", 4)],
)
def test_a_killed_writer_leaves_old_or_new_or_nothing(tmp_path, operation, n_kills):
    done = subprocess.run(
        [sys.executable, "-P", SCRIPT, tmp_path, operation, str(n_kills)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_store_needs_neither_torch_nor_anndata():
    code = (
        "import sys, spam.store; "
        "print([name for name in ('torch', 'timm', 'anndata', 'pandas', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
