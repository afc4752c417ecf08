"""Baselines that a model has to beat: means, nearest neighbours, ridges, their averages, and small networks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from scipy import linalg
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn.functional import mse_loss, softplus

from spam.errors import NotApplicableError
from spam.graphs import knn
from spam.models.linear import fit_ridge, hest_ridge_fit
from spam.models.rate_path import PER, choose_penalty, dispersion_by_moments, fit_rate_path, log_rate_of
from spam.schemas.tile_spec import dim_of_smallest
from spam.training.groups import Groups, assign_groups, cross_fit
from spam.typing import Array, Float, Float32, Float64, Int64

from .boards import CountPrediction, MethodPrediction
from .folds import FoldTask
from .methods import (
    CONTEXT,
    N_COMPONENTS,
    FoldInputs,
    FoldTargets,
    InputView,
    Schedule,
    fold_inputs,
    fold_targets,
    train_network,
)

# All settings of this chapter were chosen on the measured ladder of docs/experiments-log.md.
_N_NEIGHBOURS = 40
_KERNEL_ALPHA, _KERNEL_WIDTH = 3.0, 0.5
# Penalties on unscaled components. Context triples the number of features and so about the variance.
_ALPHA, _ALPHA_IN_CONTEXT = 1e4, 3e4
_HIDDEN = 128
_INPUT_DROPOUT, _HIDDEN_DROPOUT = 0.3, 0.4
_INPUT_NOISE = 0.1  # standard deviation, relative to the root mean square of the inputs
_N_MEMBERS = 4
_SCHEDULE = Schedule(epochs=60)
_STD_FLOOR = 1e-9  # leaves a constant prediction at its mean

Predictions: TypeAlias = Mapping[str, MethodPrediction]


@dataclasses.dataclass(slots=True, kw_only=True)
class Baseline:
    """A baseline as a method of the benchmark: a function of the task and the seed, see `Method`."""

    name: str
    predict: Callable[[FoldTask, int], Predictions]
    is_seeded: bool = False
    is_reference: bool = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Predictions:
        """Predict every test section; see `Method`."""
        return self.predict(task, seed)


def training_mean(task: FoldTask, seed: int) -> Predictions:
    """Mean log1p(CP10k) over all training spots; its correlations are undefined."""
    mean = fold_targets(task).expression.mean(axis=0)
    return {s.name: MethodPrediction(expression=np.tile(mean, (s.n_spots, 1))) for s in task.test}


def coordinate_neighbours(task: FoldTask, seed: int) -> Predictions:
    """Mean over the ``task.k`` nearest measured spots of the same section (all if there are fewer).

    Raises
    ------
    NotApplicableError
        If no spot of a test section is among the training spots: it applies to folds by spatial blocks.
    """
    targets = fold_targets(task)
    name = np.repeat([s.name for s in task.train], [s.n_spots for s in task.train])[targets.rows]
    xy = np.concatenate([s.xy for s in task.train])[targets.rows]
    unmeasured = [s.name for s in task.test if s.name not in name]
    if unmeasured:
        message = (
            f"No measured spots of the test section {', '.join(unmeasured)}. Use this method with --by block."
        )
        raise NotApplicableError(message)
    predictions = {}
    for spots in task.test:
        bank = np.flatnonzero(name == spots.name)
        near = bank[knn(xy[bank], spots.xy, k=task.k).indices]
        predictions[spots.name] = MethodPrediction(expression=targets.expression[near].mean(axis=1))
    return predictions


def image_neighbours(task: FoldTask, seed: int, *, view: InputView) -> Predictions:
    """Average centred expression over the 40 training spots (or all) with the most similar images, plus the gene mean."""
    inputs, targets = fold_inputs(task, view), fold_targets(task)
    bank = inputs.train[targets.rows]

    def predict(x: Array) -> Array:
        near = knn(bank, x, k=_N_NEIGHBOURS, metric="cosine").indices
        return np.asarray(targets.centred[near].mean(axis=1))

    return _predictions(inputs, predict, targets.gene_mean)


def kernel_ridge(task: FoldTask, seed: int) -> Predictions:
    r"""Kernel ridge regression of centred expression with a Gaussian kernel, without intercept, plus the gene mean.

    .. math:: \hat y(x) = k(x, X) \, (K + 3 I)^{-1} Y, \qquad k(x, x') = \exp(-|x - x'|^2 / (2 q \sigma^2))

    with `q` components of mean variance :math:`\sigma^2`.
    """
    inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
    bank = inputs.train[targets.rows].astype(np.float64)
    gamma = _KERNEL_WIDTH / (bank.shape[1] * bank.var())

    def kernel(x: Array) -> Array:
        return np.asarray(np.exp(-gamma * cdist(x, bank, metric="sqeuclidean")))

    system = kernel(bank) + _KERNEL_ALPHA * np.eye(len(bank))
    weights = linalg.solve(system, targets.centred.astype(np.float64), assume_a="pos")
    return _predictions(inputs, lambda x: kernel(x) @ weights, targets.gene_mean)


def hest_ridge(task: FoldTask, seed: int) -> Predictions:
    """Fit the linear probe of the HEST benchmark: smallest tiles, scaling, 256 components, ridge without intercept.

    All genes get the penalty of the recipe for ``hest-50``, ``100 / (components * genes)``. `MethodPrediction.raw_scale` is
    the recipe's own target, log1p of raw counts.

    Source: Jaume et al., HEST-1k, arXiv 2406.16192; see `hest_ridge_fit` for the differences.
    """
    targets = fold_targets(task)
    dim = dim_of_smallest(task.features.tiles, task.features.dims)
    features = np.concatenate([s.features[:, :dim] for s in task.train])[targets.rows]
    hest = [task.genes.genes.index(gene) for gene in task.genes.sets["hest-50"]]
    raw = np.log1p(targets.counts[:, hest].toarray())
    transform, raw_ridge = hest_ridge_fit(features, raw, N_COMPONENTS)
    x = transform.apply(features)
    ridge = fit_ridge(x, targets.expression, alpha=raw_ridge.alpha, fit_intercept=False)
    predictions = {}
    for spots in task.test:
        x = transform.apply(spots.features[:, :dim])
        predictions[spots.name] = MethodPrediction(
            expression=ridge.predict(x).astype(np.float32), raw_scale=raw_ridge.predict(x).astype(np.float32)
        )
    return predictions


def ridge(task: FoldTask, seed: int, *, view: InputView, alpha: float | None = _ALPHA) -> Predictions:
    """Fit a ridge on principal components of a spot's image.

    Parameters
    ----------
    view
        Image inputs. If they are relative to their section, so is the fitted expression, and predictions add the mean of
        the section means.
    alpha
        Penalty on unscaled components; None chooses it by leaving out one training section at a time, and uses a fixed
        value if there is one training section.
    """
    inputs, targets = fold_inputs(task, view), fold_targets(task)
    is_relative = view.normalisation != "none"
    y = targets.centred if is_relative else targets.expression
    penalty = _penalty(inputs, targets) if alpha is None else alpha / inputs.scale**2
    fitted = fit_ridge(inputs.train[targets.rows], y, alpha=penalty)
    return _predictions(inputs, fitted.predict, targets.gene_mean if is_relative else 0.0)


def negative_binomial_ridge(task: FoldTask, seed: int) -> Predictions:
    """Turn the tuned ridge into a distribution of raw counts: its log-rate (`RatePath`), and a dispersion per gene.

    The dispersion is estimated from training counts around rates of a ridge fitted without their section (or without their
    block of a single section), as for new tissue.
    """
    inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
    x = inputs.train[targets.rows]
    data = (x, targets.expression, targets.counts, targets.totals, targets.section)
    path = fit_rate_path(*data, alpha=_penalty(inputs, targets))
    assigned = assign_groups(task.train, ())
    is_val = np.zeros(len(targets.rows), dtype=bool)
    groups = Groups(group=assigned.group[targets.rows], is_val=is_val, are_blocks=assigned.are_blocks)
    fitted, level, offset = cross_fit(*data, groups, has_ridge=True).at(np.arange(len(x)), x)
    log_rate = log_rate_of(torch.from_numpy(fitted + level)).numpy() + offset
    mu = np.exp(log_rate) * (targets.totals / PER)[:, None]
    theta = dispersion_by_moments(targets.counts, mu).astype(np.float32)
    return {
        name: MethodPrediction(
            expression=path.expression(x),
            counts=CountPrediction(likelihood="nb", rate=np.exp(path.log_rate(x)), theta=theta),
        )
        for name, x in inputs.test.items()
    }


def average(task: FoldTask, seed: int, *, parts: Sequence[Baseline]) -> Predictions:
    """Average several methods, each standardised per section and gene so that all have equal weight."""
    predicted = [part.predict(task, seed) for part in parts]
    return {
        s.name: MethodPrediction(expression=average_of([p[s.name].expression for p in predicted]))
        for s in task.test
    }


def average_of(parts: Sequence[Float32[Array, "n_spots n_genes"]]) -> Float32[Array, "n_spots n_genes"]:
    """Average standardised predictions of one section, and restore the mean location and scale of the parts.

    Location and scale do not affect correlations; they make errors comparable with those of the parts.
    """
    stacked = np.stack(parts).astype(np.float64)
    mean, std = stacked.mean(axis=1, keepdims=True), stacked.std(axis=1, keepdims=True)
    standardised = (stacked - mean) / (std + _STD_FLOOR)
    averaged: Array = standardised.mean(axis=0) * std.mean(axis=0) + mean.mean(axis=0)
    return averaged.astype(np.float32)


class SmallNetwork(nn.Module):
    """One hidden layer, with input noise during training; initial predictions are 0."""

    def __init__(self, n_inputs: int, n_genes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Dropout(_INPUT_DROPOUT), nn.Linear(n_inputs, _HIDDEN), nn.GELU(), nn.Dropout(_HIDDEN_DROPOUT)
        )
        self.out = nn.Linear(_HIDDEN, n_genes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[torch.Tensor, "b n_inputs"]) -> Float[torch.Tensor, "b n_genes"]:
        """Predict every gene of every row."""
        if self.training:
            x = x + _INPUT_NOISE * torch.randn_like(x)
        out: torch.Tensor = self.out(self.hidden(x))
        return out


def squared_error_mlp(task: FoldTask, seed: int) -> Predictions:
    """Average of four small networks fitted to centred log1p(CP10k) by squared error."""
    inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
    y = torch.from_numpy(targets.centred)
    output = _fit_members(
        inputs.train[targets.rows], y.shape[1], lambda out, rows: mse_loss(out, y[rows]), seed
    )
    return _predictions(inputs, output, targets.gene_mean)


def count_mlp(task: FoldTask, seed: int) -> Predictions:
    """Average of four small networks fitted to raw counts by a negative binomial likelihood.

    The log-mean of a count is the log library size, plus the gene's log-rate in the section (so that the network does not
    learn section effects), plus the network's output. New sections use the mean log-rate over the training sections. During
    training the dispersion is that around the section rates; the predicted one is that around the networks' predictions of
    the training spots, which may be too narrow for new tissue.
    """
    inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
    x = inputs.train[targets.rows]
    offsets = log_rate_of_sections(targets.counts, targets.totals, targets.section)
    rank = np.unique(targets.section, return_inverse=True)[1]
    log_base = np.log(targets.totals / PER)[:, None] + offsets[rank]
    around_sections = dispersion_by_moments(targets.counts, np.exp(log_base))
    arrays = (log_base, targets.counts.toarray(), around_sections)
    base, counts, theta = (torch.from_numpy(values).float() for values in arrays)
    output = _fit_members(
        x, counts.shape[1], lambda out, rows: count_loss(base[rows] + out, theta, counts[rows]), seed
    )
    fitted_theta = dispersion_by_moments(targets.counts, np.exp(log_base + output(x))).astype(np.float32)
    predictions = {}
    for name, x_test in inputs.test.items():
        rate = np.exp(output(x_test) + offsets.mean(axis=0)).astype(np.float32)
        predictions[name] = MethodPrediction(
            expression=np.log1p(rate), counts=CountPrediction(likelihood="nb", rate=rate, theta=fitted_theta)
        )
    return predictions


def log_rate_of_sections(
    counts: csr_matrix, totals: Float64[Array, " n"], section: Int64[Array, " n"]
) -> Float64[Array, "n_sections n_genes"]:
    """Log-rate of each gene per 10k counts in each section, in the order of ``np.unique(section)``.

    A gene without counts in a section gets half a count, so that the logarithm is finite.
    """
    indicator = csr_matrix(section == np.unique(section)[:, None], dtype=np.float64)
    observed = np.maximum((indicator @ counts).toarray(), 0.5)
    log_rates: Array = np.log(observed / (indicator @ totals)[:, None] * PER)
    return log_rates


def count_loss(
    log_mu: Float[torch.Tensor, "b n_genes"],
    theta: Float[torch.Tensor, " n_genes"],
    counts: Float[torch.Tensor, "b n_genes"],
) -> Float[torch.Tensor, ""]:
    """Negative binomial negative log-likelihood up to terms without the mean, per spot and gene.

    The omitted gamma functions are constant for a fixed dispersion and would take most of the time.
    """
    return ((counts + theta) * softplus(log_mu - theta.log()) - counts * log_mu).mean()


def _fit_members(
    x: Float32[Array, "n q"],
    n_genes: int,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    seed: int,
) -> Callable[[Array], Array]:
    """Fit small networks to ``loss(output, rows)``; return the function from inputs to their mean output."""
    images = torch.from_numpy(x)
    members = [
        train_network(
            lambda: SmallNetwork(x.shape[1], n_genes),
            lambda network, rows: loss(network(images[rows]), rows),
            len(x),
            _SCHEDULE,
            seed=(seed, member),
        )
        for member in range(_N_MEMBERS)
    ]

    @torch.no_grad()
    def output(inputs: Array) -> Array:
        return np.asarray(torch.stack([m(torch.from_numpy(inputs)) for m in members]).mean(dim=0))

    return output


def _predictions(
    inputs: FoldInputs, predict: Callable[[Array], Array], shift: Float64[Array, " n_genes"] | float
) -> Predictions:
    """Apply a fitted function to every test section, and add `shift`."""
    return {
        name: MethodPrediction(expression=(predict(x) + shift).astype(np.float32))
        for name, x in inputs.test.items()
    }


def _penalty(inputs: FoldInputs, targets: FoldTargets) -> float:
    """Choose the ridge penalty across training sections; fixed for a single section, on scaled components."""
    if len(np.unique(targets.section)) == 1:
        return _ALPHA_IN_CONTEXT / inputs.scale**2
    return choose_penalty(inputs.train[targets.rows], targets.expression, targets.section)


TUNED_RIDGE = Baseline(name="tuned ridge", predict=partial(ridge, view=CONTEXT, alpha=None))
_LINEAR_PARTS = (
    TUNED_RIDGE,
    Baseline(name="image kNN with context", predict=partial(image_neighbours, view=CONTEXT)),
    Baseline(name="RBF kernel ridge", predict=kernel_ridge),
)
_MLPS = (
    Baseline(name="MLP (squared error)", predict=squared_error_mlp, is_seeded=True),
    Baseline(name="MLP (NB counts)", predict=count_mlp, is_seeded=True),
)
BASELINES = (
    Baseline(name="training mean", predict=training_mean),
    Baseline(name="coordinate kNN", predict=coordinate_neighbours),
    Baseline(name="image kNN", predict=partial(image_neighbours, view=InputView())),
    Baseline(name="HEST ridge", predict=hest_ridge),
    *(
        Baseline(name=f"ridge {step}", predict=partial(ridge, view=view))
        for step, view in (
            ("on one scale", InputView(scales="smallest", normalisation="none")),
            ("+ all scales", InputView(normalisation="none")),
            ("+ centring", InputView(normalisation="centred")),
            ("+ standardising", InputView()),
        )
    ),
    TUNED_RIDGE,
    Baseline(name="NB ridge", predict=negative_binomial_ridge),
    Baseline(name="ridge + kNN + RBF", predict=partial(average, parts=_LINEAR_PARTS)),
    *_MLPS,
    Baseline(
        name="ridge + kNN + RBF + MLPs",
        predict=partial(average, parts=(*_LINEAR_PARTS, *_MLPS)),
        is_seeded=True,
    ),
)
"""In the order of the tables; each ridge adds one step to the previous one."""
