"""Gene choice and boards on five real sections of one donor, against pandas on the dense table."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial import cKDTree

from spam.evaluation import BoardReport, PredictedExpression, SectionTruth, score_section
from spam.models.expression import (
    highly_expressed_genes,
    highly_variable_genes,
    log1p_cp10k,
    morans_i,
    spatially_variable_genes,
)

TRAIN, TEST = ("C2", "C3", "C4", "C5"), "C6"
NOISE_SD = 0.7


@pytest.fixture(scope="module")
def sections(shared_data: Path) -> dict[str, ad.AnnData]:
    """Sections cut to the genes that all of them have, in one order."""
    read = {name: ad.read_h5ad(shared_data / "her2st" / f"{name}.h5ad") for name in (*TRAIN, TEST)}
    genes = sorted(set.intersection(*(set(section.var_names) for section in read.values())))
    return {name: section[:, genes].copy() for name, section in read.items()}


@pytest.fixture(scope="module")
def genes(sections) -> np.ndarray:
    return sections[TEST].var_names.to_numpy(dtype=str)


@pytest.fixture(scope="module")
def training(sections) -> pd.DataFrame:
    """Raw counts of the training spots as a dense table."""
    return pd.concat([sections[name].to_df() for name in TRAIN]).astype(float)


@pytest.fixture(scope="module")
def training_expression(training) -> pd.DataFrame:
    """log1p(CP10k) of the training spots, by pandas."""
    return np.log1p(training.div(training.sum(axis=1), axis=0) * 1e4)


def totals_of(section: ad.AnnData) -> np.ndarray:
    return np.asarray(section.X.sum(axis=1)).ravel()


def neighbours(section: ad.AnnData, k: int) -> sparse.csr_matrix:
    """Each spot's k nearest others, weight 1."""
    n = section.n_obs
    _, index = cKDTree(section.obsm["spatial"]).query(section.obsm["spatial"], k=k + 1)
    rows = np.repeat(np.arange(n), k)
    return sparse.csr_matrix((np.ones(n * k), (rows, index[:, 1:].ravel())), shape=(n, n))


def test_expression_equals_pandas(sections, training_expression):
    stacked = np.concatenate([log1p_cp10k(sections[s].X, totals_of(sections[s])) for s in TRAIN])
    np.testing.assert_allclose(stacked, training_expression.to_numpy(), rtol=1e-6, atol=1e-6)


def test_the_most_variable_genes_are_those_of_pandas(sections, training, training_expression, genes):
    stacked = np.concatenate([log1p_cp10k(sections[s].X, totals_of(sections[s])) for s in TRAIN])
    detected = np.asarray(sparse.vstack([sections[s].X > 0 for s in TRAIN]).mean(axis=0)).ravel()
    eligible = training_expression.loc[:, (training > 0).mean() > 0.1]
    expected = eligible.var(ddof=0).sort_values(ascending=False, kind="stable").index[:250]
    assert list(genes[highly_variable_genes(stacked, detected, n=250)]) == list(expected)

    raw = np.log1p(training.to_numpy())
    expected = np.log1p(training[eligible.columns]).var(ddof=0).nlargest(50).index
    assert list(genes[highly_variable_genes(raw, detected, n=50)]) == list(expected)


def test_the_most_expressed_genes_are_those_of_pandas(training_expression, genes):
    expected = training_expression.mean().nlargest(50).index
    assert list(genes[highly_expressed_genes(training_expression.to_numpy(), n=50)]) == list(expected)


def test_spatially_variable_genes_form_patterns_that_shuffling_destroys(sections, training_expression):
    expression = {s: log1p_cp10k(sections[s].X, totals_of(sections[s])) for s in TRAIN}
    index = np.stack([morans_i(expression[s], neighbours(sections[s], 6)) for s in TRAIN])
    chosen = spatially_variable_genes(index, n=50)
    expected = pd.Series(index.mean(axis=0)).dropna().nlargest(50).index
    np.testing.assert_array_equal(chosen, expected)
    assert index.mean(axis=0)[chosen].min() > 0.2
    shuffled = np.random.default_rng(0).permutation(expression["C2"])
    assert abs(morans_i(shuffled[:, chosen], neighbours(sections["C2"], 6)).mean()) < 0.03


@pytest.fixture(scope="module")
def report(sections, training, training_expression, genes) -> BoardReport:
    """C6, scored with the training mean, the truth under noise and the truth under more noise."""
    detected = (training > 0).mean().to_numpy()
    top = highly_variable_genes(training_expression.to_numpy(), detected, n=250)
    section = sections[TEST]
    truth = SectionTruth(
        counts=section.X, genes=genes, totals=totals_of(section), weights=neighbours(section, 6)
    )
    expression = log1p_cp10k(section.X, totals_of(section))[:, top]
    noise = np.random.default_rng(0).normal(size=expression.shape)
    predicted = {
        "spam": expression + NOISE_SD * noise,
        "tuned ridge": expression + 2 * NOISE_SD * noise,
        "training mean": np.tile(training_expression.to_numpy()[:, top].mean(axis=0), (section.n_obs, 1)),
    }
    return score_section(
        truth,
        [
            PredictedExpression(name=name, expression=x, genes=genes[top], is_reference=name != "spam")
            for name, x in predicted.items()
        ],
        {"HVG-50": list(genes[top[:50]]), "HVG-250": list(genes[top])},
    )


def test_the_training_mean_has_no_correlation_and_that_is_counted(report):
    scores = {s.gene_set: s for s in report.honest if s.predictor == "training mean"}
    for gene_set, n in {"HVG-50": 50, "HVG-250": 250}.items():
        assert scores[gene_set].n_undefined["pearson"] == n
        assert np.isnan(scores[gene_set].means["pearson"])
        assert scores[gene_set].means["r2"] < 0  # another section's mean is worse than its own
        assert scores[gene_set].means["auc"] == 0.5


@pytest.mark.parametrize(("name", "factor"), [("spam", 1), ("tuned ridge", 2)])
def test_noise_of_known_size_costs_what_theory_says(report, sections, genes, name, factor):
    """With noise of variance v on a truth of variance s: r = sqrt(s / (s + v)), R² = -v / s + 1, MSE = v."""
    table = report.gene_table()
    expression = pd.DataFrame(
        log1p_cp10k(sections[TEST].X, totals_of(sections[TEST])).astype(float), columns=genes
    )
    signal = expression[table.index].var(ddof=0)
    noise = (factor * NOISE_SD) ** 2
    # 178 spots: an r scatters by at most 1 / sqrt(178) = .075, its mean over 250 genes by .005.
    found = table[[f"{name}.pearson", f"{name}.r2", f"{name}.mse"]].mean().to_numpy()
    expected = [np.sqrt(signal / (signal + noise)).mean(), (1 - noise / signal).mean(), noise]
    np.testing.assert_allclose(found, expected, atol=0.02 * factor**2)


def test_less_noise_beats_more(report):
    (verdict,) = report.verdicts
    assert verdict.is_better
    assert verdict.sentence().startswith("spam beats the tuned ridge on HVG-50")
