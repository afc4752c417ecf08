import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from spam.errors import StoreError
from spam.graphs import spatial_knn_graph
from spam.models import inputs
from spam.models.checkpoint import from_tensors, to_tensors
from spam.models.inputs import InputTransform, SectionContext, context_features, contexts_of

Section = tuple[np.ndarray, csr_matrix]


def drawn(seed: int, *sizes: int) -> list[Section]:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(n, 7)).astype(np.float32),
            spatial_knn_graph(rng.random((n, 2)), k=5).connectivities,
        )
        for n in sizes
    ]


def test_context_is_a_mean_over_the_neighbourhood() -> None:
    ((features, connectivities),) = drawn(0, 37)
    weights = connectivities.toarray() + np.eye(37)
    weights /= weights.sum(axis=1, keepdims=True)
    f = features.astype(float)
    slow = np.concatenate([f, weights @ f, weights @ (weights @ (weights @ f))], axis=1)
    np.testing.assert_allclose(context_features(features, connectivities), slow, atol=1e-5)
    rows = np.array([3, 11, 29])
    found = SectionContext.of(features, connectivities, rows)
    np.testing.assert_allclose(found.origin, f.mean(axis=0), atol=1e-6)
    slow -= np.tile(found.origin, 3)
    np.testing.assert_allclose(found.mean, slow.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.std, slow.std(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.sample, slow[rows], atol=1e-5)


class Recorded:
    """Features that record which columns were asked for."""

    def __init__(self, features: np.ndarray) -> None:
        self._features, self.shape, self.dtype = features, features.shape, features.dtype
        self.asked: list[range] = []

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        self.asked.append(range(self.shape[1])[key[1]])
        return self._features[key]


@pytest.mark.parametrize(("n_bytes", "n_reads"), [(1, 4), (37 * 4 * 5, 2), (1 << 29, 1)])
def test_a_store_is_read_as_often_as_the_memory_demands(
    monkeypatch: pytest.MonkeyPatch, n_bytes: int, n_reads: int
) -> None:
    ((features, connectivities),) = drawn(0, 37)
    rows = np.array([3, 11, 29])
    monkeypatch.setattr(inputs, "_COLUMNS", 2)
    whole = SectionContext.of(features, connectivities, rows)
    monkeypatch.setattr(inputs, "_READ", n_bytes)
    recorded = Recorded(features)
    parts = SectionContext.of(recorded, connectivities, rows)
    assert len(recorded.asked) == n_reads
    assert [column for columns in recorded.asked for column in columns] == list(range(7))
    for name in ("origin", "mean", "std", "sample"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


def test_inputs_are_scaled_by_the_larger_of_two_spreads() -> None:
    sections = drawn(0, 53, 41, 31)
    even, flat, new = (
        (f * scale + 3, w) for (f, w), scale in zip(sections, np.float32([1, 0.5, 0.2]), strict=True)
    )
    transform = InputTransform.fit(contexts_of([even, flat]), 5)
    wide = {
        name: context_features(*s).astype(float) for name, s in (("even", even), ("flat", flat), ("new", new))
    }
    spread = np.sqrt((53 * wide["even"].var(axis=0) + 41 * wide["flat"].var(axis=0)) / 94)
    np.testing.assert_allclose(transform.spread, spread, rtol=1e-5)

    def scaled(section: np.ndarray) -> np.ndarray:
        return (section - section.mean(axis=0)) / (np.maximum(section.std(axis=0), spread) + 1e-3)

    pooled = np.concatenate([scaled(wide["even"]), scaled(wide["flat"])])
    components = PCA(5).fit(StandardScaler().fit_transform(pooled))
    slow = components.transform((scaled(wide["new"]) - pooled.mean(axis=0)) / pooled.std(axis=0))
    unit = np.sqrt((components.transform(StandardScaler().fit_transform(pooled)) ** 2).mean())
    found = transform.apply(*new)
    sign = np.sign((found * slow).sum(axis=0))  # of a component is arbitrary
    np.testing.assert_allclose(found, sign * slow / unit, atol=1e-4)
    again = from_tensors(InputTransform, to_tensors(transform, "inputs"), "inputs")
    np.testing.assert_array_equal(again.apply(*new), found)


def test_held_out_spots_do_not_affect_the_inputs_but_for_the_mean_of_a_cut_section() -> None:
    known, held_out = drawn(1, 53, 41)
    alone = InputTransform.fit(contexts_of([known]), 5)
    is_fitted = [np.ones(53, dtype=bool), np.zeros(41, dtype=bool)]
    beside = InputTransform.fit(contexts_of([known, held_out]), 5, is_fitted=is_fitted)
    np.testing.assert_allclose(beside.spread, alone.spread, rtol=1e-12)
    np.testing.assert_allclose(beside.apply(*held_out), alone.apply(*held_out), atol=1e-5)
    cut = np.arange(53) < 37
    transform = InputTransform.fit(contexts_of([known]), 5, is_fitted=[cut])
    wide = context_features(*known).astype(float)
    centred = wide - wide.mean(axis=0)
    spread = np.sqrt((centred[cut] ** 2).mean(axis=0))
    np.testing.assert_allclose(transform.spread, spread, rtol=1e-5)
    scaled = centred / (np.maximum(wide.std(axis=0), spread) + 1e-3)
    np.testing.assert_allclose(transform.components.pca.mean, scaled[cut].mean(axis=0), atol=1e-6)


def test_components_of_many_spots_are_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the sample decides over the components; mean and spread of each section stay those of all spots."""
    sections = drawn(2, 211, 101)
    whole = contexts_of(sections)
    monkeypatch.setattr(inputs, "_MOST_VALUES", 3 * 7 * 156)  # half of the spots
    half = contexts_of(sections)
    assert [len(c.rows) for c in half] == [106, 50]
    for one, two in zip(whole, half, strict=True):
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.std, two.std)
        np.testing.assert_array_equal(one.sample[two.rows], two.sample)
    sampled = [np.isin(np.arange(len(f)), c.rows) for (f, _), c in zip(sections, half, strict=True)]
    found = InputTransform.fit(half, 5)
    as_fitted = InputTransform.fit(whole, 5, is_fitted=sampled)
    np.testing.assert_array_equal(found.components.pca.components, as_fitted.components.pca.components)


def test_a_nan_is_reported_with_the_rows_of_its_section() -> None:
    good, bad = drawn(3, 53, 41)
    bad[0][11, 3] = np.nan
    with pytest.raises(StoreError, match="of 94 "):
        InputTransform.fit(contexts_of([good, bad]), 5)
