"""Reading while others write: what was read is of one version, or refused."""

from collections.abc import Iterator
from contextlib import contextmanager

from spam.errors import StoreError

from .index import SectionIndex, read_index
from .location import FolderLocation, Location

__all__ = ["unchanged"]


@contextmanager
def unchanged(location: Location, index: SectionIndex, *nodes: str) -> Iterator[None]:
    """Refuse what is read in the ``with`` block if a writer replaced it since the index was read.

    A writer changes the index before it changes a file that the index names. So the files were those of `index` all
    along if it names them still after they were read. A fault that is met in reading is damage only if the index is the
    same to the byte: an equal part may have come in the place of what was there, with a moment without either.

    Parameters
    ----------
    location, index
        Where the store lies, and the index of the section as it was read.
    nodes
        Nodes that are read, with all below them.

    Raises
    ------
    StoreError
        If one of them was replaced or is gone, or the section was changed while a fault was met in reading, in place
        of that fault.
    """
    try:
        yield
    except StoreError as error:
        if _is_replaced(location, index, nodes):
            raise _replaced(location, index, nodes) from error
        if isinstance(location, FolderLocation) and location.read_index(index.meta.name) != index.data:
            raise _changed(location, index, nodes) from error
        raise
    if _is_replaced(location, index, nodes):
        raise _replaced(location, index, nodes)


def _is_replaced(location: Location, index: SectionIndex, nodes: tuple[str, ...]) -> bool:
    if not isinstance(location, FolderLocation):
        return False  # a packed store is not changed, and a remote file is compared with its digest
    data = location.read_index(index.meta.name)
    if data is None or data == index.data:
        return data is None
    now = read_index(data, f"{location.address}/{index.meta.name}")
    return any(now.files.get(path) != entry for path, entry in index.below(*nodes).items())


def _replaced(location: Location, index: SectionIndex, nodes: tuple[str, ...]) -> StoreError:
    message = (
        f"{', '.join(map(repr, nodes))} of section {index.meta.name!r} in store {location.address!r} was replaced by "
        "another process since the section was opened, expected it to stay; run the same command again"
    )
    return StoreError(message)


def _changed(location: Location, index: SectionIndex, nodes: tuple[str, ...]) -> StoreError:
    message = (
        f"{', '.join(map(repr, nodes))} of section {index.meta.name!r} in store {location.address!r} cannot be read, and "
        "another process has changed that section since it was opened, expected it to stay; run the same command "
        "again: if it fails again, it says what is damaged"
    )
    return StoreError(message)
