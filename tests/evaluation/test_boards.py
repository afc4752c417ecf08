"""Boards of one section against scores of scipy, gene by gene."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from spam.evaluation import BoardReport, CountPrediction, MethodPrediction
from spam.evaluation.boards import SectionTruth, score_section
from spam.models.expression import morans_i
from spam.training.genes import GeneChoice

N_SPOTS = 53
MEASURED = ["G2", "G3", "G5", "G7", "G9"]
# The model knows these genes in another order, and one that the section has not measured.
CHOICE = GeneChoice(
    genes=("G5", "elsewhere", "G2", "G7", "G9", "G3"),
    sets={
        "HVG-50": ["G7", "G2", "G5", "elsewhere"],
        "rest": ["G9", "G3"],
        "hest-50": ["G9", "elsewhere", "G3", "G2"],
    },
)
NAMES = ["spam", "tuned ridge", "HEST ridge", "training mean"]


@pytest.fixture(scope="module")
def truth() -> SectionTruth:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, size=5), (N_SPOTS, 5)).astype(np.int32)
    weights = sparse.random(N_SPOTS, N_SPOTS, density=0.1, format="csr", random_state=0)
    totals = counts.sum(1) + 17
    return SectionTruth(
        counts=sparse.csr_matrix(counts), genes=np.array(MEASURED), totals=totals, weights=weights
    )


@pytest.fixture(scope="module")
def expression(truth: SectionTruth) -> pd.DataFrame:
    """True log1p(CP10k), computed independently."""
    return pd.DataFrame(np.log1p(truth.counts.toarray() / truth.totals[:, None] * 1e4), columns=MEASURED)


@pytest.fixture(scope="module")
def predictions(truth: SectionTruth, expression: pd.DataFrame) -> dict[str, MethodPrediction]:
    known = expression.reindex(columns=CHOICE.genes, fill_value=0.0).to_numpy()
    noise = np.random.default_rng(1).normal(size=(4, *known.shape))
    raw = pd.DataFrame(np.log1p(truth.counts.toarray()), columns=MEASURED)
    raw = raw.reindex(columns=CHOICE.sets["hest-50"], fill_value=0.0).to_numpy() + noise[3, :, :4]
    counts = CountPrediction(likelihood="poisson", rate=np.exp(known / 2), lower=0.07, upper=0.89)
    return {
        "spam": MethodPrediction(expression=known + 0.3 * noise[0], counts=counts),
        "tuned ridge": MethodPrediction(expression=known + 2.0 * noise[1]),
        "HEST ridge": MethodPrediction(expression=known + noise[2], raw_scale=raw),
        "training mean": MethodPrediction(expression=np.tile(known.mean(axis=0), (N_SPOTS, 1))),
    }


@pytest.fixture(scope="module")
def report(truth: SectionTruth, predictions: dict[str, MethodPrediction]) -> BoardReport:
    return score_section(truth, predictions, CHOICE, model="spam")


def row(report: BoardReport, method: str, gene_set: str, score: str = "pearson") -> pd.Series:
    return report.scores.set_index(["method", "gene_set", "score"]).loc[(method, gene_set, score)]


def test_every_method_stands_beside_the_others_in_every_set(report: BoardReport) -> None:
    shown = report.scores[report.scores["score"] == "pearson"]
    expected = [(gene_set, name) for gene_set in CHOICE.sets for name in NAMES]
    assert list(zip(shown["gene_set"], shown["method"], strict=True)) == expected


@pytest.mark.parametrize(("gene_set", "genes"), [("HVG-50", ["G7", "G2", "G5"]), ("rest", ["G3", "G9"])])
def test_means_are_those_of_scipy_over_the_genes_of_the_set(
    report: BoardReport, truth: SectionTruth, expression, predictions, gene_set: str, genes: list[str]
) -> None:
    predicted = pd.DataFrame(predictions["spam"].expression, columns=CHOICE.genes)
    error = (expression[genes] - predicted[genes]).to_numpy()
    expected = {
        "pearson": np.mean([stats.pearsonr(expression[g], predicted[g]).statistic for g in genes]),
        "spearman": np.mean([stats.spearmanr(expression[g], predicted[g]).statistic for g in genes]),
        "mse": (error**2).mean(),
        "mae": np.abs(error).mean(),
    }
    if len(genes) > 2:
        index = [morans_i(table[genes].to_numpy(), truth.weights) for table in (expression, predicted)]
        expected["moran_correlation"] = stats.pearsonr(*index).statistic
    rate = pd.DataFrame(predictions["spam"].counts.rate, columns=CHOICE.genes)[genes]
    law = stats.poisson(rate.to_numpy() * truth.totals[:, None] / 1e4)
    counts = pd.DataFrame(truth.counts.toarray(), columns=MEASURED)[genes].to_numpy()
    expected["nll"] = -law.logpmf(counts).mean()
    expected["coverage"] = ((law.ppf(0.07) <= counts) & (counts <= law.ppf(0.89))).mean()
    for score, value in expected.items():
        assert row(report, "spam", gene_set, score)["value"] == pytest.approx(value, rel=1e-4), score
    assert not {"nll", "coverage"} & set(report.scores.query("method == 'tuned ridge'")["score"])


def test_missing_and_undefined_genes_are_counted(report: BoardReport) -> None:
    found = row(report, "spam", "HVG-50")
    assert (found["n_genes"], found["n_missing"], found["n_undefined"]) == (3, 1, 0)
    constant = row(report, "training mean", "HVG-50")
    assert np.isnan(constant["value"])
    assert constant["n_undefined"] == 3
    assert row(report, "training mean", "HVG-50", "mse")["n_undefined"] == 0
    assert row(report, "training mean", "HVG-50", "auc")["value"] == 0.5


def test_a_gene_that_is_constant_in_the_section_is_left_out_of_the_mean(truth, predictions) -> None:
    counts = truth.counts.toarray()
    counts[:, MEASURED.index("G7")] = 0
    found = score_section(dataclasses.replace(truth, counts=counts), predictions, CHOICE, model="spam")
    table = found.genes
    assert row(found, "spam", "HVG-50")["n_undefined"] == 1
    expected = table.loc[["G2", "G5"], "spam.pearson"].mean()
    assert row(found, "spam", "HVG-50")["value"] == pytest.approx(expected)
    assert np.isnan(table.loc["G7", "spam.pearson"])


def changed(prediction: MethodPrediction, change) -> MethodPrediction:
    """The same prediction with its arrays over spots changed."""
    counts, raw = prediction.counts, prediction.raw_scale
    return MethodPrediction(
        expression=change(prediction.expression),
        counts=None if counts is None else dataclasses.replace(counts, rate=change(counts.rate)),
        raw_scale=None if raw is None else change(raw),
    )


def test_permuting_spots_changes_nothing(report, truth, predictions) -> None:
    order = np.random.default_rng(9).permutation(N_SPOTS)
    weights = truth.weights[order][:, order]
    moved = dataclasses.replace(
        truth, counts=truth.counts[order], totals=truth.totals[order], weights=weights
    )
    turned = {name: changed(p, lambda x: x[order]) for name, p in predictions.items()}
    found = score_section(moved, turned, CHOICE, model="spam")
    pd.testing.assert_frame_equal(found.scores, report.scores, rtol=1e-6)


def test_the_honest_board_leaves_out_spots_without_counts(report, truth, predictions) -> None:
    longer = SectionTruth(
        counts=sparse.vstack([truth.counts, sparse.csr_matrix((3, 5), dtype=np.int32)], format="csr"),
        genes=truth.genes,
        totals=np.append(truth.totals, [0, 0, 0]),
        weights=sparse.block_diag([truth.weights, np.ones((3, 3))], format="csr"),
    )
    more = {
        name: changed(p, lambda x: np.concatenate([x, np.full((3, x.shape[1]), 7.0)]))
        for name, p in predictions.items()
    }
    found = score_section(longer, more, CHOICE, model="spam")
    assert found.n_spots == N_SPOTS
    is_honest = report.scores["gene_set"] != "hest-50"
    pd.testing.assert_frame_equal(found.scores[is_honest], report.scores[is_honest], rtol=1e-6)


def test_the_hest_board_scores_log1p_of_raw_counts_with_what_was_fitted_to_it(
    report, truth, predictions
) -> None:
    raw = pd.DataFrame(np.log1p(truth.counts.toarray()), columns=MEASURED)
    of_model = pd.DataFrame(predictions["spam"].expression, columns=CHOICE.genes)
    of_hest = pd.DataFrame(predictions["HEST ridge"].raw_scale, columns=CHOICE.sets["hest-50"])
    for name, predicted in (("spam", of_model), ("HEST ridge", of_hest)):
        found = row(report, name, "hest-50")
        expected = [stats.pearsonr(raw[gene], predicted[gene]).statistic for gene in ("G9", "G3", "G2")]
        assert found["value"] == pytest.approx(np.mean(expected), rel=1e-9)
        assert (found["n_genes"], found["n_missing"]) == (3, 1)


def test_the_verdict_compares_gene_by_gene(report: BoardReport) -> None:
    verdict, table = report.verdict, report.genes.loc[["G2", "G5", "G7"]]
    difference = table["spam.pearson"] - table["tuned ridge.pearson"]
    assert verdict.difference.mean == pytest.approx(difference.mean())
    assert (verdict.method, verdict.other, verdict.gene_set) == ("spam", "tuned ridge", "HVG-50")
    assert verdict.difference.n_units == 3
    assert difference.min() <= verdict.difference.lower <= verdict.difference.upper <= difference.max()
    assert verdict.is_better


@pytest.mark.parametrize("n_genes", [0, 1])
def test_one_or_no_common_gene_is_no_comparison(truth, predictions, n_genes: int) -> None:
    sets = {**CHOICE.sets, "HVG-50": ["G2"] if n_genes else ["absent"]}
    board = score_section(truth, predictions, dataclasses.replace(CHOICE, sets=sets), model="spam")
    assert board.verdict.difference.n_units == n_genes
    assert "nan" not in board.comparison()
    assert "better" not in board.comparison()
    assert ("cannot be compared" if n_genes else "no HVG-50 pearson in common") in board.comparison()


def test_no_verdict_without_the_rival(truth, predictions) -> None:
    found = score_section(truth, {"spam": predictions["spam"]}, CHOICE, model="spam")
    assert found.verdict is None
    assert "No verdict" in found.markdown()


def test_mapping_is_strict_json_with_null_for_undefined(report: BoardReport) -> None:
    plain = json.loads(json.dumps(report.to_mapping(), allow_nan=False))
    assert plain["n_spots"] == N_SPOTS
    assert len(plain["scores"]) == len(report.scores)
    for found, (_, expected) in zip(plain["scores"], report.scores.iterrows(), strict=True):
        assert (found["value"] is None) == math.isnan(expected["value"])
    assert plain["verdict"]["is_better"] is True
    assert plain["verdict"]["sentence"] == report.verdict.sentence()


def test_gene_table_holds_what_is_known_of_each_gene(report: BoardReport, truth: SectionTruth) -> None:
    table, counts = report.genes, truth.counts.toarray()
    assert list(table.index) == MEASURED
    np.testing.assert_allclose(table["mean_counts"], counts.mean(axis=0))
    np.testing.assert_allclose(table["detected_share"], (counts > 0).mean(axis=0))
    assert list(table["gene_sets"]) == ["HVG-50;hest-50", "rest;hest-50", "HVG-50", "HVG-50", "rest;hest-50"]
    assert {"morans_i", "spam.morans_i", "spam.nll", "tuned ridge.pearson", "training mean.auc"} <= set(table)


def test_markdown_shows_a_dash_for_undefined_and_counts_it(report: BoardReport) -> None:
    lines = report.markdown().splitlines()
    (head,) = [line for line in lines if "NLL" in line]
    (mean,) = [line for line in lines if line.startswith("| HVG-50 | training mean")]
    cells = dict(zip(head.split(" | "), mean.split(" | "), strict=True))
    assert [cells[name] for name in ("n", "undefined", "Pearson ↑", "AUC ↑")] == ["3", "3", "–", "0.500"]
    assert lines[-1].startswith("spam beats tuned ridge on HVG-50")
