"""Stacking: a weighted sum of three kinds of predictors, with weights that held-out donors or sections choose."""

import dataclasses
import itertools
from typing import Literal, get_args

import numpy as np
import torch
from scipy import linalg

from spam.typing import Array, Float, Float32, Float64

from .rate_path import log_rate_of

Kind = Literal["ridge", "prototypes", "network"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_RIDGE_ALONE = np.array([float(kind == "ridge") for kind in KINDS])
MAJORITY = 0.5  # a ridge with a larger weight is said to have most of it

# Width and penalty of the kernel, as for the kernel ridge of the benchmark.
_WIDTH, _ALPHA = 0.5, 3.0
# Spots behind a prototype (all, if there are fewer), so that a checkpoint has the expression of no single spot.
_SMALLEST = 10
_MOST = 512  # prototypes: the cost of a prediction does not grow with the cohort
_ROWS = 8192  # spots per step, to bound the memory
_POWER_STEPS = 10
_STEP = 0.1  # of the weights; finer steps would fit the noise of few held-out sections
_PRIOR = 0.2  # share of the ridge that is added where no donor was left out (docs/experiments-log.md, "A prior towards the ridge")
_MARGIN = 0.5  # beyond the farthest left-out section by this share, only the ridge is left


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prototypes:
    r"""Kernel ridge regression of centred expression whose basis functions sit at prototypes.

    .. math:: \hat y(x) = \sum_j \exp(-\gamma |x - c_j|^2) \, w_j

    A prototype is the mean image input of 10 or more similar training spots, from all sections.

    Source: the Nyström method (Williams and Seeger 2000, NIPS 13). Relative to the paper: the centres are means of
    spots, not spots, so that single spots are not stored.

    Attributes
    ----------
    centres
        Image inputs of the prototypes, (m, q).
    coefficients
        From kernel values to log1p(CP10k) minus the section mean, (m, n_genes).
    gamma
        Inverse squared width of the kernel.
    """

    centres: Float64[Array, "m q"]
    coefficients: Float64[Array, "m n_genes"]
    gamma: float

    def predict(self, inputs: Float[Array, "n q"]) -> Float64[Array, "n n_genes"]:
        """Predict log1p(CP10k) minus the section mean."""
        parts = [
            _kernel(inputs[start : start + _ROWS], self.centres, self.gamma) @ self.coefficients
            for start in range(0, max(len(inputs), 1), _ROWS)
        ]
        predicted: Array = np.concatenate(parts)
        return predicted


def fit_prototypes(inputs: Float[Array, "n q"], centred: Float[Array, "n n_genes"]) -> Prototypes:
    """Fit on training spots; `centred` is log1p(CP10k) minus the section mean."""
    inputs = np.asarray(inputs, dtype=np.float64)
    groups = similar_spots(inputs, max(_SMALLEST, -(-len(inputs) // _MOST)))
    centres = np.stack([inputs[rows].mean(axis=0) for rows in groups])
    gamma = _WIDTH / (inputs.shape[1] * inputs.var())
    between = _kernel(centres, centres, gamma)
    # Rounding makes the kernel matrix of nearly equal prototypes slightly indefinite.
    gram = _ALPHA * (between + 1e-6 * np.eye(len(centres)))
    target = np.zeros((len(centres), centred.shape[1]))
    for start in range(0, len(inputs), _ROWS):
        kernel = _kernel(inputs[start : start + _ROWS], centres, gamma)
        gram += kernel.T @ kernel
        target += kernel.T @ centred[start : start + _ROWS].astype(np.float64)
    return Prototypes(
        centres=centres, coefficients=linalg.solve(gram, target, assume_a="pos"), gamma=float(gamma)
    )


def similar_spots(inputs: Float64[Array, "n q"], smallest: int) -> list[Array]:
    """Divide spots into groups of similar images, of `smallest` to ``2 * smallest - 1`` spots (or all, if there are fewer).

    Groups are halved at the median of their leading principal component until they are too small to be halved again.
    """
    waiting, groups = [np.arange(len(inputs))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) < 2 * smallest:
            groups.append(rows)
            continue
        centred = inputs[rows] - inputs[rows].mean(axis=0)
        axis = centred[np.argmax((centred**2).sum(axis=1))]
        covariance = centred.T @ centred
        for _ in range(_POWER_STEPS):  # a rough leading axis is enough
            axis = covariance @ axis
            axis /= max(float(np.linalg.norm(axis)), np.finfo(np.float64).tiny)
        order, half = np.argsort(centred @ axis, kind="stable"), len(rows) // 2
        waiting += [rows[order[:half]], rows[order[half:]]]
    return groups


def _kernel(x: Float[Array, "n q"], centres: Float[Array, "m q"], gamma: float) -> Float64[Array, "n m"]:
    x = np.asarray(x, dtype=np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2.0 * (x @ centres.T)
    kernel: Array = np.exp(-gamma * np.maximum(squares, 0.0, out=squares))
    return kernel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Weights of the predictors, and how far from the training images they hold.

    The weights were chosen on left-out donors, sections or blocks, whose images are up to `reach` from the images of the
    others. A section that is farther is new to the weights too. Its weights move towards the ridge alone, in proportion to
    the excess; at half as far again the ridge predicts alone, which was never far behind on new donors (docs/experiments-log.md).

    Source: stacked regressions (Breiman 1996, doi 10.1007/BF00117832). Relative to the paper: three weights for all
    genes, which sum to 1, and correlation in place of squared error.

    Attributes
    ----------
    weights
        Of ridge, prototypes and network, (3,).
    reach
        Largest median distance of a section (or block) from the training images of other donors (else sections or blocks), in
        units of `AppearanceBank.distance`; infinite if there are no others.
    """

    weights: Float64[Array, " n_kinds"]
    reach: float

    def trust(self, distance: float) -> float:
        """Share of the chosen weights, from 1 to 0, for a section at this median distance; the rest is ridge."""
        excess = distance / self.reach - 1.0 if np.isfinite(distance) else 0.0
        return float(np.clip(1.0 - excess / _MARGIN, 0.0, 1.0))

    def weights_at(self, distance: float) -> Float64[Array, " n_kinds"]:
        """Weights for a section whose images have this median distance."""
        trust = self.trust(distance)
        weights: Array = trust * self.weights + (1.0 - trust) * _RIDGE_ALONE
        return weights


def stacked(
    patterns: Float32[Array, "n_kinds n n_genes"], weights: Float64[Array, " n_kinds"]
) -> Float32[Array, "n n_genes"]:
    """Weighted sum of the predictions."""
    total: Array = np.tensordot(weights.astype(np.float32), patterns, axes=1)
    return total


def stacked_log_rate(
    expression: Float32[Array, "n n_genes"],
    correction: Float32[Array, "n n_genes"],
    offsets: Float32[Array, "2 n_genes"],
    weights: Float64[Array, " n_kinds"],
) -> Float32[Array, "n n_genes"]:
    """Logarithm of the rate per 10k that belongs to the weighted sum; the network's correction counts by its weight.

    `offsets` are those of the ridge and of the network's path.
    """
    network = np.float32(weights[KINDS.index("network")])
    offset = (1 - network) * offsets[0] + network * offsets[1]
    log_rate: Array = log_rate_of(torch.from_numpy(expression)).numpy() + network * correction + offset
    return log_rate


def stacked_inflation(
    pi: Float32[Array, "n n_genes"], weights: Float64[Array, " n_kinds"]
) -> Float32[Array, "n n_genes"]:
    """Probability of an inflated zero: only the network predicts one, so it counts by the network's weight."""
    inflation: Array = pi * np.float32(weights[KINDS.index("network")])
    return inflation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Products:
    """Products of predictions and measurements in a held-out section, from which correlations of any weights follow.

    Attributes
    ----------
    between
        Inner products of the centred predictions of each gene, (n_genes, n_kinds, n_kinds).
    with_measured
        Inner products of prediction and measurement, (n_genes, n_kinds).
    measured
        Inner products of the measurements with themselves, (n_genes,).
    """

    between: Float64[Array, "n_genes n_kinds n_kinds"]
    with_measured: Float64[Array, "n_genes n_kinds"]
    measured: Float64[Array, " n_genes"]

    @classmethod
    def of(
        cls, patterns: Float32[Array, "n_kinds n n_genes"], measured: Float32[Array, "n n_genes"]
    ) -> "Products":
        """Multiply the predictions and measurements of one section."""
        x = patterns - patterns.mean(axis=1, keepdims=True, dtype=np.float64)
        y = measured - measured.mean(axis=0, dtype=np.float64)
        return cls(
            between=np.einsum("ang,bng->gab", x, x, optimize=True),
            with_measured=np.einsum("ang,ng->ga", x, y, optimize=True),
            measured=(y**2).sum(axis=0),
        )

    def pearson(self, weights: Float64[Array, " n_kinds"]) -> float:
        """Correlation of the weighted sum with the measurements, mean over genes; 0 for a gene without variation."""
        square = np.einsum("a,gab,b->g", weights, self.between, weights) * self.measured
        is_defined = square > 0
        r = self.with_measured @ weights / np.sqrt(np.where(is_defined, square, np.inf))
        return float(r.mean())


def choose_weights(sections: list[Products], *, are_new_donors: bool) -> Float64[Array, " n_kinds"]:
    """Choose the weights that correlate best on held-out sections: mean over genes, then over sections.

    Weights are multiples of .1 that sum to 1. Of equal ones, those with more ridge, then with more prototypes, are chosen.
    Unless the sections are of donors that were left out, a fifth of all weights is moved to the ridge: sections of a training
    donor cannot show that a flexible predictor fails on other donors.
    """
    n_steps = round(1 / _STEP)
    candidates = [
        np.array([ridge, prototypes, n_steps - ridge - prototypes]) / n_steps
        for ridge, prototypes in itertools.product(range(n_steps, -1, -1), repeat=2)
        if ridge + prototypes <= n_steps
    ]
    scores = [float(np.mean([section.pearson(w) for section in sections])) for w in candidates]
    best: Array = candidates[int(np.argmax(scores))]
    return best if are_new_donors else (1.0 - _PRIOR) * best + _PRIOR * _RIDGE_ALONE
