"""Names of sections that cannot be names of folders."""

from pathlib import Path

import option_cases
import pytest
from case_lab import Bench, Case, some


@pytest.mark.parametrize("case", some(option_cases.name_cases(), 5))
def test_name(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
