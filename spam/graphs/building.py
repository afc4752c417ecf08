"""The library twin of `spam graph`: all graphs of a store's sections."""

import dataclasses
from pathlib import Path
from typing import Any

from spam.progress import SILENT, Progress
from spam.schemas.graph_config import GraphConfig
from spam.schemas.store_format import GraphMeta
from spam.store import Graph, StoredSection, open_store

from .stored_graphs import SPATIAL_KEY, ensure_feature_graph, ensure_spatial_graph, feature_graph_key

__all__ = ["GraphReport", "StoredGraph", "build_graphs"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredGraph:
    """One graph that is in the store now.

    Attributes
    ----------
    section
        Section that it is over.
    key
        Its name within the section.
    n_spots, n_edges
        Its size; an edge leads from a spot to one of its neighbours.
    meta
        How it was made.
    """

    section: str
    key: str
    n_spots: int
    n_edges: int
    meta: GraphMeta


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """What `build_graphs` did.

    Attributes
    ----------
    store
        Store that holds the graphs.
    graphs
        Its graphs, by section: the spatial one, then those of the features.
    """

    store: Path
    graphs: tuple[StoredGraph, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"store": str(self.store), "graphs": [dataclasses.asdict(graph) for graph in self.graphs]}

    def summary(self) -> str:
        """Write one line per graph."""
        lines = [
            f"{graph.section} {graph.key}: {graph.n_spots} spots, {graph.n_edges} edges "
            f"(k={graph.meta.k}, {graph.meta.backend}, recall {graph.meta.recall:.3f})"
            for graph in self.graphs
        ]
        return "\n".join([*lines, f"{len(self.graphs)} graphs are in {self.store}"])


def build_graphs(config: GraphConfig, *, progress: Progress = SILENT) -> GraphReport:
    """Build the spatial graph of each section and one graph for each of its feature arrays, and write them.

    Graphs never join two sections. What is there already with the same number of neighbours stays, unless the
    configuration says to overwrite.

    Parameters
    ----------
    config
        Which store and sections, how many neighbours.
    progress
        Who watches.

    Raises
    ------
    StoreError
        If the store or a section is not there, or is damaged.
    SectionError
        If a coordinate is not finite, or a spot's features are all zeros.
    """
    assert config.store is not None  # held by __post_init__
    store = open_store(config.store, is_read_only=False)
    sections = [store.section(name) for name in config.sections or store.section_names]
    built: list[StoredGraph] = []
    total = sum(1 + len(section.feature_keys) for section in sections)
    with progress.task("building graphs", total) as advance:
        for section in sections:
            name = section.meta.name
            spatial = ensure_spatial_graph(section, k=config.k_spatial, is_overwrite=config.overwrite)
            built.append(_described(section, SPATIAL_KEY, spatial))
            advance(note=name)
            for key in section.feature_keys:
                graph = ensure_feature_graph(section, key, k=config.k_features, is_overwrite=config.overwrite)
                built.append(_described(section, feature_graph_key(key), graph))
                advance(note=name)
    return GraphReport(store=config.store, graphs=tuple(built))


def _described(section: StoredSection, key: str, graph: Graph) -> StoredGraph:
    return StoredGraph(
        section=section.meta.name,
        key=key,
        n_spots=section.n_spots,
        n_edges=graph.distances.nnz,
        meta=graph.meta,
    )
