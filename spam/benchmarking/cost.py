"""What a piece of work costs: seconds, and the most memory that the process held meanwhile."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Cost", "measured"]

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclasses.dataclass(slots=True, kw_only=True)
class Cost:
    """Cost of a ``with`` block, known at its end.

    Attributes
    ----------
    seconds
        Wall time.
    peak_mb
        Largest resident memory of the process in MB, with all that it held before; None where the system does not say
        (it does on Linux alone).
    """

    seconds: float = 0.0
    peak_mb: float | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure a ``with`` block."""
    cost = Cost()
    is_reset = _reset_peak()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        cost.peak_mb = _peak_mb() if is_reset else None


def _reset_peak() -> bool:
    """Start the kernel's high-water mark anew (``5``, see proc(5)); False where that cannot be done."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak_mb() -> float | None:
    """Read the high-water mark of resident memory."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None
