"""The linear probe: how well a label can be read off an embedding by a linear rule."""

import numpy as np

from spam.errors import ConfigError
from spam.typing import Array, Float, Int, Int64, Num

from .linear import FeatureTransform, fit_ridge

__all__ = ["chance_accuracy", "probe_accuracy", "stratified_folds"]

# Directions beyond these are little else than noise, and the fit needs the cube of their number in time.
_N_COMPONENTS = 256


def stratified_folds(labels: Int[Array, " n"], n_folds: int, seed: int) -> Int64[Array, " n"]:
    """Deal the rows of each label into folds at random, so that each fold has its share of each label."""
    rng = np.random.default_rng(seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        folds[rows] = np.arange(len(rows)) % n_folds
    return folds


def chance_accuracy(labels: Int[Array, " n"]) -> float:
    """Share of the most frequent label: the accuracy of a rule that looks at nothing."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def probe_accuracy(x: Num[Array, "n d"], labels: Int[Array, " n"], folds: Int[Array, " n"]) -> float:
    """Share of rows whose label a ridge classifier tells right that was fitted on the rows of the other folds.

    Columns are scaled to unit variance and projected on their first 256 principal components within the fitted rows.
    The classifier is a ridge on one column per label, 1 for the rows of the label and 0 for the others, with an intercept
    and a penalty of 1 per fitted row; the largest column wins, the first of equal ones. Only a linear rule is tried: what
    it does not find may still be there.

    Source: linear classifier probes, Alain & Bengio, arXiv 1610.01644. Relative to the paper: least squares in closed form
    in place of the softmax.

    Raises
    ------
    ConfigError
        If there is one label or one fold only.
    """
    if len(np.unique(labels)) < 2 or len(np.unique(folds)) < 2:
        message = (
            f"a probe needs two labels and two folds, not {len(np.unique(labels))} and {len(np.unique(folds))}; "
            "give spots of two sections or donors"
        )
        raise ConfigError(message)
    kinds = np.unique(labels)
    is_label = (labels[:, None] == kinds).astype(np.float64)
    n_right = 0
    for fold in np.unique(folds):
        is_fitted = folds != fold
        transform = FeatureTransform.fit(x[is_fitted], _N_COMPONENTS)
        fitted = transform.apply(x[is_fitted])
        ridge = fit_ridge(fitted, is_label[is_fitted], alpha=float(len(fitted)))
        told = kinds[ridge.predict(transform.apply(x[~is_fitted])).argmax(axis=1)]
        n_right += int((told == labels[~is_fitted]).sum())
    return n_right / len(labels)
