"""How a command of `spam store …` is made of its configuration and its library twin."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from spam.progress import Progress
from spam.schemas.config import Config

from .command import Command, Report
from .options import options_of

__all__ = ["has_faults", "in_short", "store_command"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _InShort:
    """A report whose text is one line a section."""

    report: Any

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        mapping: dict[str, Any] = self.report.to_mapping()
        return mapping

    def summary(self) -> str:
        """Write one line per section."""
        return str(self.report.names_only())


def _same(report: Any) -> Any:
    return report


def in_short(report: Any) -> Report:
    """Show a report with one line a section."""
    return _InShort(report=report)


def _done(report: Any) -> int:
    return 0


def has_faults(report: Any) -> int:
    """Give the exit code of a check: 2 if it found faults."""
    return 2 if report.faults else 0


def store_command(
    name: str,
    does: str,
    example: str,
    config: type[Config],
    arguments: tuple[str, ...],
    *,
    twin: str,
    shown: Callable[[Any], Report] = _same,
    exit_code: Callable[[Any], int] = _done,
) -> Command:
    """Make a command whose library twin, ``module.function`` of `spam.store`, is imported when the command runs."""

    def work(values: dict[str, Any], progress: Progress) -> Report:
        made = config.from_mapping(values)
        module, function = twin.split(".")
        twin_of = getattr(importlib.import_module(f"spam.store.{module}"), function)
        return shown(twin_of(made, progress=progress))

    return Command(
        name=name,
        does=does,
        example=example,
        options=options_of(config, arguments=arguments),
        work=work,
        exit_code=exit_code,
    )
