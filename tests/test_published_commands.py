"""The published commands, with `spam` in front, on a third of a real Visium section: each option at its published value."""

from pathlib import Path

import anndata
import pytest
from published import run, write_visium_files


@pytest.fixture(scope="module")
def lab_files(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return write_visium_files(shared_data, tmp_path_factory.mktemp("lab"))


@pytest.mark.slow
def test_published_commands_run_as_they_stand(lab_files: list[object], tmp_path: Path) -> None:
    shared = [*lab_files, "--enc_name", "efficientnet_lite0", "--device", "auto", "--amp", "--num_workers", 2]
    pretrain, finetune, results = (tmp_path / name for name in ("pretrain", "finetune", "results"))
    options = "--mode joint --epochs 50 --batch_size 64 --img_batch_size 256 --proj_dim 256 --k 12 --use_hvg"
    options += " --n_top_genes 541 --amp_dtype auto"
    done = run("pretrain", *shared, *options.split(), "--save_dir", pretrain)
    assert done.returncode == 0, done.stderr
    options = (
        "--epochs 30 --batch_size 128 --fuse_dim 512 --heads 8 --dropout 0.1 --merge gated-sum --lr 3e-4"
    )
    options += " --weight_decay 0.05"
    best = pretrain / "best.safetensors"
    done = run("finetune", *shared, *options.split(), "--pretrained_ckpt", best, "--save_dir", finetune)
    assert done.returncode == 0, done.stderr
    best = finetune / "best.safetensors"
    done = run("inference", *lab_files, "--ckpt", best, "--batch_size", 128, "--out_dir", results)
    assert done.returncode == 0, done.stderr
    assert "The checkpoint was trained on this section" in done.stdout
    predicted = anndata.read_h5ad(results / "predictions.h5ad")
    truth = anndata.read_h5ad(lab_files[1])
    assert list(predicted.obs_names) == list(truth.obs_names)
    assert set(predicted.var_names) <= set(truth.var_names)
    assert predicted.n_vars >= 541


@pytest.mark.slow  # an unreachable gated encoder is in the default run: encoders/test_hub_access.py
@pytest.mark.parametrize("name", ["uni_v1", "h-optimus-0"])
def test_a_gated_encoder_says_what_to_do_before_anything_is_written(
    lab_files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    done = run("pretrain", *lab_files, "--enc_name", name, "--save_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE" in done.stderr
    assert not (tmp_path / "out" / "best.safetensors").exists()
