"""Predictors by similarity of images: the nearest training spots, and kernel ridge regression."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import linalg
from scipy.spatial.distance import cdist

from spam.benchmarking.method_inputs import CONTEXT, InputView, fold_inputs, fold_targets
from spam.benchmarking.task import FoldTask, MethodPrediction
from spam.graphs import knn
from spam.typing import Array, Float, Float64

__all__ = ["ImageNeighbours", "KernelRidge", "rbf_kernel"]

# The measured ladder's values (docs/experiments.md).
_N_NEIGHBOURS = 40
_KERNEL_ALPHA = 3.0
_KERNEL_WIDTH = 0.5


@dataclasses.dataclass(slots=True, kw_only=True)
class ImageNeighbours:
    """Predicts the mean centred expression of the 40 training spots whose images point the same way (cosine).

    All training spots are averaged where there are fewer. The mean over the training sections is added.

    Attributes
    ----------
    name
        Name in the tables.
    view
        How it looks at a spot's image.
    """

    name: str = "image kNN"
    view: InputView = dataclasses.field(default_factory=InputView)
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, self.view), fold_targets(task)
        bank = inputs.train[targets.rows]
        predictions = {}
        for name, x in inputs.test.items():
            near = knn(bank, x, k=_N_NEIGHBOURS, metric="cosine").indices
            expression = targets.centred[near].mean(axis=1) + targets.gene_mean
            predictions[name] = MethodPrediction(expression=expression.astype(np.float32))
        return predictions


@dataclasses.dataclass(slots=True, kw_only=True)
class KernelRidge:
    r"""Kernel ridge regression of centred expression with a Gaussian kernel, in its closed form.

    .. math:: \hat y(x) = k(x, X) \, (K + 3 I)^{-1} Y, \qquad k(x, x') = \exp(-|x - x'|^2 / (2 q \sigma^2))

    with `q` components of mean variance :math:`\sigma^2`. No intercept; the mean over the training sections is added.

    Attributes
    ----------
    name
        Name in the tables.
    view
        How it looks at a spot's image.
    """

    name: str = "RBF kernel ridge"
    view: InputView = CONTEXT
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, self.view), fold_targets(task)
        bank = inputs.train[targets.rows].astype(np.float64)
        gamma = _KERNEL_WIDTH / (bank.shape[1] * bank.var())
        system = rbf_kernel(bank, bank, gamma=gamma) + _KERNEL_ALPHA * np.eye(len(bank))
        weights = linalg.solve(system, targets.centred.astype(np.float64), assume_a="pos")
        return {
            name: MethodPrediction(
                expression=(rbf_kernel(x, bank, gamma=gamma) @ weights + targets.gene_mean).astype(np.float32)
            )
            for name, x in inputs.test.items()
        }


def rbf_kernel(a: Float[Array, "n q"], b: Float[Array, "m q"], *, gamma: float) -> Float64[Array, "n m"]:
    """Gaussian kernel ``exp(-gamma * |a - b|²)`` between the rows of `a` and of `b`."""
    kernel: Array = np.exp(-gamma * cdist(a, b, metric="sqeuclidean"))
    return kernel
