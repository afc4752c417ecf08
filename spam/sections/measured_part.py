"""The measured part of a section, as context of a prediction (``--context-h5ad``)."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from spam.errors import MissingInputError, SectionError, shortened
from spam.typing import Array, Float64, Int64, Shaped

from .h5ad import H5ad, named_values, read_counts, read_h5ad, require_readable, spots_of_section
from .hdf5_frames import as_numbers
from .lab_section import quoted, require_unique


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredPart:
    """Raw counts of some spots of a section, for the genes of the file.

    Attributes
    ----------
    rows
        Measured spots as rows of the section, ascending.
    counts
        Their raw counts, (n_measured, n_genes).
    genes
        Genes of the file.
    library_size
        Total counts of each of these spots over all genes, measured here or not, (n_measured,); None if the file does
        not have ``obs['library_size']``.
    n_unknown
        Spots of the file that the section does not have; they are left out.
    """

    rows: Int64[Array, " n_measured"]
    counts: sparse.csr_matrix
    genes: Shaped[Array, " n_genes"]
    library_size: Float64[Array, " n_measured"] | None
    n_unknown: int


def read_measured_part(path: Path, *, section: str, ids: Shaped[Array, " n_spots"]) -> MeasuredPart:
    """Read the counts of a part of a section (``--context-h5ad``): spots by obs_names, genes by var_names, in any order.

    Counts come from ``layers['counts']``, else from ``X``. If ``obs['section']`` names sections, only the rows of
    `section` are used. ``obs['library_size']`` holds the total counts of each spot if the file has only some genes.

    Parameters
    ----------
    path
        The h5ad.
    section
        Name of the section.
    ids
        Ids of its spots, as stored.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    SectionError
        If it is not an AnnData of raw counts, ids or genes are repeated, no spot belongs to this section, or
        ``obs['library_size']`` is impossible.
    """
    if not path.is_file():
        message = f"File not found: {path} (--context-h5ad)."
        raise MissingInputError(message)
    h5ad = read_h5ad(path, "--context-h5ad")
    require_readable(h5ad, ("section", "library_size"))
    stated = named_values(h5ad, "section")
    if stated and section not in stated:
        message = (
            f"{h5ad.where} has section {quoted(stated)}, not {section!r}, which is predicted; see --section."
        )
        raise SectionError(message)
    h5ad = spots_of_section(h5ad, section)
    require_unique(h5ad.ids, where=h5ad.where)
    rows = pd.Index(ids.astype(str)).get_indexer(h5ad.ids)
    if (rows < 0).all():
        message = (
            f"{h5ad.where}: none of its {len(h5ad.ids)} obs_names ({quoted(h5ad.ids)}) is among the {len(ids)} ids of "
            f"section {section!r} in the store ({quoted(ids)})."
        )
        raise SectionError(message)
    found = read_counts(h5ad, option="--context-h5ad")
    if found is None:
        message = f"{h5ad.where} has no counts. Put raw counts into X or layers['counts']."
        raise SectionError(message)
    # Results must not depend on the order of the file, not even by rounding.
    kept = np.argsort(rows)[(rows < 0).sum() :]
    counts = found.counts[kept]
    return MeasuredPart(
        rows=rows[kept].astype(np.int64),
        counts=counts,
        genes=found.genes,
        library_size=_library_size(h5ad.at(kept), counts),
        n_unknown=int((rows < 0).sum()),
    )


def _library_size(h5ad: H5ad, counts: sparse.csr_matrix) -> Float64[Array, " n"] | None:
    """Read ``obs['library_size']``, which must be at least the sum of each spot's counts."""
    if "library_size" not in h5ad.obs:
        return None
    column = h5ad.obs["library_size"]
    stated: Array = as_numbers(column)
    sums = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    wrong = np.flatnonzero(~(np.isfinite(stated) & (stated >= sums)))
    if len(wrong):
        first = wrong[0]
        found = f"{shortened(str(h5ad.ids[first]))} has {shortened(str(column[first]))}, but its counts sum to {sums[first]:.0f}"
        message = (
            f"{h5ad.where}: obs['library_size'] is wrong for {len(wrong)} of {len(stated)} spots: {found}."
        )
        raise SectionError(message)
    return stated
