"""Adapted features are stored beside the frozen ones, and never confused with them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from adaptation_lab import make_cohort_files, training

from spam.embedding import adapt, dry_run, embed
from spam.errors import CheckpointError, EncoderError, StoreError
from spam.models.checkpoint import read_checkpoint_meta
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import open_store
from spam.training import finetune, pretrain


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    """A store with frozen and with adapted features."""
    tiles = make_cohort_files(tmp_path_factory.mktemp("both") / "lab")
    embed(tiles)
    report = adapt(training(tiles, tiles.store.parent / "lora", epochs=1), tiles)
    with_adapter = dataclasses.replace(tiles, lora=report.folder)
    done = embed(with_adapter)
    assert done.encoder == report.card.encoder_name
    return with_adapter


def test_both_lie_side_by_side(both: EmbedConfig) -> None:
    section = open_store(both.store).section("A")
    frozen = section.feature_meta("local-tiny_16um")
    (key,) = (key for key in section.feature_keys if "-lora-" in key and not key.endswith("_quality"))
    adapted = section.feature_meta(key)
    assert key == f"local-tiny-lora-{adapted.lora_sha256[:8]}_16um"
    assert (frozen.lora_sha256, frozen.weights_sha256) == (None, adapted.weights_sha256)
    name = key.removesuffix("_16um").replace("-", ":", 1)
    assert adapted.encoder == {**frozen.encoder, "name": name, "source": adapted.encoder["source"]}
    assert section.feature_identity(key) != section.feature_identity("local-tiny_16um")
    assert np.abs(section.features(key) - section.features("local-tiny_16um")).max() > 1e-3


def test_a_dry_run_names_the_adapted_encoder(both: EmbedConfig) -> None:
    planned = dry_run(both)
    assert planned.encoder in planned.summary()
    assert "-lora-" in planned.encoder


def test_trainers_ask_which_and_refuse_the_other(both: EmbedConfig, tmp_path: Path) -> None:
    def config(name: str, enc_name: str | None) -> PretrainConfig:
        return PretrainConfig(
            store=both.store, save_dir=tmp_path / name, enc_name=enc_name, epochs=1, proj_dim=6, k=4
        )

    with pytest.raises(StoreError, match=r"local:tiny, local:tiny-lora-"):
        pretrain(config("none", None))
    adapted = dry_run(both).encoder
    checkpoints = {}
    for name, enc_name in (("frozen", "local:tiny"), ("adapted", adapted)):
        checkpoints[name] = pretrain(config(name, enc_name)).run.best_path
        meta = read_checkpoint_meta(checkpoints[name])
        assert meta.encoder_names == (enc_name,)
    for name, other in (("frozen", adapted), ("adapted", "local:tiny")):
        tuning = FinetuneConfig(
            store=both.store,
            save_dir=tmp_path / f"fine_{name}",
            enc_name=other,
            pretrained_ckpt=checkpoints[name],
            epochs=1,
            k=4,
            n_neighbours=2,
            fuse_dim=6,
            heads=2,
        )
        with pytest.raises(CheckpointError, match=r"local-tiny.*local-tiny"):
            finetune(tuning)


def test_an_adapter_of_another_encoder_is_refused_before_anything_is_written(
    both: EmbedConfig, tmp_path: Path
) -> None:
    other = make_cohort_files(tmp_path / "lab")
    renamed = tmp_path / "lab" / "other"
    (tmp_path / "lab" / "tiny").rename(renamed)
    wrong = dataclasses.replace(other, enc_name=f"local:{renamed}", lora=both.lora)
    with pytest.raises(EncoderError, match=r"'local:tiny'.*'local:other'"):
        embed(wrong)
    assert not wrong.store.exists()
