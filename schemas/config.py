"""What all configurations share: one dataclass field is one option, with its help, checked when it is made.

Precedence is defaults < TOML file < command-line flags. A field is written as ``name: type = option(default, "help")``;
the command line is derived from these fields, so an option cannot exist in one place alone.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from spam.errors import ConfigError

__all__ = ["Config", "check", "flag", "option"]


def option(default: Any, help: str, *, flags: tuple[str, ...] = (), metavar: str | None = None) -> Any:  # noqa: A002
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Base of all configurations: to and from plain mappings, and a digest of the resolved values."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values (a TOML table, parsed flags); lists become tuples, strings become paths.

        Raises
        ------
        ConfigError
            On a key that is no field (names the nearest one) and on any value that a field refuses.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = [key for key in values if key.replace("-", "_") not in fields]
        if unknown:
            near = {k: difflib.get_close_matches(k.replace("-", "_"), fields, n=1) for k in unknown}
            hints = [f"{k!r}" + (f" (did you mean {m[0]!r}?)" if m else "") for k, m in near.items()]
            raise ConfigError(
                f"{cls.__name__} has no option {', '.join(hints)}; it has {', '.join(sorted(fields))}"
            )
        ready: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            kind = str(fields[name].type)
            if isinstance(value, list):
                value = tuple(value)  # noqa: PLW2901
            if "Path" in kind and isinstance(value, str):
                value = Path(value)  # noqa: PLW2901
            ready[name] = value
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
