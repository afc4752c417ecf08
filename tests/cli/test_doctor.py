"""`spam doctor`: each line says what is there, and what to do where something is wrong."""

import importlib.metadata
import sys
from typing import Any

import pytest

from spam import diagnosis
from spam.diagnosis import diagnose


def finding(name: str) -> diagnosis.Finding:
    """The finding of that name, of a diagnosis of the installation as it is now."""
    (found,) = (one for one in diagnose() if one.name == name)
    return found


def test_this_installation_is_fit(spam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    ran = spam("doctor", "--json")
    assert (ran.code, ran.json["is_fit"]) == (0, True), ran.out
    names = [one["name"] for one in ran.json["findings"]]
    assert names == [
        "Python",
        "spam",
        "torch",
        "torchvision, timm",
        "faiss",
        "zarr, anndata",
        "default encoder",
        "Hugging Face Hub",
        "disk",
    ]
    assert all(one["fix"] for one in ran.json["findings"] if one["status"] != "PASS")
    assert "secret" not in ran.out + ran.err
    assert finding("torch").detail.startswith(importlib.metadata.version("torch"))


def test_another_spam_fails(spam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"spam": ["spam-st", "spam"]})
    ran = spam("doctor")
    assert ran.code == 2
    assert "FAIL  spam: the import name 'spam' is shared with spam" in ran.out
    assert "-> pip uninstall spam spam-st" in ran.out


def test_two_faiss_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.10.0" if name.startswith("faiss-") else real(name)
    )
    found = finding("faiss")
    assert (found.status, "overwrite each other" in found.detail) == ("FAIL", True)
    assert "pip uninstall faiss-cpu faiss-gpu" in found.fix


def test_broken_package_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # how Python marks a module that must not be imported
    found = finding("torchvision, timm")
    assert (found.status, "pip install" in found.fix) == ("FAIL", True)
    assert finding("torch").status == "PASS"


def test_damaged_weights_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from spam.encoders.published_weights import PACKAGED_SHA256

    monkeypatch.setitem(PACKAGED_SHA256, "efficientnet-lite0-57934424.pth", "0" * 64)
    found = finding("default encoder")
    assert found.status == "FAIL"
    assert "damaged" in found.detail


def test_hub_states(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert (finding("Hugging Face Hub").status, "no token" in finding("Hugging Face Hub").detail) == (
        "WARN",
        True,
    )
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    assert finding("Hugging Face Hub").status == "PASS"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in finding("Hugging Face Hub").detail


def test_little_space_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_LITTLE_SPACE", 1e18)
    assert finding("disk").status == "WARN"
