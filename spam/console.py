"""Draws progress bars and log lines on standard error, for the command line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from .progress import SILENT, Advance, Progress

__all__ = ["BarProgress", "show_log", "show_progress"]


class BarProgress:
    """A `Progress` that draws one bar per task."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps; it stays on the screen when the task is done."""
        bar = self._bars.add_task(description, total=total, note="")

        def advance(steps: int = 1, *, note: str = "") -> None:
            if note:
                self._bars.update(bar, advance=steps, note=note)
            else:
                self._bars.update(bar, advance=steps)

        yield advance


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Show progress on a terminal; anywhere else (a log file, a pipe) stay silent."""
    if not console.is_terminal:
        yield SILENT
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=console) as bars:
        yield BarProgress(bars)


@contextmanager
def show_log(console: Console) -> Iterator[None]:
    """Show what the library logs, warnings included, for as long as the block lasts."""
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
