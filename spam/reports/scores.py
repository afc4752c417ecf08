"""The correlation that panels are titled with."""

import numpy as np

from spam.evaluation import pearson
from spam.typing import Array, Float

__all__ = ["score_genes", "score_title"]


def score_genes(
    truth: Float[Array, "n_spots n_genes"], prediction: Float[Array, "n_spots n_genes"]
) -> Float[Array, " n_genes"]:
    """Pearson correlation of each gene as in the metrics, over the spots that something was predicted for.

    It is NaN for a gene where any of these spots is not finite.
    """
    rows = np.isfinite(prediction).any(axis=1)
    truth, prediction = (
        np.where(np.isfinite(values), values, np.nan)[rows] for values in (truth, prediction)
    )
    return np.asarray(pearson(truth, prediction))


def score_title(text: str, r: float) -> str:
    """Add the correlation to a title, or that it is undefined."""
    return f"{text}, r = {r:.2f}" if np.isfinite(r) else f"{text}, r undefined"
