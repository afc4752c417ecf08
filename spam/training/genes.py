"""Which genes are modelled, and the named subsets that scores are given for; chosen on the run's own sections."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, vstack

from spam.errors import StoreError
from spam.models.expression import (
    highly_expressed_genes,
    highly_variable_genes,
    log1p_cp10k,
    morans_i,
    spatially_variable_genes,
)
from spam.typing import Array

from .cohort import SpotData

__all__ = ["GeneChoice", "choose_genes"]

_MIN_DETECTED = 0.1  # share of spots: the HEST benchmark's filter (arXiv 2406.16192)
_HEST_GENES = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneChoice:
    """Modelled genes and subsets of them.

    Attributes
    ----------
    genes
        Names, in the order of the model's outputs.
    sets
        ``HVG-50``, ``HVG-250``, ``HEG-50``, ``SVG-50`` (most variable, most expressed, most spatially autocorrelated) and
        ``hest-50`` (most variable in log1p of raw counts, for the HEST board); a set is smaller where there are fewer
        genes.
    """

    genes: tuple[str, ...]
    sets: dict[str, list[str]]


def choose_genes(spots: Sequence[SpotData], *, n_top: int | None) -> GeneChoice:
    """Choose among the genes that all sections share.

    Parameters
    ----------
    n_top
        Number of most variable genes to model, together with the genes of the HEST board; None models all shared genes.

    Raises
    ------
    StoreError
        If a section has no counts, or no gene is shared or detected in more than 10 % of the spots.
    """
    for section in spots:
        section.counts_of(())
    shared = _shared_genes(spots)
    counts = csr_matrix(vstack([s.counts_of(shared) for s in spots]))
    detected = np.asarray((counts > 0).mean(axis=0)).ravel()
    often = np.flatnonzero(detected > _MIN_DETECTED)
    if not len(often):
        names = ", ".join(s.name for s in spots)
        message = (
            f"none of the {len(shared)} genes that sections {names} share is detected in more than "
            f"{_MIN_DETECTED:.0%} of the spots; check that they hold raw counts of the same gene names"
        )
        raise StoreError(message)
    candidates = np.asarray(shared)[often]
    counts = counts[:, often]  # only these can be chosen; the dense matrices below stay small
    totals = np.concatenate([s.totals for s in spots if s.totals is not None])
    expression = log1p_cp10k(counts, totals)
    ranked = candidates[highly_variable_genes(expression, detected[often], n=len(often))]
    raw = np.log1p(counts.toarray().astype(np.float32))
    hest = candidates[highly_variable_genes(raw, detected[often], n=_HEST_GENES)]
    modelled = shared if n_top is None else [str(g) for g in dict.fromkeys([*ranked[:n_top], *hest])]
    inside = np.flatnonzero(np.isin(candidates, modelled))
    bounds = np.cumsum([0, *(s.n_spots for s in spots)])
    moran = np.stack(
        [
            morans_i(expression[a:b, inside], s.graph.connectivities)
            for s, a, b in zip(spots, bounds[:-1], bounds[1:], strict=True)
        ]
    )
    inside_names = candidates[inside]
    sets: dict[str, Array] = {
        "HVG-50": ranked[:50],
        "HVG-250": ranked[:250],
        "HEG-50": inside_names[highly_expressed_genes(expression[:, inside], n=50)],
        "SVG-50": inside_names[spatially_variable_genes(moran, n=50)],
        "hest-50": hest,
    }
    kept = set(modelled)
    return GeneChoice(
        genes=tuple(modelled),
        sets={name: [str(g) for g in genes if g in kept] for name, genes in sets.items()},
    )


def _shared_genes(spots: Sequence[SpotData]) -> list[str]:
    """Genes of the first section that all others have, in its order."""
    common = set.intersection(*({str(g) for g in s.genes} for s in spots if s.genes is not None))
    if not common:
        message = (
            f"sections {', '.join(s.name for s in spots)} share no gene name; "
            "check that all use symbols or all use Ensembl ids"
        )
        raise StoreError(message)
    first = spots[0].genes
    return [] if first is None else [str(g) for g in first if str(g) in common]
