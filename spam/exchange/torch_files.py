"""PyTorch files that hold one tensor, as CLAM and slide2vec write them; nothing in them is executed."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch

from spam.errors import SectionError
from spam.typing import Array

from .claims import claim_fault

__all__ = ["read_tensor"]

# What the restricted unpickler and the archive reader raise on files that were damaged or made up.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)


def read_tensor(path: Path) -> Array:
    """Read the one floating-point tensor of a ``.pt`` file as float32.

    Only ``torch.load(weights_only=True)`` is used, which builds tensors and plain containers and refuses all
    else. TRIDENT's ``.pt`` is refused by it: that program pickles a NumPy array.

    Raises
    ------
    SectionError
        If the file is no PyTorch file, holds something else than one dense tensor of floating-point numbers,
        or claims more than it holds.
    """
    try:
        _refuse_bomb(path)
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except _LOAD_ERRORS as error:
        if isinstance(error, SectionError):  # worded already
            raise
        # PyTorch's own text advises to load the file without protection; only its kind of error is passed on.
        message = (
            f"{path} is no PyTorch file that can be read safely ({type(error).__name__}): it is damaged, or holds "
            "Python objects (TRIDENT's .pt is a pickled NumPy array); expected one tensor: give the .h5 of the same "
            "program, or save the features with `torch.save(tensor, path)` or `numpy.save`"
        )
        raise SectionError(message) from error
    fault = _tensor_fault(tensor)
    if fault:
        message = (
            f"{path} holds {fault}; expected one dense tensor of floating-point numbers: save the features alone "
            "with `torch.save(tensor, path)`"
        )
        raise SectionError(message)
    return np.asarray(tensor.detach().to(torch.float32).contiguous())


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive whose members unpack to far more than the file (old PyTorch files are no archives)."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        n_claimed = sum(member.file_size for member in archive.infolist())
    fault = claim_fault(n_claimed, path.stat().st_size)
    if fault:
        message = f"{path} {fault}; expected data as PyTorch writes it, not compressed: copy the file again"
        raise SectionError(message)


def _tensor_fault(tensor: object) -> str | None:
    """Say what keeps an object from being one dense tensor of floating-point numbers."""
    if not isinstance(tensor, torch.Tensor):
        return f"a {type(tensor).__name__}"
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return f"a tensor of layout {tensor.layout} on {tensor.device}"
    if not tensor.is_floating_point():
        return f"a tensor of type {tensor.dtype}"
    # A view of few numbers (`expand`) can claim any shape.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"a tensor of shape {tuple(tensor.shape)} that claims more than its {tensor.untyped_storage().nbytes()} bytes"
    return None
