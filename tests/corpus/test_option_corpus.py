"""Options, recipes and names that must be refused before anything is written."""

from pathlib import Path

import option_cases
import pytest
from case_lab import Bench, Case

NUMBERS = list(option_cases.number_cases())


@pytest.fixture(scope="module")
def here(lab: Bench) -> Bench:
    """The inputs with an empty store and an empty checkpoint, as far as paths are checked."""
    (lab.inputs / "st.zarr").mkdir()
    (lab.inputs / "st.zarr" / "zarr.json").write_text("{}")
    (lab.inputs / "c.safetensors").touch()
    return lab


@pytest.mark.parametrize(
    "case", [*NUMBERS[::3], *option_cases.recipe_cases(), *option_cases.given_cases()], ids=str
)
def test_option(here: Bench, tmp_path: Path, case: Case) -> None:
    here.check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*NUMBERS[1::3], *NUMBERS[2::3]], ids=str)
def test_more_options(here: Bench, tmp_path: Path, case: Case) -> None:
    here.check(case, tmp_path)
