"""`spam simulate`: a cohort with known truth."""

from typing import Any

from spam.progress import Progress
from spam.schemas.simulate_config import SimulateConfig

from .command import Command, Report
from .options import options_of

__all__ = ["SIMULATE"]


def _work(values: dict[str, Any], progress: Progress) -> Report:
    config = SimulateConfig.from_mapping(values)
    from spam.simulation import simulate

    return simulate(config, progress=progress)


SIMULATE = Command(
    name="simulate",
    does="Write a cohort whose true expression rates are known. As lab files: h5ad, tables, images.",
    example="spam simulate --out-dir cohort --n-donors 2 --n-sections 2\n"
    "spam embed --manifest cohort/sections.csv --store cohort.zarr",
    options=options_of(SimulateConfig),
    work=_work,
)
