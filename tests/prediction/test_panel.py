"""From measured genes to the others: against scikit-learn, and on a bank whose genes are known to go together."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from spam.errors import ConfigError
from spam.models.linear import pearson_per_gene
from spam.models.rate_path import choose_penalty
from spam.prediction.panel import Bank, normalised_panel, predict_from_panel

PANEL = np.array([0, 3, 4, 9, 16])


def cohort(
    sizes: tuple[int, ...] = (41, 43, 47, 53), *, n_genes: int = 19, image: float = 0.5
) -> dict[str, np.ndarray]:
    """Expression that follows three hidden states, which images tell of in part."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, n_genes))
    hidden = [rng.normal(size=(n, 3)) for n in sizes]
    mixing = rng.normal(size=(3, 7))
    return {
        "inputs": np.concatenate([image * h @ mixing + rng.normal(size=(len(h), 7)) for h in hidden]),
        "expression": np.concatenate(
            [h @ loadings * 0.4 + 3 + rng.normal(0, 0.3, (len(h), n_genes)) for h in hidden]
        ),
        "section": np.repeat(np.arange(len(sizes)), sizes),
    }


def bank_of(data: dict[str, np.ndarray], *, own: int = -1) -> Bank:
    means = np.stack(
        [data["expression"][data["section"] == s].mean(axis=0) for s in np.unique(data["section"])]
    )
    tensors = {
        "bank.section": data["section"].astype(np.int32),
        "bank.inputs": data["inputs"].astype(np.float32),
        "bank.expression": (data["expression"] - means[data["section"]]).astype(np.float32),
        "path.gene_mean": means.mean(axis=0),
    }
    return Bank.without(tensors, own)


def test_own_spots_are_not_in_the_bank_and_a_lone_section_is_cut_into_runs() -> None:
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
    panel = data["expression"][target][:, PANEL]
    before = data["expression"][target][:, others] * 0.2 + np.random.default_rng(5).normal(
        size=(53, len(others))
    )
    found = predict_from_panel(panel, before, bank, PANEL, is_normalised=is_normalised)

    known = bank.expression[:, PANEL]
    if is_normalised:
        linear = np.expm1(known)
        known = np.log1p(linear / linear.sum(axis=1, keepdims=True) * linear.sum(axis=1).mean())
    sections = np.unique(bank.group)
    x, y, image = known.copy(), bank.expression[:, others].copy(), np.empty((len(known), len(others)))
    for values in (x, y):
        for s in sections:
            values[bank.group == s] -= values[bank.group == s].mean(axis=0)
    alphas = [1.0, 3.0, 1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4]

    def left_out(alpha: float) -> np.ndarray:
        predicted = np.empty_like(y)
        for s in sections:
            out = bank.group == s
            predicted[out] = Ridge(alpha).fit(x[~out], y[~out]).predict(x[out])
        return predicted

    def error(alpha: float) -> float:
        predicted = left_out(alpha)
        return float(
            np.mean(
                [
                    ((predicted - y)[bank.group == s] ** 2).mean(axis=0)
                    / (y[bank.group == s] ** 2).mean(axis=0)
                    for s in sections
                ]
            )
        )

    best = min(alphas, key=error)
    for s in sections:
        out = bank.group == s
        penalty = choose_penalty(bank.inputs[~out], y[~out], bank.group[~out])
        image[out] = (
            Ridge(penalty)
            .fit(bank.inputs[~out].astype(float), y[~out])
            .predict(bank.inputs[out].astype(float))
        )
        image[out] -= image[out].mean(axis=0)
    stack = LinearRegression(fit_intercept=False).fit(
        np.stack([image.ravel(), left_out(best).ravel()], axis=1), y.ravel()
    )
    np.testing.assert_allclose(found.weights, stack.coef_, rtol=1e-6)
    pattern = Ridge(best).fit(x, y).predict(panel - panel.mean(axis=0))
    np.testing.assert_allclose(found.from_panel, bank.gene_mean[others] + pattern, rtol=1e-8, atol=1e-8)
    level = before.mean(axis=0)
    expected = level + stack.coef_[0] * (before - level) + stack.coef_[1] * pattern
    np.testing.assert_allclose(found.expression, expected, rtol=1e-6, atol=1e-6)


def test_panel_and_prediction_together_are_better_than_either() -> None:
    data = cohort((97, 101, 103, 107), image=0.4)
    target = data["section"] == 3
    bank = bank_of(data, own=3)
    panel = PANEL[:2]  # two genes do not tell three hidden states
    others = np.setdiff1d(np.arange(19), panel)
    seen = data["section"] != 3
    image = Ridge(10.0).fit(data["inputs"][seen], data["expression"][seen][:, others])
    before = image.predict(data["inputs"][target])
    truth = data["expression"][target]
    found = predict_from_panel(truth[:, panel], before, bank, panel, is_normalised=False)
    r = {
        name: np.mean(pearson_per_gene(values, truth[:, others]))
        for name, values in (("before", before), ("alone", found.from_panel), ("both", found.expression))
    }
    assert r["both"] > max(r["before"], r["alone"]) + 0.03


def test_a_panel_of_unknown_library_size_makes_up_the_same_sum_in_each_spot() -> None:
    counts = np.array([[3, 1, 0], [30, 10, 0], [0, 0, 0]])
    found = np.expm1(normalised_panel(counts, 800.0))
    np.testing.assert_allclose(found, [[600, 200, 0], [600, 200, 0], [0, 0, 0]])


def test_without_other_sections_a_panel_is_refused() -> None:
    bank = bank_of(cohort((43,)), own=0)
    assert np.isnan(bank.panel_sum(PANEL))
    with pytest.raises(
        ConfigError, match=r"of other sections show .*checkpoint holds 0; train with `spam finetune` on other"
    ):
        predict_from_panel(np.ones((3, 5)), np.ones((3, 14)), bank, PANEL, is_normalised=False)
