"""The published commands: lab files in place of a store, LoRA options, modes under their first names."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaptation_lab import make_cohort_files

from spam.cli.lab_files import with_store
from spam.cli.lora import take_lora
from spam.encoders.adapter import read_adapter
from spam.errors import ConfigError
from spam.models.checkpoint import read_checkpoint_meta
from spam.progress import SILENT
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import open_store


def test_store_alone_passes_through() -> None:
    values = {"store": "s.zarr", "save_dir": "x", "epochs": 3}
    assert with_store(PretrainConfig, values, SILENT, folder="save_dir") == (values, ())


def test_alias_of_an_encoder_becomes_its_name() -> None:
    values = {"store": "s.zarr", "enc_name": "h-optimus-0"}
    stage, _ = with_store(PretrainConfig, values, SILENT, folder="save_dir")
    assert stage["enc_name"] == "hoptimus0"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"store": "s", "csv": "t.csv", "root": "r"}, r"--csv, --root serve to embed lab files .* --store"),
        ({"store": "s", "img_batch_size": 3}, r"--img-batch-size serve .* leave them out beside --store"),
        ({"mpp": 0.5}, r"--mpp serve .* add --csv and --root"),
        ({"csv": Path("t.csv"), "root": Path("r")}, r"--save-dir is missing"),
        ({"csv": Path("t.csv"), "root": Path("r"), "save_dir": Path("x"), "heads": 7}, r"--heads must divide"),
        ({"csv": Path("t.csv"), "save_dir": Path("x")}, r"give --manifest, or --csv and --root"),
        ({"h5ad": Path("a"), "csv": Path("t"), "root": Path("r"), "save_dir": Path("x"), "img_batch_size": 0},
         r"--batch-size must be at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_runs(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_store(FinetuneConfig, values, SILENT, folder="save_dir")


def test_predict_needs_its_checkpoint_before_anything_runs() -> None:
    values = {"csv": Path("t.csv"), "root": Path("r"), "out_dir": Path("x")}
    with pytest.raises(ConfigError, match="--ckpt is missing"):
        with_store(PredictConfig, values, SILENT, folder="out_dir", checkpoint="ckpt")


def test_lora_options_are_taken_apart() -> None:
    values = {"csv": "t.csv", "root": "r", "epochs": 3}
    assert take_lora({**values, "with_lora": False}) == (values, None)
    assert take_lora({**values, "with_lora": True, "lora_r": 4, "lora_epochs": 2}) == (
        values,
        {"lora_r": 4, "lora_epochs": 2},
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"lora_r": 16, "lora_dropout": 0.05},
            "--lora-r, --lora-dropout changes nothing without --with-lora",
        ),
        ({"with_lora": True, "lora": Path("x")}, "--with-lora trains an adapter, and --lora names one"),
        (
            {"with_lora": True, "store": "s.zarr"},
            "--with-lora needs the tiles.*in place of --store.*spam adapt",
        ),
        ({"with_lora": True, "lora_r": 0}, "--lora-r must be at least 1"),
        ({"with_lora": True, "lora_epochs": 0}, "--epochs must be positive"),
    ],
)
def test_mistakes_about_lora_are_named_before_anything_runs(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        take_lora(values)


def test_lora_on_the_command_line(spam: Any, tmp_path: Path) -> None:
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
    assert (meta.encoder_name, meta.feature_keys) == (adapter.encoder_name, (key,))
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
    ran = spam(
        "finetune", *files, *fine, "--save_dir", tmp_path / "fine", "--json"
    )  # it lies beside the checkpoint
    assert ran.code == 0, ran.err
    best = tmp_path / "fine" / "best.safetensors"
    assert read_checkpoint_meta(best).feature_keys == (key,)
    one = [
        "--csv",
        tiles.manifest.parent / "C.csv",
        "--root",
        tiles.manifest.parent / "images",
        "--section",
        "C",
    ]
    one += [
        "--mpp",
        0.5,
        "--enc_name",
        tiles.enc_name,
        "--ckpt",
        best,
        "--out_dir",
        tmp_path / "o",
        "--no-plots",
    ]
    shutil.move(
        tmp_path / "fine" / "lora", tmp_path / "elsewhere"
    )  # finetune had kept it beside its checkpoint
    ran = spam("inference", *one, "--json")
    assert (ran.code, ran.json["kind"]) == (2, "ConfigError")
    assert re.search(
        r"adapted encoder 'local:tiny-lora-.*no adapter is given; .* with --lora", ran.json["error"]
    )
    ran = spam("inference", *one, "--lora", out / "lora", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["n_spots"] == 35


def test_published_commands_run_as_they_stand(spam: Any, tmp_path: Path) -> None:
    """Simulate a section, then run the three published commands on its files, options spelled as published."""
    cohort, pre, fine, out = (tmp_path / name for name in ("cohort", "pretrain", "finetune", "results"))
    sizes = ("--n-donors", 1, "--n-sections", 2, "--n-spots", 17, "--n-genes", 11)
    made = spam("simulate", "--out-dir", cohort, *sizes, "--json")
    assert made.code == 0, made.err
    first, second = sorted(cohort.glob("*.h5ad"))

    def files(h5ad: Path) -> tuple[object, ...]:
        return ("--h5ad", h5ad, "--csv", h5ad.with_suffix(".csv"), "--root", cohort / "images")

    shared = (
        "--enc_name",
        "efficientnet_lite0",
        "--device",
        "cpu",
        "--num_workers",
        1,
        "--epochs",
        1,
        "--k",
        3,
    )
    pretrained = spam(
        "pretrain", *files(first), *shared, "--mode", "gene", "--batch_size", 5, "--img_batch_size", 8,
        "--proj_dim", 13, "--use_hvg", "--n_top_genes", 7, "--save_dir", pre, "--json",
    )  # fmt: skip
    assert pretrained.code == 0, pretrained.err
    assert pretrained.json
    assert (pre / "best.safetensors").is_file()
    finetuned = spam(
        "finetune", *files(first), *shared, "--pretrained_ckpt", pre / "best.safetensors", "--batch_size", 5,
        "--n_neighbours", 2,
        "--fuse_dim", 12, "--heads", 3, "--dropout", 0.1, "--merge", "concat-proj", "--lr", 3e-4,
        "--weight_decay", 0.05, "--n_top_genes", 7, "--save_dir", fine, "--json",
    )  # fmt: skip
    assert finetuned.code == 0, finetuned.err
    predicted = spam(
        "inference", *files(second), "--ckpt", fine / "best.safetensors", "--out_dir", out, "--no-plots", "--json",
    )  # fmt: skip
    assert predicted.code == 0, predicted.err
    assert predicted.json["section"] == second.stem
    assert predicted.json["n_spots"] == 17
    assert (out / "predictions.h5ad").is_file()

    info = spam("store", "info", pre / "store.zarr", "--json").json
    assert [section["name"] for section in info["sections"]] == [first.stem]
    assert info["n_bytes"] > 0

    # The store in the folder is reused: nothing is embedded a second time.
    from spam.store import open_store

    before = open_store(out / "store.zarr").section(second.stem).features("efficientnet_lite0_112um")
    again = spam("predict", *files(second), "--ckpt", fine / "best.safetensors", "--out-dir", out, "--json")
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
