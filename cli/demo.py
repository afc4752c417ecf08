"""`spam demo`: every step on a small cohort."""

from typing import Any

from spam.progress import Progress
from spam.schemas.simulate_config import DemoConfig

from .command import Command, Report
from .options import options_of

__all__ = ["DEMO"]


def _work(values: dict[str, Any], progress: Progress) -> Report:
    config = DemoConfig.from_mapping(values)
    from spam.demonstration import demo

    return demo(config, progress=progress)


DEMO = Command(
    name="demo",
    does="Run every step on a small cohort. Simulated and offline, or five real sections.",
    example="spam demo\nspam demo her2st --data her2st",
    options=options_of(DemoConfig, arguments=("name",)),
    work=_work,
)
