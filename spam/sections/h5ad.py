"""What is read of an AnnData file beside its counts: annotations, and what ``uns['spatial']`` knows."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from spam.errors import SectionError
from spam.typing import Array

__all__ = ["annotations", "named_values", "read_h5ad", "spatial_libraries", "spatial_library"]

_NOT_ANNOTATIONS = frozenset({"section", "patient", "donor"})  # these name the whole section, not its spots


def read_h5ad(path: Path) -> AnnData:
    """Read an AnnData file into memory.

    Raises
    ------
    SectionError
        If the file is no readable AnnData, or holds no spots.
    """
    try:
        with warnings.catch_warnings():
            # Repeated names are an error here, raised with the names once the section's spots are known.
            warnings.filterwarnings("ignore", message=r".*names are not unique", category=UserWarning)
            adata = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:  # what h5py and anndata raise
        message = (
            f"{path} cannot be read as an AnnData file: {error}; write it again with `AnnData.write_h5ad`"
        )
        raise SectionError(message) from error
    if adata.n_obs == 0:
        message = f"{path} holds no spots (obs is empty); give the h5ad of a section, or leave out --h5ad"
        raise SectionError(message)
    return adata


def named_values(adata: AnnData, column: str) -> tuple[str, ...]:
    """Return the different values of an obs column as text in order of appearance, missing ones left out."""
    if column not in adata.obs:
        return ()
    return tuple(str(value) for value in adata.obs[column].dropna().unique() if str(value))


def spatial_libraries(adata: AnnData) -> tuple[str, ...]:
    """Return the names of the libraries in ``uns['spatial']``."""
    libraries = adata.uns.get("spatial")
    return tuple(libraries) if isinstance(libraries, Mapping) else ()


def spatial_library(adata: AnnData, section: str) -> Mapping[str, Any]:
    """Return ``uns['spatial'][section]``, or its only entry under any name; empty if there is neither."""
    names = spatial_libraries(adata)
    name = section if section in names else names[0] if len(names) == 1 else None
    library = adata.uns["spatial"][name] if name is not None else {}
    return library if isinstance(library, Mapping) else {}


def annotations(adata: AnnData) -> dict[str, Array]:
    """Return the obs columns that hold text, numbers or booleans as plain arrays.

    Missing text becomes the empty string, a missing number or truth value NaN. Columns that name the whole
    section (section, patient, donor) and columns of any other kind are left out.
    """
    plain = {str(name): _plain(adata.obs[name]) for name in adata.obs.columns if name not in _NOT_ANNOTATIONS}
    return {name: values for name, values in plain.items() if values is not None}


def _plain(column: Any) -> Array | None:
    """Turn a pandas column into a text, number or boolean array; None if it is none of these."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(column.to_numpy(dtype=object)).infer_objects()
    is_missing = column.isna().to_numpy(dtype=np.bool_)
    if pd.api.types.is_numeric_dtype(column.dtype):  # booleans included
        if is_missing.any():
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(column.to_numpy(dtype=getattr(column.dtype, "numpy_dtype", column.dtype)))
    values = ["" if missing else cell for cell, missing in zip(column, is_missing, strict=True)]
    if not all(isinstance(cell, str) for cell in values):
        return None
    return np.array(values, dtype=np.str_)
