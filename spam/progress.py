"""How long work reports where it stands, without knowing who watches.

A library function takes ``progress: Progress = SILENT``; the command line passes the one that draws bars.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

__all__ = ["SILENT", "Advance", "Progress"]


@runtime_checkable
@runtime_checkable  # for the run-time type checks of the tests
class Advance(Protocol):
    """Moves one task on."""

    def __call__(self, steps: int = 1, *, note: str = "") -> None:
        """Move on by `steps`; `note` is a short text shown beside the bar, such as the current loss."""


@runtime_checkable
@runtime_checkable
class Progress(Protocol):
    """Shows tasks that have a name and a number of steps."""

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Open a task of `total` steps for the duration of a ``with`` block, which gets its `Advance`."""


def _stand_still(steps: int = 1, *, note: str = "") -> None:
    """Report to nobody."""


class _Silent:
    """A `Progress` that shows nothing."""

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Hand out an `Advance` that does nothing."""
        return nullcontext(_stand_still)


SILENT: Progress = _Silent()
