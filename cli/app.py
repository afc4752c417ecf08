"""The application: all commands, and errors that occur before a command is known."""

import importlib.metadata
import sys
from typing import Annotated, NoReturn

import typer

from .command import add_command, print_failure
from .commands import ENCODER_COMMANDS, MODEL_COMMANDS, PIPELINE
from .store_commands import STORE_COMMANDS

_GROUPS = {
    "encoders": ("List encoders and check access to their weights.", ENCODER_COMMANDS),
    "model": ("Describe, verify and share a checkpoint.", MODEL_COMMANDS),
    "store": ("Inspect, verify, copy, pack, share, import or export a feature store.", STORE_COMMANDS),
}
_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    # The published commands write --save_dir; both spellings work.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


def _show_version(is_asked: bool) -> None:  # noqa: FBT001  typer passes it by position
    if is_asked:
        print(f"spam-st {importlib.metadata.version('spam-st')}")
        raise typer.Exit


def _spam(
    *,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Predict spatial gene expression from H&E histology: embed once, train from the store, predict."""


def _plain_typer(text: str | None, *, has_completion: bool = False) -> typer.Typer:
    # Plain help: rich would triple the time of `spam --help`.
    return typer.Typer(
        help=text,
        rich_markup_mode=None,
        add_completion=has_completion,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )


def build_app() -> typer.Typer:
    """Build the application with all of its commands."""
    app = _plain_typer(None, has_completion=True)
    app.callback()(_spam)
    for command in PIPELINE:
        add_command(app, command)
    for name, (does, commands) in _GROUPS.items():
        group = _plain_typer(does)
        for command in commands:
            add_command(group, command)
        app.add_typer(group, name=name, short_help=does.rstrip("."))
    return app


def main() -> NoReturn:
    """Run the command in ``sys.argv`` and exit with its code."""
    if "--json" not in sys.argv:
        build_app()(prog_name="spam")
    try:
        code = build_app()(prog_name="spam", standalone_mode=False)
    except typer.TyperException as error:
        print_failure(error.format_message(), type(error).__name__, is_json=True)
        code = 2
    sys.exit(code)
