"""Locks of what is being written, so that two processes never write one thing at once.

A lock is a file made exclusively, with a random owner, a digest of the machine and the process. Its owner touches
it while it works. It is stale, and is taken over, if its process has ended on this machine or nobody on another
machine touched it for ten minutes: a killed run never has to be cleaned up after by hand.

Between the look at a stale lock and its removal another process may have taken it over. So locks are made and
removed under a lock of the system's on the store's folder, which ends with its process. Some network drives have none
for folders: there, two machines that take over one lock within the same microseconds would both hold it.
"""

import contextlib
import hashlib
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spam.errors import StoreError

from .layout import STAGING
from .staging import prune, refuse_links, staged

if sys.platform != "win32":
    import fcntl

__all__ = ["live_locks", "locked", "locked_part", "remove_stale_locks"]

_SUFFIX = ".lock"
_TOUCH_S = 30.0
_STALE_S = 600.0
_EMPTY_S = 5.0  # its maker was killed between two system calls
_RETRY_S = 0.1


@contextlib.contextmanager
def locked(store: Path, name: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of `name` within the ``with`` block.

    Parameters
    ----------
    store
        Folder of the store.
    name
        What is written, such as ``C2/obsm/uni2_112um``.
    wait_s
        How long to wait for another process that holds it.

    Raises
    ------
    StoreError
        If another live process holds it after that time (says which, and what to do); at the end, if it was lost
        meanwhile: this machine slept, and another took the lock over.
    """
    owner = _Owner()
    path = _acquire(store, name, owner, wait_s=wait_s)
    stop = threading.Event()
    beat = threading.Thread(target=_keep_touching, args=(path, owner.token, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        with _alone(store):
            is_held = _holder(path).get("owner") == owner.token
            if is_held:
                path.unlink(missing_ok=True)
        prune(store, path.parent)
    if not is_held:
        message = (
            f"{name!r} of store {str(store)!r} was being written by this process, but its lock "
            f"{str(path.relative_to(store))!r} is another's or gone, expected it to be held to the end: what two "
            f"processes wrote may be mixed; compare all of it with `spam store verify {store}`, then run the same "
            "command again"
        )
        raise StoreError(message)


@contextlib.contextmanager
def locked_part(store: Path, name: str, part: str) -> Iterator[None]:
    """Hold the lock of a part of `name`, such as ``@2of8``; an empty part is all of it, and excludes every other.

    Raises
    ------
    StoreError
        If another live process holds the same part, or all of it, or a part of what is wanted whole.
    """
    with locked(store, f"{name}{part}"):
        folder, _, last = name.rpartition("/")
        others = [other.removeprefix(f"{folder}/") for other in live_locks(store, folder.split("/")[0])]
        held = [other for other in others if (other == last if part else other.startswith(f"{last}@"))]
        if held:
            path = store / STAGING / folder / f"{held[0]}{_SUFFIX}"
            raise StoreError(_held(store, f"{folder}/{held[0]}", path, _holder(path)))
        yield


def live_locks(store: Path, section: str) -> list[str]:
    """Name what other processes are writing of a section: ``C2`` itself, or ``C2/obsm/uni2_112um``."""
    staging = store / STAGING
    held = []
    for path in [staging / f"{section}{_SUFFIX}", *_lock_files(staging / section)]:
        holder = _holder(path)
        is_own = (holder.get("machine"), holder.get("pid")) == (_machine(), os.getpid())
        if path.is_file() and not is_own and not _is_stale(path, holder):
            held.append(path.relative_to(staging).as_posix().removesuffix(_SUFFIX))
    return sorted(held)


def remove_stale_locks(store: Path) -> None:
    """Remove the locks of processes that were killed, and the folders that they were alone in.

    Raises
    ------
    StoreError
        If the folder of the locks is a link: what lies there is not the store's.
    """
    refuse_links(store, store / STAGING)
    for path in _lock_files(store / STAGING):
        with _alone(store):
            if _is_lock(path) and _is_stale(path, _holder(path)):
                path.unlink(missing_ok=True)
        prune(store, path.parent)


def _lock_files(folder: Path) -> list[Path]:
    """Find all locks below a folder; `os.walk` does not mind that folders vanish, as `Path.rglob` does."""
    return [
        Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name.endswith(_SUFFIX)
    ]


def _is_lock(path: Path) -> bool:
    """Tell whether a file is one that `locked` made; an empty one is of a maker that was killed."""
    with contextlib.suppress(FileNotFoundError):
        return not path.is_symlink() and ("owner" in _holder(path) or path.stat().st_size == 0)
    return False


class _Owner:
    """Who holds a lock: no name of a person or a machine, only what tells whether the process still runs."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)

    def to_mapping(self) -> dict[str, Any]:
        pid = os.getpid()
        return {"owner": self.token, "machine": _machine(), "pid": pid, "started": _started(pid)}


def _acquire(store: Path, name: str, owner: _Owner, *, wait_s: float) -> Path:
    until = time.monotonic() + wait_s
    while True:
        path = staged(store, f"{name}{_SUFFIX}")
        with _alone(store):
            if _made(path, owner.to_mapping()):
                return path
            holder = _holder(path)
            if _is_stale(path, holder):
                path.unlink(missing_ok=True)
                continue
        if holder and time.monotonic() >= until:  # an empty one is being made, or released in this moment
            raise StoreError(_held(store, name, path, holder))
        time.sleep(_RETRY_S)


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Let no other process make or remove a lock of this store meanwhile, where the system can."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(store, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough if a forked process has the handle too
        os.close(handle)


def _made(path: Path, content: dict[str, Any]) -> bool:
    """Make a lock file; False if there is one, or if its folder was cleared away in this moment."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except (FileExistsError, FileNotFoundError):
        return False
    try:
        os.write(handle, json.dumps(content).encode())
    except OSError:  # the disk is full
        path.unlink()
        raise
    finally:
        os.close(handle)
    return True


def _is_stale(path: Path, holder: dict[str, Any]) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False  # released in this moment: the next try gets it
    if not holder:
        return age > _EMPTY_S
    if holder.get("machine") == _machine() and isinstance(holder.get("pid"), int):
        return _started(holder["pid"]) != holder.get("started") or not _is_running(holder["pid"])
    return age > _STALE_S


def _holder(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _held(store: Path, name: str, path: Path, holder: dict[str, Any]) -> str:
    where = "on this machine" if holder.get("machine") == _machine() else "on another machine"
    return (
        f"{name!r} of store {str(store)!r} is being written by process {holder.get('pid')} {where}; wait for it, or, "
        f"if it does not run any more, delete {str(path.relative_to(store))!r} in the store "
        f"(a lock that was not touched for {_STALE_S / 60:g} minutes is taken over by itself)"
    )


def _keep_touching(path: Path, token: str, stop: threading.Event) -> None:
    """Touch a lock for as long as it is its owner's; that of another who took it over must be able to turn stale."""
    while not stop.wait(_TOUCH_S):
        with contextlib.suppress(OSError):  # of a network drive; the next beat may reach it
            if _holder(path).get("owner") == token:
                os.utime(path)


def _machine() -> str:
    """Digest of this boot of this machine and of its process numbers (a container has its own)."""
    parts = [str(os.name)]
    for name in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        with contextlib.suppress(OSError):
            parts.append(Path(name).read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    if len(parts) == 1:
        parts.append(platform.node())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot, where the system tells: numbers of processes are reused.

    None for one that was killed and whose parent has not asked for its exit code yet.
    """
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
