"""Unpacking a packed store, which may come from a stranger: `spam store unpack`."""

import dataclasses
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from spam.errors import MissingInputError, StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import UnpackConfig
from spam.schemas.store_index import FileEntry
from spam.store import open_store
from spam.store.index import SectionIndex
from spam.store.layout import INDEX
from spam.store.sealing import write_durably

from .copying import copy_files
from .new_folder import new_folder, require_absent
from .packing import files_of

__all__ = ["UnpackReport", "unpack"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackReport:
    """What `unpack` did.

    Attributes
    ----------
    packed, out
        The packed store and the folder.
    sections
        Names of the sections.
    n_files, n_bytes
        Files of the store and their size.
    """

    packed: Path
    out: Path
    sections: tuple[str, ...]
    n_files: int
    n_bytes: int

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "packed": str(self.packed),
            "out": str(self.out),
            "sections": list(self.sections),
            "n_files": self.n_files,
            "n_bytes": self.n_bytes,
        }

    def summary(self) -> str:
        """Write what was unpacked."""
        sizes = f"{len(self.sections)} sections, {self.n_files} files, {self.n_bytes} bytes"
        return f"unpacked {self.packed} to {self.out}: {sizes}"


def unpack(config: UnpackConfig, *, progress: Progress = SILENT) -> UnpackReport:
    """Unpack a store into a folder, which appears when it is whole.

    The file may come from a stranger: nothing is written before every entry was found to be a plain file inside the
    store, named by an index, of the size that the index says, and all of them together to be no larger than the ZIP
    file. Each is compared with its digest while it is written.

    Parameters
    ----------
    config
        Which packed store, and where to.
    progress
        Who watches.

    Raises
    ------
    MissingInputError
        If there is no such file.
    StoreError
        If it is no packed store, is damaged, or holds what no packed store holds (names all such entries).
    OutputExistsError
        If there is something at `out`.
    """
    assert config.packed is not None  # held by __post_init__
    packed = config.packed
    if not packed.is_file():
        kind = "a folder: it needs no unpacking" if packed.is_dir() else "not there"
        message = (
            f"the packed store {str(packed)!r} is {kind}; give the ZIP file that `spam store pack` wrote"
        )
        raise MissingInputError(message)
    out = config.out or packed.with_name(packed.name.removesuffix(".zip"))
    require_absent(out)
    store = open_store(packed)
    entries = _entries(packed)
    _refuse(packed, _entry_faults(packed, entries))
    indexes = {name: store.section(name).index for name in store.section_names}
    files = files_of(indexes)
    _refuse(packed, _size_faults(entries, files, indexes))
    with new_folder(out) as folder, progress.task("unpacking", len(files)) as advance:
        root = store.location.read_index("")
        assert root is not None  # open_store read it
        for name, index in indexes.items():
            copy_files(store.location, name, index.files, folder / name, advance)
            write_durably(folder / name / INDEX, index.data)
        write_durably(folder / INDEX, root)
    return UnpackReport(
        packed=packed,
        out=out,
        sections=tuple(indexes),
        n_files=len(entries),
        n_bytes=sum(entry.file_size for entry in entries.values()),
    )


def _entries(packed: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(packed) as archive:
        return {entry.filename: entry for entry in archive.infolist()}


def _entry_faults(packed: Path, entries: Mapping[str, zipfile.ZipInfo]) -> Iterator[str]:
    """Say which entries are no plain files inside a folder, whatever the indexes say of them."""
    for name, entry in entries.items():
        path = PurePosixPath(name)
        if (
            str(path) != name
            or name != entry.orig_filename
            or path.is_absolute()
            or PureWindowsPath(name).anchor
            or ".." in path.parts
            or any(c == "\\" or ord(c) < ord(" ") for c in name)
        ):
            yield f"{entry.orig_filename!r} is no path inside a store"
        elif stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            yield f"{name!r} is a link or another thing that is no file"
    claimed, there = sum(entry.file_size for entry in entries.values()), packed.stat().st_size
    if claimed > there:  # entries that lie over each other: a small file that fills a disk
        yield f"its entries have {claimed} bytes together, the file {there}"


def _size_faults(
    entries: Mapping[str, zipfile.ZipInfo],
    files: Mapping[str, FileEntry],
    indexes: Mapping[str, SectionIndex],
) -> Iterator[str]:
    """Say where the entries are not what the indexes name."""
    named = {INDEX, *files, *(f"{name}/{INDEX}" for name in indexes)}
    yield from (f"{name!r} is named by no index" for name in sorted(entries.keys() - named))
    yield from (f"{name!r} is missing" for name in sorted(named - entries.keys()))
    for name, file in files.items():
        if name in entries and entries[name].file_size != file.n_bytes:
            yield f"{name!r} has {entries[name].file_size} bytes, its index says {file.n_bytes}"


def _refuse(packed: Path, found: Iterator[str]) -> None:
    faults = list(found)
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        message = (
            f"{str(packed)!r} cannot be unpacked, nothing was written: {'; '.join(faults[:10])}{more}; it is not as "
            "`spam store pack` wrote it: take a fresh copy from whom you trust"
        )
        raise StoreError(message)
