"""Neighbour graphs of a section: two matrices in ``obsp``, a description in ``uns``, under squidpy's keys."""

from pathlib import Path
from typing import Any

import zarr

from spam.errors import StoreError
from spam.schemas.store_meta import GraphMeta

from .elements import group_at, read_sparse, write_mapping, write_scalar, write_sparse
from .index import SectionIndex, change_index
from .layout import META, SPAM, connectivities_key, distances_key, neighbors_key
from .metadata import damaged, read_meta
from .records import Graph
from .staging import discard, move_into_place, staged

__all__ = ["graph_names", "graph_nodes", "read_graph", "write_graph"]

_NEIGHBORS = neighbors_key("")


def graph_nodes(key: str) -> tuple[str, ...]:
    """Name the nodes of a graph within its section; the first makes it one."""
    return (f"uns/{neighbors_key(key)}", f"obsp/{connectivities_key(key)}", f"obsp/{distances_key(key)}")


def graph_names(index: SectionIndex) -> tuple[str, ...]:
    """List the graphs of a section, sorted."""
    names = (name for name in index.children("uns") if name.endswith(_NEIGHBORS))
    return tuple(
        name.removesuffix(_NEIGHBORS)
        for name in names
        if SPAM in index.nodes[f"uns/{name}"].get("attributes", {})
    )


def write_graph(store: Path, section: str, key: str, graph: Graph) -> None:
    """Write a graph, in place of an older one of its key; the caller holds the section's lock."""
    nodes = graph_nodes(key)
    described, *_ = nodes
    for name in nodes:
        discard(store, f"{section}/{name}")
    for name, matrix in zip(nodes[1:], (graph.connectivities, graph.distances), strict=True):
        path = staged(store, f"{section}/{name}")
        write_sparse(path.parent, path.name, matrix)
    meta, path = graph.meta, staged(store, f"{section}/{described}")
    neighbors = write_mapping(path.parent, path.name, attributes={SPAM: {META: meta.to_mapping()}})
    write_scalar(neighbors, "connectivities_key", connectivities_key(key))
    write_scalar(neighbors, "distances_key", distances_key(key))
    params = write_mapping(neighbors, "params")
    write_scalar(params, "n_neighbors", meta.k)
    write_scalar(params, "metric", meta.metric)
    write_scalar(params, "unit", meta.unit)
    write_scalar(params, "sigma", meta.sigma)
    change_index(store / section, drop=nodes)
    for name in nodes:
        move_into_place(store, f"{section}/{name}", staged(store, f"{section}/{name}"))
    change_index(store / section, add=nodes)


def read_graph(section: zarr.Group, key: str, *, n_spots: int) -> Graph | None:
    """Read a graph; None if it was not built.

    Raises
    ------
    StoreError
        If a part of it is missing or damaged, or it is over another number of spots.
    """
    described, connectivities, distances = graph_nodes(key)
    if described not in section:
        return None
    neighbors = group_at(section, described)
    meta = read_meta(neighbors, _graph_meta)
    shape = (n_spots, n_spots)
    weights, lengths = (
        read_sparse(section, name, form="csr", shape=shape) for name in (connectivities, distances)
    )
    try:
        return Graph(connectivities=weights, distances=lengths, meta=meta)
    except StoreError as error:
        raise damaged(neighbors, f"its matrices make no graph ({error})") from error


def _graph_meta(values: dict[str, Any]) -> GraphMeta:
    return GraphMeta(**values)
