"""Baselines that a model has to beat: means, nearest neighbours, ridges, their averages, and small networks."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import linalg
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn.functional import mse_loss, softplus

from spam.errors import NotApplicableError
from spam.graphs import knn
from spam.hardware import seeded
from spam.models.linear import fit_ridge, hest_ridge_fit
from spam.models.rate_path import PER, choose_penalty, dispersion_by_moments, fit_rate_path, log_rate_of
from spam.training.groups import Groups, assign_groups, cross_fit
from spam.typing import Array, Float, Float32, Float64, Int64

from .folds import FoldTask
from .methods import (
    CONTEXT,
    CPU,
    N_COMPONENTS,
    CountPrediction,
    FoldInputs,
    FoldTargets,
    InputView,
    Method,
    MethodPrediction,
    Schedule,
    fold_inputs,
    fold_targets,
    train_network,
)

# All settings of this chapter were chosen on the measured ladder of docs/experiments.md.
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


class TrainingMean:
    """Mean log1p(CP10k) over all training spots; its correlations are undefined."""

    name = "training mean"
    is_reference = True
    is_seeded = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        mean = fold_targets(task).expression.mean(axis=0)
        return {
            spots.name: MethodPrediction(expression=np.tile(mean, (spots.n_spots, 1))) for spots in task.test
        }


class CoordinateNeighbours:
    """Mean over the ``task.k`` nearest measured spots of the same section (all if there are fewer).

    Applies only if a part of the test section is measured: folds by spatial blocks.
    """

    name = "coordinate kNN"
    is_reference = True
    is_seeded = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`.

        Raises
        ------
        NotApplicableError
            If no spot of a test section is among the training spots.
        """
        targets = fold_targets(task)
        name = np.repeat([s.name for s in task.train], [s.n_spots for s in task.train])[targets.rows]
        xy = np.concatenate([s.xy for s in task.train])[targets.rows]
        unmeasured = [s.name for s in task.test if s.name not in name]
        if unmeasured:
            message = (
                f"{self.name!r} needs measured spots of the test section, and fold {task.name!r} has none of "
                f"{', '.join(unmeasured)}. Use it with --by block."
            )
            raise NotApplicableError(message)
        predictions = {}
        for spots in task.test:
            bank = np.flatnonzero(name == spots.name)
            near = bank[knn(xy[bank], spots.xy, k=task.k).indices]
            predictions[spots.name] = MethodPrediction(expression=targets.expression[near].mean(axis=1))
        return predictions


@dataclasses.dataclass(slots=True, kw_only=True)
class ImageNeighbours:
    """Mean centred expression of the 40 training spots with the most similar images (cosine), plus the gene mean.

    Averages all training spots if there are fewer.
    """

    name: str = "image kNN"
    view: InputView = dataclasses.field(default_factory=InputView)
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, self.view), fold_targets(task)
        bank = inputs.train[targets.rows]
        return _centred_predictions(
            targets,
            {
                name: targets.centred[knn(bank, x, k=_N_NEIGHBOURS, metric="cosine").indices].mean(axis=1)
                for name, x in inputs.test.items()
            },
        )


@dataclasses.dataclass(slots=True, kw_only=True)
class KernelRidge:
    r"""Kernel ridge regression of centred expression with a Gaussian kernel, without intercept, plus the gene mean.

    .. math:: \hat y(x) = k(x, X) \, (K + 3 I)^{-1} Y, \qquad k(x, x') = \exp(-|x - x'|^2 / (2 q \sigma^2))

    with `q` components of mean variance :math:`\sigma^2`.
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

        def kernel(x: Array) -> Array:
            return np.exp(-gamma * cdist(x, bank, metric="sqeuclidean"))

        system = kernel(bank) + _KERNEL_ALPHA * np.eye(len(bank))
        weights = linalg.solve(system, targets.centred.astype(np.float64), assume_a="pos")
        return _centred_predictions(targets, {name: kernel(x) @ weights for name, x in inputs.test.items()})


class HestRidge:
    """The linear probe of the HEST benchmark: smallest tiles, scaling, 256 components, ridge without intercept.

    All genes get the penalty of the recipe for ``hest-50``, ``100 / (components * genes)``. `MethodPrediction.raw_scale` is
    the recipe's own target, log1p of raw counts.

    Source: Jaume et al., HEST-1k, arXiv 2406.16192; see `hest_ridge_fit` for the differences.
    """

    name = "HEST ridge"
    is_reference = True
    is_seeded = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        targets = fold_targets(task)
        dim = task.features.dims[0]
        features = np.concatenate([s.features[:, :dim] for s in task.train])[targets.rows]
        hest = [task.genes.genes.index(gene) for gene in task.genes.sets["hest-50"]]
        raw = np.log1p(targets.counts[:, hest].toarray())
        transform, raw_ridge = hest_ridge_fit(features, raw, N_COMPONENTS)
        ridge = fit_ridge(
            transform.apply(features), targets.expression, alpha=raw_ridge.alpha, fit_intercept=False
        )
        predictions = {}
        for spots in task.test:
            x = transform.apply(spots.features[:, :dim])
            predictions[spots.name] = MethodPrediction(
                expression=ridge.predict(x).astype(np.float32),
                raw_scale=raw_ridge.predict(x).astype(np.float32),
            )
        return predictions


@dataclasses.dataclass(slots=True, kw_only=True)
class RidgeStep:
    """A ridge on principal components of a spot's image, one step towards the tuned ridge.

    Attributes
    ----------
    name
        Name in the tables.
    view
        Image inputs.
    is_target_centred
        Whether to fit expression minus the section mean; predictions then add the mean of the section means.
    alpha
        Penalty on unscaled components; None chooses it by leaving out one training section at a time, and uses a fixed
        value if there is one training section.
    """

    name: str
    view: InputView
    is_target_centred: bool = True
    alpha: float | None = _ALPHA
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, self.view), fold_targets(task)
        y = targets.centred if self.is_target_centred else targets.expression
        alpha = _penalty(inputs, targets) if self.alpha is None else self.alpha / inputs.scale**2
        ridge = fit_ridge(inputs.train[targets.rows], y, alpha=alpha)
        shift = targets.gene_mean if self.is_target_centred else 0.0
        return {
            name: MethodPrediction(expression=(ridge.predict(x) + shift).astype(np.float32))
            for name, x in inputs.test.items()
        }


TUNED_RIDGE = RidgeStep(name="tuned ridge", view=CONTEXT, alpha=None)


class NegativeBinomialRidge:
    """The tuned ridge as a distribution of raw counts: its log-rate (`RatePath`), and a dispersion per gene.

    The dispersion is estimated from training counts around rates of a ridge fitted without their section (or without their
    block of a single section), as for new tissue.
    """

    name = "NB ridge"
    is_reference = True
    is_seeded = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
        x = inputs.train[targets.rows]
        data = (x, targets.expression, targets.counts, targets.totals, targets.section)
        path = fit_rate_path(*data, alpha=_penalty(inputs, targets))
        assigned = assign_groups(task.train, ())
        groups = Groups(
            group=assigned.group[targets.rows],
            is_val=np.zeros(len(targets.rows), dtype=bool),
            are_blocks=assigned.are_blocks,
        )
        ridge, level, offset = cross_fit(*data, groups, has_ridge=True)
        log_rate = log_rate_of(torch.from_numpy(ridge + level)).numpy() + offset
        mu = np.exp(log_rate) * (targets.totals / PER)[:, None]
        theta = dispersion_by_moments(targets.counts, mu).astype(np.float32)
        return {
            name: MethodPrediction(
                expression=path.expression(x),
                counts=CountPrediction(likelihood="nb", rate=np.exp(path.log_rate(x)), theta=theta),
            )
            for name, x in inputs.test.items()
        }


@dataclasses.dataclass(slots=True, kw_only=True)
class Average:
    """Average of several methods, each standardised per section and gene so that all have equal weight."""

    name: str
    parts: tuple[Method, ...]
    is_seeded: bool
    is_reference: bool = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        predicted = [part.fit_predict(task, seed=seed) for part in self.parts]
        return {
            spots.name: MethodPrediction(expression=average_of([p[spots.name].expression for p in predicted]))
            for spots in task.test
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
            nn.Dropout(_INPUT_DROPOUT),
            nn.Linear(n_inputs, _HIDDEN),
            nn.GELU(),
            nn.Dropout(_HIDDEN_DROPOUT),
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


class SquaredErrorMlp:
    """Average of four small networks fitted to centred log1p(CP10k) by squared error."""

    name = "MLP (squared error)"
    is_reference = True
    is_seeded = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
        x, y = torch.from_numpy(inputs.train[targets.rows]), torch.from_numpy(targets.centred)
        members = []
        for member in range(_N_MEMBERS):
            with seeded(seed, member, device=CPU):
                network = SmallNetwork(x.shape[1], y.shape[1])

            def loss(rows: torch.Tensor, network: SmallNetwork = network) -> torch.Tensor:
                return mse_loss(network(x[rows]), y[rows])

            train_network(network, loss, len(x), _SCHEDULE, seed=(seed, member))
            members.append(network)
        return _centred_predictions(
            targets, {name: _mean_output(members, x) for name, x in inputs.test.items()}
        )


class CountMlp:
    """Average of four small networks fitted to raw counts by a negative binomial likelihood.

    The log-mean of a count is the log library size, plus the gene's log-rate in the section (so that the network does not
    learn section effects), plus the network's output. New sections use the mean log-rate over the training sections. During
    training the dispersion is that around the section rates; the predicted one is that around the networks' predictions of
    the training spots, which may be too narrow for new tissue.
    """

    name = "MLP (NB counts)"
    is_reference = True
    is_seeded = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
        x = inputs.train[targets.rows]
        offsets = log_rate_of_sections(targets.counts, targets.totals, targets.section)
        rank = np.unique(targets.section, return_inverse=True)[1]
        log_base = np.log(targets.totals / PER)[:, None] + offsets[rank]
        members = [_fit_counts(x, targets, log_base, seed=(seed, member)) for member in range(_N_MEMBERS)]
        fitted = np.exp(log_base + _mean_output(members, x))
        theta = dispersion_by_moments(targets.counts, fitted).astype(np.float32)
        predictions = {}
        for name, seen in inputs.test.items():
            rate = np.exp(_mean_output(members, seen) + offsets.mean(axis=0)).astype(np.float32)
            predictions[name] = MethodPrediction(
                expression=np.log1p(rate), counts=CountPrediction(likelihood="nb", rate=rate, theta=theta)
            )
        return predictions


def log_rate_of_sections(
    counts: csr_matrix, totals: Float64[Array, " n"], section: Int64[Array, " n"]
) -> Float64[Array, "n_sections n_genes"]:
    """Log-rate of each gene per 10k counts in each section, in the order of ``np.unique(section)``.

    A gene without counts in a section gets half a count, so that the logarithm is finite.
    """
    rates = []
    for number in np.unique(section):
        rows = section == number
        observed = np.asarray(counts[rows].sum(axis=0), dtype=np.float64).ravel()
        rates.append(np.maximum(observed, 0.5) / totals[rows].sum() * PER)
    log_rates: Array = np.log(np.stack(rates))
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


def _fit_counts(
    x: Float32[Array, "n q"],
    targets: FoldTargets,
    log_base: Float64[Array, "n n_genes"],
    *,
    seed: tuple[int, ...],
) -> SmallNetwork:
    """Fit one member to the counts with fixed dispersions."""
    images, base = torch.from_numpy(x), torch.from_numpy(log_base).float()
    counts = torch.from_numpy(targets.counts.toarray()).float()
    theta = torch.from_numpy(dispersion_by_moments(targets.counts, np.exp(log_base))).float()
    with seeded(*seed, device=CPU):
        network = SmallNetwork(x.shape[1], counts.shape[1])

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return count_loss(base[rows] + network(images[rows]), theta, counts[rows])

    train_network(network, loss, len(x), _SCHEDULE, seed=seed)
    return network


@torch.no_grad()
def _mean_output(networks: list[SmallNetwork], x: Float32[Array, "n q"]) -> Float32[Array, "n n_genes"]:
    outputs = torch.stack([network(torch.from_numpy(x)) for network in networks])
    mean: Array = outputs.mean(dim=0).numpy()
    return mean


def _centred_predictions(targets: FoldTargets, centred: Mapping[str, Array]) -> dict[str, MethodPrediction]:
    """Add the mean of the section means to predictions of centred expression."""
    return {
        name: MethodPrediction(expression=(values + targets.gene_mean).astype(np.float32))
        for name, values in centred.items()
    }


def _penalty(inputs: FoldInputs, targets: FoldTargets) -> float:
    """Choose the ridge penalty across training sections; fixed for a single section, on scaled components."""
    if len(np.unique(targets.section)) == 1:
        return _ALPHA_IN_CONTEXT / inputs.scale**2
    return choose_penalty(inputs.train[targets.rows], targets.expression, targets.section)


_LINEAR_PARTS = (TUNED_RIDGE, ImageNeighbours(view=CONTEXT), KernelRidge())
_MLPS = (SquaredErrorMlp(), CountMlp())

BASELINES: tuple[Method, ...] = (
    TrainingMean(),
    CoordinateNeighbours(),
    ImageNeighbours(),
    HestRidge(),
    RidgeStep(
        name="ridge on one scale",
        view=InputView(scales="smallest", normalisation="none"),
        is_target_centred=False,
    ),
    RidgeStep(name="ridge + all scales", view=InputView(normalisation="none"), is_target_centred=False),
    RidgeStep(name="ridge + centring", view=InputView(normalisation="centred")),
    RidgeStep(name="ridge + standardising", view=InputView()),
    TUNED_RIDGE,
    NegativeBinomialRidge(),
    Average(name="ridge + kNN + RBF", parts=_LINEAR_PARTS, is_seeded=False),
    *_MLPS,
    Average(name="ridge + kNN + RBF + MLPs", parts=(*_LINEAR_PARTS, *_MLPS), is_seeded=True),
)
"""In the order of the tables; each ridge adds one step to the previous one."""
