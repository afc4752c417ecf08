"""Names of sections that cannot be names of folders."""

from pathlib import Path

import option_cases
import pytest
from case_lab import Bench, Case


@pytest.mark.parametrize("case", list(option_cases.name_cases()), ids=str)
def test_name(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
