"""Which sections are on which side of a fold, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spam.evaluation.folds import Fold, plan_folds
from spam.sharing.choosing import chosen_sections
from spam.errors import ConfigError
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.store_meta import SectionMeta


def config(**options: object) -> BenchmarkConfig:
    return BenchmarkConfig(store=Path("c.zarr"), out_dir=Path("r"), **options)  # type: ignore[arg-type]


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
    found = plan_folds(sections(A="x", B="x", C="y"), config(train_sections=("A", "B"), test_sections=("C",)))
    assert found == (Fold(name="A+B -> C", train=("A", "B"), test=("C",)),)


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
        ({"A": "x", "B": "no counts"}, {}, "sections B have no counts.*--sections"),
        ({"A": "x", "B": None}, {"by": "donor"}, "nobody said of which donor sections B are.*--by section"),
        (
            {"A": "x", "B": "x"},
            {"by": "donor"},
            r"--by donor needs at least two donors.*\(A, B\).*--by section",
        ),
        ({"A": "x"}, {"by": "section"}, "--by section needs at least two sections.*--by block"),
    ],
)
def test_refusals_say_what_to_do(donors: dict, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_folds(sections(**donors), config(**options))


def test_chosen_sections() -> None:
    assert chosen_sections(("A", "B", "C"), config(), "c") == ("A", "B", "C")
    assert chosen_sections(("A", "B", "C"), config(sections=("C", "A")), "c") == ("C", "A")
    transfer = config(train_sections=("C",), test_sections=("A",))
    assert chosen_sections(("A", "B", "C"), transfer, "c") == ("C", "A")
    with pytest.raises(ConfigError, match=r"sections 'X' are not in store 'c', which has A, B; .*spam embed"):
        chosen_sections(("A", "B"), config(sections=("A", "X")), "c")
    with pytest.raises(ConfigError, match="nothing is in store 'c'"):
        chosen_sections((), config(), "c")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"store": None}, "--store is missing"),
        ({"out_dir": None}, "--out-dir is missing"),
        ({"out_dir": Path("s3://bucket/r")}, "--out-dir must be a folder"),
        ({"train_sections": ("A",)}, "belong together"),
        ({"test_sections": ("A",)}, "belong together"),
        ({"train_sections": ("A", "B"), "test_sections": ("B",)}, "B is both in --train-sections and"),
        (
            {"train_sections": ("A",), "test_sections": ("B",), "by": "donor"},
            "one transfer, --by and --sections",
        ),
        ({"train_sections": ("A",), "test_sections": ("B",), "sections": ("B",)}, "one transfer, --by and"),
        ({"sections": ("A", "B", "A")}, "--sections names A twice"),
        ({"test_sections": ("A", "A"), "train_sections": ("B",)}, "--test-sections names A twice"),
        ({"methods": ("m", "m")}, "--methods names m twice"),
        ({"methods": ()}, "--methods names nobody"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"k": 0}, "--k must be at least 1"),
        ({"n_top_genes": 0}, "--n-top-genes must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BenchmarkConfig(**{"store": Path("c.zarr"), "out_dir": Path("r"), **options})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--store is missing.*--out-dir is missing.*--seeds.*--k "):
        BenchmarkConfig(seeds=0, k=-1)
