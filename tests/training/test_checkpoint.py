import dataclasses
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_metadata import edited, outcome
from safetensors import safe_open
from safetensors.numpy import load_file, save
from training_runs import finetuning

from spam.errors import CheckpointError, ConfigError, MissingInputError
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta, write_checkpoint
from spam.prediction import Predictor
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import local_file, open_store
from spam.training import finetune
from spam.training.fusion_stage import with_pretrained_donors
from spam.training.training_set import build_training_set

CPU = torch.device("cpu")


def meta() -> CheckpointMeta:
    return CheckpointMeta(
        stage="pretrain",
        epoch=3,
        config=PretrainConfig(store="s", save_dir="x").to_mapping() | {"store": None, "save_dir": None},
        config_digest="aa",
        data_digest="bb",
        feature_keys=("tiny_112um",),
        tiles=({"tile_um": 112.0, "tile_px": None, "out_px": 224},),
        feature_dims=(11,),
        encoders=({"name": "tiny", "weights_sha256": "cc", "licence": None},),
        genes=("A", "É"),
        gene_sets={"HVG-50": ["A"]},
        train_sections=("S1",),
        val_sections=("S2",),
        donors={"S1": None, "S2": 0},
        depth=1.5,
        metrics={"val_loss": 0.5},
        history=[{"epoch": 0.0, "val_loss": 0.5}],
        best={"epoch": 0.0, "val_loss": 0.5},
        settings={"image_dim": 5, "n_genes": 2, "proj_dim": 7, "mode": "joint", "dropout": 0.1},
        software={"torch": "x"},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([], dtype=np.int64)}
    sizes = {
        "members": 1,
        "image_dim": 5,
        "n_genes": 2,
        "proj_dim": 7,
        "fuse_dim": 8,
        "heads": 2,
        "dropout": 0.1,
    }
    settings = {**sizes, "merge": "gated-sum", "likelihood": "nb", "branches": []}
    # The other stages need the tensors of a network.
    config = FinetuneConfig(store="s", save_dir="x").to_record()
    written = dataclasses.replace(meta(), stage="selection", settings=settings, config=config)
    write_checkpoint(tmp_path / "x.safetensors", written, tensors)
    read, back = read_checkpoint(tmp_path / "x.safetensors", stage="selection")
    assert read == written
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(CheckpointError, match=r"'selection'; --ckpt .*'finetune'"):
        read_checkpoint(tmp_path / "x.safetensors", stage="finetune")


def with_header(header: dict[str, object]) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"short", "damaged"),
        (struct.pack("<Q", 10**15) + b"{}", "damaged"),
        (with_header({"__metadata__": {"format": "pt"}}), "not a SPAM checkpoint"),
        (
            with_header({"__metadata__": {"spam": json.dumps({**meta().to_mapping(), "version": 4})}}),
            "version 4;",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(MissingInputError, match=r"x\.safetensors"):
        read_checkpoint_meta(path)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint_meta(path)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, meta(), {"a": np.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path, stage="pretrain")


def rewritten(
    path: Path, to: Path, header: dict[str, str], tensors: dict[str, np.ndarray] | None = None
) -> Path:
    """Write a checkpoint with the given header and tensors."""
    to.write_bytes(save(load_file(path) if tensors is None else tensors, metadata=header))
    return to


def test_a_changed_checkpoint_is_refused_by_its_digest(finetuned: Path, tmp_path: Path) -> None:
    header, tensors = read_header(finetuned), load_file(finetuned)
    read, _ = read_checkpoint(rewritten(finetuned, tmp_path / "x", header), stage="finetune")
    assert read == read_checkpoint_meta(finetuned)
    flipped = {**tensors, "path.offset": tensors["path.offset"] + 1e-12}
    more = {**tensors, "surprise": np.zeros(1)}
    fewer = {name: value for name, value in tensors.items() if name != "heldout.pearson"}
    for changed in (flipped, more, fewer):
        with pytest.raises(CheckpointError, match="was changed after training"):
            read_checkpoint(rewritten(finetuned, tmp_path / "x", header, changed), stage="finetune")
    other = json.dumps({**json.loads(header["spam"]), "depth": 7.0})
    with pytest.raises(CheckpointError, match="was changed after training"):
        read_checkpoint(rewritten(finetuned, tmp_path / "x", {**header, "spam": other}), stage="finetune")


def read_header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        found: dict[str, str] = file.metadata()
        return found


MISFITS: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "removed": lambda value: None,
    "whole numbers": lambda value: np.ones(value.shape, np.int64),
    "empty": lambda value: np.zeros(0, np.float32),
    "one more axis": lambda value: value[None],
    "twice as long": lambda value: np.concatenate([value, value]),
}


def test_tensors_of_older_files_must_fit_the_metadata(
    finetuned: Path, pretrained: Path, cohort: Path, tmp_path: Path
) -> None:
    """Every tensor, edited in each way, without a digest: a message of one line, or the same prediction."""
    header, tensors = {"spam": read_header(finetuned)["spam"]}, load_file(finetuned)
    section = open_store(cohort).section("S4")
    plain = Predictor.load(finetuned, CPU).predict(section).unclipped
    read = [name for name in tensors if not name.startswith(("network.members.1", "optimizer."))]
    for name in read:
        for what, misfit in MISFITS.items():
            value = misfit(tensors[name])
            changed = {key: old for key, old in tensors.items() if key != name}
            changed |= {} if value is None else {name: np.ascontiguousarray(value)}
            path = rewritten(finetuned, tmp_path / "x", header, changed)
            found, message = outcome(lambda path=path: Predictor.load(path, CPU).predict(section).unclipped)
            assert len(message) < 400, (name, what)
            if not message:  # what only the scores read
                np.testing.assert_array_equal(found, plain, err_msg=f"{name} {what}")


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_edited_metadata_give_one_message(
    pretrained: Path, finetuned: Path, tmp_path: Path, stage: str
) -> None:
    """Every entry, in every fifth way, without a digest; an entry that only describes may change."""
    whole = pretrained if stage == "pretrain" else finetuned
    document, n_refused = json.loads(read_header(whole)["spam"]), 0
    tensors = load_file(whole)
    for what, changed in edited(document, share=5):
        path = rewritten(whole, tmp_path / "x", {"spam": json.dumps(changed)}, tensors)
        _, message = outcome(lambda path=path: read_checkpoint(path, stage=stage))
        n_refused += bool(message)
        assert not message or str(path) in message, what
        assert len(message) < 600, what
    assert n_refused > 200
    for text in (
        "[" * 100_000,
        '{"format": "spam-checkpoint", "version": 7, "epoch": ' + "9" * 5000 + "}",
        "null",
    ):
        with pytest.raises(CheckpointError):
            read_checkpoint_meta(rewritten(whole, tmp_path / "x", {"spam": text}, tensors))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": math.nan}, r"depth must be positive, not nan"),
        ({"genes": ["A"]}, r"settings.n_genes is not the number of genes, 1"),
        ({"donors": {"S1": 0}}, r"donors lack a section"),
        ({"tiles": [{"tile_um": "x"}]}, r"tile 1: tile_um must be a number, not 'x'"),
        ({"feature_dims": [11, 13]}, r"differ in length"),
        ({"config": {}}, r"config: k, n_components, n_top_genes, use_hvg"),
        (
            {"settings": {**meta().settings, "image_dim": 10**30}},
            r"settings.image_dim .* at most 1000000, not 10+\.",
        ),
        ({"gene_sets": {"HVG-50": ["B"]}}, r"genes that are not modelled"),
        ({"surprise": 1}, r"surprise is unknown"),
        ({"epoch": None}, r"epoch must be a whole number, not None"),
    ],
)
def test_what_is_wrong_with_the_metadata_is_named(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    text = json.dumps({**meta().to_mapping(), **change})
    (tmp_path / "x.safetensors").write_bytes(with_header({"__metadata__": {"spam": text}}))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint_meta(tmp_path / "x.safetensors")


def test_a_folder_of_checkpoints_stands_for_the_best(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    best.touch()
    assert local_file(tmp_path, best.name) == local_file(best, best.name) == best
    with pytest.raises(MissingInputError, match=r"Give the best\.safetensors"):
        read_checkpoint_meta(str(tmp_path / "nosuch"))


def same_direction(rows: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """Largest absolute correlation of each spot with any row."""
    rows, spots = (v - v.mean(axis=1, keepdims=True) for v in (rows.astype(float), spots.astype(float)))
    rows, spots = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-30) for v in (rows, spots))
    largest: np.ndarray = np.abs(spots @ rows.T).max(axis=1)
    return largest


def test_no_spots_expression_and_no_donor_is_in_a_default_checkpoint(
    cohort: Path, finetuned: Path, tmp_path: Path
) -> None:
    """Any row or column of any tensor, along the genes, against every spot's counts, expression and centred expression."""
    data = build_training_set(finetuning(cohort, tmp_path, sections=("S1", "S2", "S3")))
    n_genes, counts = len(data.genes.genes), data.counts.toarray()
    expression = data.expression.toarray()
    everything = [counts, np.log1p(counts), expression, expression - expression.mean(axis=0)]
    for section in np.unique(data.section_of):
        rows = data.section_of == section
        everything.append(expression[rows] - expression[rows].mean(axis=0))

    def closest(path: Path) -> float:
        found = 0.0
        for name, tensor in read_checkpoint(path, stage="finetune")[1].items():
            along_genes = [np.moveaxis(tensor, a, -1) for a, n in enumerate(tensor.shape) if n == n_genes]
            for values in along_genes:
                rows = values.reshape(-1, n_genes)
                found = max(found, *(float(same_direction(rows, spots).max()) for spots in everything))
            assert name.startswith(("network.", "bank.")) or tensor.size < 117 * 61 or "appearance" in name
        return found

    assert closest(finetuned) < 0.99
    assert not [name for name in read_checkpoint(finetuned, stage="finetune")[1] if name.startswith("bank.")]
    assert read_checkpoint_meta(finetuned).donors == {"S1": 0, "S2": 0, "S3": 1}
    # The bank, if it is asked for, is what this test finds.
    config = finetuning(cohort, tmp_path, sections=("S1", "S2", "S3"), attend="none", epochs=1)
    assert closest(finetune(config).run.best_path) > 0.999999


def test_no_file_of_a_run_names_a_donor(cohort: Path, finetuned: Path, pretrained: Path) -> None:
    donors = {open_store(cohort).section(name).meta.donor for name in ("S1", "S2", "S3", "S4")}
    assert donors == {"d1", "d2"}
    files = [path for best in (pretrained, finetuned) for path in best.parent.rglob("*") if path.is_file()]
    names = ("best.safetensors", "last.safetensors", "config.json", "history.json")
    assert {path.name for path in files} == {*names, "health.json"}
    # pretrain with its health, finetune, its two folds, and their mean history
    assert len(files) == (len(names) + 1) + len(names) + 2 * len(names) + 1
    for path in files:
        assert not [donor for donor in donors if f'"{donor}"'.encode() in path.read_bytes()], path


def test_attention_to_references_needs_the_bank(cohort: Path, tmp_path: Path) -> None:
    for attend in ("references", "both"):
        with pytest.raises(ConfigError, match=f"--attend {attend} .*--with-bank"):
            finetuning(cohort, tmp_path, attend=attend, with_bank=False)
    finetuning(cohort, tmp_path, attend="neighbours", with_bank=False)


@pytest.mark.parametrize(
    ("own", "pretrained", "expected"),
    [
        ({"S1": 0}, {}, {"S1": 0}),
        # S3 is of S2's donor. All sections of the run were pretrained on, so S4 is of another donor.
        ({"S1": 0, "S2": 1}, {"S2": 0, "S3": 0, "S1": 1, "S4": 2}, {"S1": 0, "S2": 1, "S3": 1, "S4": 4}),
        # S4 may be of S1's donor.
        ({"S1": 0, "S2": 1}, {"S2": 0, "S3": 0, "S4": 2}, {"S1": 0, "S2": 1, "S3": 1, "S4": None}),
        ({"S1": 0}, {"S1": 0, "S2": None}, {"S1": 0, "S2": None}),
        # The donor of S1 became known after pretraining, that of S3 did not.
        ({"S1": 0, "S2": 1}, {"S1": None, "S2": 0, "S3": None}, {"S1": 0, "S2": 1, "S3": None}),
        # S4, which the encoder was adapted on, is of S1's donor.
        ({"S1": 0, "S4": None}, {"S1": 0, "S4": 0, "S5": 0}, {"S1": 0, "S4": None, "S5": 0}),
    ],
)
def test_donors_of_pretraining_are_renumbered(
    own: dict[str, int | None], pretrained: dict[str, int | None], expected: dict[str, int | None]
) -> None:
    assert with_pretrained_donors(own, pretrained) == expected
