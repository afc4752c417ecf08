"""Features that wait or are finished, and are not what was written."""

import json

import numpy as np
import pytest

from spam.errors import StoreError
from spam.store import create_store
from spam.typing import Array

KEY = "tiny_112um"


def features_of(n: int, dim: int) -> Array:
    """Values that float16 holds exactly, each in one place only."""
    return (np.arange(n * dim, dtype=np.float32).reshape(n, dim) - 7) / 8


def test_unfinished_features_of_other_spots_are_not_gone_on_with(
    store, section, make_feature_meta, make_record, tmp_path
):
    """A section's index was exchanged by hand while features waited: their rows belong to other spots."""
    section.feature_writer(make_feature_meta()).write(slice(0, 3), features_of(3, 5))
    other = create_store(tmp_path / "other").add_section(make_record(spots_sha256="01" * 32))
    (store.folder / "C2/zarr.json").write_bytes(other.index.data)
    with pytest.raises(
        StoreError, match=r"begun for other spots or images of this section; .*begin anew.*--overwrite"
    ):
        store.section("C2").feature_writer(make_feature_meta())
    assert len(store.section("C2").feature_writer(make_feature_meta(), is_overwrite=True).pending) == 5


def test_features_that_do_not_say_how_they_were_made(section, store, make_feature_meta, fill, reindex):
    fill(section.feature_writer(make_feature_meta()), features_of(13, 5))
    edit_node(store, reindex, lambda m: m["attributes"].pop("spam"))
    section = store.section("C2")
    assert section.feature_keys == (KEY,)  # another program may have made them
    with pytest.raises(StoreError, match=r"does not say how it was made.*spam embed --overwrite"):
        section.feature_writer(make_feature_meta())
    with pytest.raises(StoreError, match=r"damaged at .*tiny_112um.*'spam' has no entry 'meta'"):
        section.features(KEY)


def test_a_writer_whose_section_was_replaced_does_not_pretend(section, store, make_feature_meta, make_record):
    writer = section.feature_writer(make_feature_meta())
    for chunk in writer.chunks:
        writer.write(chunk, features_of(13, 5)[chunk])
    store.add_section(make_record(spots_sha256="01" * 32), is_overwrite=True)
    assert writer.pending == []
    with pytest.raises(
        StoreError, match=r"cannot be finished: another process has replaced the section.*spam embed"
    ):
        writer.finish()


def edit_node(store, reindex, edit) -> None:
    node = store.folder / "C2/obsm" / KEY / "zarr.json"
    metadata = json.loads(node.read_text())
    edit(metadata)
    node.write_text(json.dumps(metadata))
    reindex(store.folder / "C2", f"obsm/{KEY}/zarr.json")


@pytest.mark.parametrize("damage", ["gone", "short", "long"])
def test_a_lost_shard_is_an_error_not_zeros(section, store, make_feature_meta, fill, small_shards, damage):
    fill(section.feature_writer(make_feature_meta()), features_of(13, 5))
    shard = store.folder / "C2/obsm" / KEY / "c/1/0"
    content = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
        fault = "is not there"
    else:
        changed = content[:-1] if damage == "short" else content + b"0"
        shard.write_bytes(changed)
        fault = f"has {len(changed)} bytes, expected {len(content)}"
    for opened in (section, store.section("C2")):
        for read in (opened.features, opened.stored_features):
            with pytest.raises(
                StoreError, match=rf"damaged at .*C2/obsm/tiny_112um: its file c/1/0 {fault}.*copy"
            ):
                read(KEY)


@pytest.mark.parametrize("change", ["flip", "short", "gone"])
def test_a_chunk_changed_before_the_end_is_found_by_finish(section, store, make_feature_meta, change):
    writer = section.feature_writer(make_feature_meta())
    for chunk in writer.chunks:
        writer.write(chunk, features_of(13, 5)[chunk])
    path = next((store.folder / ".unfinished/C2/obsm" / KEY).glob("00000001-*"))
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    message = r"rows 3:6 .* not what was written.*check the disk, delete .*00000001-.*spam embed"
    if change == "gone":
        path.unlink()
        message = "1 of 5 chunks are missing"
    else:
        path.write_bytes(content if change == "flip" else content[:-2])
    with pytest.raises(StoreError, match=message):
        writer.finish()
    assert section.feature_keys == ()
    path.unlink(missing_ok=True)  # as the message says
    assert writer.pending == [slice(3, 6)]
    writer.write(slice(3, 6), features_of(13, 5)[3:6])
    writer.finish()
    np.testing.assert_array_equal(section.features(KEY), features_of(13, 5))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"meta": {}, "identity": ""}', b"\xff"])
def test_an_unreadable_beginning_is_told(section, store, make_feature_meta, content):
    section.feature_writer(make_feature_meta())
    (store.folder / ".unfinished/C2/obsm" / KEY / "features.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"unfinished features in .*cannot be gone on with.*--overwrite"):
        section.feature_writer(make_feature_meta())
    assert len(section.feature_writer(make_feature_meta(), is_overwrite=True).pending) == 5


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["attributes"]["spam"].pop("meta"), "'spam' has no entry 'meta'"),
        (lambda m: m["attributes"]["spam"]["meta"].pop("dim"), "do not fit format version 1.*dim"),
        (
            lambda m: m["attributes"]["spam"]["meta"].update(dim=6),
            r"expected \(\(13, 6\), 'float16'\)",
        ),
        (
            lambda m: m["attributes"]["spam"]["meta"].update(dtype="bfloat16"),
            r"'float16'\), expected \(\(13, 5\), 'uint16'\)",
        ),
        *(
            (
                lambda m, dtype=dtype: m["attributes"]["spam"]["meta"].update(dtype=dtype),
                r"its 'dtype' is .*, expected one of \('float16', 'float32', 'bfloat16'\)",
            )
            for dtype in (None, [], {}, 16, "float64")
        ),
    ],
)
def test_damaged_metadata_are_reported(section, store, make_feature_meta, fill, reindex, edit, message):
    fill(section.feature_writer(make_feature_meta()), features_of(13, 5))
    edit_node(store, reindex, edit)
    with pytest.raises(StoreError, match=rf"damaged at .*tiny_112um.*{message}"):
        store.section("C2").features(KEY)
