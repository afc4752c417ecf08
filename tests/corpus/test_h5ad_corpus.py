"""`spam embed` of bad and odd AnnData files."""

from pathlib import Path

import h5ad_cases
import pytest
from case_lab import Bench, Case

# Every fault in one place each in the default run; all of them in the long one.
SPARSE = list(h5ad_cases.sparse_cases())
CHOSEN = [case for i, case in enumerate(SPARSE) if case.name.startswith("csr") or i % 11 == 1]
OTHERS = [case for case in SPARSE if case not in CHOSEN]


@pytest.mark.parametrize("case", [*CHOSEN, *h5ad_cases.bad_cases(), *h5ad_cases.odd_cases()], ids=str)
def test_h5ad(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_more_h5ad(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
