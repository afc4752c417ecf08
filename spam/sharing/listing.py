"""What lies in a store, whether or not an index names it."""

import os
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

from spam.store.layout import STAGING
from spam.store.location import FilePart, FolderLocation, Location, ZipLocation
from spam.store.staged_chunks import StagedChunks

__all__ = ["files_of", "staged_chunks", "staged_folders"]

_README = "README.md"


def files_of(location: Location) -> Iterator[tuple[str, bool]]:
    """Yield every file, by its path within the store, and whether it is a link; nothing of a remote store.

    What a store may hold beside its own files is left out: a ``README.md``, and all that is being written but links.
    """
    if isinstance(location, ZipLocation):
        with zipfile.ZipFile(location.path) as archive:
            yield from ((name, False) for name in sorted(archive.namelist()) if name != _README)
    if isinstance(location, FolderLocation):
        for folder, folders, files in os.walk(location.path):  # does not follow links
            here = Path(folder)
            links = [name for name in folders if (here / name).is_symlink()]
            folders.sort()
            for name in sorted([*files, *links]):
                path = (here / name).relative_to(location.path)
                is_link = (here / name).is_symlink()
                if path != Path(_README) and (is_link or path.parts[0] != STAGING):
                    yield path.as_posix(), is_link


def staged_folders(location: Location, section: str) -> list[Path]:
    """List the folders of the features of a section that a writer began and did not finish, sorted."""
    if not isinstance(location, FolderLocation):
        return []
    folder = location.path / STAGING / section / "obsm"
    parents = (folder, folder.parent, folder.parent.parent)
    if not folder.is_dir() or any(parent.is_symlink() for parent in parents):  # not the store's
        return []
    return [
        path for path in sorted(folder.iterdir()) if StagedChunks(path).is_begun and not path.is_symlink()
    ]


def staged_chunks(location: Location, sections: Collection[str]) -> list[tuple[str, FilePart, str]]:
    """List the chunks of unfinished features: path within the store, bytes, and the digest that they must have."""
    found = []
    for section in sections:
        for folder in staged_folders(location, section):
            for path, sha256 in StagedChunks(folder).done().values():
                part = FilePart(path=path, offset=0, n_bytes=path.stat().st_size)
                assert isinstance(location, FolderLocation)  # others have none
                found.append((path.relative_to(location.path).as_posix(), part, sha256))
    return sorted(found, key=lambda chunk: chunk[0])
