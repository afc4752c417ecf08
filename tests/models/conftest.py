"""Makes the slow references of `tests/reference` importable; they are the truth that the fast code is held to."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
