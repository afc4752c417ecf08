"""HDF5 files from strangers: nothing is read that lies in another file or is larger than it can be."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from spam.errors import SectionError, SpamError
from spam.sections.lab_section import quoted
from spam.typing import Array

from .claims import claim_fault

__all__ = ["open_hdf5", "read_numbers", "refuse_claims"]

_READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises on damaged files


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, after making sure that all of it lies in this one file.

    HDF5 can refer to other files in three ways: links (external, or soft ones on the way to those), raw data
    in external files, and virtual datasets. A file with any of them is refused, whether or not it is asked
    for.

    Raises
    ------
    SectionError
        If the file is no HDF5 file, is damaged, or refers to other files; names all such entries.
    """
    try:
        with h5py.File(path, "r") as file:
            outside = _outside(file)
            if outside:
                message = (
                    f"{path} refers to what may lie in other files: {quoted(outside)}; expected a file that holds "
                    "its data itself: copy these entries into it (`h5repack` does), or ask its author for such a file"
                )
                raise SectionError(message)
            yield file
    except _READ_ERRORS as error:
        if isinstance(error, SpamError):  # worded already
            raise
        message = f"{path} cannot be read as HDF5: {error}; it is damaged, cut short or of another format: copy it again"
        raise SectionError(message) from error


def _outside(file: h5py.File) -> list[str]:
    """Name the links and datasets that may lead out of the file."""
    found: list[str] = []

    def visit(name: str, link: object) -> None:
        if not isinstance(link, h5py.HardLink):
            found.append(f"{name} ({type(link).__name__})")
            return
        node = file[name]
        if isinstance(node, h5py.Dataset) and (node.is_virtual or node.external):
            found.append(f"{name} ({'virtual dataset' if node.is_virtual else 'external data'})")

    file.visititems_links(visit)
    return found


def read_numbers(file: h5py.File, name: str) -> Array:
    """Read a dataset of numbers whole, as it is stored.

    Raises
    ------
    SectionError
        If there is no such dataset, it holds no numbers, claims more than the file holds, or was not written
        to its end.
    """
    node = file.get(name)
    if not isinstance(node, h5py.Dataset):
        what = f"a group, not an array: {quoted(list(node))}" if node is not None else "not there"
        message = (
            f"{file.filename}: {name!r} is {what}; expected an array of numbers there, beside {quoted(list(file))}: "
            "give the file (or the key) that holds features"
        )
        raise SectionError(message)
    if node.dtype.kind not in "fiu":
        message = f"{file.filename}: {name!r} is of type {node.dtype}; expected numbers: give the file that holds features"
        raise SectionError(message)
    refuse_claims(node)
    # A chunk that was never written reads as zeros, which would pass for features.
    if node.chunks is not None and node.size:
        n_chunks = math.prod(-(-n // chunk) for n, chunk in zip(node.shape, node.chunks, strict=True))
        n_written = node.id.get_num_chunks()
        if n_written < n_chunks:
            message = (
                f"{file.filename}: {n_written} of the {n_chunks} chunks of {name!r} were written; expected all: the "
                "program that made it was interrupted: extract this slide again"
            )
            raise SectionError(message)
    return np.asarray(node[()])


def refuse_claims(node: h5py.Dataset | h5py.Group) -> None:
    """Refuse a dataset (or a group with one) that claims far more bytes than it takes up.

    Raises
    ------
    SectionError
        Naming the dataset and both sizes.
    """
    if isinstance(node, h5py.Group):
        for child in node.values():
            refuse_claims(child)
        return
    fault = claim_fault(node.size * node.dtype.itemsize, node.id.get_storage_size())
    if fault:
        message = (
            f"{node.file.filename}: {node.name!r} of shape {node.shape} {fault}; expected data, not a promise of it: "
            "copy the file again, and do not use it if it came like this"
        )
        raise SectionError(message)
