"""Matrices of raw counts: the structure of a sparse matrix, whole numbers, and which features are genes."""

import re
from typing import Any, Literal

import numpy as np
from scipy import sparse

from spam.errors import SectionError
from spam.typing import Array, Bool, Shaped

from .lab_section import quoted

_INT32_MAX = np.iinfo(np.int32).max
_MOST = 0.5  # of the values: a few wrong ones do not make a matrix normalised
_LOG_MAX = 20.0  # log1p of half a billion: no log-transformed count is larger
_GENES = frozenset({"gene expression", "gex", "rna", "gene"})
# What 10x Genomics measures beside genes, in lower case; without any of these, a column of feature types is of another
# kind (CELLxGENE's is the biotype: protein_coding, lncRNA).
_NOT_GENES = frozenset(
    {
        *("antibody capture", "antigen capture", "protein expression", "protein", "adt", "hto"),
        *(
            "crispr guide capture",
            "multiplexing capture",
            "custom",
            "peaks",
            "atac",
            "chromatin accessibility",
        ),
        *("negative control probe", "negative control codeword", "blank codeword", "unassigned codeword"),
        *("deprecated codeword", "genomic control", "blank", "negative control"),
    }
)
# Controls of Xenium, MERSCOPE and CosMx by their names: h5ad files of these often have no column of feature types.
_CONTROLS = re.compile(
    r"(NegControlProbe|NegControlCodeword|UnassignedCodeword|DeprecatedCodeword|Intergenic_Region|BLANK|antisense)_"
    r"|(Blank-|NegPrb|Negative|SystemControl|FalseCode)\d"
)


def sparse_fault(
    data: Array, indices: Array, indptr: Array, *, form: Literal["csr", "csc"], shape: tuple[int, int]
) -> str | None:
    """Describe what makes three arrays no compressed matrix of this shape; None if they are one.

    SciPy does not check indices before it uses them as addresses in memory.
    """
    n_major, n_minor = shape if form == "csr" else shape[::-1]
    if not data.ndim == indices.ndim == indptr.ndim == 1:
        return (
            f"data, indices and indptr have {data.ndim}, {indices.ndim} and {indptr.ndim} dimensions, not 1"
        )
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        return f"indices and indptr are {indices.dtype} and {indptr.dtype}, expected integers"
    if len(data) != len(indices):
        return f"there are {len(data):,} values for {len(indices):,} indices"
    if fault := indptr_fault(indptr, n_major, len(data)):
        return fault
    if len(indices) and (indices.min() < 0 or indices.max() >= n_minor):
        return f"indices go from {indices.min()} to {indices.max()}, expected 0 to {n_minor - 1}"
    return None


def indptr_fault(indptr: Array, n_major: int, n_values: int) -> str | None:
    """Describe why an array is no index pointer of `n_major` rows with `n_values` entries together; None if it is."""
    if len(indptr) != n_major + 1:
        return f"indptr has {len(indptr):,} entries, expected {n_major + 1:,}"
    if indptr[0] != 0 or int(indptr[-1]) != n_values:
        return f"indptr goes from {indptr[0]} to {indptr[-1]}, expected 0 to {n_values}"
    return "indptr decreases" if (indptr[1:] < indptr[:-1]).any() else None


def sparse_matrix(
    data: Array,
    indices: Array,
    indptr: Array,
    *,
    form: Literal["csr", "csc"],
    shape: tuple[int, int],
    where: str,
    advice: str = "Write the file again from its source.",
) -> Any:
    """Build a SciPy matrix of three arrays of unknown origin after a check of all their entries.

    Raises
    ------
    SectionError
        If they are no such matrix; `where` names the place, `advice` ends the message.
    """
    fault = sparse_fault(data, indices, indptr, form=form, shape=shape)
    if fault is not None:
        message = f"{where} is a damaged sparse matrix: {fault}. {advice}"
        raise SectionError(message)
    index = np.int64 if max(*shape, len(data)) > _INT32_MAX else np.int32
    make = sparse.csr_matrix if form == "csr" else sparse.csc_matrix
    return make((data, indices.astype(index, copy=False), indptr.astype(index, copy=False)), shape=shape)


def count_fault(values: Array) -> str | None:
    """Describe why values are not counts, with an example and the likely cause; None if they are."""
    if values.dtype.kind == "b":
        return None
    if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() < 2**31:
        return None
    is_fraction = values != np.floor(values)
    kind = "log-normalised" if values.size and values.max() < _LOG_MAX else "normalised by depth"
    looks = f" (it looks {kind})" if is_fraction.sum() > _MOST * values.size else ""
    for is_wrong, what, cause in (
        (~np.isfinite(values), "NaN or infinite", ""),
        (values < 0, "negative", " (it looks scaled or centred)"),
        (is_fraction, "not whole", looks),
        (values >= 2**31, "too large for 32 bits", ""),
    ):
        if is_wrong.any():
            found = values[is_wrong][0]
            digits = 10 if f"{found:g}" == f"{np.rint(found):g}" else 6  # 20.0000001 must not be shown as 20
            return f"{int(is_wrong.sum())} values are {what}, e.g. {found:.{digits}g}{cause}"
    return None


def as_counts(matrix: Any, *, where: str) -> sparse.csr_matrix:
    """Return a sparse matrix of whole numbers as canonical int32 CSR; entries that occur twice are added.

    Raises
    ------
    SectionError
        If a value is not a finite whole number from 0 to 2,147,483,647.
    """
    fault = count_fault(matrix.data)
    if fault is None:
        counts = sparse.csr_matrix(matrix)
        is_canonical = counts.has_canonical_format
        dtype = np.int32 if is_canonical else np.int64
        counts = sparse.csr_matrix((counts.data.astype(dtype), counts.indices, counts.indptr), counts.shape)
        if not is_canonical:
            counts.sum_duplicates()
            fault = count_fault(counts.data)
    if fault is not None:
        message = f"{where} must hold raw counts, but {fault}."
        raise SectionError(message)
    counts.eliminate_zeros()
    return counts.astype(np.int32, copy=False)


def gene_columns(
    names: Shaped[Array, " n_features"], types: Shaped[Array, " n_features"] | None
) -> tuple[Bool[Array, " n_features"] | None, str]:
    """Tell which features are genes, and say how many are not; (None, "") if all are.

    A gene has the type ``Gene Expression``, if there are types, and not the name of a control probe.

    Raises
    ------
    SectionError
        If no feature is a gene.
    """
    is_gene, labels = np.ones(len(names), dtype=bool), names
    if types is not None:
        kinds = np.char.replace(np.char.lower(np.char.strip(types)), "_", " ")
        is_gene = np.isin(kinds, list(_GENES))
        if not is_gene.any():
            is_gene = ~np.isin(kinds, list(_NOT_GENES))
        labels = np.where(is_gene, names, types)
    is_gene &= [_CONTROLS.match(name) is None for name in names.tolist()]
    if is_gene.all():
        return None, ""
    found = quoted(np.unique(labels[~is_gene]))
    if not is_gene.any():
        message = f"none of the {len(names)} features is a gene ({found})"
        raise SectionError(message)
    return (
        is_gene,
        f"{int((~is_gene).sum())} of {len(names)} features are not genes and were left out ({found})",
    )
