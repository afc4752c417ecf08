"""The linear probe of the HEST benchmark: scaling, 256 principal components, ridge without intercept."""

import importlib.util

import numpy as np

from spam.errors import ConfigError
from spam.models.linear import hest_ridge_fit
from spam.schemas.hest_config import HestSolver
from spam.typing import Array, Float64, Num

__all__ = ["N_FACTORS", "SEED", "predict_expression", "require_solver"]

N_FACTORS = 256
SEED = 1  # the benchmark's default, for its randomised principal components


def require_solver(solver: HestSolver) -> None:
    """Make sure that what a solver needs is installed, before any work.

    Raises
    ------
    ConfigError
        If it is not.
    """
    if solver == "sklearn" and importlib.util.find_spec("sklearn") is None:
        message = (
            "--solver 'sklearn' needs scikit-learn, which is not installed; get it with `pip install 'spam-st[hest]'`, or "
            "take --solver exact, which needs nothing"
        )
        raise ConfigError(message)


def predict_expression(
    x_train: Num[Array, "n_train dim"],
    y_train: Float64[Array, "n_train n_genes"],
    x_test: Num[Array, "n_test dim"],
    *,
    solver: HestSolver,
) -> Float64[Array, "n_test n_genes"]:
    """Fit the probe on training spots and predict the test spots.

    ``StandardScaler``, then ``PCA``, then a ridge with penalty ``100 / (D * G)`` for `D` components and `G` genes, without
    intercept: predictions have no offset, so their correlations mean something and their errors do not.

    Source: Jaume et al., HEST-1k, arXiv 2406.16192; mahmoodlab/HEST ``src/hest/bench`` at 87e586f. Relative to the paper:
    ``sklearn`` makes the same calls in the same number formats (scaling in that of the features, factors rounded to
    float32 as its torch tensors are, ``PCA(random_state=1)``, ``Ridge(solver="lsqr", max_iter=1000)`` with scikit-learn's
    tolerance of 1e-4). ``exact`` solves the same equations in float64 without random numbers: what scikit-learn
    comes to with ``svd_solver="full"`` and a small tolerance. Where there are fewer than 256 features or 257 training
    spots, HEST's own code stops; here `D` is the smaller of both, less one for the spots.

    Parameters
    ----------
    x_train, x_test
        Features, in the number format of their file.
    y_train
        log1p of raw counts.

    Raises
    ------
    ConfigError
        If there are fewer than 2 training spots.
    """
    if len(x_train) < 2:
        message = f"a split trains on {len(x_train)} spots, expected at least 2; give its training samples more spots"
        raise ConfigError(message)
    if solver == "exact":
        transform, ridge = hest_ridge_fit(x_train, y_train, N_FACTORS)
        return ridge.predict(transform.apply(x_test))
    return _predict_with_sklearn(x_train, y_train, x_test)


def _predict_with_sklearn(x_train: Array, y_train: Array, x_test: Array) -> Array:
    # An extra, which need not be installed; and it takes a second to import.
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n_factors = min(N_FACTORS, len(x_train) - 1, x_train.shape[1])
    to_factors = make_pipeline(StandardScaler(), PCA(n_components=n_factors, random_state=SEED))
    a_train = to_factors.fit_transform(x_train).astype(np.float32)
    a_test = to_factors.transform(x_test).astype(np.float32)
    alpha = 100 / (n_factors * y_train.shape[1])
    ridge = Ridge(solver="lsqr", alpha=alpha, random_state=SEED, fit_intercept=False, max_iter=1000)
    predicted = ridge.fit(a_train, y_train).predict(a_test)
    return np.asarray(predicted, dtype=np.float64).reshape(len(x_test), -1)
