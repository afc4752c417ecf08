"""Image features as the models take them: with context, scaled within their section, in principal components."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import diags_array, eye_array

from spam.models.linear import FeatureTransform, neighbour_mean, standardise_per_section
from spam.typing import Array, Bool, Float32, Float64, Num

from .cohort import SpotData

__all__ = ["Components", "InputTransform", "context_features"]

_HOPS = (1, 3)  # the nearest ring, and a wider neighbourhood; chosen in docs/experiments.md


def context_features(spots: SpotData) -> Float32[Array, "n_spots wide"]:
    """Put a spot's own features beside Gaussian means over its neighbourhood.

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
    return np.concatenate(parts, axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """Principal components of features, brought to unit root mean square.

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
    def fit(cls, features: Num[Array, "n wide"], n_components: int) -> "Components":
        """Fit on the features of all training spots."""
        pca = FeatureTransform.fit(features, n_components)
        return cls(pca=pca, scale=float(np.sqrt((pca.apply(features) ** 2).mean())) or 1.0)

    def apply(self, features: Num[Array, "n wide"]) -> Float32[Array, "n n_components"]:
        """Transform features."""
        return (self.pca.apply(features) / self.scale).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputTransform:
    """From the context features of a section to the image inputs of the models; fitted on images of the training cohort.

    A feature is centred within its section and divided by its standard deviation there, or by that of the training
    sections where this is larger: a section whose tissue varies little is not stretched to vary as much as they do
    (docs/experiments.md, "How features are scaled").

    Attributes
    ----------
    spread
        Standard deviation of each context feature within a section, pooled over the training sections.
    components
        Principal components of the scaled features.
    """

    spread: Float64[Array, " wide"]
    components: Components

    @classmethod
    def fit(
        cls,
        sections: Sequence[Float32[Array, "_ wide"]],
        n_components: int,
        *,
        is_fitted: Sequence[Bool[Array, " _"]] | None = None,
    ) -> "InputTransform":
        """Fit on the context features of several sections.

        Parameters
        ----------
        sections
            Context features, section by section.
        n_components
            Components to keep.
        is_fitted
            Spots of each section that spread and components are fitted on; None: all. A section's mean and standard
            deviation are always those of all its spots, as they are of a new section.
        """
        used = is_fitted or [np.ones(len(f), dtype=bool) for f in sections]
        parts = list(zip(sections, used, strict=True))
        # A NaN is told below, with its row, and must not spread to other sections.
        squares = sum(
            np.nansum((f - f.mean(axis=0, dtype=np.float64))[rows] ** 2, axis=0) for f, rows in parts
        )
        spread = np.sqrt(squares / sum(int(rows.sum()) for rows in used))
        scaled = [_scaled(f, spread)[rows] for f, rows in parts]
        return cls(spread=spread, components=Components.fit(np.concatenate(scaled), n_components))

    def apply(self, section: Float32[Array, "n wide"]) -> Float32[Array, "n n_components"]:
        """Transform context features of one section."""
        return self.components.apply(_scaled(section, self.spread))

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays that a checkpoint keeps."""
        return {
            "inputs.spread": self.spread,
            "inputs.mean": self.components.pca.mean,
            "inputs.scale": self.components.pca.scale,
            "inputs.components": self.components.pca.components,
            "inputs.unit": np.asarray([self.components.scale]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> "InputTransform":
        """Rebuild from what `to_tensors` returned."""
        pca = FeatureTransform(
            mean=tensors["inputs.mean"],
            scale=tensors["inputs.scale"],
            components=tensors["inputs.components"],
        )
        components = Components(pca=pca, scale=float(tensors["inputs.unit"][0]))
        return cls(spread=tensors["inputs.spread"], components=components)


def _scaled(section: Float32[Array, "n wide"], spread: Float64[Array, " wide"]) -> Float32[Array, "n wide"]:
    """Centre and scale within the section."""
    return standardise_per_section(section, at_least=spread).astype(np.float32)
