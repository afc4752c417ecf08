"""Base of all configurations: one dataclass field is one option, with its help, limits and default.

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
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, get_type_hints

from spam.errors import ConfigError, MissingInputError, shortened

from .records import Record, fitted, kinds_of, members_of

C = TypeVar("C", bound="Config")

Panel = Literal["Data", "Lab files", "Training", "Model", "Output", "Advanced"]
"""Section of a command's help."""

_OUTPUT_NAMES = ("out", "out_dir", "save_dir", "to")
_MOST_UNKNOWN = 3  # keys that are named


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
        key: difflib.get_close_matches(key.replace("-", "_"), known, n=1) for key in unknown[:_MOST_UNKNOWN]
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config(Record):
    """Base of all configurations: limits, checked paths, and a digest of the values."""

    def __post_init__(self) -> None:
        """Convert the values (text to paths, lists to tuples), and raise one `ConfigError` for all that are wrong."""
        wrong: list[str] = []
        found: list[str] = []
        for field in dataclasses.fields(self):
            required, limits = field.metadata["required"], field.metadata["limits"]
            kind = kinds_of(type(self))[field.name]
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
        return cls(**named(values, kinds_of(cls), cls.__name__))

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
