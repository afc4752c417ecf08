"""What the benchmark predicts: log1p of the raw counts of a task's genes, at the spots that have patches."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from spam.errors import SectionError
from spam.sections.h5ad import read_h5ad
from spam.sections.lab_section import quoted
from spam.typing import Array, Float64

__all__ = ["read_expression"]

_LOG = logging.getLogger(__name__)


def read_expression(
    path: Path, genes: Sequence[str], barcodes: Sequence[str]
) -> Float64[Array, "n_spots n_genes"]:
    """Read log1p of ``X`` for some genes and spots, in their order; other spots of the file are left out.

    No library size is taken out, as in the HEST benchmark. Values that are no whole numbers are taken as they are,
    as it does, and the log says so.

    Raises
    ------
    SectionError
        If genes or spots are not there or there twice, or values are negative or not finite; lists every fault.
    """
    adata = read_h5ad(path)
    faults = []
    for what, wanted, index in (("barcodes", barcodes, adata.obs_names), ("genes", genes, adata.var_names)):
        names = index.astype(str)
        missing = [name for name in wanted if name not in names]
        if missing:
            faults.append(
                f"{len(missing)} of {len(wanted)} {what} are not in it: {quoted(missing)} (it has {quoted(list(names))})"
            )
        twice = sorted(set(names[names.duplicated()]) & set(wanted))
        if twice:
            faults.append(f"{len(twice)} {what} occur in it more than once: {quoted(twice)}")
    if faults:
        message = (
            f"{path} does not fit the patches and the gene list of its task: {'; '.join(faults)}; use patches, embeddings, "
            "genes and counts of the same release"
        )
        raise SectionError(message)
    rows = adata.obs_names.astype(str).get_indexer(list(barcodes))
    columns = adata.var_names.astype(str).get_indexer(list(genes))
    if adata.X is None:
        message = f"{path} holds no matrix X; expected the raw counts of its spots there"
        raise SectionError(message)
    chosen = adata.X[rows][:, columns]
    counts = np.asarray(chosen.toarray() if sparse.issparse(chosen) else chosen, dtype=np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any():
        message = (
            f"{path}: X holds negative, NaN or infinite values (smallest {counts.min():g}) for the genes of the task; "
            "expected raw counts"
        )
        raise SectionError(message)
    if (counts != np.floor(counts)).any():
        _LOG.warning("%s: X holds values that are no whole numbers; taken as they are, as HEST does", path)
    expression: Array = np.log1p(counts)
    return expression
