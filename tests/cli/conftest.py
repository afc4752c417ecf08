"""Runs the command line as a shell would, in this process."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from spam.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        (line,) = self.out.splitlines()
        return json.loads(line)


@pytest.fixture
def spam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `spam` with some words, and catch its exit code and what it printed."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["spam", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        code = end.value.code
        return Ran(code=code if isinstance(code, int) else 0, out=shown.out, err=shown.err)

    return run
