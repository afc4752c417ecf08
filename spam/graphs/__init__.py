"""Neighbour search, and the spatial and feature graphs of a section."""

from .faiss_search import faiss_kind
from .knn import Neighbours, knn
from .neighbour_graphs import feature_knn_graph, spatial_knn_graph

__all__ = ["Neighbours", "faiss_kind", "feature_knn_graph", "knn", "spatial_knn_graph"]
