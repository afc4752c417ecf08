"""Two lines that look at no image: the mean of the training spots, and the nearest measured spots."""

from collections.abc import Mapping

import numpy as np

from spam.benchmarking.method_inputs import fold_targets
from spam.benchmarking.task import FoldTask, MethodPrediction
from spam.errors import NotApplicableError
from spam.graphs import knn

__all__ = ["CoordinateNeighbours", "TrainingMean"]


class TrainingMean:
    """Predicts the mean log1p(CP10k) over all training spots, everywhere; its correlations are undefined."""

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
    """Predicts the mean over the ``task.k`` nearest measured spots of the same section.

    It can say something only where a part of the test section is measured (folds by spatial blocks). Where fewer than
    ``task.k`` spots are measured, all of them are averaged.
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
                f"{self.name!r} is not applicable to fold {task.name!r}: it needs measured spots of the section that it "
                f"predicts, and none of {', '.join(unmeasured)} is among the training spots; use folds by spatial blocks "
                "of one section, or leave this method out"
            )
            raise NotApplicableError(message)
        predictions = {}
        for spots in task.test:
            bank = np.flatnonzero(name == spots.name)
            near = bank[knn(xy[bank], spots.xy, k=task.k).indices]
            predictions[spots.name] = MethodPrediction(expression=targets.expression[near].mean(axis=1))
        return predictions
