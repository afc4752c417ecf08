"""Results that are written completely or not at all, by one process at a time."""

import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import OutputExistsError

PARTIAL = ".partial"
"""Ending of what is being written; a process that is killed at that moment leaves it behind."""
_LOCK, _STAGING, _MOVING = ".lock", ".unfinished", ".moving"


@contextmanager
def replacing(path: Path, *, is_locked: bool = False) -> Iterator[Path]:
    """Yield a temporary name to write to; at the end of the ``with`` block that file replaces `path` atomically.

    If the block fails, an existing file at `path` is kept and the temporary file is removed.

    Parameters
    ----------
    path
        File to write.
    is_locked
        Whether the caller holds a lock of the place. Then the temporary name is always the same, so that what a killed
        process left is overwritten; else it is a new one, because another process may be writing the same file.
    """
    token = "" if is_locked else f".{secrets.token_hex(4)}"
    partial = path.with_name(f"{path.name}{token}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)  # noqa: PTH105  atomic on every platform
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def claimed(folder: Path, flag: str, *, name: str = _LOCK, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing to a folder of results within the ``with`` block.

    The folder is created; if it is empty after the block, it is removed again. The operating system frees the lock
    when its process ends, so there are no stale locks.

    Parameters
    ----------
    folder, flag
        The folder and the option that named it.
    name
        Name of the lock file. Processes with different names may write at the same time.
    wait_s
        Seconds to wait for another process.

    Raises
    ------
    OutputExistsError
        If another process holds the lock.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    lock = FileLock(path, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout as error:
        shown = str(folder).removesuffix(PARTIAL)
        message = f"{shown!r} ({flag}) is being written by another process. Wait, or choose another place."
        raise OutputExistsError(message) from error
    try:
        yield
    finally:
        with suppress(PermissionError):  # an open file on Windows
            # before its release: who waits for it does not take a file that is gone
            path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


@contextmanager
def staged(folder: Path, *, last: str = "", obsolete: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a folder for results; once all are written, they are moved to `folder`, which the caller has claimed.

    Parameters
    ----------
    last
        File that tells whether results are complete: the old one is removed first and the new one comes last, so that a
        killed run never looks finished.
    obsolete
        Files of older results to remove.
    """
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)  # of a killed run
    staging.mkdir()
    try:
        yield staging
        for name in filter(None, (last, *obsolete)):
            (folder / name).unlink(missing_ok=True)
        written = sorted(staging.iterdir(), key=lambda path: (path.name == last, path.name))
        (staging / _MOVING).write_text("\n".join(path.name for path in written), encoding="utf-8")
        for path in written:
            _move(path, folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        for path in source.iterdir():
            _move(path, target / path.name)
    else:
        source.replace(target)


def moved_by_killed_run(folder: Path) -> Collection[str]:
    """Return the names of the results that a killed run was moving to `folder`; they may be written again."""
    moving = folder / _STAGING / _MOVING
    return moving.read_text(encoding="utf-8").splitlines() if moving.is_file() else ()


def holds_results(folder: Path) -> bool:
    """Tell whether a path exists and is more than a folder in which a process was killed before it had results."""
    if not folder.is_dir():
        return folder.exists()
    return not all(path.name.startswith((_LOCK, _STAGING)) for path in folder.iterdir())


@contextmanager
def new_folder(out: Path, flag: str) -> Iterator[Path]:
    """Yield a folder to fill, which does not exist yet; it is renamed to `out` if the ``with`` block succeeds, else removed.

    What a killed process left (``<out>.partial``) is removed by the next one.

    Raises
    ------
    OutputExistsError
        If there is something at `out`, or another process writes it.
    """
    partial = out.with_name(f"{out.name}{PARTIAL}")
    with claimed(partial, flag):
        if out.exists():
            message = f"{out} ({flag}) exists already. Delete it, or choose another name."
            raise OutputExistsError(message)
        folder = partial / out.name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # left by a killed process, so that this one did not make it
        partial.rmdir()
