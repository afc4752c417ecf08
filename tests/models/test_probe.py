import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError
from spam.models.probe import chance_accuracy, probe_accuracy


def dealt(labels, n_folds=5):
    """Folds that have their share of each label."""
    folds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        folds[labels == label] = np.arange((labels == label).sum()) % n_folds
    return folds


@pytest.mark.parametrize(("n", "d"), [(97, 11), (41, 53)])
def test_accuracy_equals_that_of_scikit_learn(n, d):
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 3, n) * 2
    x = rng.normal(size=(n, d)) * rng.random(d) + 0.5 * np.eye(d)[labels]
    folds = dealt(labels)
    n_right = 0
    for fold in range(5):
        fitted, left = folds != fold, folds == fold
        n_components = min(256, fitted.sum() - 1, d)
        model = make_pipeline(
            StandardScaler(),
            PCA(n_components, svd_solver="full"),
            LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage=0.1, priors=np.unique(labels, return_counts=True)[1] / n
            ),
        )
        model.fit(x[fitted], labels[fitted])
        n_right += (model.predict(x[left]) == labels[left]).sum()
    assert probe_accuracy(x, labels, folds) == pytest.approx(n_right / n)


def test_what_can_be_told_is_told_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 251)
    folds = dealt(labels)
    noise = rng.normal(size=(502, 7))
    assert probe_accuracy(noise + 10 * labels[:, None], labels, folds) == 1.0
    assert probe_accuracy(noise, labels, folds) == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / 502))


def test_labels_on_a_line_are_told_the_middle_one_too():
    """Where least squares on one column per label would hide the middle one behind its neighbours."""
    labels = np.repeat([0, 1, 2], [23, 29, 31])
    x = 10.0 * labels[:, None] + np.random.default_rng(0).normal(size=(83, 2))
    assert probe_accuracy(x, labels, dealt(labels)) == 1.0


def test_rows_that_are_equal_within_each_label_are_told():
    labels = np.repeat([0, 1, 2], [5, 7, 11])
    assert probe_accuracy(np.eye(3)[labels], labels, dealt(labels)) == 1.0


def test_a_label_of_one_row_is_never_told():
    labels = np.array([0] * 5 + [1] * 7 + [2])
    x = np.eye(3)[labels]
    assert probe_accuracy(x, labels, dealt(labels)) == 12 / 13


def test_a_label_counts_by_its_share_of_all_rows_also_where_half_of_it_is_left_out():
    """Two labels of two groups each, the groups are the folds: two in three of the fitted rows have the other label."""
    labels, folds = np.repeat([0, 0, 1, 1], 41), np.repeat([0, 1, 2, 3], 41)
    x = np.random.default_rng(1).normal(size=(164, 3)) + 0.3 * labels[:, None]

    def by_scikit_learn(priors):
        n_right = 0
        for fold in range(4):
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1, priors=priors)
            steps = make_pipeline(StandardScaler(), PCA(3, svd_solver="full"), model)
            steps.fit(x[folds != fold], labels[folds != fold])
            n_right += (steps.predict(x[folds == fold]) == labels[folds == fold]).sum()
        return n_right / 164

    assert probe_accuracy(x, labels, folds) == pytest.approx(by_scikit_learn([0.5, 0.5]))
    assert by_scikit_learn([0.5, 0.5]) > by_scikit_learn(None)  # by their share of the fitted rows


def test_an_embedding_without_variation_tells_as_much_as_chance():
    labels = np.repeat([4, 7], [11, 19])
    folds = dealt(labels)
    assert probe_accuracy(np.ones((30, 3)), labels, folds) == chance_accuracy(labels) == 19 / 30


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [([1, 1, 1], [0, 1, 2], "not 1 and 3"), ([0, 1, 1], [2, 2, 2], "two labels and two folds, not 2 and 1")],
)
def test_one_label_or_one_fold_is_refused(labels, folds, words):
    with pytest.raises(ConfigError, match=words):
        probe_accuracy(np.eye(3), np.array(labels), np.array(folds))
