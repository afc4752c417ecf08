"""Data frames of AnnData files, by their structure: index, plain, nullable and categorical columns."""

from collections.abc import Callable

import h5py
import numpy as np
import pandas as pd

from spam.errors import SectionError, shortened
from spam.typing import Array

from .hdf5_files import (
    READ_ERRORS,
    attribute_text,
    attribute_texts,
    find_node,
    native,
    read_values,
    refuse_claims,
)
from .lab_section import text_array

WRITE_AGAIN = "Write the file again with AnnData.write_h5ad."


def read_frame(
    node: h5py.Group | h5py.Dataset | None, where: str, *, only: Callable[[str], object] | None = None
) -> tuple[Array, dict[str, Array], dict[str, str]]:
    """Read index and columns of a data frame by its structure, whatever version of the format it states.

    Returns
    -------
    tuple
        The index (``<U``), the columns, and the faults of the columns that cannot be read.
    """
    if isinstance(node, h5py.Dataset) and node.dtype.names:  # anndata before 0.7
        refuse_claims(node)
        table = node[()]
        index_name, *names = node.dtype.names
        read = {name: _field(table[name], node.file, name) for name in node.dtype.names}
        return read[index_name].astype(np.str_), {x: read[x] for x in names if only is None or only(x)}, {}
    index_name = attribute_text(node, "_index") if isinstance(node, h5py.Group) else None
    if not isinstance(node, h5py.Group) or index_name is None:
        message = f"{where} is not a data frame with an index. {WRITE_AGAIN}"
        raise SectionError(message)
    try:
        ids = text_array(_read_column(find_node(node, index_name), None), where="it")
    except READ_ERRORS as error:  # SectionError included
        message = f"The index of {where} cannot be read: {str(error).removesuffix('.')}. {WRITE_AGAIN}"
        raise SectionError(message) from error
    columns: dict[str, Array] = {}
    unreadable: dict[str, str] = {}
    for name in dict.fromkeys(attribute_texts(node, "column-order")):
        if only is not None and not only(name):
            continue
        try:
            columns[name] = _read_column(find_node(node, name), len(ids))
        except READ_ERRORS as error:  # SectionError included
            unreadable[name] = f"Column {shortened(name)} of {where} cannot be read: {error}"
    return ids, columns, unreadable


def _field(values: Array, file: h5py.File, name: str) -> Array:
    """Return a column of a compound dataset; its categories, if it has any, are in uns."""
    categories = find_node(file, f"uns/{name}_categories")
    if isinstance(categories, h5py.Dataset) and values.dtype.kind in "iu":
        return _without_missing(*_decoded(values, read_values(categories)))
    if values.dtype.kind in "SO":
        return np.array([x.decode() if isinstance(x, bytes) else str(x) for x in values], dtype=np.str_)
    return native(values)


def _read_column(node: h5py.Group | h5py.Dataset | None, n_rows: int | None) -> Array:
    """Read a plain, nullable or categorical column; missing text becomes "", a missing number or boolean NaN."""
    parts: dict[str, Array] = {}
    for name in ("codes", "categories", "values", "mask") if isinstance(node, h5py.Group) else ():
        # anndata 0.12.2 writes categories as text that may be missing, which is a group
        part = find_node(node, f"{name}/values") or find_node(node, name)
        if isinstance(part, h5py.Dataset):
            parts[name] = read_values(part)
    values: Array | None = None
    is_missing: Array | None = None
    if isinstance(node, h5py.Dataset):
        values, categories = read_values(node), node.attrs.get("categories")
        if isinstance(categories, h5py.Reference):  # anndata 0.7
            values, is_missing = _decoded(values, read_values(node.file[categories]))
    elif parts.keys() >= {"codes", "categories"}:
        values, is_missing = _decoded(parts["codes"], parts["categories"])
    elif parts.keys() >= {"values", "mask"}:
        values, is_missing = parts["values"], parts["mask"].astype(np.bool_)
    if values is None:
        what = "missing" if node is None else f"of the unknown kind {attribute_text(node, 'encoding-type')!r}"
        message = f"it is {what}"
        raise SectionError(message)
    if values.ndim != 1 or (n_rows is not None and len(values) != n_rows):
        message = f"it has the shape {values.shape}, expected {'one axis' if n_rows is None else (n_rows,)}"
        raise SectionError(message)
    return _without_missing(values, is_missing)


def _decoded(codes: Array, categories: Array) -> tuple[Array, Array]:
    """Return the values of a categorical column, and which are missing (code -1)."""
    if codes.dtype.kind not in "iu" or categories.ndim != 1:
        message = f"its codes are {codes.dtype} and its categories have {categories.ndim} dimensions"
        raise SectionError(message)
    if codes.size and (codes.min() < -1 or codes.max() >= len(categories)):
        message = f"its codes go from {codes.min()} to {codes.max()} for {len(categories)} categories"
        raise SectionError(message)
    values = categories[codes] if len(categories) else np.full(codes.shape, "", dtype=np.str_)
    return values, codes < 0


def _without_missing(values: Array, is_missing: Array | None) -> Array:
    if is_missing is None or not is_missing.any():
        return values
    if values.dtype.kind == "U":
        return np.where(is_missing, "", values)
    return np.where(is_missing, np.nan, values.astype(np.float64))


def as_numbers(values: Array) -> Array:
    """Convert to float64; text that is no number becomes NaN."""
    if values.dtype.kind != "U":
        return values.astype(np.float64)
    numbers = pd.to_numeric(pd.Series(values.ravel(), dtype=object), errors="coerce")
    return np.asarray(numbers, dtype=np.float64).reshape(values.shape)
