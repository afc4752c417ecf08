"""The published commands: lab files in place of a store, LoRA options, modes under their first names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spam.cli.lab_files import with_store
from spam.cli.lora import refuse_lora
from spam.errors import ConfigError
from spam.progress import SILENT
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig


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


def test_lora_is_declined_by_name() -> None:
    with pytest.raises(ConfigError, match=r"--with-lora is not in this version.*leave it out"):
        refuse_lora({"with_lora": True, "lora_r": 16})
    with pytest.raises(ConfigError, match=r"--lora-r, --lora-dropout changes nothing without --with-lora"):
        refuse_lora({"lora_r": 16, "lora_dropout": 0.05})
    assert refuse_lora({"epochs": 3, "with_lora": False}) == {"epochs": 3}


def test_lora_on_the_command_line(spam: Any) -> None:
    ran = spam("pretrain", "--store", "s.zarr", "--save_dir", "x", "--with_lora", "--lora_r", 16, "--json")
    assert ran.code == 2
    assert "--with-lora is not in this version" in ran.json["error"]


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
