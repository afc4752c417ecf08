"""Small networks on the inputs of the tuned ridge: one hidden layer, strong regularisation, an average over seeds."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn.functional import mse_loss, softplus

from spam.benchmarking.method_inputs import CONTEXT, FoldTargets, fold_inputs, fold_targets
from spam.benchmarking.method_training import CPU, Schedule, train_network
from spam.benchmarking.task import CountPrediction, FoldTask, MethodPrediction
from spam.hardware import seeded
from spam.models.rate_path import PER, dispersion_by_moments
from spam.typing import Array, Float, Float32, Float64, Int64

__all__ = ["CountMlp", "SmallNetwork", "SquaredErrorMlp", "count_loss", "log_rate_of_sections"]

# The settings that were measured first (docs/experiments.md).
_HIDDEN = 128
_INPUT_DROPOUT, _HIDDEN_DROPOUT = 0.3, 0.4
_INPUT_NOISE = 0.1  # standard deviation, in units of the inputs' root mean square
_N_MEMBERS = 4
_SCHEDULE = Schedule(epochs=60)


class SmallNetwork(nn.Module):
    """One hidden layer; starts as a network that predicts 0, and sees noisy inputs in training."""

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
    """Four small networks, averaged, that fit centred log1p(CP10k) by squared error."""

    name = "MLP (squared error)"
    is_reference = True
    is_seeded = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
        x = torch.from_numpy(inputs.train[targets.rows])
        y = torch.from_numpy(targets.centred)
        members = []
        for member in range(_N_MEMBERS):
            with seeded(seed, member, device=CPU):
                network = SmallNetwork(x.shape[1], y.shape[1])

            def loss(rows: torch.Tensor, network: SmallNetwork = network) -> torch.Tensor:
                return mse_loss(network(x[rows]), y[rows])

            train_network(network, loss, torch.arange(len(x)), _SCHEDULE, seed=(seed, member))
            members.append(network)
        return {
            name: MethodPrediction(
                expression=(_mean_output(members, seen) + targets.gene_mean).astype(np.float32)
            )
            for name, seen in inputs.test.items()
        }


class CountMlp:
    """Four small networks, averaged, that fit raw counts by a negative binomial likelihood.

    The log-mean of a spot's count is that of its library size, plus the log-rate of the gene in its section (so the
    network need not learn how sections differ), plus the network's output. New sections get the mean log-rate over the
    training sections. A gene's dispersion while networks learn is that around the sections' rates; the one that is
    stated is that around the networks' predictions of the training spots, so it may be too narrow for new tissue.
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
    """Logarithm of each section's rate of each gene per 10k counts, in the order of ``np.unique(section)``.

    A gene without a count in a section gets half a count there, so that the logarithm is finite.
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
    """Negative log-likelihood of a negative binomial as far as it depends on the mean, per spot and gene.

    The gamma functions of the rest would take most of the time, and say nothing where dispersions are given.
    """
    return ((counts + theta) * softplus(log_mu - theta.log()) - counts * log_mu).mean()


def _fit_counts(
    x: Float32[Array, "n q"],
    targets: FoldTargets,
    log_base: Float64[Array, "n n_genes"],
    *,
    seed: tuple[int, ...],
) -> SmallNetwork:
    """Fit one member to the counts, dispersions held fixed."""
    images, base = torch.from_numpy(x), torch.from_numpy(log_base).float()
    counts = torch.from_numpy(targets.counts.toarray()).float()
    theta = torch.from_numpy(dispersion_by_moments(targets.counts, np.exp(log_base))).float()
    with seeded(*seed, device=CPU):
        network = SmallNetwork(x.shape[1], counts.shape[1])

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return count_loss(base[rows] + network(images[rows]), theta, counts[rows])

    train_network(network, loss, torch.arange(len(x)), _SCHEDULE, seed=seed)
    return network


@torch.no_grad()
def _mean_output(networks: list[SmallNetwork], x: Float32[Array, "n q"]) -> Float32[Array, "n n_genes"]:
    """Average the outputs of several networks."""
    outputs = torch.stack([network(torch.from_numpy(x)) for network in networks])
    mean: Array = outputs.mean(dim=0).numpy()
    return mean
