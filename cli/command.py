"""Turns a command into a typer command, and runs it to its exit code."""

import contextlib
import dataclasses
import errno
import importlib
import inspect
import itertools
import json
import logging
import math
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from spam.encoders.registry import OPEN_SOURCES, encoder_card
from spam.errors import SpamError
from spam.progress import SILENT, Advance, Progress
from spam.schemas.config import Config
from spam.schemas.embed_config import EmbedConfig, SectionsConfig

from .options import Option, gather, options_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

# Operating system errors that the user can fix, with the next step; any other OSError is a bug.
_FREE_SPACE = "Free some space, or choose another disk, and run the same command again."
_OTHER_PLACE = "Choose another path."
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "This shell limits the size of files: see `ulimit -f`, and run the same command again.",
    errno.EMFILE: "This shell limits the number of open files: raise it with `ulimit -n`.",
    errno.EIO: "Check the disk, and run the same command again.",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a place where you may write."),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP), _OTHER_PLACE
    ),
}
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_ERRNO = re.compile(r"errno(?: = |\s|: )?(\d+)", re.IGNORECASE)  # in the messages of HDF5 and Arrow
_TRAINERS, _KEEPING = ("pretrain", "finetune", "adapt"), " without --overwrite"
# Options of every command.
_SHARED = (
    Option(
        name="config",
        kind=Path,
        default=None,
        panel="Advanced",
        help="TOML file of these options; flags override it",
    ),
    Option(
        name="json",
        kind=bool,
        default=False,
        panel="Advanced",
        help="print one JSON object on standard output, everything else on standard error",
    ),
)
_WIDTH = 100  # of text and tables
_PANELS = ("Arguments", "Data", "Training", "Model", "Output", "Options", "Advanced", "Lab files")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A report made by a command: values for ``--json``, and text."""

    values: dict[str, Any]
    text: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return self.values

    def summary(self) -> str:
        """Return the text."""
        return self.text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: what it does, an example, its options, and the function that returns its report.

    Attributes
    ----------
    exit_code
        Exit code of a report.
    again
        Advice after an interruption.
    """

    name: str
    does: str
    example: str
    options: tuple[Option, ...]
    work: Callable[[dict[str, Any], Progress], Any]
    exit_code: Callable[[Any], int] = lambda report: 0
    again: str = "run the same command again to resume"


def check_inputs(config: Config) -> None:
    """Report wrong paths and an unknown encoder before torch is imported, which takes seconds."""
    config.check_paths()
    if isinstance(config, EmbedConfig) and not config.enc_name.startswith(OPEN_SOURCES):
        encoder_card(config.enc_name, config.revision)
    if isinstance(config, SectionsConfig) and config.manifest is not None:
        from spam.sections import read_manifest

        read_manifest(config.manifest, root=config.root)


def call(twin: str, *configs: Config, progress: Progress) -> Any:
    """Call a function of `spam` or of a module below it, imported after the paths have been checked.

    For example ``"embed"`` or ``"store.packing.pack"``.
    """
    for config in configs:
        check_inputs(config)
    module, _, function = f"spam.{twin}".rpartition(".")
    return getattr(importlib.import_module(module), function)(*configs, progress=progress)


def command(name: str, does: str, example: str, config: type[Config], twin: str, **more: Any) -> Command:
    """Build a command that calls its library twin with a configuration of its options."""

    def work(values: dict[str, Any], progress: Progress) -> Any:
        return call(twin, config.from_mapping(values), progress=progress)

    made = Command(name=name, does=does, example=example, options=options_of(config), work=work)
    return dataclasses.replace(made, **more)


def _plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(_plain(values), allow_nan=False))


def _shown(text: str) -> str:
    """Escape terminal control characters: names in a downloaded store are not trusted."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\n"
        else character
        for character in text
    )


def print_text(text: str) -> None:
    """Print text; on a terminal, draw its Markdown tables (at most 100 columns wide)."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    console.width = min(console.width, _WIDTH)
    for is_table, lines in itertools.groupby(text.split("\n"), key=lambda line: line.startswith("| ")):
        if not is_table:
            print("\n".join(lines))  # not wrapped, so that paths and commands can be copied
            continue
        head, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        table = Table()
        for name, dashes in zip(head, rule, strict=True):
            table.add_column(name, justify="right" if dashes.endswith(":") else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _print_traceback() -> None:
    print(_shown(traceback.format_exc()), end="", file=sys.stderr)


def print_failure(message: str, kind: str, *, is_json: bool) -> None:
    """Print an error: as a JSON object on standard output, or as a line on standard error."""
    if is_json:
        _print_json({"error": message, "kind": kind})
    else:
        print(_shown(f"Error: {message}"), file=sys.stderr)


def _mendable(error: Exception) -> str | None:
    """Return the message of an error that the user can fix; None for a bug."""
    if isinstance(error, SpamError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"This needs more memory than there is ({error or 'no size is known'}). Use smaller numbers or fewer sections"
    cause: BaseException | None = error
    while cause is not None:  # libraries raise errors of their own from those of a disk
        number = getattr(cause, "errno", None)
        if number is None and (match := _ERRNO.search(str(cause))):
            number = int(match[1])
        if number in _REMEDIES and (cause is error or number in _OF_DISKS):
            name = getattr(cause, "filename", None)
            return f"{os.strerror(number)}{'' if name is None else f': {name}'}. {_REMEDIES[number]}"
        cause = cause.__cause__ or cause.__context__
    return None


def _run(command: Command, flags: dict[str, Any], recipe: str | None, *, is_json: bool) -> int:
    """Run a command and return its exit code: 0 done, 1 bug, 2 user error, 130 interrupted."""
    from rich.console import Console

    # Jupyter sets FORCE_COLOR, which would draw bars into the output of a cell.
    console, values = Console(stderr=True, force_terminal=sys.stderr.isatty()), dict[str, Any]()
    try:
        values = gather(command.options, flags, recipe, command=command.name)
        # Output of libraries goes to standard error, so that standard output holds the result alone.
        with contextlib.redirect_stdout(sys.stderr), show_log(console), show_progress(console) as progress:
            report = command.work(values, progress)
        outcome = report.to_mapping() if is_json else report.summary()
    except KeyboardInterrupt:
        again = command.again + (_KEEPING if values.get("overwrite") and command.name in _TRAINERS else "")
        print_failure(f"interrupted; {again}", "KeyboardInterrupt", is_json=is_json)
        return 130
    except Exception as error:  # noqa: BLE001  the one place where a bug turns into an exit code
        message = _mendable(error)
        if message is None or os.environ.get("SPAM_DEBUG") == "1":
            _print_traceback()
        advice = (
            "this is a bug in spam; please report it with the lines above and the output of `spam doctor`"
        )
        print_failure(message or f"{error!r}: {advice}", type(error).__name__, is_json=is_json)
        return 2 if message else 1
    if isinstance(outcome, str):
        print_text(_shown(outcome))
    else:
        _print_json(outcome)
    return command.exit_code(report)


class _BarProgress:
    """A `Progress` that draws one bar per task."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps; it stays on the screen after the task."""
        bar = self._bars.add_task(description, total=total, note="")

        def advance(steps: int = 1, *, note: str = "") -> None:
            fields = {"note": note} if note else {}
            self._bars.update(bar, advance=steps, **fields)  # type: ignore[arg-type]

        yield advance


@contextlib.contextmanager
def show_progress(console: "Console") -> Iterator[Progress]:
    """Show progress on a terminal; elsewhere (a log file, a pipe) stay silent."""
    if not console.is_terminal:
        yield SILENT
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Steps per second, which rich knows only for bytes."""

        def render(self, task: Task) -> Text:
            rate = task.finished_speed or task.speed
            return Text("" if rate is None else f"{rate:,.3g}/s" if rate < 100 else f"{rate:,.0f}/s")

    description, note = (
        TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}")
    )
    left = (TextColumn("ETA"), TimeRemainingColumn(compact=True))
    counts = (BarColumn(20), MofNCompleteColumn(), RateColumn(), TimeElapsedColumn(), *left)
    with Progress(description, *counts, note, console=console) as bars:
        yield _BarProgress(bars)


@contextlib.contextmanager
def show_log(console: "Console") -> Iterator[None]:
    """Show the log messages of the library inside a ``with`` block."""
    from rich.logging import RichHandler

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


def as_markdown(help: str) -> str:
    """Write the example of a command's help, which a backspace keeps from being wrapped, as a block of code."""
    return re.sub("\x08\n(.*?)\n\n", r"```\n\1\n```\n\n", help, flags=re.DOTALL)


class _PanelCommand(TyperCommand):
    """A command whose help lists the options by panel, in the order of `_PANELS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Explain that several values of an option are separated by commas."""
        words = list(args)  # parsing empties the list
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            lists = [
                name
                for item in self.get_params(ctx)
                if getattr(item, "multiple", False)
                for name in item.opts
            ]
            for at, word in enumerate(words):
                name = word.replace("_", "-")
                values = list(itertools.takewhile(lambda text: not text.startswith("-"), words[at + 1 :]))
                if name in lists and len(values) > 1 and "extra argument" in error.message:
                    error.message += f". Separate several values by commas: {name} {','.join(values)}"
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Draw the help with rich on a terminal, as wide as it is; elsewhere write plain text."""
        if not sys.stdout.isatty():
            super().format_help(ctx, formatter)
            return
        from typer.rich_utils import rich_format_help

        self.help = as_markdown(self.help or "")
        rich_format_help(obj=self, ctx=ctx, markup_mode="markdown")

    def get_help_option(self, ctx: Any) -> Any:
        """Show ``--help`` with the options of every command."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = _SHARED[0].panel
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel."""
        panels: dict[str, list[Any]] = {}
        for parameter in self.get_params(ctx):
            title = getattr(parameter, "rich_help_panel", None)
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, help = record
                if not name.startswith("-"):  # an argument: its name is enough
                    name = name.partition(" <")[0]
                title = title or ("Options" if name.startswith("-") else "Arguments")
                panels.setdefault(title, []).append((name, help))
        for title in sorted(panels, key=_PANELS.index):
            with formatter.section(title):
                formatter.write_dl(panels[title])


def add_command(app: typer.Typer, command: Command) -> None:
    """Add a command to `app`, with its options, ``--config`` and ``--json``."""

    def run(**given: Any) -> None:
        is_json = bool(given.pop("json"))
        raise typer.Exit(_run(command, given, given.pop("config"), is_json=is_json))

    options = sorted(
        (*command.options, *_SHARED), key=lambda option: _PANELS.index(option.panel or "Options")
    )
    parameters = [option.parameter() for option in options]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    # "\b" keeps the line breaks of the example.
    example = "\n".join(f"  {line}" for line in command.example.splitlines())
    text = f"Example:\n\n\b\n{example}\n\n{command.does}"
    app.command(
        command.name, cls=_PanelCommand, help=text, short_help=command.does.split(". ")[0].rstrip(".")
    )(run)
