"""Command-line options, derived from the configurations, so that no option exists in one place alone."""

import dataclasses
import inspect
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from spam.errors import ConfigError, MissingInputError
from spam.schemas.config import Config, check, flag, unknown_fault

__all__ = ["Option", "gather", "options_of", "parameter", "read_recipe"]

_NOT_GIVEN: tuple[Any, ...] = (None, (), "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: the field that it sets, its type and default, its help, and further names of its flag."""

    name: str
    kind: Any
    default: Any
    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    is_argument: bool = False

    @property
    def scalar(self) -> Any:
        """Type of one value: the member of a list, the type beside None."""
        members = [member for member in get_args(self.kind) if member not in (type(None), Ellipsis)]
        is_plain = not members or get_origin(self.kind) is Literal
        if str in members or str in get_args(next(iter(members), None)):
            return str  # a path or an address: the configuration tells them apart
        return self.kind if is_plain else members[0]

    @property
    def is_list(self) -> bool:
        """Whether the option may be repeated, and takes several values with commas between them."""
        return get_origin(self.kind) is tuple


def options_of(
    config: type[Config], *, leave_out: Collection[str] = (), arguments: Collection[str] = ()
) -> tuple[Option, ...]:
    """List the options of a configuration class; `arguments` names the fields that are given by position."""
    kinds = get_type_hints(config)
    return tuple(
        Option(
            name=field.name,
            kind=kinds[field.name],
            default=field.default,
            is_argument=field.name in arguments,
            **field.metadata,
        )
        for field in dataclasses.fields(config)
        if field.name not in leave_out
    )


def parameter(option: Option) -> inspect.Parameter:
    """Make the parameter that typer reads; None stands for "not given", so that a file's value holds."""
    is_choice = get_origin(option.scalar) is Literal
    # Choices are read as text and checked by the configuration, as they are when they come from a file.
    kind: Any = str if option.is_list or is_choice else option.scalar
    shown = option.default
    text = option.help
    if shown not in _NOT_GIVEN and option.kind is not bool and "default" not in text:
        text += f" [default: {shown}]"
    annotation: Any
    settings: dict[str, Any] = {"help": text, "show_default": False, "metavar": _metavar(option)}
    read: Any = list[str] if option.is_list else kind
    if option.is_argument:
        annotation = Annotated[read | None, typer.Argument(**settings)]
    elif option.kind is bool:
        settings["help"] += f" [default: {'on' if shown else 'off'}]"
        name = flag(option.name)
        settings["metavar"] = None
        annotation = Annotated[bool | None, typer.Option(f"{name}/--no-{name[2:]}", **settings)]
    else:
        annotation = Annotated[read | None, typer.Option(flag(option.name), *option.flags, **settings)]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(option: Option) -> str:
    """Show what an option takes: ``<int>``, ``[joint|img-gene]``, and ``...`` where it may be repeated."""
    if option.metavar:
        return option.metavar
    choices = "|".join(get_args(option.scalar))
    if option.is_argument:  # typer puts brackets around it
        return choices or option.name.upper()
    one = f"[{choices}]" if choices else f"<{option.scalar.__name__.lower()}>"
    return f"{one},..." if option.is_list else one


def _split(option: Option, texts: Sequence[str]) -> list[Any]:
    """Split at commas and read numbers; the configuration refuses by name what stays text."""
    values: list[Any] = []
    for item in (item.strip() for text in texts for item in text.split(",")):
        try:
            values.append(option.scalar(item) if option.scalar in (int, float) else item)
        except ValueError:
            values.append(item)
    return values


def read_recipe(path: Path, options: Sequence[Option], *, command: str) -> dict[str, Any]:
    """Read a TOML file of options, written as ``batch_size = 32`` (or ``batch-size``).

    Raises
    ------
    MissingInputError
        If the file is not there.
    ConfigError
        If it is no TOML, or names an option that the command does not have (names the nearest).
    """
    if not path.is_file():
        message = f'--config {str(path)!r} is not a file; write one with lines such as: device = "cpu"'
        raise MissingInputError(message)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f'--config {str(path)!r} is not TOML: {error}; write lines such as: device = "cpu"'
        raise ConfigError(message) from error
    known = [option.name for option in options]
    unknown = [key for key in table if key.replace("-", "_") not in known]
    check([unknown_fault(f"`spam {command}` (asked for in {str(path)!r})", unknown, known)])
    return {key.replace("-", "_"): value for key, value in table.items()}


def gather(
    options: Sequence[Option], flags: Mapping[str, Any], recipe: Path | None, *, command: str
) -> dict[str, Any]:
    """Collect the values that were given: those of the recipe, overridden by flags; defaults are left out."""
    values = read_recipe(recipe, options, command=command) if recipe else {}
    for option in options:
        if (given := flags.get(option.name)) is not None:
            values[option.name] = _split(option, given) if option.is_list else given
    return values
