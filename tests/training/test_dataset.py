from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section, make_cohort
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError, StoreError
from spam.models.inputs import InputTransform, context_features
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import open_store
from spam.training.cohort import (
    choose_sections,
    cohort_neighbours,
    data_digest,
    held_out_by_default,
    neighbour_table,
    read_spots,
)
from spam.training.dataset import (
    build_training_set,
    retrieve,
    retrieve_across_groups,
    training_set_of,
    with_all_trained_on,
)
from spam.training.fusion_stage import FusionStage
from spam.training.genes import choose_genes

KEYS = ("tiny_112um", "tiny_224um")


def config(store: Path, **changes: object) -> PretrainConfig:
    values = {"store": store, "save_dir": store.parent / "out", "k": 5, "n_top_genes": 23, **changes}
    return PretrainConfig(**values)  # type: ignore[arg-type]


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
def test_the_last_section_is_held_out_unless_told_otherwise(
    cohort: Path, asked: dict[str, object], train: tuple[str, ...], val: tuple[str, ...]
) -> None:
    assert choose_sections(open_store(cohort), config(cohort, **asked)) == (train, val)


@pytest.mark.parametrize(
    ("donors", "held_out"),
    [
        (["p", "p", "q", "q"], ("4",)),  # a donor of two cannot be spared
        (["p", "q", "r", "r"], ("3", "4")),
        (["r", "p", "q", "r"], ("1", "4")),
        (["p", "q", "r", "s"], ("4",)),
        (["p", "q", None, "r"], ("4",)),
        (["p", "q", "r", "r", "r"], ("5",)),  # most of what there is
        (["p"], ("1",)),
    ],
)
def test_all_of_a_donor_is_held_out_where_there_are_three(
    donors: list[str | None], held_out: tuple[str, ...]
) -> None:
    assert held_out_by_default([str(i + 1) for i in range(len(donors))], donors) == held_out


def test_the_store_says_which_sections_are_of_the_last_donor(tmp_path: Path) -> None:
    for i, donor in enumerate(("p", "q", "r", "r")):
        add_section(tmp_path / "s.zarr", f"S{i + 1}", seed=i, n_spots=11, donor=donor)
    store = open_store(tmp_path / "s.zarr")
    assert choose_sections(store, config(tmp_path / "s.zarr")) == (("S1", "S2"), ("S3", "S4"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sections": ("S1", "S9")}, r"'S9' not in store .* which has S1, S2, S3, S4"),
        ({"sections": ("S1", "S1")}, "names a section twice"),
        ({"sections": ("S1",), "val_sections": ("S1",)}, "leaves no section to train on"),
    ],
)
def test_sections_that_cannot_be_used_are_named(cohort: Path, asked: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_sections(open_store(cohort), config(cohort, **asked))


def test_all_tile_sizes_are_used_together_from_small_to_large(cohort: Path) -> None:
    data = build_training_set(config(cohort))
    assert data.features.keys == KEYS
    assert data.features.dims == (11, 13)
    assert data.spots[0].features.shape == (37, 24)


def test_one_tile_size_can_be_chosen(cohort: Path) -> None:
    assert build_training_set(config(cohort, tile_um=(224.0,))).features.keys == ("tiny_224um",)


def test_a_tile_size_that_is_not_there_is_an_error(cohort: Path) -> None:
    with pytest.raises(StoreError, match=r"tiles of 56 µm .*spam embed --tile-um"):
        build_training_set(config(cohort, tile_um=(56.0, 112.0)))


def test_features_of_two_encoders_leave_the_choice_open(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "c.zarr", 1)
    add_section(store, "X", encoder="other")
    with pytest.raises(StoreError, match=r"share no features \(S1: tiny_112um, .*; X: other_112um"):
        build_training_set(config(store))


def test_a_section_without_counts_cannot_be_trained_on(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "c.zarr", 2)
    add_section(store, "X", change_counts="delete")
    with pytest.raises(StoreError, match=r"section 'X' has no counts; embed it with --h5ad"):
        build_training_set(config(store))


def test_variable_genes_are_those_of_pandas(cohort: Path) -> None:
    spots = [read_spots(open_store(cohort).section(name), KEYS, k=5) for name in ("S1", "S2", "S3")]
    frames = []
    for s in spots:
        assert s.counts is not None
        assert s.totals is not None
        raw = pd.DataFrame(s.counts.toarray(), columns=s.genes)
        frames.append((raw, np.log1p(raw.div(s.totals, axis=0) * 1e4)))
    raw, expression = (pd.concat([frame[i] for frame in frames]) for i in (0, 1))
    often = (raw > 0).mean() > 0.1
    truth = expression.loc[:, often].var(ddof=0).sort_values(ascending=False)
    choice, choice_of_all = (choose_genes(spots, n_top=n) for n in (19, None))
    assert choice.sets["HVG-250"] == [gene for gene in truth.index[:250] if gene in choice.genes]
    assert choice_of_all.sets["HVG-250"] == list(truth.index[:250])
    assert set(truth.index[:19]) <= set(choice.genes)
    hest = np.log1p(raw).loc[:, often].var(ddof=0).sort_values(ascending=False)
    assert choice.sets["hest-50"] == list(hest.index[:50])


def test_context_is_a_mean_over_the_neighbourhood(cohort: Path) -> None:
    s = read_spots(open_store(cohort).section("S1"), KEYS, k=5)
    weights = s.graph.connectivities.toarray() + np.eye(37)
    weights /= weights.sum(axis=1, keepdims=True)
    f = s.features.astype(float)
    slow = np.concatenate([f, weights @ f, weights @ (weights @ (weights @ f))], axis=1)
    context = context_features(s)
    assert context.shape == (37, 72)
    np.testing.assert_allclose(context, slow, atol=1e-5)


def test_inputs_are_scaled_by_the_larger_of_two_spreads() -> None:
    rng = np.random.default_rng(0)
    even, flat, new = (
        rng.normal(size=(n, 7)).astype(np.float32) * scale + 3 for n, scale in ((53, 1), (41, 0.5), (31, 0.2))
    )
    transform = InputTransform.fit([even, flat], 5)
    spread = np.sqrt((53 * even.var(axis=0) + 41 * flat.var(axis=0)) / 94)
    np.testing.assert_allclose(transform.spread, spread, rtol=1e-5)

    def scaled(section: np.ndarray) -> np.ndarray:
        return (section - section.mean(axis=0)) / (np.maximum(section.std(axis=0), spread) + 1e-3)

    pooled = np.concatenate([scaled(even), scaled(flat)])
    components = PCA(5).fit(StandardScaler().fit_transform(pooled))
    slow = components.transform((scaled(new) - pooled.mean(axis=0)) / pooled.std(axis=0))
    unit = np.sqrt((components.transform(StandardScaler().fit_transform(pooled)) ** 2).mean())
    found = transform.apply(new)
    sign = np.sign((found * slow).sum(axis=0))  # of a component is arbitrary
    np.testing.assert_allclose(found, sign * slow / unit, atol=1e-4)
    again = InputTransform.from_tensors(transform.to_tensors())
    np.testing.assert_array_equal(again.apply(new), found)


def test_held_out_spots_have_no_part_in_the_inputs() -> None:
    rng = np.random.default_rng(1)
    known, held_out = (rng.normal(size=(n, 7)).astype(np.float32) for n in (53, 41))
    is_fitted = [np.ones(53, dtype=bool), np.zeros(41, dtype=bool)]
    alone = InputTransform.fit([known], 5)
    beside = InputTransform.fit([known, held_out], 5, is_fitted=is_fitted)
    np.testing.assert_allclose(beside.spread, alone.spread, rtol=1e-12)
    np.testing.assert_allclose(beside.apply(held_out), alone.apply(held_out), atol=1e-6)


def test_held_out_spots_of_a_cut_section_move_its_mean_alone() -> None:
    rng = np.random.default_rng(2)
    section = rng.normal(size=(53, 7)).astype(np.float32)
    is_fitted = np.arange(53) < 37
    transform = InputTransform.fit([section], 5, is_fitted=[is_fitted])
    centred = section - section.mean(axis=0)
    spread = np.sqrt((centred[is_fitted] ** 2).mean(axis=0))
    np.testing.assert_allclose(transform.spread, spread, rtol=1e-5)
    scaled = centred / (np.maximum(section.std(axis=0), spread) + 1e-3)
    np.testing.assert_allclose(transform.components.pca.mean, scaled[is_fitted].mean(axis=0), atol=1e-6)


def test_a_nan_is_told_by_its_own_section() -> None:
    rng = np.random.default_rng(3)
    good, bad = (rng.normal(size=(n, 7)).astype(np.float32) for n in (53, 41))
    bad[11, 3] = np.nan
    with pytest.raises(StoreError, match="41 of 94 feature rows hold NaN"):
        InputTransform.fit([good, bad], 5)


def test_neighbours_are_the_nearest_of_their_own_section(cohort: Path) -> None:
    spots = [read_spots(open_store(cohort).section(name), KEYS, k=5) for name in ("S1", "S2")]
    table = cohort_neighbours(spots, 3)
    start = 0
    for s in spots:
        for i in range(s.n_spots):
            distance = np.linalg.norm(s.xy - s.xy[i], axis=1)
            distance[i] = np.inf
            nearest = np.lexsort((np.arange(s.n_spots), distance))[:3]
            np.testing.assert_array_equal(table.index[start + i], start + nearest)
            step = (s.xy[nearest] - s.xy[i]) / s.graph.meta.sigma
            np.testing.assert_allclose(table.offset[start + i, :, :2], step, rtol=1e-5)
            np.testing.assert_allclose(
                table.offset[start + i, :, 2], np.log1p(distance[nearest] / s.graph.meta.sigma), rtol=1e-5
            )
        start += s.n_spots
    assert table.is_usable.all()


def test_more_neighbours_than_the_graph_has_are_marked_unusable(cohort: Path) -> None:
    s = read_spots(open_store(cohort).section("S1"), KEYS, k=5)
    table = neighbour_table(s.graph, s.xy, 7)
    np.testing.assert_array_equal(table.is_usable.sum(axis=1), 5)
    assert not table.is_usable[:, 5:].any()
    np.testing.assert_array_equal(table.offset[:, 5:], 0)


def test_references_are_the_most_similar_training_spots_of_other_groups(cohort: Path) -> None:
    data = build_training_set(config(cohort))
    found = retrieve_across_groups(data, 6)
    group, is_val = data.groups.group, data.groups.is_val
    unit = data.inputs / np.linalg.norm(data.inputs, axis=1, keepdims=True)
    similarity = unit.astype(float) @ unit.T.astype(float)
    for i in range(len(data.inputs)):
        allowed = np.flatnonzero((group != group[i]) & ~is_val)
        best = allowed[np.argsort(-similarity[i, allowed], kind="stable")[:6]]
        np.testing.assert_allclose(found.similarity[i], similarity[i, best], atol=1e-5)
        assert set(found.index[i]) <= set(allowed)
    assert found.is_usable.all()


def test_a_bank_smaller_than_asked_for_leaves_places_unused() -> None:
    rng = np.random.default_rng(0)
    found = retrieve(
        rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32), 4
    )
    np.testing.assert_array_equal(found.is_usable, [[True, True, False, False]] * 5)
    empty = retrieve(rng.normal(size=(5, 3)).astype(np.float32), np.empty((0, 3), dtype=np.float32), 4)
    assert not empty.is_usable.any()


def test_no_edge_crosses_sections(cohort: Path) -> None:
    data = build_training_set(config(cohort))
    rows, columns = data.weights.nonzero()
    np.testing.assert_array_equal(data.section_of[rows], data.section_of[columns])
    assert data.weights.nnz == 5 * len(data.inputs)


def test_other_gene_names_are_other_data(cohort: Path) -> None:
    spots = read_spots(open_store(cohort).section("S1"), KEYS, k=5)
    assert spots.genes is not None
    renamed = replace(spots, genes=np.array([f"{gene}b" for gene in spots.genes]))
    assert data_digest([spots]) == data_digest([replace(spots)])
    assert data_digest([spots]) != data_digest([renamed])
    # Donors decide which sections are held out.
    assert data_digest([spots]) != data_digest([replace(spots, donor="another")])


def test_expression_is_centred_within_the_section(cohort: Path) -> None:
    data = build_training_set(config(cohort))
    for i in range(4):  # the last one is held out
        rows = data.section_of == i
        expected = data.expression[rows] - data.expression[rows].mean(axis=0)
        np.testing.assert_allclose(data.centred[rows], expected, atol=1e-5)


def test_spots_without_counts_say_nothing_of_their_section(cohort: Path) -> None:
    names = ("S1", "S2", "S3", "S4")
    spots = [read_spots(open_store(cohort).section(name), KEYS, k=5) for name in names]
    counts = [s.counts.tolil() for s in spots if s.counts is not None]
    for row in (0, 7):
        counts[0][row] = 0
    counts[2][:] = 0
    emptied = tuple(
        replace(s, counts=csr_matrix(c), totals=np.asarray(c.sum(axis=1), dtype=float).ravel())
        for s, c in zip(spots, counts, strict=True)
    )
    whole = build_training_set(config(cohort, sections=names))
    data = training_set_of(emptied, whole.features, config(cohort), held_out=("S4",), genes=whole.genes)
    rows = data.section_of == 0
    has = rows & (data.totals > 0)
    assert rows.sum() - has.sum() == 2
    expected = data.expression[rows] - data.expression[has].mean(axis=0)
    np.testing.assert_allclose(data.centred[rows], expected, atol=1e-5)
    np.testing.assert_array_equal(data.centred[data.section_of == 2], 0.0)

    options = FinetuneConfig(
        store=cohort, save_dir=Path("unused"), k=5, n_neighbours=5, members=1, fuse_dim=8
    )
    bank = FusionStage(options, data, None, torch.device("cpu")).constants()
    known = [data.expression[(data.section_of == i) & (data.totals > 0)] for i in (0, 1, 3)]
    np.testing.assert_array_equal(bank["bank.section"], np.repeat([0, 1, 3], [len(e) for e in known]))
    wanted = np.concatenate([e - e.mean(axis=0) for e in known])
    np.testing.assert_allclose(bank["bank.expression"], wanted, atol=1e-5)


def test_blocks_of_a_lone_section_keep_their_differences_and_the_held_out_one_says_nothing(
    cohort: Path,
) -> None:
    data = build_training_set(config(cohort, sections=("S3",)))
    known = ~data.groups.is_val
    assert 0 < known.sum() < len(known)
    np.testing.assert_allclose(data.centred, data.expression - data.expression[known].mean(axis=0), atol=1e-5)
    blocks = [data.centred[data.groups.group == g].mean(axis=0) for g in range(5)]
    assert np.abs(blocks).max() > 0.1
    whole = with_all_trained_on(data, n_components=None)
    np.testing.assert_allclose(whole.centred, data.expression - data.expression.mean(axis=0), atol=1e-5)
