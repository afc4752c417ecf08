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


def profile_targets(profiles: np.ndarray, temperature: float, is_left_out: np.ndarray) -> np.ndarray:
    """Softmax of cosines over the pairs that are not left out, entry by entry."""
    n = len(profiles)
    targets = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            lengths = math.sqrt(sum(profiles[i] ** 2)) * math.sqrt(sum(profiles[j] ** 2))
            cosine = float(profiles[i] @ profiles[j]) / lengths if lengths else 0.0
            targets[i, j] = 0.0 if is_left_out[i, j] else math.exp(cosine / temperature)
        targets[i] /= sum(targets[i])
    return targets


def soft_info_nce(
    a: np.ndarray,
    b: np.ndarray,
    temperature: float,
    mixing: float,
    targets: np.ndarray,
    is_left_out: np.ndarray,
) -> float:
    """Cross-entropy with targets, row by row, in both directions."""
    s = _cosines(a, b)
    n = len(s)
    there = back = 0.0
    for i in range(n):
        kept = [j for j in range(n) if not is_left_out[i, j]]
        total_there = sum(math.exp(s[i][j] / temperature) for j in kept)
        total_back = sum(math.exp(s[j][i] / temperature) for j in kept)
        for j in kept:
            there -= targets[i, j] * math.log(math.exp(s[i][j] / temperature) / total_there)
            back -= targets[i, j] * math.log(math.exp(s[j][i] / temperature) / total_back)
    return mixing * there / n + (1 - mixing) * back / n
