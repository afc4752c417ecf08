"""How every peer is fitted: epochs chosen inside the training groups, then all of them, averaged over members."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from spam.benchmarking.method_inputs import FoldTargets, InputView, fold_targets
from spam.benchmarking.method_training import CPU, Schedule, train_network
from spam.benchmarking.task import FoldTask, MethodPrediction
from spam.hardware import seeded
from spam.models.linear import pearson_per_gene
from spam.training.groups import assign_groups
from spam.typing import Array, Bool, Float, Float64, Int64

from .fold_tensors import FoldTensors, fold_tensors

__all__ = ["Peer", "PeerNetwork", "References", "choose_epochs"]

_N_MEMBERS = 3  # networks that are averaged
_EVERY = 4  # epochs between two looks at the group that is left out
_PREDICTED_AT_ONCE = 512  # rows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class References:
    """Spots that a network was fitted on; one that retrieves looks their expression up.

    Attributes
    ----------
    rows
        Their rows among the spots of the fold, (m,).
    expression
        Centred expression, (m, n_genes).
    """

    rows: Int64[torch.Tensor, " m"]
    expression: Float[torch.Tensor, "m n_genes"]


class PeerNetwork(nn.Module, abc.ABC):
    """A network that knows the images and places of a fold, and is asked for some of its rows."""

    def __init__(self, fold: FoldTensors) -> None:
        super().__init__()
        self.fold = fold

    @abc.abstractmethod
    def loss(
        self, rows: Int64[torch.Tensor, " b"], expression: Float[torch.Tensor, "b n_genes"]
    ) -> Float[torch.Tensor, ""]:
        """Mean loss of a training step on these rows, given their centred expression."""

    @abc.abstractmethod
    def predict(
        self, rows: Int64[torch.Tensor, " b"], references: References
    ) -> Float[torch.Tensor, "b n_genes"]:
        """Centred expression of these rows."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Peer:
    """A peer's idea as a method of the benchmark.

    Attributes
    ----------
    name
        Name in the tables.
    view
        How it looks at a spot's image.
    build
        Makes the network for a fold and a number of genes.
    schedule
        Training; ``epochs`` is the most that may be chosen.
    """

    name: str
    view: InputView
    build: Callable[[FoldTensors, int], PeerNetwork]
    schedule: Schedule
    is_reference: bool = False
    is_seeded: bool = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Predict every test section; see `Method`.

        Raises
        ------
        StoreError
            If a lone training section is too small to be cut into blocks.
        """
        fold, targets = fold_tensors(task, self.view), fold_targets(task)
        group = assign_groups(task.train, ()).group[targets.rows]
        epochs = choose_epochs(self, fold, targets, group, seed=seed)
        schedule = dataclasses.replace(self.schedule, epochs=epochs)
        everything = References(
            rows=torch.from_numpy(targets.rows), expression=torch.from_numpy(targets.centred)
        )
        members = [
            _fit(self.build, fold, everything, schedule, seed=(seed, member)) for member in range(_N_MEMBERS)
        ]
        predictions = {}
        for name, rows in fold.test_rows.items():
            centred = np.mean([_predict(member, rows, everything) for member in members], axis=0)
            predictions[name] = MethodPrediction(expression=(centred + targets.gene_mean).astype(np.float32))
        return predictions


def choose_epochs(
    peer: Peer, fold: FoldTensors, targets: FoldTargets, group: Int64[Array, " m"], *, seed: int
) -> int:
    """Choose the number of epochs by which a left-out training group is predicted best.

    The first and the last group (a section, or a block of a lone one) are left out, one at a time. Their score is the
    mean Pearson correlation over genes, as for the ridge's penalty. All epochs are used where nothing can be scored
    (groups of one spot, or no gene that varies).
    """
    labels = np.unique(group)
    looks = list(range(_EVERY, peer.schedule.epochs + 1, _EVERY)) or [peer.schedule.epochs]
    if len(labels) == 1:
        return peer.schedule.epochs
    curves = np.stack(
        [
            _held_out_curve(peer, fold, targets, group == label, looks, seed=(seed, _N_MEMBERS + i))
            for i, label in enumerate((labels[0], labels[-1]))
        ]
    )
    is_scored = ~np.isnan(curves).any(axis=1)
    if not is_scored.any():
        return peer.schedule.epochs
    return looks[int(curves[is_scored].mean(axis=0).argmax())]


def _held_out_curve(
    peer: Peer,
    fold: FoldTensors,
    targets: FoldTargets,
    is_out: Bool[Array, " m"],
    looks: Sequence[int],
    *,
    seed: tuple[int, ...],
) -> Float64[Array, " n_looks"]:
    """Train without some rows, and score the prediction of these after each of the epochs in `looks`."""
    kept = References(
        rows=torch.from_numpy(targets.rows[~is_out]), expression=torch.from_numpy(targets.centred[~is_out])
    )
    asked, truth = torch.from_numpy(targets.rows[is_out]), targets.centred[is_out]
    scores = []

    def look(network: PeerNetwork, epoch: int) -> None:
        if epoch in looks:
            scores.append(_mean_pearson(_predict(network, asked, kept), truth))

    _fit(peer.build, fold, kept, peer.schedule, seed=seed, look=look)
    return np.asarray(scores)


def _fit(
    build: Callable[[FoldTensors, int], PeerNetwork],
    fold: FoldTensors,
    references: References,
    schedule: Schedule,
    *,
    seed: tuple[int, ...],
    look: Callable[[PeerNetwork, int], None] | None = None,
) -> PeerNetwork:
    """Build one network and train it on `references`."""
    with seeded(*seed, device=CPU):
        network = build(fold, references.expression.shape[1])

    def loss(places: torch.Tensor) -> torch.Tensor:
        return network.loss(references.rows[places], references.expression[places])

    train_network(
        network,
        loss,
        torch.arange(len(references.rows)),
        schedule,
        seed=seed,
        after_epoch=None if look is None else lambda epoch: look(network, epoch),
    )
    return network


@torch.no_grad()
def _predict(network: PeerNetwork, rows: torch.Tensor, references: References) -> Array:
    """Predict rows in pieces, so that memory does not grow with the section."""
    pieces = rows.split(_PREDICTED_AT_ONCE)  # type: ignore[no-untyped-call]
    predicted: Array = torch.cat([network.predict(piece, references) for piece in pieces]).numpy()
    return predicted


def _mean_pearson(predicted: Array, truth: Array) -> float:
    """Mean correlation over the genes that have one; NaN where none has."""
    r = pearson_per_gene(predicted, truth)
    defined = r[~np.isnan(r)]
    return float(defined.mean()) if len(defined) else float("nan")
