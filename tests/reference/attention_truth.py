"""Cross-attention head by head and token by token, in float64."""

import math

import numpy as np


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def cross_attention(
    state: dict[str, np.ndarray],
    heads: int,
    query: np.ndarray,
    tokens: np.ndarray,
    bias_features: np.ndarray,
    mask: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Result (b, dim) and weights (b, heads, t) from a state dict of `CrossAttention`."""
    b, t, _ = tokens.shape
    dim = len(state["out.bias"])
    width = dim // heads
    out, weights = np.zeros((b, dim)), np.zeros((b, heads, t))
    for i in range(b):
        usable = [j for j in range(t) if mask[i, j]]
        if not usable:
            continue
        q = state["query.weight"] @ query[i] + state["query.bias"]
        attended = np.zeros(dim)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits, values = [], []
            for j in usable:
                token = (tokens[i, j] - tokens[i, j].mean()) / math.sqrt(tokens[i, j].var() + 1e-5)
                token = token * state["token_norm.weight"] + state["token_norm.bias"]
                hidden = state["bias.0.weight"] @ bias_features[i, j] + state["bias.0.bias"]
                bias = state["bias.2.weight"][h] @ np.array([_gelu(v) for v in hidden])
                logits.append((q[part] @ (state["key.weight"] @ token)[part]) / math.sqrt(width) + bias)
                values.append((state["value.weight"] @ token + state["value.bias"])[part])
            shares = [math.exp(v) / sum(math.exp(w) for w in logits) for v in logits]
            for j, share, value in zip(usable, shares, values, strict=True):
                weights[i, h, j] = share
                attended[part] += share * value
        out[i] = state["out.weight"] @ attended + state["out.bias"]
    return out, weights
