"""Versions of the software that decides the numbers, as stores, checkpoints and reports record them."""

import functools
import platform
from importlib import metadata

__all__ = ["software_versions"]

_version = functools.cache(metadata.version)  # cached, because it reads files and is called in every epoch
_PACKAGES = ("spam-st", "torch", "timm", "numpy", "scipy", "zarr", "anndata")


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide features, training and predictions."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
