"""What has to be done at an address so that the sections of a store are there: found by comparing the indexes."""

import dataclasses
from collections.abc import Mapping, Sequence

from spam.errors import StoreError
from spam.schemas.store_index import FileEntry
from spam.store.index import SectionIndex, read_index
from spam.store.layout import INDEX
from spam.store.location import Location
from spam.store.node_rules import node_faults

from .changed_index import owners, without_nodes

__all__ = ["PushPlan", "SectionChange", "section_change"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionChange:
    """What has to be done for one section.

    Attributes
    ----------
    name
        The section.
    index
        Its index when all is done.
    interim
        Its index in the meantime, without the arrays of which files are replaced; None if none is.
    is_indexed
        Whether that index is there already.
    files
        Files that have to be sent, by path within the section.
    """

    name: str
    index: SectionIndex
    interim: bytes | None
    is_indexed: bool
    files: Mapping[str, FileEntry]

    @property
    def paths(self) -> set[str]:
        """All files of the section when all is done, by path within the store."""
        return {f"{self.name}/{path}" for path in (INDEX, *self.index.files)}

    @property
    def n_bytes(self) -> int:
        """Size of the files that have to be sent."""
        return sum(entry.n_bytes for entry in self.files.values())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What has to be done at an address.

    Attributes
    ----------
    source
        Where the files are taken from.
    sections
        What has to be done for each section that is pushed.
    root, readme
        Contents of the root and of the ``README.md`` when all is done.
    """

    source: Location
    sections: Sequence[SectionChange]
    root: bytes
    readme: bytes


def section_change(index: SectionIndex, there: Location) -> SectionChange:
    """Compare a section with what an address has under its name.

    An index that is damaged there counts as none: all files are sent again.
    """
    name = index.meta.name
    old = _index_there(name, there)
    files = {} if old is None else old.files
    changed = {path: entry for path, entry in index.files.items() if files.get(path) != entry}
    replaced = files.keys() & changed.keys()
    interim = None if old is None or not replaced else without_nodes(old, owners(old, replaced)).data
    return SectionChange(
        name=name,
        index=index,
        interim=interim,
        is_indexed=old is not None and old.data == index.data,
        files=changed,
    )


def _index_there(name: str, there: Location) -> SectionIndex | None:
    data = there.read_index(name)
    if data is None:
        return None
    try:
        index = read_index(data, f"{there.address}/{name}")
    except StoreError:
        return None
    return None if node_faults(index) else index
