"""How unlike the image of a spot is to all that was trained on."""

import dataclasses

import numpy as np

from spam.graphs import knn
from spam.models.linear import FeatureTransform
from spam.typing import Array, Bool, Float32, Float64, Int

from .dataset import TrainingSet

__all__ = ["AppearanceBank", "fit_appearance"]

_N_COMPONENTS = 32  # so few that foreign tissue leaves a remainder (docs/experiments.md)
_NEIGHBOUR = 5  # the fifth nearest: one odd training spot does not make its like familiar
_QUANTILE = 0.99  # of the distances that an unseen training section shows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AppearanceBank:
    """Images of the training spots, as they are: not standardised within their section, which would hide a foreign stain.

    Features of all tile sizes are scaled by their spread over the training spots and described by their principal
    components and, as one more coordinate, by the length of what these leave out. The distance of a spot is that to its
    fifth nearest training spot. Its unit is the .99 quantile of the distances that training spots have to those of
    other groups (sections, or blocks of a lone section): of an unseen section like these, one spot in a hundred is
    expected beyond 1.

    Relative to the paper (Sun et al. 2022, arXiv 2204.06507): features are scaled and described by components, not
    brought to length 1, which hid foreign tissue here; the border comes from sections left out, since spots of one
    section are alike.

    Attributes
    ----------
    transform
        Scaler and components.
    bank
        Coordinates of the training spots, (m, q + 1).
    unit
        Distance that counts as 1.
    """

    transform: FeatureTransform
    bank: Float32[Array, "m q_plus_1"]
    unit: float

    def distance(self, features: Float32[Array, "n d"], is_usable: Bool[Array, " m"]) -> Float64[Array, " n"]:
        """Distance of new spots: above 1 they are out of distribution. NaN where there is no spot to compare with.

        Parameters
        ----------
        features
            Features of all tile sizes side by side.
        is_usable
            Training spots to compare with: a training section is not compared with itself.
        """
        points = _coordinates(self.transform, features)
        return _distance_to(self.bank[is_usable], points) / self.unit

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays that a checkpoint keeps."""
        return {
            "appearance.mean": self.transform.mean,
            "appearance.scale": self.transform.scale,
            "appearance.components": self.transform.components,
            "appearance.bank": self.bank,
            "appearance.unit": np.asarray([self.unit]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> "AppearanceBank":
        """Rebuild from what `to_tensors` returned."""
        return cls(
            transform=FeatureTransform(
                mean=tensors["appearance.mean"],
                scale=tensors["appearance.scale"],
                components=tensors["appearance.components"],
            ),
            bank=tensors["appearance.bank"],
            unit=float(tensors["appearance.unit"][0]),
        )


def fit_appearance(data: TrainingSet) -> AppearanceBank:
    """Describe all spots with counts, in their order, and measure how far those of one group are from the others."""
    rows = np.flatnonzero(data.totals > 0)
    features = np.concatenate([spots.features for spots in data.spots])[rows]
    transform = FeatureTransform.fit(features, _N_COMPONENTS)
    bank = _coordinates(transform, features)
    group: Int[Array, " m"] = data.groups.group[rows]
    left_out = [_distance_to(bank[group != g], bank[group == g]) for g in np.unique(group)]
    # Images that are all the same have no distance; then any other image is far.
    unit = max(float(np.quantile(np.concatenate(left_out), _QUANTILE)), float(np.finfo(np.float32).tiny))
    return AppearanceBank(transform=transform, bank=bank, unit=unit)


def _coordinates(
    transform: FeatureTransform, features: Float32[Array, "n d"]
) -> Float32[Array, "n q_plus_1"]:
    """Principal components, and the length of what they leave out."""
    inside = transform.apply(features)
    whole = (((features - transform.mean) / transform.scale) ** 2).sum(axis=1)
    outside = np.sqrt(np.maximum(whole - (inside**2).sum(axis=1), 0.0))
    return np.column_stack([inside, outside]).astype(np.float32)


def _distance_to(bank: Float32[Array, "m q"], points: Float32[Array, "n q"]) -> Float64[Array, " n"]:
    """Distance to the fifth nearest of the bank, or to the farthest of fewer; NaN without any."""
    if not len(bank):
        return np.full(len(points), np.nan)
    k = min(_NEIGHBOUR, len(bank))
    return knn(bank, points, k=k).distances[:, k - 1].astype(np.float64)
