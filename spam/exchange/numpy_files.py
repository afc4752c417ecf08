"""NumPy files: ``.npy`` with one array, ``.npz`` with named ones; never a pickle, never more than the file holds."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spam.errors import SectionError
from spam.typing import Array

from .claims import claim_fault

__all__ = ["read_npy", "read_npz"]

_READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
)


def read_npy(path: Path) -> Array:
    """Map the array of a ``.npy`` file: a shape that the file does not hold is refused before any memory is used.

    Raises
    ------
    SectionError
        If the file is no ``.npy`` file, is cut short, or holds Python objects.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except _READ_ERRORS as error:
        message = (
            f"{path} cannot be read as one .npy array: {error}; expected numbers, all of them in the file: save them "
            "again with `numpy.save(path, features)`"
        )
        raise SectionError(message) from error


def read_npz(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Read the arrays of a ``.npz`` file that are asked for.

    Raises
    ------
    SectionError
        If the file is no ``.npz`` file or is cut short, or if one of the arrays is not there, holds Python
        objects, or claims another size than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            faults = [fault for name in names if (fault := _member_fault(archive, f"{name}.npy"))]
        if not faults:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in names}
    except _READ_ERRORS as error:
        message = (
            f"{path} cannot be read as a .npz archive: {error}; it is damaged or cut short: copy it again"
        )
        raise SectionError(message) from error
    message = (
        f"{path}: {'; '.join(faults)}; expected the arrays {', '.join(names)}: give the file that holds them"
    )
    raise SectionError(message)


def _member_fault(archive: zipfile.ZipFile, name: str) -> str | None:
    """Say what keeps a member from being an array of the size that the archive states."""
    if name not in archive.namelist():
        return f"there is no {name!r}"
    member = archive.getinfo(name)
    fault = claim_fault(member.file_size, member.compress_size)
    if fault:
        return f"{name!r} {fault}"
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(stream)
        n_claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize + stream.tell()
    if dtype.hasobject:
        return f"{name!r} holds Python objects"
    if n_claimed != member.file_size:
        return f"{name!r} of shape {shape} claims {n_claimed:,} bytes but holds {member.file_size:,}"
    return None
