"""The application: all commands in one place, and what happens before a command is known."""

import importlib.metadata
import sys
from typing import Annotated, NoReturn

import typer

from .adapt import ADAPT
from .benchmark import BENCHMARK
from .command import add_command, print_failure
from .demo import DEMO
from .doctor import DOCTOR
from .embed import EMBED
from .encoders import ENCODERS_CHECK, ENCODERS_INFO, ENCODERS_LIST
from .finetune import FINETUNE
from .graph import GRAPH
from .hest import HEST
from .predict import INFERENCE, PREDICT
from .pretrain import PRETRAIN
from .simulate import SIMULATE
from .store import STORE_COMMANDS

__all__ = ["COMMANDS", "build_app", "main"]

COMMANDS = (
    EMBED,
    ADAPT,
    GRAPH,
    PRETRAIN,
    FINETUNE,
    PREDICT,
    INFERENCE,
    BENCHMARK,
    HEST,
    SIMULATE,
    DEMO,
    DOCTOR,
)
_GROUPS = {
    "encoders": ("What is known of the encoders.", (ENCODERS_LIST, ENCODERS_INFO, ENCODERS_CHECK)),
    "store": ("Look into feature stores, check, copy, pack, share and exchange them.", STORE_COMMANDS),
}
_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    # The published commands write --save_dir; both spellings are one option.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


def _show_version(is_asked: bool) -> None:  # noqa: FBT001  typer hands it over by position
    if is_asked:
        print(f"spam-st {importlib.metadata.version('spam-st')}")
        raise typer.Exit


def _spam(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Predict spatial gene expression from H&E histology: embed once, train from the store, predict."""


def _plain_typer(text: str | None) -> typer.Typer:
    # Plain help: drawing it with rich would triple the time that `spam --help` takes.
    return typer.Typer(
        help=text,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )


def build_app() -> typer.Typer:
    """Build the application with all of its commands."""
    app = _plain_typer(None)
    app.callback()(_spam)
    for command in COMMANDS:
        add_command(app, command)
    for name, (does, commands) in _GROUPS.items():
        group = _plain_typer(does)
        for command in commands:
            add_command(group, command)
        app.add_typer(group, name=name)
    return app


def main() -> NoReturn:
    """Run the command that ``sys.argv`` names, and leave with its exit code."""
    if "--json" not in sys.argv:
        build_app()(prog_name="spam")
    try:
        code = build_app()(prog_name="spam", standalone_mode=False)
    except typer.TyperException as error:
        print_failure(error.format_message(), type(error).__name__, is_json=True)
        code = 2
    sys.exit(code)
