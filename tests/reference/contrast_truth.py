"""InfoNCE and recall, pair by pair."""

import math

import numpy as np


def _cosines(a: np.ndarray, b: np.ndarray) -> list[list[float]]:
    return [[float(p @ q / (np.linalg.norm(p) * np.linalg.norm(q))) for q in b] for p in a]


def info_nce(a: np.ndarray, b: np.ndarray, temperature: float, mixing: float) -> float:
    """Weighted mean of the two directions."""
    s = _cosines(a, b)
    n = len(s)
    there = back = 0.0
    for i in range(n):
        there -= math.log(
            math.exp(s[i][i] / temperature) / sum(math.exp(s[i][j] / temperature) for j in range(n))
        )
        back -= math.log(
            math.exp(s[i][i] / temperature) / sum(math.exp(s[j][i] / temperature) for j in range(n))
        )
    return mixing * there / n + (1 - mixing) * back / n


def recall_at_k(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """Share of rows with fewer than k others at least as similar as the partner."""
    s = _cosines(a, b)
    ahead = [sum(s[i][j] >= s[i][i] - 1e-6 for j in range(len(s)) if j != i) for i in range(len(s))]
    return sum(n < k for n in ahead) / len(s)
