"""Whether two sections of one name are the same, and whether their features and graphs are."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from spam.schemas.store_index import FileEntry
from spam.schemas.store_format import SectionMeta
from spam.store import StoredSection
from spam.store.feature_reader import feature_names
from spam.store.graph_elements import graph_names, graph_nodes
from spam.store.index import SectionIndex, content_digest
from spam.store.layout import INDEX, META, SPAM
from spam.typing import Array

__all__ = ["Part", "is_stale", "part_difference", "parts_in", "parts_of", "section_differences"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What can be added to a section: a feature array or a graph, of some key."""

    kind: Literal["features", "graph"]
    key: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its nodes within the section."""
        return (f"obsm/{self.key}",) if self.kind == "features" else graph_nodes(self.key)

    def __str__(self) -> str:
        return f"{self.kind} {self.key!r}"


def parts_of(section: StoredSection) -> tuple[Part, ...]:
    """List the features and the graphs of a section."""
    return parts_in(section.index)


def parts_in(index: SectionIndex) -> tuple[Part, ...]:
    """List the features and the graphs that an index names."""
    return (
        *(Part(kind="features", key=key) for key in feature_names(index)),
        *(Part(kind="graph", key=key) for key in graph_names(index)),
    )


def is_stale(section: StoredSection, part: Part) -> bool:
    """Tell whether a part is a graph over features that were replaced after it was built."""
    if part.kind == "features":
        return False
    meta = section.index.nodes[part.nodes[0]]["attributes"][SPAM].get(META, {})
    over = meta.get("features_key")
    return over in section.feature_keys and section.feature_identity(over) != meta.get("features_identity")


def section_differences(a: StoredSection, b: StoredSection) -> list[str]:
    """Name each way in which two sections are not the same, features and graphs left out; none if they are.

    Versions of software may differ; where the bytes of a table do, its values are compared. Overview images are not.
    """
    fields = [field.name for field in dataclasses.fields(SectionMeta) if field.name != "software"]
    pairs = ((name, getattr(a.meta, name), getattr(b.meta, name)) for name in fields)
    found = [f"its {name} is {other!r} there, {one!r} here" for name, one, other in pairs if one != other]
    is_equal = content_digest(_table_files(a)) == content_digest(_table_files(b))
    return found if found or is_equal else [*_table_differences(a, b)]


def part_difference(a: StoredSection, b: StoredSection, part: Part) -> str | None:
    """Say how a part that two sections have differs, or None if its bytes are equal."""
    if part.kind == "features":
        identities = [section.feature_identity(part.key) for section in (a, b)]
        if identities[0] != identities[1]:
            return (
                f"they were made otherwise (identity {identities[1][:12]}… there, {identities[0][:12]}… here)"
            )
        # Its metadata are among the files as well, with versions of software, which may differ.
        is_equal = content_digest(_chunk_files(a, part)) == content_digest(_chunk_files(b, part))
        return None if is_equal else "they were made alike, and yet their bytes differ"
    is_equal = a.content_digest(*part.nodes) == b.content_digest(*part.nodes)
    return None if is_equal else "it has other bytes"


def _table_files(section: StoredSection) -> dict[str, FileEntry]:
    parts = section.index.below(*(node for part in parts_of(section) for node in part.nodes))
    return {path: entry for path, entry in section.index.files.items() if path not in parts}


def _chunk_files(section: StoredSection, part: Part) -> dict[str, FileEntry]:
    files = section.index.below(*part.nodes)
    return {path: entry for path, entry in files.items() if not path.endswith(f"/{INDEX}")}


def _table_differences(a: StoredSection, b: StoredSection) -> Iterator[str]:
    """Compare the values of two sections whose metadata are equal, so that both have counts, coordinates, or neither."""
    for name in ("ids", "genes", *(["xy_px", "xy_um"] if a.meta.has_coordinates else [])):
        if not _is_equal(getattr(a, name), getattr(b, name)):
            yield f"its {name} are others"
    if a.meta.has_counts and (a.counts() != b.counts()).nnz:
        yield "its counts are others"
    columns = dict.fromkeys([*a.obs, *b.obs])
    different = [name for name in columns if not _is_equal(a.obs.get(name), b.obs.get(name))]
    if different:
        yield f"its obs columns {different} are others"


def _is_equal(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    is_float = a.dtype.kind == b.dtype.kind == "f"
    return np.array_equal(a, b, equal_nan=is_float)
