"""Progress bars and log lines on standard error, for the command line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from .progress import SILENT, Advance, Progress


class BarProgress:
    """A `Progress` that draws one bar per task."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps; it stays on the screen after the task."""
        bar = self._bars.add_task(description, total=total, note="")

        def advance(steps: int = 1, *, note: str = "") -> None:
            self._bars.update(bar, advance=steps, **({"note": note} if note else {}))

        yield advance


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Show progress on a terminal; elsewhere (a log file, a pipe) stay silent."""
    if not console.is_terminal:
        yield SILENT
        return
    description, note = (
        TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}")
    )
    counts = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(description, *counts, note, console=console) as bars:
        yield BarProgress(bars)


@contextmanager
def show_log(console: Console) -> Iterator[None]:
    """Show the log messages of the library inside a ``with`` block."""
    handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logger = logging.getLogger("spam")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
