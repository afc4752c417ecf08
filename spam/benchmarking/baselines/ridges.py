"""Ridges on frozen features: the HEST recipe, the steps from it to the tuned ridge, and the latter as counts."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from spam.benchmarking.method_inputs import (
    CONTEXT,
    N_COMPONENTS,
    FoldInputs,
    FoldTargets,
    InputView,
    fold_inputs,
    fold_targets,
)
from spam.benchmarking.task import CountPrediction, FoldTask, MethodPrediction
from spam.models.linear import fit_ridge, hest_ridge_fit
from spam.models.rate_path import PER, choose_penalty, dispersion_by_moments, fit_rate_path, log_rate_of
from spam.training.groups import Groups, assign_groups, cross_fit

__all__ = ["TUNED_RIDGE", "HestRidge", "NegativeBinomialRidge", "RidgeStep"]

# Penalty of the measured ladder (docs/experiments.md) on components that are not scaled; three times as many features
# of each spot with its context carry about three times the variance.
_ALPHA, _ALPHA_IN_CONTEXT = 1e4, 3e4


class HestRidge:
    """The linear probe of the HEST benchmark: smallest tiles, scaling, 256 components, ridge without intercept.

    The penalty is that of the recipe for the genes of ``hest-50``, ``100 / (components * genes)``, for all genes of the
    task too. `MethodPrediction.raw_scale` is the recipe's own target, log1p of raw counts.

    Source: Jaume et al., HEST-1k, arXiv 2406.16192; see `hest_ridge_fit` for what differs.
    """

    name = "HEST ridge"
    is_reference = True
    is_seeded = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        targets = fold_targets(task)
        dim = task.features.dims[0]
        features = np.concatenate([s.features[:, :dim] for s in task.train])[targets.rows]
        position = {gene: i for i, gene in enumerate(task.genes.genes)}
        hest = [position[gene] for gene in task.genes.sets["hest-50"]]
        raw = np.log1p(targets.counts[:, hest].toarray())
        transform, raw_ridge = hest_ridge_fit(features, raw, N_COMPONENTS)
        inputs = transform.apply(features)
        ridge = fit_ridge(inputs, targets.expression, alpha=raw_ridge.alpha, fit_intercept=False)
        predictions = {}
        for spots in task.test:
            seen = transform.apply(spots.features[:, :dim])
            predictions[spots.name] = MethodPrediction(
                expression=ridge.predict(seen).astype(np.float32),
                raw_scale=raw_ridge.predict(seen).astype(np.float32),
            )
        return predictions


@dataclasses.dataclass(slots=True, kw_only=True)
class RidgeStep:
    """A ridge on principal components of a spot's image, one step of the way to the tuned ridge.

    Attributes
    ----------
    name
        Name in the tables.
    view
        How it looks at a spot's image.
    is_target_centred
        Whether the target is relative to the mean of its section; if so the mean over the training sections is added
        to the prediction.
    alpha
        Penalty on components that are not scaled; None chooses it by leaving out one training section at a time, and
        takes that of the ladder where there is one section only.
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
    """The tuned ridge as a distribution of raw counts: its log-rate (`RatePath`), and a dispersion for each gene.

    The dispersion is that of the training counts around rates from a ridge that has not seen their section (or their
    block of a lone section), as new tissue will be met.
    """

    name = "NB ridge"
    is_reference = True
    is_seeded = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`."""
        inputs, targets = fold_inputs(task, CONTEXT), fold_targets(task)
        x = inputs.train[targets.rows]
        path = fit_rate_path(
            x,
            targets.expression,
            targets.counts,
            targets.totals,
            targets.section,
            alpha=_penalty(inputs, targets),
        )
        assigned = assign_groups(task.train, ())
        none_held_out = np.zeros(len(targets.rows), dtype=bool)
        groups = Groups(
            group=assigned.group[targets.rows], is_val=none_held_out, are_blocks=assigned.are_blocks
        )
        ridge, level, offset = cross_fit(
            x, targets.expression, targets.counts, targets.totals, targets.section, groups, has_ridge=True
        )
        log_rate = log_rate_of(torch.from_numpy(ridge + level)).numpy() + offset
        mu = np.exp(log_rate) * (targets.totals / PER)[:, None]
        theta = dispersion_by_moments(targets.counts, mu).astype(np.float32)
        predictions = {}
        for name, seen in inputs.test.items():
            rate = np.exp(path.log_rate(seen))
            counts = CountPrediction(likelihood="nb", rate=rate, theta=theta)
            predictions[name] = MethodPrediction(expression=path.expression(seen), counts=counts)
        return predictions


def _penalty(inputs: FoldInputs, targets: FoldTargets) -> float:
    """Choose the penalty inside the training sections; a lone section gets that of the ladder, on scaled components."""
    if len(np.unique(targets.section)) == 1:
        return _ALPHA_IN_CONTEXT / inputs.scale**2
    return choose_penalty(inputs.train[targets.rows], targets.expression, targets.section)
