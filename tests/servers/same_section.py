"""Whether two stored sections hold the same, value by value."""

import numpy as np

from spam.store import StoredSection


def assert_same_section(found: StoredSection, expected: StoredSection) -> None:
    assert found.meta == expected.meta
    assert found.feature_keys == expected.feature_keys
    assert found.graph_keys == expected.graph_keys
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.xy_px, expected.xy_px)
    for key in expected.feature_keys:
        assert found.feature_meta(key) == expected.feature_meta(key)
        np.testing.assert_array_equal(found.stored_features(key), expected.stored_features(key))
    for key in expected.graph_keys:
        one, two = found.graph(key), expected.graph(key)
        assert one is not None
        assert two is not None
        assert (one.distances != two.distances).nnz == 0
    for name, values in expected.obs.items():
        np.testing.assert_array_equal(found.obs[name], values)
    if expected.meta.has_counts:
        assert (found.counts() != expected.counts()).nnz == 0
    overview, other = found.overview(), expected.overview()
    assert (overview is None) == (other is None)
    if overview is not None and other is not None:
        np.testing.assert_array_equal(overview.image, other.image)
