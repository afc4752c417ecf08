"""Exit codes and what is printed where: 0 done, 1 our bug, 2 for the user to mend, 130 interrupted."""

import errno
import json
import math
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


def run(work: Any, *words: str, exit_code: Any = None) -> int:
    app = typer.Typer()
    settings = {"exit_code": exit_code} if exit_code else {}
    command = Command(name="try", does="Try.", example="spam try", options=(), work=work, **settings)
    add_command(app, command)
    code: int = app(list(words), standalone_mode=False)
    return code


def chatty(values: dict[str, Any], progress: Progress) -> Report:
    print("a library that prints")
    with progress.task("working", 2) as advance:
        advance(2, note="loss 0.1")
    return Report()


def test_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(chatty) == 0
    shown = capsys.readouterr()
    assert shown.out == "three\n"
    assert shown.err == "a library that prints\n"  # no bars: this is no terminal


def test_done_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(chatty, "--json") == 0
    shown = capsys.readouterr()
    expected = {"value": 3, "nan": None, "deep": [{"infinite": None}], "pair": [1.5, "x"]}
    assert json.loads(shown.out) == expected
    assert shown.out.count("\n") == 1


STRANGE, SHOWN = (
    "\x1b]0;a\x07 b\x9b31m \u202ec\r \udc80 é\nd",
    "\\x1b]0;a\\x07 b\\x9b31m \\u202ec\\r \\udc80 é\nd\n",
)


def test_what_a_terminal_would_obey_is_shown_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange(Report):
        def summary(self) -> str:
            return STRANGE

    def refused(values: dict[str, Any], progress: Progress) -> Report:
        raise ConfigError(STRANGE)

    assert run(lambda values, progress: Strange()) == 0
    assert capsys.readouterr().out == SHOWN
    monkeypatch.delenv("SPAM_DEBUG", raising=False)
    assert run(refused) == 2
    assert capsys.readouterr().err == f"Error: {SHOWN}"
    monkeypatch.setenv("SPAM_DEBUG", "1")
    assert run(refused) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_report_may_choose_its_code() -> None:
    assert run(chatty, exit_code=lambda report: report.to_mapping()["value"]) == 3


def mistaken(values: dict[str, Any], progress: Progress) -> Report:
    message = "--epochs must be positive, not 0"
    raise ConfigError(message)


def test_mistake_is_a_message_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPAM_DEBUG", raising=False)
    assert run(mistaken) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "Error: --epochs must be positive, not 0\n")


def test_mistake_with_traceback_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAM_DEBUG", "1")
    assert run(mistaken) == 2
    assert "Traceback" in capsys.readouterr().err


def test_mistake_in_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPAM_DEBUG", raising=False)
    assert run(mistaken, "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "--epochs must be positive, not 0", "kind": "ConfigError"}
    assert shown.err == ""


def broken(values: dict[str, Any], progress: Progress) -> Report:
    message = "off by one"
    raise IndexError(message)


def test_bug_shows_the_traceback_and_where_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(broken) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" in shown.err
    assert "off by one" in shown.err
    assert "bug in spam" in shown.err
    assert "spam doctor" in shown.err


def test_bug_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(broken, "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["kind"] == "IndexError"
    assert "Traceback" in shown.err


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "may read and write"),
        (errno.EROFS, "disk that can be written"),
        (errno.ENOSPC, "make room on this disk"),
    ],
)
def test_what_the_disk_refuses_is_for_the_user_to_mend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    monkeypatch.delenv("SPAM_DEBUG", raising=False)

    def refused(values: dict[str, Any], progress: Progress) -> Report:
        raise OSError(code, "refused", "/data/cohort.zarr")

    assert run(refused) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: '/data/cohort.zarr': refused; ")
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_a_path_through_a_file_is_for_the_user_to_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")

    def write(values: dict[str, Any], progress: Progress) -> Report:
        (tmp_path / "file" / "store.zarr").mkdir()
        return Report()

    assert run(write, "--json") == 2
    assert "file where a folder is expected" in json.loads(capsys.readouterr().out)["error"]


def test_a_file_that_we_lost_is_our_bug() -> None:
    def lost(values: dict[str, Any], progress: Progress) -> Report:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "spam/data.json")

    assert run(lost) == 1


def interrupted(values: dict[str, Any], progress: Progress) -> Report:
    raise KeyboardInterrupt


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(interrupted, *words) == 130
    shown = capsys.readouterr()
    message = json.loads(shown.out)["error"] if words else shown.err
    assert "run the same command again" in message


@pytest.mark.parametrize(
    "words",
    [("embed", "--foo"), ("embedd",), ("pretrain", "--epochs", "few"), ("embed",), ("demo", "nowhere")],
)
def test_wrong_usage_is_2_with_or_without_json(spam: Any, words: tuple[str, ...]) -> None:
    plain = spam(*words)
    assert (plain.code, plain.out) == (2, "")
    assert "Error: " in plain.err
    machine = spam(*words, "--json")
    assert machine.code == 2
    assert set(machine.json) == {"error", "kind"}


def test_version(spam: Any) -> None:
    ran = spam("--version")
    assert ran.code == 0
    assert ran.out.startswith("spam-st ")
