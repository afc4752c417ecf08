"""Copying files from one store to another, each compared with its digest on the way."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from spam.errors import StoreError
from spam.progress import Advance
from spam.schemas.store_index import FileEntry
from spam.store.index import SectionIndex, change_index
from spam.store.layout import INDEX
from spam.store.location import Location
from spam.store.sealing import sync, write_durably

__all__ = ["checked_blocks", "copy_files", "copy_section"]

_BLOCK = 1 << 22


def checked_blocks(location: Location, name: str, entry: FileEntry) -> Iterator[bytes]:
    """Yield the bytes of a file of a store block by block; whoever has taken them all knows that they are right.

    Raises
    ------
    StoreError
        If the file is not there, or its size or digest is another than its index says.
    """
    part = location.part(name, entry)
    if part is None:
        raise _damaged(location, name, "the file is not there")
    if part.n_bytes != entry.n_bytes:
        raise _damaged(location, name, f"the file has {part.n_bytes} bytes, expected {entry.n_bytes}")
    digest, left = hashlib.sha256(), part.n_bytes
    with part.path.open("rb") as file:
        file.seek(part.offset)
        while block := file.read(min(left, _BLOCK)):
            digest.update(block)
            left -= len(block)
            yield block
    if left:
        raise _damaged(location, name, f"the file ends {left} bytes early")
    if digest.hexdigest() != entry.sha256:
        fault = f"its bytes have the digest {digest.hexdigest()[:12]}…, expected {entry.sha256[:12]}…"
        raise _damaged(location, name, fault)


def copy_files(
    location: Location, section: str, files: Mapping[str, FileEntry], folder: Path, advance: Advance
) -> None:
    """Copy some files of a section into a folder that has none of them; they are on the disk when this returns.

    Parameters
    ----------
    location
        Where the store is.
    section, files
        The section, and which of its files, by path within it; the paths are those of an opened section, which lead
        nowhere but inside it.
    folder
        Folder that stands for the section.
    advance
        Moves on by one for each file.

    Raises
    ------
    StoreError
        As `checked_blocks`.
    """
    folders = {folder}
    for path, entry in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": on a disk that does not tell C2/A from C2/a the second must not replace the first.
        with target.open("xb") as file:
            for block in checked_blocks(location, f"{section}/{path}", entry):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        folders.update(parent for parent in target.parents if parent.is_relative_to(folder))
        advance(note=section)
    for made in sorted(folders, reverse=True):
        made.mkdir(parents=True, exist_ok=True)
        sync(made)


def copy_section(
    location: Location,
    index: SectionIndex,
    folder: Path,
    advance: Advance,
    *,
    leave_out: Collection[str] = (),
) -> None:
    """Copy a section into a folder that is not there: its files, and last its index.

    Without the nodes `leave_out` its content digest is that of a section to which they were never added.

    Raises
    ------
    StoreError
        As `checked_blocks`.
    """
    left_out = index.below(*leave_out)
    files = {path: entry for path, entry in index.files.items() if path not in left_out}
    copy_files(location, index.meta.name, files, folder, advance)
    write_durably(folder / INDEX, index.data)
    change_index(folder, drop=leave_out)


def _damaged(location: Location, name: str, fault: str) -> StoreError:
    message = (
        f"the store is damaged, or was changed in this moment, at {location.address}/{name}: {fault}; find all damage "
        f"with `spam store verify {location.address}`, and take a fresh copy of what it names"
    )
    return StoreError(message)
