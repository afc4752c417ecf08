"""Fixtures that more than one room uses."""

import os
import sys
from pathlib import Path

import pytest

# There is a worker per core; threads of their own would only be in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread that waits in a busy loop keeps the one it waits for from its core: two took 8 to 20 times as long as one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Processes that tests start would compile all of the package each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Slow references and small cohorts of known content, importable from every test.
sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "servers"))  # the servers on loopback, likewise


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real sections; tests that need it skip with a reason where it is absent (CI: that is a failure)."""
    folder = Path(os.environ.get("SPAM_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "her2st" / "C2.h5ad").exists():
        reason = f"real data not found in {folder} (set SPAM_TEST_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
