"""Opening and making stores, and adding sections to them."""

import json
from pathlib import Path
from typing import Any

from spam.errors import StoreError
from spam.schemas.store_meta import STORE_FORMAT, STORE_VERSION

from .feature_writer import LOCK_WAIT_S
from .layout import FORMAT, INDEX, SECTIONS, SPAM, STAGING, VERSION
from .location import FolderLocation, Location, ZipLocation
from .lock import live_locks, locked, remove_stale_locks
from .records import SectionRecord
from .remote import RemoteLocation, is_remote
from .sealing import read_sealed, sealed, write_sealed
from .section import StoredSection
from .section_writer import write_section
from .staging import sweep

__all__ = ["Store", "create_store", "locate", "open_store", "write_root"]

_ROOT_LOCK = ".root"


class Store:
    """Sections in one place; made by `open_store` and `create_store`.

    Attributes
    ----------
    location
        Where the files are.
    is_writable
        Whether it was opened for writing.
    """

    def __init__(self, location: Location, *, is_writable: bool) -> None:
        self.location, self.is_writable = location, is_writable
        self._listed = _read_root(location)

    @property
    def address(self) -> str:
        """Folder, packed file or remote address."""
        return self.location.address

    @property
    def section_names(self) -> tuple[str, ...]:
        """Names of the sections, sorted."""
        return self.location.section_names(self._listed)

    def section(self, name: str) -> StoredSection:
        """Open a section.

        Raises
        ------
        StoreError
            If there is none of that name (says which there are), or it is damaged.
        """
        names = self.section_names
        if name not in names:
            there = ", ".join(map(repr, names)) or "none yet"
            message = (
                f"store {self.address!r} has no section {name!r} (it has: {there}); "
                "add it with `spam embed`, or name one of these"
            )
            raise StoreError(message)
        return StoredSection(self.location, name, is_writable=self.is_writable)

    def add_section(self, record: SectionRecord, *, is_overwrite: bool = False) -> StoredSection:
        """Write a section without features; it appears when it is whole.

        With `is_overwrite` an older section of that name goes, with its features and graphs.

        Raises
        ------
        StoreError
            If the store is open for reading only, has a section of that name already, or another process is
            writing it.
        """
        name = record.meta.name
        folder = self.folder
        with locked(folder, name, wait_s=LOCK_WAIT_S):
            if name in self.section_names and not is_overwrite:
                message = (
                    f"store {self.address!r} has a section {name!r} already; "
                    "give another name with --section, or replace it with --overwrite"
                )
                raise StoreError(message)
            others = live_locks(folder, name)
            if others:
                message = (
                    f"section {name!r} of store {self.address!r} cannot be replaced: another process is writing "
                    f"{', '.join(map(repr, others))}; wait for it"
                )
                raise StoreError(message)
            write_section(folder, record)
        write_root(folder)
        return self.section(name)

    @property
    def folder(self) -> Path:
        """The folder, to write to.

        Raises
        ------
        StoreError
            If the store is open for reading only.
        """
        if self.is_writable and isinstance(self.location, FolderLocation):
            return self.location.path
        message = (
            f"store {self.address!r} is open for reading only; open it with "
            "open_store(path, is_read_only=False) to add sections"
        )
        raise StoreError(message)


def open_store(address: Path | str, *, is_read_only: bool = True) -> Store:
    """Open a store that is there: a folder, a packed store, or one at an address (``s3://bucket/cohort.zarr``).

    Opened for writing, it is first cleared of what killed writers left, but for features that can be gone on with.

    Raises
    ------
    StoreError
        If there is nothing, it is no store of spam, one of a newer version, a damaged one, or a packed one that is to
        be written to.
    """
    if not is_read_only and Path(address).is_file():
        message = (
            f"{str(address)!r} is a file; a packed store is only read: unpack it with `spam store unpack {address}` and "
            "write to the folder"
        )
        raise StoreError(message)
    store = Store(locate(address), is_writable=not is_read_only)
    if store.is_writable and isinstance(store.location, FolderLocation):
        _tidy(store.location.path)
    return store


def locate(address: Path | str) -> Location:
    """Find where the files of a store lie, without a look at what they hold.

    Raises
    ------
    StoreError
        If there is nothing, or a file that is no packed store, or an address that cannot be opened.
    """
    if is_remote(address):
        return RemoteLocation(str(address))
    path = Path(str(address).removeprefix("file://"))
    if not path.exists():
        message = f"there is no store at {str(path)!r}; make one with `spam embed --store {path}`"
        raise StoreError(message)
    return FolderLocation(path) if path.is_dir() else ZipLocation(path)


def create_store(path: Path | str) -> Store:
    """Make an empty store, or open the one that is there, for writing.

    Raises
    ------
    StoreError
        If there is something else at `path`, or a store of a newer version.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and _is_unused(path)):
        path.mkdir(parents=True, exist_ok=True)
        write_root(path)
    return open_store(path, is_read_only=False)


def write_root(folder: Path, *, entries: dict[str, Any] | None = None) -> None:
    """Write the root of a store anew, or for the first time, with the names of the sections that are there.

    Parameters
    ----------
    folder
        Folder of the store.
    entries
        More of spam's own metadata for the root; what it holds already and is not named here stays.
    """
    location = FolderLocation(folder)
    with locked(folder, _ROOT_LOCK, wait_s=LOCK_WAIT_S):
        there = location.read_index("")
        spam = {} if there is None else read_sealed(there, location.address)["attributes"][SPAM]
        spam |= {**(entries or {}), SECTIONS: list(location.section_names(()))}
        attributes = {FORMAT: STORE_FORMAT, VERSION: STORE_VERSION, SPAM: spam}
        root = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        if sealed(root)[0] != there:
            write_sealed(folder / INDEX, root)


def _is_unused(folder: Path) -> bool:
    """Tell whether a folder is empty, but for what a writer left that was killed before it made a store of it."""
    return all(path.name == STAGING or path.name.startswith(f"{INDEX}.") for path in folder.iterdir())


def _tidy(folder: Path) -> None:
    """Do what killed writers left undone, so that a store that was gone on with equals an unbroken one."""
    if (folder / STAGING).exists():
        remove_stale_locks(folder)
        sweep(folder)
    location = FolderLocation(folder)
    if _read_root(location) != location.section_names(()):
        write_root(folder)


def _read_root(location: Location) -> tuple[str, ...]:
    """Check that a root is one of a store that this version reads; return the sections that it names."""
    where = repr(location.address)
    data = location.read_index("")
    if data is None:
        message = (
            f"{where} is no store: it has no {INDEX!r}; give the folder that `spam embed --store` wrote, or another "
            "--store to make a new one"
        )
        raise StoreError(message)
    attributes = _attributes(data, where)
    found, version = attributes.get(FORMAT), attributes.get(VERSION)
    if found != STORE_FORMAT:
        message = (
            f"{where} is a Zarr group but no store of spam: its attribute {FORMAT!r} is {found!r}, expected "
            f"{STORE_FORMAT!r}; give the folder that `spam embed --store` wrote (not a section inside it)"
        )
        raise StoreError(message)
    if type(version) is not int or version < 1:
        message = (
            f"the store {where} is damaged: its attribute {VERSION!r} is {version!r}, expected a whole "
            "number from 1; take a fresh copy of the store"
        )
        raise StoreError(message)
    if version > STORE_VERSION:
        message = (
            f"the store {where} has format version {version}, this spam reads up to {STORE_VERSION}; "
            "update with `pip install --upgrade spam-st`"
        )
        raise StoreError(message)
    names = read_sealed(data, location.address)["attributes"][SPAM].get(SECTIONS)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        message = f"the store {where} is damaged: its root names no sections; take a fresh copy of the store"
        raise StoreError(message)
    return tuple(sorted(names))


def _attributes(data: bytes, where: str) -> dict[str, Any]:
    """Read the attributes of the root before its seal: that of a newer version may be another."""
    try:
        attributes = json.loads(data)["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = (
            f"{where} is not a readable Zarr v3 group ({type(error).__name__}: {error}); give the folder that "
            "`spam embed --store` wrote, or another --store to make a new one"
        )
        raise StoreError(message) from error
    return attributes if isinstance(attributes, dict) else {}
