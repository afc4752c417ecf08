"""What all configurations share: one dataclass field is one option, with its help, checked when it is made.

Precedence is defaults < TOML file < command-line flags. A field is written as
``name: type = option(default, "help")``; the command line is derived from these fields, so an option cannot
exist in one place alone.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from spam.errors import ConfigError

from .values import describe_kind, fit_value

__all__ = ["Config", "check", "flag", "folder_fault", "option", "unknown_fault"]

C = TypeVar("C", bound="Config")


def option(default: Any, help: str, *, flags: tuple[str, ...] = (), metavar: str | None = None) -> Any:
    """Declare a configuration field together with its help text and extra flag names."""
    metadata = {"help": help, "flags": flags, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


def flag(field_name: str) -> str:
    """Name the command-line flag of a field, e.g. ``batch_size`` -> ``--batch-size``."""
    return "--" + field_name.replace("_", "-")


def check(faults: Iterable[str | None]) -> None:
    """Raise one `ConfigError` that lists every fault; ``None`` entries are no fault."""
    found = [fault for fault in faults if fault]
    if found:
        raise ConfigError("; ".join(found))


def folder_fault(name: str, path: Path | None) -> str | None:
    """Word the fault of an address where a folder is needed; ``None`` if it is none."""
    if path is None or not re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        return None
    scheme, _, rest = str(path).partition(":/")
    return (
        f"{flag(name)} must be a folder, since it is written to, not '{scheme}://{rest.lstrip('/')}'; write to a folder and "
        "share it with `spam store push`"
    )


def unknown_fault(owner: str, unknown: Iterable[str], known: Iterable[str]) -> str | None:
    """Word the fault of unknown keys, each with the nearest known one; ``None`` if there are none."""
    known = sorted(known)
    near = {key: difflib.get_close_matches(key.replace("-", "_"), known, n=1) for key in unknown}
    hints = [f"{key!r}" + (f" (did you mean {match[0]!r}?)" if match else "") for key, match in near.items()]
    return f"{owner} has no option {', '.join(hints)}; it has {', '.join(known)}" if hints else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Base of all configurations: to and from plain mappings, and a digest of the resolved values."""

    @classmethod
    def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:  # noqa: PYI019  beartype knows no Self here
        """Build from plain values (a TOML table, parsed flags); lists become tuples, strings become paths.

        Raises
        ------
        ConfigError
            On keys that are no field (names the nearest ones), on values of another type than their field,
            and on any value that a field refuses.
        """
        kinds = get_type_hints(cls)
        names = {key: key.replace("-", "_") for key in values}
        check([unknown_fault(cls.__name__, [key for key, name in names.items() if name not in kinds], kinds)])
        ready: dict[str, Any] = {}
        faults: list[str] = []
        for key, name in names.items():
            try:
                ready[name] = fit_value(values[key], kinds[name])
            except TypeError:
                faults.append(f"{flag(name)} must be {describe_kind(kinds[name])}, not {values[key]!r}")
        check(faults)
        return cls(**ready)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path):
                value = str(value)
            elif isinstance(value, tuple):
                value = list(value)
            plain[field.name] = value
        return plain

    def digest(self, *, leave_out: Iterable[str] = ()) -> str:
        """Hash the values that change a result; `leave_out` names the fields that do not (paths, workers)."""
        skip = set(leave_out)
        kept = {key: value for key, value in self.to_mapping().items() if key not in skip}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
