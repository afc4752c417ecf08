"""Names of sections that cannot be names of folders."""

from pathlib import Path

import option_cases
import pytest
from case_lab import Bench, Case

NAMES = list(option_cases.name_cases())


@pytest.mark.parametrize("case", [case for i, case in enumerate(NAMES) if i % 3 == 0], ids=str)
def test_name(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for i, case in enumerate(NAMES) if i % 3], ids=str)
def test_more_names(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
