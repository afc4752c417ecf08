"""Command-line options, derived from the fields of the configurations."""

import contextlib
import dataclasses
import inspect
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from spam.errors import ConfigError, MissingInputError
from spam.schemas.config import Config, Panel, check, flag, named
from spam.schemas.records import fitted

_MOST_RECIPE_BYTES = 1 << 20
_INPUTS = (
    "store",
    "from_",
    "image",
    "manifest",
    "h5ad",
    "csv",
    "root",
    "section",
    "donor",
)  # first in the help


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: the field it sets, its type and default, and how the help shows it."""

    name: str
    kind: Any
    default: Any
    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: Panel | None = None
    is_argument: bool = False
    limits: str | None = None

    @property
    def shown(self) -> str:
        """The name in messages: ``--batch-size``, or ``STORE`` for a positional option."""
        return self.name.upper() if self.is_argument else flag(self.name)

    @property
    def scalar(self) -> Any:
        """Type of one value: the member of a list, without None."""
        members = [member for member in get_args(self.kind) if member not in (type(None), Ellipsis)]
        is_plain = not members or get_origin(self.kind) is Literal
        if str in members or str in get_args(next(iter(members), None)):
            return str  # a path or an address: the configuration distinguishes them
        return self.kind if is_plain else members[0]

    @property
    def is_list(self) -> bool:
        """Whether the option takes several values, repeated or separated by commas."""
        return get_origin(self.kind) is tuple

    def parameter(self) -> inspect.Parameter:
        """Build the parameter that typer reads; its default None means "not given"."""
        # All values are read as text: the configuration checks them, as it does for values from a file.
        kind: Any = list[str] if self.is_list else bool if self.scalar is bool else str
        settings: dict[str, Any] = {
            "help": self._help(),
            "show_default": False,
            "metavar": self._metavar(),
            "rich_help_panel": self.panel,
        }
        declared: Any
        if self.is_argument:
            declared = typer.Argument(**settings)
        elif self.scalar is bool:
            declared = typer.Option(f"{flag(self.name)}/--no-{flag(self.name)[2:]}", **settings)
        else:
            declared = typer.Option(flag(self.name), *self.flags, **settings)
        annotation = Annotated[kind | None, declared]
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )

    def read(self, given: Any) -> Any:
        """Split lists at commas, and read numbers; the configuration rejects what is not a number."""
        if self.is_list:
            return [self._number(item.strip()) for text in given for item in text.split(",")]
        return self._number(given)

    def _number(self, text: Any) -> Any:
        if self.scalar in (int, float):
            with contextlib.suppress(ValueError):
                return self.scalar(text)
        return text

    def _help(self) -> str:
        shown: Any = {True: "on", False: "off"}.get(self.default) if self.scalar is bool else self.default
        shown = ", ".join(map(str, shown)) if self.is_list else shown
        is_shown = shown not in (None, (), "") and "default" not in self.help
        return f"{self.help} [default: {shown}]" if is_shown else self.help

    def _metavar(self) -> str | None:
        """Show the type of a value: ``<int>``, ``[joint|img-gene]``; with ``...`` for lists."""
        if self.metavar or self.scalar is bool:
            return self.metavar
        choices = "|".join(get_args(self.scalar))
        if self.is_argument:  # typer adds brackets
            return choices or self.name.upper()
        one = f"[{choices}]" if choices else f"<{self.scalar.__name__.lower()}>"
        return f"{one},..." if self.is_list else one


def options_of(config: type[Config], *, leave_out: Collection[str] = ()) -> tuple[Option, ...]:
    """List the options of a configuration class, inputs first."""
    kinds = get_type_hints(config)
    shown = ("help", "flags", "metavar", "panel", "is_argument", "limits")
    ranks = {name: rank for rank, name in enumerate(_INPUTS)}
    return tuple(
        Option(
            name=field.name,
            kind=kinds[field.name],
            default=field.default,
            **{key: field.metadata[key] for key in shown},
        )
        for field in sorted(dataclasses.fields(config), key=lambda field: ranks.get(field.name, len(ranks)))
        if field.name not in leave_out
    )


def read_recipe(path: Path, options: Sequence[Option], *, command: str) -> dict[str, Any]:
    """Read a TOML file of options, written as ``batch_size = 32`` (or ``batch-size``).

    Raises
    ------
    MissingInputError
        If there is no such file.
    ConfigError
        If it is not TOML, names an option that the command does not have, or one in both spellings.
    """
    where = f"{path} (--config)"
    if not path.is_file():
        found = "Not a file, but a folder" if path.is_dir() else "File not found"
        message = f"{found}: {where}."
        raise MissingInputError(message)
    if (n_bytes := path.stat().st_size) > _MOST_RECIPE_BYTES:
        message = (
            f'{where} has {n_bytes} bytes: this is not a file of options. Write lines such as: device = "cpu"'
        )
        raise ConfigError(message)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors begin with a mark
    except (ValueError, RecursionError) as error:  # also not UTF-8, or an integer of thousands of digits
        message = f'{where} is not TOML: {error}. Write lines such as: device = "cpu"'
        raise ConfigError(message) from error
    return named(table, [option.name for option in options], f"`spam {command}` ({path})")


def gather(
    options: Sequence[Option], flags: Mapping[str, Any], recipe: str | None, *, command: str
) -> dict[str, Any]:
    """Collect the given values: those of the recipe, overridden by flags; defaults are left out.

    Types and limits are checked here too, because an option may have another name than the field that it sets.

    Raises
    ------
    MissingInputError, ConfigError
        As `read_recipe`; also for values of a wrong type or outside their limits.
    """
    values = read_recipe(Path(recipe), options, command=command) if recipe else {}
    given = {
        option.name: option.read(flags[option.name])
        for option in options
        if flags.get(option.name) is not None
    }
    faults = []
    for option in options:
        if option.name in {**values, **given}:
            is_flag = option.name in given
            shown = option.shown if is_flag else f"{option.name} in {recipe} (--config)"
            value = given[option.name] if is_flag else values[option.name]
            # Choices are left to the configuration: a command may know further names for them.
            kind = str if get_origin(option.scalar) is Literal and not option.is_list else option.kind
            faults.append(fitted(value, kind, option.limits, shown)[1])
    check(faults)
    return {**values, **given}
