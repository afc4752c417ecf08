"""Exit codes and output streams: 0 done, 1 bug, 2 user error, 130 interrupted."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import typer

from spam.cli.command import Command, add_command
from spam.errors import ConfigError
from spam.progress import Progress


class Report:
    """A report with numbers that JSON does not have."""

    def to_mapping(self) -> dict[str, Any]:
        return {"value": 3, "nan": math.nan, "deep": [{"infinite": -math.inf}], "pair": (1.5, "x")}

    def summary(self) -> str:
        return "three"


def run(work: Any, *words: str, **settings: Any) -> int:
    app = typer.Typer()
    add_command(app, Command(name="try", does="Try.", example="spam try", options=(), work=work, **settings))
    code: int = app(list(words), standalone_mode=False)
    return code


def chatty(values: dict[str, Any], progress: Progress) -> Report:
    print("printed by a library")
    with progress.task("working", 2) as advance:
        advance(2, note="loss 0.1")
    return Report()


def raising(error: BaseException) -> Any:
    def work(values: dict[str, Any], progress: Progress) -> Report:
        raise error

    return work


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPAM_DEBUG", raising=False)


def test_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(chatty) == 0
    assert capsys.readouterr() == ("three\n", "printed by a library\n")  # no bars without a terminal
    assert run(chatty, "--json") == 0
    expected = {"value": 3, "nan": None, "deep": [{"infinite": None}], "pair": [1.5, "x"]}
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == expected
    assert run(chatty, exit_code=lambda report: report.to_mapping()["value"]) == 3


STRANGE, SHOWN = (
    "\x1b]0;a\x07 b\x9b31m \u202ec\r \udc80 é\nd",
    "\\x1b]0;a\\x07 b\\x9b31m \\u202ec\\r \\udc80 é\nd\n",
)


def test_terminal_control_characters_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange(Report):
        def summary(self) -> str:
            return STRANGE

    assert run(lambda values, progress: Strange()) == 0
    assert capsys.readouterr().out == SHOWN
    assert run(raising(ConfigError(STRANGE))) == 2
    assert capsys.readouterr().err == f"Error: {SHOWN}"
    monkeypatch.setenv("SPAM_DEBUG", "1")
    assert run(raising(ConfigError(STRANGE))) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_user_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work = raising(ConfigError("--epochs must be positive, not 0"))
    assert run(work) == 2
    assert capsys.readouterr() == ("", "Error: --epochs must be positive, not 0\n")
    assert run(work, "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "--epochs must be positive, not 0", "kind": "ConfigError"}
    assert shown.err == ""
    monkeypatch.setenv("SPAM_DEBUG", "1")
    assert run(work) == 2
    assert "Traceback" in capsys.readouterr().err


def test_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(IndexError("off by one"))) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(words in shown.err for words in ("Traceback", "off by one", "bug in spam", "spam doctor"))
    assert run(raising(IndexError("off by one")), "--json") == 1
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["kind"], "Traceback" in shown.err) == ("IndexError", True)
    assert run(raising(FileNotFoundError(errno.ENOENT, "No such file", "spam/data.json"))) == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_disk_errors_are_user_errors(capsys: pytest.CaptureFixture[str], code: int) -> None:
    assert run(raising(OSError(code, "refused", "/data/cohort.zarr"))) == 2
    assert capsys.readouterr().err.startswith(f"Error: {os.strerror(code)}: /data/cohort.zarr. ")


def test_a_path_through_a_file_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "store.zarr"
    assert run(lambda values, progress: path.mkdir(), "--json") == 2
    assert str(path) in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_interruption(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(raising(KeyboardInterrupt()), *words) == 130
    shown = capsys.readouterr()
    assert "run the same command again" in (shown.out if words else shown.err)


@pytest.mark.parametrize(
    "words",
    [("embed", "--foo"), ("embedd",), ("pretrain", "--epochs", "few"), ("embed",), ("demo", "nowhere")],
)
def test_wrong_usage(spam: Any, words: tuple[str, ...]) -> None:
    plain = spam(*words)
    assert (plain.code, plain.out, "Error: " in plain.err) == (2, "", True)
    machine = spam(*words, "--json")
    assert (machine.code, set(machine.json)) == (2, {"error", "kind"})


def test_version(spam: Any) -> None:
    ran = spam("--version")
    assert (ran.code, ran.out.startswith("spam-st ")) == (0, True)
