"""Candidate neighbours from FAISS; the one place that imports it, and the one that decides about its GPU.

FAISS works in float32, so what it returns are candidates: `spam.graphs.neighbour_search` ranks them again in float64.
"""

import functools
import logging
from typing import Any, Literal

import faiss
import numpy as np

from spam.typing import Array, Float32, Int64

__all__ = ["FlatSearch", "IvfSearch", "faiss_kind", "gpu_resources"]

logger = logging.getLogger(__name__)

GPU_MAX_K = 2048  # the most neighbours that FAISS returns on a GPU
GAMMA_EXTRA = 8  # roundings beside the dot product: both inputs, the norms, their sum


class FlatSearch:
    """Exact search in float32 over squared Euclidean distances, on the GPU where a probe search works.

    Parameters
    ----------
    points
        Points to search among; centre them first, since float32 loses small differences of large numbers.
    """

    def __init__(self, points: Float32[Array, "n_points dim"]) -> None:
        self._cpu_index = faiss.IndexFlatL2(points.shape[1])
        self._cpu_index.add(points)
        self._gpu_index: Any = None
        resources = gpu_resources()
        self.backend: Literal["faiss-cpu", "faiss-gpu"] = "faiss-cpu"
        if resources is not None:
            self._gpu_index = faiss.index_cpu_to_gpu(resources, 0, self._cpu_index)
            self.backend = "faiss-gpu"
        self._radius = float(np.linalg.norm(points.astype(np.float64), axis=1).max(initial=0.0))

    def search(
        self, queries: Float32[Array, "n_queries dim"], width: int
    ) -> tuple[Int64[Array, "n_queries width"], Array]:
        """Find the `width` nearest points, and below which distance no other point can lie.

        The bound takes off what float32 may have lost: at most ``(dim + 8) u (|q| + R)²`` of a squared
        distance, with unit roundoff ``u = 2^-24`` and ``R`` the largest norm of a point (Higham 2002, §3.1).
        """
        is_on_gpu = self._gpu_index is not None and width <= GPU_MAX_K
        index = self._gpu_index if is_on_gpu else self._cpu_index
        squared, found = index.search(queries, width)
        scale = np.linalg.norm(queries.astype(np.float64), axis=1) + self._radius
        lost = (queries.shape[1] + GAMMA_EXTRA) * 2.0**-24 * scale**2
        bound = np.sqrt(np.maximum(squared[:, -1].astype(np.float64) - lost, 0.0))
        return found, bound


class IvfSearch:
    """Approximate search: points in Voronoi cells, of which a query looks into the nearest few.

    The number of cells looked into is doubled until a sample of the queries finds `min_recall` of its true
    neighbours; `recall` holds what was measured.

    Parameters
    ----------
    points
        Points to search among.
    sample
        Rows of `points` to measure the recall on.
    k
        Neighbours that the recall is measured for.
    min_recall
        Recall to reach; looking into every cell is exact, so it always is.
    """

    def __init__(
        self,
        points: Float32[Array, "n_points dim"],
        *,
        sample: Int64[Array, " n_sample"],
        k: int,
        min_recall: float = 0.99,
    ) -> None:
        n_points, dim = points.shape
        n_cells = max(1, int(4 * n_points**0.5))  # FAISS's own advice: 4 to 16 times the square root
        self._quantizer = faiss.IndexFlatL2(dim)
        self._index = faiss.IndexIVFFlat(self._quantizer, dim, n_cells)
        self._index.cp.min_points_per_centroid = 1  # small sets are meant; FAISS would print a warning
        self._index.train(points)
        self._index.add(points)
        self.backend: Literal["faiss-cpu"] = "faiss-cpu"
        self._flat = FlatSearch(points)
        truth, _ = self._flat.search(points[sample], min(k + 1, n_points))
        self._index.nprobe = max(1, n_cells // 64)
        while True:
            found, _ = self.search(points[sample], truth.shape[1])
            shared = [np.isin(row, true).mean() for row, true in zip(found, truth, strict=True)]
            self.recall = float(np.mean(shared)) if shared else 1.0
            if self.recall >= min_recall or self._index.nprobe >= n_cells:
                break
            self._index.nprobe = min(2 * self._index.nprobe, n_cells)

    def search(
        self, queries: Float32[Array, "n_queries dim"], width: int
    ) -> tuple[Int64[Array, "n_queries width"], Array]:
        """Find most of the `width` nearest points; the bound is infinite: what was not seen stays unseen."""
        _, found = self._index.search(queries, width)
        short = np.flatnonzero((found < 0).any(axis=1))  # the cells looked into held fewer points than that
        if short.size:
            found[short], _ = self._flat.search(queries[short], width)
        return found, np.full(len(queries), np.inf)


@functools.cache
def gpu_resources() -> Any:
    """Return FAISS's GPU resources where a small real search on the GPU agrees with the CPU, else None.

    A GPU may be there and still be of no use: a wheel without kernels for it, or another CUDA beside FAISS's
    own.
    """
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        logger.info("FAISS searches on the CPU: no GPU that it can use")
        return None
    points = np.random.default_rng(0).standard_normal((257, 19)).astype(np.float32)
    on_cpu = faiss.IndexFlatL2(points.shape[1])
    on_cpu.add(points)
    try:
        resources = faiss.StandardGpuResources()
        _, found = faiss.index_cpu_to_gpu(resources, 0, on_cpu).search(points, 5)
    except RuntimeError as error:  # how FAISS reports every CUDA failure
        logger.warning("FAISS searches on the CPU: its probe search on the GPU failed (%s)", error)
        return None
    _, expected = on_cpu.search(points, 5)
    if not np.array_equal(found, expected):
        logger.warning("FAISS searches on the CPU: its probe search on the GPU gave other neighbours")
        return None
    return resources


def faiss_kind() -> str:
    """Say which FAISS is there and where it searches, e.g. ``faiss-gpu 1.15.1, searches on the CPU``."""
    package = "faiss-gpu" if hasattr(faiss, "StandardGpuResources") else "faiss-cpu"
    place = "GPU" if gpu_resources() is not None else "CPU"
    return f"{package} {faiss.__version__}, searches on the {place}"
