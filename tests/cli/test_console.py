"""Bars on a terminal, silence elsewhere; log lines inside the block only."""

import io
import logging

from rich.console import Console

from spam.cli.command import show_log, show_progress
from spam.progress import SILENT


def test_bars_on_a_terminal() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    with show_progress(console) as progress, progress.task("embed [C2] 112um", 7) as advance:
        advance(3)
        advance(4, note="loss 0.25")
        advance(0)
    assert all(words in shown.getvalue() for words in ("embed [C2] 112um", "7/7", "loss 0.25"))


def test_silence_elsewhere() -> None:
    shown = io.StringIO()
    with show_progress(Console(file=shown)) as progress:
        assert progress is SILENT
        with progress.task("embed", 7) as advance:
            advance(7, note="done")
    assert shown.getvalue() == ""


def test_log_lines() -> None:
    shown = io.StringIO()
    logger = logging.getLogger("spam.somewhere")
    with show_log(Console(file=shown, width=120)):
        logger.info("FAISS runs on the %s", "CPU")
        logger.debug("not this")
    logger.warning("nor this")
    assert "FAISS runs on the CPU" in shown.getvalue()
    assert "this" not in shown.getvalue()
    assert logging.getLogger("spam").handlers == []
