"""`spam embed` of bad and odd tables and manifests."""

from pathlib import Path

import pytest
import table_cases
from case_lab import Bench, Case


@pytest.mark.parametrize("case", [*table_cases.bad_cases(), *table_cases.odd_cases()], ids=str)
def test_table(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
