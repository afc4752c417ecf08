"""Base of all metadata, configurations and reports: plain values of a file or command line -> typed fields, and back."""

import dataclasses
import functools
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spam.errors import shortened

R = TypeVar("R", bound="Record")

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


def number(limits: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a number of a record, with its interval as in `option`."""
    return dataclasses.field(default=default, metadata={"limits": limits})


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


kinds_of: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
"""Types of the fields of a dataclass."""


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
                values[name], kinds_of(record)[name], field.metadata.get("limits"), prefix + name
            )
            faults += [fault] if fault else []
    if faults:
        raise TypeError("; ".join(faults[:_MOST_FAULTS]))
    made = record(**ready)
    made.check_parts()
    return made
