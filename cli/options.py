"""Command-line options, derived from the fields of the configurations."""

import dataclasses
import inspect
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from spam.errors import ConfigError, MissingInputError
from spam.schemas.config import Config, Panel, check, field_name, flag, unknown_fault


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
        # Choices are read as text: the configuration checks them, as it does for values from a file.
        is_text = self.is_list or self.scalar is Path or get_origin(self.scalar) is Literal
        kind: Any = list[str] if self.is_list else str if is_text else self.scalar
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
        """Split lists at commas and read their numbers; the configuration rejects what is not a number."""
        if not self.is_list:
            return given
        values: list[Any] = []
        for item in (item.strip() for text in given for item in text.split(",")):
            try:
                values.append(self.scalar(item) if self.scalar in (int, float) else item)
            except ValueError:
                values.append(item)
        return values

    def _help(self) -> str:
        shown = {True: "on", False: "off", None: None}[self.default] if self.scalar is bool else self.default
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
    """List the options of a configuration class."""
    kinds = get_type_hints(config)
    shown = ("help", "flags", "metavar", "panel", "is_argument")
    return tuple(
        Option(
            name=field.name,
            kind=kinds[field.name],
            default=field.default,
            **{key: field.metadata[key] for key in shown},
        )
        for field in dataclasses.fields(config)
        if field.name not in leave_out
    )


def read_recipe(path: Path, options: Sequence[Option], *, command: str) -> dict[str, Any]:
    """Read a TOML file of options, written as ``batch_size = 32`` (or ``batch-size``).

    Raises
    ------
    MissingInputError
        If the file does not exist.
    ConfigError
        If it is not TOML, or names an option that the command does not have.
    """
    if not path.is_file():
        message = f"File not found: {path} (--config)."
        raise MissingInputError(message)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f'{path} (--config) is not TOML: {error}. Write lines such as: device = "cpu"'
        raise ConfigError(message) from error
    known = [option.name for option in options]
    unknown = [key for key in table if field_name(key) not in known]
    check([unknown_fault(f"`spam {command}` ({path})", unknown, known)])
    return {field_name(key): value for key, value in table.items()}


def gather(
    options: Sequence[Option], flags: Mapping[str, Any], recipe: str | None, *, command: str
) -> dict[str, Any]:
    """Collect the given values: those of the recipe, overridden by flags; defaults are left out."""
    values = read_recipe(Path(recipe), options, command=command) if recipe else {}
    given = {
        option.name: option.read(flags[option.name])
        for option in options
        if flags.get(option.name) is not None
    }
    return {**values, **given}
