"""AnnData's elements in Zarr v3, written and read by hand: arrays, data frames, CSR matrices, mappings.

The encodings are those of AnnData's on-disk format
(https://anndata.readthedocs.io/en/stable/fileformat-prose.html), so any scverse tool opens a section, while
this room needs neither anndata nor pandas.
"""

from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal, TypeAlias

import numpy as np
import zarr
from scipy import sparse
from zarr.codecs import Crc32cCodec, ZstdCodec

from spam.errors import StoreError
from spam.typing import Array, Int, Shaped

from .metadata import Node, damaged
from .one_by_one import one_by_one
from .records import is_text

__all__ = [
    "Parent",
    "array_at",
    "group_at",
    "node_at",
    "read_array",
    "read_columns",
    "read_frame",
    "read_sparse",
    "write_array",
    "write_frame",
    "write_group",
    "write_mapping",
    "write_scalar",
    "write_sparse",
]

Parent: TypeAlias = zarr.Group | Path
"""Where something is written: in a group, or in a folder that is no group (the staging folder)."""

_CHUNK_ROWS = 1 << 20
"""Rows in a chunk of a table: 4 MB of int32, so that a section of any size is a few files."""
_CHUNK_ENTRIES = 1 << 18
"""Entries in a chunk of a sparse matrix: 1 MB of int32, so that a few genes are a few chunks."""


_MOST_TEXT_BYTES = 1 << 30
"""What a column of strings may take in memory, where each takes as much as the longest."""
_CHARACTER_BYTES = 4


def write_group(parent: Parent, name: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """Make an empty group."""
    if isinstance(parent, Path):
        return zarr.create_group(one_by_one(parent / name), zarr_format=3, attributes=dict(attributes))
    return parent.create_group(name, attributes=dict(attributes))


def write_mapping(parent: Parent, name: str, *, attributes: Mapping[str, Any] | None = None) -> zarr.Group:
    """Make an empty AnnData mapping (``obsm``, ``uns``, ...)."""
    return write_group(parent, name, {**_encoding("dict", "0.1.0"), **(attributes or {})})


def write_array(
    parent: zarr.Group, name: str, values: Shaped[Array, "*shape"], *, chunk: int = _CHUNK_ROWS
) -> None:
    """Write numbers, truth values or strings of any shape, in chunks of at most `chunk` along each axis."""
    kind = "string-array" if is_text(values) else "array"
    _create(parent, name, values, _encoding(kind, "0.2.0"), chunk=chunk)


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


def write_sparse(parent: Parent, name: str, matrix: Any) -> None:
    """Write a CSR or CSC matrix, its entries in the order in which they are held."""
    encoding = {**_encoding(f"{matrix.format}_matrix", "0.1.0"), "shape": list(matrix.shape)}
    group = write_group(parent, name, encoding)
    for part in ("data", "indices", "indptr"):
        write_array(group, part, getattr(matrix, part), chunk=_CHUNK_ENTRIES)


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


def read_array(parent: zarr.Group, name: str, *, rows: slice | EllipsisType = ...) -> Shaped[Array, "*shape"]:
    """Read an array, or some rows of it; strings come as NumPy's ``str``.

    Raises
    ------
    StoreError
        If there is no such array, its bytes cannot be decoded, or its strings are too long to be held.
    """
    array = array_at(parent, name)
    try:
        values = np.asarray(array[rows])
    except StoreError:  # says where, and what
        raise
    except (OSError, ValueError, RuntimeError) as error:  # short file, wrong size, broken Zstandard frame
        raise damaged(parent, f"it cannot be read ({error})", child=name) from error
    if values.dtype.kind in "TO":
        # NumPy does not cast its variable-length strings to fixed-length ones itself (NumPy 2.4).
        strings = values.astype(object)
        longest = max(map(len, strings.flat), default=0)
        n_bytes = strings.size * longest * _CHARACTER_BYTES
        if n_bytes > _MOST_TEXT_BYTES:
            fault = (
                f"its {strings.size} strings, the longest of {longest} characters, would take {n_bytes} bytes, "
                f"expected at most {_MOST_TEXT_BYTES}"
            )
            raise damaged(parent, fault, child=name)
        return strings.astype(str)
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


def read_sparse(
    parent: zarr.Group, name: str, *, form: Literal["csr", "csc"], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """Read a sparse matrix that is stored as `form`, as CSR.

    Raises
    ------
    StoreError
        If it states another shape than `shape`, or a part is missing, cannot be read, or does not make such a matrix.
    """
    group = _sparse_group(parent, name, form, shape)
    data, indices, indptr = (read_array(group, part) for part in ("data", "indices", "indptr"))
    return _matrix(parent, name, form, data, indices, indptr, shape).tocsr()


def read_columns(
    parent: zarr.Group, name: str, columns: Int[Array, " n_columns"], *, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """Read some columns of a CSC matrix of a shape, in the given order, as CSR; only the chunks that hold them are touched.

    Raises
    ------
    StoreError
        As `read_sparse`.
    """
    n_rows, n_columns = shape
    group = _sparse_group(parent, name, "csc", shape)
    indptr = read_array(group, "indptr")
    is_plain = indptr.shape == (n_columns + 1,) and indptr[0] == 0 and (np.diff(indptr) >= 0).all()
    if not is_plain or indptr[-1] != array_at(group, "indices").shape[0]:
        raise damaged(parent, "it makes no CSC matrix (its 'indptr' does not fit)", child=name)
    if columns.size and columns.max() >= n_columns:
        raise damaged(parent, f"it has {n_columns} columns, not column {columns.max()}", child=name)
    order, places = np.unique(columns, return_inverse=True)
    # Neighbouring columns are read in one piece.
    runs = np.split(order, np.flatnonzero(np.diff(order) > 1) + 1) if order.size else []
    bounds = [slice(int(indptr[run[0]]), int(indptr[run[-1] + 1])) for run in runs] or [slice(0, 0)]
    data, indices = (
        np.concatenate([read_array(group, part, rows=rows) for rows in bounds])
        for part in ("data", "indices")
    )
    starts = np.concatenate([[0], np.cumsum(np.diff(indptr)[order])])
    read = _matrix(parent, name, "csc", data, indices, starts, (n_rows, len(order)))
    return read[:, places].tocsr()


def _sparse_group(parent: zarr.Group, name: str, form: str, shape: tuple[int, int]) -> zarr.Group:
    """Open a sparse matrix; its shape is compared before anything of that size is made: it is a stranger's claim."""
    group = group_at(parent, name)
    found, stated = group.attrs.get("encoding-type"), group.attrs.get("shape")
    if found != f"{form}_matrix":
        raise damaged(parent, f"it is a {found!r}, expected a '{form}_matrix'", child=name)
    if stated != list(shape):
        raise damaged(parent, f"its shape is {str(stated)[:80]}, expected {list(shape)}", child=name)
    return group


def _matrix(
    parent: zarr.Group,
    name: str,
    form: str,
    data: Array,
    indices: Array,
    indptr: Array,
    shape: tuple[int, int],
) -> Any:
    make = sparse.csr_matrix if form == "csr" else sparse.csc_matrix
    try:
        matrix = make((data, indices, indptr), shape=shape)
        matrix.check_format(full_check=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise damaged(parent, f"it makes no {form.upper()} matrix ({error})", child=name) from error
    return matrix


def _encoding(kind: str, version: str) -> dict[str, Any]:
    return {"encoding-type": kind, "encoding-version": version}


def _create(
    parent: zarr.Group, name: str, values: Array, attributes: dict[str, Any], *, chunk: int = _CHUNK_ROWS
) -> None:
    text = is_text(values)
    array = parent.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, min(size, chunk)) for size in values.shape),
        dtype=str if text else values.dtype,
        # Strings are not compressed: their number is then seen before they are decoded.
        compressors=(Crc32cCodec(),) if text else (ZstdCodec(), Crc32cCodec()),
        attributes=attributes,
        config={"write_empty_chunks": True},  # a chunk that is not there is damage, never zeros
    )
    if values.size:
        array[...] = values.astype(object) if text else values
