"""Baselines against scikit-learn, closed forms and loops; small networks on planted signals."""

import dataclasses

import numpy as np
import pytest
import torch
from method_cohorts import CONSTANT, GENES, N_GENES, THETA, cohort_task, permuted, section, task, unmeasured
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn import kernel_ridge, linear_model
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from spam.errors import NotApplicableError, StoreError
from spam.evaluation import FoldTask, Method, MethodPrediction, baselines
from spam.evaluation.baselines import BASELINES, TUNED_RIDGE, average_of, count_loss, log_rate_of_sections
from spam.evaluation.methods import CONTEXT, InputView, Schedule
from spam.models.rate_path import ALPHAS
from spam.training.cohort import SpotData
from spam.typing import Array

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # inputs are kept in float32
BY_NAME = {method.name: method for method in BASELINES}
ANYWHERE = [method for method in BASELINES if method.name != "coordinate kNN"]
PARTS = {part.name: part for part in baselines._LINEAR_PARTS}
MLPS = [BY_NAME["MLP (squared error)"], BY_NAME["MLP (NB counts)"]]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train small networks for a moment only: enough where the result's quality does not matter."""
    monkeypatch.setattr(baselines, "_SCHEDULE", Schedule(epochs=2))
    monkeypatch.setattr(baselines, "_N_MEMBERS", 2)


def expression_of(spots: SpotData) -> Array:
    assert spots.counts is not None
    assert spots.totals is not None
    return np.log1p(spots.counts.toarray() / np.maximum(spots.totals, 1)[:, None] * 1e4)


def stacked(fold: FoldTask) -> Array:
    return np.concatenate([expression_of(s) for s in fold.train])


def centred(fold: FoldTask) -> tuple[Array, Array]:
    """Targets relative to their section, and the mean of the sections' means."""
    parts = [expression_of(s) for s in fold.train]
    return np.concatenate([p - p.mean(axis=0) for p in parts]), np.mean(
        [p.mean(axis=0) for p in parts], axis=0
    )


def look(spots: SpotData, view: InputView) -> Array:
    """Features as a view asks for them, spot by spot and section by section."""
    x = spots.features.astype(float)
    if view.scales == "smallest":
        x = x[:, :11]
    if view.has_context:
        weights = np.exp(-(spots.graph.distances.toarray() ** 2) / (2 * spots.graph.meta.sigma**2))
        weights *= spots.graph.distances.toarray() > 0
        weights += np.eye(len(x))
        weights /= weights.sum(axis=1, keepdims=True)
        x = np.concatenate([x, weights @ x, weights @ weights @ weights @ x], axis=1)
    if view.normalisation != "none":
        x = x - x.mean(axis=0)
    if view.normalisation == "standardised":
        x = x / (x.std(axis=0) + 1e-3)
    return x


def components(fold: FoldTask, view: InputView) -> tuple[Array, Array]:
    """Scikit-learn's scaled principal components of training and test spots; 256 are more than there are here."""
    train = np.concatenate([look(s, view) for s in fold.train])
    scaler = StandardScaler().fit(train)
    pca = PCA(min(256, *train.shape), svd_solver="full").fit(scaler.transform(train))
    return pca.transform(scaler.transform(train)), pca.transform(scaler.transform(look(fold.test[0], view)))


def predict(method: Method, fold: FoldTask, seed: int = 0) -> MethodPrediction:
    predictions = method.fit_predict(fold, seed=seed)
    assert list(predictions) == [s.name for s in fold.test]
    return predictions[fold.test[0].name]


def test_training_mean_is_the_mean_of_all_training_spots() -> None:
    fold, truth = cohort_task()
    expected = np.tile(stacked(fold).mean(axis=0), (truth.spots.n_spots, 1))
    np.testing.assert_allclose(predict(BY_NAME["training mean"], fold).expression, expected, **CLOSE)


def test_spots_without_counts_are_not_fitted_on() -> None:
    fold, _ = cohort_task()
    first = fold.train[0]
    counts, totals = first.counts.toarray(), first.totals.copy()  # type: ignore[union-attr]
    counts[5], totals[5] = 0, 0
    emptied = dataclasses.replace(first, counts=csr_matrix(counts), totals=totals)
    fold = dataclasses.replace(fold, train=(emptied, *fold.train[1:]))
    expected = np.delete(stacked(fold), 5, axis=0).mean(axis=0)
    np.testing.assert_allclose(predict(BY_NAME["training mean"], fold).expression[0], expected, **CLOSE)


def test_a_fold_without_any_count_is_refused() -> None:
    fold, _ = cohort_task(1)
    (lone,) = fold.train
    nothing = dataclasses.replace(lone, counts=lone.counts * 0, totals=np.zeros(lone.n_spots))
    with pytest.raises(StoreError, match=r"'fold'.*S0.*--counts-layer"):
        BY_NAME["training mean"].fit_predict(dataclasses.replace(fold, train=(nothing,)), seed=0)


def cut(spots: SpotData, rows: Array) -> SpotData:
    return permuted(spots, np.flatnonzero(rows))


@pytest.mark.parametrize("n_measured", [29, 3])
def test_coordinate_neighbours_are_those_of_the_same_section(n_measured: int) -> None:
    whole = section("S0", 0).spots
    is_train = np.arange(53) < n_measured
    fold = task((cut(whole, is_train), section("S1", 1).spots), (unmeasured(cut(whole, ~is_train)),))
    model = KNeighborsRegressor(min(5, n_measured)).fit(fold.train[0].xy, expression_of(fold.train[0]))
    expected = model.predict(fold.test[0].xy)
    np.testing.assert_allclose(predict(BY_NAME["coordinate kNN"], fold).expression, expected, **CLOSE)


def test_coordinate_neighbours_need_measured_spots_of_the_section() -> None:
    fold, _ = cohort_task()
    with pytest.raises(NotApplicableError, match=r"S3.*--by block"):
        BY_NAME["coordinate kNN"].fit_predict(fold, seed=0)


def test_hest_ridge_is_the_recipe_of_scikit_learn() -> None:
    fold, _ = cohort_task()
    a, b = components(fold, InputView(scales="smallest", normalisation="none"))
    model = linear_model.Ridge(alpha=100 / (a.shape[1] * 5), fit_intercept=False)
    prediction = predict(BY_NAME["HEST ridge"], fold)
    np.testing.assert_allclose(prediction.expression, model.fit(a, stacked(fold)).predict(b), **CLOSE)
    hest = [GENES.index(gene) for gene in ("G3", "G0", "G11", "G7", "G5")]
    raw = np.log1p(np.concatenate([s.counts.toarray()[:, hest] for s in fold.train]))  # type: ignore[union-attr]
    np.testing.assert_allclose(prediction.raw_scale, model.fit(a, raw).predict(b), **CLOSE)  # type: ignore[arg-type]


STEPS = {
    "ridge on one scale": InputView(scales="smallest", normalisation="none"),
    "ridge + all scales": InputView(normalisation="none"),
    "ridge + centring": InputView(normalisation="centred"),
    "ridge + standardising": InputView(),
}


@pytest.mark.parametrize(("name", "view"), STEPS.items())
def test_each_step_is_a_ridge_of_scikit_learn(name: str, view: InputView) -> None:
    fold, _ = cohort_task()
    a, b = components(fold, view)
    y, shift = (stacked(fold), 0.0) if view.normalisation == "none" else centred(fold)
    expected = linear_model.Ridge(alpha=1e4).fit(a, y).predict(b) + shift
    np.testing.assert_allclose(predict(BY_NAME[name], fold).expression, expected, **CLOSE)


def test_the_smallest_tiles_of_all_encoders_are_used_together() -> None:
    fold, _ = cohort_task()
    same_size = dataclasses.replace(fold.features, tiles=({"tile_um": 112.0},) * 2)
    fold = dataclasses.replace(fold, features=same_size)
    a, b = components(fold, InputView(normalisation="none"))  # of all features
    hest = linear_model.Ridge(alpha=100 / (a.shape[1] * 5), fit_intercept=False)
    for name, model in {"HEST ridge": hest, "ridge on one scale": linear_model.Ridge(alpha=1e4)}.items():
        expected = model.fit(a, stacked(fold)).predict(b)
        np.testing.assert_allclose(predict(BY_NAME[name], fold).expression, expected, **CLOSE)


def test_the_tuned_ridge_takes_the_penalty_that_predicts_left_out_training_sections_best() -> None:
    fold, _ = cohort_task()
    a, b = components(fold, CONTEXT)
    unit = np.sqrt((a**2).mean())
    y, shift = centred(fold)
    of_section = np.repeat(np.arange(3), [s.n_spots for s in fold.train])
    scores = []
    for alpha in ALPHAS:
        per_section = []
        for number in range(3):
            out = of_section == number
            predicted = linear_model.Ridge(alpha=alpha).fit(a[~out] / unit, y[~out]).predict(a[out] / unit)
            varies = [g for g in range(N_GENES) if y[out, g].any()]
            per_section.append(np.mean([stats.pearsonr(predicted[:, g], y[out, g])[0] for g in varies]))
        scores.append(np.mean(per_section))
    best = ALPHAS[int(np.argmax(scores))]
    expected = linear_model.Ridge(alpha=best).fit(a / unit, y).predict(b / unit) + shift
    assert 0 < ALPHAS.index(best) < len(ALPHAS) - 1  # a choice that no rule of thumb would make
    np.testing.assert_allclose(predict(TUNED_RIDGE, fold).expression, expected, **CLOSE)


def test_a_lone_training_section_gets_the_penalty_of_the_ladder() -> None:
    fold, _ = cohort_task(1)
    a, b = components(fold, CONTEXT)
    y, shift = centred(fold)
    expected = linear_model.Ridge(alpha=3e4).fit(a, y).predict(b) + shift
    np.testing.assert_allclose(predict(TUNED_RIDGE, fold).expression, expected, **CLOSE)


@pytest.mark.parametrize("n_train", [1, 3])
def test_image_neighbours_are_scikit_learns(n_train: int) -> None:
    fold, _ = cohort_task(n_train)
    for method, view in ((BY_NAME["image kNN"], InputView()), (PARTS["image kNN with context"], CONTEXT)):
        a, b = components(fold, view)
        y, shift = centred(fold)
        expected = KNeighborsRegressor(40, metric="cosine").fit(a, y).predict(b) + shift
        np.testing.assert_allclose(predict(method, fold).expression, expected, **CLOSE)


def test_image_neighbours_are_all_spots_where_there_are_few() -> None:
    train = section("S0", 0, n_spots=31).spots
    fold = task((train,), (unmeasured(section("S1", 1).spots),))
    expected = np.tile(expression_of(train).mean(axis=0), (53, 1))
    np.testing.assert_allclose(predict(BY_NAME["image kNN"], fold).expression, expected, **CLOSE)


def test_kernel_ridge_is_scikit_learns() -> None:
    fold, _ = cohort_task()
    a, b = components(fold, CONTEXT)
    y, shift = centred(fold)
    model = kernel_ridge.KernelRidge(kernel="rbf", gamma=0.5 / a.shape[1] / a.var(), alpha=3)
    np.testing.assert_allclose(
        predict(PARTS["RBF kernel ridge"], fold).expression, model.fit(a, y).predict(b) + shift, **CLOSE
    )


def test_an_average_standardises_each_part_per_gene_and_keeps_their_mean_location_and_scale() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(1, 3, (19, 7)), rng.normal(-4, 0.1, (19, 7))]
    parts[1][:, 2] = 5.0  # constant: stays at its mean
    expected = np.empty((19, 7))
    for g in range(7):
        z = [stats.zscore(p[:, g]) if p[:, g].std() else np.zeros(19) for p in parts]
        expected[:, g] = np.mean(z, axis=0) * np.mean([p[:, g].std() for p in parts])
        expected[:, g] += np.mean([p[:, g].mean() for p in parts])
    got = average_of([p.astype(np.float32) for p in parts])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_named_average_is_that_of_ridge_neighbours_and_kernel() -> None:
    fold, _ = cohort_task()
    expected = average_of([predict(part, fold).expression for part in PARTS.values()])
    np.testing.assert_array_equal(predict(BY_NAME["ridge + kNN + RBF"], fold).expression, expected)


def test_nb_ridge_ranks_as_the_tuned_ridge_and_its_counts_add_up() -> None:
    fold, truth = cohort_task()
    prediction = predict(BY_NAME["NB ridge"], fold)
    np.testing.assert_allclose(prediction.expression, predict(TUNED_RIDGE, fold).expression, **CLOSE)
    assert prediction.counts is not None
    assert prediction.counts.likelihood == "nb"
    rate = prediction.counts.rate[:, :CONSTANT]
    for g in range(CONSTANT):
        assert stats.spearmanr(rate[:, g], prediction.expression[:, g]).statistic > 1 - 1e-6
    # Rates are means, not medians: over the genes the total is that of the truth, within a section's own share.
    np.testing.assert_allclose(rate.sum(), truth.rate[:, :CONSTANT].sum(), rtol=0.25)


def test_nb_ridge_finds_the_dispersion_of_the_counts() -> None:
    theta = predict(BY_NAME["NB ridge"], cohort_task()[0]).counts.theta  # type: ignore[union-attr]
    assert theta is not None
    # What the ridge does not explain counts as dispersion, so it is somewhat below the truth.
    assert THETA / 2 < np.median(theta[:CONSTANT]) < THETA * 1.2


def test_rates_of_sections_are_counts_over_library_sizes() -> None:
    counts = np.array([[1, 0, 6], [3, 0, 2], [10, 5, 0]])
    totals, number = np.array([100.0, 300.0, 1000.0]), np.array([4, 4, 9])
    expected = np.log([[4 / 400 * 1e4, 0.5 / 400 * 1e4, 8 / 400 * 1e4], [100.0, 50.0, 0.5 / 1000 * 1e4]])
    np.testing.assert_allclose(log_rate_of_sections(csr_matrix(counts), totals, number), expected, rtol=1e-12)


def test_the_loss_of_counts_differs_from_the_likelihood_by_what_does_not_depend_on_the_mean() -> None:
    rng = np.random.default_rng(0)
    counts, theta = rng.poisson(3, (7, 5)).astype(float), rng.uniform(0.3, 20, 5)
    losses, exact = [], []
    for log_mu in rng.normal(1, 1, (3, 7, 5)):
        mu = np.exp(log_mu)
        exact.append(-stats.nbinom.logpmf(counts, theta, theta / (theta + mu)).mean())
        losses.append(float(count_loss(*map(torch.from_numpy, (log_mu, theta, counts)))))
    np.testing.assert_allclose(np.diff(losses), np.diff(exact), rtol=1e-9)


@pytest.mark.parametrize("method", MLPS, ids=lambda m: m.name)
def test_small_networks_find_a_planted_signal(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_N_MEMBERS", 1)
    fold, truth = cohort_task()
    prediction = predict(method, fold)
    expected = np.log(truth.rate[:, :CONSTANT])
    r = [stats.pearsonr(prediction.expression[:, g], expected[:, g])[0] for g in range(CONSTANT)]
    assert np.median(r) > 0.7
    if prediction.counts is not None:
        np.testing.assert_allclose(prediction.counts.rate.sum(), truth.rate.sum(), rtol=0.25)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("method", ANYWHERE, ids=lambda m: m.name)
def test_a_method_is_deterministic_permutes_with_the_spots_and_sees_no_test_count(method: Method) -> None:
    fold, truth = cohort_task()
    np.random.seed(5)  # noqa: NPY002  the global generator is what must be left alone
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    first = predict(method, fold)
    assert np.array_equal(states[0], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(states[1], torch.get_rng_state())
    assert first.expression.dtype == np.float32
    assert np.isfinite(first.expression).all()
    with_counts = predict(method, dataclasses.replace(fold, test=(truth.spots,)))
    assert np.array_equal(first.expression, with_counts.expression)
    order = np.random.default_rng(2).permutation(truth.spots.n_spots)
    turned = predict(method, dataclasses.replace(fold, test=(permuted(fold.test[0], order),)))
    np.testing.assert_allclose(turned.expression, first.expression[order], **CLOSE)
    if first.counts is not None and turned.counts is not None:
        np.testing.assert_allclose(turned.counts.rate, first.counts.rate[order], rtol=1e-3)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("method", ANYWHERE, ids=lambda m: m.name)
def test_one_training_section_and_two_test_sections_of_few_spots(method: Method) -> None:
    tests = (section("S8", 8, n_spots=1).spots, section("S9", 9, n_spots=2).spots)
    fold = task((section("S0", 0).spots,), tuple(unmeasured(s) for s in tests))
    predictions = method.fit_predict(fold, seed=0)
    assert {name: p.expression.shape for name, p in predictions.items()} == {"S8": (1, 17), "S9": (2, 17)}
    assert all(np.isfinite(p.expression).all() for p in predictions.values())


@pytest.mark.usefixtures("short")
def test_only_seeded_methods_differ_between_seeds() -> None:
    fold, _ = cohort_task()
    for method in ANYWHERE:
        one, two = (predict(method, fold, seed).expression for seed in (0, 1))
        assert np.array_equal(one, two) != method.is_seeded, method.name
