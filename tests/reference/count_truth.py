"""Count log-probabilities by their definition, as products over 0..x-1 in extended precision (x86: 64-bit mantissa)."""

import numpy as np


def nb_log_prob(x: np.ndarray, log_mu: np.ndarray, log_theta: np.ndarray) -> np.ndarray:
    """Log-probability of every (x, mu, theta) of three 1-D axes, shape (len(x), len(mu), len(theta))."""
    x = np.asarray(x, dtype=np.int64)
    log_mu, log_theta = (np.asarray(v).astype(np.longdouble) for v in (log_mu, log_theta))
    out = np.empty((len(x), len(log_mu), len(log_theta)), dtype=np.longdouble)
    k = np.arange(x.max(initial=0), dtype=np.longdouble)
    mu = np.exp(log_mu)
    for j, log_r in enumerate(log_theta):
        r = np.exp(log_r)
        rising = np.concatenate([[np.longdouble(0)], np.cumsum(np.log(r + k) - np.log(k + 1))])
        out[:, :, j] = rising[x][:, None] + x[:, None] * (log_mu - np.log(mu + r)) - r * np.log1p(mu / r)
    return out


def poisson_log_prob(x: np.ndarray, log_mu: np.ndarray) -> np.ndarray:
    """Log-probability of every (x, mu) of two 1-D axes."""
    x = np.asarray(x, dtype=np.int64)
    log_mu = np.asarray(log_mu).astype(np.longdouble)
    k = np.arange(x.max(initial=0), dtype=np.longdouble)
    log_factorial = np.concatenate([[np.longdouble(0)], np.cumsum(np.log(k + 1))])
    return x[:, None] * log_mu - np.exp(log_mu) - log_factorial[x][:, None]


def smallest_count(level: float, cdf: np.ndarray) -> int:
    """First x whose cumulative probability reaches the level."""
    for x, reached in enumerate(cdf):
        if reached >= level:
            return x
    message = f"level {level} lies beyond the tabulated counts"
    raise ValueError(message)
