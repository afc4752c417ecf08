"""Features of normalised tiles, and means over symmetries, beside plain ones: one kind is used, never a mixture."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from cohorts import add_section

from spam.errors import CheckpointError, StoreError
from spam.models.checkpoint import read_checkpoint_meta
from spam.schemas.store_config import SelectConfig
from spam.schemas.store_meta import feature_key
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.sharing import select
from spam.store import open_store
from spam.training import finetune, pretrain
from spam.training.cohort import choose_features

PLAIN = ("tiny_112um", "tiny_224um")
KINDS = (("macenko", False), (None, True), ("macenko", True))


def _add_kind(store: Path, stain, is_averaged) -> None:
    """Store the features of both sizes once more, as another kind."""
    for name in ("S1", "S2"):
        section = open_store(store, is_read_only=False).section(name)
        for key in PLAIN:
            meta = section.feature_meta(key)
            new = feature_key("tiny", key.removeprefix("tiny_"), stain=stain, is_averaged=is_averaged)
            writer = section.feature_writer(
                dataclasses.replace(meta, key=new, stain=stain, is_averaged=is_averaged)
            )
            for chunk in writer.pending:
                writer.write(chunk, section.features(key)[chunk])
            writer.finish()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "a.zarr"
    for i in (1, 2):
        add_section(folder, f"S{i}", seed=i)
    for kind in KINDS:
        _add_kind(folder, *kind)
    return folder


def choose(store: Path, **asked):
    opened = open_store(store)
    return choose_features([opened.section(name) for name in ("S1", "S2")], None, (), **asked)


def test_each_kind_is_chosen_by_its_options_and_alone(store: Path) -> None:
    assert choose(store).keys == PLAIN
    found = [choose(store, stain=stain, is_averaged=is_averaged) for stain, is_averaged in KINDS]
    assert [choice.keys for choice in found] == [
        ("tiny_112um_macenko", "tiny_224um_macenko"),
        ("tiny_112um_d4", "tiny_224um_d4"),
        ("tiny_112um_macenko_d4", "tiny_224um_macenko_d4"),
    ]
    assert [(choice.stain, choice.is_averaged) for choice in found] == list(KINDS)
    assert all(a != b for a, b in pairwise(found))


def test_the_only_kind_that_there_is_needs_no_option(tmp_path: Path) -> None:
    averaged = _store_of(tmp_path / "averaged.zarr", (None, True))
    assert choose(averaged).is_averaged
    with pytest.raises(StoreError, match=r"made with --stain reinhard.*choose with --stain and --dihedral"):
        choose(averaged, stain="reinhard")
    several = _store_of(tmp_path / "several.zarr", (None, True), ("macenko", False))
    with pytest.raises(
        StoreError,
        match=r"made with neither --stain nor --dihedral.*some with --dihedral and some with --stain macenko: choose with",
    ):
        choose(several)


def _store_of(folder: Path, *kinds) -> Path:
    """Make a store that holds these kinds of features, and no plain ones."""
    for i in (1, 2):
        add_section(folder, f"S{i}", seed=i)
    for kind in kinds:
        _add_kind(folder, *kind)
    keys = [key for key in open_store(folder).section("S1").feature_keys if key not in PLAIN]
    kept = folder.with_name(f"kept-{folder.name}")
    select(SelectConfig(store=folder, out=kept, features=tuple(keys)))
    return kept


def test_sizes_that_are_asked_for_are_there_in_the_kind_that_is_used(store: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.zarr"
    select(SelectConfig(store=store, out=kept, features=("tiny_112um", "tiny_224um_macenko")))
    sections = [open_store(kept).section(name) for name in ("S1", "S2")]
    with pytest.raises(StoreError, match=r"no features of tiles of 224 µm that all sections share"):
        choose_features(sections, None, (112.0, 224.0))


def test_sections_that_the_encoder_was_adapted_to_count_as_seen(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    for i in (1, 2):
        add_section(folder, f"S{i}", seed=i)
        section = open_store(folder, is_read_only=False).section(f"S{i}")
        for key in PLAIN:
            meta = dataclasses.replace(section.feature_meta(key), adapted_on=("S9", "S1"))
            writer = section.feature_writer(meta, is_overwrite=True)
            for chunk in writer.pending:
                writer.write(chunk, open_store(folder).section(f"S{i}").features(key)[chunk])
            writer.finish()
    config = PretrainConfig(store=folder, save_dir=tmp_path / "pre", epochs=1, n_top_genes=23, batch_size=17)
    meta = read_checkpoint_meta(pretrain(config).run.best_path)
    assert list(meta.donors.items()) == [("S1", "d1"), ("S2", "d1"), ("S9", None)]
    assert set(meta.train_sections) | set(meta.val_sections) == {"S1", "S2"}
    small = {"epochs": 1, "n_top_genes": 23, "fuse_dim": 16, "members": 1}
    for held_out, seen in (("S1", ("S1",)), ("S2", ())):
        options = FinetuneConfig(
            store=folder, save_dir=tmp_path / held_out, val_sections=(held_out,), **small
        )
        report = finetune(options)
        assert report.adapted_on == seen
        assert ("adapted with the counts of S1 at hand" in report.summary()) == bool(seen)


def test_a_checkpoint_keeps_to_its_kind(store: Path, tmp_path: Path) -> None:
    small = {"store": store, "n_top_genes": 23, "epochs": 1}
    config = PretrainConfig(**small, save_dir=tmp_path / "pre", stain="macenko", proj_dim=8, batch_size=17)
    path = pretrain(config).run.best_path
    meta = read_checkpoint_meta(path)
    assert (meta.stain, meta.is_averaged) == ("macenko", False)
    assert meta.feature_keys == ("tiny_112um_macenko", "tiny_224um_macenko")
    with pytest.raises(
        CheckpointError, match=r"trained on features tiny_112um_macenko.*--stain and --dihedral"
    ):
        finetune(FinetuneConfig(**small, save_dir=tmp_path / "fine", pretrained_ckpt=path))
