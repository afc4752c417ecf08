"""The JSON files that slide2vec lays beside its arrays."""

import json
import math
from pathlib import Path
from typing import Any

from spam.errors import SectionError

__all__ = ["positive_number", "read_sidecar", "sidecar_path"]

_MOST_BYTES = 2**24  # they hold some twenty entries


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of a file lies: ``a.pt`` has ``a.meta.json``."""
    return path.with_name(path.name.removesuffix(path.suffix) + ".meta.json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read the sidecar of a file; empty if there is none.

    Raises
    ------
    SectionError
        If it is no JSON object.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return {}
    try:
        values = json.loads(sidecar.read_bytes()) if sidecar.stat().st_size <= _MOST_BYTES else None
    except (ValueError, RecursionError) as error:
        message = f"{sidecar} cannot be read as JSON: {error}; copy it again together with {path.name}"
        raise SectionError(message) from error
    if not isinstance(values, dict):
        message = (
            f"{sidecar} is not what slide2vec writes: expected a small JSON object; copy it again together with "
            f"{path.name}"
        )
        raise SectionError(message)
    return values


def positive_number(values: Any, name: str, *, where: str) -> float | None:
    """Return an entry that is a positive number; None if it is null or not there.

    Raises
    ------
    SectionError
        If it is anything else.
    """
    value = values.get(name) if isinstance(values, dict) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        message = f"{where}: {name!r} is {value!r}, expected a positive number; correct it, or extract the slide again"
        raise SectionError(message)
    return float(value)
