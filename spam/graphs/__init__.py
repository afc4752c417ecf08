"""Neighbour search, and the spatial and feature graphs of a section."""

from .building import GraphReport, StoredGraph, build_graphs
from .faiss_search import faiss_kind
from .neighbour_graphs import feature_knn_graph, spatial_knn_graph
from .neighbour_search import Neighbours, knn
from .stored_graphs import ensure_feature_graph, ensure_spatial_graph

__all__ = [
    "GraphReport",
    "Neighbours",
    "StoredGraph",
    "build_graphs",
    "ensure_feature_graph",
    "ensure_spatial_graph",
    "faiss_kind",
    "feature_knn_graph",
    "knn",
    "spatial_knn_graph",
]
