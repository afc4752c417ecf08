"""The HEST benchmark (arXiv 2406.16192) on its own files, by its own recipe: what its published tables hold."""

from .benchmark import hest_benchmark
from .report import HestReport
from .scores import SplitScore, TaskScore

__all__ = ["HestReport", "SplitScore", "TaskScore", "hest_benchmark"]
