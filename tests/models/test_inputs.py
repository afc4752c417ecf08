import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from spam.errors import StoreError
from spam.graphs import spatial_knn_graph
from spam.models.checkpoint import from_tensors, to_tensors
from spam.models.inputs import InputTransform, context_features


def drawn(seed: int, *sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 7)).astype(np.float32) for n in sizes]


def test_context_is_a_mean_over_the_neighbourhood() -> None:
    (features,) = drawn(0, 37)
    connectivities = spatial_knn_graph(np.random.default_rng(1).random((37, 2)), k=5).connectivities
    weights = connectivities.toarray() + np.eye(37)
    weights /= weights.sum(axis=1, keepdims=True)
    f = features.astype(float)
    slow = np.concatenate([f, weights @ f, weights @ (weights @ (weights @ f))], axis=1)
    np.testing.assert_allclose(context_features(features, connectivities), slow, atol=1e-5)


def test_inputs_are_scaled_by_the_larger_of_two_spreads() -> None:
    even, flat, new = (f * scale + 3 for f, scale in zip(drawn(0, 53, 41, 31), (1, 0.5, 0.2), strict=True))
    even, flat, new = (f.astype(np.float32) for f in (even, flat, new))
    transform = InputTransform.fit([even, flat], 5)
    spread = np.sqrt((53 * even.var(axis=0) + 41 * flat.var(axis=0)) / 94)
    np.testing.assert_allclose(transform.spread, spread, rtol=1e-5)

    def scaled(section: np.ndarray) -> np.ndarray:
        return (section - section.mean(axis=0)) / (np.maximum(section.std(axis=0), spread) + 1e-3)

    pooled = np.concatenate([scaled(even), scaled(flat)])
    components = PCA(5).fit(StandardScaler().fit_transform(pooled))
    slow = components.transform((scaled(new) - pooled.mean(axis=0)) / pooled.std(axis=0))
    unit = np.sqrt((components.transform(StandardScaler().fit_transform(pooled)) ** 2).mean())
    found = transform.apply(new)
    sign = np.sign((found * slow).sum(axis=0))  # of a component is arbitrary
    np.testing.assert_allclose(found, sign * slow / unit, atol=1e-4)
    again = from_tensors(InputTransform, to_tensors(transform, "inputs"), "inputs")
    np.testing.assert_array_equal(again.apply(new), found)


def test_held_out_spots_do_not_affect_the_inputs_but_for_the_mean_of_a_cut_section() -> None:
    known, held_out = drawn(1, 53, 41)
    alone = InputTransform.fit([known], 5)
    is_fitted = [np.ones(53, dtype=bool), np.zeros(41, dtype=bool)]
    beside = InputTransform.fit([known, held_out], 5, is_fitted=is_fitted)
    np.testing.assert_allclose(beside.spread, alone.spread, rtol=1e-12)
    np.testing.assert_allclose(beside.apply(held_out), alone.apply(held_out), atol=1e-6)
    is_fitted = np.arange(53) < 37
    transform = InputTransform.fit([known], 5, is_fitted=[is_fitted])
    centred = known - known.mean(axis=0)
    spread = np.sqrt((centred[is_fitted] ** 2).mean(axis=0))
    np.testing.assert_allclose(transform.spread, spread, rtol=1e-5)
    scaled = centred / (np.maximum(known.std(axis=0), spread) + 1e-3)
    np.testing.assert_allclose(transform.components.pca.mean, scaled[is_fitted].mean(axis=0), atol=1e-6)


def test_a_nan_is_reported_with_the_rows_of_its_section() -> None:
    good, bad = drawn(3, 53, 41)
    bad[11, 3] = np.nan
    with pytest.raises(StoreError, match="41 of 94 "):
        InputTransform.fit([good, bad], 5)
