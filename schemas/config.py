"""Base of all records and configurations: one dataclass field is one option, with its help, limits and default.

A field is written as ``name: type = option(default, "help")``; the command line is derived from these fields.
Precedence is defaults < TOML file < command-line flags.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import keyword
import re
import types
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spam.errors import ConfigError, MissingInputError, shortened

R = TypeVar("R", bound="Record")
C = TypeVar("C", bound="Config")

Panel = Literal["Data", "Lab files", "Training", "Model", "Output", "Advanced"]
"""Section of a command's help."""

_OUTPUT_NAMES = ("out", "out_dir", "save_dir", "to")
_MOST_FLOAT = 2**1023  # larger whole numbers are not converted to floats
_MOST_FAULTS = 3  # of a file, in one message
_MOST_LEVELS = 16  # of values without a schema; Python refuses to write about a thousand
_INTERVAL = re.compile(r"([\[(])(.+),(.+)([\])])")
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a local path",
    Any: f"nested at most {_MOST_LEVELS} levels deep",
}


def option(
    default: Any,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    limits: str | None = None,
    required: str | None = None,
    is_output: bool = False,
    is_argument: bool = False,
    panel: Panel | None = None,
) -> Any:
    """Declare a configuration field.

    Parameters
    ----------
    default, help
        Default and help text.
    flags, metavar
        Further names of the flag, and what the help shows as its value.
    limits
        Finite interval of a number (or of each number of a list), such as ``"[1,1000]"`` or ``"[0,1)"``: every numeric field
        has one. None is always accepted.
    required
        For a field without a usable default: what to give, added to "--flag is missing: ".
    is_argument
        Whether the command line takes the value by position, without a flag.
    is_output
        Whether a path is written, and so need not exist; fields named `out`, `out_dir`, `save_dir` or `to` always are.
    panel
        Section of the help that shows the option.
    """
    metadata = dict(locals())  # all parameters
    return dataclasses.field(default=metadata.pop("default"), metadata=metadata)


def number(limits: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a number of a record, with its interval as in `option`."""
    return dataclasses.field(default=default, metadata={"limits": limits})


data, training, model, output, advanced = (
    functools.partial(option, panel=panel) for panel in ("Data", "Training", "Model", "Output", "Advanced")
)


def default_of(config: type["Config"], name: str) -> Any:
    """Return the default of a field."""
    (default,) = (field.default for field in dataclasses.fields(config) if field.name == name)
    return default


def flag(field_name: str) -> str:
    """Name the command-line flag of a field, e.g. ``batch_size`` -> ``--batch-size``, ``from_`` -> ``--from``."""
    return "--" + field_name.rstrip("_").replace("_", "-")


def field_name(key: str) -> str:
    """Name the field that a key of a file sets: ``batch-size`` -> ``batch_size``, ``from`` -> ``from_``."""
    name = key.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def check(faults: Iterable[str | None]) -> None:
    """Raise one `ConfigError` that lists every fault; ``None`` entries are skipped."""
    found = [fault for fault in faults if fault]
    if found:
        raise ConfigError("; ".join(found))


def unknown_fault(owner: str, unknown: Iterable[str], known: Iterable[str]) -> str | None:
    """Describe unknown keys, the first ones with the nearest known one; None if there are none."""
    known, unknown = list(known), list(unknown)
    near = {
        key: difflib.get_close_matches(key.replace("-", "_"), known, n=1) for key in unknown[:_MOST_FAULTS]
    }
    hints = [
        shortened(key) + (f" (did you mean {match[0]!r}?)" if match else "") for key, match in near.items()
    ]
    more = f" and {len(unknown) - len(hints)} more" if len(unknown) > len(hints) else ""
    advice = "" if all(near.values()) else "; see --help"
    return f"{owner} has no option {', '.join(hints)}{more}{advice}" if hints else None


def named(values: Mapping[str, Any], known: Iterable[str], owner: str) -> dict[str, Any]:
    """Return the values by field name, whether their keys are written with ``-`` or ``_``.

    Raises
    ------
    ConfigError
        If a key is unknown (with the nearest known one), or given in both spellings.
    """
    names = {key: field_name(key) for key in values}
    known = list(known)
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    check(
        [
            unknown_fault(owner, [key for key, name in names.items() if name not in known], known),
            f"{owner} is given {' and '.join(map(flag, twice))} twice; give one of both spellings"
            if twice
            else None,
        ]
    )
    return {name: values[key] for key, name in names.items()}


def interval_fault(number: float, limits: str) -> str | None:
    """Return what a number outside an interval must be, e.g. ``at least 1``; None for a number inside it."""
    match = _INTERVAL.fullmatch(limits)
    assert match is not None  # written in a configuration
    opening, low, high, closing = match.groups()
    is_above = number > float(low) or (opening == "[" and number == float(low))
    is_below = number < float(high) or (closing == "]" and number == float(high))
    if is_above and is_below:
        return None
    if float(high) <= 1:
        return f"in {opening}{low}, {high}{closing}"
    if is_above:
        return f"{'at most' if closing == ']' else 'below'} {high}"
    words = {"(0": "positive", "[0": "0 or more"}
    return words.get(opening + low) or f"{'at least' if opening == '[' else 'above'} {low}"


def members_of(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def describe_kind(kind: Any) -> str:
    """Describe the values of a field of type `kind`, e.g. ``a list, each a number``."""
    kind = next(member for member in members_of(kind) if member is not types.NoneType)
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) in (tuple, list):
        kinds = get_args(kind)
        size = f" of {len(kinds)}" if len(kinds) > 1 and kinds[1] is not Ellipsis else ""
        return f"a list{size}, each {describe_kind(kinds[0])}"
    return _WORDS.get(kind, "a table")


def fit_value(value: Any, kind: Any, name: str = "the value") -> Any:
    """Convert a plain value to the type of a field: lists to tuples, text to paths, whole numbers to floats.

    Nothing else is converted: the text ``"3"`` is not a number, ``True`` is not a whole number, and an address
    such as ``s3://bucket/cohort.zarr`` is not a path.

    Raises
    ------
    TypeError
        If the value does not fit; the message names the entry, e.g. ``settings.heads``.
    """
    for member in members_of(kind):
        origin, inner = get_origin(member) or member, get_args(member)
        if member in (Any, types.NoneType):
            if value is None or (member is Any and _is_shallow(value, _MOST_LEVELS)):
                return value
        elif origin is Literal:
            if isinstance(value, str) and value in inner:
                return value
        elif origin in (tuple, list):
            if isinstance(value, list | tuple):
                is_fixed = len(inner) > 1 and inner[1] is not Ellipsis
                kinds = inner if is_fixed else inner[:1] * len(value)
                if len(kinds) == len(value):
                    each = zip(value, kinds, strict=True)
                    return origin(fit_value(item, of, name) for item, of in each)
        elif origin is dict:
            if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
                return {
                    key: fit_value(item, inner[1], f"{name}.{shortened(key)[1:-1]}")
                    for key, item in value.items()
                }
        elif member is Path:
            if (
                isinstance(value, str | Path)
                and str(value)
                and not any(part in str(value) for part in ("://", "\0"))
            ):
                return Path(value)
        elif member is float:
            is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST_FLOAT
            if is_whole or isinstance(value, float):
                return float(value)
        elif isinstance(origin, type) and issubclass(origin, Record):
            if isinstance(value, origin):
                return value
            if isinstance(value, Mapping):
                return record_of(origin, value, f"{name}.")
        elif isinstance(value, str):
            if member is str and "\0" not in value:
                return value
        elif isinstance(value, origin) and (member is bool or not isinstance(value, bool)):
            return value
    message = f"{name} must be {describe_kind(kind)}, not {shortened(value)}"
    raise TypeError(message)


def fitted(value: Any, kind: Any, limits: str | None, name: str) -> tuple[Any, str | None]:
    """Convert a value to the type of a field, and describe what is wrong with it, if anything."""
    try:
        value = fit_value(value, kind, name)
    except TypeError as error:
        return value, str(error)
    for number in value if isinstance(value, tuple) else () if value is None else (value,):
        if limits and (wanted := interval_fault(number, limits)):
            return value, f"{name} must be {wanted}, not {shortened(number)}"
    return value, None


def _is_shallow(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)


def plain(value: Any) -> Any:
    """Convert records, tuples and paths to JSON-ready types."""
    if hasattr(value, "to_mapping"):
        return value.to_mapping()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of metadata, configurations and reports: conversion to JSON-ready types and back."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def check_parts(self) -> None:
        """Check entries of values that were read from a file, beyond their types; subclasses raise TypeError here."""

    @classmethod
    def from_mapping(cls: type[R], values: Mapping[str, Any]) -> R:  # noqa: PYI019  beartype knows no Self here
        """Rebuild from what `to_mapping` returned.

        Raises
        ------
        TypeError
            Naming every entry that is missing, unknown, of another type or outside its limits.
        """
        return record_of(cls, values)


_kinds: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)


def record_of(record: type[R], values: Mapping[str, Any], prefix: str = "") -> R:
    """Rebuild a record, see `Record.from_mapping`; `prefix` names the entry that holds it, as in messages."""
    fields = {field.name: field for field in dataclasses.fields(record)}
    needed = [
        name
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and name not in values
    ]
    faults = [f"{prefix}{name} is missing" for name in needed]
    faults += [f"{prefix}{shortened(key)[1:-1]} is unknown" for key in values if key not in fields]
    ready: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            ready[name], fault = fitted(
                values[name], _kinds(record)[name], field.metadata.get("limits"), prefix + name
            )
            faults += [fault] if fault else []
    if faults:
        raise TypeError("; ".join(faults[:_MOST_FAULTS]))
    made = record(**ready)
    made.check_parts()
    return made


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config(Record):
    """Base of all configurations: limits, checked paths, and a digest of the values."""

    def __post_init__(self) -> None:
        """Convert the values (text to paths, lists to tuples), and raise one `ConfigError` for all that are wrong."""
        wrong: list[str] = []
        found: list[str] = []
        for field in dataclasses.fields(self):
            required, limits = field.metadata["required"], field.metadata["limits"]
            kind = _kinds(type(self))[field.name]
            value, fault = fitted(getattr(self, field.name), kind, limits, _shown(field))
            object.__setattr__(self, field.name, value)  # the class is frozen
            if fault:
                wrong.append(fault)
            elif required and value in (None, ()):
                found.append(f"{_shown(field)} is missing: {required}")
        # Rules between fields need values of the right type.
        check([*found, *wrong] if wrong else [*found, *self.faults()])

    def faults(self) -> list[str | None]:
        """List contradictions between fields; subclasses override this."""
        return []

    def to_record(self) -> dict[str, Any]:
        """Return the values for a file that may be shared: names of files and stores instead of paths, and no outputs."""
        values, kinds = self.to_mapping(), get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if Path in members_of(kinds[field.name]) and values[field.name] is not None:
                is_output = field.name in _OUTPUT_NAMES or field.metadata["is_output"]
                # "https://user:password@host" has no other name.
                path = re.sub(r"^\w+://[^/#]*", "", values[field.name])
                values[field.name] = None if is_output else PurePath(path).name
        return values

    def check_paths(self, *, leave_out: Iterable[str] = ()) -> None:
        """Check that every file, folder and store that the configuration reads exists; addresses are not looked up.

        This takes no heavy import, so that a wrong path is reported at once.

        Parameters
        ----------
        leave_out
            Fields to skip.

        Raises
        ------
        MissingInputError
            If a path does not exist, or a folder is not a store; all of them are listed.
        """
        faults = [
            fault
            for field in dataclasses.fields(self)
            if field.name not in {*leave_out, *_OUTPUT_NAMES} and not field.metadata["is_output"]
            for value in [getattr(self, field.name)]
            for path in (value if isinstance(value, tuple) else (value,))
            if isinstance(path, Path) and (fault := _path_fault(field, path))
        ]
        if faults:
            raise MissingInputError(" ".join(faults))

    @classmethod
    def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:  # noqa: PYI019  beartype does not resolve Self here
        """Build from plain values (a TOML table, parsed flags); lists become tuples, strings become paths.

        Raises
        ------
        ConfigError
            On unknown keys (with the nearest known one), wrong types, and values outside the limits of a field.
        """
        return cls(**named(values, _kinds(cls), cls.__name__))

    def digest(self, *, leave_out: Collection[str] = ()) -> str:
        """Hash the values; `leave_out` names the fields that do not change a result (paths, workers)."""
        kept = {key: value for key, value in self.to_mapping().items() if key not in leave_out}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _shown(field: dataclasses.Field[Any]) -> str:
    """Name a field as the command line does: ``--batch-size``, or ``STORE`` for a positional one."""
    return field.name.upper() if field.metadata["is_argument"] else flag(field.name)


def _path_fault(field: dataclasses.Field[Any], path: Path) -> str | None:
    """Write e.g. ``File not found: C22.h5ad (--h5ad). Did you mean C2.h5ad?``; None if the path can be read."""
    match = re.match(r"(?:feature |packed |adapter )?(store|folder|checkpoint)s?\b", field.metadata["help"])
    kind = match[1] if match else "file"
    if path.exists():
        is_folder = path.is_dir()
        if is_folder and kind == "checkpoint":
            inside = sorted(path.glob("*/best.safetensors"))
            advice = f" Did you mean {inside[0].parent}?" if inside else ""
            is_there = (path / "best.safetensors").is_file()
            return None if is_there else f"No best.safetensors in {path} ({_shown(field)}).{advice}"
        if is_folder and kind == "file" and path.suffix != ".zarr":  # a slide may be a folder of OME-Zarr
            asked = f"{_shown(field)} {field.metadata['help']}"  # names the suffix of most files
            files = sorted(
                (file for file in path.iterdir() if file.is_file()),
                key=lambda file: (not file.suffix or file.suffix[1:].lower() not in asked, file),
            )
            example = f" Give one of its files, such as {files[0]}." if files else ""
            return f"Not a file, but a folder: {path} ({_shown(field)}).{example}"
        if kind != "store" or ((path / "zarr.json").exists() if is_folder else zipfile.is_zipfile(path)):
            return None
        found = "has no zarr.json" if is_folder else "is not a ZIP file (packed store)"
        return f"Not a feature store: {path} ({_shown(field)}) {found}. Give the folder that `spam embed --store` wrote."
    message = f"{kind.capitalize()} not found: {path} ({_shown(field)})."
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"{message} Did you mean {path.with_name(near[0])}?" if near else message
