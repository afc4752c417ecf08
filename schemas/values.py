"""Fits plain values (of a TOML file, of the command line) to the types of configuration fields."""

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["describe_kind", "fit_value"]

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Members of a union, or the kind alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def describe_kind(kind: Any) -> str:
    """Say in words what a field of type `kind` takes, e.g. ``a list, each a number``."""
    kind = next(member for member in _alternatives(kind) if member is not types.NoneType)
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) is tuple:
        return f"a list, each {describe_kind(get_args(kind)[0])}"
    return _WORDS[kind]


def fit_value(value: Any, kind: Any) -> Any:
    """Turn a plain value into what a field of type `kind` holds: lists into tuples, text into paths.

    A whole number does for a number. Nothing else is converted: the text ``"3"`` is no number, and ``True``
    is no whole number.

    Raises
    ------
    TypeError
        If the value does not fit; the caller knows the field's name and words the message.
    """
    for member in _alternatives(kind):
        if member is types.NoneType:
            if value is None:
                return None
        elif get_origin(member) is Literal:
            if isinstance(value, str) and value in get_args(member):
                return value
        elif get_origin(member) is tuple:
            if isinstance(value, list | tuple):
                return tuple(fit_value(item, get_args(member)[0]) for item in value)
        elif member is Path:
            # A path would lose one of the slashes of an address such as s3://bucket/cohort.zarr.
            is_address = isinstance(value, str) and "://" in value and str in _alternatives(kind)
            if isinstance(value, str | Path) and not is_address:
                return Path(value)
        elif member is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        elif isinstance(value, member) and (member is bool or not isinstance(value, bool)):
            return value
    raise TypeError(describe_kind(kind))
