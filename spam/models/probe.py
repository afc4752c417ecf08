"""The linear probe: how well a label can be read off an embedding by a linear rule."""

import numpy as np
from scipy import linalg

from spam.errors import ConfigError
from spam.typing import Array, Float, Float64, Int, Num

from .linear import FeatureTransform

__all__ = ["chance_accuracy", "probe_accuracy"]

# Directions beyond these are little else than noise, and the fit needs the cube of their number in time.
_N_COMPONENTS = 256
# With hardly more rows than components the covariance of the rows is far from the true one, and may not be invertible.
_SHRINKAGE = 0.1
# Far below the unit variance that columns are scaled to; rows that are equal within each label have no variance.
_VARIANCE_FLOOR = 1e-6


def chance_accuracy(labels: Int[Array, " n"]) -> float:
    """Share of the most frequent label: the accuracy of a rule that looks at nothing."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def probe_accuracy(x: Num[Array, "n d"], labels: Int[Array, " n"], folds: Int[Array, " n"]) -> float:
    r"""Share of rows whose label a linear discriminant tells right that was fitted on the rows of the other folds.

    Columns are scaled to unit variance and projected on their first 256 principal components within the fitted rows. The
    label is that of the largest

    .. math::
        x^T \Sigma^{-1} \mu_c - \tfrac12 \mu_c^T \Sigma^{-1} \mu_c + \ln \pi_c

    with the mean :math:`\mu_c` and the covariance of each label, :math:`\Sigma` the mean of these covariances weighted by
    :math:`\pi_c`, a tenth of it replaced by the same variance in all directions, and :math:`\pi_c` the share of the label
    in **all** rows: of a label that is left out as a whole section, the fitted rows have too few. A label without a
    fitted row is never told. Only a linear rule is tried: what it does not find may still be there.

    Source: linear classifier probes, Alain & Bengio, arXiv 1610.01644. Relative to the paper: discriminant analysis in
    closed form (Hastie et al., The Elements of Statistical Learning, section 4.3) in place of the softmax.

    Raises
    ------
    ConfigError
        If there is one label or one fold only.
    """
    kinds, sizes = np.unique(labels, return_counts=True)
    if len(kinds) < 2 or len(np.unique(folds)) < 2:
        message = (
            f"a probe needs two labels and two folds, not {len(kinds)} and {len(np.unique(folds))}; "
            "give spots of two sections or donors"
        )
        raise ConfigError(message)
    n_right = 0
    for fold in np.unique(folds):
        is_fitted = folds != fold
        transform = FeatureTransform.fit(x[is_fitted], _N_COMPONENTS)
        fitted, left = (transform.apply(x[rows]) for rows in (is_fitted, ~is_fitted))
        is_known = np.isin(kinds, labels[is_fitted])
        known, share = kinds[is_known], sizes[is_known] / sizes[is_known].sum()
        scores = _discriminant(fitted, np.searchsorted(known, labels[is_fitted]), share, left)
        n_right += int((known[scores.argmax(axis=1)] == labels[~is_fitted]).sum())
    return n_right / len(labels)


def _discriminant(
    fitted: Float[Array, "n q"], label: Int[Array, " n"], share: Float[Array, " c"], left: Float[Array, "m q"]
) -> Float64[Array, "m c"]:
    """Score of each label, numbered from 0, for the rows that were left out."""
    n_labels, q = len(share), fitted.shape[1]
    means = np.stack([fitted[label == c].mean(axis=0) for c in range(n_labels)])
    weight = (share / np.bincount(label, minlength=n_labels))[label]
    within = fitted - means[label]
    covariance = (within * weight[:, None]).T @ within
    spread = max(np.trace(covariance) / max(q, 1), _VARIANCE_FLOOR)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * spread * np.eye(q)
    direction = linalg.solve(covariance, means.T, assume_a="pos")  # (q, c)
    scores: Float64[Array, "m c"] = left @ direction - 0.5 * (means.T * direction).sum(axis=0) + np.log(share)
    return scores
