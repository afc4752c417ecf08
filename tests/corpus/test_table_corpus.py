"""`spam embed` of bad and odd tables and manifests."""

from pathlib import Path

import pytest
import table_cases
from case_lab import Bench, Case, some


@pytest.mark.parametrize("case", some([*table_cases.bad_cases(), *table_cases.odd_cases()], 6))
def test_table(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
