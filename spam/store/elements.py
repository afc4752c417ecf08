"""AnnData's elements in Zarr v3, written and read by hand: arrays, data frames, CSR matrices, mappings.

The encodings are those of AnnData's on-disk format
(https://anndata.readthedocs.io/en/stable/fileformat-prose.html), so any scverse tool opens a section, while
this room needs neither anndata nor pandas.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from scipy import sparse
from zarr.codecs import ZstdCodec

from spam.typing import Array, Shaped

from .metadata import Node, damaged
from .records import CsrMatrix, is_text

__all__ = [
    "array_at",
    "group_at",
    "node_at",
    "read_array",
    "read_csr",
    "read_frame",
    "write_array",
    "write_csr",
    "write_frame",
    "write_mapping",
    "write_scalar",
]

_CHUNK_ROWS = 1 << 20
"""Rows in a chunk of tables and counts: 4 MB of int32, so that a section of any size is a few files."""


def write_mapping(
    parent: zarr.Group, name: str, *, attributes: Mapping[str, Any] | None = None
) -> zarr.Group:
    """Make an empty AnnData mapping (``obsm``, ``uns``, ...)."""
    return parent.create_group(name, attributes={**_encoding("dict", "0.1.0"), **(attributes or {})})


def write_array(parent: zarr.Group, name: str, values: Shaped[Array, "*shape"]) -> None:
    """Write numbers, truth values or strings of any shape."""
    kind = "string-array" if is_text(values) else "array"
    _create(parent, name, values, _encoding(kind, "0.2.0"))


def write_scalar(parent: zarr.Group, name: str, value: str | int | float) -> None:  # noqa: PYI041  as beartype reads it
    """Write one string or number."""
    kind = "string" if isinstance(value, str) else "numeric-scalar"
    _create(parent, name, np.asarray(value), _encoding(kind, "0.2.0"))


def write_frame(
    parent: zarr.Group,
    name: str,
    index: Shaped[Array, " rows"],
    columns: Mapping[str, Shaped[Array, " rows"]],
) -> None:
    """Write a data frame: its index and its columns."""
    attributes = {**_encoding("dataframe", "0.2.0"), "_index": "_index", "column-order": list(columns)}
    frame = parent.create_group(name, attributes=attributes)
    write_array(frame, "_index", index)
    for column, values in columns.items():
        write_array(frame, column, values)


def write_csr(
    parent: zarr.Group, name: str, matrix: CsrMatrix, *, attributes: Mapping[str, Any] | None = None
) -> None:
    """Write a CSR matrix, its entries in the order in which they are held."""
    encoding = {**_encoding("csr_matrix", "0.1.0"), "shape": list(matrix.shape), **(attributes or {})}
    group = parent.create_group(name, attributes=encoding)
    for part in ("data", "indices", "indptr"):
        write_array(group, part, getattr(matrix, part))


def node_at(parent: zarr.Group, name: str) -> Node:
    """Open a group or array that must be there.

    Raises
    ------
    StoreError
        If there is neither, or its ``zarr.json`` is no metadata.
    """
    try:
        return parent[name]
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise damaged(parent, f"it cannot be opened ({error!r})", child=name) from error


def group_at(parent: zarr.Group, name: str) -> zarr.Group:
    """Open a group that must be there.

    Raises
    ------
    StoreError
        If there is no such group.
    """
    node = node_at(parent, name)
    if not isinstance(node, zarr.Group):
        raise damaged(parent, "it is no group", child=name)
    return node


def array_at(parent: zarr.Group, name: str) -> zarr.Array[Any]:
    """Open an array that must be there.

    Raises
    ------
    StoreError
        If there is no such array.
    """
    node = node_at(parent, name)
    if not isinstance(node, zarr.Array):
        raise damaged(parent, "it is no array", child=name)
    return node


def read_array(parent: zarr.Group, name: str) -> Shaped[Array, "*shape"]:
    """Read a whole array; strings come as NumPy's ``str``.

    Raises
    ------
    StoreError
        If there is no such array, or its bytes cannot be decoded.
    """
    array = array_at(parent, name)
    try:
        values = np.asarray(array[...])
    except (OSError, ValueError, RuntimeError) as error:  # short file, wrong size, broken Zstandard frame
        raise damaged(parent, f"it cannot be read ({error})", child=name) from error
    if values.dtype.kind in "TO":
        # NumPy does not cast its variable-length strings to fixed-length ones itself (NumPy 2.4).
        return values.astype(object).astype(str)
    return values


def read_frame(parent: zarr.Group, name: str) -> tuple[Array, dict[str, Array]]:
    """Read a data frame: its index and its columns.

    Raises
    ------
    StoreError
        If a part is missing or cannot be read.
    """
    frame = group_at(parent, name)
    order = frame.attrs.get("column-order")
    if not isinstance(order, list):
        raise damaged(parent, f"its 'column-order' is {order!r}, not a list", child=name)
    return read_array(frame, "_index"), {str(column): read_array(frame, str(column)) for column in order}


def read_csr(parent: zarr.Group, name: str) -> sparse.csr_matrix:
    """Read a CSR matrix.

    Raises
    ------
    StoreError
        If a part is missing, cannot be read, or does not make a CSR matrix of the stated shape.
    """
    group = group_at(parent, name)
    data, indices, indptr = (read_array(group, part) for part in ("data", "indices", "indptr"))
    try:
        matrix = sparse.csr_matrix((data, indices, indptr), shape=tuple(group.attrs["shape"]))  # type: ignore[arg-type]
        matrix.check_format(full_check=True)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(parent, f"it makes no CSR matrix ({error})", child=name) from error
    return matrix


def _encoding(kind: str, version: str) -> dict[str, Any]:
    return {"encoding-type": kind, "encoding-version": version}


def _create(parent: zarr.Group, name: str, values: Array, attributes: dict[str, Any]) -> None:
    text = is_text(values)
    array = parent.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, min(size, _CHUNK_ROWS)) for size in values.shape),
        dtype=str if text else values.dtype,
        compressors=ZstdCodec(),
        attributes=attributes,
    )
    if values.size:
        array[...] = values.astype(object) if text else values
