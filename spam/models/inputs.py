"""Image features as the models read them: with spatial context, scaled within their section, as principal components."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import diags_array, eye_array

from spam.errors import StoreError
from spam.typing import Array, Bool, Float32, Float64, Num

from .linear import CsrMatrix, FeatureTransform, neighbour_mean, standardise_per_section

_HOPS = (1, 3)  # the nearest ring, and a wider neighbourhood; chosen in docs/experiments-log.md


def context_features(
    features: Float32[Array, "n_spots dim"], connectivities: CsrMatrix
) -> Float32[Array, "n_spots wide"]:
    """Concatenate a spot's own features with Gaussian-weighted means over its neighbourhood.

    Parameters
    ----------
    features
        Features of the spots of one section.
    connectivities
        Weights of the section's spatial graph; the spot itself is added with weight 1.

    Returns
    -------
    Array of ``3 * dim`` columns: own features, mean over one hop, mean over three hops.
    """
    weights = connectivities.astype(np.float64) + eye_array(len(features), format="csr")
    normalised = (diags_array(1.0 / np.asarray(weights.sum(axis=1)).ravel()) @ weights).tocsr()
    parts = [features, *(neighbour_mean(features, normalised, hops) for hops in _HOPS)]
    return np.concatenate(parts, axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """Principal components of features, divided by one number so that their root mean square is 1.

    The relative sizes of the components stay, so that minor components matter less to a network.
    """

    pca: FeatureTransform
    scale: float

    @classmethod
    def fit(cls, features: Num[Array, "n wide"], n_components: int) -> "Components":
        """Fit on the features of all training spots.

        Raises
        ------
        StoreError
            If the features are constant, or NaN or infinite.
        """
        pca = FeatureTransform.fit(features, n_components)
        if not len(pca.components):
            message = (
                f"The image features of the {len(features)} training spots do not vary within their sections: there is "
                "nothing to learn from. Check the tiles, then run `spam embed --overwrite`, or name other --sections."
            )
            raise StoreError(message)
        return cls(pca=pca, scale=float(np.sqrt((pca.apply(features) ** 2).mean())) or 1.0)

    def apply(self, features: Num[Array, "n wide"]) -> Float32[Array, "n n_components"]:
        """Transform features."""
        return (self.pca.apply(features) / self.scale).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputTransform:
    """Transform the context features of a section into image inputs; fitted on the images of the training cohort.

    A feature is centred within its section and divided by its standard deviation there, or by that of the training
    sections if this is larger: a section with little variation is not stretched to the variation of the training
    sections (docs/experiments-log.md, "How features are scaled").

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
            Spots of each section used to fit spread and components; None: all. The mean and standard deviation of a
            section are always those of all its spots, as they are for a new section.
        """
        used = is_fitted or [np.ones(len(f), dtype=bool) for f in sections]
        parts = list(zip(sections, used, strict=True))
        # `FeatureTransform.fit` reports a NaN with its rows; here it must not spread to other sections.
        squares = sum(
            np.nansum((f - f.mean(axis=0, dtype=np.float64))[rows] ** 2, axis=0) for f, rows in parts
        )
        spread = np.sqrt(squares / sum(int(rows.sum()) for rows in used))
        scaled = [_scaled(f, spread)[rows] for f, rows in parts]
        return cls(spread=spread, components=Components.fit(np.concatenate(scaled), n_components))

    def apply(self, section: Float32[Array, "n wide"]) -> Float32[Array, "n n_components"]:
        """Transform the context features of one section."""
        return self.components.apply(_scaled(section, self.spread))


def _scaled(section: Float32[Array, "n wide"], spread: Float64[Array, " wide"]) -> Float32[Array, "n wide"]:
    """Centre and scale within the section."""
    return standardise_per_section(section, at_least=spread).astype(np.float32)
