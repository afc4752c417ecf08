"""Features: written by chunks, resumed, replaced, and what is refused."""

import dataclasses
import itertools
import json
import tempfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.schemas.store_format import QUALITY, feature_identity, quality_key
from spam.store import StoredRows, chunk_slices, create_store, default_chunk_rows, open_store
from spam.typing import Array

KEY = "tiny_112um"
RUN = {"--batch-size": 3, "--device": "cpu"}


def features_of(n: int, dim: int) -> Array:
    """Values that float16 holds exactly, each in one place only."""
    return (np.arange(n * dim, dtype=np.float32).reshape(n, dim) - 7) / 8


def write(section, meta, rows, *, n_chunks=None, **how):
    """Write the first pending chunks, and finish if all are written; return how many were pending."""
    writer = section.feature_writer(meta, **how)
    pending = writer.pending
    for chunk in pending[:n_chunks]:
        writer.write(chunk, rows[chunk])
    if not writer.pending:
        writer.finish()
    return len(pending)


@given(
    n=st.integers(1, 29),
    dim=st.integers(1, 11),
    chunk_rows=st.integers(1, 31),
    dtype=st.sampled_from(["float16", "float32"]),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=12)
def test_rows_come_back_whatever_the_chunks(add, make_feature_meta, n, dim, chunk_rows, dtype, order):
    meta = make_feature_meta(dim=dim, chunk_rows=chunk_rows, dtype=dtype)
    rows = np.random.default_rng(3).standard_normal((n, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        bare = {"n_genes": 0, "has_counts": False, "obs": {}, "overview": None}
        writer = add(create_store(Path(folder)), n_spots=n, **bare).feature_writer(meta)
        assert writer.chunks == chunk_slices(n, chunk_rows)
        chunks = writer.pending
        order.shuffle(chunks)
        for chunk in chunks:
            writer.write(chunk, rows[chunk])
        writer.finish()
        section = open_store(folder).section("C2")
        assert section.feature_meta(KEY) == meta
        assert section.features(KEY).dtype == np.float32
        np.testing.assert_array_equal(section.features(KEY), rows.astype(dtype).astype(np.float32))
        np.testing.assert_array_equal(section.stored_features(KEY), rows.astype(dtype))
        np.testing.assert_array_equal(
            zarr.open_array(f"{folder}/C2/obsm/{KEY}", mode="r")[...], rows.astype(dtype)
        )


@given(
    n=st.integers(1, 29),
    chunk_rows=st.integers(1, 31),
    n_threads=st.sampled_from([1, 8]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=12)
def test_rows_are_read_when_they_are_asked_for(add, make_feature_meta, n, chunk_rows, n_threads, seed):
    rng = np.random.default_rng(seed)
    whole = [features_of(n, dim).astype(dtype) for dim, dtype in ((5, "float16"), (3, "float32"))]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.features._N_THREADS", n_threads)
        section = add(
            create_store(Path(folder)), n_spots=n, n_genes=0, has_counts=False, obs={}, overview=None
        )
        for number, rows in enumerate(whole):
            meta = make_feature_meta(
                key=f"tiny_{number}px", dim=rows.shape[1], chunk_rows=chunk_rows, dtype=rows.dtype.name
            )
            write(section, meta, rows)
        is_among = rng.random(n) < 0.7
        found = StoredRows(section, ("tiny_0px", "tiny_1px"), is_among)
        truth = np.concatenate(whole, axis=1)[is_among]
        assert (found.shape, found.dtype, len(found)) == (truth.shape, truth.dtype, len(truth))
        some = rng.random(len(truth)) < 0.5
        for rows in (slice(None), slice(2, 7), slice(7, None), some, np.flatnonzero(some)):
            for columns in (slice(None), slice(0, 2), slice(4, 7), slice(5, 99), slice(None, 6)):
                np.testing.assert_array_equal(found[rows, columns], truth[rows, columns])
            np.testing.assert_array_equal(found[rows], truth[rows])


def test_rows_that_changed_since_they_were_opened_are_refused(section, store, make_feature_meta):
    write(section, make_feature_meta(), features_of(section.n_spots, 5))
    rows = StoredRows(section, (KEY,), np.ones(section.n_spots, dtype=bool))
    assert len(rows[3:5]) == 2
    chunk = next((Path(store.folder) / "C2" / "obsm" / KEY / "c").glob("*/0"))
    content = chunk.read_bytes()
    chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(StoreError, match="do not match their checksum"):
        rows[:]
    chunk.write_bytes(content)
    meta = make_feature_meta(weights_sha256="ef" * 32)
    values = features_of(section.n_spots, meta.dim)
    write(open_store(store.folder, is_read_only=False).section("C2"), meta, values, is_overwrite=True)
    with pytest.raises(StoreError, match="were replaced"):
        rows[:]


@given(n=st.integers(1, 10**7), chunk_rows=st.integers(1, 5000))
def test_chunks_cover_all_rows_in_few_files(n, chunk_rows):
    chunks = chunk_slices(n, chunk_rows)
    assert [chunks[0].start, chunks[-1].stop] == [0, n]
    assert all(a.stop == b.start for a, b in itertools.pairwise(chunks))
    lengths = {chunk.stop - chunk.start for chunk in chunks[:-1]}
    assert len(lengths) <= 1
    assert 0 < chunks[-1].stop - chunks[-1].start <= max(lengths, default=n)
    assert len(chunks) <= 128
    assert len(chunks) == 1 or len(chunks) == 128 or chunks[0].stop <= chunk_rows or n > 128 * chunk_rows


def test_a_chunk_is_about_two_megabytes_and_a_million_tiles_few_files():
    assert [default_chunk_rows(dim, "float16") for dim in (1024, 1536)] == [1024, 512]
    assert default_chunk_rows(1536, "float32") == 256
    # features and tile quality
    assert 2 * len(chunk_slices(10**6, default_chunk_rows(1536, "float16"))) <= 256


def test_million_tiles_are_fewer_than_a_thousand_files(
    store, add, make_feature_meta, make_graph, monkeypatch
):
    """Scaled down by a thousand: 1,000 spots, chunks that hold a thousandth, with counts, features, quality and a graph."""
    monkeypatch.setattr("spam.store.writing._CHUNK_ENTRIES", (1 << 18) // 1000)
    monkeypatch.setattr("spam.store.writing._CHUNK_ROWS", (1 << 20) // 1000)
    section = add(store, n_spots=1000, n_genes=500)
    assert section.counts().nnz > 200_000  # of a million spots: 2e8
    for key, origin in ((quality_key(KEY), QUALITY), (KEY, "embed")):
        write(section, make_feature_meta(key=key, origin=origin, chunk_rows=1), features_of(1000, 5))
    section.write_graph("spatial", make_graph(n=1000, k=6))
    n_files = sum(path.is_file() for path in store.folder.rglob("*"))
    assert 400 < n_files < 1000


def test_chunk_file_is_the_rows_and_their_checksum(section, store, make_feature_meta, fill):
    rows = features_of(13, 5)
    fill(section.feature_writer(make_feature_meta()), rows)
    padded = np.concatenate([rows, np.full((2, 5), np.nan)]).astype("<f2")
    folder = store.folder / "C2/obsm" / KEY / "c"
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "3", "4"]
    for number in range(5):
        content = (folder / str(number) / "0").read_bytes()
        expected = padded[3 * number : 3 * number + 3].tobytes()
        assert content == expected + google_crc32c.value(expected).to_bytes(4, "little")
    np.testing.assert_array_equal(np.fromfile(folder / "1/0", "<f2", 15).reshape(3, 5), rows[3:6])


def test_resumed_array_equals_an_unbroken_one(
    store, section, make_feature_meta, fill, tree, tmp_path, pristine, caplog
):
    rows = features_of(13, 5)
    whole = create_store(tmp_path / "unbroken")
    for path, content in tree(pristine).items():
        (whole.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (whole.folder / path).write_bytes(content)
    fill(whole.section("C2").feature_writer(make_feature_meta()), rows)

    writer = section.feature_writer(make_feature_meta(), run=RUN)
    for chunk in (slice(9, 12), slice(0, 3)):
        writer.write(chunk, rows[chunk])
    section = open_store(store.folder, is_read_only=False).section("C2")
    assert (section.feature_keys, section.unfinished_keys) == ((), (KEY,))
    for read in (section.features, section.stored_features, section.feature_meta, section.feature_identity):
        with pytest.raises(StoreError, match=rf"'C2'.*{KEY}.* unfinished.*`spam embed`"):
            read(KEY)
    with pytest.raises(StoreError, match=r"3 of 5 chunks are missing.*spam embed"):
        writer.finish()
    for changes in ({"--batch-size": 7}, {"--device": "cuda"}):
        ((name, value),) = changes.items()
        with pytest.raises(
            StoreError, match=rf"begun differently: {name} {RUN[name]!r} in the store, {value!r} now"
        ):
            section.feature_writer(make_feature_meta(), run={**RUN, **changes})
    newer = make_feature_meta(software={"spam": "9"})
    writer = section.feature_writer(newer, run=RUN)
    assert "begun with {'spam': '0.1.0', 'torch': '2'}" in caplog.text
    assert writer.chunks == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12), slice(12, 13)]
    assert writer.pending == [slice(3, 6), slice(6, 9), slice(12, 13)]
    fill(writer, rows)
    writer.finish()  # again changes nothing
    assert (writer.pending, section.feature_keys, section.unfinished_keys) == ([], (KEY,), ())
    assert tree(store.folder) == tree(whole.folder)
    again = section.feature_writer(make_feature_meta(), run={**RUN, "--batch-size": 7})
    assert (again.pending, again.is_finished) == ([], True)
    again.finish()
    assert tree(store.folder) == tree(whole.folder)


@pytest.mark.parametrize(
    ("chunk", "rows", "message"),
    [
        (slice(0, 2), np.zeros((2, 5)), "rows 0:2"),
        (slice(1, 4), np.zeros((3, 5)), "rows 1:4"),
        (slice(0, 3), np.zeros((2, 5)), r"shape \(2, 5\)"),
        (slice(12, 13), np.zeros((3, 5)), r"shape \(3, 5\)"),
        (slice(0, 3), np.zeros((3, 7)), r"shape \(3, 7\)"),
        (slice(3, 6), np.diag([0.0] * 4 + [np.nan])[2:], "not finite in 1 rows, the first is row 5"),
        (slice(3, 6), np.full((3, 5), -np.inf), "not finite in 3 rows, the first is row 3"),
        (slice(3, 6), np.full((3, 5), 7e4), "float16.*--dtype float32"),
    ],
)
def test_chunk_is_refused(section, make_feature_meta, chunk, rows, message):
    writer = section.feature_writer(make_feature_meta())
    with pytest.raises(StoreError, match=message):
        writer.write(chunk, rows)
    assert writer.pending == section.feature_writer(make_feature_meta()).pending == writer.chunks


def test_float32_keeps_what_float16_cannot(section, make_feature_meta, fill):
    rows = np.full((13, 5), 7e4, dtype=np.float32)
    fill(section.feature_writer(make_feature_meta(dtype="float32")), rows)
    np.testing.assert_array_equal(section.features(KEY), rows)


def test_every_field_of_the_meta_counts(section, make_feature_meta, fill):
    """Whether features are finished or begun, others under their key are refused, and the difference is named."""
    begun = make_feature_meta(key="begun_1px")
    section.feature_writer(begun)
    fill(section.feature_writer(make_feature_meta()), features_of(13, 5))
    identity = section.feature_identity(KEY)
    changes = {
        "origin": ("import:trident", "origin 'embed' in the store, 'import:trident' now"),
        "encoder": ({"name": "tiny", "revision": "v2"}, r"encoder\.revision None.*; encoder\.mean \[0\.5"),
        "weights_sha256": ("ef" * 32, "weights_sha256 'cdcd.* in the store, 'efef"),
        "lora_sha256": ("ab" * 32, "lora_sha256 None"),
        "tile": ({"tile_um": 224.0, "tile_px": None, "out_px": 224}, r"tile\.tile_um 112\.0 in"),
        "sampling": (None, "sampling .*None now"),
        "precision": (None, "precision 'float32'"),
        "dim": (1, "dim 5 in the store, 1 now"),
        "dtype": ("float32", "dtype 'float16'"),
        "chunk_rows": (1, "chunk_rows 3"),
        "is_averaged": (True, "is_averaged False"),
        "adapted_on": (("S9",), r"adapted_on \[\] in the store, \['S9'\] now"),
    }
    assert {"key", "software", *changes} == {field.name for field in dataclasses.fields(begun)}
    for field, (value, message) in changes.items():
        asked = make_feature_meta(**{field: value})
        for meta, how in ((asked, "computed"), (dataclasses.replace(asked, key="begun_1px"), "begun")):
            with pytest.raises(StoreError, match=rf"{how} differently: {message}.*--overwrite"):
                section.feature_writer(meta)
        assert (feature_identity(section.meta, asked) == identity) == (field == "chunk_rows")
    for same in ({"software": {"spam": "9"}}, {"encoder": {"name": "tiny", "mean": (0.5, 0.5, 0.5)}}):
        assert section.feature_writer(make_feature_meta(**same)).is_finished


def test_features_of_other_spots_are_not_resumed(store, section, add, make_feature_meta):
    section.feature_writer(make_feature_meta()).write(slice(0, 3), features_of(3, 5))
    waiting = (store.folder / "C2/obsm" / KEY).rename(store.folder.parent / "waiting")
    section = add(store, spots_sha256="01" * 32)
    waiting.rename(store.folder / "C2/obsm" / KEY)
    with pytest.raises(StoreError, match=r"begun differently: identity .*--overwrite"):
        section.feature_writer(make_feature_meta())
    assert len(section.feature_writer(make_feature_meta(), is_overwrite=True).pending) == 5


def test_writer_whose_features_were_replaced_does_not_finish(section, store, make_feature_meta):
    meta, rows = make_feature_meta(), features_of(13, 5)
    writer = section.feature_writer(meta)
    writer.write(slice(0, 3), rows[:3])
    other = make_feature_meta(weights_sha256="01" * 32)
    write(store.section("C2"), other, rows, is_overwrite=True)
    with pytest.raises(StoreError, match=rf"{KEY} was replaced by another process.*spam embed"):
        writer.finish()
    assert store.section("C2").feature_meta(KEY) == other


def test_overwriting_begins_again_and_is_resumed(section, store, make_feature_meta, make_graph):
    meta, old = make_feature_meta(), features_of(13, 5)
    other = make_feature_meta(key="other_1px")
    for one in (meta, other):
        write(section, one, old, run=RUN)
        write(section, dataclasses.replace(one, key=quality_key(one.key), origin=QUALITY), old)
    for key in (f"features_{KEY}", "features_other_1px", "spatial"):
        section.write_graph(key, make_graph())
    write(section, meta, -old, n_chunks=2, run=RUN, is_overwrite=True)
    assert (section.feature_keys, section.unfinished_keys) == (("other_1px",), (KEY,))
    assert section.graph_keys == ("features_other_1px", "spatial")
    assert section.quality_keys == ("other_1px_quality",)
    assert not list(store.folder.rglob(f"features_{KEY}_*"))
    again = open_store(store.folder, is_read_only=False).section("C2")
    assert write(again, meta, -old, n_chunks=1, run=RUN, is_overwrite=True) == 3
    assert write(again, meta, -old, run=RUN) == 2  # without --overwrite it resumes as well
    np.testing.assert_array_equal(again.features(KEY), -old)
    different = {**RUN, "--batch-size": 5}
    assert write(again, meta, old, n_chunks=2, run=RUN, is_overwrite=True) == 5
    assert write(again, meta, old, n_chunks=0, run=different, is_overwrite=True) == 5
    assert write(again, make_feature_meta(chunk_rows=4), old, n_chunks=0, is_overwrite=True) == 4


def test_overwritten_quality_that_was_finished_first_is_kept(section, make_feature_meta):
    """A run with --overwrite that is killed between the two ends and is started again."""
    meta, rows = make_feature_meta(), features_of(13, 5)
    quality = make_feature_meta(key=quality_key(KEY), origin=QUALITY)
    for one in (meta, quality):
        write(section, one, rows, is_overwrite=True)
    for _ in range(2):
        write(section, meta, -rows, n_chunks=2, is_overwrite=True)
        write(section, quality, -rows, is_overwrite=True)
    np.testing.assert_array_equal(section.features(quality_key(KEY)), -rows)
    assert write(section, meta, -rows, is_overwrite=True) == 1
    assert section.quality_keys == (quality_key(KEY),)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"attributes": {"spam": {}}}'])
def test_unreadable_beginning_begins_again(section, store, make_feature_meta, content):
    write(section, make_feature_meta(), features_of(13, 5), n_chunks=2)
    (store.folder / "C2/obsm" / KEY / "zarr.json").write_bytes(content)
    assert write(section, make_feature_meta(), features_of(13, 5)) == 5
    np.testing.assert_array_equal(section.features(KEY), features_of(13, 5))


def test_names_and_sizes_that_cannot_be_stored(section, make_feature_meta):
    for changes, message in (
        ({"key": "spatial"}, "'spatial'"),
        ({"key": "a/b"}, "'a/b'"),
        ({"dim": 0}, "dim is 0"),
    ):
        with pytest.raises(StoreError, match=message):
            section.feature_writer(make_feature_meta(**changes))
    with pytest.raises(StoreError, match="--chunk-rows is -1"):
        section.feature_writer(make_feature_meta(chunk_rows=-1))


def test_several_keys_are_listed_in_order_and_unknown_ones_refused(section, make_feature_meta):
    with pytest.raises(StoreError, match=r"no features 'other' \(found: none\).*spam embed"):
        section.features("other")
    for key, dim in (("b_2px", 3), ("B_2px", 2), ("a.v1-x_2px", 1)):
        write(section, make_feature_meta(key=key, dim=dim), features_of(13, dim))
    assert section.feature_keys == ("B_2px", "a.v1-x_2px", "b_2px")
    np.testing.assert_array_equal(section.features("b_2px"), features_of(13, 3))
    with pytest.raises(StoreError, match=r"no features 'spatial' \(found: 'B_2px'"):
        section.feature_meta("spatial")


def test_finished_array_says_nothing_of_the_run(section, store, make_feature_meta):
    write(section, make_feature_meta(), features_of(13, 5), run=RUN)
    attributes = json.loads((store.folder / "C2/obsm" / KEY / "zarr.json").read_bytes())["attributes"]
    assert sorted(attributes["spam"]) == ["identity", "meta"]
    assert attributes["spam"]["identity"] == section.feature_identity(KEY)
