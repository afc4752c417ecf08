"""Rows that are computed in another order than that of the spots: the finished array is in the order of the spots."""

import dataclasses

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.store import create_store
from spam.store.feature_format import cut
from spam.store.shard_writer import write_shards


def written(store, meta, rows, *, order=None, name="C2"):
    """Write rows in an order, and give the array and its digest."""
    writer = store.section(name).feature_writer(meta, order=order)
    for chunk in writer.pending:
        writer.write(chunk, rows[chunk if order is None else order[chunk]])
    writer.finish()
    section = store.section(name)
    return section.features(meta.key), section.content_digest(f"obsm/{meta.key}")


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("chunk_rows", [1, 4, 13, 100])
def test_any_order_gives_the_same_bytes(tmp_path, make_record, make_feature_meta, dtype, chunk_rows):
    rows = np.random.default_rng(3).integers(-500, 500, (13, 5)).astype(np.float32) / 4
    meta = make_feature_meta(dtype=dtype, chunk_rows=chunk_rows, dim=5)
    results = []
    for name, order in (
        ("a", None),
        ("b", np.arange(13)),
        ("c", np.arange(13)[::-1].copy()),
        ("d", np.random.default_rng(7).permutation(13)),
    ):
        store = create_store(tmp_path / f"{name}.zarr")
        store.add_section(make_record())
        results.append(written(store, meta, rows, order=order))
    expected = rows if dtype != "bfloat16" else results[0][0]
    for found, digest in results:
        np.testing.assert_array_equal(found, expected)
        assert digest == results[0][1]


def test_another_order_does_not_go_on_with_what_was_begun(tmp_path, make_record, make_feature_meta):
    store = create_store(tmp_path / "s.zarr")
    section = store.add_section(make_record())
    meta = make_feature_meta(chunk_rows=4, dim=5)
    writer = section.feature_writer(meta, order=np.arange(13)[::-1].copy())
    writer.write(writer.pending[0], np.ones((len(range(13)[writer.pending[0]]), 5), np.float32))
    with pytest.raises(StoreError, match=r"order of the rows.*when they were begun"):
        section.feature_writer(meta)
    same = section.feature_writer(meta, order=np.arange(13)[::-1].copy())
    assert len(same.pending) == len(same.chunks) - 1


def test_a_damaged_chunk_is_found_before_anything_is_put_together(tmp_path, make_record, make_feature_meta):
    store = create_store(tmp_path / "s.zarr")
    section = store.add_section(make_record())
    writer = section.feature_writer(
        make_feature_meta(chunk_rows=4, dim=5), order=np.random.default_rng(2).permutation(13)
    )
    for chunk in writer.chunks:
        writer.write(chunk, np.ones((chunk.stop - chunk.start, 5), np.float32))
    staged = sorted((tmp_path / "s.zarr/.unfinished/C2/obsm/tiny_112um").glob("*.rows"))[-1]
    data = bytearray(staged.read_bytes())
    data[3] ^= 1
    staged.write_bytes(data)
    with pytest.raises(StoreError, match="are not what was written"):
        writer.finish()
    assert store.section("C2").feature_keys == ()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n_spots=st.integers(1, 41), chunk_rows=st.integers(1, 17), shard_chunks=st.integers(1, 5))
def test_shards_are_what_zarr_reads(tmp_path_factory, n_spots, chunk_rows, shard_chunks):
    """Whatever the sizes, zarr-python reads the same rows, and NaN where a chunk is padded."""
    folder = tmp_path_factory.mktemp("array")
    rows = np.random.default_rng(n_spots).normal(size=(n_spots, 3)).astype("<f4")
    how = dataclasses.replace(cut(n_spots, 3, "float32", chunk_rows=chunk_rows), shard_chunks=shard_chunks)
    array = zarr.create_array(
        folder,
        shape=rows.shape,
        chunks=(how.chunk_rows, 3),
        shards=(how.shard_rows, 3),
        dtype="<f4",
        fill_value=float("nan"),
        compressors=(zarr.codecs.Crc32cCodec(),),
        zarr_format=3,
    )
    write_shards(folder, (rows[chunk] for chunk in how.chunks), how, 3, "float32")
    np.testing.assert_array_equal(array[:], rows)
