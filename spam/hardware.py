"""The device that work runs on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .errors import ConfigError

__all__ = ["limited_threads", "resolve_device", "seeded"]


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    ``auto`` is the first GPU if there is one (under torchrun the one of the process, ``LOCAL_RANK``), else the CPU.

    Raises
    ------
    ConfigError
        If the name is none of these, or the GPU asked for is not there.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit()):
        n_gpus = torch.cuda.device_count()
        index = int(name[5:]) if ":" in name else 0
        if index < n_gpus:
            return torch.device("cuda", index)
        message = f"--device {name!r} was asked for, but this machine has {n_gpus} usable GPUs; use --device auto or cpu"
        raise ConfigError(message)
    message = f"--device must be auto, cpu, cuda or cuda:N, not {name!r}"
    raise ConfigError(message)


@contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """Let PyTorch use `n` CPU threads for the duration of a ``with`` block; 0 leaves its own choice.

    The number of threads decides in which order sums are taken, so it can change the last bit of a result.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(*seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators (initial weights, dropout) for a ``with`` block, and leave the caller's as they were.

    Parameters
    ----------
    seed
        Any number of non-negative integers, such as a seed and an epoch.
    device
        Device whose generator is used, beside that of the CPU.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        yield
