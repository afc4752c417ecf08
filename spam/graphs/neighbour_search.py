"""Nearest neighbours, exact and in one order: by distance, then by index."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError
from spam.typing import Array, Float64, Int64, Num

from .faiss_search import FlatSearch, IvfSearch

__all__ = ["Backend", "Metric", "Neighbours", "knn"]

Backend = Literal["auto", "scipy", "faiss"]
Metric = Literal["euclidean", "cosine"]

KD_TREE_MAX_DIM = 3  # above that a k-d tree looks at nearly every point
FLAT_MAX_POINTS = 50_000  # above that exact search in many dimensions takes minutes on a CPU
RECALL_SAMPLE = 2_000  # queries that the recall of an approximate search is measured on
MARGIN = 8  # candidates beyond k: the next ring of a square or hexagonal grid fits in
KD_TREE_ROUNDING = 1e-12  # relative; a k-d tree sums its squares in another order than we do
MAX_GATHERED = 2**24  # float64 values gathered at once when candidates are ranked: 128 MiB

Search = Callable[[Array, int], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nearest neighbours of each query, nearest first; equally near ones by index.

    Attributes
    ----------
    indices
        Rows of the points.
    distances
        Distances to them, float64: Euclidean in the unit of the points, or ``1 - cosine``.
    backend
        Search that found them: ``scipy``, ``faiss-cpu`` or ``faiss-gpu``.
    recall
        Share of true neighbours found on a sample; 1.0 for exact search.
    """

    indices: Int64[Array, "n_queries k"]
    distances: Float64[Array, "n_queries k"]
    backend: str
    recall: float = 1.0


def knn(
    points: Num[Array, "n_points dim"],
    queries: Num[Array, "n_queries dim"] | None = None,
    *,
    k: int,
    metric: Metric = "euclidean",
    backend: Backend = "auto",
) -> Neighbours:
    """Find the k nearest points of each query, ordered by (distance, index).

    Exact, with one exception: FAISS among more than 50 000 points of more than three dimensions on a CPU is
    approximate, and `Neighbours.recall` says how good it was.

    Parameters
    ----------
    points
        Points to search among.
    queries
        Points whose neighbours are wanted; None for the points themselves, of which each leaves out itself
        (by index, so a point at the same place is a neighbour).
    k
        Neighbours per query; where there are fewer points, all of them are returned: ``n_points`` columns, or
        ``n_points - 1`` for the points themselves.
    metric
        ``euclidean``, or ``cosine`` for ``1 - cosine``.
    backend
        ``scipy`` (k-d tree), ``faiss``, or ``auto``: the k-d tree up to three dimensions, where it is 10 to
        60 times faster than FAISS on a CPU, else FAISS.

    Raises
    ------
    ConfigError
        If k is less than 1.
    SectionError
        If a point is not finite, or has no direction (all zeros) under ``cosine``.
    """
    if k < 1:
        message = f"k must be at least 1, not {k!r}: a graph needs neighbours; give --k"
        raise ConfigError(message)
    is_self = queries is None
    base = _prepared(points, metric, "points")
    asked = base if queries is None else _prepared(queries, metric, "queries")
    k = min(k, len(base) - is_self)
    if backend == "auto":
        backend = "scipy" if base.shape[1] <= KD_TREE_MAX_DIM else "faiss"
    if k < 1 or len(asked) == 0:
        empty = np.zeros((len(asked), max(k, 0)))
        used = "scipy" if backend == "scipy" else "faiss-cpu"
        return Neighbours(indices=empty.astype(np.int64), distances=empty, backend=used)

    recall = 1.0
    if backend == "scipy":
        used, search = "scipy", _kd_tree_search(base)
    else:
        used, search, recall = _faiss_search(base, k)
    indices, distances = _ranked(search, base, asked, k=k, is_self=is_self)
    if metric == "cosine":  # for unit vectors 1 - cos = |a - b|² / 2, without the cancellation
        distances = distances**2 / 2
    return Neighbours(indices=indices, distances=distances, backend=used, recall=recall)


def _prepared(points: Array, metric: Metric, role: str) -> Array:
    """Check the points; return them as float64, of unit length under ``cosine``."""
    ready = np.ascontiguousarray(points, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(ready).all(axis=1))
    if bad.size:
        message = (
            f"{bad.size} of {len(ready)} {role} hold NaN or infinite values, first in row {bad[0]}: "
            f"{ready[bad[0]][:4]!r}; neighbours need finite values: embed the section again, "
            "or leave these rows out"
        )
        raise SectionError(message)
    if metric == "euclidean":
        return ready
    norms = np.linalg.norm(ready, axis=1, keepdims=True)
    zero = np.flatnonzero(norms == 0)
    if zero.size:
        message = (
            f"{zero.size} of {len(ready)} {role} are all zeros, first in row {zero[0]}, and have no cosine; "
            "expected features of a working encoder: embed the section again, or use the euclidean metric"
        )
        raise SectionError(message)
    unit: Array = ready / norms
    return unit


def _kd_tree_search(base: Array) -> Search:
    tree = cKDTree(base)

    def search(queries: Array, width: int) -> tuple[Array, Array]:
        distances, indices = tree.query(queries, k=np.arange(1, width + 1), workers=-1)
        return indices.astype(np.int64), distances[:, -1] * (1 - KD_TREE_ROUNDING)

    return search


def _faiss_search(base: Array, k: int) -> tuple[str, Search, float]:
    centre = base.mean(axis=0)  # keeps float32 precise, so that few rows are asked for again
    shifted = (base - centre).astype(np.float32)
    index: FlatSearch | IvfSearch = FlatSearch(shifted)
    recall = 1.0
    if index.backend == "faiss-cpu" and len(base) > FLAT_MAX_POINTS and base.shape[1] > KD_TREE_MAX_DIM:
        sample = np.random.default_rng(0).choice(len(base), RECALL_SAMPLE, replace=False)
        index = IvfSearch(shifted, sample=np.sort(sample), k=k)
        recall = index.recall

    def search(queries: Array, width: int) -> tuple[Array, Array]:
        return index.search((queries - centre).astype(np.float32), width)

    return index.backend, search, recall


def _ranked(search: Search, base: Array, asked: Array, *, k: int, is_self: bool) -> tuple[Array, Array]:
    """Rank candidates by (distance, index), asking for more of them where the k-th is not yet beyond doubt.

    The k-th neighbour is beyond doubt once it is nearer than anything that the search left out. Ties across
    that border are the rule on the square grids of Visium HD and legacy arrays.
    """
    indices = np.empty((len(asked), k), dtype=np.int64)
    distances = np.empty((len(asked), k))
    pending = np.arange(len(asked))
    width = min(k + is_self + MARGIN, len(base))
    while pending.size:
        n_rows = max(1, MAX_GATHERED // (width * base.shape[1]))
        doubtful = []
        for start in range(0, len(pending), n_rows):
            rows = pending[start : start + n_rows]
            candidates, bound = search(asked[rows], width)
            candidates = np.sort(candidates, axis=1)  # the stable sort below then breaks ties by index
            gaps = np.linalg.norm(base[candidates] - asked[rows, None], axis=2)
            if is_self:
                gaps[candidates == rows[:, None]] = np.inf
            order = np.argsort(gaps, axis=1, kind="stable")[:, :k]
            indices[rows] = np.take_along_axis(candidates, order, axis=1)
            distances[rows] = np.take_along_axis(gaps, order, axis=1)
            if width < len(base):
                doubtful.append(rows[~(distances[rows, -1] < bound)])
        pending = np.concatenate(doubtful) if doubtful else np.empty(0, dtype=np.int64)
        width = min(2 * width, len(base))
    return indices, distances
