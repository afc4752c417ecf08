import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError
from spam.models.probe import chance_accuracy, probe_accuracy, stratified_folds


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    n_folds=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
def test_each_fold_has_its_share_of_each_label(sizes, n_folds, seed):
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    folds = stratified_folds(labels, n_folds, seed)
    for label, size in zip(np.unique(labels), sizes, strict=True):
        share = np.bincount(folds[labels == label], minlength=n_folds)
        np.testing.assert_array_equal(
            share, [size // n_folds + (fold < size % n_folds) for fold in range(n_folds)]
        )
    np.testing.assert_array_equal(folds, stratified_folds(labels, n_folds, seed))


def test_folds_are_drawn_at_random():
    labels = np.zeros(31, dtype=np.int64)
    assert (stratified_folds(labels, 5, 0) != stratified_folds(labels, 5, 1)).any()
    assert (stratified_folds(labels, 5, 0) != np.arange(31) % 5).any()


@pytest.mark.parametrize(("n", "d"), [(97, 11), (41, 53)])
def test_accuracy_equals_that_of_scikit_learn(n, d):
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 3, n) * 2
    x = rng.normal(size=(n, d)) * rng.random(d) + 0.5 * np.eye(d)[labels]
    folds = stratified_folds(labels, 5, 0)
    n_right = 0
    for fold in range(5):
        fitted, left = folds != fold, folds == fold
        n_components = min(256, fitted.sum() - 1, d)
        model = make_pipeline(
            StandardScaler(), PCA(n_components, svd_solver="full"), Ridge(alpha=float(fitted.sum()))
        )
        model.fit(x[fitted], np.eye(5)[labels[fitted]])
        n_right += (model.predict(x[left]).argmax(axis=1) == labels[left]).sum()
    assert probe_accuracy(x, labels, folds) == pytest.approx(n_right / n)


def test_what_can_be_told_is_told_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 251)
    folds = stratified_folds(labels, 5, 0)
    noise = rng.normal(size=(502, 7))
    assert probe_accuracy(noise + 10 * labels[:, None], labels, folds) == 1.0
    assert probe_accuracy(noise, labels, folds) == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / 502))


def test_an_embedding_without_variation_tells_as_much_as_chance():
    labels = np.repeat([4, 7], [11, 19])
    folds = stratified_folds(labels, 5, 0)
    assert probe_accuracy(np.ones((30, 3)), labels, folds) == chance_accuracy(labels) == 19 / 30


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [([1, 1, 1], [0, 1, 2], "not 1 and 3"), ([0, 1, 1], [2, 2, 2], "two labels and two folds, not 2 and 1")],
)
def test_one_label_or_one_fold_is_refused(labels, folds, words):
    with pytest.raises(ConfigError, match=words):
        probe_accuracy(np.eye(3), np.array(labels), np.array(folds))
