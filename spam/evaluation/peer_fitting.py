"""How peers of the benchmark are fitted: all in the same way, whatever their network.

Epochs are chosen inside the training groups, then networks are fitted on all training spots and averaged.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import mse_loss

from spam.models.linear import pearson_per_gene
from spam.training.cohort import cohort_neighbours
from spam.training.groups import assign_groups
from spam.typing import Array, Bool, Float, Int64

from .boards import MethodPrediction
from .folds import FoldTask
from .methods import FoldTargets, InputView, Schedule, fold_inputs, fold_targets, train_network

Rows: TypeAlias = Int64[torch.Tensor, " b"]  # of a fold
Values: TypeAlias = Float[torch.Tensor, "b n_genes"]
References: TypeAlias = Float[torch.Tensor, "m n_genes"]
Scalar: TypeAlias = Float[torch.Tensor, ""]

_N_MEMBERS = 3  # networks that are averaged
_EVERY = 4  # epochs between evaluations of the held-out group
_BATCH = 512  # rows per prediction batch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldTensors:
    """Images and coordinates of all spots of a fold, training sections first; no counts.

    Attributes
    ----------
    inputs
        Principal components of the images, (n, q).
    section
        Index of each spot's section, (n,).
    place
        Coordinates relative to the section's centre, divided by their root mean square, (n, 2).
    neighbours
        Rows of each spot's nearest spots in its section, nearest first, (n, t); unused entries are 0.
    offset
        Relative positions of the neighbours, see `TokenTable`, (n, t, 3).
    is_usable
        False for unused entries, (n, t).
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
    """Collect the tensors of a fold; components are fitted on the training images."""
    spots = (*task.train, *task.test)
    inputs = fold_inputs(task, view)
    near = cohort_neighbours(spots, task.k)
    sizes = [s.n_spots for s in spots]
    rows = torch.arange(sum(sizes)).split(sizes)  # type: ignore[no-untyped-call]
    return FoldTensors(
        inputs=torch.from_numpy(np.concatenate([inputs.train, *(inputs.test[s.name] for s in task.test)])),
        section=torch.repeat_interleave(torch.arange(len(spots)), torch.tensor(sizes)),
        place=torch.from_numpy(np.concatenate([_centred(s.xy) for s in spots])),
        neighbours=torch.from_numpy(near.index),
        offset=torch.from_numpy(near.relation),
        is_usable=torch.from_numpy(near.is_usable),
        test_rows={s.name: r for s, r in zip(task.test, rows[len(task.train) :], strict=True)},
    )


def _centred(xy: Array) -> Array:
    """Centre coordinates and divide by their root mean square; a single spot lies at 0."""
    centred = xy - xy.mean(axis=0)
    scaled: Array = centred / (np.sqrt((centred**2).mean()) or 1.0)
    return scaled.astype(np.float32)


class PeerNetwork(nn.Module):
    """A network with the images and coordinates of a fold; loss and prediction take rows of the fold.

    A regression implements `forward`; other ideas override `loss` and `predict`.
    """

    def __init__(self, fold: FoldTensors) -> None:
        super().__init__()
        self.fold = fold

    def loss(self, rows: Rows, expression: Values) -> Scalar:
        """Mean loss over these rows, given their centred expression: the squared error."""
        return mse_loss(self(rows), expression)

    def predict(self, rows: Rows, bank: References) -> Values:
        """Centred expression of these rows; `bank`, that of the training spots, is for ideas that retrieve."""
        out: torch.Tensor = self(rows)
        return out


@dataclasses.dataclass(slots=True, kw_only=True)
class Peer:
    """A published idea as a method of the benchmark.

    Attributes
    ----------
    name
        Name in the tables.
    view
        Image inputs.
    build
        Makes the network for a fold and a number of genes.
    schedule
        Training; ``epochs`` is the maximum.
    """

    name: str
    view: InputView = dataclasses.field(default_factory=InputView)
    build: Callable[[FoldTensors, int], PeerNetwork]
    schedule: Schedule
    is_reference: bool = False
    is_seeded: bool = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`.

        Raises
        ------
        StoreError
            If a single training section is too small to be cut into blocks.
        """
        fold, targets = fold_tensors(task, self.view), fold_targets(task)
        group = assign_groups(task.train, ()).group[targets.rows]
        epochs = self.choose_epochs(fold, targets, group, seed=seed)
        known, bank = torch.from_numpy(targets.rows), torch.from_numpy(targets.centred)
        members = [self._fit(fold, known, bank, epochs, seed=(seed, member)) for member in range(_N_MEMBERS)]
        predictions = {}
        for name, rows in fold.test_rows.items():
            centred = np.mean([_predict(member, rows, bank) for member in members], axis=0)
            predictions[name] = MethodPrediction(expression=(centred + targets.gene_mean).astype(np.float32))
        return predictions

    def choose_epochs(
        self, fold: FoldTensors, targets: FoldTargets, group: Int64[Array, " m"], *, seed: int
    ) -> int:
        """Choose the number of epochs with the best prediction of a held-out training group.

        The first and the last group (a section, or a block of a single section) are held out in turn and scored every four
        epochs by the mean Pearson correlation over genes. All epochs are used if nothing can be scored (groups of one spot,
        constant genes).
        """
        ends = (group.min(), group.max())
        if ends[0] == ends[1]:
            return self.schedule.epochs
        curves = [
            self._held_out_curve(fold, targets, group == label, seed=(seed, _N_MEMBERS + i))
            for i, label in enumerate(ends)
        ]
        means = pd.DataFrame(curves).T.dropna(axis=1).mean(axis=1)
        return int(means.idxmax()) if means.notna().any() else self.schedule.epochs

    def _held_out_curve(
        self, fold: FoldTensors, targets: FoldTargets, is_out: Bool[Array, " m"], *, seed: tuple[int, ...]
    ) -> dict[int, float]:
        """Train without some rows, and score their prediction every few epochs."""
        kept, bank = torch.from_numpy(targets.rows[~is_out]), torch.from_numpy(targets.centred[~is_out])
        rows, truth = torch.from_numpy(targets.rows[is_out]), targets.centred[is_out]
        curve: dict[int, float] = {}

        def look(network: PeerNetwork, epoch: int) -> None:
            if epoch % _EVERY == 0:
                r = pearson_per_gene(_predict(network, rows, bank), truth)
                curve[epoch] = float(pd.Series(r).mean())  # of the genes that vary

        self._fit(fold, kept, bank, self.schedule.epochs, seed=seed, look=look)
        return curve

    def _fit(
        self,
        fold: FoldTensors,
        rows: Int64[torch.Tensor, " m"],
        expression: Float[torch.Tensor, "m n_genes"],
        epochs: int,
        *,
        seed: tuple[int, ...],
        look: Callable[[PeerNetwork, int], None] | None = None,
    ) -> PeerNetwork:
        """Train one network on these rows; calls `look` after each epoch."""
        return train_network(
            lambda: self.build(fold, expression.shape[1]),
            lambda network, i: network.loss(rows[i], expression[i]),
            len(rows),
            dataclasses.replace(self.schedule, epochs=epochs),
            seed=seed,
            after_epoch=look,
        )


@torch.no_grad()
def _predict(network: PeerNetwork, rows: torch.Tensor, bank: torch.Tensor) -> Array:
    pieces = rows.split(_BATCH)  # type: ignore[no-untyped-call]
    predicted: Array = torch.cat([network.predict(piece, bank) for piece in pieces]).numpy()
    return predicted
