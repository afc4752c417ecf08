"""What the methods of a benchmark share: the image inputs and the targets of one fold."""

import dataclasses
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix, vstack

from spam.errors import StoreError
from spam.models.expression import log1p_cp10k
from spam.models.inputs import Components, context_features
from spam.models.linear import standardise_per_section
from spam.models.rate_path import group_means
from spam.training.cohort import SpotData
from spam.typing import Array, Float, Float32, Float64, Int64

from .task import FoldTask

__all__ = ["CONTEXT", "N_COMPONENTS", "FoldInputs", "FoldTargets", "InputView", "fold_inputs", "fold_targets"]

N_COMPONENTS = 256  # the HEST benchmark's number (arXiv 2406.16192); every method here keeps it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputView:
    """How a method looks at a spot's image.

    Attributes
    ----------
    scales
        Only the features of the smallest tiles, or those of all tile sizes.
    normalisation
        Features as they are, centred within each section, or standardised there: by images alone.
    has_context
        Whether means over the neighbourhood stand beside the spot's own features (`context_features`, of all scales).
    """

    scales: Literal["smallest", "all"] = "all"
    normalisation: Literal["none", "centred", "standardised"] = "standardised"
    has_context: bool = False


CONTEXT = InputView(has_context=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldInputs:
    """Principal components of the images of a fold, of unit root mean square over the training spots.

    Attributes
    ----------
    train
        Spots of all training sections, one section after the other, (n, q).
    test
        Spots of each test section by name, (n_spots, q).
    scale
        Root mean square of the components before they were divided by it.
    """

    train: Float32[Array, "n q"]
    test: dict[str, Float32[Array, "_ q"]]
    scale: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldTargets:
    """Expression of the training spots that have counts.

    Attributes
    ----------
    rows
        Their rows among the spots of all training sections, (m,).
    section
        Number of each one's section, (m,).
    counts, totals
        Raw counts of the task's genes (m, n_genes); library size over all genes (m,).
    expression
        Log1p(CP10k), (m, n_genes).
    centred
        `expression` relative to the mean of the spot's section.
    gene_mean
        Mean over the sections' means, (n_genes,): what to add to a prediction of `centred`.
    """

    rows: Int64[Array, " m"]
    section: Int64[Array, " m"]
    counts: csr_matrix
    totals: Float64[Array, " m"]
    expression: Float32[Array, "m n_genes"]
    centred: Float32[Array, "m n_genes"]
    gene_mean: Float64[Array, " n_genes"]


def fold_inputs(task: FoldTask, view: InputView) -> FoldInputs:
    """Put the images of a fold into principal components, fitted on those of the training sections."""
    dim = task.features.dims[0]
    train = [_features(spots, view, dim) for spots in task.train]
    transform = Components.fit(np.concatenate(train), N_COMPONENTS)
    return FoldInputs(
        train=np.concatenate([transform.apply(features) for features in train]),
        test={spots.name: transform.apply(_features(spots, view, dim)) for spots in task.test},
        scale=transform.scale,
    )


def fold_targets(task: FoldTask) -> FoldTargets:
    """Collect the expression of the training spots; spots without any count are left out, for they say nothing.

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
        names = ", ".join(spots.name for spots in task.train)
        message = (
            f"none of the {len(totals)!r} training spots of fold {task.name!r} (sections {names}) has a count, expected "
            "raw counts to fit a method on; embed these sections again with the layer that holds them (--counts-layer)"
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
    """Features of one section as `view` asks for them; `dim` leading columns belong to the smallest tiles."""
    if view.has_context:
        features = context_features(spots.features, spots.graph.connectivities)
    else:
        features = spots.features[:, :dim] if view.scales == "smallest" else spots.features
    if view.normalisation == "standardised":
        return standardise_per_section(features).astype(np.float32)
    if view.normalisation == "centred":
        centred: Array = features - features.mean(axis=0)
        return centred
    return features
