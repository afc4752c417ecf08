"""Turns a command (its options, its one library call) into a typer command, and runs it to its exit code."""

import contextlib
import dataclasses
import errno
import inspect
import json
import math
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from spam.errors import SpamError
from spam.progress import Progress

from .options import Option, gather, parameter

__all__ = ["Command", "Report", "add_command", "print_failure"]

_INTERRUPTED = "interrupted; run the same command again to go on where it stopped"
_OUR_BUG = (
    "this is a bug in spam, not in what you did; please report it where you got spam from, with the lines "
    "above and the output of `spam doctor`"
)


# What a computer says of paths and disks; no other OSError is for the user to mend.
_PATH_ADVICE = {
    errno.EACCES: "choose a path that you may read and write, or ask for the permission",
    errno.EPERM: "choose a path that you may read and write, or ask for the permission",
    errno.EROFS: "choose a path on a disk that can be written",
    errno.ENOTDIR: "a part of this path is a file where a folder is expected; choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOSPC: "make room on this disk, then run the same command again, or choose a path on another disk",
    errno.EDQUOT: "make room in your quota, then run the same command again, or choose a path on another disk",
}


class Report(Protocol):
    """What a library function hands back: its outcome as JSON-ready values and as a few lines of text."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""

    def summary(self) -> str:
        """Say in a few lines of plain text what came out."""


def _done(report: Any) -> int:
    return 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: what it does, an example, its options, and the library call that does the work."""

    name: str
    does: str
    example: str
    options: tuple[Option, ...]
    work: Callable[[dict[str, Any], Progress], Report]
    exit_code: Callable[[Any], int] = _done


def _plain(value: Any) -> Any:
    """Put null where JSON has no number (NaN, infinity), as deep as it goes."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(_plain(values), allow_nan=False))


def _shown(text: str) -> str:
    """Escape what a terminal would obey: a store may come from a stranger, and its names with it."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\n"
        else character
        for character in text
    )


def _print_traceback() -> None:
    print(_shown(traceback.format_exc()), end="", file=sys.stderr)


def print_failure(message: str, kind: str, *, is_json: bool) -> None:
    """Say what went wrong: as a JSON object on standard output, or as a line on standard error."""
    if is_json:
        _print_json({"error": message, "kind": kind})
    else:
        print(_shown(f"Error: {message}"), file=sys.stderr)


def _run(command: Command, flags: dict[str, Any], recipe: Path | None, *, is_json: bool) -> int:
    """Run a command and return its exit code: 0 done, 1 our bug, 2 the user can mend it, 130 interrupted."""
    from rich.console import Console

    from spam.console import show_log, show_progress

    console = Console(stderr=True)
    try:
        # Whatever a library prints must not stand between a script and its JSON.
        with contextlib.redirect_stdout(sys.stderr), show_log(console), show_progress(console) as progress:
            values = gather(command.options, flags, recipe, command=command.name)
            report = command.work(values, progress)
        outcome = report.to_mapping() if is_json else report.summary()
    except SpamError as error:
        if os.environ.get("SPAM_DEBUG") == "1":
            _print_traceback()
        print_failure(str(error), type(error).__name__, is_json=is_json)
        return 2
    except KeyboardInterrupt:
        print_failure(_INTERRUPTED, "KeyboardInterrupt", is_json=is_json)
        return 130
    except Exception as error:  # noqa: BLE001  the one place where a bug turns into an exit code
        advice = _PATH_ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None
        if isinstance(error, OSError) and advice is not None:
            if os.environ.get("SPAM_DEBUG") == "1":
                _print_traceback()
            where = f"{str(error.filename)!r}: " if error.filename is not None else ""
            print_failure(f"{where}{error.strerror}; {advice}", type(error).__name__, is_json=is_json)
            return 2
        _print_traceback()
        print_failure(f"{error!r}: {_OUR_BUG}", type(error).__name__, is_json=is_json)
        return 1
    if isinstance(outcome, str):
        print(_shown(outcome))
    else:
        _print_json(outcome)
    return command.exit_code(report)


def add_command(app: typer.Typer, command: Command) -> None:
    """Add a command to `app`, with its options and those that all have: ``--config`` and ``--json``."""

    def call(**given: Any) -> None:
        is_json = given.pop("json")
        raise typer.Exit(_run(command, given, given.pop("config"), is_json=is_json))

    keyword = inspect.Parameter.KEYWORD_ONLY
    recipe_help = "TOML file of these options; flags given here win over it"
    json_help = "print one JSON object on standard output, all else on standard error"
    shared = (
        inspect.Parameter(
            "config",
            keyword,
            default=None,
            annotation=Annotated[Path | None, typer.Option("--config", help=recipe_help)],
        ),
        inspect.Parameter(
            "json", keyword, default=False, annotation=Annotated[bool, typer.Option("--json", help=json_help)]
        ),
    )
    parameters = [*map(parameter, command.options), *shared]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {item.name: item.annotation for item in parameters}
    # "\b" keeps the example's line breaks.
    example = "\n".join(f"  {line}" for line in command.example.splitlines())
    text = f"Example:\n\n\b\n{example}\n\n{command.does}"
    app.command(command.name, help=text, short_help=command.does.split(". ")[0].rstrip("."))(call)
