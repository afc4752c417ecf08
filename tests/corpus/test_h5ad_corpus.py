"""`spam embed` of bad and odd AnnData files."""

from pathlib import Path

import h5ad_cases
import pytest
from case_lab import Bench, Case, some

CASES = [
    *some(
        h5ad_cases.sparse_cases(), 9
    ),  # every other fault, in one place: X by rows and columns, a layer, raw
    *some(h5ad_cases.bad_cases(), 6),
    *some(h5ad_cases.odd_cases(), 6),
]


@pytest.mark.parametrize("case", CASES)
def test_h5ad(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
