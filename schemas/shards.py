"""Which part of the work this process does: ``--shard i/n``, a task of a SLURM array, or a process of torchrun."""

import os
import re
from typing import Any

from spam.errors import shortened

from .config import advanced

_SLURM, _TORCHRUN = "SLURM_ARRAY_TASK_", "TORCHELASTIC_RUN_ID"


def shard_option(does: str) -> Any:
    """Declare the field ``shard``; `does` says what a part is a part of."""
    sources = (
        "or slurm: the part of this task of a SLURM job array (default: everything, or as torchrun sets it)"
    )
    return advanced(None, f"{does} part i of n, e.g. 2/8, {sources}", metavar="<i/n|slurm>")


def part_of(shard: str | None) -> tuple[int, int]:
    """Return the number of the part, from 0, and the number of parts.

    Raises
    ------
    ValueError
        If the value is not i/n with i from 1 to n, or ``slurm`` outside an array of evenly spaced tasks.
    """
    if shard is None:
        is_torchrun = _TORCHRUN in os.environ
        return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_torchrun else (0, 1)
    if shard == "slurm":
        return _slurm_task()
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        message = f"--shard must be i/n with i from 1 to n, such as 2/8, or slurm, not {shortened(shard)}"
        raise ValueError(message)
    return int(match[1]) - 1, int(match[2])


def _slurm_task() -> tuple[int, int]:
    defaults = {"ID": "", "COUNT": "", "MIN": "0", "STEP": "1"}
    stated = {name: os.environ.get(_SLURM + name, value) for name, value in defaults.items()}
    if not all(value.isdecimal() for value in stated.values()):
        message = (
            "--shard slurm needs SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, which SLURM sets in a job array. Run: "
            "sbatch --array=0-7, or give i/n"
        )
        raise ValueError(message)
    task, count, first, step = map(int, stated.values())
    index, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= index < count:
        message = f"--shard slurm: task {task} is not one of {count} evenly spaced tasks. Use e.g. sbatch --array=0-{count - 1}"
        raise ValueError(message)
    return index, count


def shard_fault(shard: str | None, *, is_overwrite: bool) -> str | None:
    """Describe what is wrong with ``--shard``, or that ``--overwrite`` cannot be combined with it."""
    try:
        _, n_parts = part_of(shard)
    except ValueError as error:
        return str(error)
    if n_parts > 1 and is_overwrite:
        return (
            f"--overwrite excludes {n_parts} parts (--shard, torchrun): they would delete each other's work"
        )
    return None
