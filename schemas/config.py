"""Base of all configurations: one dataclass field is one option, with its help, limits and default.

A field is written as ``name: type = option(default, "help")``; the command line is derived from these fields.
Precedence is defaults < TOML file < command-line flags.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import re
import types
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spam.errors import ConfigError, MissingInputError

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
    Path: "a path",
}


def option(
    default: Any,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    limits: str | None = None,
    required: str | None = None,
    is_output: bool | None = None,
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
        Whether a path is written, and so need not exist; by default it is if the field is named `out`, `out_dir`,
        `save_dir` or `to`.
    panel
        Section of the help that shows the option.
    """
    metadata = {
        "help": help,
        "flags": flags,
        "metavar": metavar,
        "limits": limits,
        "required": required,
        "is_output": is_output,
        "is_argument": is_argument,
        "panel": panel,
    }
    return dataclasses.field(default=default, metadata=metadata)


def flag(field_name: str) -> str:
    """Name the command-line flag of a field, e.g. ``batch_size`` -> ``--batch-size``."""
    return "--" + field_name.replace("_", "-")


def check(faults: Iterable[str | None]) -> None:
    """Raise one `ConfigError` that lists every fault; ``None`` entries are skipped."""
    found = [fault for fault in faults if fault]
    if found:
        raise ConfigError("; ".join(found))


def folder_fault(name: str, path: Path | None) -> str | None:
    """Describe the fault of a remote address where a local folder is written; None if the path is local."""
    if path is None or not re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        return None
    scheme, _, rest = str(path).partition(":/")
    return f"{flag(name)} must be a local folder, not '{scheme}://{rest.lstrip('/')}'; share it with `spam store push`"


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
    return _WORDS[kind]


def fit_value(value: Any, kind: Any) -> Any:
    """Convert a plain value to the type of a field: lists to tuples, text to paths, whole numbers to floats.

    Nothing else is converted: the text ``"3"`` is not a number, and ``True`` is not a whole number.

    Raises
    ------
    TypeError
        If the value does not fit.
    """
    for member in members_of(kind):
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
            is_address = isinstance(value, str) and "://" in value and str in members_of(kind)
            if isinstance(value, str | Path) and not is_address:
                return Path(value)
        elif member is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        elif isinstance(value, member) and (member is bool or not isinstance(value, bool)):
            return value
    raise TypeError(describe_kind(kind))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Base of all configurations: limits, conversion from and to plain mappings, and a digest of the values."""

    def __post_init__(self) -> None:
        check([*self.field_faults(), *self.faults()])

    def faults(self) -> list[str | None]:
        """List contradictions between fields; subclasses override this."""
        return []

    def field_faults(self) -> list[str]:
        """List missing values, and numbers outside the limits that their fields declare."""
        found = []
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
        return found

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
        skip = set(leave_out)
        faults = [
            fault
            for field in dataclasses.fields(self)
            if field.name not in skip and not _is_output(field)
            for path in _paths(getattr(self, field.name))
            if (fault := _path_fault(field, path))
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
        names = {key: key.replace("-", "_") for key in values}
        shown = {field.name: _shown(field) for field in dataclasses.fields(cls)}
        check([unknown_fault(cls.__name__, [key for key, name in names.items() if name not in kinds], kinds)])
        ready: dict[str, Any] = {}
        faults: list[str] = []
        for key, name in names.items():
            try:
                ready[name] = fit_value(values[key], kinds[name])
            except TypeError:
                faults.append(f"{shown[name]} must be {describe_kind(kinds[name])}, not {values[key]!r}")
        check(faults)
        return cls(**ready)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def digest(self, *, leave_out: Iterable[str] = ()) -> str:
        """Hash the values; `leave_out` names the fields that do not change a result (paths, workers)."""
        skip = set(leave_out)
        kept = {key: value for key, value in self.to_mapping().items() if key not in skip}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _paths(value: Any) -> list[Path]:
    return [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Path)]


def _is_output(field: dataclasses.Field[Any]) -> bool:
    declared = field.metadata["is_output"]
    return field.name in _OUTPUT_NAMES if declared is None else bool(declared)


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
