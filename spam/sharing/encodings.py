"""What the nodes of a section may be: AnnData's elements, each in its place and with its encoding."""

from collections.abc import Iterator, Mapping
from typing import Any

from spam.store.graph_elements import graph_names, graph_nodes
from spam.store.index import SectionIndex
from spam.store.layout import RESERVED_COLUMNS, SPATIAL, SPATIAL_UM, name_fault
from spam.store.node_rules import FEATURES, STRINGS, TABLE, array_rule

__all__ = ["encoding_faults"]

_ENCODINGS: Mapping[str, Mapping[str, str]] = {
    "group": {"dict": "0.1.0", "dataframe": "0.2.0", "csr_matrix": "0.1.0", "csc_matrix": "0.1.0"},
    FEATURES: {"array": "0.2.0"},
    STRINGS: {"string-array": "0.2.0", "string": "0.2.0"},
    TABLE: {"array": "0.2.0", "numeric-scalar": "0.2.0"},
}
"""Encodings and their versions, by kind of node (https://anndata.readthedocs.io/en/stable/fileformat-prose.html)."""
_SCALARS = ("string", "numeric-scalar")
_PLACES = {
    "obs": "dataframe",
    "var": "dataframe",
    "obsm": "dict",
    "obsp": "dict",
    "uns": "dict",
    "X": "csc_matrix",
}
_OPTIONAL = ("X",)
_SPARSE_PARTS = ["data", "indices", "indptr"]


def encoding_faults(index: SectionIndex) -> Iterator[tuple[str, str]]:
    """Yield path and fault of every node that has another encoding than its place asks for, or no place.

    Parameters
    ----------
    index
        Index of a section, of whose arrays `node_faults` has found nothing to say.
    """
    for name in _PLACES:
        if name not in index.nodes and name not in _OPTIONAL:
            yield name, "it is missing; every section has it"
    for name, node in sorted(index.nodes.items()):
        attributes = node.get("attributes")
        if not isinstance(attributes, dict):
            yield name, "it has no attributes, so AnnData does not know what it is"
            continue
        if "/" in name and name.rpartition("/")[0] not in index.nodes:
            yield name, "the group that holds it is missing"
        yield from ((name, fault) for fault in _encoding(name, node, attributes))
        yield from ((name, fault) for fault in _parts(index, name, attributes))
    yield from _places(index)


def _encoding(name: str, node: dict[str, Any], attributes: dict[str, Any]) -> Iterator[str]:
    known = _ENCODINGS["group" if node["node_type"] == "group" else array_rule(node) or TABLE]
    found, version = attributes.get("encoding-type"), attributes.get("encoding-version")
    if not isinstance(found, str) or known.get(found) != version:
        expected = " or ".join(f"{kind!r} {number}" for kind, number in known.items())
        yield f"its encoding is {_short(found)} {_short(version)}, expected {expected}"
    elif "/" not in name and found != _PLACES.get(name):
        yield f"its encoding is {found!r}, expected {_PLACES.get(name, 'no such element in a section')!r}"
    elif node["node_type"] == "array" and (found in _SCALARS) != (node["shape"] == []):
        yield f"its encoding is {found!r}, its shape {node['shape']}"


def _parts(index: SectionIndex, name: str, attributes: dict[str, Any]) -> Iterator[str]:
    """Compare what a data frame or sparse matrix says that it has with the nodes below it."""
    children = index.children(name)
    match attributes.get("encoding-type"):
        case "dataframe":
            order, own = attributes.get("column-order"), attributes.get("_index")
            if (
                own != "_index"
                or not isinstance(order, list)
                or sorted(map(str, order)) != [child for child in children if child != "_index"]
            ):
                yield f"its columns are {children}, it names {_short(order)} and the index {_short(own)}"
            else:
                faults = (name_fault(column, "column", reserved=RESERVED_COLUMNS) for column in order)
                yield from (fault for fault in faults if fault)
        case "csr_matrix" | "csc_matrix" if children != _SPARSE_PARTS:
            yield f"it holds {children}, expected {_SPARSE_PARTS}"


def _places(index: SectionIndex) -> Iterator[tuple[str, str]]:
    """Say which matrices and features are where no reader looks for them."""
    for key in index.children("obsm"):
        name = f"obsm/{key}"
        is_features = index.nodes[name]["node_type"] == "array" and array_rule(index.nodes[name]) == FEATURES
        if key not in (SPATIAL, SPATIAL_UM) and not is_features:
            yield name, "it is neither coordinates nor features (sharded, by whole rows, with checksums)"
        elif key in (SPATIAL, SPATIAL_UM) and is_features:
            yield name, "it has a name of coordinates and is stored as features are"
    of_graphs = {node for graph in graph_names(index) for node in graph_nodes(graph)}
    for key in index.children("obsp"):
        if f"obsp/{key}" not in of_graphs:
            yield f"obsp/{key}", "it belongs to no graph: nothing in 'uns' describes it"
    yield from (
        (node, "it is missing; the graph needs it") for node in sorted(of_graphs - index.nodes.keys())
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
