"""Counts of a part of a section: the spots of an h5ad, found by id among the spots that are there."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from spam.errors import MissingInputError, SectionError
from spam.typing import Array, Float64, Int64, Shaped

from .counts import read_counts
from .h5ad import named_values, read_h5ad
from .ids import refuse_duplicates
from .wording import quoted

__all__ = ["MeasuredPart", "read_measured_part"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredPart:
    """Raw counts of some spots of a section, for the genes of the file.

    Attributes
    ----------
    rows
        Measured spots as rows of the section, rising.
    counts
        Their raw counts, (n_measured, n_genes).
    genes
        Genes of the file.
    library_size
        Counts of each of these spots over all genes, measured here or not, (n_measured,); None where the file does not
        say (``obs['library_size']``).
    n_unknown
        Spots of the file that the section does not have; they are left out.
    """

    rows: Int64[Array, " n_measured"]
    counts: csr_matrix
    genes: Shaped[Array, " n_genes"]
    library_size: Float64[Array, " n_measured"] | None
    n_unknown: int


def read_measured_part(path: Path, *, section: str, ids: Shaped[Array, " n_spots"]) -> MeasuredPart:
    """Read what ``--context-h5ad`` gives of a section: spots by obs_names, genes by var_names, in any order.

    Counts are taken from ``layers['counts']``, else from ``X``. Where ``obs['section']`` names sections, only the rows of
    `section` are taken. ``obs['library_size']`` says how many counts each spot has in all, where the file holds those of
    some genes alone.

    Parameters
    ----------
    path
        The h5ad.
    section
        Name of the section.
    ids
        Its spots, as they are stored.

    Raises
    ------
    MissingInputError
        If there is no such file.
    SectionError
        If it is no AnnData of raw counts, if ids or genes occur twice, if no spot of it is of this section, or if
        ``obs['library_size']`` cannot be.
    """
    if not path.is_file():
        message = f"--context-h5ad {str(path)!r} is not a file; give an h5ad with raw counts of a part of section {section!r}"
        raise MissingInputError(message)
    where = f"--context-h5ad {path}"
    adata = read_h5ad(path)
    stated = named_values(adata, "section")
    if stated and section not in stated:
        message = (
            f"{where} holds counts of section {quoted(stated)} (obs['section']), but {section!r} is to be predicted; give "
            "the h5ad of that section, or predict the other one with --section"
        )
        raise SectionError(message)
    if stated:
        adata = adata[(adata.obs["section"].astype(str) == section).to_numpy(dtype=np.bool_)]
    names = np.array(adata.obs_names, dtype=np.str_)
    refuse_duplicates(names, where=where, advice="keep one row for each spot")
    rows = pd.Index(ids.astype(str)).get_indexer(names)
    is_known = rows >= 0
    if not is_known.any():
        message = (
            f"{where}: none of its {len(names)} spots ({quoted(names.tolist())}) is among the {len(ids)} spots of section "
            f"{section!r} ({quoted(ids.tolist())}); give counts of this section, with obs_names as they are stored"
        )
        raise SectionError(message)
    counts, genes = read_counts(adata, layer=None, where=where, option="--context-h5ad")
    if counts is None or genes is None:
        message = f"{where} holds no counts (no genes, or no matrix); put raw counts into X or into layers['counts']"
        raise SectionError(message)
    kept = np.flatnonzero(is_known)
    kept = kept[np.argsort(rows[kept])]  # the order of the file must not matter, not even for rounding
    counts = counts[kept]
    return MeasuredPart(
        rows=rows[kept].astype(np.int64),
        counts=counts,
        genes=genes,
        library_size=_library_size(adata[kept], counts, where),
        n_unknown=int((~is_known).sum()),
    )


def _library_size(adata: AnnData, counts: csr_matrix, where: str) -> Float64[Array, " n"] | None:
    """Read ``obs['library_size']``, which must be at least the sum of each spot's counts."""
    if "library_size" not in adata.obs:
        return None
    column = pd.Series(adata.obs["library_size"].to_numpy(dtype=object))  # text may have come as categories
    stated: Array = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    sums = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    is_wrong = ~(np.isfinite(stated) & (stated >= sums))
    if is_wrong.any():
        first = int(np.flatnonzero(is_wrong)[0])
        message = (
            f"{where}: obs['library_size'] of {int(is_wrong.sum())} of {len(stated)} spots is no library size: that of "
            f"{str(adata.obs_names[first])!r} is {str(column[first])!r}, and its counts add up to "
            f"{sums[first]:.0f}; state the number of counts over all genes, or remove the column"
        )
        raise SectionError(message)
    return stated
