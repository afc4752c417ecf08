"""Options, recipes and names that must be refused before anything is written."""

from pathlib import Path

import option_cases
import pytest
from case_lab import Bench, Case, some


@pytest.fixture(scope="module")
def here(lab: Bench) -> Bench:
    """The inputs with an empty store and an empty checkpoint, as far as paths are checked."""
    (lab.inputs / "st.zarr").mkdir()
    (lab.inputs / "st.zarr" / "zarr.json").write_text("{}")
    (lab.inputs / "c.safetensors").touch()
    return lab


@pytest.mark.parametrize("case", some([*option_cases.recipe_cases(), *option_cases.given_cases()], 4))
def test_option(here: Bench, tmp_path: Path, case: Case) -> None:
    here.check(case, tmp_path)
