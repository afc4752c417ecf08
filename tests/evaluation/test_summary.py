"""Means, spreads and paired differences against loops by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from spam.evaluation.boards import PairedDifference
from spam.evaluation.fold_plan import Fold
from spam.evaluation.metrics import Interval
from spam.evaluation.runs import FoldScores, RunResult
from spam.evaluation.summary import compare, score_table, summarise, unit_kind

DONORS = {"A1": "a", "A2": "a", "A3": "a", "B1": "b", "B2": "b", "C1": "c"}
FOLDS = [Fold(name=s, train=tuple(t for t in DONORS if t != s), test=(s,)) for s in DONORS]


def cell(
    method: str, fold: str, section: str, seed: int, *, is_reference: bool, value: float, nll: float
) -> RunResult:
    values = {
        ("HVG-50", "pearson"): value,
        ("HVG-250", "pearson"): value / 2,
        ("all", "pearson"): value / 3,
        ("all", "nll"): nll,
        ("hest-50", "pearson"): value / 4,
    }
    sets = pd.DataFrame([(*key, x) for key, x in values.items()], columns=["gene_set", "score", "value"])
    sets = sets.assign(method=method, section=section, n_genes=9, n_missing=2, n_undefined=3)
    return RunResult(
        fold=fold,
        method=method,
        seed=seed,
        is_reference=is_reference,
        seconds=1.0,
        scores=FoldScores(sets=sets, genes=pd.DataFrame()),
    )


VALUES = {
    (method, section, seed): float(np.random.default_rng([i, j, seed]).normal(0.4 + 0.1 * i, 0.1))
    for i, (method, n_seeds) in enumerate({"tuned ridge": 1, "rival idea": 3, "mine": 3}.items())
    for j, section in enumerate(DONORS)
    for seed in range(n_seeds)
}
CELLS = [
    cell(method, section, section, seed, is_reference=method == "tuned ridge", value=value, nll=-value)
    for (method, section, seed), value in VALUES.items()
]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return score_table(CELLS, FOLDS, DONORS)


def rows(summaries: pd.DataFrame) -> dict[tuple[str, str, str], pd.Series]:
    return {(row["method"], row["gene_set"], row["score"]): row for _, row in summaries.iterrows()}


def donor_means(method: str, seeds: range = range(3)) -> list[float]:
    """Mean over seeds, then over the sections of each donor."""
    by_donor: dict[str, list[float]] = {}
    for section, donor in DONORS.items():
        own = [VALUES[method, section, seed] for seed in seeds if (method, section, seed) in VALUES]
        by_donor.setdefault(donor, []).append(sum(own) / len(own))
    return [sum(means) / len(means) for means in by_donor.values()]


def bootstrap(units: list[float], seed: int) -> tuple[float, float]:
    """Percentile interval by a plain loop over draws."""
    rng = np.random.default_rng(seed)
    means = [np.mean([units[i] for i in rng.integers(0, len(units), len(units))]) for _ in range(4000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def test_every_section_weighs_the_same_in_its_donor_and_every_donor_in_the_mean(table: pd.DataFrame) -> None:
    assert unit_kind(table) == "donors"
    summaries = summarise(table, "donors")
    found = rows(summaries)
    assert list(summaries["method"].unique()) == ["tuned ridge", "rival idea", "mine"]
    for method in ("tuned ridge", "rival idea", "mine"):
        units = donor_means(method)
        top = found[method, "HVG-50", "pearson"]
        assert top["mean"] == pytest.approx(np.mean(units))
        assert top["sd_units"] == pytest.approx(np.std(units, ddof=1))
        assert top["n_units"] == 3
        np.testing.assert_allclose((top["lower"], top["upper"]), bootstrap(units, 9), atol=0.03)
        assert found[method, "HVG-250", "pearson"]["mean"] == pytest.approx(np.mean(units) / 2)
        assert found[method, "hest-50", "pearson"]["mean"] == pytest.approx(np.mean(units) / 4)
        assert found[method, "all", "nll"]["mean"] == pytest.approx(-np.mean(units))
        assert (top["n_genes"], top["n_undefined"]) == (9, 3)
    means = [np.mean(donor_means("mine", range(s, s + 1))) for s in range(3)]
    assert found["mine", "HVG-50", "pearson"]["sd_seeds"] == pytest.approx(np.std(means, ddof=1))
    assert found["mine", "HVG-50", "pearson"]["n_seeds"] == 3
    assert math.isnan(found["tuned ridge", "HVG-50", "pearson"]["sd_seeds"])


def test_differences_are_paired_by_section_with_seeds_averaged(table: pd.DataFrame) -> None:
    found = compare(table, "donors")
    assert [(d.method, d.other) for d in found if (d.gene_set, d.score) == ("HVG-50", "pearson")] == [
        ("rival idea", "tuned ridge"),
        ("rival idea", "mine"),
        ("mine", "tuned ridge"),
        ("mine", "rival idea"),
    ]
    for d in found:
        factor = {"HVG-50": 1.0, "HVG-250": 0.5, "all": -1.0}[d.gene_set]
        units = [factor * (a - b) for a, b in zip(donor_means(d.method), donor_means(d.other), strict=True)]
        assert d.difference.mean == pytest.approx(np.mean(units))
        lower, upper = bootstrap(units, 5)
        # Three units have ten means; the interval's ends are among them, so they are met exactly.
        assert (d.difference.lower, d.difference.upper) == (pytest.approx(lower), pytest.approx(upper))
        assert d.is_better == (upper < 0 if d.score == "nll" else lower > 0)


def test_only_sections_that_both_have_are_compared() -> None:
    cells = [c for c in CELLS if not (c.method == "mine" and c.fold in ("A1", "B1", "B2", "C1"))]
    found = compare(score_table(cells, FOLDS, DONORS), "sections")
    (d,) = (x for x in found if (x.method, x.other, x.gene_set) == ("mine", "tuned ridge", "HVG-50"))
    units = [
        np.mean([VALUES["mine", s, k] for k in range(3)]) - VALUES["tuned ridge", s, 0] for s in ("A2", "A3")
    ]
    assert d.difference.n_units == 2
    assert d.difference.mean == pytest.approx(np.mean(units))


def test_cells_that_failed_are_in_no_row() -> None:
    failed = RunResult(fold="A1", method="x", seed=0, is_reference=True, seconds=0.1, failure="m")
    assert set(score_table([*CELLS, failed], FOLDS, DONORS)["method"]) == {
        "tuned ridge",
        "rival idea",
        "mine",
    }


def test_where_a_donor_is_not_known_no_interval_is_drawn_over_donors() -> None:
    """Sections of unknown donor may all come from the same donor."""
    assert unit_kind(score_table(CELLS, FOLDS, {**DONORS, "C1": None})) == "sections"
    assert unit_kind(score_table(CELLS, FOLDS, dict.fromkeys(DONORS))) == "sections"


def test_a_score_that_is_undefined_in_a_section_is_left_out_there() -> None:
    cells = [
        cell(
            "mine",
            s,
            s,
            0,
            is_reference=False,
            value=math.nan if s == "A1" else VALUES["mine", s, 0],
            nll=1.0,
        )
        for s in ("A1", "A2", "A3")
    ]
    table = score_table(cells, FOLDS, DONORS)
    assert unit_kind(table) == "sections"
    top = rows(summarise(table, "sections"))["mine", "HVG-50", "pearson"]
    assert top["mean"] == pytest.approx(np.mean([VALUES["mine", s, 0] for s in ("A2", "A3")]))
    assert top["n_units"] == 2


def test_blocks_are_the_units_of_a_lone_section_and_weigh_the_same_in_their_section_else() -> None:
    folds = [
        Fold(name=f"{s} block {i}", train=(s,), test=(s,), block=i) for s in ("A1", "A2") for i in range(3)
    ]
    values = {fold.name: 0.1 * i**2 for i, fold in enumerate(folds)}
    cells = [
        cell("mine", f.name, f.test[0], 0, is_reference=False, value=values[f.name], nll=1.0) for f in folds
    ]
    lone = score_table(cells[:3], folds, DONORS)
    assert unit_kind(lone) == "blocks"
    top = rows(summarise(lone, "blocks"))["mine", "HVG-50", "pearson"]
    assert (top["n_units"], top["mean"]) == (3, pytest.approx((0 + 0.1 + 0.4) / 3))
    both = score_table(cells[:-1], folds, DONORS)  # one block less in the second section
    assert unit_kind(both) == "sections"
    top = rows(summarise(both, "sections"))["mine", "HVG-50", "pearson"]
    assert top["mean"] == pytest.approx(((0 + 0.1 + 0.4) / 3 + (0.9 + 1.6) / 2) / 2)


NOT_DONORS, NOT_SECTIONS = "no evidence for other donors", "no evidence for other sections or donors"


@pytest.mark.parametrize(
    ("unit", "n_units", "bounds", "words", "scope"),
    [
        ("donors", 3, (0.1, 0.2), "beats", "too few donors"),
        ("donors", 6, (0.1, 0.2), "beats", ""),
        ("sections", 2, (-0.1, 0.2), "does not beat", NOT_DONORS),
        ("blocks", 5, (0.1, 0.2), "beats", NOT_SECTIONS),
        ("genes", 50, (0.1, 0.2), "beats", NOT_SECTIONS),
        ("genes", 50, (-0.2, -0.1), "does not beat", NOT_SECTIONS),
        ("sections", 1, (math.nan, math.nan), "cannot be compared", "one section, so no interval"),
        ("donors", 0, (math.nan, math.nan), "no HVG-50 pearson in common", ""),
    ],
)
def test_a_verdict_states_the_scope_of_its_interval(
    unit: str, n_units: int, bounds: tuple[float, float], words: str, scope: str
) -> None:
    interval = Interval(mean=0.15, lower=bounds[0], upper=bounds[1], n_units=n_units)
    d = PairedDifference(
        method="mine", other="it", gene_set="HVG-50", score="pearson", difference=interval, unit=unit
    )
    assert words in d.sentence()
    assert scope in d.sentence()
    assert d.is_better == (words == "beats")
    assert ("evidence" in d.sentence()) == ("evidence" in scope or (unit, n_units) == ("sections", 1))
    if n_units > 1:
        assert (
            f"+0.150 (95% bootstrap over {n_units} {unit}: {bounds[0]:+.3f} to {bounds[1]:+.3f}"
            in d.sentence()
        )


def test_a_smaller_likelihood_loss_is_better() -> None:
    interval = Interval(mean=-0.15, lower=-0.2, upper=-0.1, n_units=7)
    d = PairedDifference(
        method="a", other="b", gene_set="all", score="nll", difference=interval, unit="donors"
    )
    assert d.is_better
