"""What a run that was stopped goes on with, and what it must not go on with."""

import numpy as np
import pytest

from spam.errors import StoreError
from spam.store import open_store

KEY = "tiny_112um"
RUN = {"--batch-size": 3, "--device": "cpu"}


@pytest.fixture
def values(section):
    return np.random.default_rng(1).normal(size=(section.n_spots, 5)).astype(np.float16)


def write(section, meta, values, *, n_chunks=None, **how):
    """Write the first pending chunks, and finish where all are there."""
    writer = section.feature_writer(meta, **how)
    pending = writer.pending
    for chunk in pending[:n_chunks]:
        writer.write(chunk, values[chunk].astype(np.float32))
    if not writer.pending:
        writer.finish()
    return len(pending)


@pytest.mark.parametrize("changes", [{"--batch-size": 7}, {"--device": "cuda"}])
def test_another_run_is_not_mixed_in(section, make_feature_meta, values, changes):
    meta = make_feature_meta()
    n_all = write(section, meta, values, n_chunks=2, run=RUN)
    (name,) = changes
    with pytest.raises(StoreError, match=rf"begun differently: {name} .* when they were begun.*--overwrite"):
        section.feature_writer(meta, run={**RUN, **changes})
    assert write(section, meta, values, run=RUN) == n_all - 2
    assert section.feature_writer(meta, run={**RUN, **changes}).pending == []  # what is whole is whole


def test_overwriting_the_same_goes_on_after_a_kill(section, make_feature_meta, values, tree, store):
    """Damage is mended by writing the same again: that must not begin anew each time, nor keep the old."""
    meta = make_feature_meta()
    n_all = write(section, meta, values, run=RUN)
    new = -values
    write(section, meta, new, n_chunks=2, run=RUN, is_overwrite=True)
    np.testing.assert_array_equal(section.features(KEY), values.astype(np.float32))
    again = open_store(store.folder, is_read_only=False).section("C2")
    assert write(again, meta, new, n_chunks=1, run=RUN, is_overwrite=True) == n_all - 2
    assert write(again, meta, new, run=RUN) == n_all - 3  # without --overwrite it goes on as well
    np.testing.assert_array_equal(again.features(KEY), new.astype(np.float32))
    assert again.unfinished_keys == ()
    assert (
        write(again, meta, values, n_chunks=0, run=RUN, is_overwrite=True) == n_all
    )  # a new wish begins anew


def test_overwriting_otherwise_begins_anew(section, make_feature_meta, values):
    meta = make_feature_meta()
    n_all = write(section, meta, values, run=RUN)
    write(section, meta, -values, n_chunks=2, run=RUN, is_overwrite=True)
    other = {**RUN, "--batch-size": 5}
    assert write(section, meta, -values, n_chunks=0, run=other, is_overwrite=True) == n_all


def test_unfinished_features_begin_anew_when_told(section, make_feature_meta, values):
    meta = make_feature_meta()
    n_all = write(section, meta, values, n_chunks=2, run=RUN)
    assert write(section, meta, values, n_chunks=0, run=RUN, is_overwrite=True) == n_all


def test_chunks_that_nobody_can_read_begin_anew_when_told(section, store, make_feature_meta, values):
    meta = make_feature_meta()
    n_all = write(section, meta, values, n_chunks=2, run=RUN)
    (store.folder / ".unfinished" / "C2" / "obsm" / KEY / "features.json").write_text("{")
    with pytest.raises(StoreError, match=r"cannot be gone on with.*--overwrite"):
        section.feature_writer(meta, run=RUN)
    assert write(section, meta, values, run=RUN, is_overwrite=True) == n_all
    np.testing.assert_array_equal(section.features(KEY), values.astype(np.float32))


def test_the_graph_of_replaced_features_goes_with_them(section, store, make_feature_meta, make_graph, values):
    meta = make_feature_meta()
    write(section, meta, values)
    write(section, make_feature_meta(key="other_1px"), values)
    for key in (f"features_{KEY}", "features_other_1px", "spatial"):
        section.write_graph(key, make_graph())
    write(section, meta, -values, is_overwrite=True)
    assert section.graph_keys == ("features_other_1px", "spatial")
    assert not list(store.folder.rglob(f"features_{KEY}_*"))
    assert section.graph("features_other_1px") is not None
