"""Slow but plain: autocorrelation over all pairs of spots, and smooth random patterns of known covariance."""

import numpy as np
from scipy.spatial.distance import cdist


def slow_effective_size(a: np.ndarray, b: np.ndarray, xy: np.ndarray) -> float:
    """Clifford, Richardson and Hémon's count, pair by pair, for spots on an integer grid."""
    n = len(xy)
    a, b = a - a.mean(), b - b.mean()
    pairs: dict[int, list[tuple[float, float]]] = {}
    for i in range(n):
        for j in range(n):
            if i != j:
                distance = round(float(np.hypot(*(xy[i] - xy[j]))))
                pairs.setdefault(distance, []).append((a[i] * a[j], b[i] * b[j]))
    total = float(n)
    for products in pairs.values():
        mean_a, mean_b = np.mean(products, axis=0)
        total += len(products) * (mean_a / a.var()) * (mean_b / b.var())
    return float(np.clip(1 + n**2 / total, 3, n)) if total > n else float(n)


def hexagonal_disc(n: int) -> np.ndarray:
    """The n points of a hexagonal lattice of pitch 1 that lie closest to the centre of a square of it."""
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(side * side), side)
    xy = np.stack([column + 0.5 * (row % 2), row * np.sqrt(0.75)], axis=1)
    distance = np.hypot(*(xy - xy.mean(axis=0)).T)
    return xy[np.sort(np.argsort(distance, kind="stable")[:n])]


def smooth_noise(
    rng: np.random.Generator, xy: np.ndarray, length: float, n: int, *, nugget: float = 0.0
) -> np.ndarray:
    """Normal patterns of unit variance: a share `nugget` of it is independent, the rest smooth over `length`."""
    covariance = np.exp(-cdist(xy, xy, "sqeuclidean") / (2 * length**2)) + 1e-8 * np.eye(len(xy))
    smooth = np.linalg.cholesky(covariance) @ rng.standard_normal((len(xy), n))
    return np.sqrt(1 - nugget) * smooth + np.sqrt(nugget) * rng.standard_normal((len(xy), n))
