"""The images and places of a fold as tensors; no counts are in them."""

import dataclasses

import numpy as np
import torch

from spam.benchmarking.method_inputs import InputView, fold_inputs
from spam.benchmarking.task import FoldTask
from spam.training.cohort import cohort_neighbours
from spam.typing import Array, Bool, Float, Int64

__all__ = ["FoldTensors", "fold_tensors"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldTensors:
    """All spots of a fold, those of the training sections first, as in `FoldInputs` and `FoldTargets`.

    Attributes
    ----------
    inputs
        Principal components of the images, (n, q).
    section
        Number of each spot's section, (n,).
    place
        Coordinates relative to the section's centre, in units of its spread, (n, 2).
    neighbours
        Rows of each spot's nearest spots in its section, nearest first, (n, t); unused places hold 0.
    offset
        Where they lie relative to the spot, see `NeighbourTable`, (n, t, 3).
    is_usable
        False at unused places, (n, t).
    test_rows
        Rows of each test section by name.
    """

    inputs: Float[torch.Tensor, "n q"]
    section: Int64[torch.Tensor, " n"]
    place: Float[torch.Tensor, "n 2"]
    neighbours: Int64[torch.Tensor, "n t"]
    offset: Float[torch.Tensor, "n t 3"]
    is_usable: Bool[torch.Tensor, "n t"]
    test_rows: dict[str, torch.Tensor]


def fold_tensors(task: FoldTask, view: InputView) -> FoldTensors:
    """Lay out a fold; components are fitted on the training sections' images."""
    spots = (*task.train, *task.test)
    inputs = fold_inputs(task, view)
    near = cohort_neighbours(spots, task.k)
    sizes = [s.n_spots for s in spots]
    rows = torch.arange(sum(sizes)).split(sizes)  # type: ignore[no-untyped-call]
    tests = zip(task.test, rows[len(task.train) :], strict=True)
    return FoldTensors(
        inputs=torch.from_numpy(np.concatenate([inputs.train, *(inputs.test[s.name] for s in task.test)])),
        section=torch.repeat_interleave(torch.arange(len(spots)), torch.tensor(sizes)),
        place=torch.from_numpy(np.concatenate([_centred(s.xy) for s in spots])),
        neighbours=torch.from_numpy(near.index),
        offset=torch.from_numpy(near.relation),
        is_usable=torch.from_numpy(near.is_usable),
        test_rows={s.name: section_rows for s, section_rows in tests},
    )


def _centred(xy: Array) -> Array:
    """Centre coordinates and divide by their root mean square; a spot alone lies at 0."""
    centred = xy - xy.mean(axis=0)
    scaled: Array = centred / (np.sqrt((centred**2).mean()) or 1.0)
    return scaled.astype(np.float32)
