"""The device of a run, its threads, its random generators, and what a run takes."""

import ctypes
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from .errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into an available device.

    ``auto`` is the first GPU if there is one (under torchrun that of ``LOCAL_RANK``), else the CPU.

    Raises
    ------
    ConfigError
        If the name is invalid, or the GPU does not exist.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and n_gpus:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % n_gpus)
    if name in ("auto", "cpu"):
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        message = f"--device must be auto, cpu, cuda or cuda:N, not {name!r}"
        raise ConfigError(message)
    index = int(match[1] or 0)
    if index >= n_gpus:
        message = f"--device {name} is not available: {n_gpus} usable GPUs. Use --device auto or cpu"
        raise ConfigError(message)
    return torch.device("cuda", index)


_FEWEST_SHARED = 1 << 17  # values of a step that are worth a second thread


@contextmanager
def limited_threads(n: int, *, values: int = _FEWEST_SHARED) -> Iterator[None]:
    """Limit PyTorch and NumPy to `n` CPU threads inside a ``with`` block; 0: to one for steps of few values, else to the default.

    An operation waits for its slowest thread. With few values this costs more than it gains: on busy cores, two threads took
    three times as long as one, by the clock and in processor time (docs/performance.md). The number of threads sets the
    order of sums, and so can change the last bit of a result.

    Parameters
    ----------
    n
        Threads.
    values
        Size of the largest matrices of a step.
    """
    before = torch.get_num_threads()
    wanted = n or (before if values >= _FEWEST_SHARED else 1)
    if wanted == before:  # setting even the same number changes the last bits of MKL's sums in this process
        yield
        return
    torch.set_num_threads(wanted)
    try:
        with threadpool_limits(wanted, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


_KEPT_BYTES = 1 << 28
_MOST_OF_AN_ARRAY = 1 << 25  # that uses kept memory: the most that glibc allows
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # see mallopt(3)


def keep_freed_memory() -> None:
    """Keep up to 256 MB of freed memory for the next arrays of this process, with the C library of Linux.

    Otherwise it goes back to the system in nearly every step of training, and the next step waits for new pages: a tenth of the
    processor time of `spam finetune` (docs/performance.md). Results are the same.
    """
    with suppress(AttributeError, OSError, TypeError):  # other systems, and C libraries without it
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_M_MMAP_THRESHOLD, _MOST_OF_AN_ARRAY):
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def seeded(*seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch (initial weights, dropout) inside a ``with`` block, and restore its generators afterwards.

    Parameters
    ----------
    seed
        Any number of non-negative integers, such as a seed and an epoch.
    device
        Device whose generator is used, besides that of the CPU.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        yield


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"  # see proc(5)


@dataclasses.dataclass(slots=True, kw_only=True)
class Usage:
    """Seconds, and the largest memory of the process (Linux only, else 0) and on the GPU, in bytes."""

    seconds: float = 0.0
    memory_bytes: int = 0
    gpu_bytes: int = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Usage]:
    """Measure a ``with`` block; the values are there after it."""
    usage, is_gpu = Usage(), device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # other systems than Linux
        _CLEAR.write_text(_CLEAR_PEAK, encoding="ascii")
    begun = time.perf_counter()
    yield usage
    if is_gpu:
        torch.cuda.synchronize(device)
        usage.gpu_bytes = torch.cuda.max_memory_allocated(device)
    usage.seconds = time.perf_counter() - begun
    if _STATUS.exists():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        usage.memory_bytes = 1024 * int(line.split()[1])
