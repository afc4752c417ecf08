"""The average of several methods, each brought to the same scale first."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spam.benchmarking.task import FoldTask, Method, MethodPrediction
from spam.typing import Array, Float32

__all__ = ["Average", "average_of"]

_STD_FLOOR = 1e-9  # a prediction that does not vary in a section stays at its mean


@dataclasses.dataclass(slots=True, kw_only=True)
class Average:
    """Averages methods per section and gene after standardising each, so that no part outweighs another by its scale.

    Attributes
    ----------
    name
        Name in the tables.
    parts
        What is averaged.
    is_seeded
        Whether a part is.
    """

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
    """Average standardised predictions of one section, and give the result the parts' mean location and scale.

    Location and scale change no correlation; they make the errors of an average comparable with those of its parts.
    """
    stacked = np.stack(parts).astype(np.float64)
    mean, std = stacked.mean(axis=1, keepdims=True), stacked.std(axis=1, keepdims=True)
    standardised = (stacked - mean) / (std + _STD_FLOOR)
    averaged: Array = standardised.mean(axis=0) * std.mean(axis=0) + mean.mean(axis=0)
    return averaged.astype(np.float32)
