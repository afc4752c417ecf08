"""The lines that every prediction is shown beside; fitted with the model and kept in its checkpoint."""

import dataclasses

import numpy as np

from spam.models.linear import FeatureTransform, Ridge, fit_ridge, hest_ridge_fit
from spam.typing import Array, Float32

from .dataset import TrainingSet

__all__ = ["Baselines", "fit_baselines"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baselines:
    """Training mean and HEST ridge; the third baseline, the tuned ridge, is fitted on the model's own inputs.

    These are scaled a little otherwise than those of the tuned ridge of `spam benchmark` (`InputTransform`).

    Attributes
    ----------
    mean
        Mean log1p(CP10k) over all training spots, (n_genes,).
    transform
        Scaler and components of the raw features of the smallest tile.
    ridge
        HEST recipe with target log1p(CP10k) of all modelled genes (penalty as for the 50 genes of the HEST board).
    raw_ridge
        HEST recipe with target log1p of raw counts of the genes of ``hest-50``.
    dim
        Number of leading feature columns that the recipe reads: one tile size.
    """

    mean: Float32[Array, " n_genes"]
    transform: FeatureTransform
    ridge: Ridge
    raw_ridge: Ridge
    dim: int

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays that a checkpoint keeps."""
        return {
            "baseline.mean": self.mean,
            "baseline.dim": np.asarray([self.dim]),
            "baseline.scaler_mean": self.transform.mean,
            "baseline.scaler_scale": self.transform.scale,
            "baseline.components": self.transform.components,
            "baseline.ridge": self.ridge.coefficients,
            "baseline.raw_ridge": self.raw_ridge.coefficients,
            "baseline.alpha": np.asarray([self.ridge.alpha]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> "Baselines":
        """Rebuild from what `to_tensors` returned."""
        alpha = float(tensors["baseline.alpha"][0])
        ridge, raw = tensors["baseline.ridge"], tensors["baseline.raw_ridge"]
        return cls(
            mean=tensors["baseline.mean"],
            transform=FeatureTransform(
                mean=tensors["baseline.scaler_mean"],
                scale=tensors["baseline.scaler_scale"],
                components=tensors["baseline.components"],
            ),
            ridge=Ridge(coefficients=ridge, intercept=np.zeros(ridge.shape[1]), alpha=alpha),
            raw_ridge=Ridge(coefficients=raw, intercept=np.zeros(raw.shape[1]), alpha=alpha),
            dim=int(tensors["baseline.dim"][0]),
        )


def fit_baselines(data: TrainingSet) -> Baselines:
    """Fit on every section of the cohort, held-out ones included: a baseline has no epochs to choose."""
    rows = np.flatnonzero(data.totals > 0)
    dim = data.features.dims[0]
    features = np.concatenate([s.features[:, :dim] for s in data.spots])[rows]
    position = {gene: i for i, gene in enumerate(data.genes.genes)}
    hest = [position[gene] for gene in data.genes.sets["hest-50"]]
    raw = np.log1p(data.counts[rows][:, hest].toarray())
    transform, raw_ridge = hest_ridge_fit(features, raw)
    # HEST's recipe scores 50 genes at a time; all modelled genes together get the penalty that 50 would.
    inputs = transform.apply(features)
    ridge = fit_ridge(inputs, data.expression[rows], alpha=raw_ridge.alpha, fit_intercept=False)
    return Baselines(
        mean=data.expression[rows].mean(axis=0),
        transform=transform,
        ridge=ridge,
        raw_ridge=raw_ridge,
        dim=dim,
    )
