"""What a fold holds: its task, without the expression of the test spots, and the truth, which only the scores see."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spam.errors import StoreError
from spam.evaluation import SectionTruth
from spam.training.cohort import FeatureChoice, SpotData
from spam.training.genes import choose_genes

from .fold_sides import FoldSides
from .folds import Fold
from .task import FoldTask

__all__ = ["FoldData", "build_fold", "build_one_of"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldData:
    """A fold, ready to be run.

    Attributes
    ----------
    task
        What a method sees.
    truths
        What was measured of the task's genes, by test section.
    """

    task: FoldTask
    truths: Mapping[str, SectionTruth]


def build_fold(sides: FoldSides, features: FeatureChoice, *, k: int, n_top: int) -> FoldData:
    """Choose the `n_top` most variable genes on the training side, and hide what was measured on the other.

    Raises
    ------
    StoreError
        If genes cannot be chosen, or a test section has measured none of them.
    """
    genes = choose_genes(sides.train, n_top=n_top)
    blind = tuple(dataclasses.replace(part, counts=None, genes=None, totals=None) for part in sides.test)
    return FoldData(
        task=FoldTask(
            name=sides.fold.name, train=sides.train, test=blind, genes=genes, features=features, k=k
        ),
        truths={part.name: _truth_of(part, genes.genes) for part in sides.test},
    )


def build_one_of(
    sides: Mapping[Fold, FoldSides], fold: Fold, *, features: FeatureChoice, k: int, n_top: int
) -> FoldData:
    """Build one of several folds: with all but `fold` filled in, it can be sent to another process."""
    return build_fold(sides[fold], features, k=k, n_top=n_top)


def _truth_of(part: SpotData, genes: Sequence[str]) -> SectionTruth:
    """Take what was measured of the genes of a fold."""
    known = set() if part.genes is None else {str(gene) for gene in part.genes}
    measured = [gene for gene in genes if gene in known]
    if not measured or part.totals is None or not part.totals.any():
        message = (
            f"section {part.name!r} has counts of none of the {len(genes)} genes that the fold trains on (first: "
            f"{', '.join(genes[:3])}); name genes alike in all sections, or leave it out with --sections"
        )
        raise StoreError(message)
    return SectionTruth(
        counts=part.counts_of(measured),
        genes=np.asarray(measured),
        totals=part.totals,
        weights=part.graph.connectivities,
    )
