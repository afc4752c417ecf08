"""Things are written beside the sections and renamed into place when whole, so that no reader meets a half.

The staging group mirrors the store: what becomes ``C2/obsm/x`` is written as ``.unfinished/C2/obsm/x``. A
killed writer leaves its half there; the next one that writes the same thing clears it away or goes on.
"""

import shutil
from pathlib import Path

import zarr

from .layout import STAGING

__all__ = ["child_names", "discard", "is_there", "move_into_place", "remove", "staging_group", "staging_name"]

_NODE_FILE = "zarr.json"  # what makes a folder a group or an array of Zarr v3
_PARTIAL = ".partial"  # end of the name under which Zarr writes a file before it renames it
_REMOVED = ".removed"  # where something waits while it is deleted


def is_there(store: Path, name: str) -> bool:
    """Tell whether the store holds a group or array of that name, whole or damaged."""
    return (store / name / _NODE_FILE).is_file()


def child_names(store: Path, name: str) -> list[str]:
    """List the groups and arrays in a group, sorted; files that are not Zarr's (a README) are no matter."""
    folder = store / name
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if (child / _NODE_FILE).is_file())


def staging_name(name: str) -> str:
    """Name, relative to the store, under which `name` is written until it is whole."""
    return f"{STAGING}/{name}"


def staging_group(store: Path, name: str) -> zarr.Group:
    """Open the group in which `name` is staged, by its last part: ``C2/obsm/x`` as ``x``.

    It is opened by its own path: made through the root, Zarr would look after every group on the way, and a kill
    in that moment would leave a partial file in the root.
    """
    folder = (store / staging_name(name)).parent
    return zarr.open_group(folder, mode="a", zarr_format=3, use_consolidated=False)


def discard(store: Path, name: str) -> None:
    """Delete what a writer left of `name`, if anything, and the staging groups that it was alone in."""
    staged = store / staging_name(name)
    if staged.exists():
        shutil.rmtree(staged)
    _prune(store, staged.parent)


def remove(store: Path, name: str) -> None:
    """Delete `name` if it is there; it is gone for readers before any of its files is."""
    removed = store / staging_name(_REMOVED)
    if removed.exists():
        shutil.rmtree(removed)
    if (store / name).exists():
        removed.parent.mkdir(exist_ok=True)
        (store / name).rename(removed)
        shutil.rmtree(removed)
    _prune(store, removed.parent)


def move_into_place(store: Path, name: str) -> None:
    """Rename the staged `name` to where readers look, in place of an older version if there is one.

    A rename is atomic. When an older version is replaced there is a moment with neither; a writer killed in
    it leaves nothing under `name`, never a half.
    """
    staged = store / staging_name(name)
    for leftover in staged.rglob(f"*{_PARTIAL}"):  # of a killed writer that was gone on with
        leftover.unlink()
    remove(store, name)
    staged.rename(store / name)
    _prune(store, staged.parent)


def _prune(store: Path, folder: Path) -> None:
    """Delete staging groups that hold nothing: a finished store equals one that was never interrupted."""
    while folder != store:
        if folder.exists():
            if any(not _is_nothing(entry) for entry in folder.iterdir()):
                return
            shutil.rmtree(folder)
        folder = folder.parent


def _is_nothing(entry: Path) -> bool:
    return entry.name == _NODE_FILE or entry.name.endswith(_PARTIAL)
