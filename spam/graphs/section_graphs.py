"""The weighted graphs of a section, built from neighbours and kept in the store; never across sections."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import sparse

from spam.progress import SILENT, Progress
from spam.schemas.graph_config import GraphConfig
from spam.schemas.records import Record
from spam.schemas.store_format import GraphMeta
from spam.store import Graph, StoredSection, open_store, readable_spots
from spam.store.layout import feature_graph_key
from spam.typing import Array, Bool, Float, Float64, Num

from .neighbour_search import knn

SPATIAL_KEY = "spatial"


def spatial_knn_graph(xy: Num[Array, "n_spots 2"], *, k: int, unit: Literal["um", "px"] = "um") -> Graph:
    """Connect each spot with its k nearest spots of the same section.

    The graph is directed, as squidpy's with ``coord_type="generic"``: row i holds the k neighbours of spot i
    (``n_spots - 1`` in a smaller section). Weights are ``exp(-d² / (2 sigma²))``, see `gaussian_width`; weights and
    distances of 0 stay stored.

    Parameters
    ----------
    xy
        Coordinates in `unit`.
    k
        Neighbours per spot.
    unit
        Unit of the coordinates, kept in the metadata of the graph.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a coordinate is not finite.
    """
    return _weighted(xy, k, kind="spatial", metric="euclidean", unit=unit)


def feature_knn_graph(features: Float[Array, "n_spots dim"], *, k: int, features_key: str) -> Graph:
    """Connect each spot with the k spots of the same section with the most similar features.

    Distances are ``1 - cosine``; weights as in `spatial_knn_graph`. Among more than 15 000 spots the search is
    approximate, and the metadata hold its recall.

    Parameters
    ----------
    features
        Features of the tiles of one section.
    k
        Neighbours per spot.
    features_key
        Name of the features in the store, kept in the metadata of the graph.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a feature is not finite, or all features of a spot are zero.
    """
    return _weighted(features, k, kind="features", metric="cosine", unit="cosine", features_key=features_key)


def gaussian_width(distances: Float64[Array, "n_spots k"]) -> float:
    """Return the median over spots of the distance to the nearest neighbour at another place.

    Distances of 0 are skipped, so that duplicated spots cannot make the width 0. Without any other distance the width
    is 1: all weights are then 1.
    """
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1, initial=np.inf)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest)) if nearest.size else 1.0


def _weighted(points: Array, k: int, **meta: Any) -> Graph:
    """Connect each point with its neighbours; `meta` holds the other fields of `GraphMeta`, such as the metric."""
    found = knn(points, k=k, metric=meta["metric"])
    sigma = gaussian_width(found.distances)
    n_spots, n_found = found.indices.shape
    order = np.argsort(found.indices, axis=1)  # CSR keeps its columns in order
    columns = np.take_along_axis(found.indices, order, axis=1).ravel()
    distances = np.take_along_axis(found.distances, order, axis=1).ravel()
    weights = np.exp(-((distances / sigma) ** 2) / 2).astype(np.float32)

    row_starts = np.arange(n_spots + 1) * n_found
    connectivities, lengths = (
        sparse.csr_matrix((values, columns, row_starts), shape=(n_spots, n_spots))
        for values in (weights, distances)
    )
    about = GraphMeta(k=k, sigma=sigma, backend=found.backend, recall=found.recall, **meta)
    return Graph(connectivities=connectivities, distances=lengths, meta=about)


def ensure_spatial_graph(
    section: StoredSection,
    *,
    k: int,
    is_among: Bool[Array, " n_spots"] | None = None,
    is_overwrite: bool = False,
) -> Graph:
    """Read the spatial graph of a section, or build it in µm (in pixels if µm are unknown) and write it.

    A stored graph of another k or unit is rebuilt. In a read-only store the graph is built but not written.

    Parameters
    ----------
    section
        Section of a store.
    k
        Neighbours per spot.
    is_among
        Spots to connect (default: all). A graph of some spots, in their order, is built and not written.
    is_overwrite
        Rebuild an existing graph.

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
    stored = None if is_overwrite else section.graph(SPATIAL_KEY)
    if stored and (stored.meta.kind, stored.meta.k, stored.meta.unit) == ("spatial", k, unit):
        return stored
    return _keep(section, SPATIAL_KEY, spatial_knn_graph(xy, k=k, unit=unit))


def ensure_feature_graph(
    section: StoredSection, features_key: str, *, k: int, is_overwrite: bool = False
) -> Graph:
    """Read the graph of some features of a section, or build and write it, as `ensure_spatial_graph` does.

    Spots whose tiles could not be read have no features, and so no neighbours.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If all features of a spot are zero.
    StoreError
        If the features do not exist, or they or the stored graph are damaged.
    """
    key, identity = feature_graph_key(features_key), section.feature_identity(features_key)
    stored = None if is_overwrite else section.graph(key)
    if stored and (stored.meta.k, stored.meta.features_identity) == (k, identity):
        return stored
    is_readable = readable_spots(section, [features_key])
    graph = feature_knn_graph(section.features(features_key)[is_readable], k=k, features_key=features_key)
    # Spots without features get empty rows and columns.
    places, shape = np.flatnonzero(is_readable), (section.n_spots, section.n_spots)
    connectivities, distances = (
        sparse.csr_matrix((edges.data, (places[edges.row], places[edges.col])), shape=shape)
        for edges in (graph.connectivities.tocoo(), graph.distances.tocoo())
    )
    meta = dataclasses.replace(graph.meta, features_identity=identity)
    return _keep(section, key, Graph(connectivities=connectivities, distances=distances, meta=meta))


def _keep(section: StoredSection, key: str, graph: Graph) -> Graph:
    if section.is_writable:
        section.write_graph(key, graph)
    return graph


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport(Record):
    """Result of `build_graphs`: section, key, number of spots and edges, and metadata of each graph."""

    store: Path
    graphs: tuple[dict[str, Any], ...]

    def summary(self) -> str:
        """Write one line per graph."""
        lines = [
            "{section} {key}: {n_spots} spots, {n_edges} edges ".format(**graph)
            + "(k={k}, {backend}, recall {recall:.3f})".format(**graph["meta"])
            for graph in self.graphs
        ]
        return "\n".join([*lines, f"{len(self.graphs)} graphs are in {self.store}"])


def build_graphs(config: GraphConfig, *, progress: Progress = SILENT) -> GraphReport:
    """Build the spatial graph of each section and one graph per feature array, and write them into the store.

    Existing graphs with the same number of neighbours are kept, unless ``config.overwrite`` is set.

    Raises
    ------
    StoreError
        If the store or a section does not exist, or is damaged.
    SectionError
        If a coordinate is not finite, or all features of a spot are zero.
    """
    assert config.store is not None  # checked by the configuration
    store = open_store(config.store, is_read_only=False)
    sections = [store.section(name) for name in config.sections or store.section_names]
    jobs = [(section, key) for section in sections for key in (None, *section.feature_keys)]
    built = []
    with progress.task("building graphs", len(jobs)) as advance:
        for section, features_key in jobs:
            if features_key is None:
                key, k = SPATIAL_KEY, config.k_spatial
                graph = ensure_spatial_graph(section, k=k, is_overwrite=config.overwrite)
            else:
                key, k = feature_graph_key(features_key), config.k_features
                graph = ensure_feature_graph(section, features_key, k=k, is_overwrite=config.overwrite)
            size = {"n_spots": section.n_spots, "n_edges": graph.distances.nnz}
            built.append({"section": section.meta.name, "key": key, **size, "meta": graph.meta.to_mapping()})
            advance(note=section.meta.name)
    return GraphReport(store=config.store, graphs=tuple(built))
