"""Nearest neighbours by k-d tree or FAISS, ranked by distance, then by index. The only file that imports faiss.

FAISS works in float32, so its results are candidates: they are ranked again in float64, and more of them are requested
until the k-th neighbour is certain.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, Literal

import faiss
import numpy as np
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError
from spam.typing import Array, Float32, Float64, Int64, Num

logger = logging.getLogger(__name__)

Backend = Literal["auto", "scipy", "faiss"]
Metric = Literal["euclidean", "cosine"]

KD_TREE_MAX_DIM = 3  # above that a k-d tree visits nearly every point
# Above that, search in cells is faster on a CPU. A Visium slide has at most 14 336 spots.
FLAT_MAX_POINTS = 15_000
CELL_COMPONENTS = 64  # principal components in which cells are searched
CELL_SAMPLE = 32  # points for each cell that cells and components are fitted on
WIDER = 4  # candidates by components for each one by all dimensions
MIN_RECALL = 0.99  # of the approximate search
RECALL_SAMPLE = 2_000  # queries on which its recall is measured
MARGIN = 8  # candidates beyond k: the next ring of a square or hexagonal grid fits in
GPU_MAX_K = 2048  # most neighbours that FAISS returns on a GPU
KD_TREE_ROUNDING = 1e-12  # relative; a k-d tree adds its squares in another order
GAMMA_EXTRA = 8  # roundings besides the dot product: both inputs, the norms, their sum
MAX_GATHERED = 2**24  # float64 values gathered at once for ranking: 128 MiB

# (queries, number of candidates) -> candidates of each query, and a distance below which no other point can lie
Search = Callable[[Array, int], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nearest neighbours of each query, nearest first; ties are ordered by index.

    Attributes
    ----------
    indices
        Rows of the points.
    distances
        Euclidean distances in the unit of the points, or ``1 - cosine``.
    backend
        Search method: ``scipy``, ``faiss-cpu`` or ``faiss-gpu``.
    recall
        Share of true neighbours found on a sample; 1.0 for exact search. In an approximate search, all points at the same
        distance count as true neighbours, and any of them may be returned.
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

    The search is exact, except by FAISS on a CPU among more than 15 000 points of more than three dimensions; then
    `Neighbours.recall` gives its measured accuracy.

    Parameters
    ----------
    points
        Points to search among.
    queries
        Points whose neighbours are wanted; None for the points themselves, each without itself
        (by index: another point at the same place is a neighbour).
    k
        Neighbours per query; all points (all others) if there are fewer.
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
        If a point is not finite, or is all zeros under ``cosine``.
    """
    if k < 1:
        message = f"--k must be at least 1, not {k}"
        raise ConfigError(message)
    is_self = queries is None
    base = _prepared(points, metric)
    asked = base if queries is None else _prepared(queries, metric)
    k = min(k, len(base) - is_self)
    if backend == "auto":
        backend = "scipy" if base.shape[1] <= KD_TREE_MAX_DIM else "faiss"
    if k < 1 or len(asked) == 0:
        empty, used = np.zeros((len(asked), max(k, 0))), "scipy" if backend == "scipy" else "faiss-cpu"
        return Neighbours(indices=empty.astype(np.int64), distances=empty, backend=used)
    order = np.arange(len(asked))
    if backend == "scipy":
        tree, used, recall = cKDTree(base), "scipy", 1.0
        search = _kd_tree_search(tree)
        if is_self:  # leaf by leaf, so that neighbours stay in the processor's cache
            order = tree.indices
    else:
        used, search, recall, by_cell = _faiss_search(base, k)
        order = by_cell if is_self else order
    indices, distances = _ranked(search, base, asked, order, k=k, is_self=is_self)
    if metric == "cosine":  # for unit vectors 1 - cos = |a - b|² / 2, without cancellation
        distances = distances**2 / 2
    return Neighbours(indices=indices, distances=distances, backend=used, recall=recall)


def _prepared(points: Array, metric: Metric) -> Array:
    """Check the points; return them as float64, scaled to unit length under ``cosine``."""
    ready = np.array(points, dtype=np.float64, order="C")  # a copy, which is scaled in place
    norms = np.sqrt(np.einsum("ij,ij->i", ready, ready))[:, None]
    is_bad = ~np.isfinite(norms[:, 0])
    fault = "are not finite"
    if metric == "cosine" and not is_bad.any():
        is_bad, fault = norms[:, 0] == 0, "are all zeros, so their cosine is undefined"
    if is_bad.any():
        message = f"{is_bad.sum()} of {len(ready)} points {fault}, the first in row {is_bad.argmax()}"
        raise SectionError(message)
    if metric == "cosine":
        ready /= norms
    return ready


def _kd_tree_search(tree: cKDTree) -> Search:
    def search(queries: Array, width: int) -> tuple[Array, Array]:
        distances, indices = tree.query(queries, k=np.arange(1, width + 1), workers=-1)
        return indices.astype(np.int64), distances[:, -1] * (1 - KD_TREE_ROUNDING)

    return search


def _faiss_search(base: Array, k: int) -> tuple[str, Search, float, Array]:
    """Build an index of the points; centred, since float32 loses small differences of large numbers.

    The last result is the order in which the points are searched for fastest.
    """
    centre = base.mean(axis=0)
    shifted = np.subtract(base, centre, out=np.empty(base.shape, np.float32), casting="same_kind")
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(shifted)
    backend, search = _flat_search(index, shifted)
    recall, order = 1.0, np.arange(len(base))
    if backend == "faiss-cpu" and len(base) > FLAT_MAX_POINTS and base.shape[1] > KD_TREE_MAX_DIM:
        search, recall, order = _cell_search(index, shifted, search, k)

    def centred(queries: Array, width: int) -> tuple[Array, Array]:
        return search((queries - centre).astype(np.float32), width)

    return backend, centred, recall, order


def _flat_search(on_cpu: Any, points: Float32[Array, "n_points dim"]) -> tuple[str, Search]:
    """Search all points in float32, on the GPU if it works.

    The bound subtracts what float32 can lose: at most ``(dim + 8) u (|q| + R)²`` of a squared distance, with unit
    roundoff ``u = 2^-24`` and ``R`` the largest norm of a point (Higham 2002, §3.1).
    """
    resources = gpu_resources()
    on_gpu = None if resources is None else faiss.index_cpu_to_gpu(resources, 0, on_cpu)
    radius = float(np.sqrt(np.einsum("ij,ij->i", points, points, dtype=np.float64).max(initial=0.0)))

    def search(queries: Array, width: int) -> tuple[Array, Array]:
        index = on_cpu if on_gpu is None or width > GPU_MAX_K else on_gpu
        squared, found = index.search(queries, width)
        scale = np.linalg.norm(queries.astype(np.float64), axis=1) + radius
        lost = (queries.shape[1] + GAMMA_EXTRA) * 2.0**-24 * scale**2
        return found, np.sqrt(np.maximum(squared[:, -1].astype(np.float64) - lost, 0.0))

    return "faiss-cpu" if on_gpu is None else "faiss-gpu", search


def _cell_search(
    flat_index: Any, points: Float32[Array, "n_points dim"], flat: Search, k: int
) -> tuple[Search, float, Array]:
    """Search the nearest Voronoi cells of a query in few components; candidates are ranked by all dimensions.

    The number of cells is doubled until the recall is high enough on a sample of the points. If no number suffices, all points
    are searched. The bound is infinite: points in other cells stay unseen. Points are searched for cell by cell, so that
    their candidates stay in the processor's cache.
    """
    n_points, dim = points.shape
    n_cells = max(1, int(4 * n_points**0.5))  # FAISS advises 4 to 16 times the square root
    rng = np.random.default_rng(0)
    rows = rng.choice(n_points, min(RECALL_SAMPLE, n_points), replace=False)
    by_component: Any = faiss.index_factory(dim, f"PCA{min(dim, CELL_COMPONENTS)},IVF{n_cells},Flat")
    cells: Any = faiss.extract_index_ivf(by_component)
    cells.cp.min_points_per_centroid = 1  # few points per cell are intended; FAISS would print a warning
    by_component.train(points[rng.choice(n_points, min(CELL_SAMPLE * n_cells, n_points), replace=False)])
    by_component.add(points)
    index = faiss.IndexRefine(by_component, flat_index)
    index.k_factor = WIDER

    def search(queries: Array, width: int) -> tuple[Array, Array]:
        _, found = index.search(queries, width)
        short = np.flatnonzero((found < 0).any(axis=1))  # the visited cells held too few points
        if short.size:
            found[short], _ = flat(queries[short], width)
        return found, np.full(len(queries), np.inf)

    def distances(found: Array) -> Array:
        pairs = zip(rows, found, strict=True)
        return np.stack([np.linalg.norm(points[near] - points[row], axis=1) for row, near in pairs])

    truth, _ = flat(points[rows], min(k + 1, n_points))
    # By distance, because equal points replace each other. The point itself is always found and does not count.
    farthest = distances(truth).max(axis=1, keepdims=True)
    cells.nprobe = max(1, n_cells // 64)
    while True:
        found, _ = search(points[rows], truth.shape[1])
        n_found = (distances(found) <= farthest).sum(axis=1)
        recall = float((n_found - 1).mean() / (truth.shape[1] - 1))
        if recall >= MIN_RECALL:
            members = ((cells.invlists.get_ids(i), cells.get_list_size(i)) for i in range(n_cells))
            order = np.concatenate([faiss.rev_swig_ptr(ids, size).copy() for ids, size in members if size])
            return search, recall, order
        if cells.nprobe >= n_cells:
            return flat, 1.0, np.arange(n_points)
        cells.nprobe = min(2 * cells.nprobe, n_cells)


def _ranked(
    search: Search, base: Array, asked: Array, order: Array, *, k: int, is_self: bool
) -> tuple[Array, Array]:
    """Rank candidates by (distance, index), requesting more until the k-th is nearer than any point left out.

    Queries are searched in the given order. Ties at that border are common on the square grids of Visium HD and legacy arrays.
    """
    indices = np.empty((len(asked), k), dtype=np.int64)
    distances = np.empty((len(asked), k))
    pending = order
    width = min(k + is_self + MARGIN, len(base))
    while pending.size:
        n_rows = min(max(1, MAX_GATHERED // (width * base.shape[1])), pending.size)
        # One array for all rows, because fresh memory takes longer than the sums.
        space = np.empty((n_rows, width, base.shape[1]))
        uncertain = []
        for rows in np.array_split(pending, range(n_rows, len(pending), n_rows)):
            candidates, bound = search(asked[rows], width)
            candidates = np.sort(candidates, axis=1)  # the stable sort below then orders ties by index
            apart = np.take(base, candidates, axis=0, out=space[: len(rows)], mode="clip")
            apart -= asked[rows, None]
            gaps = np.sqrt(np.einsum("ijk,ijk->ij", apart, apart))
            if is_self:
                gaps[candidates == rows[:, None]] = np.inf
            order = np.argsort(gaps, axis=1, kind="stable")[:, :k]
            indices[rows] = np.take_along_axis(candidates, order, axis=1)
            distances[rows] = np.take_along_axis(gaps, order, axis=1)
            uncertain.append(rows[(distances[rows, -1] >= bound) & (width < len(base))])
        pending = np.concatenate(uncertain)
        width = min(2 * width, len(base))
    return indices, distances


@functools.cache
def gpu_resources() -> Any:
    """Return FAISS's GPU resources if a small search on the GPU agrees with the CPU, else None.

    A GPU can be unusable: the wheel may lack kernels for it, or its CUDA version may conflict with FAISS's.
    """
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        logger.info("FAISS runs on the CPU: no usable GPU")
        return None
    points = np.random.default_rng(0).standard_normal((257, 19)).astype(np.float32)
    on_cpu = faiss.IndexFlatL2(points.shape[1])
    on_cpu.add(points)
    _, expected = on_cpu.search(points, 5)
    try:
        resources = faiss.StandardGpuResources()
        _, found = faiss.index_cpu_to_gpu(resources, 0, on_cpu).search(points, 5)
    except RuntimeError as error:  # how FAISS reports every CUDA failure
        logger.warning("FAISS runs on the CPU: its test search on the GPU failed (%s)", error)
        return None
    if not np.array_equal(found, expected):
        logger.warning("FAISS runs on the CPU: its test search on the GPU found other neighbours")
        return None
    return resources


def faiss_kind() -> str:
    """Describe the installed FAISS, e.g. ``faiss-gpu 1.15.1, searches on the CPU``."""
    package = "faiss-gpu" if hasattr(faiss, "StandardGpuResources") else "faiss-cpu"
    return f"{package} {faiss.__version__}, searches on the {'CPU' if gpu_resources() is None else 'GPU'}"
