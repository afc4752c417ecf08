"""Where the files of a store are: in a folder or in a packed store (ZIP); remote stores are in ``remote.py``."""

import abc
import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import zarr
from zarr.core.buffer import Buffer
from zarr.core.buffer.cpu import Buffer as MemoryBuffer
from zarr.storage import MemoryStore

from spam.errors import StoreError
from spam.schemas.store_format import FileEntry

from .layout import INDEX, TABLES, inside
from .section_index import MOST_INDEX_BYTES, SectionIndex, file_entry

_LOCAL_HEADER = 30  # bytes of a ZIP entry's header before its name (APPNOTE 6.3, 4.3.7)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """Where the bytes of one file of a store are on this machine: a part of a local file."""

    path: Path
    offset: int
    n_bytes: int

    def read(self) -> bytes:
        """Read all of them."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.n_bytes)


class Location(abc.ABC):
    """The files of a store, by their paths relative to its root.

    Attributes
    ----------
    address
        Folder, packed file or remote address, as it is shown in messages.
    """

    address: str

    @abc.abstractmethod
    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """List the sections, sorted; `listed` are those that the root names."""

    @abc.abstractmethod
    def part(self, path: str, entry: FileEntry | None) -> FilePart | None:
        """Find the bytes of a file on this machine, or None; a remote file is fetched and compared with `entry`."""

    def prefetch(self, files: Mapping[str, FileEntry]) -> None:  # noqa: B027 - a hook; local places need none
        """Fetch several files at once where that takes time; local places have nothing to do."""

    def read_index(self, name: str) -> bytes | None:
        """Read the ``zarr.json`` of the root (``""``) or of a section; None if there is none."""
        part = self.part(f"{name}/{INDEX}".lstrip("/"), None)
        if part is None:
            return None
        return dataclasses.replace(part, n_bytes=min(part.n_bytes, MOST_INDEX_BYTES + 1)).read()

    def read(self, path: str, entry: FileEntry) -> bytes:
        """Read a file whole and compare it with its index entry.

        Raises
        ------
        StoreError
            If the file is missing, or its size or digest differs.
        """
        data, fault = self.checked(path, entry)
        if fault:
            raise self.damaged(path, fault)
        return data

    def checked(self, path: str, entry: FileEntry) -> tuple[bytes, str]:
        """Read a file whole; return its bytes, and how they differ from its index entry (``""`` if they do not)."""
        part = self.part(path, entry)
        if part is None:
            return b"", "it is missing"
        if part.n_bytes != entry.n_bytes:
            return b"", f"it has {part.n_bytes} bytes, expected {entry.n_bytes}"
        try:
            data = part.read()
        except FileNotFoundError:  # removed by a writer since it was found
            return b"", "it is missing"
        return data, "" if file_entry(data) == entry else f"its SHA-256 is not {entry.sha256[:12]}…"

    def damaged(self, path: str, fault: str) -> StoreError:
        """Build the error for a file that does not match its index."""
        message = (
            f"Damaged file: {path} in store {self.address!r}: {fault}. If another process is writing the store, run the "
            f"command again; otherwise list all damage: spam store verify {self.address}"
        )
        return StoreError(message)


class FolderLocation(Location):
    """A store in a folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """List the folders of the sections: a writer may have been killed before it updated the root."""
        names = (path.parent.name for path in self.path.glob(f"*/{INDEX}"))
        return tuple(sorted(name for name in names if not name.startswith(".") and name != TABLES))

    def read_index(self, name: str) -> bytes | None:
        """Read a ``zarr.json`` without asking for its size first: a writer may replace it by a longer one meanwhile."""
        path = inside(self.path, f"{name}/{INDEX}".lstrip("/"))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), path.open("rb") as file:
            return file.read(MOST_INDEX_BYTES + 1)
        return None

    def part(self, path: str, entry: FileEntry | None) -> FilePart | None:
        """Find a file; links are refused."""
        found = inside(self.path, path)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return FilePart(path=found, offset=0, n_bytes=found.stat().st_size)
        return None


class Opened:
    """Base of `Store` and `StoredSection`: where the files are, and whether they may be changed.

    Attributes
    ----------
    location
        Where the files of the store are.
    is_writable
        Whether it was opened for writing.
    """

    location: Location
    is_writable: bool

    @property
    def folder(self) -> Path:
        """The folder of the store, to write to.

        Raises
        ------
        StoreError
            If it is open for reading only.
        """
        if self.is_writable and isinstance(self.location, FolderLocation):
            return self.location.path
        message = (
            f"{self.location.address!r} is open for reading only. Use open_store(path, is_read_only=False)."
        )
        raise StoreError(message)


class ZipLocation(Location):
    """A packed store: a ZIP file whose entries are not compressed and are read in place.

    Raises
    ------
    StoreError
        If it is not a ZIP file, or an entry is compressed or encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)
        try:
            with zipfile.ZipFile(path) as archive:
                self.entries = {entry.filename: entry for entry in archive.infolist()}
        # zipfile raises NotImplementedError for archives of versions that it cannot read.
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            message = f"{str(path)!r} is not a packed store ({error}). Pack the store again: spam store pack"
            raise StoreError(message) from error
        for name, entry in self.entries.items():
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
                message = f"{str(path)!r} is not a packed store: {name!r} is compressed. Pack it with: spam store pack"
                raise StoreError(message)

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """List the sections that the ZIP holds."""
        names = (entry.split("/") for entry in self.entries)
        found = (parts[0] for parts in names if len(parts) == 2 and parts[1] == INDEX)
        return tuple(sorted(name for name in found if name != TABLES))

    def part(self, path: str, entry: FileEntry | None) -> FilePart | None:
        """Find the bytes of an entry in the ZIP file."""
        info = self.entries.get(path)
        if info is None:
            return None
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER)
            end = file.seek(0, os.SEEK_END)
        # The local header has its own lengths of name and extra field.
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        offset = info.header_offset + _LOCAL_HEADER + lengths
        return FilePart(path=self.path, offset=offset, n_bytes=min(info.file_size, max(0, end - offset)))


class _SectionFiles(Mapping[str, Buffer]):
    """The files of a section as zarr reads them, each compared with its digest."""

    def __init__(self, location: Location, index: SectionIndex) -> None:
        self._location, self._index = location, index

    def __getitem__(self, key: str) -> Buffer:
        if key == INDEX:
            return MemoryBuffer.from_bytes(self._index.data)
        data = self._location.read(f"{self._index.meta.name}/{key}", self._index.files[key])
        return MemoryBuffer.from_bytes(data)

    def __contains__(self, key: object) -> bool:
        return key == INDEX or key in self._index.files

    def __iter__(self) -> Iterator[str]:
        yield from (INDEX, *self._index.files)

    def __len__(self) -> int:
        return 1 + len(self._index.files)


def open_section_group(location: Location, index: SectionIndex) -> zarr.Group:
    """Open a section with zarr, read-only: only files that the index names, each compared with its digest."""
    store = MemoryStore(_SectionFiles(location, index), read_only=True)  # type: ignore[arg-type]  # only read
    try:
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
    except StoreError:  # of the files
        raise
    except (TypeError, ValueError, KeyError, AttributeError, FileNotFoundError, RecursionError) as error:
        where = f"{index.meta.name}/{INDEX}"
        raise location.damaged(where, f"Zarr cannot read it ({type(error).__name__})") from error
