import dataclasses
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.schemas.store_format import feature_identity
from spam.store import create_store, open_store
from spam.typing import Array

KEY = "tiny_112um"


def features_of(n: int, dim: int) -> Array:
    """Values that float16 holds exactly, each in one place only."""
    return (np.arange(n * dim, dtype=np.float32).reshape(n, dim) - 7) / 8


@given(
    n=st.integers(1, 29),
    dim=st.integers(1, 11),
    chunk_rows=st.integers(1, 31),
    dtype=st.sampled_from(["float16", "float32"]),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=12)
def test_rows_come_back_whatever_the_chunks(make_record, make_feature_meta, n, dim, chunk_rows, dtype, order):
    meta = make_feature_meta(dim=dim, chunk_rows=chunk_rows, dtype=dtype)
    rows = np.random.default_rng(3).standard_normal((n, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        record = make_record(n_spots=n, n_genes=0, has_counts=False, obs={}, overview=None)
        section = create_store(Path(folder)).add_section(record)
        writer = section.feature_writer(meta)
        assert [row for chunk in writer.chunks for row in range(n)[chunk]] == list(range(n))
        lengths = [len(range(n)[chunk]) for chunk in writer.chunks]
        assert len(lengths) == -(-n // lengths[0])
        assert len(lengths) <= -(-n // chunk_rows)  # as few as can be
        assert set(lengths[:-1]) <= {lengths[0]}
        assert lengths[-1] <= lengths[0] <= chunk_rows
        chunks = writer.pending
        order.shuffle(chunks)
        for chunk in chunks:
            writer.write(chunk, rows[chunk])
        writer.finish()
        found = open_store(folder).section("C2").features(KEY)
        np.testing.assert_array_equal(found, rows.astype(dtype).astype(np.float32))
        assert found.dtype == np.float32
        stored = open_store(folder).section("C2")
        assert stored.feature_meta(KEY) == meta
        np.testing.assert_array_equal(stored.stored_features(KEY), rows.astype(dtype))


def test_a_resumed_array_equals_an_unbroken_one(
    tmp_path, make_record, make_feature_meta, fill, tree, small_shards
):
    rows = features_of(13, 5)
    unbroken = create_store(tmp_path / "unbroken").add_section(make_record())
    writer = unbroken.feature_writer(make_feature_meta())
    fill(writer, rows)
    assert len(list((tmp_path / "unbroken/C2/obsm" / KEY / "c").iterdir())) == 3

    path = tmp_path / "broken"
    writer = create_store(path).add_section(make_record()).feature_writer(make_feature_meta())
    for chunk in (slice(9, 12), slice(0, 3)):
        writer.write(chunk, rows[chunk])
    del writer
    section = open_store(path, is_read_only=False).section("C2")
    assert (section.feature_keys, section.unfinished_keys) == ((), (KEY,))
    writer = section.feature_writer(make_feature_meta())
    assert writer.chunks == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12), slice(12, 13)]
    assert writer.pending == [slice(3, 6), slice(6, 9), slice(12, 13)]
    fill(writer, rows)
    assert writer.pending == []
    writer.finish()
    writer.finish()  # again is no harm
    assert (section.feature_keys, section.unfinished_keys) == ((KEY,), ())
    assert tree(path) == tree(tmp_path / "unbroken")


def test_a_waiting_chunk_is_named_by_its_number_and_digest(section, store, make_feature_meta):
    rows = features_of(13, 5)
    writer = section.feature_writer(make_feature_meta())
    for chunk in reversed(writer.chunks):
        writer.write(chunk, rows[chunk])
    expected = {}
    for number in range(5):
        content = rows[3 * number : 3 * number + 3].astype("<f2").tobytes()
        expected[f"{number:08d}-{hashlib.sha256(content).hexdigest()}.rows"] = content
    folder = store.folder / ".unfinished/C2/obsm" / KEY
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".rows"}
    assert found == expected


def test_unfinished_features_are_not_read(section, make_feature_meta):
    writer = section.feature_writer(make_feature_meta())
    writer.write(slice(3, 6), features_of(3, 5))
    for read in (section.features, section.stored_features, section.feature_meta, section.feature_identity):
        with pytest.raises(
            StoreError, match=r"'tiny_112um' of section 'C2'.*unfinished; run `spam embed` again"
        ):
            read(KEY)
    with pytest.raises(StoreError, match=r"cannot be finished: 4 of 5 chunks.*spam embed"):
        writer.finish()


def test_unknown_features_name_those_there(section, make_feature_meta, fill):
    with pytest.raises(StoreError, match=r"no features 'other'.*none yet.*spam embed"):
        section.features("other")
    writer = section.feature_writer(make_feature_meta())
    fill(writer, features_of(13, 5))
    for read in (section.features, section.feature_meta):
        with pytest.raises(StoreError, match=r"no features 'spatial'.*it has: 'tiny_112um'"):
            read("spatial")


def test_several_keys_are_listed_in_order(section, make_feature_meta, fill):
    for key, dim in (("b_2px", 3), ("B_2px", 2), ("a.v1-x_2px", 1)):
        writer = section.feature_writer(make_feature_meta(key=key, dim=dim))
        fill(writer, features_of(13, dim))
    assert section.feature_keys == ("B_2px", "a.v1-x_2px", "b_2px")
    np.testing.assert_array_equal(section.features("b_2px"), features_of(13, 3))


@pytest.mark.parametrize(
    ("chunk", "rows", "message"),
    [
        (slice(0, 2), np.zeros((2, 5)), "rows 0:2 .* are no chunk; write one of the 5"),
        (slice(1, 4), np.zeros((3, 5)), "are no chunk"),
        (slice(12, 15), np.zeros((3, 5)), "are no chunk"),
        (slice(0, 3), np.zeros((2, 5)), r"take the shape \(3, 5\), not \(2, 5\); write the whole chunk"),
        (slice(12, 13), np.zeros((3, 5)), r"take the shape \(1, 5\)"),
        (slice(0, 3), np.zeros((3, 7)), r"\(3, 7\)"),
        (
            slice(3, 6),
            np.diag([0.0] * 4 + [np.nan])[2:],
            "not finite in 1 rows, the first is row 5; look at the tile",
        ),
        (slice(3, 6), np.full((3, 5), -np.inf), "not finite in 3 rows, the first is row 3"),
        (slice(3, 6), np.full((3, 5), 7e4), "beyond the range of float16 in 3 rows.*--dtype float32"),
    ],
)
def test_a_chunk_is_refused(section, make_feature_meta, chunk, rows, message):
    writer = section.feature_writer(make_feature_meta())
    with pytest.raises(StoreError, match=message):
        writer.write(chunk, rows)
    assert writer.pending == writer.chunks
    assert section.feature_writer(make_feature_meta()).pending == writer.chunks


def test_a_chunk_is_written_once(section, make_feature_meta):
    writer = section.feature_writer(make_feature_meta())
    writer.write(slice(0, 3), np.zeros((3, 5)))
    with pytest.raises(StoreError, match=r"rows 0:3 .* are written already; write one of the 4"):
        writer.write(slice(0, 3), np.ones((3, 5)))


def test_float32_keeps_what_float16_cannot(section, make_feature_meta, fill):
    rows = np.full((13, 5), 7e4, dtype=np.float32)
    writer = section.feature_writer(make_feature_meta(dtype="float32"))
    fill(writer, rows)
    np.testing.assert_array_equal(section.features(KEY), rows)


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "ef" * 32}, "weights_sha256 'cdcd.* in the store, 'efef.* asked for"),
        (
            {"tile": {"tile_um": 224.0, "tile_px": None, "out_px": 224}},
            r"differently: tile\.tile_um 112\.0 in",
        ),
        ({"dim": 7}, r"dim 5 in the store, 7 asked for; (embed as before|go on as they were)"),
        ({"sampling": None}, r"sampling.* in the store, None asked for"),
        ({"software": {"spam": "9"}}, None),
        ({"dtype": "float32", "chunk_rows": 2}, "dtype 'float16'.*; chunk_rows 3 in the store, 2 asked for"),
        ({"encoder": {"name": "tiny", "mean": (0.5, 0.5, 0.5)}}, None),
        ({"encoder": {"name": "tiny", "revision": "v2"}}, r"encoder\.revision None.*; encoder\.mean \[0\.5"),
    ],
)
def test_other_features_under_the_same_key_are_refused(
    section, make_feature_meta, fill, caplog, is_finished, changes, message
):
    writer = section.feature_writer(make_feature_meta())
    if is_finished:
        fill(writer, features_of(13, 5))
    asked = make_feature_meta(**changes)
    if message is None:  # a tuple for a list, a None left out, and other versions are no difference
        assert section.feature_writer(asked).pending == writer.pending
        is_told = not is_finished and "software" in changes
        assert ("begun with other versions: {'spam': '0.1.0', 'torch': '2'}" in caplog.text) == is_told
        return
    with pytest.raises(StoreError, match=rf"{message}.*spam embed --overwrite"):
        section.feature_writer(asked)


def test_a_finished_array_has_nothing_pending(section, store, make_feature_meta, fill, tree):
    writer = section.feature_writer(make_feature_meta())
    fill(writer, features_of(13, 5))
    before = tree(store.folder)
    again = section.feature_writer(make_feature_meta())
    assert again.pending == []
    again.finish()
    assert tree(store.folder) == before


def test_overwriting_keeps_the_old_until_the_new_is_whole(section, store, make_feature_meta, fill):
    old, new = features_of(13, 5), -features_of(13, 7)
    writer = section.feature_writer(make_feature_meta())
    fill(writer, old)
    writer = section.feature_writer(make_feature_meta(dim=7, chunk_rows=5), is_overwrite=True)
    writer.write(slice(0, 5), new[0:5])
    assert (section.feature_keys, section.unfinished_keys) == ((KEY,), (KEY,))
    np.testing.assert_array_equal(section.features(KEY), old)
    writer = section.feature_writer(make_feature_meta(dim=7, chunk_rows=5))  # goes on with the new one
    assert writer.pending == [slice(5, 10), slice(10, 13)]
    writer = section.feature_writer(make_feature_meta(dim=7, chunk_rows=5), is_overwrite=True)  # as well
    assert writer.pending == [slice(5, 10), slice(10, 13)]
    writer = section.feature_writer(make_feature_meta(dim=7, chunk_rows=4), is_overwrite=True)  # begins anew
    assert writer.pending == [slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 13)]
    fill(writer, new)
    np.testing.assert_array_equal(section.features(KEY), new)
    assert section.feature_meta(KEY).dim == 7
    assert not (store.folder / ".unfinished").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "spatial"}, "'spatial' is a name that the store uses"),
        ({"key": "a/b"}, "'a/b' cannot name a folder"),
        (
            {"dim": 0, "chunk_rows": -1, "dtype": "int8"},
            "dim must.*; --chunk-rows must.*; --dtype must be float16",
        ),
    ],
)
def test_a_meta_that_cannot_be_stored_is_refused(section, make_feature_meta, changes, message):
    with pytest.raises(StoreError, match=message):
        section.feature_writer(make_feature_meta(**changes))


def test_every_field_of_the_meta_counts(section, make_feature_meta, fill):
    fill(section.feature_writer(make_feature_meta()), features_of(13, 5))
    identity = section.feature_identity(KEY)
    other = {
        "origin": "import:trident",
        "encoder": {},
        "weights_sha256": None,
        "lora_sha256": "ab" * 32,
        "tile": {},
        "sampling": None,
        "precision": None,
        "dim": 1,
        "dtype": "float32",
        "chunk_rows": 1,
        "stain": "macenko",
        "is_averaged": True,
        "adapted_on": ("S9",),
    }
    fields = {field.name for field in dataclasses.fields(make_feature_meta())}
    assert {"key", "software", *other} == fields  # versions change, and leave the features what they are
    for field, value in other.items():
        asked = make_feature_meta(**{field: value})
        with pytest.raises(StoreError, match=rf"differently: {field}"):
            section.feature_writer(asked)
        is_same = feature_identity(section.meta, asked) == identity
        assert is_same == (field == "chunk_rows")  # how they are cut is no matter of what they are
