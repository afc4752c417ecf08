"""Work in processes of their own, which share the cores."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple, cast

import torch

from spam.errors import ConfigError

__all__ = ["side_by_side"]

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

# What NumPy's and PyTorch's libraries read when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def side_by_side(
    work: Callable[[*_Arguments], _Result],
    arguments: Sequence[tuple[*_Arguments]],
    *,
    n_processes: int,
) -> Iterator[tuple[_Result, tuple[*_Arguments]]]:
    """Do the same work on many arguments, and yield each result with its arguments as it is finished.

    Each process gets a copy of `work` when it starts, and an equal share of the cores. The first error ends the iteration,
    after the pieces that have begun; those that have not are dropped.

    Raises
    ------
    ConfigError
        If a process was killed, or could not start.
    """
    with _cores_shared_by(n_processes):
        pool = ProcessPoolExecutor(
            n_processes,
            # Not forked: PyTorch's threads do not live on in a fork.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(work,),
        )
        try:
            pending = {pool.submit(_do, each): each for each in arguments}
            for done in as_completed(pending):
                yield cast("_Result", done.result()), pending[done]
        except BrokenProcessPool as error:
            message = (
                f"one of the processes of --jobs {n_processes} was killed, most likely for want of memory, or could not "
                "start; what was finished is kept: give the same command with fewer --jobs (a script of your own must "
                'call spam.benchmark under `if __name__ == "__main__":`)'
            )
            raise ConfigError(message) from error
        finally:
            pool.shutdown(cancel_futures=True)


_work: Callable[..., object] | None = None  # of a process that was started here


def _begin(work: Callable[..., object]) -> None:
    global _work  # a process of a pool has no other place for what it is given at its start
    _work = work


def _do(arguments: tuple[object, ...]) -> object:
    assert _work is not None
    return _work(*arguments)


@contextmanager
def _cores_shared_by(n_processes: int) -> Iterator[None]:
    """Let processes that start in a ``with`` block use that share of the threads which this one may use."""
    before = {name: os.environ.get(name) for name in _THREADS}
    # Of PyTorch, which knows of OMP_NUM_THREADS and of the cores that a job on a cluster was given.
    os.environ.update(dict.fromkeys(_THREADS, str(max(1, torch.get_num_threads() // n_processes))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
