"""Opening and making stores, and adding sections to them."""

from pathlib import Path

import zarr

from spam.errors import StoreError
from spam.schemas.store_meta import STORE_FORMAT, STORE_VERSION

from .layout import FORMAT, STAGING, VERSION
from .records import SectionRecord
from .section import StoredSection
from .section_writer import write_section
from .staging import child_names

__all__ = ["Store", "create_store", "open_store"]


class Store:
    """A folder of sections; made by `open_store` and `create_store`.

    Attributes
    ----------
    path
        The folder.
    is_writable
        Whether it was opened for writing.
    """

    def __init__(self, path: Path, *, is_writable: bool) -> None:
        self.path, self.is_writable = path, is_writable
        self._root = _open_root(path, mode="r+" if is_writable else "r")

    @property
    def section_names(self) -> tuple[str, ...]:
        """Names of the sections, sorted."""
        return tuple(name for name in child_names(self.path, "") if name != STAGING)

    def section(self, name: str) -> StoredSection:
        """Open a section.

        Raises
        ------
        StoreError
            If there is none of that name (says which there are), or its metadata are damaged.
        """
        names = self.section_names
        if name not in names:
            there = ", ".join(map(repr, names)) or "none yet"
            message = (
                f"store {str(self.path)!r} has no section {name!r} (it has: {there}); "
                "add it with `spam embed`, or name one of these"
            )
            raise StoreError(message)
        return StoredSection(self._root, name, path=self.path, is_writable=self.is_writable)

    def add_section(self, record: SectionRecord, *, is_overwrite: bool = False) -> StoredSection:
        """Write a section without features; it appears when it is whole.

        With `is_overwrite` an older section of that name goes, with its features and graphs.

        Raises
        ------
        StoreError
            If the store is open for reading only, or has a section of that name already.
        """
        name = record.meta.name
        if not self.is_writable:
            message = (
                f"store {str(self.path)!r} is open for reading only; open it with "
                "open_store(path, is_read_only=False) to add sections"
            )
            raise StoreError(message)
        if name in self.section_names and not is_overwrite:
            message = (
                f"store {str(self.path)!r} has a section {name!r} already; "
                "give another name with --section, or replace it with --overwrite"
            )
            raise StoreError(message)
        write_section(self.path, record)
        return self.section(name)


def open_store(path: Path | str, *, is_read_only: bool = True) -> Store:
    """Open a store that is there.

    Raises
    ------
    StoreError
        If there is no folder, it is no Zarr v3 group, no store of spam, or one of a newer version.
    """
    return Store(Path(path), is_writable=not is_read_only)


def create_store(path: Path | str) -> Store:
    """Make an empty store, or open the one that is there, for writing.

    Raises
    ------
    StoreError
        If there is something else at `path`, or a store of a newer version.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        zarr.create_group(path, zarr_format=3, attributes={FORMAT: STORE_FORMAT, VERSION: STORE_VERSION})
    return Store(path, is_writable=True)


def _open_root(path: Path, *, mode: str) -> zarr.Group:
    where = repr(str(path))
    if not path.exists():
        message = f"there is no store at {where}; make one with `spam embed --store {path}`"
        raise StoreError(message)
    if not path.is_dir():
        message = f"{where} is a file, a store is a folder; give the folder that `spam embed --store` wrote"
        raise StoreError(message)
    try:
        # Consolidated metadata, if somebody added them, would hide what is written after.
        root = zarr.open_group(path, mode=mode, zarr_format=3, use_consolidated=False)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = (
            f"{where} is not a readable Zarr v3 group ({error}); give the folder that `spam embed --store` "
            "wrote, or another --store to make a new one"
        )
        raise StoreError(message) from error
    found, version = root.attrs.get(FORMAT), root.attrs.get(VERSION)
    if found != STORE_FORMAT:
        message = (
            f"{where} is a Zarr group but no store of spam: its attribute {FORMAT!r} is {found!r}, expected "
            f"{STORE_FORMAT!r}; give the folder that `spam embed --store` wrote (not a section inside it)"
        )
        raise StoreError(message)
    if not isinstance(version, int) or version < 1:
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
    return root
