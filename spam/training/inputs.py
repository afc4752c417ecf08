"""Image features as the models take them: with context, standardised per section, in principal components."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import diags_array, eye_array

from spam.models.linear import FeatureTransform, neighbour_mean, standardise_per_section
from spam.typing import Array, Float32

from .cohort import SpotData

__all__ = ["InputTransform", "context_features"]

_HOPS = (1, 3)  # the nearest ring, and a wider neighbourhood; chosen in docs/experiments.md


def context_features(spots: SpotData) -> Float32[Array, "n_spots wide"]:
    """Put a spot's own features beside Gaussian means over its neighbourhood, standardised within the section.

    The statistics come from images alone, so a new section is treated like a training section, counts or not.

    Returns
    -------
    Array of ``(1 + 2) * dim`` columns: own features, mean over one hop, mean over three hops.
    """
    weights = spots.graph.connectivities.astype(np.float64) + eye_array(spots.n_spots, format="csr")
    row_sums = np.asarray(weights.sum(axis=1)).ravel()
    normalised = (
        diags_array(1.0 / row_sums) @ weights
    ).tocsr()  # the spot itself has weight 1, so no row is empty
    parts = [spots.features, *(neighbour_mean(spots.features, normalised, hops) for hops in _HOPS)]
    return standardise_per_section(np.concatenate(parts, axis=1)).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputTransform:
    """Principal components of context features, fitted on images of the training cohort and kept in the checkpoint.

    Attributes
    ----------
    pca
        Scaler and components.
    scale
        One number that brings the components to unit root mean square; their relative sizes stay, so that minor
        components matter less to a network.
    """

    pca: FeatureTransform
    scale: float

    @classmethod
    def fit(cls, features: Sequence[Float32[Array, "..."]], n_components: int) -> "InputTransform":
        """Fit on the context features of several sections."""
        pooled = np.concatenate(features)
        pca = FeatureTransform.fit(pooled, n_components)
        return cls(pca=pca, scale=float(np.sqrt((pca.apply(pooled) ** 2).mean())) or 1.0)

    def apply(self, features: Float32[Array, "n wide"]) -> Float32[Array, "n n_components"]:
        """Transform context features of one section."""
        return (self.pca.apply(features) / self.scale).astype(np.float32)

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays that a checkpoint keeps."""
        return {
            "inputs.mean": self.pca.mean,
            "inputs.scale": self.pca.scale,
            "inputs.components": self.pca.components,
            "inputs.unit": np.asarray([self.scale]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> "InputTransform":
        """Rebuild from what `to_tensors` returned."""
        pca = FeatureTransform(
            mean=tensors["inputs.mean"],
            scale=tensors["inputs.scale"],
            components=tensors["inputs.components"],
        )
        return cls(pca=pca, scale=float(tensors["inputs.unit"][0]))
