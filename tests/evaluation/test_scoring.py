"""Scores of known predictions against scipy, gene by gene."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_lab import FirstFeature, first_feature, make_store
from scipy import stats

from spam.errors import SectionError
from spam.evaluation import MethodPrediction
from spam.evaluation.fold_plan import Fold
from spam.evaluation.folds import FoldData, build_fold, split_fold
from spam.evaluation.runs import FoldScores, depth_null, prediction_digest, score_fold
from spam.store import open_store
from spam.training.cohort import read_spots
from spam.training.feature_choice import choose_shared_features


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    store: Path = make_store(tmp_path_factory.mktemp("lab") / "c.zarr")
    sections = [open_store(store).section(name) for name in ("S1", "S2", "S3", "S4")]
    features = choose_shared_features(sections, None, ())
    spots = {s.meta.name: read_spots(s, features.keys, k=5) for s in sections}
    fold = Fold(name="b", train=("S1", "S2"), test=("S3", "S4"))
    return build_fold(split_fold(fold, spots, k=5, tile_widths={}), features, k=5, n_top=53)


@pytest.fixture(scope="module")
def scores(data: FoldData) -> FoldScores:
    return score_fold(data, "first feature", FirstFeature().fit_predict(data.task, seed=0))


def truth(data: FoldData, section: str) -> np.ndarray:
    measured = data.truths[section]
    return np.log1p(measured.counts.toarray() / measured.totals[:, None] * 1e4)


def correlations(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return np.array([stats.pearsonr(a, b).statistic for a, b in zip(truth.T, prediction.T, strict=True)])


def row(scores: FoldScores, section: str, gene_set: str, score: str = "pearson") -> pd.Series:
    keys = ["section", "gene_set", "score"]
    return scores.sets.set_index(keys).loc[(section, gene_set, score)]


@pytest.mark.parametrize(("section", "index"), [("S3", 0), ("S4", 1)])
def test_honest_board_is_scipys(data: FoldData, scores: FoldScores, section: str, index: int) -> None:
    expected = correlations(truth(data, section), first_feature(data.task, index))
    table = scores.genes.loc[section]
    assert list(table.index) == list(data.task.genes.genes)
    np.testing.assert_allclose(table["pearson"], expected, rtol=1e-4)
    for name in ("HVG-50", "HVG-250", "HEG-50", "SVG-50"):
        columns = [data.task.genes.genes.index(gene) for gene in data.task.genes.sets[name]]
        assert row(scores, section, name)["value"] == pytest.approx(expected[columns].mean(), rel=1e-4)
    everything = row(scores, section, "all")
    assert everything["n_genes"] == len(expected)
    assert everything["value"] == pytest.approx(expected.mean(), rel=1e-4)
    error = truth(data, section) - first_feature(data.task, index)
    assert row(scores, section, "all", "mse")["value"] == pytest.approx((error**2).mean(), rel=1e-4)


@pytest.mark.parametrize(("section", "index"), [("S3", 0), ("S4", 1)])
def test_likelihood_and_interval_are_scipys(
    data: FoldData, scores: FoldScores, section: str, index: int
) -> None:
    measured = data.truths[section]
    mu = np.exp(first_feature(data.task, index) + 2) * measured.totals[:, None] / 1e4
    theta = np.linspace(1, 2, mu.shape[1])
    law = stats.nbinom(theta, theta / (theta + mu))
    counts = measured.counts.toarray()
    table = scores.genes.loc[section]
    np.testing.assert_allclose(table["nll"], -law.logpmf(counts).mean(axis=0), rtol=1e-4)
    inside = (law.ppf(0.07) <= counts) & (counts <= law.ppf(0.89))
    # float32 moves a quantile or two
    np.testing.assert_allclose(table["coverage"], inside.mean(axis=0), atol=0.03)


def test_hest_board_pools_the_spots_of_all_test_sections(data: FoldData, scores: FoldScores) -> None:
    genes = data.task.genes
    columns = [genes.genes.index(gene) for gene in genes.sets["hest-50"]]
    raw = np.concatenate([np.log1p(t.counts.toarray()[:, columns]) for t in data.truths.values()])
    prediction = np.concatenate([first_feature(data.task, i)[:, columns] for i in range(2)])
    assert row(scores, "S3", "hest-50")["value"] == pytest.approx(
        correlations(raw, prediction).mean(), rel=1e-4
    )
    assert row(scores, "S3", "hest-50")["n_genes"] == len(columns)
    by_section = np.mean(
        [
            correlations(raw[rows], prediction[rows]).mean()
            for rows in (slice(0, len(data.truths["S3"].totals)), slice(len(data.truths["S3"].totals), None))
        ]
    )
    assert row(scores, "S3", "hest-50")["value"] != pytest.approx(by_section, rel=1e-2)


def test_a_raw_scale_prediction_goes_to_the_hest_board_alone(data: FoldData, scores: FoldScores) -> None:
    n_hest = len(data.task.genes.sets["hest-50"])
    rng = np.random.default_rng(0)
    noise = {s.name: rng.normal(size=(s.n_spots, n_hest)).astype(np.float32) for s in data.task.test}
    plain = FirstFeature().fit_predict(data.task, seed=0)
    predicted = {name: dataclasses.replace(p, raw_scale=noise[name]) for name, p in plain.items()}
    found = score_fold(data, "first feature", predicted)
    genes = data.task.genes
    columns = [genes.genes.index(gene) for gene in genes.sets["hest-50"]]
    raw = np.concatenate([np.log1p(t.counts.toarray()[:, columns]) for t in data.truths.values()])
    expected = correlations(raw, np.concatenate(list(noise.values())))
    assert row(found, "S3", "hest-50")["value"] == pytest.approx(expected.mean(), rel=1e-4)
    pd.testing.assert_frame_equal(found.genes, scores.genes)


def test_depth_null_is_the_logarithm_of_the_library_size(data: FoldData) -> None:
    predicted = depth_null(data)
    for name, prediction in predicted.items():
        totals = np.log1p(data.truths[name].totals)
        assert prediction.expression.shape == (len(totals), len(data.task.genes.genes))
        np.testing.assert_allclose(
            prediction.expression, np.repeat(totals[:, None], prediction.expression.shape[1], 1)
        )
    found = score_fold(data, "depth null", predicted)
    assert row(found, "S3", "hest-50")["value"] > 0.1  # depth leaks into raw counts


def test_genes_that_a_test_section_has_not_measured_are_missing(data: FoldData) -> None:
    s4 = data.truths["S4"]
    fewer = dataclasses.replace(s4, counts=s4.counts[:, 7:], genes=s4.genes[7:])
    part = FoldData(task=data.task, truths={**data.truths, "S4": fewer})
    found = score_fold(part, "x", FirstFeature().fit_predict(data.task, seed=0))
    assert row(found, "S4", "all")["n_missing"] == 7
    n_hest = len(set(s4.genes[:7]) & set(data.task.genes.sets["hest-50"]))
    assert row(found, "S3", "hest-50")["n_missing"] == n_hest > 0


def counts_like(data: FoldData, **changes: object) -> dict[str, MethodPrediction]:
    plain = FirstFeature().fit_predict(data.task, seed=0)
    return {
        name: dataclasses.replace(p, counts=dataclasses.replace(p.counts, **changes))
        for name, p in plain.items()
    }


def test_predictions_that_cannot_be_scored_are_refused(data: FoldData) -> None:
    def refused(predictions: dict[str, MethodPrediction], words: str) -> None:
        with pytest.raises(SectionError, match=words):
            score_fold(data, "mine", predictions)

    plain = dict(FirstFeature().fit_predict(data.task, seed=0))
    refused({"S3": plain["S3"]}, "'mine'.* S4")
    short = MethodPrediction(expression=plain["S4"].expression[:-1])
    refused({**plain, "S4": short}, r"'mine' for S4 has shape \(48, .*\(49, ")
    nan = plain["S3"].expression.copy()
    nan[2, 3] = np.nan
    refused({**plain, "S3": MethodPrediction(expression=nan)}, "expression of 'mine' for S3.*finite")
    n_genes = len(data.task.genes.genes)
    refused(counts_like(data, theta=np.zeros(n_genes, dtype=np.float32)), "theta of 'mine'")
    few = {"rate": np.ones((45, 3), dtype=np.float32), "theta": np.ones(3, dtype=np.float32)}
    refused(counts_like(data, **few), rf"rate of 'mine'.*\(45, {n_genes}\)")
    refused(counts_like(data, lower=0.6, upper=0.9), "0.6 and 0.9 of 'mine'")


def test_digest_knows_every_number(data: FoldData) -> None:
    plain = FirstFeature().fit_predict(data.task, seed=0)
    digest = prediction_digest(plain)
    assert digest == prediction_digest(FirstFeature().fit_predict(data.task, seed=1))
    assert digest == prediction_digest(dict(reversed(list(plain.items()))))
    moved = plain["S4"].expression.copy()
    moved[-1, -1] = np.nextafter(moved[-1, -1], 9)
    assert digest != prediction_digest({**plain, "S4": dataclasses.replace(plain["S4"], expression=moved)})
    assert digest != prediction_digest(counts_like(data, upper=0.9))
    assert digest != prediction_digest({"S3": plain["S3"]})


def test_a_zinb_is_scored_too(data: FoldData) -> None:
    plain = FirstFeature().fit_predict(data.task, seed=0)
    predicted = {}
    for name, p in plain.items():
        counts = dataclasses.replace(p.counts, likelihood="zinb", pi=np.full_like(p.counts.rate, 0.2))
        predicted[name] = MethodPrediction(expression=p.expression, counts=counts)
    found = score_fold(data, "zinb", predicted)
    measured = data.truths["S3"]
    mu = plain["S3"].counts.rate * measured.totals[:, None] / 1e4
    counts, theta = measured.counts.toarray(), plain["S3"].counts.theta.astype(float)
    expected = -np.log(0.2 * (counts == 0) + 0.8 * stats.nbinom(theta, theta / (theta + mu)).pmf(counts))
    np.testing.assert_allclose(found.genes.loc["S3", "nll"], expected.mean(axis=0), rtol=1e-4)
