"""The published commands: lab files in place of a store, LoRA options, modes under their published names."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaptation_lab import make_cohort_files
from http_range_server import HttpRangeServer
from published import write_visium_files

from spam.cli.lab_files import take_lora, with_store
from spam.encoders import read_adapter
from spam.errors import ConfigError
from spam.models.checkpoint import read_checkpoint_meta
from spam.progress import SILENT
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import open_store


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the table and the folder that the options name."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").touch()
    for folder in ("r", "s"):
        Path(folder).mkdir()
    Path("s/zarr.json").touch()  # a store, as far as paths are checked
    return tmp_path


def test_a_store_passes_through(here: Path) -> None:
    values = {"store": "s", "save_dir": "x", "epochs": 3, "enc_name": "h-optimus-0"}
    config = with_store(PretrainConfig, values, SILENT)
    assert config == PretrainConfig.from_mapping({**values, "enc_name": "hoptimus0"})


LAB = {"csv": "t.csv", "root": "r"}


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        (FinetuneConfig, {"store": "s", **LAB}, r"--csv, --root .* --store"),
        (FinetuneConfig, {"store": "s", "img_batch_size": 3}, r"--img-batch-size .* --store"),
        (FinetuneConfig, {"mpp": 0.5}, r"--mpp .* --csv and --root"),
        (FinetuneConfig, LAB, r"--save-dir is missing"),
        (FinetuneConfig, {**LAB, "save_dir": "x", "heads": 7}, r"--heads must divide"),
        (FinetuneConfig, {"csv": "t.csv", "save_dir": "x"}, r"--manifest, or --csv and --root"),
        (FinetuneConfig, {**LAB, "save_dir": "x", "img_batch_size": 0}, r"--batch-size must be at least 1"),
        (PredictConfig, {**LAB, "out_dir": "x"}, r"--ckpt is missing"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    here: Path, config: Any, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        with_store(config, values, SILENT, checkpoint="ckpt")
    assert not (here / "x").exists()


def test_lora_options_are_separated() -> None:
    values = {"csv": "t.csv", "root": "r", "epochs": 3}
    assert take_lora({**values, "with_lora": False}) == (values, None)
    given = {"with_lora": True, "lora_r": 4, "lora_epochs": 2}
    assert take_lora({**values, **given}) == (values, {"lora_r": 4, "epochs": 2})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_r": 16, "lora_dropout": 0.05}, "--lora-r, --lora-dropout .* --with-lora"),
        ({"with_lora": True, "lora": Path("x")}, "--with-lora .* --lora"),
        ({"with_lora": True, "store": "s.zarr"}, "--with-lora .*instead of --store"),
        ({"with_lora": True, "lora_r": 0}, "--lora-r must be at least 1"),
        ({"with_lora": True, "lora_epochs": 0}, "--epochs must be at least 1"),
    ],
)
def test_mistakes_about_lora(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        take_lora(values)


@pytest.mark.slow
def test_the_published_lora_options(spam: Any, shared_data: Path, tmp_path: Path) -> None:
    """LoRA on a real Visium section; fine-tuning finds the adapter beside the checkpoint."""
    lab_files = write_visium_files(shared_data, tmp_path)
    shared = [*lab_files, "--enc_name", "efficientnet_lite0", "--device", "auto", "--epochs", 1]
    options = "--mode joint --with_lora --lora_r 16 --lora_alpha 32 --lora_dropout 0.05 --lora_epochs 1"
    done = spam("pretrain", *shared, *options.split(), "--save_dir", tmp_path / "pretrain")
    assert done.code == 0, done.err
    best = tmp_path / "pretrain" / "best.safetensors"
    done = spam("finetune", *shared, "--pretrained_ckpt", best, "--save_dir", tmp_path / "finetune")
    assert done.code == 0, done.err
    name = read_adapter(tmp_path / "pretrain" / "lora").adapter_sha256[:8]
    best = tmp_path / "finetune" / "best.safetensors"
    assert read_checkpoint_meta(best).feature_keys == (f"efficientnet_lite0-lora-{name}_112um",)
    done = spam("inference", *lab_files, "--ckpt", best, "--out_dir", tmp_path / "results")
    assert done.code == 0, done.err
    assert "trained on this section" in done.out


@pytest.mark.slow
def test_lora_on_the_command_line(spam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapt, embed and pretrain in one command; then use the adapter by hand."""
    tiles = make_cohort_files(tmp_path / "lab")
    out = tmp_path / "out"
    files = ["--manifest", tiles.manifest, "--mpp", 0.5, "--tile_um", 16, "--enc_name", tiles.enc_name]
    short = ["--device", "cpu", "--k", 3, "--proj_dim", 11, "--batch_size", 17]
    lora = ["--with_lora", "--lora_r", 2, "--lora_alpha", 4, "--lora_dropout", 0.1, "--lora_epochs", 1]
    ran = spam("pretrain", *files, *short, *lora, "--epochs", 2, "--save_dir", out, "--json")
    assert ran.code == 0, ran.err
    adapter = read_adapter(out / "lora")
    assert (adapter.epochs, adapter.train_sections, adapter.val_sections) == (1, ("A", "B"), ("C",))
    config = json.loads((out / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 4, 0.1)
    meta = read_checkpoint_meta(out / "best.safetensors")
    key = f"local-tiny-lora-{adapter.adapter_sha256[:8]}_16um"
    assert (meta.encoder_names, meta.feature_keys) == ((adapter.encoder_name,), (key,))
    assert len(meta.history) == 3
    keys = {"local-tiny_16um", key}
    stored = open_store(out / "store.zarr").section("B")
    assert keys <= set(stored.feature_keys)
    assert stored.feature_meta(key).lora_sha256 == adapter.adapter_sha256
    # The same by hand, into another store.
    store = ["--store", tmp_path / "s.zarr"]
    assert spam("embed", *files, *store).code == 0
    adapt = ["--lora_r", 2, "--lora_alpha", 4, "--lora_dropout", 0.1, "--epochs", 1]
    ran = spam("adapt", *files, *store, *short, *adapt, "--save_dir", tmp_path / "lora", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["adapter_sha256"] == adapter.adapter_sha256
    assert spam("embed", *files, *store, "--lora", tmp_path / "lora").code == 0
    again = open_store(tmp_path / "s.zarr").section("B")
    np.testing.assert_array_equal(again.features(key), stored.features(key))
    # A new section needs the adapter too.
    fine = ["--pretrained_ckpt", out / "best.safetensors", "--fuse_dim", 6, "--heads", 2, "--n_neighbours", 2]
    fine += ["--device", "cpu", "--k", 3, "--epochs", 1]
    # The adapter lies beside the checkpoint.
    ran = spam("finetune", *files, *fine, "--save_dir", tmp_path / "fine", "--json")
    assert ran.code == 0, ran.err
    best = tmp_path / "fine" / "best.safetensors"
    assert read_checkpoint_meta(best).feature_keys == (key,)
    lab = tiles.manifest.parent
    one = ["--csv", lab / "C.csv", "--root", lab / "images", "--section", "C", "--mpp", 0.5]
    one += ["--enc_name", tiles.enc_name, "--ckpt", best, "--out_dir", tmp_path / "o", "--no-plots"]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    pushed = spam("model", "push", best, tmp_path / "web", "--i-have-the-right-to-share")
    assert pushed.code == 0, pushed.err
    with HttpRangeServer(tmp_path / "web") as server:
        ran = spam("inference", *one, "--ckpt", server.url)
        assert (ran.code, f"spam model pull {server.url} model" in ran.err) == (2, True)
        ran = spam("model", "pull", server.url, tmp_path / "pulled")
        assert ran.code == 0, ran.err
    assert read_adapter(tmp_path / "pulled" / "lora") == adapter
    shutil.move(tmp_path / "fine" / "lora", tmp_path / "elsewhere")  # finetune kept it beside its checkpoint
    ran = spam("inference", *one, "--json")
    assert (ran.code, ran.json["kind"]) == (2, "ConfigError")
    assert re.search(
        r"adapted encoder 'local:tiny-lora-.*no adapter is given.* with --lora", ran.json["error"]
    )
    ran = spam("inference", *one, "--lora", out / "lora", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["n_spots"] == 35


@pytest.mark.slow
def test_published_commands_run_as_they_stand(spam: Any, tmp_path: Path) -> None:
    """Simulate a section, then run the three published commands on its files, options spelled as published."""
    cohort, pre, fine, out = (tmp_path / name for name in ("cohort", "pretrain", "finetune", "results"))
    sizes = ("--n-donors", 1, "--n-sections", 2, "--n-spots", 17, "--n-genes", 11)
    made = spam("simulate", "--out-dir", cohort, *sizes, "--json")
    assert made.code == 0, made.err
    first, second = sorted(cohort.glob("*.h5ad"))

    def files(h5ad: Path) -> tuple[object, ...]:
        return ("--h5ad", h5ad, "--csv", h5ad.with_suffix(".csv"), "--root", cohort / "images")

    shared = "--enc_name efficientnet_lite0 --device cpu --num_workers 1 --epochs 1 --k 3"
    options = (
        f"{shared} --mode gene --batch_size 5 --img_batch_size 8 --proj_dim 13 --use_hvg --n_top_genes 7"
    )
    pretrained = spam("pretrain", *files(first), *options.split(), "--save_dir", pre, "--json")
    assert pretrained.code == 0, pretrained.err
    assert (pre / "best.safetensors").is_file()
    options = f"{shared} --batch_size 5 --n_neighbours 2 --fuse_dim 12 --heads 3 --dropout 0.1 --lr 3e-4"
    options += " --merge concat-proj --weight_decay 0.05 --n_top_genes 7"
    best = ("--pretrained_ckpt", pre / "best.safetensors")
    finetuned = spam("finetune", *files(first), *options.split(), *best, "--save_dir", fine, "--json")
    assert finetuned.code == 0, finetuned.err
    wanted = ("--ckpt", fine / "best.safetensors", "--out_dir", out, "--json")
    predicted = spam("inference", *files(second), *wanted, "--no-plots")
    assert predicted.code == 0, predicted.err
    assert predicted.json["section"] == second.stem
    assert predicted.json["n_spots"] == 17
    assert (out / "predictions.h5ad").is_file()

    info = spam("store", "info", pre / "store.zarr", "--json").json
    assert [section["name"] for section in info["sections"]] == [first.stem]
    assert info["n_bytes"] > 0

    # The store in the folder is reused: nothing is embedded a second time.
    before = open_store(out / "store.zarr").section(second.stem).features("efficientnet_lite0_112um")
    again = spam("predict", *files(second), *wanted)
    assert again.code == 2
    assert "--overwrite" in again.json["error"]
    after = open_store(out / "store.zarr").section(second.stem).features("efficientnet_lite0_112um")
    np.testing.assert_array_equal(before, after)

    graphs = spam("graph", "--store", pre / "store.zarr", "--k-spatial", 3, "--k-features", 5, "--json")
    assert graphs.code == 0, graphs.err
    first_graph = graphs.json["graphs"][0]
    assert (first_graph["key"], first_graph["meta"]["k"]) == ("spatial", 3)
    assert "graphs are in" in spam("graph", "--store", pre / "store.zarr", "--k-spatial", 3).out

    planned = spam("embed", *files(second), "--store", tmp_path / "new.zarr", "--dry-run", "--json")
    assert (planned.code, planned.json["n_tiles"]) == (0, 17)
    assert not (tmp_path / "new.zarr").exists()
