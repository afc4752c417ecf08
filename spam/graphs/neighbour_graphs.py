"""Neighbours -> a weighted graph: Gaussian weights whose width follows the section's own spacing."""

from typing import Literal

import numpy as np
from scipy import sparse

from spam.schemas.store_format import GraphMeta
from spam.store import Graph
from spam.typing import Array, Float, Float64, Num

from .neighbour_search import Backend, Neighbours, knn

__all__ = ["feature_knn_graph", "gaussian_width", "spatial_knn_graph"]


def spatial_knn_graph(
    xy: Num[Array, "n_spots 2"], *, k: int, unit: Literal["um", "px"] = "um", backend: Backend = "auto"
) -> Graph:
    """Join each spot with its k nearest spots of the same section.

    The graph is directed, as squidpy's with ``coord_type="generic"``: row i holds the k neighbours of spot i.
    A weight is ``exp(-d² / (2 sigma²))``, see `gaussian_width`; of a spot that lies more than 14 sigma away
    it is 0 in float32, yet stays stored. So does the distance 0 of a spot at the same place. One spot alone
    gives a graph without edges.

    Parameters
    ----------
    xy
        Coordinates in `unit`.
    k
        Neighbours per spot; a section of fewer than ``k + 1`` spots gives ``n_spots - 1``.
    unit
        Unit of the coordinates, kept in the graph's metadata.
    backend
        See `knn`.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a coordinate is not finite.
    """
    found = knn(xy, k=k, metric="euclidean", backend=backend)
    sigma = gaussian_width(found.distances)
    meta = GraphMeta(
        kind="spatial",
        k=k,
        metric="euclidean",
        unit=unit,
        sigma=sigma,
        backend=found.backend,
        recall=found.recall,
    )
    return _weighted(found, meta)


def feature_knn_graph(
    features: Float[Array, "n_spots dim"], *, k: int, features_key: str, backend: Backend = "auto"
) -> Graph:
    """Join each spot with the k spots of the same section whose features point the same way.

    Distances are ``1 - cosine``; weights and borders are those of `spatial_knn_graph`.

    Parameters
    ----------
    features
        Features of the tiles of one section.
    k
        Neighbours per spot.
    features_key
        Name of the features in the store, kept in the graph's metadata.
    backend
        See `knn`; among more than 50 000 spots the search is approximate, and the metadata say how good it
        was.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a feature is not finite, or a spot's features are all zeros.
    """
    found = knn(features, k=k, metric="cosine", backend=backend)
    sigma = gaussian_width(found.distances)
    meta = GraphMeta(
        kind="features",
        k=k,
        metric="cosine",
        unit="cosine",
        sigma=sigma,
        backend=found.backend,
        features_key=features_key,
        recall=found.recall,
    )
    return _weighted(found, meta)


def gaussian_width(distances: Float64[Array, "n_spots k"]) -> float:
    """Take the median, over the spots, of the distance to the nearest neighbour at another place.

    Neighbours at distance 0 are passed over, so duplicated spots cannot make the width 0. Where nobody has a
    neighbour at another place the width is 1: all weights are then 1 whatever it is.
    """
    elsewhere = np.where(distances > 0, distances, np.inf).min(axis=1, initial=np.inf)
    elsewhere = elsewhere[np.isfinite(elsewhere)]
    return float(np.median(elsewhere)) if elsewhere.size else 1.0


def _weighted(found: Neighbours, meta: GraphMeta) -> Graph:
    n_spots, k = found.indices.shape
    order = np.argsort(found.indices, axis=1)  # CSR keeps its columns in order
    columns = np.take_along_axis(found.indices, order, axis=1).ravel()
    distances = np.take_along_axis(found.distances, order, axis=1).ravel()
    weights = np.exp(-((distances / meta.sigma) ** 2) / 2).astype(np.float32)
    row_starts = np.arange(n_spots + 1) * k
    shape = (n_spots, n_spots)
    return Graph(
        connectivities=sparse.csr_matrix((weights, columns, row_starts), shape=shape),
        distances=sparse.csr_matrix((distances, columns, row_starts), shape=shape),
        meta=meta,
    )
