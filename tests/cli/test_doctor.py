"""`spam doctor`: each finding states the fault and its remedy."""

import importlib.metadata
import sys
from typing import Any

import huggingface_hub
import pytest

from spam import diagnosis
from spam.diagnosis import diagnose


def test_this_installation_is_fit(spam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    ran = spam("doctor", "--json")
    assert (ran.code, ran.json["is_fit"]) == (0, True), ran.out
    names = [one["name"] for one in ran.json["findings"]]
    packages = ["torch", "torchvision, timm", "faiss", "zarr, anndata"]
    assert names == ["Python", "spam", *packages, "default encoder", "Hugging Face Hub", "disk"]
    assert all(one["fix"] for one in ran.json["findings"] if one["status"] != "PASS")
    assert "secret" not in ran.out + ran.err
    (torch,) = (one for one in ran.json["findings"] if one["name"] == "torch")
    assert torch["detail"].startswith(importlib.metadata.version("torch"))


def test_another_spam_fails(spam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"spam": ["spam-st", "spam"]})
    ran = spam("doctor")
    assert ran.code == 2
    assert "FAIL  spam: " in ran.out
    assert "-> pip uninstall spam spam-st" in ran.out


def test_two_faiss_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"faiss": ["faiss-gpu", "faiss-cpu", "faiss-cpu"], "spam": ["spam-st"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: both)
    found = diagnosis._faiss()
    assert (found.status, "pip uninstall faiss-cpu faiss-gpu" in found.fix) == ("FAIL", True)


def test_a_broken_package_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)  # the import fails
    found = {one.name: one for one in diagnose().findings}
    assert [name for name, one in found.items() if one.status == "FAIL"] == ["zarr, anndata"]
    assert "pip install" in found["zarr, anndata"].fix


def test_damaged_weights_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from spam.encoders.published_weights import PACKAGED_SHA256

    monkeypatch.setitem(PACKAGED_SHA256, "efficientnet-lite0-57934424.pth", "0" * 64)
    (found,) = (one for one in diagnose().findings if one.name == "default encoder")
    assert (found.status, "damaged" in found.detail) == ("FAIL", True)


def test_hub_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    found = diagnosis._hub()
    assert (found.status, "HF_TOKEN" in found.fix) == ("WARN", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    assert diagnosis._hub().status == "PASS"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in diagnosis._hub().detail


def test_little_space_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_LOW_SPACE", 1e18)
    assert diagnosis._disk().status == "WARN"
