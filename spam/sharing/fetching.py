"""Bringing files of a store into a folder, so that a run that was killed does not fetch them again."""

from collections.abc import Mapping
from pathlib import Path

from spam.progress import Advance
from spam.schemas.store_index import FileEntry
from spam.store.index import file_entry
from spam.store.location import Location
from spam.store.remote import RemoteLocation
from spam.store.sealing import sync

from .copying import checked_blocks

__all__ = ["Fetching"]


class Fetching:
    """Fetches files of a store.

    Parameters
    ----------
    source
        Where the store is. The cache of a remote one must be on the same disk as the folders, and nobody else's: files
        are moved out of it.
    advance
        Moves on by the bytes of each file.

    Attributes
    ----------
    n_files, n_bytes
        How many files were fetched, and their size.
    """

    def __init__(self, source: Location, advance: Advance) -> None:
        self._source, self._advance = source, advance
        self.n_files = self.n_bytes = 0

    def fetch(self, section: str, files: Mapping[str, FileEntry], folder: Path) -> None:
        """Bring files of a section into a folder that stands for it; they are on the disk when this returns.

        What is there already is compared with its digest; what is right is kept, and all else is taken away.

        Raises
        ------
        StoreError
            If a file cannot be fetched, or is not what the index names.
        """
        for found in [found for found in folder.rglob("*") if found.is_file()]:
            if found.relative_to(folder).as_posix() not in files:
                found.unlink()
        folders = {folder}
        for path, entry in files.items():
            target = folder / path
            if not (target.is_file() and file_entry(target) == entry):
                target.parent.mkdir(parents=True, exist_ok=True)
                self._take(f"{section}/{path}", entry, target)
                self.n_files += 1
                self.n_bytes += entry.n_bytes
            folders.update(parent for parent in target.parents if parent.is_relative_to(folder))
            self._advance(entry.n_bytes, note=section)
        for made in sorted(folders, reverse=True):
            made.mkdir(parents=True, exist_ok=True)
            sync(made)

    def _take(self, name: str, entry: FileEntry, target: Path) -> None:
        part = self._source.part(name, entry)
        if part is not None and isinstance(self._source, RemoteLocation):  # it was compared with its digest
            part.path.replace(target)
        else:
            with target.open("wb") as file:
                for block in checked_blocks(self._source, name, entry):
                    file.write(block)
        sync(target)
