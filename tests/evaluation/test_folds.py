"""Folds, the data of both sides, and the leak guard: plans by hand, buffers and near-duplicates by brute force."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmark_lab import make_store
from cohorts import add_section
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, issparse

from spam.errors import ConfigError, StoreError
from spam.evaluation.fold_plan import Fold, plan_folds
from spam.evaluation.folds import (
    FoldData,
    FoldSides,
    block_roles,
    build_fold,
    describe_leakage,
    near_duplicates,
    part_of_section,
    refuse_adapted,
    refuse_duplicates,
    split_fold,
    tile_width,
)
from spam.graphs import knn, spatial_knn_graph
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.store_format import SectionMeta
from spam.store import open_store
from spam.training.cohort import SpotData, read_spots
from spam.training.feature_choice import FeatureChoice, choose_shared_features
from spam.training.groups import spatial_blocks

K = 5


def config(**options: object) -> BenchmarkConfig:
    return BenchmarkConfig(**{"store": Path("c.zarr"), "out_dir": Path("r"), **options})  # type: ignore[arg-type]


def sections(**donors: str | None) -> list[SectionMeta]:
    return [
        SectionMeta(
            name=name,
            donor=donor,
            n_spots=5,
            n_genes=3,
            has_counts=donor != "no counts",
            mpp=1.0,
            mpp_source="option",
            slide_width_px=None,
            slide_height_px=None,
            sources=(),
            software={},
        )
        for name, donor in donors.items()
    ]


def test_each_section_is_held_out_in_turn() -> None:
    assert plan_folds(sections(A="x", B="x", C="x"), config(by="section")) == (
        Fold(name="A", train=("B", "C"), test=("A",)),
        Fold(name="B", train=("A", "C"), test=("B",)),
        Fold(name="C", train=("A", "B"), test=("C",)),
    )


def test_all_sections_of_a_donor_are_held_out_together() -> None:
    assert plan_folds(sections(A="x", B="y", C="x"), config(by="donor")) == (
        Fold(name="x", train=("B",), test=("A", "C")),
        Fold(name="y", train=("A", "C"), test=("B",)),
    )


def test_a_lone_section_is_cut_into_five_blocks() -> None:
    folds = plan_folds(sections(A="x"), config())
    assert folds == tuple(Fold(name=f"A block {i + 1}", train=("A",), test=("A",), block=i) for i in range(5))


def test_one_transfer() -> None:
    options = config(train_sections=("A", "B", "A"), test_sections=("C",))
    found = plan_folds(sections(A="x", B="x", C="y"), options)
    assert found == (Fold(name="A+B -> C", train=("A", "B"), test=("C",)),)


def test_folds_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "ids.csv"
    table.write_text(
        "\ufeffsample_id, case_id , fold_0,fold_1 \nA,x,test, Train\n B,y,train,test\nC ,y,,train\n"
    )
    assert plan_folds(sections(A="x", B="y", C="y"), config(folds=table)) == (
        Fold(name="fold_0", train=("B",), test=("A",)),
        Fold(name="fold_1", train=("A", "C"), test=("B",)),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample_id,case_id\nA,x\n", r"ids\.csv \(--folds\) .* fold_0, only sample_id, case_id.*--by donor"),
        ("name,fold_0\nA,test\n", "--folds.* section or sample_id, only name, fold_0"),
        ("section,fold_0\nA,test\nB,val\n", "--folds.*'val'.*; fold_0 has no train"),
        ("section,fold_0\nA,test\nA,train\n", "--folds.* section 'A' is repeated"),
        ("section,fold_0,fold_0 \nA,test,train\nB,train,test\n", "--folds.* repeats the column 'fold_0'"),
        ("section,fold_0\nA,test\nA ,train\n", "--folds.* section 'A' is repeated"),
        ("section,fold_0\nA,test,train\nB,train,test\n", "--folds.* is not a CSV table"),
        ("", "--folds.* is not a CSV table"),
    ],
)
def test_tables_that_are_no_folds_are_refused(tmp_path: Path, text: str, words: str) -> None:
    table = tmp_path / "ids.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=words):
        plan_folds(sections(A="x", B="y"), config(folds=table))


@pytest.mark.parametrize(
    ("donors", "names"),
    [
        ({"A": "x", "B": "x", "C": "y"}, ["x", "y"]),
        ({"A": "x", "B": "x"}, ["A", "B"]),
        ({"A": "x", "B": None}, ["A", "B"]),
        ({"A": "x"}, [f"A block {i}" for i in range(1, 6)]),
    ],
)
def test_the_largest_unit_that_there_are_two_of_is_held_out(donors: dict, names: list[str]) -> None:
    assert [fold.name for fold in plan_folds(sections(**donors), config())] == names


@given(st.lists(st.sampled_from("xyz"), min_size=2, max_size=11), st.sampled_from(["section", "donor"]))
def test_every_section_is_tested_once_and_never_on_both_sides(donors: list[str], by: str) -> None:
    metas = sections(**{f"S{i}": donor for i, donor in enumerate(donors)})
    if by == "donor" and len(set(donors)) == 1:
        with pytest.raises(ConfigError, match="needs at least two donors"):
            plan_folds(metas, config(by=by))
        return
    folds = plan_folds(metas, config(by=by))
    assert sorted(name for fold in folds for name in fold.test) == sorted(meta.name for meta in metas)
    donor_of = {meta.name: meta.donor for meta in metas}
    for fold in folds:
        assert sorted((*fold.train, *fold.test)) == sorted(meta.name for meta in metas)
        if by == "donor":
            assert not {donor_of[name] for name in fold.train} & {donor_of[name] for name in fold.test}


@pytest.mark.parametrize(
    ("donors", "options", "words"),
    [
        ({"A": "x", "B": "no counts"}, {}, "B have no counts.*--sections"),
        ({"A": "x", "B": None}, {"by": "donor"}, "B is unknown.*--by donor.*--by section"),
        ({"A": "x", "B": "x"}, {"by": "donor"}, "--by donor .*--by section"),
        ({"A": "x"}, {"by": "section"}, "--by section .*--by block"),
    ],
)
def test_impossible_folds_are_refused(donors: dict, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_folds(sections(**donors), config(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"store": None, "out_dir": None, "seeds": 0, "k": -1}, "--store.*--out-dir.*--k .*-1.*--seeds.* 0"),
        ({"train_sections": ("A",)}, "--train-sections and --test-sections"),
        ({"test_sections": ("A",)}, "--train-sections and --test-sections"),
        ({"train_sections": ("A", "B"), "test_sections": ("B",)}, "--train-sections.* B"),
        ({"train_sections": ("A",), "test_sections": ("B",), "by": "donor"}, "--by and --sections"),
        ({"train_sections": ("A",), "test_sections": ("B",), "sections": ("B",)}, "--by and --sections"),
        ({"folds": Path("ids.csv"), "by": "donor"}, "--folds excludes --by"),
        ({"folds": Path("ids.csv"), "sections": ("A",)}, "--folds excludes .*--sections"),
        ({"methods": ()}, "--methods"),
        ({"n_top_genes": 0}, "--n-top-genes .* 0"),
        ({"shard": "3/2"}, "--shard .*'3/2'"),
        ({"shard": "0/2"}, "--shard .*'0/2'"),
        ({"shard": "two"}, "--shard .*'two'"),
        ({"shard": "1/2", "overwrite": True}, "--overwrite .*--shard"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**options)


@dataclasses.dataclass(slots=True)
class Lab:
    spots: dict[str, SpotData]
    features: FeatureChoice


def read(store: Path) -> Lab:
    opened = open_store(store)
    sections = [opened.section(name) for name in opened.section_names]
    features = choose_shared_features(sections, None, ())
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


@pytest.mark.parametrize("buffer", [10.0, 230.0])  # joined spots are farther apart than 10
@pytest.mark.parametrize("block", range(5))
def test_the_buffer_between_blocks_by_brute_force(lone: Lab, block: int, buffer: float) -> None:
    section = lone.spots["S1"]
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
    (line,) = describe_leakage([sides])
    assert "240 µm" in line
    assert f"{sides.n_dropped} spots" in line


def test_a_part_is_a_section_of_its_own(lone: Lab) -> None:
    whole = lone.spots["S1"]
    rows = np.arange(151) % 3 == 1
    part = part_of_section(whole, rows, k=K)
    np.testing.assert_array_equal(part.features, whole.features[rows])
    np.testing.assert_array_equal(part.counts.toarray(), whole.counts.toarray()[rows])
    expected = spatial_knn_graph(whole.xy[rows], k=K)
    np.testing.assert_array_equal(part.graph.distances.toarray(), expected.distances.toarray())
    assert (part.name, part.graph.meta.unit) == ("S1", "um")
    in_px = dataclasses.replace(whole, graph=spatial_knn_graph(whole.xy, k=K, unit="px"))
    assert part_of_section(in_px, rows, k=K).graph.meta.unit == "px"


def test_a_buffer_that_leaves_nothing_is_refused(lone: Lab) -> None:
    fold = Fold(name="S1 block 3", train=("S1",), test=("S1",), block=2)
    with pytest.raises(ConfigError, match=r"'S1 block 3'.*1414 um.* 0 of 151.*--tile-um.*--k"):
        split_fold(fold, lone.spots, k=K, tile_widths={"S1": 1000.0})


def test_a_buffer_may_leave_two_training_spots_but_not_one(lone: Lab) -> None:
    section = lone.spots["S1"]
    far = np.sort(knn(section.xy[spatial_blocks(section.xy, 5) == 0], section.xy, k=1).distances[:, 0])[::-1]
    fold = Fold(name="f", train=("S1",), test=("S1",), block=0)
    for n_left in (2, 1):
        width = (far[n_left - 1] + far[n_left]) / 2 / np.sqrt(2)
        if n_left == 1:
            with pytest.raises(ConfigError, match="leaves 1 of 151"):
                split_fold(fold, lone.spots, k=K, tile_widths={"S1": width})
        else:
            assert split_fold(fold, lone.spots, k=K, tile_widths={"S1": width}).train[0].n_spots == 2


def test_a_test_section_of_other_genes_is_refused(lab: Lab) -> None:
    renamed = dataclasses.replace(lab.spots["S2"], genes=np.array([f"ENS{i}" for i in range(61)]))
    with pytest.raises(StoreError, match=r"'S2' .*--sections"):
        build(Lab({**lab.spots, "S2": renamed}, lab.features), Fold(name="x", train=("S1",), test=("S2",)))


def test_tile_width_is_that_of_the_largest_tile_in_the_unit_of_the_coordinates(tmp_path: Path) -> None:
    section = open_store(make_store(tmp_path / "c.zarr", ("a",))).section("S1")
    assert tile_width(section, section.feature_keys) == 224.0
    assert tile_width(section, [key for key in section.feature_keys if "112" in key]) == 112.0


def test_tiles_in_pixels_are_measured_in_the_unit_of_the_coordinates(tmp_path: Path) -> None:
    for mpp, expected in ((0.5, 61.5), (None, 123.0)):
        add_section(tmp_path / f"{mpp}.zarr", "S1", n_spots=11, mpp=mpp)
        section = open_store(tmp_path / f"{mpp}.zarr", is_read_only=False).section("S1")
        meta = section.feature_meta(section.feature_keys[0])
        tile = {**meta.tile, "tile_um": None, "tile_px": 123}
        writer = section.feature_writer(dataclasses.replace(meta, key="tiny_123px", tile=tile))
        for chunk in list(writer.pending):
            writer.write(chunk, np.ones((chunk.stop - chunk.start, meta.dim), dtype=np.float32))
        writer.finish()
        section.refresh()
        assert tile_width(section, ["tiny_123px"]) == expected


def test_a_spot_at_exactly_the_buffer_is_trained_on(lone: Lab) -> None:
    # ten rows of four; the longer axis is the first
    xy = np.stack(np.divmod(np.arange(40), 4), axis=1) * 100.0
    small = dataclasses.replace(
        part_of_section(lone.spots["S1"], np.arange(151) < 40, k=3), xy=xy, graph=spatial_knn_graph(xy, k=3)
    )
    is_train, is_test = block_roles(small, 0, 300.0)
    assert np.unique(xy[is_test, 0]).tolist() == [0.0, 100.0] or np.unique(xy[is_test, 0]).tolist() == [
        800.0,
        900.0,
    ]
    gap = np.abs(xy[is_train, 0][:, None] - xy[is_test, 0]).min()
    assert gap == 300.0


def sides(spots: dict[str, SpotData], train: tuple[str, ...], test: tuple[str, ...]) -> FoldSides:
    fold = Fold(name="f", train=train, test=test)
    return FoldSides(
        fold=fold, train=tuple(spots[name] for name in train), test=tuple(spots[name] for name in test)
    )


def test_near_duplicates_by_brute_force(lab: Lab) -> None:
    spots = lab.spots
    rng = np.random.default_rng(0)
    copied = spots["S3"].features.copy()
    copied[[2, 5, 11]] = spots["S1"].features[[3, 3, 7]] * [[1.0], [2.0], [0.5]]
    copied[17] = spots["S2"].features[1] + rng.normal(0, 0.01, copied.shape[1])
    changed = {**spots, "S3": dataclasses.replace(spots["S3"], features=copied.astype(np.float32))}
    found = sides(changed, ("S1", "S2"), ("S3", "S4"))

    def share(test: str) -> float:
        bank = [x for name in ("S1", "S2") for x in changed[name].features.astype(float)]
        near = [
            any(x @ y / np.sqrt((x @ x) * (y @ y)) > 0.999 for y in bank)
            for x in changed[test].features.astype(float)
        ]
        return sum(near) / len(near)

    assert near_duplicates(found) == {"S3": share("S3"), "S4": share("S4")}
    assert near_duplicates(found)["S3"] >= 4 / 45
    assert f"{share('S3'):.1%} of the spots of S3" in " ".join(describe_leakage([found]))


@pytest.mark.parametrize(
    ("train", "test", "donors"),
    [
        (("S1", "S3"), ("S2", "S4"), "a, b"),
        (("S1", "S3", "S4"), ("S2",), "a"),
        (("S1", "S2"), ("S3", "S4"), None),
    ],
)
def test_shared_donors_are_reported(
    lab: Lab, train: tuple[str, ...], test: tuple[str, ...], donors: str | None
) -> None:
    lines = describe_leakage([sides(lab.spots, train, test)])
    assert [line for line in lines if "donor" in line] == [
        line for line in lines if f"donor {donors} is on both" in line
    ]
    assert any("donor" in line for line in lines) == (donors is not None)


def test_unknown_donors_are_reported(lab: Lab) -> None:
    nameless = {name: dataclasses.replace(s, donor=None) for name, s in lab.spots.items()}
    (line,) = (x for x in describe_leakage([sides(nameless, ("S1",), ("S2",))]) if "donor" in x)
    assert "S1, S2" in line
    assert "--donor" in line


def test_an_encoder_adapted_on_counts_of_a_test_section_is_refused(lab: Lab) -> None:
    folds = [Fold(name="a", train=("S2",), test=("S1",)), Fold(name="b", train=("S1",), test=("S2",))]
    refuse_adapted(folds, dataclasses.replace(lab.features, adapted_on=("S3",)))
    adapted = dataclasses.replace(lab.features, adapted_on=("S3", "S2"))
    with pytest.raises(ConfigError, match=r"tiny_112um, tiny_224um .* S2\. .*--enc-name"):
        refuse_adapted(folds, adapted)
    refuse_adapted(folds[:1], adapted)  # adapted on a training section: allowed


@pytest.mark.parametrize("change", ["order", "some spots", "some genes", "gene order"])
def test_the_same_tissue_under_two_names_is_refused(lab: Lab, change: str) -> None:
    spots = lab.spots["S2"]
    rows = np.random.default_rng(0).permutation(spots.n_spots)[: 19 if change == "some spots" else None]
    columns = (
        np.arange(61)[::-1] if change == "gene order" else np.arange(3, 61 if change != "some genes" else 40)
    )
    copy = dataclasses.replace(
        spots,
        name="S9",
        donor="z",
        features=spots.features[rows] + np.float32(1),  # another scan
        xy=spots.xy[rows],
        graph=spatial_knn_graph(spots.xy[rows], k=K),
        totals=spots.totals[rows],
        counts=csr_matrix(spots.counts[rows][:, columns]),
        genes=spots.genes[columns],
    )
    refuse_duplicates(tuple(lab.spots.values()))
    with pytest.raises(ConfigError, match=r"'S2' and 'S9' .*100%.*--sections"):
        refuse_duplicates((*lab.spots.values(), copy))
