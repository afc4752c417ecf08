"""Where the files of a store lie: a folder, or a packed store. Remote ones are in ``remote.py``."""

import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from spam.errors import StoreError
from spam.schemas.store_index import FileEntry

from .layout import INDEX, STAGING
from .sealing import MOST_BYTES
from .staging import folder_names

__all__ = ["FilePart", "FolderLocation", "Location", "ZipLocation"]

_LOCAL_HEADER = 30  # bytes of a ZIP entry's header before its name (APPNOTE 6.3, 4.3.7)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """Where the bytes of one file of a store lie on this machine: a part of a local file."""

    path: Path
    offset: int
    n_bytes: int

    def read(self) -> bytes:
        """Read all of them."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.n_bytes)


@runtime_checkable
class Location(Protocol):
    """The files of a store, by their names relative to its root, with ``/`` between folders."""

    address: str

    def read_index(self, name: str) -> bytes | None:
        """Read the ``zarr.json`` of the root (``""``) or of a section; None if there is none."""

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """List the sections, sorted; `listed` are those that the root names."""

    def part(self, name: str, entry: FileEntry) -> FilePart | None:
        """Find a file of which the index knows size and digest; None if it is not there."""


class FolderLocation:
    """A store in a folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)

    def read_index(self, name: str) -> bytes | None:
        """Read the ``zarr.json`` of the root (``""``) or of a section; None if there is none."""
        part = self._find(f"{name}/{INDEX}".lstrip("/"))
        if part is None:
            return None
        with contextlib.suppress(FileNotFoundError), part.path.open("rb") as file:
            # The size of the open file, not the one found before: a writer may have put another index there since.
            return file.read(min(os.fstat(file.fileno()).st_size, MOST_BYTES + 1))
        return None

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """List the folders of the sections: a writer may have been killed before it told the root."""
        return tuple(name for name in folder_names(self.path) if name != STAGING)

    def part(self, name: str, entry: FileEntry) -> FilePart | None:
        """Find a file; a link is none, nor is a path that leaves the store: a stranger's may lead anywhere."""
        return self._find(name)

    def _find(self, name: str) -> FilePart | None:
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):  # a writer may take it away in this moment
            if _is_inside(self.path, path) and path.is_file():
                return FilePart(path=path, offset=0, n_bytes=path.stat().st_size)
        return None


class ZipLocation:
    """A packed store: a ZIP file whose entries are stored, not compressed, and read where they lie.

    Raises
    ------
    StoreError
        If it is no ZIP file, or an entry is compressed, encrypted or occurs twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            message = (
                f"{str(path)!r} is no readable ZIP file ({error}); a packed store is what `spam store pack` wrote: "
                "take a fresh copy of it"
            )
            raise StoreError(message) from error
        names = [entry.filename for entry in entries]
        strange = [
            entry.filename
            for entry in entries
            if entry.compress_type != zipfile.ZIP_STORED
            or entry.flag_bits & 0x1
            or entry.file_size != entry.compress_size
        ]
        if strange or len(set(names)) < len(names):
            message = (
                f"{str(path)!r} is no packed store: {len(strange)} of its entries are compressed or encrypted "
                f"(such as {strange[:3]}), {len(names) - len(set(names))} occur twice; pack the store with "
                "`spam store pack`"
            )
            raise StoreError(message)
        self._entries: Mapping[str, zipfile.ZipInfo] = dict(zip(names, entries, strict=True))

    def read_index(self, name: str) -> bytes | None:
        """Read the ``zarr.json`` of the root (``""``) or of a section; None if there is none."""
        part = self._find(f"{name}/{INDEX}".lstrip("/"))
        return None if part is None else _read_index(part)

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """List the sections that the ZIP holds."""
        return self._sections

    @cached_property
    def _sections(self) -> tuple[str, ...]:
        names = (entry.split("/") for entry in self._entries)
        return tuple(sorted(parts[0] for parts in names if len(parts) == 2 and parts[1] == INDEX))

    def part(self, name: str, entry: FileEntry) -> FilePart | None:
        """Find the bytes of an entry in the ZIP file."""
        return self._find(name)

    def _find(self, name: str) -> FilePart | None:
        info = self._entries.get(name)
        if info is None:
            return None
        with self.path.open("rb") as file:
            file.seek(max(0, info.header_offset))
            header = file.read(_LOCAL_HEADER)
            n_there = file.seek(0, os.SEEK_END)
        # The local header has its own lengths of name and extra field; the central one's may differ.
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        offset = max(0, info.header_offset) + _LOCAL_HEADER + lengths
        # The size in the table of contents may be a stranger's claim.
        n_bytes = min(info.file_size, max(0, n_there - offset))
        return FilePart(path=self.path, offset=offset, n_bytes=n_bytes)


def _read_index(part: FilePart) -> bytes | None:
    """Read an index, or as much of it as is too much for one; None if it was taken away in this moment."""
    with contextlib.suppress(FileNotFoundError):
        return dataclasses.replace(part, n_bytes=min(part.n_bytes, MOST_BYTES + 1)).read()
    return None


def _is_inside(root: Path, path: Path) -> bool:
    """Tell whether a path lies in `root`, neither being a link nor in a linked folder."""
    for parent in (path, *path.parents):
        if parent == root:
            return True
        if parent.name == ".." or parent.is_symlink():
            return False
    return False
