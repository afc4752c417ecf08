"""`spam embed` of bad and odd images."""

from pathlib import Path

import image_cases
import pytest
from case_lab import Bench, Case, some


@pytest.mark.parametrize("case", some([*image_cases.bad_cases(), *image_cases.odd_cases()], 6))
def test_image(lab: Bench, tmp_path: Path, case: Case) -> None:
    lab.check(case, tmp_path)
