"""Adaptation end to end: it learns, keeps held-out spots apart, resumes after a kill, and refuses contradictions."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import safetensors.torch
import torch
from adaptation_lab import make_cohort_files, training

from spam.embedding import adapt, adaptation_stage, adapting, dry_run, embed
from spam.embedding.adaptation_stage import AdaptationNetwork, augment
from spam.embedding.adapting import AdaptReport
from spam.embedding.tile_bank import TileBank, cut_tiles
from spam.encoders import build_encoder, encoder_card, read_adapter
from spam.encoders.encoder import build_network
from spam.encoders.lora_adapter import add_lora
from spam.encoders.tile_network import TileNetwork, weights_digest
from spam.errors import ConfigError, OutputExistsError, SlideError, StoreError
from spam.models import pearson_per_gene
from spam.models.linear import fit_ridge, standardise_per_section
from spam.progress import Advance
from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.embed_config import EmbedConfig
from spam.store import open_store
from spam.tiles import TileReader


def features_with(tiles: EmbedConfig, section: str, lora: Path) -> np.ndarray:
    """Features of a section by the adapted encoder, tile by tile."""
    planned = dry_run(tiles)
    (one,) = (one for one in planned.sections if one.section.name == section)
    encoder = build_encoder(planned.card, device=torch.device("cpu"), lora=lora)
    with TileReader(one.section, one.specs[0], interpolation="bilinear") as reader:
        return encoder.embed(reader.read_batch(range(len(one.section.ids))).pixels)


def test_expression_is_predicted_better_from_adapted_features(tiles: EmbedConfig, tmp_path: Path) -> None:
    """A ridge on A and B predicts C, which chose the epoch but gave no gradient, better than on frozen features."""
    report = adapt(training(tiles, tmp_path / "lora", epochs=20, mode="img-gene"), tiles)
    best = report.run.best
    assert best["val_loss"] < 0.8 * best["val_ln_batch"]
    assert best["val_gene_recall_5"] > 3 * 5 / 35  # chance
    assert best["val_loss"] == min(epoch["val_loss"] for epoch in report.run.history)
    assert report.card.best_epoch == best["epoch"] > 0
    assert "chance: 2.9444" in report.summary()  # ln(19)
    store = open_store(tiles.store)
    truth = {}
    for name in "ABC":
        counts = store.section(name).counts().toarray()
        values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
        truth[name] = values - values.mean(axis=0)
    scores = []
    for lora in (None, report.folder):
        features = {
            name: standardise_per_section(
                store.section(name).features("local-tiny_16um")
                if lora is None
                else features_with(tiles, name, lora)
            )
            for name in "ABC"
        }
        train = np.concatenate([features["A"], features["B"]])
        ridge = fit_ridge(train, np.concatenate([truth["A"], truth["B"]]), alpha=10.0)
        scores.append(pearson_per_gene(ridge.predict(features["C"]), truth["C"]).mean())
    assert scores[1] > scores[0] + 0.05, scores


def test_a_run_that_learns_nothing_leaves_the_encoder_unchanged(tiles: EmbedConfig, tmp_path: Path) -> None:
    report = adapt(training(tiles, tmp_path / "lora", epochs=1, lr=0.3, mode="img-gene"), tiles)
    assert (report.card.best_epoch, report.card.epochs) == (0, 1)
    assert report.run.history[1]["val_loss"] > report.run.history[0]["val_loss"]
    assert "NOT learned" in report.summary()
    frozen = open_store(tiles.store).section("B").features("local-tiny_16um")
    np.testing.assert_allclose(features_with(tiles, "B", report.folder), frozen, rtol=1e-5, atol=1e-6)


def test_what_is_written(adapted: AdaptReport, tiles: EmbedConfig) -> None:
    assert sorted(path.name for path in adapted.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "spam_adapter.json",
        "training",
    ]
    card = read_adapter(adapted.folder)
    assert card == adapted.card
    assert (card.train_sections, card.val_sections, card.epochs) == (("A", "B"), ("C",), 2)
    assert card.tiles == ({"tile_um": 16.0, "tile_px": None, "out_px": 32},)
    assert card.weights_sha256 == weights_digest(build_network(encoder_card(tiles.enc_name)).backbone)
    assert (card.config["lora_r"], card.config["lora_alpha"], card.config["seed"]) == (3, 32.0, 0)
    assert set(card.genes) == {f"G{i}" for i in range(11)}
    assert len(card.history) == 3
    assert {"peft", "timm", "torch", "spam-st"} <= set(card.software)
    text = (adapted.folder / "spam_adapter.json").read_text()
    assert str(tiles.store.parent) not in text
    assert str(adapted.folder.parent) not in text
    config = json.loads((adapted.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 32.0, 0.05)
    assert "blocks\\.0\\.attn\\.qkv" in config["target_modules"].split("|")


def test_the_next_command_embeds_with_it(adapted: AdaptReport, tiles: EmbedConfig) -> None:
    words = shlex.split(adapted.next_command)
    assert words[:2] == ["spam", "embed"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert (given["--lora"], given["--store"]) == (str(adapted.folder), str(tiles.store))
    assert (given["--tile-um"], given["--enc-name"]) == ("16.0", tiles.enc_name)
    assert adapted.to_mapping()["encoder"] == adapted.card.encoder_name
    assert adapted.card.encoder_name in adapted.summary()


class _Killer:
    """A progress that interrupts the run when its epochs have moved on `after` times."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        def advance(steps: int = 1, *, note: str = "") -> None:
            if description == "adapt" and note:
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt

        yield advance


def test_a_killed_run_resumes_to_the_same_adapter(
    tiles: EmbedConfig, tmp_path: Path, adapted: AdaptReport
) -> None:
    def config(name: str, epochs: int = 2) -> AdaptConfig:
        return training(tiles, tmp_path / name, epochs=epochs)

    with pytest.raises(KeyboardInterrupt):
        adapt(config("killed"), tiles, progress=_Killer(1))
    assert not (tmp_path / "killed" / "spam_adapter.json").exists()
    again = adapt(config("killed"), tiles)
    assert again.run.resumed_from == 1
    assert again.card == adapted.card
    adapt(config("longer", epochs=1), tiles)
    assert adapt(config("longer"), tiles).card == adapted.card


def test_neither_threads_nor_checkpointing_change_the_result(
    tiles: EmbedConfig, tmp_path: Path, adapted: AdaptReport
) -> None:
    config = training(tiles, tmp_path / "lora", grad_checkpointing=True)
    other = adapt(config, dataclasses.replace(tiles, num_workers=3))
    assert other.card.adapter_sha256 == adapted.card.adapter_sha256


CHANGES = [
    {"mode": "img-gene"},
    {"k": 6},
    {"seed": 1},
    {"proj_dim": 17},
    {"balance_donors": True},
    {"lora_r": 5},
    {"lora_alpha": 7.0},
    {"lora_dropout": 0.5},
    {"sections": ("A", "B")},
]
# Loop, split and losses are those of stage 1, whose tests change these in the default run.
AS_IN_STAGE_1 = [
    {"mode": "img-coord"},
    {"batch_size": 23},
    {"lr": 1e-3},
    {"weight_decay": 0.5},
    {"dropout": 0.4},
    {"n_top_genes": 3},
    {"temperature": 0.3},
    {"mixing": 0.9},
    {"targets": "soft"},
    {"mask_neighbours": True},
    {"amp": True},
    {"val_sections": ("A",)},
]
SLOW = [pytest.param(change, marks=pytest.mark.slow) for change in AS_IN_STAGE_1]


@pytest.mark.parametrize("change", [*CHANGES, *SLOW], ids=lambda change: ",".join(change))
def test_every_option_changes_the_adapter(
    tiles: EmbedConfig, tmp_path: Path, adapted: AdaptReport, change: dict[str, object]
) -> None:
    other = adapt(training(tiles, tmp_path / "lora", epochs=1, **change), tiles)
    assert other.card.history[-1] != adapted.card.history[1]
    assert other.card.adapter_sha256 != adapted.card.adapter_sha256


def test_held_out_counts_do_not_reach_the_weights(tmp_path: Path) -> None:
    """The counts of C choose the epoch and, as everywhere, the genes; no gradient comes from them."""
    tiles = make_cohort_files(tmp_path / "lab")
    embed(tiles)
    one = adapt(training(tiles, tmp_path / "one", epochs=1, use_hvg=False), tiles)
    adata = anndata.read_h5ad(tmp_path / "lab" / "C.h5ad")
    adata.X = adata.X[::-1].copy()
    adata.write_h5ad(tmp_path / "lab" / "C.h5ad")
    embed(dataclasses.replace(tiles, overwrite=True))
    other = adapt(training(tiles, tmp_path / "other", epochs=1, use_hvg=False), tiles)
    assert one.card.history[1]["loss"] == other.card.history[1]["loss"]
    assert one.card.history[1]["val_loss"] != other.card.history[1]["val_loss"]


def test_training_tiles_are_augmented_and_held_out_ones_are_not(
    tiles: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def spy(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return augment(pixels)

    monkeypatch.setattr(adaptation_stage, "augment", spy)
    adapt(training(tiles, tmp_path / "lora", epochs=1), tiles)
    assert sizes == [19, 19, 19, 13]  # A and B, once; two rounds of validation on C are not among them


def test_a_lone_section_is_cut_into_blocks(tiles: EmbedConfig, tmp_path: Path) -> None:
    report = adapt(training(tiles, tmp_path / "lora", sections=("B",), epochs=1), tiles)
    assert (report.n_train, report.n_val, report.val_sections) == (28, 7, ())
    assert (report.card.train_sections, report.card.val_sections) == (("B",), ("B",))


def test_a_run_that_is_done_cuts_no_tiles(
    tiles: EmbedConfig, adapted: AdaptReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run again, it gives the same report; other options are rejected before training; more epochs are trained."""
    folder = shutil.copytree(adapted.folder, tmp_path / "lora")
    n_cut: list[int] = []

    def counted(*args: Any, **options: Any) -> TileBank:
        bank = cut_tiles(*args, **options)
        n_cut.append(len(bank.pixels[0]))
        return bank

    monkeypatch.setattr(adapting, "cut_tiles", counted)
    again = adapt(training(tiles, folder), tiles)
    assert (again.card, again.n_train, again.n_val) == (adapted.card, adapted.n_train, adapted.n_val)
    assert again.summary().startswith("already done: ")
    assert "already done" not in adapted.summary()
    with pytest.raises(OutputExistsError, match="--epochs 1"):
        adapt(training(tiles, folder, epochs=1), tiles)
    assert n_cut == []
    more = adapt(training(tiles, folder, epochs=3), tiles)
    assert more.run.resumed_from == 2
    assert n_cut == [adapted.n_train + adapted.n_val] == [105]


def test_tiles_are_cut_before_an_old_run_is_thrown_away(
    tiles: EmbedConfig, adapted: AdaptReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(adapted.folder, tmp_path / "lora")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def unreadable(*args: Any, **options: Any) -> TileBank:
        message = "the tile of spot 'A3' cannot be read"
        raise SlideError(message)

    monkeypatch.setattr(adapting, "cut_tiles", unreadable)
    with pytest.raises(SlideError, match="spot 'A3'"):
        adapt(training(tiles, folder, overwrite=True), tiles)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


class TestNetwork:
    """What is frozen works as it does in use."""

    @pytest.fixture
    def network(self, tiles: EmbedConfig) -> AdaptationNetwork:
        encoder: TileNetwork = build_network(encoder_card(tiles.enc_name))
        encoder.backbone.add_module("norm_of_batch", torch.nn.BatchNorm2d(3))
        add_lora(encoder, r=2, alpha=4.0, dropout=0.3)
        return AdaptationNetwork(encoder, torch.nn.Sequential(torch.nn.Linear(24, 5), torch.nn.Dropout(0.1)))

    def test_only_dropouts_of_the_adapter_and_the_head_are_in_training(
        self, network: AdaptationNetwork
    ) -> None:
        training = {name for name, module in network.named_modules() if module.training}
        dropouts = {name for name in training if name.startswith("encoder.")}
        assert dropouts
        assert all("lora_dropout" in name for name in dropouts)
        assert {"head", "head.0", "head.1"} <= training
        network.eval()
        assert [name for name, module in network.named_modules() if module.training] == []

    def test_state_that_does_not_fit_is_refused(self, network: AdaptationNetwork) -> None:
        state = network.state_dict()
        network.load_state_dict(state)
        assert all(name.startswith("head.") or "lora_" in name for name in state)
        del state["head.0.bias"]
        with pytest.raises(RuntimeError, match=r"head\.0\.bias"):
            network.load_state_dict(state)


@pytest.mark.parametrize(
    ("training_changes", "tiles_changes", "error", "parts"),
    [
        ({}, {"tile_um": (8.0,)}, StoreError, r"A: local-tiny_8um.*spam embed .*--tile-um 8\.0"),
        ({}, {"dihedral": True}, StoreError, r"A: local-tiny_16um_d4.*spam embed .*--dihedral"),
        ({"sections": ("A", "X"), "val_sections": ("Y",)}, {}, ConfigError, r"--sections 'X', 'Y'.*A, B, C"),
        ({"enc_name": "x"}, {}, ConfigError, r"--enc-name is 'x'"),
        ({"tile_um": (3.0,)}, {}, ConfigError, r"--tile-um is \(3\.0,\).*\(16\.0,\)"),
    ],
)
def test_contradictions_are_refused(
    tiles: EmbedConfig,
    tmp_path: Path,
    training_changes: dict[str, object],
    tiles_changes: dict[str, Any],
    error: type[Exception],
    parts: str,
) -> None:
    config = training(tiles, tmp_path / "lora", **training_changes)
    with pytest.raises(error, match=parts):
        adapt(config, dataclasses.replace(tiles, **tiles_changes))


def test_features_of_other_weights_are_refused(tmp_path: Path) -> None:
    tiles = make_cohort_files(tmp_path / "lab")
    embed(tiles)
    weights = tmp_path / "lab" / "tiny" / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    state["norm.bias"] += 1
    safetensors.torch.save_file(state, weights)
    with pytest.raises(StoreError, match=r"[0-9a-f]{8}, not [0-9a-f]{8}.*--overwrite"):
        adapt(training(tiles, tmp_path / "lora"), tiles)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_components": 5}, "--n-components"),
        ({"lora_r": 0}, "--lora-r .* 0"),
        ({"lora_alpha": 0.0}, "--lora-alpha .* 0"),
        ({"lora_dropout": 1.0}, "--lora-dropout .* 1"),
        ({"store": "s3://x/y.zarr"}, "--store .*spam store pull"),
        ({"batch_size": 1}, "--batch-size .* 1"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaptConfig(**{"store": tmp_path, "save_dir": tmp_path, **change})
