"""`spam hest`: the linear probe of the HEST benchmark on its own files."""

from typing import Any

from spam.progress import Progress
from spam.schemas.hest_config import HestConfig

from .command import Command, Report
from .options import options_of

__all__ = ["HEST"]


def _work(values: dict[str, Any], progress: Progress) -> Report:
    config = HestConfig.from_mapping(values)
    from spam.hest_tasks import hest_benchmark

    return hest_benchmark(config, progress=progress)


HEST = Command(
    name="hest",
    does="Score an encoder by the recipe of the HEST benchmark, on its files. The numbers are those of its tables.",
    example="spam hest --bench-data bench_data --tasks IDC,PRAD --out-dir results\n"
    "spam hest --bench-data bench_data --features ST_data_emb --enc-name uni_v1 --out-dir results",
    options=options_of(HestConfig),
    work=_work,
)
