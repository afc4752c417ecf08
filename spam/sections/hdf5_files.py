"""HDF5 files of unknown origin: nothing of another file is read, and no more memory taken than the file accounts for."""

import math
import pickle
import struct
import tokenize
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spam.errors import SectionError, SpamError
from spam.memory import available_bytes
from spam.typing import Array, Shaped

from .lab_section import quoted, text_array

_MOST_LINKS = 16  # in one path, as HDF5 follows
_FREE_BYTES = 2**28  # a claim of 256 MB is harmless, whatever it was compressed to
_MOST_COMPRESSION = 100  # floating-point features shrink by less than 2, counts by less than 50
READ_ERRORS = (
    OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, AssertionError, MemoryError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, SyntaxError, tokenize.TokenError,
)  # fmt: skip
"""What NumPy, h5py, zipfile and the restricted unpickler of PyTorch raise on files that are damaged or forged."""


@contextmanager
def readable(explain: Callable[[Exception], str]) -> Iterator[None]:
    """Turn the errors of libraries that read a file into one with the message of `explain`; those of this package pass.

    Raises
    ------
    SectionError
        If the file is damaged or of another kind.
    """
    try:
        yield
    except READ_ERRORS as error:
        if isinstance(error, SpamError):
            raise
        raise SectionError(explain(error)) from error


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; take its content with `find_node`.

    Raises
    ------
    SectionError
        If the file is not HDF5 or is damaged, also while it is open.
    """
    with (
        readable(lambda error: f"{path} cannot be read as HDF5: {error}. Copy it again."),
        h5py.File(path, "r") as file,
    ):
        yield file


def find_node(group: h5py.Group | h5py.Dataset, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return the group or dataset at a path; None if there is none. Links within the file are followed.

    Raises
    ------
    SectionError
        If it is in another file (external link, external or virtual dataset), or a link leads to nothing or to itself.
    """
    node: Any = group
    asked, linked, n_links = name.split("/"), list[str](), 0  # parts of the path, and of links in it
    while linked or asked:
        is_linked, part = bool(linked), (linked or asked).pop(0)
        if part in ("", "."):
            continue
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None and not is_linked:
            return None
        if isinstance(link, h5py.SoftLink) and n_links < _MOST_LINKS:
            linked, n_links = [*link.path.split("/"), *linked], n_links + 1
            node = node.file["/"] if link.path.startswith("/") else node
        elif isinstance(link, h5py.HardLink):
            node = node[part]
        else:  # an external link is not even opened: it may lead to a pipe
            node = None
            break
    if node is None or (isinstance(node, h5py.Dataset) and (node.is_virtual or node.external)):
        where = f"{group.file.filename}: {name!r} refers to another file, to itself, or to nothing"
        message = f"{where}. Write the file again with its values inside."
        raise SectionError(message)
    return node if isinstance(node, h5py.Group | h5py.Dataset) else None


def attribute_text(node: h5py.Group | h5py.Dataset, name: str) -> str | None:
    """Return a text attribute, of variable or fixed length; None if there is none."""
    value = node.attrs.get(name)
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


def attribute_texts(node: h5py.Group | h5py.Dataset, name: str) -> tuple[str, ...]:
    """Return a list of texts in an attribute; empty if there is none."""
    value = node.attrs.get(name)
    values = np.atleast_1d(value).ravel() if isinstance(value, np.ndarray | str | bytes) else ()
    return tuple(x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in values)


def read_values(node: h5py.Dataset) -> Shaped[Array, "..."]:
    """Read a dataset of text (``<U``), booleans or numbers, these in the machine's byte order and at least single precision.

    Raises
    ------
    SectionError
        If it has values of another kind, is not UTF-8, or claims more than the file holds.
    """
    refuse_claims(node)
    where = f"{node.file.filename}: {node.name!r}"
    if h5py.check_string_dtype(node.dtype) is not None:
        try:
            return text_array(node.asstr("utf-8")[()], where=where)
        except UnicodeDecodeError as error:
            message = f"{where} is not UTF-8: {error}."
            raise SectionError(message) from error
    require_numbers(node)
    return native(node[()])


def require_numbers(node: h5py.Dataset) -> None:
    """Raise SectionError unless the dataset holds real numbers or booleans."""
    if node.dtype.kind not in "biuf":
        what = "text" if h5py.check_string_dtype(node.dtype) is not None else str(node.dtype)
        message = f"{node.file.filename}: {node.name!r} holds {what}, expected numbers."
        raise SectionError(message)


def native(values: Any) -> Array:
    """Bring numbers into a type that NumPy and SciPy compute with: native byte order, single or double precision."""
    found: Array = np.asarray(values)
    if found.dtype.kind == "f" and found.dtype.itemsize not in (4, 8):
        return np.asarray(found, dtype=np.float32 if found.dtype.itemsize < 4 else np.float64)
    return np.asarray(found, dtype=f"{found.dtype.kind}{found.dtype.itemsize}")


def read_numbers(file: h5py.File, name: str) -> Array:
    """Read a dataset of numbers.

    Raises
    ------
    SectionError
        If there is no such dataset, it has no numbers, claims more than the file holds, or has missing chunks.
    """
    node = find_node(file, name)
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiu":
        message = f"{file.filename}: {name!r} is {node!r}, expected an array of numbers. The file has {quoted(list(file))}."
        raise SectionError(message)
    refuse_claims(node)
    if node.chunks is not None and node.size:  # a missing chunk would read as zeros
        n_chunks = math.prod(-(-n // chunk) for n, chunk in zip(node.shape, node.chunks, strict=True))
        n_written = node.id.get_num_chunks()
        if n_written < n_chunks:
            message = f"{file.filename}: {name!r} has {n_written} of {n_chunks} chunks. Extract it again."
            raise SectionError(message)
    return np.asarray(node[()])


def refuse_claims(node: h5py.Dataset) -> None:
    """Refuse a dataset that claims far more bytes than the file stores for it.

    Raises
    ------
    SectionError
        Naming the dataset and both sizes.
    """
    what = f"{node.file.filename}: {node.name!r} of shape {node.shape}"
    refuse_claim(what, (node.size or 0) * node.dtype.itemsize, node.id.get_storage_size())


def refuse_claim(what: str, n_claimed: int, n_stored: int) -> None:
    """Raise SectionError if `n_claimed` bytes cannot come from `n_stored` bytes of a file, or do not fit into memory."""
    if n_claimed > max(_FREE_BYTES, _MOST_COMPRESSION * n_stored):
        message = f"{what} claims {n_claimed:,} bytes but stores {n_stored:,}. Copy the file again."
        raise SectionError(message)
    if n_claimed > _FREE_BYTES and n_claimed > (n_free := available_bytes()):
        message = f"{what} needs {n_claimed:,} bytes of memory; {n_free:,} are free. Use a larger machine."
        raise SectionError(message)
