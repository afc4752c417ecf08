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
import math
import re
import types
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spam.errors import ConfigError, MissingInputError

R = TypeVar("R", bound="Record")
C = TypeVar("C", bound="Config")

Panel = Literal["Data", "Lab files", "Training", "Model", "Output", "Advanced"]
"""Section of a command's help."""

_OUTPUT_NAMES = ("out", "out_dir", "save_dir", "to")
# Limits of a number, as given to `option`: the test, and its description in a message.
_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    ">0": (lambda x: x > 0, "positive"),
    ">=0": (lambda x: x >= 0, "0 or more"),
    ">=1": (lambda x: x >= 1, "at least 1"),
    ">=2": (lambda x: x >= 2, "at least 2"),
    "[0,1]": (lambda x: 0 <= x <= 1, "in [0, 1]"),
    "[0,1)": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "(0,1)": (lambda x: 0 < x < 1, "in (0, 1)"),
}
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a local path",
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
        Accepted range of a number (or of each number of a list), such as ``">=1"`` or ``"[0,1)"``. None is always accepted.
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


data, training, model, output, advanced = (
    functools.partial(option, panel=panel) for panel in ("Data", "Training", "Model", "Output", "Advanced")
)


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
    """Describe unknown keys, each with the nearest known one; None if there are none."""
    known = sorted(known)
    near = {key: difflib.get_close_matches(key.replace("-", "_"), known, n=1) for key in unknown}
    hints = [f"{key!r}" + (f" (did you mean {match[0]!r}?)" if match else "") for key, match in near.items()]
    return f"{owner} has no option {', '.join(hints)}; it has {', '.join(known)}" if hints else None


def members_of(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def describe_kind(kind: Any) -> str:
    """Describe the values of a field of type `kind`, e.g. ``a list, each a number``."""
    kind = next(member for member in members_of(kind) if member is not types.NoneType)
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) is tuple:
        return f"a list, each {describe_kind(get_args(kind)[0])}"
    return _WORDS.get(kind) or str(kind)


def fit_value(value: Any, kind: Any) -> Any:
    """Convert a plain value to the type of a field: lists to tuples, text to paths, whole numbers to floats.

    Nothing else is converted: the text ``"3"`` is not a number, ``True`` is not a whole number, and an address
    such as ``s3://bucket/cohort.zarr`` is not a path.

    Raises
    ------
    TypeError
        If the value does not fit.
    """
    for member in members_of(kind):
        origin = get_origin(member) or member
        if member is types.NoneType:
            if value is None:
                return None
        elif origin is Literal:
            if isinstance(value, str) and value in get_args(member):
                return value
        elif origin is tuple:
            if isinstance(value, list | tuple):
                return tuple(fit_value(item, get_args(member)[0]) for item in value)
        elif member is Path:
            if isinstance(value, str | Path) and "://" not in str(value):
                return Path(value)
        elif member is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        elif issubclass(origin, Record):
            if isinstance(value, Mapping):
                return member.from_mapping(value)
        elif isinstance(value, origin) and (member is bool or not isinstance(value, bool)):
            return value
    raise TypeError(describe_kind(kind))


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

    @classmethod
    def from_mapping(cls: type[R], values: Mapping[str, Any]) -> R:  # noqa: PYI019  beartype knows no Self here
        """Rebuild from what `to_mapping` returned; raises KeyError or TypeError if the values do not fit."""
        kinds = get_type_hints(cls)
        return cls(**{name: fit_value(value, kinds[name]) for name, value in values.items()})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config(Record):
    """Base of all configurations: limits, checked paths, and a digest of the values."""

    def __post_init__(self) -> None:
        """Raise one `ConfigError` for missing values, numbers outside their limits, and broken rules."""
        found: list[str] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            required, limits = field.metadata["required"], field.metadata["limits"]
            if required and value in (None, ()):
                found.append(f"{_shown(field)} is missing: {required}")
            if limits:
                is_accepted, words = _LIMITS[limits]
                numbers = value if isinstance(value, tuple) else () if value is None else (value,)
                found += [
                    f"{_shown(field)} must be {words}, not {number}"
                    for number in numbers
                    if not (is_accepted(number) and math.isfinite(number))
                ]
        check([*found, *self.faults()])

    def faults(self) -> list[str | None]:
        """List contradictions between fields; subclasses override this."""
        return []

    def to_record(self) -> dict[str, Any]:
        """Return the values for a file that may be shared: names of files and stores instead of paths, and no outputs."""
        values, kinds = self.to_mapping(), get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if Path in members_of(kinds[field.name]) and values[field.name] is not None:
                is_output = field.name in _OUTPUT_NAMES or field.metadata["is_output"]
                values[field.name] = None if is_output else PurePath(values[field.name]).name
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
        kinds = get_type_hints(cls)
        names = {key: field_name(key) for key in values}
        shown = {field.name: _shown(field) for field in dataclasses.fields(cls)}
        check([unknown_fault(cls.__name__, [key for key, name in names.items() if name not in kinds], kinds)])
        ready: dict[str, Any] = {}
        faults: list[str] = []
        for key, name in names.items():
            try:
                ready[name] = fit_value(values[key], kinds[name])
            except TypeError:
                faults.append(
                    f"{shown[name]} must be {describe_kind(kinds[name])}, not {plain(values[key])!r}"
                )
        check(faults)
        return cls(**ready)

    def digest(self, *, leave_out: Collection[str] = ()) -> str:
        """Hash the values; `leave_out` names the fields that do not change a result (paths, workers)."""
        kept = {key: value for key, value in self.to_mapping().items() if key not in leave_out}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _shown(field: dataclasses.Field[Any]) -> str:
    """Name a field as the command line does: ``--batch-size``, or ``STORE`` for a positional one."""
    return field.name.upper() if field.metadata["is_argument"] else flag(field.name)


def _path_fault(field: dataclasses.Field[Any], path: Path) -> str | None:
    """Write e.g. ``File not found: C22.h5ad (--h5ad). Did you mean C2.h5ad?``; None if the path can be read."""
    match = re.match(r"(?:feature |packed |adapter )?(store|folder)s?\b", field.metadata["help"])
    kind = match[1] if match else "file"
    if path.exists():
        is_folder = path.is_dir()
        if kind != "store" or ((path / "zarr.json").exists() if is_folder else zipfile.is_zipfile(path)):
            return None
        found = "has no zarr.json" if is_folder else "is not a ZIP file (packed store)"
        return f"Not a feature store: {path} ({_shown(field)}) {found}. Give the folder that `spam embed --store` wrote."
    message = f"{kind.capitalize()} not found: {path} ({_shown(field)})."
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"{message} Did you mean {path.with_name(near[0])}?" if near else message
