"""Neighbour search, and the spatial and feature graphs of a section."""

from .neighbour_search import Neighbours, faiss_kind, knn
from .section_graphs import (
    build_graphs,
    ensure_feature_graph,
    ensure_spatial_graph,
    feature_knn_graph,
    spatial_knn_graph,
)

__all__ = [
    "Neighbours",
    "build_graphs",
    "ensure_feature_graph",
    "ensure_spatial_graph",
    "faiss_kind",
    "feature_knn_graph",
    "knn",
    "spatial_knn_graph",
]
