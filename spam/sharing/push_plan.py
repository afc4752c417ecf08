"""What has to be done at an address so that the sections of a store are there: found by comparing the indexes."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from spam.errors import StoreError
from spam.schemas.store_index import FileEntry
from spam.schemas.store_format import QUALITY, SectionMeta
from spam.store.feature_reader import quality_names
from spam.store.index import SectionIndex, read_index
from spam.store.layout import IDENTITY, INDEX, SPAM
from spam.store.location import Location
from spam.store.node_rules import node_faults

from .changed_index import owners, with_nodes, without_nodes
from .choosing import FEATURE_GRAPH
from .same_section import Part, parts_in

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
    there
        The bytes of its index now; None if there is none.
    interim
        Its index in the meantime, without the arrays of which files are replaced; None if none is.
    files
        Files that have to be sent, by path within the section.
    kept
        Features and graphs that are there and not in the store; they stay.
    replaced
        What is there and differs, one line each.
    """

    name: str
    index: SectionIndex
    there: bytes | None
    interim: bytes | None
    files: Mapping[str, FileEntry]
    kept: tuple[Part, ...]
    replaced: tuple[str, ...]

    @property
    def is_indexed(self) -> bool:
        """Whether the index is there already."""
        return self.there == self.index.data

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

    Features and graphs that are there alone are kept, unless they belong to spots or features that are replaced. An
    index that is damaged there counts as none, and as replaced: all files are sent again.
    """
    name = index.meta.name
    data = there.read_index(name)
    old = None if data is None else _sound(data, f"{there.address}/{name}")
    kept: list[Part] = []
    replaced = [] if data is None else [f"section {name!r}: its index there is damaged"]
    if old is not None:
        kept = list(_kept(index, old))
        replaced = list(_replaced(index, old, kept))
        index = with_nodes(index, old, [node for part in kept for node in part.nodes])
    files = {} if old is None else old.files
    changed = {path: entry for path, entry in index.files.items() if files.get(path) != entry}
    overwritten = files.keys() & changed.keys()
    interim = None if old is None or not overwritten else without_nodes(old, owners(old, overwritten)).data
    return SectionChange(
        name=name,
        index=index,
        there=data,
        interim=interim,
        files=changed,
        kept=tuple(kept),
        replaced=tuple(replaced),
    )


def _sound(data: bytes, where: str) -> SectionIndex | None:
    try:
        index = read_index(data, where)
    except StoreError:
        return None
    return None if node_faults(index) else index


def _kept(index: SectionIndex, old: SectionIndex) -> Iterator[Part]:
    """List the features and graphs of the old index alone that are true of the new one too."""
    if not _has_same_spots(index, old):
        return
    own = parts_in(index)
    for part in parts_in(old):
        if part not in own and not _is_of_others(index, old, part):
            yield part


def _has_same_spots(index: SectionIndex, old: SectionIndex) -> bool:
    both = index.files.keys() & old.files.keys()
    ids = [path for path in both if path.startswith("obs/_index/")]
    one, other = index.meta, old.meta
    return (
        (one.n_spots, one.spots_sha256, _images(one)) == (other.n_spots, other.spots_sha256, _images(other))
    ) and all(index.files[path] == old.files[path] for path in ids)


def _images(meta: SectionMeta) -> list[str]:
    """Give the digests of the files that features are made from."""
    return sorted(source.sha256 for source in meta.sources if source.role in ("slide", "tiles"))


def _is_of_others(index: SectionIndex, old: SectionIndex, part: Part) -> bool:
    """Tell whether a graph, or the quality of tiles, of the old index is of features that the new one replaces."""
    key = part.key.removeprefix(FEATURE_GRAPH)
    if part.kind == "features":
        key = part.key.removesuffix(f"_{QUALITY}") if part.key in quality_names(old) else part.key
    of = Part(kind="features", key=key)
    if key == part.key or of not in parts_in(index):
        return False
    return of not in parts_in(old) or _differs(index, old, of)


def _replaced(index: SectionIndex, old: SectionIndex, kept: Collection[Part]) -> Iterator[str]:
    """Say what of the old index the new one replaces, a line each."""
    name, own, there = index.meta.name, parts_in(index), parts_in(old)
    where = f"section {name!r}"
    for field in dataclasses.fields(SectionMeta):
        one, other = getattr(index.meta, field.name), getattr(old.meta, field.name)
        if field.name != "software" and one != other:
            yield f"{where}: its {field.name} is {other!r} there, {one!r} here"
    nodes = [node for part in {*own, *there} for node in part.nodes]
    tables = old.files.keys() - old.below(*nodes).keys()
    changed = [path for path in tables if index.files.get(path) != old.files[path]]
    if changed:
        names = sorted({"/".join(node.split("/")[:2]) or "its groups" for node in owners(old, changed)})
        yield f"{where}: {', '.join(names)} there are others, or not here"
    for part in there:
        if part in own and _differs(index, old, part):
            yield f"{part} of {where}: there are others"
        elif part not in own and part not in kept:
            yield f"{part} of {where}: only there, and of what is replaced"


def _differs(index: SectionIndex, old: SectionIndex, part: Part) -> bool:
    """Tell whether a part that two indexes have differs in more than the versions of software that made it."""
    one, other = (_content(each, part) for each in (index, old))
    return one != other


def _content(index: SectionIndex, part: Part) -> tuple[Any, Mapping[str, FileEntry]]:
    files = index.below(*part.nodes)
    if part.kind == "graph":
        return None, files
    identity = index.nodes[part.nodes[0]].get("attributes", {}).get(SPAM, {}).get(IDENTITY)
    return identity, {path: entry for path, entry in files.items() if not path.endswith(f"/{INDEX}")}
