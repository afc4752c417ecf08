"""Raw counts: finite, non-negative whole numbers, or an error that says what they look like instead."""

from typing import Any, Literal

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix

from spam.errors import SectionError
from spam.typing import Array, Shaped

from .wording import quoted

__all__ = ["read_counts"]

_INT32_MAX = np.iinfo(np.int32).max
_LOG_MAX = 20.0  # log1p of half a billion: no log-transformed count is larger


def read_counts(
    adata: AnnData,
    *,
    layer: str | None,
    where: str,
    option: Literal["--h5ad", "--context-h5ad"] = "--h5ad",
) -> tuple[csr_matrix | None, Shaped[Array, " n_genes"] | None]:
    """Take raw counts from `layer`, else from ``layers['counts']``, else from ``X``.

    Returns the counts as canonical int32 CSR and the gene names, or (None, None) for a file without genes or
    matrix. Floats that hold whole numbers are taken; `where` names the file in messages, and `option` the one that
    gave it: ``--counts-layer`` belongs to ``--h5ad``.

    Raises
    ------
    SectionError
        If `layer` is not there, a gene name occurs twice, or a value is not a finite, non-negative whole
        number.
    """
    layers = list(adata.layers)
    if layer is not None and layer not in layers:
        there = quoted(layers) if layers else "none"
        message = (
            f"{where} has no layer {layer!r}; its layers are: {there}; choose with --counts-layer, or leave "
            "it out for X"
        )
        raise SectionError(message)
    name = layer if layer is not None else "counts" if "counts" in layers else None
    matrix = adata.layers[name] if name is not None else adata.X
    if matrix is None or adata.n_vars == 0:
        return None, None
    genes = np.array(adata.var_names, dtype=np.str_)
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if len(repeated):
        message = (
            f"{where}: {len(repeated)} gene names occur more than once: {quoted(list(repeated))}; make them "
            "unique (AnnData.var_names_make_unique) or sum them before"
        )
        raise SectionError(message)
    place = f"layers[{name!r}]" if name is not None else "X"
    others = [x for x in layers if x != name] if option == "--h5ad" else []
    whole = _whole_numbers(csr_matrix(matrix), place=f"{where}: {place}", others=others, option=option)
    return whole, genes


def _whole_numbers(matrix: csr_matrix, *, place: str, others: list[str], option: str) -> csr_matrix:
    """Return the matrix as canonical int32 CSR, or raise and say what its values look like."""
    values = matrix.data
    fault = _fault(values)
    if fault is not None:
        finite = values[np.isfinite(values)]
        finite = (
            np.append(finite, 0) if values.size < np.prod(matrix.shape) else finite
        )  # the zeros not stored
        span = f"from {finite.min():g} to {finite.max():g}" if finite.size else "none of them finite"
        instead = (
            f"--counts-layer with one of {quoted(others)}"
            if others
            else "put them into layers['counts'] of the h5ad"
        )
        message = (
            f"{place} must hold raw counts (whole numbers >= 0), but {fault} (values {span}); give the raw "
            f"counts: {instead}; for prediction without counts leave out {option}"
        )
        raise SectionError(message)
    counts = csr_matrix((values.astype(np.int32), matrix.indices, matrix.indptr), shape=matrix.shape)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts


def _fault(values: Any) -> str | None:
    """Say what keeps values from being counts, with an example and a likely cause; None if nothing does."""
    infinite = ~np.isfinite(values)
    if infinite.any():
        return f"{int(infinite.sum())} values are NaN or infinite, e.g. {values[infinite][0]:g}"
    negative = values < 0
    if negative.any():
        example = f"{values[negative][0]:g}"
        return f"{int(negative.sum())} values are negative, e.g. {example}: it looks scaled or centred"
    broken = values != np.floor(values)
    if broken.any():
        kind = "log-normalised" if values.max() < _LOG_MAX else "normalised by depth"
        return f"{int(broken.sum())} values are not whole, e.g. {values[broken][0]:g}: it looks {kind}"
    if values.size and values.max() > _INT32_MAX:
        return f"the largest does not fit 32 bits: {values.max():g}"
    return None
