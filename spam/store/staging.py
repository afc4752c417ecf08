"""Things are written beside the sections and renamed into place when whole, so that no reader meets a half.

The staging folder mirrors the store: what becomes ``C2/obsm/x`` is written as ``.unfinished/C2/obsm/x``. A killed
writer leaves its half there; the next one that writes the same thing clears it away or goes on.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from spam.errors import StoreError

from .layout import INDEX, STAGING

__all__ = [
    "discard",
    "folder_names",
    "make_folder",
    "move_into_place",
    "prune",
    "refuse_links",
    "remove",
    "staged",
    "sweep",
]

_REMOVED = ".removed-"  # beginning of the name under which something waits while it is deleted
_N_TRIES = 100


def folder_names(folder: Path) -> list[str]:
    """List the groups and arrays in a folder, sorted; what is not Zarr's (a README) is no matter."""
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if (child / INDEX).is_file())


def refuse_links(store: Path, path: Path) -> None:
    """Refuse to change what a link inside a store leads to: it may lie anywhere, and is not the store's.

    Raises
    ------
    StoreError
        If `path`, or a folder between it and the store, is a link.
    """
    here = store
    for name in path.relative_to(store).parts:
        here /= name
        if here.is_symlink():
            message = (
                f"{here.relative_to(store).as_posix()!r} in store {str(store)!r} is a link, expected a part of the "
                "store itself: nothing is written or deleted through it; look at where it leads, then remove the "
                f"link with `rm {here}`"
            )
            raise StoreError(message)


def staged(store: Path, name: str) -> Path:
    """Give the path under which `name` is written until it is whole; its parents are made.

    Raises
    ------
    StoreError
        If a link is in the way, as in all that writes or deletes here (`refuse_links`).
    """
    path = store / STAGING / name
    refuse_links(store, path)
    make_folder(path.parent)
    return path


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, also while another process prunes them because they are empty."""
    for _ in range(_N_TRIES):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_dir():
                return
    folder.mkdir(parents=True, exist_ok=True)  # says what is in the way


def discard(store: Path, name: str) -> None:
    """Delete what a writer left of `name`, if anything, and the staging folders that it was alone in."""
    remove(store, f"{STAGING}/{name}")
    prune(store, (store / STAGING / name).parent)


def remove(store: Path, name: str) -> None:
    """Delete `name` if it is there; all of it is gone for others before any of its files is."""
    refuse_links(store, store / name)
    if (store / name).exists():
        removed = staged(store, f"{_REMOVED}{secrets.token_hex(8)}")
        (store / name).rename(removed)
    sweep(store)


def sweep(store: Path) -> None:
    """Delete what was removed already, by a killed writer too."""
    staging = store / STAGING
    refuse_links(store, staging)
    leftovers: list[Path] = []
    with contextlib.suppress(FileNotFoundError):  # another process has just cleared the folder away
        leftovers = [path for path in staging.iterdir() if path.name.startswith(_REMOVED)]
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)  # another process may be at it too
    prune(store, staging)


def move_into_place(store: Path, name: str, path: Path) -> None:
    """Rename the finished `path` to `name`, in place of an older version if there is one.

    A rename is atomic. When an older version is replaced there is a moment with neither; a writer killed in it
    leaves nothing under `name`, never a half.
    """
    refuse_links(store, path)
    remove(store, name)
    path.rename(store / name)
    prune(store, path.parent)


def prune(store: Path, folder: Path) -> None:
    """Delete empty staging folders upwards: a finished store equals one that was never interrupted."""
    refuse_links(store, folder)
    while folder != store:
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(folder)  # noqa: PTH106  fails, as it must, where there is something
            except OSError:
                if folder.exists():
                    return
        folder = folder.parent
