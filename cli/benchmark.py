"""`spam benchmark`: cross-validation of all methods on the same features, folds and scores."""

from typing import Any

from spam.progress import Progress
from spam.schemas.benchmark_config import BenchmarkConfig

from .command import Command, Report
from .options import options_of

__all__ = ["BENCHMARK"]


def _work(values: dict[str, Any], progress: Progress) -> Report:
    config = BenchmarkConfig.from_mapping(values)
    from spam.evaluation import benchmark

    return benchmark(config, progress=progress)


def _exit_code(report: Any) -> int:
    """Tell a script that a method failed, though the others were scored."""
    return 0 if report.is_complete else 1


BENCHMARK = Command(
    name="benchmark",
    does="Compare SPAM, baselines and peers by cross-validation over donors, sections or blocks of a section.",
    example="spam benchmark --store cohort.zarr --by donor --out-dir results\n"
    "spam benchmark --store cohort.zarr --train-sections MOB1,MOB2 \\\n"
    "    --test-sections MOB3,MOB4 --out-dir results",
    options=options_of(BenchmarkConfig),
    work=_work,
    exit_code=_exit_code,
)
