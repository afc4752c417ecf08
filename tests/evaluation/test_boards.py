"""Boards of one section against scores of scipy, gene by gene, and their messages."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from spam.errors import SectionError
from spam.evaluation import BoardReport, PredictedExpression, SectionTruth, score_section
from spam.models.expression import morans_i

N_SPOTS, N_GENES = 53, 11
GENES = np.array([f"G{i}" for i in range(N_GENES)])
GENE_SETS = {
    "HVG-50": ["G7", "G2", "G5", "missing"],
    "all": list(GENES),
    "hest-50": ["G2", "G3", "G9"],
}
# Genes of the model, in another order, and one that the section has not measured.
MODEL_GENES = np.array(["G5", "elsewhere", "G2", "G7", "G9", "G3"])
SHARED = ["G2", "G3", "G5", "G7", "G9"]


@pytest.fixture(scope="module")
def truth() -> SectionTruth:
    generator = np.random.default_rng(0)
    counts = generator.poisson(generator.gamma(2.0, size=N_GENES), (N_SPOTS, N_GENES)).astype(np.int32)
    weights = sparse.random(N_SPOTS, N_SPOTS, density=0.1, format="csr", random_state=0)
    return SectionTruth(
        counts=sparse.csr_matrix(counts), genes=GENES, totals=counts.sum(1) + 17, weights=weights
    )


@pytest.fixture(scope="module")
def expression(truth) -> pd.DataFrame:
    """True log1p(CP10k), written down once more."""
    return pd.DataFrame(np.log1p(truth.counts.toarray() / truth.totals[:, None] * 1e4), columns=GENES)


def predict(expression: pd.DataFrame, noise: float, seed: int) -> np.ndarray:
    """The truth with noise, in the order of the model's genes."""
    known = expression.reindex(columns=MODEL_GENES, fill_value=0.0).to_numpy()
    return known + noise * np.random.default_rng(seed).normal(size=known.shape)


@pytest.fixture(scope="module")
def predictions(truth, expression) -> list[PredictedExpression]:
    counts = pd.DataFrame(truth.counts.toarray(), columns=GENES)
    known_counts = counts.reindex(columns=MODEL_GENES, fill_value=0).to_numpy()
    mean = np.tile(predict(expression, 0.0, 0).mean(0), (N_SPOTS, 1))
    raw = np.log1p(counts[["G9", "G3", "G2"]]) + np.random.default_rng(5).normal(size=(N_SPOTS, 3))
    common = {"genes": MODEL_GENES}
    return [
        PredictedExpression(
            name="spam",
            expression=predict(expression, 0.3, 1),
            is_reference=False,
            nll=np.array([1.0, 9, 2, 4, 8, 16]),
            lower=known_counts - 1,
            upper=known_counts - [0, 0, 1, 0, 1, 0],
            **common,
        ),
        PredictedExpression(
            name="tuned ridge", expression=predict(expression, 2.0, 2), is_reference=True, **common
        ),
        PredictedExpression(
            name="HEST ridge",
            expression=predict(expression, 1.0, 3),
            is_reference=True,
            raw_scale=raw.to_numpy(),
            raw_genes=np.array(["G9", "G3", "G2"]),
            **common,
        ),
        PredictedExpression(name="training mean", expression=mean, is_reference=True, **common),
    ]


@pytest.fixture(scope="module")
def report(truth, predictions) -> BoardReport:
    return score_section(truth, predictions, GENE_SETS)


def row(scores, predictor: str, gene_set: str):
    (found,) = [s for s in scores if (s.predictor, s.gene_set) == (predictor, gene_set)]
    return found


class TestHonestBoard:
    def test_every_predictor_stands_beside_the_others_in_every_set(self, report):
        names = ["spam", "tuned ridge", "HEST ridge", "training mean"]
        assert [(s.gene_set, s.predictor) for s in report.honest] == [
            (gene_set, name) for gene_set in ("HVG-50", "all") for name in names
        ]
        assert [s.is_reference for s in report.honest[:4]] == [False, True, True, True]

    def test_means_are_those_of_scipy_over_the_genes_of_the_set(self, report, expression, predictions):
        predicted = pd.DataFrame(predictions[0].expression, columns=MODEL_GENES)
        for gene_set, genes in {"HVG-50": ["G7", "G2", "G5"], "all": SHARED}.items():
            means = row(report.honest, "spam", gene_set).means
            r = [stats.pearsonr(expression[gene], predicted[gene]).statistic for gene in genes]
            rho = [stats.spearmanr(expression[gene], predicted[gene]).statistic for gene in genes]
            error = (expression[genes] - predicted[genes]).to_numpy()
            assert means["pearson"] == pytest.approx(np.mean(r), rel=1e-5)
            assert means["spearman"] == pytest.approx(np.mean(rho), rel=1e-5)
            assert means["mse"] == pytest.approx((error**2).mean(), rel=1e-5)
            assert means["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)

    def test_moran_correlation_is_over_the_genes_of_the_set(self, report, truth, expression, predictions):
        predicted = pd.DataFrame(predictions[0].expression, columns=MODEL_GENES)
        for gene_set, genes in {"HVG-50": ["G2", "G5", "G7"], "all": SHARED}.items():
            index = [morans_i(table[genes].to_numpy(), truth.weights) for table in (expression, predicted)]
            found = row(report.honest, "spam", gene_set).means["moran_correlation"]
            assert found == pytest.approx(stats.pearsonr(*index).statistic, rel=1e-4)

    def test_likelihood_and_coverage_where_there_is_a_distribution(self, report):
        means = row(report.honest, "spam", "HVG-50").means
        assert means["nll"] == pytest.approx((1 + 2 + 4) / 3)  # G5, G2, G7
        assert means["coverage"] == pytest.approx(2 / 3)  # the upper end of G2 is one too low
        assert row(report.honest, "spam", "all").means["nll"] == pytest.approx((1 + 2 + 4 + 8 + 16) / 5)
        assert not {"nll", "coverage"} & set(row(report.honest, "tuned ridge", "all").means)

    def test_genes_that_nobody_has_are_counted(self, report):
        score = row(report.honest, "spam", "HVG-50")
        assert (score.n_genes, score.n_missing) == (4, 1)
        score = row(report.honest, "spam", "all")
        assert (score.n_genes, score.n_missing) == (N_GENES, N_GENES - len(SHARED))

    def test_a_constant_prediction_is_undefined_and_not_zero(self, report):
        score = row(report.honest, "training mean", "all")
        assert np.isnan(score.means["pearson"])
        assert (score.n_undefined["pearson"], score.n_undefined["mse"]) == (len(SHARED), 0)
        assert score.means["auc"] == 0.5

    def test_a_gene_that_is_constant_in_the_section_is_left_out_of_the_mean(self, truth, predictions):
        counts = truth.counts.toarray()
        counts[:, 7] = 0
        silent = SectionTruth(counts=counts, genes=GENES, totals=truth.totals)
        report = score_section(silent, predictions, GENE_SETS)
        score = row(report.honest, "spam", "HVG-50")
        table = report.gene_table()
        assert score.n_undefined["pearson"] == 1
        assert score.means["pearson"] == pytest.approx(table.loc[["G2", "G5"], "spam.pearson"].mean())
        assert np.isnan(table.loc["G7", "spam.pearson"])
        assert "moran_correlation" not in score.means  # no graph was given
        assert "morans_i" not in table

    def test_permuting_spots_changes_nothing(self, report, truth, predictions):
        order = np.random.default_rng(9).permutation(N_SPOTS)
        shuffled = SectionTruth(
            counts=truth.counts[order],
            genes=GENES,
            totals=truth.totals[order],
            weights=truth.weights[order][:, order],
        )
        moved = [
            PredictedExpression(
                name=p.name, expression=p.expression[order], genes=p.genes, is_reference=p.is_reference
            )
            for p in predictions[1:2]
        ]
        found = score_section(shuffled, moved, GENE_SETS)
        for gene_set in ("HVG-50", "all"):
            expected = row(report.honest, "tuned ridge", gene_set).means
            assert row(found.honest, "tuned ridge", gene_set).means == pytest.approx(expected, rel=1e-6)

    def test_spots_without_counts_are_left_out(self, report, truth, predictions):
        counts = sparse.vstack([truth.counts, sparse.csr_matrix((3, N_GENES), dtype=np.int32)], format="csr")
        weights = sparse.block_diag([truth.weights, np.ones((3, 3))], format="csr")
        longer = SectionTruth(
            counts=counts, genes=GENES, totals=np.append(truth.totals, [0, 0, 0]), weights=weights
        )

        def grown(values):
            return None if values is None else np.concatenate([values, np.full((3, values.shape[1]), 7.0)])

        fields = ("expression", "lower", "upper", "raw_scale")
        more = [
            dataclasses.replace(p, **{name: grown(getattr(p, name)) for name in fields}) for p in predictions
        ]
        found = score_section(longer, more, GENE_SETS)
        assert found.n_spots == N_SPOTS
        assert [s.means for s in found.honest] == [
            pytest.approx(s.means, rel=1e-6, nan_ok=True) for s in report.honest
        ]
        np.testing.assert_allclose(found.genes["morans_i"], report.genes["morans_i"])


class TestHestBoard:
    def test_scores_log1p_of_raw_counts_with_what_was_trained_for_it(self, report, truth, predictions):
        raw = pd.DataFrame(np.log1p(truth.counts.toarray()), columns=GENES)
        of_model = pd.DataFrame(predictions[0].expression, columns=MODEL_GENES)
        of_hest = pd.DataFrame(predictions[2].raw_scale, columns=["G9", "G3", "G2"])
        for name, predicted in (("spam", of_model), ("HEST ridge", of_hest)):
            score = row(report.hest, name, "hest-50")
            expected = [stats.pearsonr(raw[gene], predicted[gene]).statistic for gene in GENE_SETS["hest-50"]]
            assert score.means == {"pearson": pytest.approx(np.mean(expected), rel=1e-9)}
            assert (score.n_genes, score.n_missing) == (3, 0)

    def test_is_empty_without_its_gene_set(self, truth, predictions):
        report = score_section(truth, predictions, {"all": list(GENES)})
        assert report.hest == []
        assert "HEST board" not in report.markdown()


class TestVerdict:
    def test_compares_gene_by_gene(self, report):
        (verdict,) = report.verdicts
        table = report.gene_table().loc[["G2", "G5", "G7"]]
        difference = table["spam.pearson"] - table["tuned ridge.pearson"]
        assert verdict.difference.mean == pytest.approx(difference.mean())
        assert (verdict.method, verdict.other, verdict.gene_set) == ("spam", "tuned ridge", "HVG-50")
        assert verdict.difference.n_units == 3
        assert difference.min() <= verdict.difference.lower <= verdict.difference.upper <= difference.max()
        assert verdict.is_better

    def test_seed_changes_the_interval_alone(self, report, truth, predictions):
        (other,) = score_section(truth, predictions, {"HVG-50": SHARED}, seed=1).verdicts
        (same,) = score_section(truth, predictions, {"HVG-50": SHARED}).verdicts
        assert other.difference.mean == same.difference.mean
        assert other.difference != same.difference

    def test_needs_the_rival_and_the_gene_set(self, truth, predictions):
        without_rival = score_section(truth, [predictions[0], predictions[2]], GENE_SETS)
        assert without_rival.verdicts == []
        assert "No verdict" in without_rival.markdown()
        assert score_section(truth, predictions, {"all": list(GENES)}).verdicts == []


class TestReport:
    def test_mapping_is_strict_json_with_null_for_undefined(self, report):
        plain = json.loads(json.dumps(report.to_mapping(), allow_nan=False))
        assert plain["n_spots"] == N_SPOTS
        (mean,) = [
            s for s in plain["honest"] if (s["predictor"], s["gene_set"]) == ("training mean", "HVG-50")
        ]
        assert mean["means"]["pearson"] is None
        assert mean["n_undefined"]["pearson"] == 3
        assert [s["predictor"] for s in plain["hest"]] == [
            "spam",
            "tuned ridge",
            "HEST ridge",
            "training mean",
        ]
        assert plain["verdicts"][0]["is_better"] is True
        assert plain["verdicts"][0]["sentence"] == report.verdicts[0].sentence()

    def test_gene_table_holds_what_is_known_of_each_gene(self, report, truth):
        table = report.gene_table()
        counts = pd.DataFrame(truth.counts.toarray(), columns=GENES)[SHARED]
        assert list(table.index) == SHARED
        np.testing.assert_allclose(table["mean_counts"], counts.mean())
        np.testing.assert_allclose(table["detected_share"], (counts > 0).mean())
        assert list(table["gene_sets"]) == [
            "HVG-50;all;hest-50",
            "all;hest-50",
            "HVG-50;all",
            "HVG-50;all",
            "all;hest-50",
        ]
        np.testing.assert_array_equal(table["spam.nll"], [2, 16, 1, 4, 8])
        assert {"morans_i", "spam.morans_i", "tuned ridge.pearson", "training mean.auc"} <= set(table)

    def test_the_table_handed_out_is_a_copy(self, report):
        report.gene_table()["mean_counts"] = 0.0
        assert (report.gene_table()["mean_counts"] > 0).all()

    def test_markdown_shows_a_dash_for_undefined_and_counts_it(self, report):
        lines = report.markdown().splitlines()
        (head,) = [line for line in lines if "NLL" in line]
        (mean,) = [line for line in lines if line.startswith("| HVG-50 | training mean")]
        cells = dict(zip(head.split(" | "), mean.split(" | "), strict=True))
        assert (cells["n"], cells["undefined"], cells["Pearson ↑"], cells["AUC ↑"]) == (
            "3",
            "3",
            "–",
            "0.500",
        )
        assert lines[-1].startswith("spam beats tuned ridge on HVG-50")


def test_predictions_that_cannot_be_scored_are_listed(truth):
    def predicted(
        name: str, expression: np.ndarray, genes: list[str], **raw: np.ndarray
    ) -> PredictedExpression:
        return PredictedExpression(
            name=name, expression=expression, genes=np.array(genes), is_reference=True, **raw
        )

    with pytest.raises(SectionError) as caught:
        score_section(
            truth,
            [
                predicted("short", np.ones((52, 2)), ["G1", "G2"]),
                predicted("wide", np.ones((53, 3)), ["G1", "G2"]),
                predicted("nan", np.full((53, 1), np.nan), ["G1"]),
                predicted("other", np.ones((53, 1)), ["ENSG1"]),
                predicted("raw", np.ones((53, 1)), ["G1"], raw_scale=np.ones((53, 2))),
            ],
            GENE_SETS,
        )
    for words in (
        "'short' has shape (52, 2)",
        "'wide'",
        "'nan' has 53 of 53",
        "'other'",
        "ENSG1",
        "raw_scale of 'raw'",
    ):
        assert words in str(caught.value)
