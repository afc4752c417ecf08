"""The graphs of a stored section: read where they are there, built and written where not."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import sparse

from spam.schemas.store_format import GraphMeta
from spam.store import CsrMatrix, Graph, StoredSection, readable_spots
from spam.store.layout import feature_graph_key
from spam.typing import Array, Bool

from .neighbour_graphs import feature_knn_graph, spatial_knn_graph

__all__ = ["SPATIAL_KEY", "ensure_feature_graph", "ensure_spatial_graph", "feature_graph_key"]

SPATIAL_KEY = "spatial"


def ensure_spatial_graph(
    section: StoredSection,
    *,
    k: int,
    is_among: Bool[Array, " n_spots"] | None = None,
    is_overwrite: bool = False,
) -> Graph:
    """Read the spatial graph of a section, or build it in µm (in pixels where µm are unknown) and write it.

    A stored graph of another k or unit is built again. In a store that is open for reading only the graph is
    built and not written.

    Parameters
    ----------
    section
        Section of a store.
    k
        Neighbours per spot.
    is_among
        Spots to join, in place of all: a graph over these alone, in their order. It is built, and not written.
    is_overwrite
        Build it even where a fitting one is stored.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a coordinate is not finite.
    StoreError
        If the stored graph or the coordinates are damaged.
    """
    xy_um = section.xy_um
    unit: Literal["um", "px"] = "px" if xy_um is None else "um"
    xy = section.xy_px if xy_um is None else xy_um
    if is_among is not None and not is_among.all():
        return spatial_knn_graph(xy[is_among], k=k, unit=unit)

    def is_fitting(meta: GraphMeta) -> bool:
        return (meta.kind, meta.k, meta.unit) == ("spatial", k, unit)

    stored = None if is_overwrite else _stored(section, SPATIAL_KEY, is_fitting)
    return stored or _keep(section, SPATIAL_KEY, spatial_knn_graph(xy, k=k, unit=unit))


def ensure_feature_graph(
    section: StoredSection, features_key: str, *, k: int, is_overwrite: bool = False
) -> Graph:
    """Read the graph of some features of a section, or build it and write it.

    A stored graph, and a store that is open for reading only, are treated as by `ensure_spatial_graph`. Spots whose
    tiles could not be read have no features, and so no neighbours: they stay alone.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a spot's features are all zeros.
    StoreError
        If there are no such features, or they or the stored graph are damaged.
    """
    key, identity = feature_graph_key(features_key), section.feature_identity(features_key)

    def is_fitting(meta: GraphMeta) -> bool:
        of_features = (meta.features_key, meta.features_identity)
        return (meta.kind, meta.k, *of_features) == ("features", k, features_key, identity)

    stored = None if is_overwrite else _stored(section, key, is_fitting)
    if stored is not None:
        return stored
    is_readable = readable_spots(section, [features_key])
    features = section.features(features_key)[is_readable]
    graph = _spread(feature_knn_graph(features, k=k, features_key=features_key), is_readable)
    meta = dataclasses.replace(graph.meta, features_identity=identity)
    return _keep(section, key, dataclasses.replace(graph, meta=meta))


def _spread(graph: Graph, is_node: Bool[Array, " n_spots"]) -> Graph:
    """Lay a graph over some spots out over all of them; the others have no neighbours."""
    if is_node.all():
        return graph
    places = np.flatnonzero(is_node)

    def spread(matrix: CsrMatrix) -> CsrMatrix:
        edges_before = np.zeros(len(is_node) + 1, dtype=np.int64)
        edges_before[1:] = np.cumsum(np.bincount(places, np.diff(matrix.indptr), minlength=len(is_node)))
        shape = (len(is_node), len(is_node))
        return sparse.csr_matrix((matrix.data, places[matrix.indices], edges_before), shape=shape)

    return dataclasses.replace(
        graph, connectivities=spread(graph.connectivities), distances=spread(graph.distances)
    )


def _stored(section: StoredSection, key: str, is_fitting: Callable[[GraphMeta], bool]) -> Graph | None:
    graph = section.graph(key)
    return graph if graph is not None and is_fitting(graph.meta) else None


def _keep(section: StoredSection, key: str, graph: Graph) -> Graph:
    if section.is_writable:
        section.write_graph(key, graph)
    return graph
