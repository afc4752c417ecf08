"""Neighbour graphs of a section: two matrices in ``obsp``, a description in ``uns``, under squidpy's keys."""

from pathlib import Path
from typing import Any

import zarr

from spam.schemas.store_meta import GraphMeta

from .elements import group_at, read_csr, write_csr, write_mapping, write_scalar
from .layout import META, SPAM, connectivities_key, distances_key, neighbors_key
from .metadata import damaged, read_meta
from .records import Graph
from .staging import discard, is_there, move_into_place, remove, staging_group

__all__ = ["read_graph", "write_graph"]


def write_graph(store: Path, section: str, key: str, graph: Graph) -> None:
    """Write a graph, in place of an older one of its key.

    The description in ``uns`` makes a graph one: it goes first and comes last, so that a writer killed in
    between leaves matrices that nobody takes for a graph.
    """
    described = f"{section}/uns/{neighbors_key(key)}"
    matrices = {
        f"{section}/obsp/{connectivities_key(key)}": graph.connectivities,
        f"{section}/obsp/{distances_key(key)}": graph.distances,
    }
    for name in (described, *matrices):
        discard(store, name)
    remove(store, described)
    for name, matrix in matrices.items():
        write_csr(staging_group(store, name), name.rsplit("/", 1)[1], matrix)
        move_into_place(store, name)
    meta = graph.meta
    attributes = {SPAM: {META: meta.to_mapping()}}
    neighbors = write_mapping(staging_group(store, described), neighbors_key(key), attributes=attributes)
    write_scalar(neighbors, "connectivities_key", connectivities_key(key))
    write_scalar(neighbors, "distances_key", distances_key(key))
    params = write_mapping(neighbors, "params")
    write_scalar(params, "n_neighbors", meta.k)
    write_scalar(params, "metric", meta.metric)
    write_scalar(params, "unit", meta.unit)
    write_scalar(params, "sigma", meta.sigma)
    move_into_place(store, described)


def read_graph(root: zarr.Group, store: Path, section: str, key: str, *, n_spots: int) -> Graph | None:
    """Read a graph; None if it was not built.

    Raises
    ------
    StoreError
        If a part of it is missing or damaged, or it is over another number of spots.
    """
    described = f"{section}/uns/{neighbors_key(key)}"
    if not is_there(store, described):
        return None
    neighbors = group_at(root, described)
    meta = read_meta(neighbors, _graph_meta)
    graph = Graph(
        connectivities=read_csr(root, f"{section}/obsp/{connectivities_key(key)}"),
        distances=read_csr(root, f"{section}/obsp/{distances_key(key)}"),
        meta=meta,
    )
    if graph.connectivities.shape[0] != n_spots:
        raise damaged(neighbors, f"a graph of {graph.connectivities.shape[0]} nodes over {n_spots} spots")
    return graph


def _graph_meta(values: dict[str, Any]) -> GraphMeta:
    return GraphMeta(**values)
