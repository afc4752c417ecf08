"""Things are written beside the sections and renamed into place when whole, so that no reader meets a half.

The staging group mirrors the store: what becomes ``C2/obsm/x`` is written as ``.unfinished/C2/obsm/x``. A killed
writer leaves its half there, and the next one that writes the same thing clears it away or goes on with it.
"""

import shutil
from pathlib import Path

from .layout import STAGING

__all__ = ["discard", "move_into_place", "staging_name"]

_GROUP_FILE = "zarr.json"
_REPLACED = ".replaced"  # where the old version waits while the new one takes its place


def staging_name(name: str) -> str:
    """Name, relative to the store, under which `name` is written until it is whole."""
    return f"{STAGING}/{name}"


def discard(store: Path, name: str) -> None:
    """Remove what a writer left of `name`, if anything, and the groups that it was alone in."""
    staged = store / staging_name(name)
    if staged.exists():
        shutil.rmtree(staged)
    _prune(store, staged.parent)


def move_into_place(store: Path, name: str) -> None:
    """Rename the staged `name` to where readers look, in place of an older version if there is one.

    A rename is atomic. When an older version is replaced there is a moment with neither; one killed in it leaves
    nothing under `name`, never a half.
    """
    staged, final, replaced = store / staging_name(name), store / name, store / staging_name(_REPLACED)
    if replaced.exists():
        shutil.rmtree(replaced)
    if final.exists():
        final.rename(replaced)
    staged.rename(final)
    if replaced.exists():
        shutil.rmtree(replaced)
    _prune(store, staged.parent)


def _prune(store: Path, folder: Path) -> None:
    """Remove staging groups that hold nothing, so that a finished store equals one that was never interrupted."""
    while folder != store:
        if folder.exists():
            if {entry.name for entry in folder.iterdir()} - {_GROUP_FILE}:
                return
            shutil.rmtree(folder)
        folder = folder.parent
