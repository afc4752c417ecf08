"""What is read of an AnnData file: raw counts, annotations, scale factors, and the measured part of a section."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from spam.errors import MissingInputError, SectionError
from spam.typing import Array, Float64, Int64, Shaped

from .lab_section import quoted

_NOT_ANNOTATIONS = frozenset({"section", "patient", "donor"})  # these describe the section, not its spots
_INT32_MAX = np.iinfo(np.int32).max
_LOG_MAX = 20.0  # log1p of half a billion: no log-transformed count is larger


def read_h5ad(path: Path) -> AnnData:
    """Read an AnnData file into memory.

    Raises
    ------
    SectionError
        If the file is not a readable AnnData, or has no spots.
    """
    try:
        with warnings.catch_warnings():
            # Duplicate names are an error later, once the spots of the section are known.
            warnings.filterwarnings("ignore", message=r".*names are not unique", category=UserWarning)
            adata = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:  # from h5py and anndata
        message = f"Cannot read {path} as an AnnData file: {error}. Write it again with AnnData.write_h5ad."
        raise SectionError(message) from error
    if adata.n_obs == 0:
        message = f"{path} has no spots (obs is empty)."
        raise SectionError(message)
    return adata


def named_values(adata: AnnData | None, column: str) -> tuple[str, ...]:
    """Return the distinct values of an obs column as text in order of appearance, without missing ones."""
    if adata is None or column not in adata.obs:
        return ()
    return tuple(str(value) for value in adata.obs[column].dropna().unique() if str(value))


def spots_of_section(adata: AnnData, section: str) -> AnnData:
    """Return the spots whose ``obs['section']`` is `section`; all spots if no section is named."""
    if not named_values(adata, "section"):
        return adata
    return adata[(adata.obs["section"].astype(str) == section).to_numpy(dtype=np.bool_)]


def libraries(adata: AnnData | None) -> Mapping[str, Any]:
    """Return ``uns['spatial']``; empty without a file, or if it is not a mapping."""
    stated = adata.uns.get("spatial") if adata is not None else None
    return stated if isinstance(stated, Mapping) else {}


def library_of(adata: AnnData | None, section: str) -> Mapping[str, Any]:
    """Return ``uns['spatial'][section]``, or the only entry under any name; empty if there is neither."""
    stated = libraries(adata)
    library = stated.get(section, next(iter(stated.values())) if len(stated) == 1 else {})
    return library if isinstance(library, Mapping) else {}


def annotations(adata: AnnData) -> dict[str, Array]:
    """Return the obs columns that hold text, numbers or booleans as plain arrays.

    Missing text becomes the empty string, a missing number or boolean NaN. Columns about the whole section (section,
    patient, donor) and columns of any other type are left out.
    """
    plain = {str(name): _plain(adata.obs[name]) for name in adata.obs.columns if name not in _NOT_ANNOTATIONS}
    return {name: values for name, values in plain.items() if values is not None}


def _plain(column: Any) -> Array | None:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(column.to_numpy(dtype=object)).infer_objects()
    is_missing = column.isna().to_numpy(dtype=np.bool_)
    if pd.api.types.is_numeric_dtype(column.dtype):  # booleans included
        if is_missing.any():
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(column.to_numpy(dtype=getattr(column.dtype, "numpy_dtype", column.dtype)))
    values = ["" if missing else cell for cell, missing in zip(column, is_missing, strict=True)]
    return np.array(values, dtype=np.str_) if all(isinstance(cell, str) for cell in values) else None


def read_counts(
    adata: AnnData,
    *,
    layer: str | None,
    where: str,
    option: Literal["--h5ad", "--context-h5ad"] = "--h5ad",
) -> tuple[csr_matrix | None, Shaped[Array, " n_genes"] | None]:
    """Take raw counts from `layer`, else from ``layers['counts']``, else from ``X``.

    Parameters
    ----------
    adata
        The file; floats that are whole numbers are accepted.
    layer
        Layer asked for with ``--counts-layer``.
    where
        Name of the file, for messages.
    option
        Option that gave the file; ``--counts-layer`` belongs to ``--h5ad``.

    Returns
    -------
    tuple
        Counts as canonical int32 CSR, and gene names; (None, None) if the file has no genes or no matrix.

    Raises
    ------
    SectionError
        If `layer` does not exist, a gene name is repeated, or a value is not a finite whole number >= 0.
    """
    layers = list(adata.layers)
    if layer is not None and layer not in layers:
        message = f"{where} has no layer {layer!r} (--counts-layer), only {quoted(layers) or 'X'}."
        raise SectionError(message)
    name = layer or ("counts" if "counts" in layers else None)
    matrix = adata.layers[name] if name is not None else adata.X
    if matrix is None or adata.n_vars == 0:
        return None, None
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if len(repeated):
        message = f"{where}: {len(repeated)} gene names are repeated: {quoted(repeated)}. Sum the counts of each gene."
        raise SectionError(message)
    counts = csr_matrix(matrix)
    fault = values_fault(counts.data)
    if fault is not None:
        others = [x for x in layers if x != name] if option == "--h5ad" else []
        advice = f"choose --counts-layer from {quoted(others)}, or " if others else ""
        advice += f"put raw counts into layers['counts'], or leave out {option} to predict without counts"
        place = "X" if name is None else f"layers[{name!r}]"
        message = f"{where}: {place} must hold raw counts, but {fault}. To fix it, {advice}."
        raise SectionError(message)
    counts = csr_matrix((counts.data.astype(np.int32), counts.indices, counts.indptr), shape=counts.shape)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts, np.array(adata.var_names, dtype=np.str_)


def values_fault(values: Any) -> str | None:
    """Describe why values are not counts, with an example and the likely cause; None if they are."""
    kind = "log-normalised" if values.size and values.max() < _LOG_MAX else "normalised by depth"
    for is_wrong, what, cause in (
        (~np.isfinite(values), "NaN or infinite", ""),
        (values < 0, "negative", " (it looks scaled or centred)"),
        (values != np.floor(values), "not whole", f" (it looks {kind})"),
        (values > _INT32_MAX, "too large for 32 bits", ""),
    ):
        if is_wrong.any():
            return f"{int(is_wrong.sum())} values are {what}, e.g. {values[is_wrong][0]:g}{cause}"
    return None


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
    counts: csr_matrix
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
    where = f"--context-h5ad {path}"
    adata = read_h5ad(path)
    stated = named_values(adata, "section")
    if stated and section not in stated:
        message = f"{where} has section {quoted(stated)}, not {section!r}, which is predicted; see --section."
        raise SectionError(message)
    adata = spots_of_section(adata, section)
    names = np.array(adata.obs_names, dtype=np.str_)
    require_unique(names, where=where)
    rows = pd.Index(ids.astype(str)).get_indexer(names)
    if (rows < 0).all():
        message = (
            f"{where}: none of its {len(names)} obs_names ({quoted(names)}) is among the {len(ids)} ids of "
            f"section {section!r} in the store ({quoted(ids)})."
        )
        raise SectionError(message)
    counts, genes = read_counts(adata, layer=None, where=where, option="--context-h5ad")
    if counts is None or genes is None:
        message = f"{where} has no counts. Put raw counts into X or layers['counts']."
        raise SectionError(message)
    # Results must not depend on the order of the file, not even by rounding.
    kept = np.argsort(rows)[(rows < 0).sum() :]
    counts = counts[kept]
    return MeasuredPart(
        rows=rows[kept].astype(np.int64),
        counts=counts,
        genes=genes,
        library_size=_library_size(adata[kept], counts, where),
        n_unknown=int((rows < 0).sum()),
    )


def _library_size(adata: AnnData, counts: csr_matrix, where: str) -> Float64[Array, " n"] | None:
    """Read ``obs['library_size']``, which must be at least the sum of each spot's counts."""
    if "library_size" not in adata.obs:
        return None
    column = pd.Series(adata.obs["library_size"].to_numpy(dtype=object))  # text may be categorical
    stated: Array = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    sums = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    wrong = np.flatnonzero(~(np.isfinite(stated) & (stated >= sums)))
    if len(wrong):
        first = wrong[0]
        found = f"{adata.obs_names[first]!r} has '{column[first]}', but its counts sum to {sums[first]:.0f}"
        message = f"{where}: obs['library_size'] is wrong for {len(wrong)} of {len(stated)} spots: {found}."
        raise SectionError(message)
    return stated


def require_unique(ids: Shaped[Array, " n"], *, where: str, advice: str = "Keep one row per spot.") -> None:
    """Raise if an id is empty or repeated.

    Raises
    ------
    SectionError
        Names the first of the ids.
    """
    index = pd.Index(ids)
    if (index == "").any():
        message = f"{where}: {int((index == '').sum())} ids are empty."
        raise SectionError(message)
    repeated = index[index.duplicated()].unique()
    if len(repeated):
        message = f"{where}: {len(repeated)} ids occur more than once: {quoted(repeated)}. {advice}"
        raise SectionError(message)
