"""Bars on a terminal, silence elsewhere; log lines inside the block only."""

import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
from rich.console import Console

from spam.cli.command import print_text, show_log, show_progress
from spam.progress import SILENT


def test_bars_on_a_terminal() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    with show_progress(console) as progress, progress.task("embed [C2] 112um", 7) as advance:
        advance(3)
        advance(4, note="loss 0.25")
        advance(0)
    assert all(words in shown.getvalue() for words in ("embed [C2] 112um", "7/7", "loss 0.25"))


def test_bars_show_the_rate_and_the_time_left() -> None:
    """After 40 of 100 steps at 4 a second, 15 seconds are left."""
    now, shown = 0.0, io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None, get_time=lambda: now)
    with show_progress(console) as progress, progress.task("embed", 100) as advance:
        for _ in range(10):
            now += 1.0
            advance(4)
    line = next(text for text in reversed(shown.getvalue().splitlines()) if "embed" in text)
    assert "40/100 4/s" in line
    assert re.search(r"ETA\s+00:15", line)


def test_silence_elsewhere() -> None:
    shown = io.StringIO()
    with show_progress(Console(file=shown)) as progress:
        assert progress is SILENT
        with progress.task("embed", 7) as advance:
            advance(7, note="done")
    assert shown.getvalue() == ""


def test_silence_in_a_notebook() -> None:
    """Jupyter sets FORCE_COLOR although its cells are no terminals."""
    command = [sys.executable, "-P", "-m", "spam.cli", "graph", "--store", "nowhere.zarr"]
    environment = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "\x1b" not in done.stderr


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


def on_terminal(width: int, *arguments: str) -> list[str]:
    """Run `spam` in a terminal of some width; return its lines without colours."""
    pid, terminal = pty.fork()
    if pid == 0:
        # readline, which pytest imports, sets them
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        os.execve(sys.executable, [sys.executable, "-P", "-m", "spam.cli", *arguments], environment)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: the program has ended
            break
        if not part:
            break
        shown += part
    assert os.waitpid(pid, 0)[1] == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    return text.replace("\r", "").split("\n")


@pytest.mark.filterwarnings(
    "ignore:.*use of forkpty:DeprecationWarning"
)  # Python 3.12, with threads of other tests
def test_help_has_panels_as_wide_as_the_terminal() -> None:
    lines = on_terminal(100, "predict", "--help")
    panels = [match[1] for line in lines if (match := re.match(r"╭─ ([\w ]+?) ─+╮", line))]
    assert panels == ["Arguments", "Data", "Output", "Advanced", "Lab files"]
    assert max(map(len, lines)) == 100
    assert any(line.rstrip().endswith("--section C6 --ckpt ckpt --out-dir results") for line in lines)
    assert any("--help" in line for line in lines)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


TEXT = "Verdict [not markup].\n| method | r |\n| --- | --: |\n| SPAM | 0.47 |\n| a [b] c | –0.1 |\nwritten"


def test_tables_are_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "300")
    long = "open /home/a b/" + "very/long/" * 30 + "report.html"
    print_text(f"{TEXT} sec:cat:x\n{long}")
    lines = shown.getvalue().split("\n")
    assert lines[0] == "Verdict [not markup]."
    assert "│ SPAM    │ 0.47 │" in lines
    assert "│ a [b] c │ –0.1 │" in lines
    assert lines[-3:-1] == ["written sec:cat:x", long]  # paths can be copied, and no word is replaced
    assert max(map(len, lines[:-3])) <= 100
    plain = io.StringIO()
    monkeypatch.setattr("sys.stdout", plain)
    print_text(TEXT)
    assert plain.getvalue() == f"{TEXT}\n"
