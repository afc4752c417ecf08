"""What held-out spots say: how many epochs, the weights of the predictors, accuracy and calibration."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spam.models.count_likelihood import Likelihood
from spam.models.rate_path import PER
from spam.models.reliability import HeldOut, judge
from spam.models.stacking import KINDS, Products, choose_weights, stacked, stacked_inflation, stacked_log_rate
from spam.typing import Array, Float32, Float64, Int64

from .training_set import TrainingSet


def best_epoch(history: list[dict[str, float]], tolerance: float) -> int:
    """Last epoch whose loss is less than the tolerance above the lowest before it."""
    loss = np.array([metrics["val_loss"] for metrics in history])
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], loss[:-1]]))
    return int(np.flatnonzero(loss < lowest + tolerance)[-1])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutPredictions:
    """What predictors that were fitted without some spots predict there.

    Attributes
    ----------
    rows
        The held-out spots, (n,).
    patterns
        Log1p(CP10k) minus the section mean, predicted by each of `KINDS`, (n_kinds, n, n_genes).
    level
        Mean log1p(CP10k) that is added, (n_genes,).
    offsets
        Offsets of the log-rate of the ridge and of the network's path, (2, n_genes).
    log_rate
        The network's correction of its log-rate, (n, n_genes).
    theta, pi
        Dispersion per gene and probability of an inflated zero, or None.
    """

    rows: Int64[Array, " n"]
    patterns: Float32[Array, "n_kinds n n_genes"]
    level: Float32[Array, " n_genes"]
    offsets: Float32[Array, "2 n_genes"]
    log_rate: Float32[Array, "n n_genes"]
    theta: Float32[Array, " n_genes"] | None
    pi: Float32[Array, "n n_genes"] | None

    def expression(self, weights: Float64[Array, " n_kinds"]) -> Float32[Array, "n n_genes"]:
        """Weighted sum of the predictions, log1p(CP10k)."""
        expression: Array = self.level + stacked(self.patterns, weights)
        return expression

    def mu(
        self, weights: Float64[Array, " n_kinds"], totals: Float64[Array, " n"]
    ) -> Float64[Array, "n n_genes"]:
        """Expected counts that belong to the weighted sum, at these library sizes."""
        log_rate = stacked_log_rate(self.expression(weights), self.log_rate, self.offsets, weights)
        mu: Array = np.exp(log_rate) * (totals / PER)[:, None]
        return mu


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """What the held-out spots of all folds say.

    Attributes
    ----------
    sections
        Sections with held-out spots.
    is_new_donor
        Whether their donors are known, and were not trained on by the run that held them out.
    weights
        Weights of the predictors, (3,).
    alone
        Correlation of each predictor alone.
    heldout
        Accuracy and calibration.
    """

    sections: tuple[str, ...]
    is_new_donor: bool
    weights: Float64[Array, " n_kinds"]
    alone: dict[str, float]
    heldout: HeldOut


def are_new_donors(donors: Mapping[str, object], held_out: Sequence[str]) -> bool:
    """Whether held-out sections were predicted by models that were trained on other donors alone.

    Parameters
    ----------
    donors
        Donor of each section, None if unknown.
    held_out
        Sections that were held out. If these are all sections, each donor was left out in turn, if there are several.
    """
    held = {donors[name] for name in held_out}
    others = {donor for name, donor in donors.items() if name not in held_out}
    return None not in held | others and (held.isdisjoint(others) if others else len(held) > 1)


def judge_folds(
    parts: list[HeldOutPredictions],
    data: TrainingSet,
    likelihood: Likelihood,
    donors: Mapping[str, object],
) -> Judgement:
    """Choose the weights of the predictors; measure accuracy and calibrate intervals of the weighted sum.

    `donors` has the donor of each section that was trained on, in stage 1 too.
    """
    rows = np.concatenate([part.rows for part in parts])
    left_out = [data.sections_of(np.isin(np.arange(len(data.totals)), part.rows)) for part in parts]
    sections = data.sections_of(np.isin(np.arange(len(data.totals)), rows))
    # Fold by fold: where too little is left without a donor, its sections are left out one by one.
    is_new_donor = all(are_new_donors(donors, names) for names in left_out)
    products = []
    for part in parts:
        section = data.section_of[part.rows]
        products += [
            Products.of(part.patterns[:, section == s], data.expression_of(part.rows[section == s]))
            for s in np.unique(section)
        ]
    weights = choose_weights(products, are_new_donors=is_new_donor)
    alone: dict[str, float] = {
        kind: float(np.mean([p.pearson(w) for p in products]))
        for kind, w in zip(KINDS, np.eye(len(KINDS)), strict=True)
    }
    theta = [np.broadcast_to(part.theta, part.log_rate.shape) for part in parts if part.theta is not None]
    pi = [stacked_inflation(part.pi, weights) for part in parts if part.pi is not None]
    # Folds differ in their level: correlations are taken within each, also where they are blocks of one section.
    fold = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    heldout = judge(
        np.concatenate([part.expression(weights) for part in parts]),
        data.expression_of(rows),
        data.section_of[rows] * len(parts) + fold,
        xy=np.concatenate([spots.xy for spots in data.spots])[rows],
        counts=data.counts[rows].toarray(),
        likelihood=likelihood,
        mu=np.concatenate([part.mu(weights, data.totals[part.rows]) for part in parts]),
        theta=np.concatenate(theta) if theta else None,
        pi=np.concatenate(pi) if pi else None,
    )
    return Judgement(
        sections=sections,
        is_new_donor=is_new_donor,
        weights=weights,
        alone=alone,
        heldout=heldout,
    )
