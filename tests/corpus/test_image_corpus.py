"""`spam embed` of bad and odd images."""

from pathlib import Path

import image_cases
import pytest
from case_lab import Bench, Case


@pytest.mark.parametrize("case", [*image_cases.bad_cases(), *image_cases.odd_cases()], ids=str)
def test_image(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
