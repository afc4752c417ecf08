"""How much memory a run may take."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")
_SHARE = 0.5  # of the free memory: the rest is for counts, graphs and copies, and for other programs


def budget_bytes(gigabytes: float | None) -> int:
    """Bytes of ``--memory-budget``; None: half of the memory that is free."""
    return int(_SHARE * available_bytes() if gigabytes is None else gigabytes * 1e9)


def available_bytes() -> int:
    """Memory that programs can still take, at most the limit of the job or container; without Linux, all memory."""
    try:
        stated = (_ROOT / "proc/meminfo").read_text(encoding="ascii")
        return min([int(stated.partition("MemAvailable:")[2].split()[0]) * 1024, *_limits()])
    except (OSError, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


def _limits() -> Iterator[int]:
    """Limits of the control groups (both versions) that SLURM or a container put this process in."""
    with suppress(OSError, ValueError):
        for line in (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kind, path = line.split(":", 2)
            is_first = "memory" in kind.split(",")
            if is_first or not kind:
                root, name = ("memory", "memory.limit_in_bytes") if is_first else ("", "memory.max")
                group = Path("sys/fs/cgroup", root, path.lstrip("/"))
                for folder in (group, *group.parents):
                    with suppress(OSError, ValueError):  # no limit, or not mounted here
                        yield int((_ROOT / folder / name).read_text(encoding="ascii"))
