"""Arrays in HDF5, NumPy and PyTorch files of unknown origin: complete, without pickles, of the size that they claim."""

import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from spam.errors import SectionError, SpamError
from spam.sections.lab_section import quoted
from spam.typing import Array

_FREE_BYTES = 2**28  # a claim of 256 MB is harmless, whatever it was compressed to
_MOST_COMPRESSION = 100  # floating-point features shrink by less than 2, coordinates of a grid by about 10
# What NumPy, h5py, zipfile and the restricted unpickler of PyTorch raise on files that are damaged or forged.
_READ_ERRORS = (
    OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, AssertionError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; refuse links and datasets that lead to other files.

    Raises
    ------
    SectionError
        If the file is not HDF5, is damaged, or refers to other files (names all such entries).
    """
    outside: list[str] = []
    try:
        with h5py.File(path, "r") as file:

            def visit(name: str, link: object) -> None:
                node = file[name] if isinstance(link, h5py.HardLink) else None
                if node is None or (isinstance(node, h5py.Dataset) and (node.is_virtual or node.external)):
                    outside.append(name)

            file.visititems_links(visit)
            if outside:
                message = (
                    f"{path} refers to other files at {quoted(outside)}. Copy these into it with h5repack."
                )
                raise SectionError(message)
            yield file
    except _READ_ERRORS as error:
        if isinstance(error, SpamError):
            raise
        message = f"{path} cannot be read as HDF5: {error}. Copy it again."
        raise SectionError(message) from error


def read_numbers(file: h5py.File, name: str) -> Array:
    """Read a dataset of numbers.

    Raises
    ------
    SectionError
        If there is no such dataset, it has no numbers, claims more than the file holds, or has missing chunks.
    """
    node = file.get(name)
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiu":
        message = f"{file.filename}: {name!r} is {node!r}, expected an array of numbers. The file has {quoted(list(file))}."
        raise SectionError(message)
    refuse_claims(node)
    if node.chunks is not None and node.size:  # a missing chunk would read as zeros
        n_chunks = math.prod(-(-n // chunk) for n, chunk in zip(node.shape, node.chunks, strict=True))
        n_written = node.id.get_num_chunks()
        if n_written < n_chunks:
            message = (
                f"{file.filename}: {name!r} has {n_written} of {n_chunks} chunks. Extract the slide again."
            )
            raise SectionError(message)
    return np.asarray(node[()])


def refuse_claims(node: h5py.Dataset | h5py.Group) -> None:
    """Refuse a dataset (or a group with one) that claims far more bytes than the file stores for it.

    Raises
    ------
    SectionError
        Naming the dataset and both sizes.
    """
    if isinstance(node, h5py.Group):
        for child in node.values():
            refuse_claims(child)
    else:
        what = f"{node.file.filename}: {node.name!r} of shape {node.shape}"
        _refuse_claim(what, node.size * node.dtype.itemsize, node.id.get_storage_size())


def _refuse_claim(what: str, n_claimed: int, n_stored: int) -> None:
    if n_claimed > max(_FREE_BYTES, _MOST_COMPRESSION * n_stored):
        message = (
            f"{what} claims {n_claimed:,} bytes but stores {n_stored:,}. Copy the file again from its source."
        )
        raise SectionError(message)


def read_npy(path: Path) -> Array:
    """Map the array of a ``.npy`` file; a shape that the file does not hold is an error."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except _READ_ERRORS as error:
        message = f"{path} is not one complete .npy array of numbers: {error}. Save it with numpy.save."
        raise SectionError(message) from error


def read_npz(path: Path, names: Sequence[str]) -> list[Array]:
    """Read arrays of a ``.npz`` file by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                _refuse_member(path, archive, f"{name}.npy")
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except _READ_ERRORS as error:
        if isinstance(error, SpamError):
            raise
        message = f"{path} cannot be read as .npz with the arrays {', '.join(names)}: {error}. Copy it again."
        raise SectionError(message) from error


def _refuse_member(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Refuse an array that has Python objects or whose header claims another size than the archive."""
    member = archive.getinfo(name)
    _refuse_claim(f"{path}: {name!r}", member.file_size, member.compress_size)
    with archive.open(member) as stream:
        is_first = np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        n_claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize + stream.tell()
    if dtype.hasobject or n_claimed != member.file_size:
        message = f"{path}: {name!r} ({dtype}, {shape}) claims {n_claimed:,} bytes, has {member.file_size:,}. Copy it again."
        raise SectionError(message)


def read_tensor(path: Path) -> Array:
    """Read the one floating-point tensor of a ``.pt`` file as float32, without executing anything in it."""
    import torch  # only here: reading and training from a store needs no PyTorch in this package

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                n_claimed = sum(member.file_size for member in archive.infolist())
            _refuse_claim(str(path), n_claimed, path.stat().st_size)
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except _READ_ERRORS as error:
        if isinstance(error, SpamError):
            raise
        # PyTorch's message advises to switch the protection off, so only the kind of error is shown.
        message = (
            f"{path} is not a PyTorch file that is safe to read ({type(error).__name__}): it is damaged or has Python "
            "objects (TRIDENT's .pt does). Use the .h5 of the same program, or save the features with numpy.save."
        )
        raise SectionError(message) from error
    is_dense = (
        isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.is_floating_point()
    )
    # A view of few numbers (`expand`) can claim any shape.
    if not is_dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        what = (
            f"{tensor.dtype} {tuple(tensor.shape)}"
            if isinstance(tensor, torch.Tensor)
            else type(tensor).__name__
        )
        message = f"{path} holds {what}, expected one dense floating-point tensor. Save the features with numpy.save."
        raise SectionError(message)
    return np.asarray(tensor.detach().to(torch.float32).contiguous())
