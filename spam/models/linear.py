"""Closed-form linear predictors on frozen features: scaling, principal components, ridge, choice of penalty.

Everything here is float64 and exact; no random numbers, no iterations.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from scipy import linalg, sparse

from spam.errors import ConfigError, StoreError
from spam.typing import Array, Float, Float64, Num, Shaped

CsrMatrix: TypeAlias = sparse.csr_array | sparse.csr_matrix

# Keeps a feature that hardly varies within a section from being blown up; the value of the measured ladder
# (docs/experiments-log.md), on features whose standard deviation is about 0.3.
_STD_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureTransform:
    """Scale features to unit variance, then project them on their principal components.

    Attributes
    ----------
    mean, scale
        Mean and standard deviation (ddof 0) per feature; a constant feature has scale 1.
    components
        Principal axes of the scaled features, by falling variance. The entry of largest size in each is
        positive.
    """

    mean: Float64[Array, " d"]
    scale: Float64[Array, " d"]
    components: Float64[Array, "q d"]

    @classmethod
    def fit(cls, x: Num[Array, "n d"], n_components: int) -> "FeatureTransform":
        """Fit on training rows; keeps ``min(n_components, n - 1, d)`` components.

        Equal to scikit-learn's ``StandardScaler`` followed by ``PCA(svd_solver="full")``. The axes come from
        the eigenvectors of the smaller Gram matrix, several times faster than the SVD for tall or wide
        features. Axes along which the rows do not vary at all (fewer distinct rows than components) are left
        out: they are arbitrary.

        Raises
        ------
        StoreError
            If a feature is NaN or infinite.
        """
        x = np.asarray(x, dtype=np.float64)
        n, d = x.shape
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        if bad:
            message = f"{bad} of {n} feature rows are NaN or infinite. Embed these sections again: spam embed --overwrite"
            raise StoreError(message)
        mean, variance = x.mean(axis=0), x.var(axis=0)
        eps = np.finfo(np.float64).eps
        is_constant = variance <= n * eps * variance + (n * mean * eps) ** 2  # rounding of the variance
        scale = np.where(is_constant, 1.0, np.sqrt(variance))
        components = _principal_axes((x - mean) / scale, min(n_components, n - 1, d))
        return cls(mean=mean, scale=scale, components=components)

    def apply(self, x: Num[Array, "n d"]) -> Float64[Array, "n q"]:
        """Project rows on the components."""
        scaled = (np.asarray(x, dtype=np.float64) - self.mean) / self.scale
        projected: Array = scaled @ self.components.T
        return projected


def _principal_axes(z: Array, n_components: int) -> Array:
    """Leading right singular vectors of a centred matrix, one per row."""
    z = z - z.mean(axis=0)
    n, d = z.shape
    is_wide = d > n
    gram = z @ z.T if is_wide else z.T @ z
    last = len(gram) - 1
    values, vectors = linalg.eigh(gram, subset_by_index=(last - n_components + 1, last))
    values, vectors = values[::-1], vectors[:, ::-1]
    is_real = values > max(n, d) * np.finfo(np.float64).eps * max(values[0], 0.0)
    values, vectors = values[is_real], vectors[:, is_real]
    axes: Array = vectors.T @ z / np.sqrt(values)[:, None] if is_wide else vectors.T
    largest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), largest])
    return np.ascontiguousarray(axes * signs[:, None])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ridge:
    """A fitted ridge regression of many genes at once: ``a @ coefficients + intercept``."""

    coefficients: Float64[Array, "q g"]
    intercept: Float64[Array, " g"]
    alpha: float

    def predict(self, a: Num[Array, "n q"]) -> Float64[Array, "n g"]:
        """Predict every gene for every row."""
        predicted: Array = np.asarray(a, dtype=np.float64) @ self.coefficients + self.intercept
        return predicted


def fit_ridge(
    a: Num[Array, "n q"], y: Num[Array, "n g"], *, alpha: float, fit_intercept: bool = True
) -> Ridge:
    r"""Minimise :math:`\|y - aW - b\|^2 + \alpha \|W\|^2`; the intercept `b` is not penalised."""
    a, y = np.asarray(a, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a_mean, y_mean = a.mean(axis=0), y.mean(axis=0)
    if not fit_intercept:
        a_mean, y_mean = np.zeros_like(a_mean), np.zeros_like(y_mean)
    a, y = a - a_mean, y - y_mean
    gram = a.T @ a + alpha * np.eye(a.shape[1])
    coefficients = linalg.solve(gram, a.T @ y, assume_a="pos")
    return Ridge(coefficients=coefficients, intercept=y_mean - a_mean @ coefficients, alpha=float(alpha))


def pearson_per_gene(predicted: Num[Array, "n g"], truth: Num[Array, "n g"]) -> Float64[Array, " g"]:
    """Pearson correlation per column; NaN where either side is constant."""
    p = np.asarray(predicted, dtype=np.float64)
    t = np.asarray(truth, dtype=np.float64)
    is_constant = (p == p[:1]).all(axis=0) | (t == t[:1]).all(axis=0)
    p, t = p - p.mean(axis=0), t - t.mean(axis=0)
    norm = np.sqrt((p**2).sum(axis=0) * (t**2).sum(axis=0))
    is_constant |= norm == 0
    r: Array = np.where(is_constant, np.nan, (p * t).sum(axis=0) / np.where(is_constant, 1.0, norm))
    return r


def choose_alpha(
    a: Num[Array, "n q"],
    y: Num[Array, "n g"],
    groups: Shaped[Array, " n"],
    alphas: Sequence[float],
    score: Callable[[Array, Array], Array] = pearson_per_gene,
) -> float:
    """Choose the ridge penalty (with intercept) that predicts a left-out group best.

    Each of two or more groups (sections or donors) is left out once. Its score is the mean over genes of
    ``score(predicted, truth)`` within that group, which has one value per gene; the score of a penalty is the mean over
    groups. NaN (a gene that is constant in a group) is left out of both means. Of equal scores the larger
    penalty wins. All penalties of a fold share one eigendecomposition.

    Raises
    ------
    ConfigError
        If no gene has a score in any group.
    """
    labels = np.unique(groups)
    a, y = np.asarray(a, dtype=np.float64), np.asarray(y, dtype=np.float64)
    candidates = sorted((float(alpha) for alpha in alphas), reverse=True)
    scores = np.full((len(labels), len(candidates)), np.nan)
    for i, label in enumerate(labels):
        is_held_out = groups == label
        a_train, y_train = a[~is_held_out], y[~is_held_out]
        a_mean, y_mean = a_train.mean(axis=0), y_train.mean(axis=0)
        a_train = a_train - a_mean
        eigenvalues, axes = linalg.eigh(a_train.T @ a_train)
        target = axes.T @ (a_train.T @ (y_train - y_mean))
        held_out = (a[is_held_out] - a_mean) @ axes
        for j, alpha in enumerate(candidates):
            predicted = held_out @ (target / (np.maximum(eigenvalues, 0.0) + alpha)[:, None]) + y_mean
            scores[i, j] = _mean_of_defined(score(predicted, y[is_held_out]))
    overall = np.array([_mean_of_defined(column) for column in scores.T])
    if np.isnan(overall).all():
        message = "Every gene is constant within every section. Train on sections with more spots or counts."
        raise ConfigError(message)
    return candidates[int(np.nanargmax(overall))]


def _mean_of_defined(values: Array) -> float:
    """Mean without NaN; NaN where nothing is left (``np.nanmean`` would warn)."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def neighbour_mean(f: Num[Array, "n d"], weights: CsrMatrix, hops: int) -> Float64[Array, "n d"]:
    """Average features over a spot and its neighbours, `hops` times in a row.

    Parameters
    ----------
    f
        Features of the spots of one section.
    weights
        Square sparse matrix whose rows sum to 1, each spot's own weight included.
    hops
        How often to average; 0 returns the features as they are.
    """
    averaged = np.asarray(f, dtype=np.float64)
    for _ in range(hops):
        averaged = weights @ averaged
    return averaged


def standardise_per_section(
    f: Float[Array, "n d"], *, at_least: Float64[Array, " d"] | None = None
) -> Float64[Array, "n d"]:
    """Centre and scale the features of one section by its own mean and standard deviation, or by a larger one.

    Uses the image alone, so it may be done on a section whose expression is unknown. ``1e-3`` is added to the
    standard deviation.

    Parameters
    ----------
    f
        Features of the spots of one section.
    at_least
        Standard deviation to divide by where the section's own is smaller; None: always its own.
    """
    f = np.asarray(f, dtype=np.float64)
    scale = f.std(axis=0) if at_least is None else np.maximum(f.std(axis=0), at_least)
    standardised: Array = (f - f.mean(axis=0)) / (scale + _STD_FLOOR)
    return standardised


def hest_ridge_fit(
    x: Num[Array, "n d"], y: Num[Array, "n g"], n_components: int = 256
) -> tuple[FeatureTransform, Ridge]:
    """Fit the linear probe of the HEST benchmark: scaling, PCA, ridge without intercept.

    The penalty is ``100 / (D * G)`` with `D` components and `G` genes.

    Source: Jaume et al., HEST-1k, arXiv 2406.16192. Relative to the paper: the same model, but PCA and ridge
    are solved in closed form where HEST uses scikit-learn's ``PCA(svd_solver="auto")`` and
    ``Ridge(solver="lsqr")``, whose result varies with the random state.
    """
    transform = FeatureTransform.fit(x, n_components)
    alpha = 100.0 / (max(len(transform.components), 1) * y.shape[1])  # none if the features are constant
    return transform, fit_ridge(transform.apply(x), y, alpha=alpha, fit_intercept=False)
