"""What a method of the benchmark receives and returns, and what the methods share: inputs, targets, the training loop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import nn

from spam.errors import StoreError
from spam.hardware import seeded
from spam.models.expression import log1p_cp10k
from spam.models.inputs import Components, context_features
from spam.models.linear import standardise_per_section
from spam.models.rate_path import group_means
from spam.schemas.tile_spec import dim_of_smallest
from spam.training.cohort import SpotData
from spam.typing import Array, Float, Float32, Float64, Int64

from .boards import MethodPrediction
from .folds import FoldTask

N_COMPONENTS = 256  # as in the HEST benchmark (arXiv 2406.16192), for every method here
Network = TypeVar("Network", bound=nn.Module)
CPU = torch.device("cpu")  # a few hundred spots: kernel launches would dominate on a GPU


@runtime_checkable  # for the run-time type checks of the tests
class Method(Protocol):
    """A way to predict expression: a baseline, a re-implemented peer, or a variant of SPAM.

    Attributes
    ----------
    name
        Name in the tables.
    is_reference
        True for a baseline, which gets no verdict.
    is_seeded
        Whether the result depends on the seed; otherwise one seed is run.
    """

    name: str
    is_reference: bool
    is_seeded: bool

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Fit on the training sections and predict every test section, by name.

        Must be deterministic for a seed on one machine, and must not change NumPy's and torch's global generators.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputView:
    """Image inputs of a method.

    Attributes
    ----------
    scales
        Features of the smallest tiles only, or of all tile sizes.
    normalisation
        Features as they are, or centred or standardised within each section, by images alone.
    has_context
        Whether neighbourhood means are concatenated to the spot's own features (`context_features`, of all scales).
    """

    scales: Literal["smallest", "all"] = "all"
    normalisation: Literal["none", "centred", "standardised"] = "standardised"
    has_context: bool = False


CONTEXT = InputView(has_context=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldInputs:
    """Principal components of the images of a fold, scaled to unit root mean square over the training spots.

    Attributes
    ----------
    train
        Spots of all training sections, concatenated, (n, q).
    test
        Spots of each test section by name, (n_spots, q).
    scale
        Root mean square of the components before scaling.
    """

    train: Float32[Array, "n q"]
    test: dict[str, Float32[Array, "_ q"]]
    scale: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldTargets:
    """Expression of the training spots with counts.

    Attributes
    ----------
    rows
        Their rows among the spots of all training sections, (m,).
    section
        Index of each spot's section, (m,).
    counts, totals
        Raw counts of the task's genes (m, n_genes); library size over all genes (m,).
    expression
        Log1p(CP10k), (m, n_genes).
    centred
        `expression` minus the mean of the spot's section.
    gene_mean
        Mean of the section means, (n_genes,): added to predictions of `centred`.
    """

    rows: Int64[Array, " m"]
    section: Int64[Array, " m"]
    counts: csr_matrix
    totals: Float64[Array, " m"]
    expression: Float32[Array, "m n_genes"]
    centred: Float32[Array, "m n_genes"]
    gene_mean: Float64[Array, " n_genes"]


def fold_inputs(task: FoldTask, view: InputView) -> FoldInputs:
    """Compute principal components of the images of a fold, fitted on the training sections."""
    dim = dim_of_smallest(task.features.tiles, task.features.dims)
    train = [_features(spots, view, dim) for spots in task.train]
    transform = Components.fit(np.concatenate(train), N_COMPONENTS)
    return FoldInputs(
        train=np.concatenate([transform.apply(features) for features in train]),
        test={spots.name: transform.apply(_features(spots, view, dim)) for spots in task.test},
        scale=transform.scale,
    )


def fold_targets(task: FoldTask) -> FoldTargets:
    """Collect the expression of the training spots; spots without counts are excluded.

    Raises
    ------
    StoreError
        If no training spot has a count.
    """
    counts = csr_matrix(vstack([spots.counts_of(task.genes.genes) for spots in task.train]))
    totals = np.concatenate([spots.totals for spots in task.train if spots.totals is not None])
    section = np.repeat(np.arange(len(task.train)), [spots.n_spots for spots in task.train])
    rows = np.flatnonzero(totals > 0)
    if not len(rows):
        message = (
            f"All counts of the training sections of fold {task.name!r} are zero "
            f"({', '.join(spots.name for spots in task.train)}). Embed them with the layer of raw counts (--counts-layer)."
        )
        raise StoreError(message)
    counts, totals, section = counts[rows], totals[rows], section[rows]
    expression = log1p_cp10k(counts, totals)
    means = group_means(expression, section)
    rank = np.unique(section, return_inverse=True)[1]
    return FoldTargets(
        rows=rows,
        section=section,
        counts=counts,
        totals=totals,
        expression=expression,
        centred=(expression - means[rank]).astype(np.float32),
        gene_mean=means.mean(axis=0),
    )


def _features(spots: SpotData, view: InputView, dim: int) -> Float[Array, "n_spots wide"]:
    """Features of one section in a view; the first `dim` columns belong to the smallest tiles."""
    if view.has_context:
        features = context_features(spots.features, spots.graph.connectivities)
    else:
        features = spots.features[:, : dim if view.scales == "smallest" else None]
        features = features.astype(np.float32)
    if view.normalisation == "standardised":
        return standardise_per_section(features).astype(np.float32)
    return np.asarray(features - features.mean(axis=0)) if view.normalisation == "centred" else features


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """AdamW settings of a small network: passes over the training rows, learning rate, weight decay, rows per step."""

    epochs: int
    lr: float = 1e-3
    weight_decay: float = 0.1
    batch_size: int = 64


def train_network(
    build: Callable[[], Network],
    loss: Callable[[Network, Int64[torch.Tensor, " b"]], Float[torch.Tensor, ""]],
    n_rows: int,
    schedule: Schedule,
    *,
    seed: tuple[int, ...],
    after_epoch: Callable[[Network, int], None] | None = None,
) -> Network:
    """Build a network and train it; return it in evaluation mode.

    Each epoch is seeded separately, so `after_epoch` has no effect on training. Gradients are clipped to norm 1. A last batch
    of a single row is skipped, because contrastive losses need two.

    Parameters
    ----------
    loss
        Mean loss over the given rows.
    n_rows
        Number of training rows; each is visited once per epoch, in random order.
    seed
        Seed of initial weights, order, dropout and noise.
    after_epoch
        Called with the network, in evaluation mode, and the number of finished epochs.
    """
    with seeded(*seed, device=CPU):
        network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    for epoch in range(1, schedule.epochs + 1):
        network.train()
        with seeded(*seed, epoch, device=CPU):
            for batch in torch.randperm(n_rows).split(schedule.batch_size):  # type: ignore[no-untyped-call]
                if len(batch) == 1 < n_rows:
                    continue
                optimizer.zero_grad(set_to_none=True)
                loss(network, batch).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), max_norm=1.0)
                optimizer.step()
        network.eval()
        if after_epoch is not None:
            after_epoch(network, epoch)
    return network
