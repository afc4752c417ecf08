"""Shards read by hand against zarr-python, bfloat16 against torch, and every kind of damage."""

import os
import struct
import tempfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.store import create_store, open_store
from spam.store.feature_format import cut, default_chunk_rows, from_stored, is_finite, to_stored

KEY = "tiny_112um"


@given(
    n=st.integers(1, 61),
    dim=st.integers(1, 13),
    chunk_rows=st.integers(1, 67),
    shard_bytes=st.integers(1, 2000),
    dtype=st.sampled_from(["float16", "float32", "bfloat16"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_zarr_reads_the_same_numbers(
    make_record, make_feature_meta, fill, n, dim, chunk_rows, shard_bytes, dtype, seed
):
    rows = np.random.default_rng(seed).normal(0, 99, (n, dim)).astype(np.float32)
    record = make_record(n_spots=n, n_genes=0, has_counts=False, obs={}, overview=None)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.feature_format._SHARD_BYTES", shard_bytes)
        section = create_store(Path(folder)).add_section(record)
        fill(section.feature_writer(make_feature_meta(dim=dim, chunk_rows=chunk_rows, dtype=dtype)), rows)
        array = zarr.open_array(Path(folder) / "C2/obsm" / KEY, mode="r")
        stored, found = section.stored_features(KEY), section.features(KEY)
        np.testing.assert_array_equal(stored, array[...])
        assert (stored.dtype, found.dtype) == (array.dtype, np.dtype("f4"))
        n_shards = len(list((Path(folder) / "C2/obsm" / KEY / "c").iterdir()))
        assert n_shards == -(-n // array.shards[0])
        assert array.shards[0] % array.chunks[0] == 0
    if dtype == "bfloat16":
        np.testing.assert_array_equal(found, torch.from_numpy(rows).to(torch.bfloat16).float().numpy())
    else:
        np.testing.assert_array_equal(found, rows.astype(dtype).astype(np.float32))


@given(
    n=st.integers(1, 10**7),
    dim=st.integers(1, 4096),
    dtype=st.sampled_from(["float16", "float32", "bfloat16"]),
)
def test_the_cut_covers_all_rows_with_little_padding(n, dim, dtype):
    item = 4 if dtype == "float32" else 2
    chunk_rows = default_chunk_rows(dim, dtype)
    assert 2**20.5 <= chunk_rows * dim * item <= 2**21.5  # nearest to 2 MB
    rows = cut(n, dim, dtype, chunk_rows=chunk_rows)
    n_chunks = -(-n // rows.chunk_rows)
    assert rows.chunk_rows <= chunk_rows
    assert rows.shard_rows * dim * item <= max(2**28, rows.chunk_rows * dim * item)
    assert n_chunks * rows.chunk_rows - n < n_chunks  # less than a row of padding per chunk
    if n_chunks < 10**4:
        assert [rows.chunks[0].start, rows.chunks[-1].stop, len(rows.chunks)] == [0, n, n_chunks]


SPECIAL = np.array(
    [
        0.0, -0.0, 1.0, -1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-23, -(1 + 2**-8), 3.3895314e38,
        np.finfo("f4").max, np.finfo("f4").min, np.finfo("f4").tiny, 2.0**-149, 2.0**-133, 1.5 * 2.0**-133,
        2.0**-134, np.inf, -np.inf, np.nan, -np.nan,
    ],
    dtype=np.float32,
)  # fmt: skip


def as_torch(values: np.ndarray) -> np.ndarray:
    """Round as torch does; give the bits."""
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def test_bfloat16_is_rounded_as_torch_does():
    signalling = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7F80FFFF], dtype="<u4").view("<f4")
    values = np.concatenate([SPECIAL, signalling])
    found, expected = to_stored(values[None], "bfloat16")[0], as_torch(values)
    is_nan = np.isnan(values)
    np.testing.assert_array_equal(found[~is_nan], expected[~is_nan])
    back = from_stored(found[None], "bfloat16")[0]
    assert np.isnan(back[is_nan]).all()
    assert not np.isnan(back[~is_nan]).any()


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_any_float_is_rounded_to_bfloat16_as_torch_does(bits):
    values = np.array(bits, dtype="<u4").view("<f4")
    is_number = ~np.isnan(values)
    found = to_stored(values[None], "bfloat16")[0]
    np.testing.assert_array_equal(found[is_number], as_torch(values)[is_number])
    assert np.isnan(from_stored(found[None], "bfloat16")[0][~is_number]).all()


def test_every_bfloat16_comes_back():
    bits = np.arange(2**16, dtype=np.uint16)
    values = from_stored(bits[None], "bfloat16")[0]
    is_number = ~np.isnan(values)
    np.testing.assert_array_equal(to_stored(values[None], "bfloat16")[0][is_number], bits[is_number])
    assert is_number.sum() == 2**16 - 2 * 127


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_finite_is_told_by_the_bits(dtype):
    stored = to_stored(np.concatenate([SPECIAL, [65519.0, 65520.0]]).astype(np.float32)[None], dtype)
    found = [is_finite(stored[:, [column]], dtype) for column in range(stored.shape[1])]
    np.testing.assert_array_equal(found, np.isfinite(from_stored(stored, dtype))[0])
    assert not is_finite(stored, dtype)


@pytest.fixture
def shard(section, store, make_feature_meta, fill, small_shards) -> Path:
    """The last shard of 13 rows: chunks of rows 12:13 (with two rows of padding) and none."""
    fill(section.feature_writer(make_feature_meta()), np.arange(65, dtype=np.float32).reshape(13, 5))
    return store.folder / "C2/obsm" / KEY / "c/2/0"


def test_a_flip_of_any_byte_is_found(store, shard):
    whole = shard.read_bytes()
    found = set()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        shard.write_bytes(changed)
        for read in (store.section("C2").features, store.section("C2").stored_features):
            with pytest.raises(
                StoreError, match=r"damaged at .*C2/obsm/tiny_112um: rows 12:13.*fresh copy"
            ) as raised:
                read(KEY)
        found.add(str(raised.value).split("tiny_112um: ")[1].split(";")[0])
    assert found == {
        "rows 12:13 do not have the checksum that was written with them",
        "rows 12:13: the index of their shard is not what was written",
    }
    shard.write_bytes(whole)
    assert store.section("C2").features(KEY)[12].tolist() == [60, 61, 62, 63, 64]


def with_index(content: bytes, *entries: int) -> bytes:
    """Write the offsets and lengths of a shard's chunks anew, with a checksum that fits."""
    index = struct.pack(f"<{len(entries)}Q", *entries)
    body = content[: len(content) - 4 - len(index)]
    return body + index + struct.pack("<I", google_crc32c.value(index))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((0, 33, 2**64 - 1, 2**64 - 1), "a chunk is missing"),
        ((0, 35, 2**64 - 1, 2**64 - 1), "a chunk is missing"),
        ((2**64 - 1, 2**64 - 1, 0, 34), "a chunk is missing"),
        ((2**63, 34, 0, 34), "a chunk is missing"),
        ((1, 34, 0, 34), "a chunk is missing|do not have the checksum"),
        ((40, 34, 0, 34), "a chunk is missing"),
    ],
)
def test_an_index_of_a_stranger_leads_nowhere(store, shard, reindex, entries, message):
    shard.write_bytes(with_index(shard.read_bytes(), *entries))
    reindex(store.folder / "C2", f"obsm/{KEY}/c/2/0")
    with pytest.raises(StoreError, match=rf"damaged at .*tiny_112um: rows 12:13:? ({message})"):
        open_store(store.folder).section("C2").features(KEY)


@pytest.mark.parametrize("n_bytes", [0, 3, 19])
def test_a_shard_too_short_for_its_index(store, shard, reindex, n_bytes):
    shard.write_bytes(shard.read_bytes()[:n_bytes])
    reindex(store.folder / "C2", f"obsm/{KEY}/c/2/0")
    with pytest.raises(
        StoreError, match=r"damaged at .*tiny_112um: rows 12:13: the index of their shard|files have"
    ):
        open_store(store.folder).section("C2").features(KEY)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 0x7C00), ("float32", 0x7FC00000), ("bfloat16", 0xFF80)]
)
def test_a_number_that_is_none_is_found_though_the_checksum_fits(
    store, section, make_feature_meta, fill, reindex, dtype, value
):
    fill(section.feature_writer(make_feature_meta(dtype=dtype, chunk_rows=13)), np.zeros((13, 5)))
    path = store.folder / "C2/obsm" / KEY / "c/0/0"
    content, item = bytearray(path.read_bytes()), 4 if dtype == "float32" else 2
    content[7 * item : 8 * item] = value.to_bytes(item, "little")
    content[65 * item : 65 * item + 4] = struct.pack("<I", google_crc32c.value(bytes(content[: 65 * item])))
    path.write_bytes(content)
    reindex(store.folder / "C2", f"obsm/{KEY}/c/0/0")
    with pytest.raises(StoreError, match=r"tiny_112um: rows 0:13 hold numbers that are not finite"):
        store.section("C2").features(KEY)


def test_handles_are_closed_whatever_happens(store, shard):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a count
    store.section("C2").features(KEY)
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(StoreError):
        store.section("C2").features(KEY)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
