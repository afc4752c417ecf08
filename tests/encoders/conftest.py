"""Models small enough to be made in a moment, that go the way of the real ones."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from hub_models import HubModels
from pointing import point_at_models

TINY_PX = 32
TINY = {"img_size": TINY_PX, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "reg_tokens": 2}


def _make_tiny(*, seed: int = 0, num_classes: int = 0) -> torch.nn.Module:
    """Make a vision transformer of two blocks: a class token, two registers, 16 patches, 24 numbers a token."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **TINY).eval()


def _write_folder(folder: Path, *, num_classes: int = 0, **config: object) -> Path:
    """Write the model as in a repository of the Hub: config.json beside model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": num_classes,
        "num_features": 24,
        "model_args": TINY,
        "pretrained_cfg": {
            "input_size": [3, TINY_PX, TINY_PX],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "num_classes": num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "cc0-1.0",
            **config,
        },
    }
    (folder / "config.json").write_text(json.dumps(values))
    state = _make_tiny(num_classes=num_classes).state_dict()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    return _write_folder


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    return _write_folder(tmp_path / "tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubModels]:
    """The Hub on loopback, with an empty cache, asked without a token."""
    folder = tmp_path / "hub"
    folder.mkdir()
    with HubModels(folder) as server:
        point_at_models(server, monkeypatch, tmp_path / "cache", token=None)
        yield server
