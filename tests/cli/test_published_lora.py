"""The published LoRA options on a real Visium section."""

import json
from pathlib import Path
from typing import Any

import pytest
from published import write_visium_files

from spam.models.checkpoint import read_checkpoint_meta


@pytest.mark.slow
def test_the_published_lora_options(spam: Any, shared_data: Path, tmp_path: Path) -> None:
    """LoRA as published, but for the epochs; fine-tuning then finds the adapter beside the checkpoint."""
    lab_files = write_visium_files(shared_data, tmp_path)
    shared = [*lab_files, "--enc_name", "efficientnet_lite0", "--device", "auto", "--epochs", 1]
    options = "--mode joint --with_lora --lora_r 16 --lora_alpha 32 --lora_dropout 0.05 --lora_epochs 1"
    done = spam("pretrain", *shared, *options.split(), "--save_dir", tmp_path / "pretrain")
    assert done.code == 0, done.err
    best = tmp_path / "pretrain" / "best.safetensors"
    done = spam("finetune", *shared, "--pretrained_ckpt", best, "--save_dir", tmp_path / "finetune")
    assert done.code == 0, done.err
    name = json.loads((tmp_path / "pretrain" / "lora" / "spam_adapter.json").read_text())["adapter_sha256"][
        :8
    ]
    best = tmp_path / "finetune" / "best.safetensors"
    assert read_checkpoint_meta(best).feature_keys == (f"efficientnet_lite0-lora-{name}_112um",)
    done = spam("inference", *lab_files, "--ckpt", best, "--out_dir", tmp_path / "results")
    assert done.code == 0, done.err
    assert "WARNING: the checkpoint was trained on this section" in done.out
