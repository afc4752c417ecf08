"""Closed-form linear predictors on frozen features: scaling, principal components, ridge, choice of penalty.

Everything here is exact, without random numbers or iterations; in float64, but for principal axes of very wide features.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from scipy import linalg, sparse

from spam.errors import ConfigError, StoreError
from spam.typing import Array, Float, Float64, Num, Rows, Shaped

CsrMatrix: TypeAlias = sparse.csr_array | sparse.csr_matrix

# Keeps a feature that hardly varies within a section from being blown up; the value of the measured ladder
# (docs/experiments-log.md), on features whose standard deviation is about 0.3.
STD_FLOOR = 1e-3
# Larger matrices of inner products are decomposed in float32, in half the time; 256 axes of 3072 then agree to 1e-6.
_MOST_IN_FLOAT64 = 2048
_ROWS = 4096  # of a matrix that are computed with at a time, to bound the memory


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
        n, d = x.shape
        bad = sum(int((~np.isfinite(rows)).any(axis=1).sum()) for rows in _parts(x))
        if bad:
            message = f"{bad} of {n} feature rows are NaN or infinite. Embed these sections again: spam embed --overwrite"
            raise StoreError(message)
        mean = sum(rows.sum(axis=0) for rows in _parts(x)) / n
        variance = sum(squares_around(rows, mean) for rows in _parts(x)) / n
        eps = np.finfo(np.float64).eps
        is_constant = variance <= n * eps * variance + (n * mean * eps) ** 2  # rounding of the variance
        scale = np.where(is_constant, 1.0, np.sqrt(variance))
        components = _principal_axes(x, mean, scale, min(n_components, n - 1, d))
        return cls(mean=mean, scale=scale, components=components)

    def apply(self, x: Num[Rows, "n d"]) -> Float64[Array, "n q"]:
        """Project rows on the components."""
        projected = np.empty((len(x), len(self.components)))
        for start, rows in zip(range(0, len(x), _ROWS), _parts(x), strict=True):
            projected[start : start + _ROWS] = ((rows - self.mean) / self.scale) @ self.components.T
        return projected

    def square_length(self, x: Num[Rows, "n d"]) -> Float64[Array, " n"]:
        """Squared length of the scaled rows, of which the components are a part."""
        return np.concatenate([(((rows - self.mean) / self.scale) ** 2).sum(axis=1) for rows in _parts(x)])


def _parts(x: Num[Rows, "n d"]) -> Iterator[Float64[Array, "_ d"]]:
    """Cut a matrix into parts of whole rows in float64, so that it is never copied as a whole."""
    return (np.asarray(x[start : start + _ROWS], dtype=np.float64) for start in range(0, len(x), _ROWS))


def squares_around(x: Num[Array, "n d"], mean: Float64[Array, " d"]) -> Float64[Array, " d"]:
    """Sum of the squared deviations of each column from its mean, in float64."""
    deviations = x - mean
    deviations *= deviations
    total: Array = deviations.sum(axis=0)
    return total


def _principal_axes(x: Array, mean: Array, scale: Array, n_components: int) -> Array:
    """Leading right singular vectors of the centred and scaled matrix, one per row."""
    n, d = x.shape
    is_wide = d > n
    precise = np.float32 if min(n, d) > _MOST_IN_FLOAT64 else np.float64
    if is_wide:
        z = (np.asarray(x, dtype=np.float64) - mean) / scale
        gram = z.astype(precise) @ z.T.astype(precise)
    else:
        gram = np.zeros((d, d), dtype=precise)
        for rows in _parts(x):
            scaled = rows - mean
            scaled /= scale
            part = scaled.astype(precise)
            gram += part.T @ part
    last = len(gram) - 1
    values, vectors = linalg.eigh(gram, subset_by_index=(last - n_components + 1, last))
    values, vectors = values[::-1], vectors[:, ::-1]
    # An eigenvalue is wrong by a few eps of the largest. The usual factor max(n, d) would cut real axes in float32.
    factor = max(n, d) if precise is np.float64 else 16
    is_real = values > factor * np.finfo(precise).eps * max(values[0], 0.0)
    values, vectors = values[is_real], vectors[:, is_real]
    axes: Array = vectors.T @ z / np.sqrt(values)[:, None] if is_wide else vectors.T
    largest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), largest])
    return np.ascontiguousarray(axes * signs[:, None], dtype=np.float64)


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
    score: Callable[[Array, Array], Array] | None = None,
) -> float:
    """Choose the ridge penalty (with intercept) that predicts a left-out group best.

    Each of two or more groups (sections or donors) is left out once. Its score is the mean over genes of
    ``score(predicted, truth)`` within that group, which has one value per gene (None: `pearson_per_gene`, which follows
    from inner products without predicting any row); the score of a penalty is the mean over groups. NaN (a gene that is
    constant in a group) is left out of both means. Of equal scores the larger penalty wins. All penalties of a fold share
    one eigendecomposition, and all folds the inner products of each group.

    Raises
    ------
    ConfigError
        If every gene is constant within every group, and so has no score.
    """
    candidates = sorted((float(alpha) for alpha in alphas), reverse=True)
    held_out = [groups == label for label in np.unique(groups)]
    parts = [_Products.of(a[own], y[own]) for own in held_out]
    n, a_means, y_means = (np.stack([getattr(p, name) for p in parts]) for name in ("n", "a_mean", "y_mean"))
    inputs, genes = sum(p.inputs for p in parts), sum(p.genes for p in parts)
    scores = np.full((len(parts), len(candidates)), np.nan)
    for i, own in enumerate(parts):
        n_train = np.where(np.arange(len(n)) == i, 0, n)
        a_mean, y_mean = n_train @ a_means / n_train.sum(), n_train @ y_means / n_train.sum()
        between = (a_means - a_mean).T * n_train
        eigenvalues, axes = linalg.eigh(inputs - own.inputs + between @ (a_means - a_mean))
        target = axes.T @ (genes - own.genes + between @ (y_means - y_mean))
        rotated = own.rotated(axes)
        for j, alpha in enumerate(candidates):
            coefficients = target / (np.maximum(eigenvalues, 0.0) + alpha)[:, None]
            if score is None:
                r = rotated.correlations(coefficients)
            else:
                rows = held_out[i]
                r = score((a[rows] - a_mean) @ (axes @ coefficients) + y_mean, y[rows])
            scores[i, j] = _mean_of_defined(r)
    overall = np.array([_mean_of_defined(column) for column in scores.T])
    if np.isnan(overall).all() and not any(own.square.any() for own in parts):
        message = "Every gene is constant within every section. Train on sections with more spots or counts."
        raise ConfigError(message)
    # Where no input varies, no prediction does: all penalties are equal.
    return candidates[int(np.argmax(np.nan_to_num(overall, nan=-np.inf)))]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Products:
    """Number and means of the rows of a group, and inner products of its centred inputs and genes."""

    n: int
    a_mean: Float64[Array, " q"]
    y_mean: Float64[Array, " g"]
    inputs: Float64[Array, "q q"]
    genes: Float64[Array, "q g"]
    square: Float64[Array, " g"]  # of a gene with itself; 0 for a constant

    @classmethod
    def of(cls, a: Num[Array, "n q"], y: Num[Array, "n g"]) -> "_Products":
        a, y = np.asarray(a, dtype=np.float64), np.asarray(y, dtype=np.float64)
        is_constant = (y == y[:1]).all(axis=0)
        a_mean, y_mean = a.mean(axis=0), y.mean(axis=0)
        a, y = a - a_mean, y - y_mean
        square = np.where(is_constant, 0.0, (y**2).sum(axis=0))
        return cls(n=len(a), a_mean=a_mean, y_mean=y_mean, inputs=a.T @ a, genes=a.T @ y, square=square)

    def rotated(self, axes: Float64[Array, "q q"]) -> "_Products":
        """Inner products of the inputs along other axes."""
        return dataclasses.replace(self, inputs=axes.T @ self.inputs @ axes, genes=axes.T @ self.genes)

    def correlations(self, coefficients: Float64[Array, "q g"]) -> Float64[Array, " g"]:
        """Correlation of each gene with a linear prediction; NaN where prediction or truth is constant."""
        predicted = (coefficients * (self.inputs @ coefficients)).sum(axis=0)
        square = np.maximum(predicted, 0.0) * self.square
        together = (coefficients * self.genes).sum(axis=0)
        r: Array = np.where(square > 0, together / np.sqrt(np.where(square > 0, square, 1.0)), np.nan)
        return r


def _mean_of_defined(values: Array) -> float:
    """Mean without NaN; NaN where nothing is left (``np.nanmean`` would warn)."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


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
    standardised: Array = (f - f.mean(axis=0)) / (scale + STD_FLOOR)
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
