"""What a stage trains on: sections, features, genes, groups and order, each against a slow way or a drawn case."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section, make_cohort
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from training_runs import finetuning, pretraining

from spam import model_sharing
from spam.cli.lab_files import with_slide, with_store
from spam.errors import ConfigError, SpamError, StoreError
from spam.evaluation import benchmark
from spam.evaluation.folds import part_of_section
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta
from spam.prediction import Predictor
from spam.progress import SILENT
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.config import flag
from spam.schemas.model_config import ModelConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.store_format import feature_key
from spam.store import StoredSection, open_store, profiles_of
from spam.training import finetune, pretrain, training_set
from spam.training.cohort import (
    SpotData,
    cohort_neighbours,
    data_digest,
    held_out_by_default,
    neighbour_table,
    read_spots,
    split_sections,
)
from spam.training.feature_choice import check_features, choose_shared_features
from spam.training.genes import choose_genes
from spam.training.groups import N_BLOCKS, assign_groups, duplicates_of, folds_of, spatial_blocks
from spam.training.resident_counts import ResidentCounts
from spam.training.training_set import (
    TrainingSet,
    balanced,
    build_training_set,
    check_donors,
    has_one_split,
    random_order,
    retrieve_across_groups,
    training_set_of,
)

KEYS = ("tiny_112um", "tiny_224um")


@pytest.fixture(scope="module")
def spots(cohort: Path) -> tuple[SpotData, ...]:
    return tuple(read_spots(open_store(cohort).section(f"S{i}"), KEYS, k=5) for i in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def data(cohort: Path) -> TrainingSet:
    return build_training_set(pretraining(cohort, Path("unused")))


@pytest.mark.parametrize(
    ("asked", "train", "val"),
    [
        ({}, ("S1", "S2", "S3"), ("S4",)),
        ({"sections": ("S2", "S1")}, ("S2",), ("S1",)),
        ({"sections": ("S1", "S2"), "val_sections": ("S4",)}, ("S1", "S2"), ("S4",)),
        ({"sections": ("S1", "S2", "S3"), "val_sections": ("S2",)}, ("S1", "S3"), ("S2",)),
        ({"sections": ("S3",)}, ("S3",), ("S3",)),
    ],
)
def test_sections_are_split(
    cohort: Path, asked: dict[str, object], train: tuple[str, ...], val: tuple[str, ...]
) -> None:
    assert split_sections(open_store(cohort), pretraining(cohort, Path("o"), **asked)) == (train, val)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sections": ("S1", "S9")}, "'S9'"),
        ({"val_sections": ("S8",)}, "'S8'"),
        ({"sections": ("S1",), "val_sections": ("S1",)}, "--val-sections S1 leaves no section"),
    ],
)
def test_sections_that_cannot_be_used_are_named(cohort: Path, asked: dict[str, object], words: str) -> None:
    with pytest.raises(SpamError, match=words):
        split_sections(open_store(cohort), pretraining(cohort, Path("o"), **asked))


@pytest.mark.parametrize(
    ("donors", "held_out"),
    [
        (["p", "p", "q", "q"], ("4",)),  # a donor of two cannot be spared
        (["p", "q", "r", "r"], ("3", "4")),
        (["r", "p", "q", "r"], ("1", "4")),
        (["p", "q", "r", "s"], ("4",)),
        (["p", "q", None, "r"], ("4",)),
        (["p", "q", "r", "r", "r"], ("5",)),  # most of the sections
        (["p"], ("1",)),
    ],
)
def test_all_sections_of_the_last_of_three_donors_are_held_out(
    donors: list[str | None], held_out: tuple[str, ...], tmp_path: Path
) -> None:
    assert held_out_by_default([str(i + 1) for i in range(len(donors))], donors) == held_out
    if donors == ["p", "q", "r", "r"]:  # donors are known from the store
        for i, donor in enumerate(("p", "q", "r", "r")):
            add_section(tmp_path / "s.zarr", f"S{i + 1}", seed=i, n_spots=11, donor=donor)
        split = split_sections(open_store(tmp_path / "s.zarr"), pretraining(tmp_path / "s.zarr", tmp_path))
        assert split == (("S1", "S2"), ("S3", "S4"))


def test_tile_sizes_are_used_together_from_small_to_large_or_one_alone(cohort: Path) -> None:
    data = build_training_set(pretraining(cohort, Path("o")))
    assert (data.features.keys, data.features.dims) == (KEYS, (11, 13))
    assert data.spots[0].features.shape == (37, 24)
    assert build_training_set(pretraining(cohort, Path("o"), tile_um=(224.0,))).features.keys == KEYS[1:]
    with pytest.raises(StoreError, match=r"--tile-um 56 .*S1: tiny_112um"):
        build_training_set(pretraining(cohort, Path("o"), tile_um=(56.0, 112.0)))


def test_the_flag_that_was_typed_is_named(cohort: Path) -> None:
    wrong = {
        "enc_name": ("uni_v1", r"share no features with --enc-name uni_v1 \(S1: tiny_112um"),
        "tile_um": ((56.0, 64.0), r"with --tile-um 56,64 \("),
        "sections": (("S1", "C55"), r"no section 'C55' \(--sections\)"),
        "val_sections": (("C55",), r"no section 'C55' \(--val-sections\)"),
    }
    for name, (value, words) in wrong.items():
        with pytest.raises(StoreError, match=words):
            build_training_set(pretraining(cohort, Path("o"), **{name: value}))
    with pytest.raises(StoreError, match=r"no section 'C55' \(--section\)"):
        open_store(cohort).section("C55")
    for name in ("train_sections", "test_sections"):
        sides = {"train_sections": ("S1", "S2"), "test_sections": ("S3",), name: ("C55",)}
        with pytest.raises(StoreError, match=rf"no section 'C55' \({flag(name)}\)"):
            benchmark(BenchmarkConfig(store=cohort, out_dir=Path("o"), **sides))


def add_encoder(store: Path, **changes: object) -> None:
    """Add features of a second encoder, the negatives of those of the first, to all sections."""
    for name in open_store(store).section_names:
        section = open_store(store, is_read_only=False).section(name)
        for key in KEYS:
            meta = section.feature_meta(key)
            card = {**meta.encoder, "name": "other", "source": "hf-hub:MahmoodLab/UNI", "licence": "mit"}
            values = {"key": key.replace("tiny", "other"), "encoder": card, "weights_sha256": "cd" * 32}
            writer = section.feature_writer(replace(meta, **(values | changes)))
            for chunk in writer.pending:
                writer.write(chunk, -section.features(key)[chunk])
            writer.finish()


@pytest.mark.parametrize("is_averaged", [False, True])
def test_plain_and_averaged_features_of_two_encoders_are_not_mixed(tmp_path: Path, is_averaged: bool) -> None:
    add_encoder(make_cohort(tmp_path / "c.zarr", 1), is_averaged=True)
    sections = [open_store(tmp_path / "c.zarr").section("S1")]
    with pytest.raises(
        StoreError, match=r"share no features with --enc-name tiny,other.*--dihedral.*not mixed"
    ):
        choose_shared_features(sections, "tiny,other", (), is_averaged=is_averaged)
    with pytest.raises(StoreError, match=r"have features of 2 encoders \(other, tiny\)"):
        choose_shared_features(sections, None, (), is_averaged=is_averaged)
    assert choose_shared_features(sections, "other", ()).is_averaged


def test_an_adapted_encoder_is_not_used_beside_another_one(tmp_path: Path) -> None:
    add_encoder(make_cohort(tmp_path / "c.zarr", 1), lora_sha256="12" * 32)
    sections = [open_store(tmp_path / "c.zarr").section("S1")]
    with pytest.raises(ConfigError, match="--enc-name tiny,other names the adapted encoder other"):
        choose_shared_features(sections, "tiny,other", ())
    assert choose_shared_features(sections, "other", ()).keys == ("other_112um", "other_224um")


def test_features_of_two_encoders_are_used_side_by_side_if_both_are_named(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "c.zarr", 3)
    add_encoder(store)
    opened = [open_store(store).section(name) for name in ("S1", "S2")]
    with pytest.raises(StoreError, match=r"have features of 2 encoders \(other, tiny\).*--enc-name"):
        choose_shared_features(opened, None, ())
    with pytest.raises(StoreError, match="share no features with --enc-name tiny,third"):
        choose_shared_features(opened, "tiny,third", ())
    choice = choose_shared_features(opened, "tiny, other", ())
    named = [(encoder["name"], encoder["weights_sha256"]) for encoder in choice.encoders]
    assert named == [("other", "cd" * 32), ("tiny", "ab" * 32)] * 2
    assert choice.keys == ("other_112um", "tiny_112um", "other_224um", "tiny_224um")
    spots = read_spots(opened[0], choice.keys, k=5)
    own = [opened[0].features(key) for key in KEYS]
    np.testing.assert_array_equal(spots.features, np.concatenate([-own[0], own[0], -own[1], own[1]], axis=1))

    config = finetuning(store, tmp_path / "fine", sections=("S1", "S2"), enc_name="tiny,other", epochs=1)
    path = finetune(config).run.best_path
    smallest = np.concatenate([read_spots(one, choice.keys, k=5).features[:, :22] for one in opened])
    tensors = read_checkpoint(path, stage="finetune")[1]  # HEST ridge: both encoders at the smallest size
    np.testing.assert_allclose(
        tensors["baseline.transform.mean"], smallest.astype(float).mean(axis=0), atol=1e-6
    )
    predictor = Predictor.load(path, torch.device("cpu"))
    predicted = predictor.predict(open_store(store).section("S3"))
    assert np.isfinite(predicted.mu).all()
    add_section(store, "S4", encoder="tiny")
    sizes = "--tile-um 112 --tile-um 224"
    command = rf"other_112um is missing .*--enc-name other {sizes} && .*--enc-name tiny {sizes}$"
    with pytest.raises(SpamError, match=command):
        predictor.predict(open_store(store).section("S4"))
    meta = read_checkpoint_meta(path)
    kept = [0, 1, 3]  # without other_224um
    names = ("feature_keys", "tiles", "feature_dims", "encoders")
    fewer = replace(meta, **{name: tuple(getattr(meta, name)[i] for i in kept) for name in names})
    command = rf"--enc-name other --tile-um 112 && .*--enc-name tiny {sizes}$"
    with pytest.raises(SpamError, match=command):
        replace(predictor, meta=fewer).predict(open_store(store).section("S4"))
    swapped = tuple(
        {**meta.encoders[i], "weights_sha256": meta.encoders[1 - i]["weights_sha256"]} for i in (0, 1)
    )
    other = replace(predictor, meta=replace(meta, encoders=2 * swapped))
    with pytest.raises(
        SpamError, match=r"other_112um has weights cdcdcdcd…, .* instead of weights abababab…"
    ):
        other.predict(open_store(store).section("S3"))
    check_features(meta, choice)
    third = ({**encoder, "weights_sha256": "ef" * 32} for encoder in choice.encoders[1::2])
    of_third = dict(zip((1, 3), third, strict=True))
    encoders = tuple(of_third.get(i, encoder) for i, encoder in enumerate(choice.encoders))
    with pytest.raises(
        SpamError, match=r"tiny_112um \(weights abababab.* offers .*tiny_112um \(weights efefefef"
    ):
        check_features(meta, replace(choice, encoders=encoders))
    report = model_sharing.describe(ModelConfig(ckpt=path))
    objections = report.objections
    assert any("the licence of their encoder" in line and "CC-BY-NC-ND-4.0" in line for line in objections)
    assert "the trained weights: the licence of their encoder 'None' is not stated" in objections  # of tiny
    assert "spam predict --store cohort.zarr" in report.summary()
    (tmp_path / "slide.svs").touch()
    values = with_slide({"slide": tmp_path / "slide.svs", "ckpt": path, "out_dir": tmp_path / "out"})
    with pytest.raises(
        ConfigError, match=r"several encoders \(other, tiny\).* needs a store.*instead of SLIDE"
    ):
        with_store(PredictConfig, values, SILENT, checkpoint="ckpt")
    assert not (tmp_path / "out").exists()


def test_features_of_two_encoders_and_sections_without_counts_are_refused(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "c.zarr", 2)
    add_section(store, "X", encoder="other")
    with pytest.raises(StoreError, match=r"share no features \(S1: tiny_112um, .*; X: other_112um"):
        build_training_set(pretraining(store, tmp_path))
    add_section(store, "Y", change_counts="delete")
    with pytest.raises(StoreError, match=r"'Y' has no counts.*--h5ad"):
        build_training_set(pretraining(store, tmp_path, sections=("S1", "S2", "Y")))


def test_means_over_symmetries_are_never_mixed_with_plain_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "both.zarr"
    for i in (1, 2):
        add_section(store, f"S{i}", seed=i)
        section = open_store(store, is_read_only=False).section(f"S{i}")
        for key in KEYS:
            meta = section.feature_meta(key)
            new = feature_key("tiny", key.removeprefix("tiny_"), is_averaged=True)
            writer = section.feature_writer(replace(meta, key=new, is_averaged=True))
            for chunk in writer.pending:
                writer.write(chunk, section.features(key)[chunk])
            writer.finish()
    both = [open_store(store).section(name) for name in ("S1", "S2")]
    averaged = ("tiny_112um_d4", "tiny_224um_d4")
    assert choose_shared_features(both, None, ()).keys == KEYS
    assert choose_shared_features(both, None, (), is_averaged=True).keys == averaged

    with monkeypatch.context() as patch:  # sections without the plain features
        patch.setattr(StoredSection, "feature_keys", averaged)
        choice = choose_shared_features(both, None, ())
    assert (choice.keys, choice.is_averaged) == (averaged, True)
    with pytest.raises(StoreError, match="--dihedral"):
        choose_shared_features(
            [open_store(make_cohort(tmp_path / "p.zarr", 1)).section("S1")], None, (), is_averaged=True
        )
    path = pretrain(pretraining(store, tmp_path / "pre", epochs=1, dihedral=True)).run.best_path
    assert read_checkpoint_meta(path).is_averaged
    with pytest.raises(SpamError, match=r"trained on features tiny_112um_d4.*--dihedral"):
        finetune(finetuning(store, tmp_path / "fine", pretrained_ckpt=path))


def test_sections_that_the_encoder_was_adapted_on_count_as_seen(tmp_path: Path) -> None:
    for i in (1, 2):
        add_section(tmp_path / "a.zarr", f"S{i}", seed=i)
        section = open_store(tmp_path / "a.zarr", is_read_only=False).section(f"S{i}")
        for key in KEYS:
            values = section.features(key)
            meta = replace(section.feature_meta(key), adapted_on=("S9", "S1"))
            writer = section.feature_writer(meta, is_overwrite=True)
            for chunk in writer.pending:
                writer.write(chunk, values[chunk])
            writer.finish()
    meta = read_checkpoint_meta(
        pretrain(pretraining(tmp_path / "a.zarr", tmp_path / "p", epochs=1)).run.best_path
    )
    assert list(meta.donors.items()) == [("S1", 0), ("S2", 0), ("S9", None)]
    assert set(meta.train_sections) | set(meta.val_sections) == {"S1", "S2"}
    for held_out, seen in (("S1", ("S1",)), ("S2", ())):
        small = {"epochs": 1, "members": 1, "attend": "none", "val_sections": (held_out,)}
        report = finetune(finetuning(tmp_path / "a.zarr", tmp_path / held_out, **small))
        assert report.adapted_on == seen
        assert not report.is_new_donor  # both sections are of donor d1
        assert report.weights["ridge"] >= 0.2
        assert "new donors were not measured" in report.summary()
        assert ("adapted with the counts of S1" in report.summary()) == bool(seen)


def test_variable_genes_are_those_of_pandas(spots: tuple[SpotData, ...]) -> None:
    frames = []
    for s in spots[:3]:
        assert s.counts is not None
        assert s.totals is not None
        raw = pd.DataFrame(s.counts.toarray(), columns=s.genes)
        frames.append((raw, np.log1p(raw.div(s.totals, axis=0) * 1e4)))
    raw, expression = (pd.concat([frame[i] for frame in frames]) for i in (0, 1))
    often = (raw > 0).mean() > 0.1
    truth = expression.loc[:, often].var(ddof=0).sort_values(ascending=False)
    choice, choice_of_all = (choose_genes(spots[:3], n_top=n) for n in (19, None))
    assert choice.sets["HVG-250"] == [gene for gene in truth.index[:250] if gene in choice.genes]
    assert choice_of_all.sets["HVG-250"] == list(truth.index[:250])
    assert set(truth.index[:19]) <= set(choice.genes)
    hest = np.log1p(raw).loc[:, often].var(ddof=0).sort_values(ascending=False)
    assert choice.sets["hest-50"] == list(hest.index[:50])
    renamed = replace(spots[1], genes=np.array([f"{gene}b" for gene in raw.columns]))
    with pytest.raises(StoreError, match=r"0 gene names .*S1, S2"):
        choose_genes([spots[0], renamed], n_top=None)
    # Names and donors are part of the digest: donors decide which sections are held out.
    digests = {data_digest([s]) for s in (spots[1], replace(spots[1]), renamed, replace(spots[1], donor="z"))}
    assert len(digests) == 3


def test_neighbours_are_the_nearest_of_their_own_section(spots: tuple[SpotData, ...]) -> None:
    table = cohort_neighbours(spots[:2], 3)
    start = 0
    for s in spots[:2]:
        for i in range(s.n_spots):
            distance = np.linalg.norm(s.xy - s.xy[i], axis=1)
            distance[i] = np.inf
            nearest = np.lexsort((np.arange(s.n_spots), distance))[:3]
            np.testing.assert_array_equal(table.index[start + i], start + nearest)
            step = (s.xy[nearest] - s.xy[i]) / s.graph.meta.sigma
            length = np.log1p(distance[nearest] / s.graph.meta.sigma)
            np.testing.assert_allclose(table.relation[start + i], np.column_stack([step, length]), rtol=1e-5)
        start += s.n_spots
    assert table.is_usable.all()
    more = neighbour_table(spots[0].graph, spots[0].xy, 7)
    np.testing.assert_array_equal(more.is_usable, [[True] * 5 + [False] * 2] * 37)
    np.testing.assert_array_equal(more.relation[:, 5:], 0)


def test_references_are_the_most_similar_training_spots_of_other_groups(data: TrainingSet) -> None:
    found = retrieve_across_groups(data, 6)
    group, is_val = data.groups.group, data.groups.is_val
    unit = data.inputs / np.linalg.norm(data.inputs, axis=1, keepdims=True)
    similarity = unit.astype(float) @ unit.T.astype(float)
    for i in range(len(data.inputs)):
        allowed = np.flatnonzero((group != group[i]) & ~is_val)
        best = allowed[np.argsort(-similarity[i, allowed], kind="stable")[:6]]
        np.testing.assert_allclose(found.relation[i, :, 0], similarity[i, best], atol=1e-5)
        assert set(found.index[i]) <= set(allowed)
    assert found.is_usable.all()


def test_no_edge_crosses_sections(data: TrainingSet) -> None:
    rows, columns = data.weights.nonzero()
    np.testing.assert_array_equal(data.section_of[rows], data.section_of[columns])
    assert data.weights.nnz == 5 * len(data.inputs)


def test_a_batch_has_the_counts_and_the_centred_expression_of_its_rows(data: TrainingSet) -> None:
    counts = ResidentCounts(data, torch.device("cpu"))
    rows = np.random.default_rng(0).integers(0, len(data.totals), 31)  # some twice
    batch = counts.batch(rows)
    np.testing.assert_array_equal(batch.dense().numpy(), data.counts[rows].toarray())
    np.testing.assert_array_equal(batch.count.numpy(), data.counts[rows].data)
    np.testing.assert_allclose(batch.centred.numpy(), data.centred_of(rows), atol=1e-6)


def test_many_held_out_spots_are_validated_by_a_sample(
    data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data.val_rows
    monkeypatch.setattr(training_set, "_MOST_VALIDATED", 17)
    one, two = (replace(data).val_rows for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(np.unique(one)) == 17 < len(whole)
    assert (np.diff(one) > 0).all()
    assert np.isin(one, whole).all()


def test_features_of_some_spots_cross_sections(data: TrainingSet) -> None:
    whole = np.concatenate([s.features for s in data.spots])
    for rows in (np.array([0, 36, 37, 74]), np.array([80, 152]), np.arange(len(whole))):
        np.testing.assert_array_equal(data.features_of(rows), whole[rows])
        np.testing.assert_array_equal(data.features_of(rows, dim=5), whole[rows, :5])


def test_expression_is_centred_over_the_spots_with_counts_that_are_trained_on(
    cohort: Path, spots: tuple[SpotData, ...], data: TrainingSet
) -> None:
    counts = [s.counts.tolil() for s in spots if s.counts is not None]
    counts[0][[0, 7]] = 0
    counts[2][:] = 0
    emptied = tuple(
        replace(s, counts=csr_matrix(c), totals=np.asarray(c.sum(axis=1), dtype=float).ravel())
        for s, c in zip(spots, counts, strict=True)
    )
    config = pretraining(cohort, Path("o"))
    found = training_set_of(emptied, data.features, config, held_out=("S4",), genes=data.genes)
    for i in (0, 1, 3):  # the last one is held out
        rows = found.section_of == i
        expression = found.expression.toarray()
        known = expression[rows & (found.totals > 0)]
        centred = found.centred_of(np.flatnonzero(rows))
        np.testing.assert_allclose(centred, expression[rows] - known.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(found.centred_of(np.flatnonzero(found.section_of == 2)), 0.0)
    # Of a single section a block is held out, and the blocks keep their differences.
    lone = build_training_set(pretraining(cohort, Path("o"), sections=("S3",)))
    expression, rows = lone.expression.toarray(), np.arange(len(lone.totals))
    known, centred = expression[~lone.groups.is_val], lone.centred_of(rows)
    assert 0 < len(known) < len(expression)
    np.testing.assert_allclose(centred, expression - known.mean(axis=0), atol=1e-5)
    assert np.abs([centred[lone.groups.group == g].mean(axis=0) for g in range(5)]).max() > 0.1
    nothing = dataclasses.replace(lone.groups, is_val=np.zeros_like(lone.groups.is_val))
    whole = replace(lone, groups=nothing).centred_of(rows)
    np.testing.assert_allclose(whole, expression - expression.mean(axis=0), atol=1e-5)


def test_blocks_are_strips_of_equal_size_along_the_longer_axis() -> None:
    xy = np.array([[x, y] for x in range(10) for y in range(3)], dtype=float)
    blocks = spatial_blocks(xy, 5)
    np.testing.assert_array_equal(np.bincount(blocks), [6] * 5)
    columns = [set(xy[blocks == b, 0]) for b in range(5)]
    assert sorted(map(sorted, columns)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    rng = np.random.default_rng(3)
    xy, order = rng.normal(size=(53, 2)) * [7, 1], rng.permutation(53)
    np.testing.assert_array_equal(spatial_blocks(xy[order], 5), spatial_blocks(xy, 5)[order])


def test_sections_are_groups_and_a_single_training_section_is_cut(
    spots: tuple[SpotData, ...], tmp_path: Path
) -> None:
    groups = assign_groups(spots[:3], ("S3",))
    np.testing.assert_array_equal(groups.group, np.repeat([0, 1, 2], [37, 39, 41]))
    np.testing.assert_array_equal(groups.is_val, np.repeat([False, False, True], [37, 39, 41]))
    assert not groups.are_blocks
    lone = assign_groups(spots[:1], ())
    assert lone.are_blocks
    np.testing.assert_array_equal(lone.group, spatial_blocks(spots[0].xy, N_BLOCKS))
    np.testing.assert_array_equal(lone.is_val, lone.group == N_BLOCKS - 1)
    beside = assign_groups(spots[:3], ("S2", "S3"))
    np.testing.assert_array_equal(beside.group[:37], lone.group)
    np.testing.assert_array_equal(beside.group[37:], np.repeat([N_BLOCKS + 1, N_BLOCKS + 2], [39, 41]))
    np.testing.assert_array_equal(beside.is_val, np.repeat([False, True], [37, 80]))
    add_section(tmp_path / "s.zarr", "S", n_spots=9)
    with pytest.raises(StoreError, match="'S' has 9 spots"):
        assign_groups([read_spots(open_store(tmp_path / "s.zarr").section("S"), KEYS, k=4)], ())


def test_genes_that_are_asked_for_are_modelled_too(cohort: Path, tmp_path: Path) -> None:
    plain = build_training_set(finetuning(cohort, tmp_path)).genes
    rest = [f"G{i}" for i in range(61) if f"G{i}" not in plain.genes]
    (tmp_path / "panel.txt").write_text(f"{rest[1]}\n\n  {rest[2]}  \n{plain.genes[0]}\n")
    config = finetuning(cohort, tmp_path, genes=(rest[3], str(tmp_path / "panel.txt")))
    assert config.genes == (rest[3], rest[1], rest[2], plain.genes[0])
    data = build_training_set(config)
    assert data.genes.genes == (*plain.genes, rest[3], rest[1], rest[2])
    assert data.genes.sets["HVG-50"] == plain.sets["HVG-50"]
    whole = data.spots[0].counts_of([rest[2]]).toarray()
    np.testing.assert_array_equal(data.counts[:37, -1].toarray(), whole)


def test_genes_that_cannot_be_modelled_are_named(cohort: Path, pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    add_section(tmp_path / "s.zarr", "S1")
    add_section(tmp_path / "s.zarr", "S2", panel=tuple(range(40)))
    for store, genes, words in (
        (cohort, ("G611",), "No section has the gene 'G611' of --genes. Did you mean 'G11'"),
        (tmp_path / "s.zarr", ("G1", "G50", "G51"), r"'G50' \(and 1 more\) of --genes is not measured in S2"),
        (cohort, (str(tmp_path / "b.txt"),), r"b\.txt.* \(--genes\) is not a text file"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_training_set(finetuning(store, tmp_path / "out", genes=genes))
    known = read_checkpoint_meta(pretrained).genes
    other = next(f"G{i}" for i in range(61) if f"G{i}" not in known)
    with pytest.raises(SpamError, match=f"--genes {other}.*pretrain again"):
        finetune(finetuning(cohort, tmp_path / "out", pretrained_ckpt=pretrained, genes=(other,)))


def test_an_adapted_encoder_is_judged_on_what_it_has_not_seen(cohort: Path, tmp_path: Path) -> None:
    config = finetuning(cohort, tmp_path)
    data = build_training_set(config)
    assert not has_one_split(config, data.features)
    assert has_one_split(config, replace(data.features, adapted_on=("S1",)))
    assert has_one_split(replace(config, val_sections=("S1",)), data.features)
    assert has_one_split(pretraining(cohort, tmp_path), data.features)


def test_each_donor_section_or_block_is_left_out_once(spots: tuple[SpotData, ...]) -> None:
    """By hand: S1 to S4 of 37, 39, 41 and 43 spots, of the donors d1, d1, d2, d2."""

    def left_out(
        sections: Sequence[SpotData], *donors: str | None, empty: Sequence[str] = ()
    ) -> list[set[str]]:
        named = [replace(s, donor=d) for s, d in zip(sections, donors, strict=True)]
        name = np.repeat([s.name for s in named], [s.n_spots for s in named])
        folds = folds_of(named, np.where(np.isin(name, empty), 0.0, 1.0))
        for groups in folds:
            is_whole = [groups.is_val[name == s.name].all() for s in named]
            assert is_whole == [groups.is_val[name == s.name].any() for s in named]
        return [set(name[groups.is_val].tolist()) for groups in folds]

    assert left_out(spots, "d1", "d1", "d2", "d2") == [{"S1", "S2"}, {"S3", "S4"}]
    assert left_out(spots, "d1", "d2", "d1", "d1") == [{"S1", "S3", "S4"}, {"S2"}]
    each = [{"S1"}, {"S2"}, {"S3"}, {"S4"}]
    assert left_out(spots, "d1", "d1", "d1", "d1") == left_out(spots, "d1", "d2", None, "d2") == each
    # What has no counts cannot judge; a fold without it is still trained with its images.
    assert left_out(spots, "d1", "d1", "d1", "d1", empty=["S2"]) == [{"S1"}, {"S3"}, {"S4"}]
    assert left_out(spots[:2], "d1", "d1", empty=["S1"]) == [{"S2"}]
    # A single section of few spots cannot be trained on: sections are left out in place of donors.
    few = part_of_section(spots[2], np.arange(41) < 9, k=4)
    assert left_out([*spots[:2], few], "d1", "d1", "d2") == [{"S1"}, {"S2"}, {"S3"}]
    six = [replace(spots[i % 4], name=f"T{i}") for i in range(6)]
    assert left_out(six, *("d1",) * 6) == [{"T0", "T4"}, {"T1", "T5"}, {"T2"}, {"T3"}]
    blocks = folds_of(spots[:1], np.ones(37))
    strips = spatial_blocks(spots[0].xy, 5)
    expected = [np.isin(strips, ids) for ids in ((0, 4), (1,), (2,), (3,))]
    np.testing.assert_array_equal([groups.is_val for groups in blocks], expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=41), st.integers(1, 17))
def test_balanced_batches_have_equally_many_of_each_label(labels: list[int], size: int) -> None:
    label = np.array(labels)
    rows = np.random.default_rng(0).permutation(len(label))
    order = balanced(rows, label[rows])
    kinds, n_rows = np.unique(label, return_counts=True)
    assert len(order) == len(set(order)) == len(kinds) * n_rows.min()
    for start in range(0, len(order), size):
        seen = [np.count_nonzero(label[order[start : start + size]] == kind) for kind in kinds]
        assert max(seen) - min(seen) <= 1


def test_an_epoch_visits_each_row_once_or_balances_donors(data: TrainingSet) -> None:
    def with_donors(*donors: str | None) -> TrainingSet:
        return replace(
            data, spots=tuple(replace(s, donor=d) for s, d in zip(data.spots, donors, strict=True))
        )

    def order_of(data: TrainingSet, *, balance_donors: bool) -> np.ndarray:
        return random_order(data.train_rows, data, np.random.default_rng(5), balance_donors=balance_donors)

    expected = np.random.default_rng(5).permutation(data.train_rows)
    np.testing.assert_array_equal(order_of(data, balance_donors=False), expected)
    order = order_of(with_donors("P", "P", "Q", "Q"), balance_donors=True)  # the last section is held out
    assert len(order) == len(set(order)) == 2 * 41
    assert (np.isin(data.section_of, (2, 3))[order].reshape(-1, 2).sum(axis=1) == 1).all()
    # each section counts as a donor
    order = order_of(with_donors(None, None, None, None), balance_donors=True)
    assert (np.sort(data.section_of[order].reshape(-1, 3), axis=1) == [0, 1, 2]).all()
    with pytest.raises(ConfigError, match=r"--balance-donors .*'P7'"):
        check_donors(data.train_rows, with_donors("P7", "P7", "P7", "P7"))


UNREADABLE = (0, 7, 8, 30)


def test_spots_with_unreadable_tiles_leave_no_trace(tmp_path: Path) -> None:
    """Training equals that of a cohort without these spots, bit for bit."""
    stores = {True: tmp_path / "whole" / "a.zarr", False: tmp_path / "partial" / "a.zarr"}
    for is_whole, store in stores.items():
        for i in range(3):
            kept = {"order": np.delete(np.arange(37 + 2 * i), UNREADABLE)}
            options = {"unreadable": UNREADABLE} if is_whole else kept
            add_section(store, f"S{i + 1}", seed=i, n_spots=37 + 2 * i, **options)  # type: ignore[arg-type]
    a, b = (read_spots(open_store(store).section("S2"), KEYS, k=5) for store in stores.values())
    assert a.n_spots == 39 - len(UNREADABLE)
    for field in dataclasses.fields(a):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two, err_msg=field.name)
    assert (a.graph.distances != b.graph.distances).nnz == 0
    found = []
    for store in stores.values():
        changes = {"epochs": 1, "attend": "neighbours", "with_bank": False}
        path = finetune(finetuning(store, store.parent / "run", **changes)).run.last_path
        found.append(read_checkpoint(path, stage="finetune")[1])
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)
    add_section(tmp_path / "b.zarr", "S1", n_spots=11, unreadable=tuple(range(11)))
    with pytest.raises(StoreError, match="'S1'"):
        read_spots(open_store(tmp_path / "b.zarr").section("S1"), KEYS, k=3)


def with_copy(folder: Path, *, donor: str, order: np.ndarray | None = None, **options: object) -> Path:
    """A cohort of four sections, of which the last is the second under another name."""
    store = make_cohort(folder / "c.zarr", 3)
    add_section(store, "S9", seed=1, n_spots=39, donor=donor, order=order, **options)
    return store


SHUFFLED = np.random.default_rng(0).permutation(39)


@pytest.mark.parametrize(
    ("donor", "asked", "words"),
    [
        ("d1", {}, r"'S2' and 'S9' .*100%.*held out.*--val-sections"),
        ("d9", {"val_sections": ("S9",)}, r"'S2' and 'S9' .*held out"),
        ("d9", {"sections": ("S9", "S1", "S2", "S3")}, r"'S9' and 'S2' .*'d9' and 'd1'"),
    ],
)
@pytest.mark.parametrize(
    "change", [{}, {"order": SHUFFLED}, {"order": SHUFFLED[:17]}, {"panel": tuple(range(3, 50))}]
)
def test_the_same_tissue_under_two_names_is_refused(
    donor: str, asked: dict[str, object], words: str, change: dict[str, object], tmp_path: Path
) -> None:
    store = with_copy(tmp_path, donor=donor, **change)
    with pytest.raises(ConfigError, match=words):
        build_training_set(pretraining(store, tmp_path / "out", **asked))


def test_the_same_tissue_twice_on_the_training_side_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = with_copy(tmp_path, donor="d1")
    build_training_set(pretraining(store, tmp_path / "out", sections=("S1", "S2", "S9", "S3")))
    assert "'S2' and 'S9' are the same tissue" in caplog.text
    assert "count twice" in caplog.text


def test_the_same_image_with_other_counts_is_reported(
    spots: tuple[SpotData, ...], caplog: pytest.LogCaptureFixture
) -> None:
    other = replace(spots[1], counts=csr_matrix(spots[1].counts.toarray() + 1), name="S9")
    pair = spots[1], other
    assert not list(duplicates_of(pair, [profiles_of(s.counts, s.genes, s.features) for s in pair]))
    assert "'S2' and 'S9' show the same image (100%" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"order": SHUFFLED}, {"shift": 0.5}, {"change_counts": "double"}],
    ids=["order", "images", "counts"],
)
def test_stage_1_is_repeated_without_held_out_tissue_under_another_name(
    change: dict[str, object], tmp_path: Path
) -> None:
    """Equal counts are enough, and so are equal images."""
    store = with_copy(tmp_path, donor="d1", **change)
    ckpt = pretrain(pretraining(store, tmp_path / "pre", sections=("S1", "S2", "S3"))).run.best_path
    config = finetuning(store, tmp_path / "fine", sections=("S1", "S3", "S9"), pretrained_ckpt=ckpt)
    finetune(replace(config, val_sections=("S9",)))
    repeated = read_checkpoint_meta(tmp_path / "fine" / "selection" / "1-stage1" / "last.safetensors")
    assert repeated.train_sections == ("S1", "S3")


def test_genes_that_sections_do_not_share_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_cohort(tmp_path / "c.zarr", 2)
    add_section(store, "S9", seed=8, panel=tuple(range(20)))
    caplog.set_level("INFO")
    build_training_set(pretraining(store, tmp_path / "out", sections=("S1", "S2")))
    assert "gene names" not in caplog.text
    build_training_set(pretraining(store, tmp_path / "out"))
    (record,) = (record for record in caplog.records if "gene names" in record.getMessage())
    assert record.levelname == "WARNING"
    assert "20 gene names are in all 3 sections" in record.getMessage()
    assert "S1 loses 41 of 61, S2 loses 41 of 61" in record.getMessage()
