"""What a method sees of a fold: training counts alone, and parts of a lone section that share no tissue."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmark_lab import make_store
from cohorts import add_section
from scipy.sparse import csr_matrix, issparse

from spam.evaluation.folds import FoldData, build_fold
from spam.benchmarking.fold_data import build_one_of
from spam.evaluation.folds import FoldSides, block_roles, part_of, split_fold, tile_width
from spam.evaluation.folds import Fold
from spam.errors import ConfigError, StoreError
from spam.graphs import spatial_knn_graph
from spam.store import open_store
from spam.training.cohort import FeatureChoice, SpotData, choose_features, read_spots
from spam.training.groups import spatial_blocks

K = 5


@dataclasses.dataclass(slots=True)
class Lab:
    spots: dict[str, SpotData]
    features: FeatureChoice


def read(store: Path) -> Lab:
    opened = open_store(store)
    sections = [opened.section(name) for name in opened.section_names]
    features = choose_features(sections, None, ())
    return Lab({s.meta.name: read_spots(s, features.keys, k=K) for s in sections}, features)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return read(make_store(tmp_path_factory.mktemp("lab") / "c.zarr"))


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    store = tmp_path_factory.mktemp("lone") / "c.zarr"
    add_section(store, "S1", n_spots=151, n_genes=41)
    return read(store)


def build(lab: Lab, fold: Fold) -> tuple[FoldSides, FoldData]:
    sides = split_fold(fold, lab.spots, k=K, tile_widths={"S1": 170.0})
    return sides, build_fold(sides, lab.features, k=K, n_top=19)


def arrays_in(value: object) -> Iterator[np.ndarray]:
    """Every array that can be reached through the fields of a record."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays_in(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from arrays_in(item)
    elif isinstance(value, dict):
        yield from arrays_in(list(value.values()))
    elif issparse(value):
        yield from (value.data, value.indices, value.indptr)
    elif isinstance(value, np.ndarray):
        yield value


def test_the_task_holds_nothing_that_was_measured_in_a_test_section(lab: Lab) -> None:
    sides, data = build(lab, Fold(name="b", train=("S1", "S2"), test=("S3", "S4")))
    assert [(s.counts, s.genes, s.totals) for s in data.task.test] == [(None, None, None)] * 2
    hidden = [array for part in sides.test for array in (part.counts.data, part.totals)]
    seen = list(arrays_in(data.task))
    assert len(seen) > 20
    assert not any(np.shares_memory(a, b) for a in hidden for b in seen)


def test_a_part_of_a_section_does_not_lead_back_to_the_whole(lone: Lab) -> None:
    sides, data = build(lone, Fold(name="S1 block 3", train=("S1",), test=("S1",), block=2))
    whole = lone.spots["S1"]
    hidden = [whole.counts.data, whole.totals]
    assert not any(np.shares_memory(a, b) for a in hidden for b in arrays_in(data.task))
    assert data.task.test[0].counts is None
    assert data.task.test[0].n_spots + data.task.train[0].n_spots + sides.n_dropped == 151


def test_one_of_several_folds_is_built_by_its_plan(lab: Lab) -> None:
    folds = [Fold(name="a", train=("S3",), test=("S1",)), Fold(name="b", train=("S1", "S2"), test=("S4",))]
    sides = {fold: split_fold(fold, lab.spots, k=K, tile_widths={}) for fold in folds}
    for fold in folds:
        data = build_one_of(sides, fold, features=lab.features, k=K, n_top=19)
        assert (data.task.name, data.task.train, list(data.truths)) == (
            fold.name,
            sides[fold].train,
            [*fold.test],
        )


def test_truths_are_what_was_measured(lab: Lab) -> None:
    _, data = build(lab, Fold(name="b", train=("S1", "S2"), test=("S3", "S4")))
    assert list(data.truths) == ["S3", "S4"]
    for name, truth in data.truths.items():
        whole = lab.spots[name]
        columns = [list(whole.genes).index(gene) for gene in data.task.genes.genes]
        np.testing.assert_array_equal(truth.counts.toarray(), whole.counts.toarray()[:, columns])
        np.testing.assert_array_equal(truth.totals, whole.counts.toarray().sum(axis=1))
        assert truth.weights is whole.graph.connectivities


def test_genes_come_from_the_training_side_alone(lab: Lab) -> None:
    fold = Fold(name="b", train=("S1", "S2"), test=("S3", "S4"))
    _, data = build(lab, fold)
    other = {
        name: dataclasses.replace(s, counts=csr_matrix(s.counts[:, ::-1])) if name in fold.test else s
        for name, s in lab.spots.items()
    }
    _, changed = build(Lab(other, lab.features), fold)
    assert changed.task.genes == data.task.genes
    back = Fold(name="a", train=("S3", "S4"), test=("S1", "S2"))  # and as training sections they do matter
    assert (
        build(Lab(other, lab.features), back)[1].task.genes
        != build(Lab(lab.spots, lab.features), back)[1].task.genes
    )


@pytest.mark.parametrize("block", range(5))
def test_the_buffer_between_blocks_by_brute_force(lone: Lab, block: int) -> None:
    section = lone.spots["S1"]
    buffer = 230.0
    is_train, is_test = block_roles(section, block, buffer)
    np.testing.assert_array_equal(is_test, spatial_blocks(section.xy, 5) == block)
    edges = section.graph.distances.toarray() > 0
    for i, (x, y) in enumerate(section.xy):
        nearest = min(
            np.hypot(x - u, y - v) for (u, v), tested in zip(section.xy, is_test, strict=True) if tested
        )
        is_joined = any((edges[i, j] or edges[j, i]) and is_test[j] for j in range(section.n_spots))
        assert is_train[i] == (not is_test[i] and nearest >= buffer and not is_joined)
    assert 0 < is_train.sum() < (~is_test).sum()  # some are dropped, not all


def test_no_tile_shows_both_sides(lone: Lab) -> None:
    sides, _ = build(lone, Fold(name="S1 block 1", train=("S1",), test=("S1",), block=0))
    gaps = np.abs(sides.train[0].xy[:, None] - sides.test[0].xy[None])
    assert (gaps.max(axis=2) >= 170.0).all()
    assert sides.buffer == pytest.approx(170 * 2**0.5)


def test_a_part_is_a_section_of_its_own(lone: Lab) -> None:
    whole = lone.spots["S1"]
    rows = np.arange(151) % 3 == 1
    part = part_of(whole, rows, k=K)
    np.testing.assert_array_equal(part.features, whole.features[rows])
    np.testing.assert_array_equal(part.counts.toarray(), whole.counts.toarray()[rows])
    expected = spatial_knn_graph(whole.xy[rows], k=K)
    np.testing.assert_array_equal(part.graph.distances.toarray(), expected.distances.toarray())
    assert (part.name, part.graph.meta.unit) == ("S1", "um")


def test_a_buffer_that_leaves_nothing_is_refused(lone: Lab) -> None:
    fold = Fold(name="S1 block 3", train=("S1",), test=("S1",), block=2)
    with pytest.raises(ConfigError, match=r"'S1 block 3'.*buffer of 1414 um.*leave 0 of 151.*--tile-um.*--k"):
        split_fold(fold, lone.spots, k=K, tile_widths={"S1": 1000.0})


def test_a_test_section_of_other_genes_is_refused(lab: Lab) -> None:
    renamed = dataclasses.replace(lab.spots["S2"], genes=np.array([f"ENS{i}" for i in range(61)]))
    with pytest.raises(StoreError, match=r"'S2' has counts of none of the .* genes.*name genes alike"):
        build(Lab({**lab.spots, "S2": renamed}, lab.features), Fold(name="x", train=("S1",), test=("S2",)))


def test_tile_width_is_that_of_the_largest_tile_in_the_unit_of_the_coordinates(tmp_path: Path) -> None:
    section = open_store(make_store(tmp_path / "c.zarr", ("a",))).section("S1")
    assert tile_width(section, section.feature_keys) == 224.0
    assert tile_width(section, [key for key in section.feature_keys if "112" in key]) == 112.0
