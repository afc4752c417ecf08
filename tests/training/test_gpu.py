from pathlib import Path

import pytest
import torch

from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.training import finetune, pretrain


@pytest.mark.gpu
@pytest.mark.parametrize("amp_dtype", ["fp32", "bf16", "fp16"])
def test_both_stages_learn_the_same_on_a_gpu(cohort: Path, tmp_path: Path, amp_dtype: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    losses = {}
    for device in ("cpu", "cuda"):
        shared = {
            "store": cohort,
            "device": device,
            "amp": device == "cuda",
            "amp_dtype": amp_dtype,
            "epochs": 3,
            "dropout": 0.0,
        }
        aligned = pretrain(PretrainConfig(save_dir=tmp_path / device / "pretrain", **shared))
        tuned = finetune(
            FinetuneConfig(
                save_dir=tmp_path / device / "finetune",
                pretrained_ckpt=aligned.run.best_path,
                fuse_dim=64,
                **shared,
            )
        )
        losses[device] = (aligned.run.best["val_loss"], tuned.run.best["val_loss"])
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)
