"""Makes the slow references of `tests/reference` importable; they are the truth that the fast code is held to."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))


@pytest.fixture
def unchecked_types(pytestconfig: pytest.Config) -> None:
    """Skip a test of our own refusal where the run-time type checks refuse the call before us."""
    if pytestconfig.getoption("--jaxtyping-packages", default=None):
        pytest.skip("the run-time type checks refuse this call first")
