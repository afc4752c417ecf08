"""From measured genes to the others: against scikit-learn, and on banks whose genes are known to be correlated."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from spam.errors import ConfigError
from spam.models import log1p_cp10k
from spam.models.linear import pearson_per_gene
from spam.models.rate_path import choose_penalty
from spam.prediction.panel import Bank, normalised_panel, predict_from_panel

PANEL = np.array([0, 3, 4, 9, 16])


def cohort(
    sizes: tuple[int, ...] = (41, 43, 47, 53), *, n_genes: int = 19, image: float = 0.5
) -> dict[str, np.ndarray]:
    """Expression that follows three hidden states, which images show in part."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, n_genes))
    hidden = [rng.normal(size=(n, 3)) for n in sizes]
    mixing = rng.normal(size=(3, 7))
    inputs = [image * h @ mixing + rng.normal(size=(len(h), 7)) for h in hidden]
    expression = [h @ loadings * 0.4 + 3 + rng.normal(0, 0.3, (len(h), n_genes)) for h in hidden]
    return {
        "inputs": np.concatenate(inputs),
        "expression": np.concatenate(expression),
        "section": np.repeat(np.arange(len(sizes)), sizes),
    }


def bank_of(data: dict[str, np.ndarray], *, own: int = -1) -> Bank:
    sections = np.unique(data["section"])
    means = np.stack([data["expression"][data["section"] == s].mean(axis=0) for s in sections])
    tensors = {
        "bank.section": data["section"].astype(np.int32),
        "bank.inputs": data["inputs"].astype(np.float32),
        "bank.expression": (data["expression"] - means[data["section"]]).astype(np.float32),
        "path.gene_mean": means.mean(axis=0),
    }
    return Bank.without(tensors, own)


def test_the_bank_excludes_the_section_itself_and_cuts_a_single_section_into_runs() -> None:
    data = cohort()
    bank = bank_of(data, own=2)
    np.testing.assert_array_equal(np.unique(bank.group), [0, 1, 3])
    np.testing.assert_array_equal(bank.inputs, data["inputs"].astype(np.float32)[data["section"] != 2])
    lone = bank_of(cohort((43,)))
    np.testing.assert_array_equal(np.unique(lone.group, return_counts=True)[1], [9, 9, 8, 9, 8])
    assert (np.diff(lone.group) >= 0).all()


@pytest.mark.parametrize("is_normalised", [False, True])
def test_it_is_a_ridge_on_the_panel_stacked_on_the_prediction(is_normalised: bool) -> None:
    data = cohort()
    target = data["section"] == 3
    bank = bank_of(data, own=3)
    others = np.setdiff1d(np.arange(19), PANEL)
    panel, truth = data["expression"][target][:, PANEL], data["expression"][target][:, others]
    before = truth * 0.2 + np.random.default_rng(5).normal(size=truth.shape)
    found, from_panel, found_weights = predict_from_panel(
        panel, before, bank, PANEL, is_normalised=is_normalised
    )

    known = bank.expression[:, PANEL]
    if is_normalised:
        linear = np.expm1(known)
        known = np.log1p(linear / linear.sum(axis=1, keepdims=True) * linear.sum(axis=1).mean())
    sections = np.unique(bank.group)
    x, y, image = known.copy(), bank.expression[:, others].copy(), np.empty((len(known), len(others)))
    for values in (x, y):
        for s in sections:
            values[bank.group == s] -= values[bank.group == s].mean(axis=0)

    def left_out(alpha: float) -> np.ndarray:
        predicted = np.empty_like(y)
        for s in sections:
            out = bank.group == s
            predicted[out] = Ridge(alpha).fit(x[~out], y[~out]).predict(x[out])
        return predicted

    def error(alpha: float) -> float:
        of_sections = [(left_out(alpha)[bank.group == s], y[bank.group == s]) for s in sections]
        return float(np.mean([((p - t) ** 2).mean(axis=0) / (t**2).mean(axis=0) for p, t in of_sections]))

    best = min([1.0, 3.0, 1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4], key=error)
    for s in sections:
        out = bank.group == s
        inputs = bank.inputs.astype(float)
        penalty = choose_penalty(bank.inputs[~out], y[~out], bank.group[~out])
        image[out] = Ridge(penalty).fit(inputs[~out], y[~out]).predict(inputs[out])
        image[out] -= image[out].mean(axis=0)
    parts = np.stack([image.ravel(), left_out(best).ravel()], axis=1)
    weights = LinearRegression(fit_intercept=False).fit(parts, y.ravel()).coef_
    np.testing.assert_allclose(found_weights, weights, rtol=1e-6)
    pattern = Ridge(best).fit(x, y).predict(panel - panel.mean(axis=0))
    np.testing.assert_allclose(from_panel, bank.gene_mean[others] + pattern, rtol=1e-8, atol=1e-8)
    level = before.mean(axis=0)
    expected = level + weights[0] * (before - level) + weights[1] * pattern
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_panel_and_prediction_together_are_better_than_either() -> None:
    data = cohort((97, 101, 103, 107), image=0.4)
    target, panel = data["section"] == 3, PANEL[:2]  # two genes do not determine three hidden states
    others = np.setdiff1d(np.arange(19), panel)
    image = Ridge(10.0).fit(data["inputs"][~target], data["expression"][~target][:, others])
    before, truth = image.predict(data["inputs"][target]), data["expression"][target]
    both, alone, _ = predict_from_panel(
        truth[:, panel], before, bank_of(data, own=3), panel, is_normalised=False
    )
    r = [np.mean(pearson_per_gene(values, truth[:, others])) for values in (both, before, alone)]
    assert r[0] > max(r[1:]) + 0.03


def test_a_panel_of_unknown_library_size_has_the_same_sum_in_each_spot() -> None:
    counts = np.array([[3, 1, 0], [30, 10, 0], [0, 0, 0]])
    found = np.expm1(normalised_panel(counts, 800.0))
    np.testing.assert_allclose(found, [[600, 200, 0], [600, 200, 0], [0, 0, 0]])


def test_an_empty_bank_is_refused_but_knows_the_level_of_the_cohort() -> None:
    own = bank_of(cohort((43,)), own=0)
    assert np.isnan(own.panel_sum(PANEL))
    tensors = {"path.gene_mean": np.zeros(19), "cohort.per_10k": np.arange(19.0)}
    absent = Bank.without(tensors, -1)
    assert absent.panel_sum(PANEL) == PANEL.sum()
    for bank in (own, absent):
        with pytest.raises(ConfigError, match=r"--context-h5ad.*spam finetune --with-bank"):
            predict_from_panel(np.ones((3, 5)), np.ones((3, 14)), bank, PANEL, is_normalised=False)


def test_on_real_sections_a_panel_predicts_other_genes(shared_data: Path) -> None:
    read = [anndata.read_h5ad(shared_data / "her2st" / f"C{i}.h5ad") for i in (3, 4, 5, 6)]
    shared = sorted(set.intersection(*(set(adata.var_names) for adata in read)))
    expression = [
        log1p_cp10k(adata[:, shared].X, np.asarray(adata.X.sum(axis=1), dtype=float).ravel())
        for adata in read
    ]
    known = np.concatenate(expression[:3])
    chosen = np.random.default_rng(0).permutation(np.argsort(-known.var(axis=0))[:300])
    section = np.repeat(np.arange(3), [len(e) for e in expression[:3]])
    bank = bank_of(
        {
            "expression": known[:, chosen],
            "section": section,
            "inputs": np.random.default_rng(1).normal(size=(len(known), 5)),
        }
    )
    counts, truth, panel = (
        read[3][:, shared].X[:, chosen].toarray(),
        expression[3][:, chosen[50:]],
        np.arange(50),
    )
    level = np.broadcast_to(bank.gene_mean[50:], truth.shape)
    given = normalised_panel(counts[:, :50], bank.panel_sum(panel))
    found, _, _ = predict_from_panel(given, level, bank, panel, is_normalised=True)
    assert np.nanmean(pearson_per_gene(found, truth)) > 0.3
    assert ((found - truth) ** 2).mean() < 0.95 * ((level - truth) ** 2).mean()
