"""The graph network by its formula, dense and in float64."""

import numpy as np


def mean_matrix(weights: np.ndarray) -> np.ndarray:
    """Row-normalise a dense graph without its diagonal; a row without weights stays 0."""
    out = np.zeros(weights.shape)
    for i in range(len(weights)):
        total = sum(weights[i, j] for j in range(len(weights)) if j != i)
        for j in range(len(weights)):
            if j != i and total > 0:
                out[i, j] = weights[i, j] / total
    return out


def gcn(x: np.ndarray, weights: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """Tokens from a state dict of `SpatialGCN`: A relu(norm(A X W1 + b1)) W2 + b2."""
    a = mean_matrix(weights)
    h = a @ (x @ state["first.weight"].T) + state["first.bias"]
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)  # torch's LayerNorm eps
    h = np.maximum(h * state["norm.weight"] + state["norm.bias"], 0)
    return a @ (h @ state["second.weight"].T) + state["second.bias"]
