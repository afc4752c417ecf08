"""Which genes are modelled, and the named subsets that are scored; chosen on the run's own sections."""

import dataclasses
import difflib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, csr_matrix, vstack

from spam.errors import ConfigError, StoreError
from spam.models.expression import (
    MIN_DETECTED_SHARE,
    highly_expressed_genes,
    highly_variable_genes,
    morans_i,
    sparse_log1p_cp10k,
    spatially_variable_genes,
)
from spam.store import advice_on_names
from spam.typing import Array, Float64

from .cohort import SpotData

_HEST_GENES = 50
_GENES = 64  # whose dense values are computed with at a time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneChoice:
    """Modelled genes and subsets of them.

    Attributes
    ----------
    genes
        Names, in the order of the model's outputs.
    sets
        ``HVG-50``, ``HVG-250``, ``HEG-50``, ``SVG-50`` (most variable, most expressed, most spatially autocorrelated) and
        ``hest-50`` (most variable in log1p of raw counts, for the HEST board); a set is smaller if there are fewer genes.
    """

    genes: tuple[str, ...]
    sets: dict[str, list[str]]


def choose_genes(spots: Sequence[SpotData], *, n_top: int | None, also: Sequence[str] = ()) -> GeneChoice:
    """Choose among the genes that all sections share, in the order of the first section.

    Parameters
    ----------
    n_top
        Number of most variable genes to model, together with the genes of the HEST board; None models all shared genes.
    also
        Genes to model in addition, last in the order, however rarely they are detected.

    Raises
    ------
    ConfigError
        If a section lacks a gene of `also`.
    StoreError
        If a section has no counts, or no gene is shared or detected in more than 10 % of the spots.
    """
    for section in spots:
        section.counts_of(())  # raises without counts
    gene_lists = [[str(gene) for gene in s.genes] for s in spots if s.genes is not None]
    common = set.intersection(*map(set, gene_lists))
    shared = [gene for gene in gene_lists[0] if gene in common]
    _check_asked(spots, also, common)
    counts = csr_matrix(vstack([s.counts_of(shared) for s in spots]))
    counts.eliminate_zeros()
    detected = np.bincount(counts.indices, minlength=len(shared)) / counts.shape[0]
    often = np.flatnonzero(detected > MIN_DETECTED_SHARE)
    if not len(often):
        message = (
            f"Of the {len(shared)} gene names that sections {', '.join(s.name for s in spots)} share, none is detected in "
            f"more than {MIN_DETECTED_SHARE:.0%} of the spots. Check that all hold raw counts and use the same gene names "
            f"(symbols or Ensembl ids). {advice_on_names(gene_lists[-1], gene_lists[0])}".rstrip()
        )
        raise StoreError(message)
    candidates = np.asarray(shared)[often]
    if len(often) < len(shared):
        counts, detected = counts[:, often], detected[often]
    expression = sparse_log1p_cp10k(counts, np.concatenate([s.totals for s in spots if s.totals is not None]))
    ranked = candidates[highly_variable_genes(expression, detected, n=len(often))]
    raw = csr_array(counts.astype(np.float32)).log1p()
    hest = candidates[highly_variable_genes(raw, detected, n=_HEST_GENES)]
    modelled = shared if n_top is None else [str(g) for g in dict.fromkeys([*ranked[:n_top], *hest, *also])]
    inside = np.isin(candidates, modelled)
    expression, names = expression[:, inside], candidates[inside]
    ends = np.cumsum([s.n_spots for s in spots])
    parts = (expression[end - s.n_spots : end] for end, s in zip(ends, spots, strict=True))
    moran = np.stack([_morans_i(p, s) for p, s in zip(parts, spots, strict=True)])
    sets = {
        "HVG-50": ranked[:50],
        "HVG-250": ranked[:250],
        "HEG-50": names[highly_expressed_genes(expression, n=50)],
        "SVG-50": names[spatially_variable_genes(moran, n=50)],
        "hest-50": hest,
    }
    kept = set(modelled)
    return GeneChoice(
        genes=tuple(modelled),
        sets={name: [str(g) for g in genes if g in kept] for name, genes in sets.items()},
    )


def _morans_i(expression: csr_array, spots: SpotData) -> Float64[Array, " n_genes"]:
    """Moran's I of all genes of a section; dense values of a few genes exist at a time."""
    by_gene, weights = expression.tocsc(), spots.graph.connectivities
    starts = range(0, by_gene.shape[1], _GENES)
    return np.concatenate([morans_i(by_gene[:, i : i + _GENES].toarray(), weights) for i in starts])


def _check_asked(spots: Sequence[SpotData], also: Sequence[str], common: set[str]) -> None:
    """Refuse genes that not all sections have: name the sections, or the nearest gene."""
    missing = [gene for gene in also if gene not in common]
    if not missing:
        return
    gene = missing[0]
    without = [s.name for s in spots if s.genes is not None and gene not in s.genes]
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    if len(without) < len(spots):
        missed = f"Gene {gene!r}{more} of --genes is not measured in {', '.join(without)}"
        message = f"{missed}. Leave it out, or name other sections in --sections."
    else:
        near = difflib.get_close_matches(gene, common, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else "Use the names in the sections."
        message = f"No section has the gene {gene!r}{more} of --genes. {advice}"
    raise ConfigError(message)
