"""Indexes of a copy that differs from its store: without some nodes, under a licence, with other sections."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from spam.schemas.store_format import STORE_FORMAT, STORE_VERSION
from spam.store.index import SectionIndex, read_index
from spam.store.layout import FILES, FORMAT, META, SECTIONS, SPAM, VERSION
from spam.store.sealing import sealed

__all__ = ["SHARED", "licensed", "owners", "root_of", "with_nodes", "without_nodes"]

SHARED = "shared"
"""Entry of spam's metadata on a shared root: what was overridden to share it."""


def without_nodes(index: SectionIndex, nodes: Collection[str]) -> SectionIndex:
    """Leave nodes, and all below them, out of an index: that of a section to which they were never added."""
    return _changed(index, lambda document: _drop(document, index, nodes))


def with_nodes(index: SectionIndex, other: SectionIndex, nodes: Collection[str]) -> SectionIndex:
    """Take nodes of another index, and all below them, into an index: that of a section to which they were added too."""

    def change(document: dict[str, Any]) -> None:
        there = json.loads(other.data)
        files, added = document["attributes"][SPAM][FILES], there["attributes"][SPAM][FILES]
        files |= {path: added[path] for path in other.below(*nodes)}
        consolidated = there["consolidated_metadata"]["metadata"]
        document["consolidated_metadata"]["metadata"] |= {
            name: node for name, node in consolidated.items() if _is_below(name, nodes)
        }

    return _changed(index, change)


def licensed(index: SectionIndex, licence: str) -> SectionIndex:
    """Put a section under a licence."""

    def change(document: dict[str, Any]) -> None:
        document["attributes"][SPAM][META]["licence"] = licence

    return _changed(index, change)


def owners(index: SectionIndex, paths: Collection[str]) -> set[str]:
    """Name the nodes that files belong to: for each the nearest that is above it."""
    found = set()
    for path in paths:
        node = path.rpartition("/")[0]
        while node not in index.nodes:
            node = node.rpartition("/")[0]
        found.add(node)
    return found


def root_of(sections: Sequence[str], *, overridden: Sequence[dict[str, Any]] = ()) -> bytes:
    """Make the root of a shared store: the names of its sections, and what was overridden to share them."""
    spam: dict[str, Any] = {SECTIONS: sorted(sections)}
    if overridden:
        spam[SHARED] = {"overridden": list(overridden)}
    attributes = {FORMAT: STORE_FORMAT, VERSION: STORE_VERSION, SPAM: spam}
    return sealed({"zarr_format": 3, "node_type": "group", "attributes": attributes})[0]


def _changed(index: SectionIndex, change: Callable[[dict[str, Any]], None]) -> SectionIndex:
    document = json.loads(index.data)
    change(document)
    return read_index(sealed(document)[0], index.meta.name)


def _drop(document: dict[str, Any], index: SectionIndex, nodes: Collection[str]) -> None:
    for path in index.below(*nodes):
        del document["attributes"][SPAM][FILES][path]
    consolidated = document["consolidated_metadata"]["metadata"]
    for name in [name for name in consolidated if _is_below(name, nodes)]:
        del consolidated[name]


def _is_below(name: str, nodes: Collection[str]) -> bool:
    return any(f"{name}/".startswith(f"{node}/") for node in nodes)
