"""Progress reporting: library functions take ``progress: Progress = SILENT``; the command line draws bars."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable  # for the run-time type checks of the tests
class Advance(Protocol):
    """Advances one task."""

    def __call__(self, steps: int = 1, *, note: str = "") -> None:
        """Advance by `steps`; `note` is a short text beside the bar, such as the current loss."""


@runtime_checkable
class Progress(Protocol):
    """Shows tasks that have a name and a number of steps."""

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Open a task of `total` steps for a ``with`` block, which receives its `Advance`."""


def _ignore(steps: int = 1, *, note: str = "") -> None:
    pass


class _Silent:
    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        return nullcontext(_ignore)


SILENT: Progress = _Silent()


def already_done(place: Path, holds: str, missing: str) -> str:
    """Say that a command was run before with the same inputs: what `place` holds, and what was therefore not done."""
    return f"already done: {place} {holds}; nothing was {missing}"
