"""Files of a stranger's section: missing, exchanged, linked, or made to burst; refused before they do harm."""

import asyncio
import json
import os
import shutil
import struct
import tracemalloc

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from spam.errors import StoreError
from spam.store import open_store
from spam.store.guarded_store import GuardedStore
from spam.store.location import FolderLocation
from spam.store.lock import remove_stale_locks
from spam.store.staging import discard, prune, staged, sweep
from spam.store.zstandard import frame_size

CHUNK = "X/data/c/0"


def with_checksum(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def frame(header: bytes, payload: bytes = b"\x01\0\0") -> bytes:
    """Make a Zstandard frame of a header and an empty last block."""
    return b"\x28\xb5\x2f\xfd" + header + payload


def refused(store, reindex, name: str, content: bytes, read) -> str:
    """Exchange a file, with a digest in the index that fits; return what reading says, and bound its memory."""
    (store.folder / "C2" / name).write_bytes(content)
    reindex(store.folder / "C2", name)
    section = open_store(store.folder).section("C2")
    tracemalloc.start()
    try:
        with pytest.raises(StoreError) as raised:
            read(section)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    message = str(raised.value)
    assert message.count("fresh copy") == 1, message  # one message, not one in another
    assert f"damaged at {store.folder}/C2/{name.split('/c/')[0]}" in message
    return message


BOMBS = {
    "claims 10 GB": (frame(b"\xe0" + struct.pack("<Q", 10 * 10**9)), "it would unpack to 10000000000 bytes"),
    "claims too little": (bytes(Zstd().encode(bytes(100))), "it would unpack to 100 bytes"),
    "claims nothing": (frame(b"\0\x58"), "it would unpack to None bytes"),
    "is no frame": (b"\x50\x2a\x4d\x18" + bytes(20), "it would unpack to None bytes"),
    "is empty": (b"", "it would unpack to None bytes"),
}


@pytest.mark.parametrize(("content", "message"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_not_unpacked(store, section, reindex, content, message):
    found = refused(store, reindex, CHUNK, with_checksum(content), lambda s: s.counts())
    size = section.index.nodes["X/data"]["shape"][0] * 4
    assert f"{CHUNK}: {message}, expected {size}" in found


def test_a_frame_that_holds_more_than_it_claims_is_an_error(store, section, reindex):
    size = section.index.nodes["X/data"]["shape"][0] * 4
    whole = bytearray(Zstd().encode(bytes(range(256)) * 4000))
    claimed = frame_size(bytes(whole))
    assert claimed == 1024000
    place = bytes(whole).index(struct.pack("<I", claimed))
    whole[place : place + 4] = struct.pack("<I", size)
    assert frame_size(bytes(whole)) == size
    assert "cannot be read" in refused(
        store, reindex, CHUNK, with_checksum(bytes(whole)), lambda s: s.counts()
    )


@pytest.mark.parametrize("n", [0, 12, 14, 2**31, 2**32 - 1])
def test_strings_of_another_number_are_not_decoded(store, section, reindex, n):
    content = struct.pack("<I", n) + b"".join(struct.pack("<I", 1) + b"a" for _ in range(13))
    found = refused(store, reindex, "obs/label/c/0", with_checksum(content), lambda s: s.obs)
    assert f"obs/label/c/0: it holds {n} strings, expected 13" in found


@pytest.mark.parametrize("length", [2**31 - 1, 2**32 - 1, 60])
def test_a_string_longer_than_its_chunk_is_an_error(store, section, reindex, length):
    content = struct.pack("<I", 13) + struct.pack("<I", length) + b"a" * 50
    found = refused(store, reindex, "obs/label/c/0", with_checksum(content), lambda s: s.obs)
    assert "C2/obs/label: it cannot be read" in found


def test_one_long_string_among_many_is_not_padded_into_all(store, section, reindex, monkeypatch):
    monkeypatch.setattr("spam.store.elements._MOST_TEXT_BYTES", 13 * 10**6 * 4 - 1)
    content = struct.pack("<I", 13) + struct.pack("<I", 10**6) + b"a" * 10**6 + struct.pack("<I", 0) * 12
    found = refused(store, reindex, "obs/label/c/0", with_checksum(content), lambda s: s.obs)
    assert "its 13 strings, the longest of 1000000 characters, would take 52000000 bytes" in found
    monkeypatch.setattr("spam.store.elements._MOST_TEXT_BYTES", 13 * 10**6 * 4)
    assert len(open_store(store.folder).section("C2").obs["label"][0]) == 10**6


def test_bytes_that_are_no_text_are_an_error(store, section, reindex):
    content = struct.pack("<I", 13) + (struct.pack("<I", 1) + b"\xff") * 13
    assert "cannot be read" in refused(
        store, reindex, "obs/label/c/0", with_checksum(content), lambda s: s.obs
    )


@pytest.mark.parametrize("size", [0, 1, 100, 255, 256, 257, 65791, 65792, 10**6])
@pytest.mark.parametrize("is_checked", [False, True])
def test_the_size_of_a_frame_is_what_it_unpacks_to(size, is_checked):
    content = bytes(Zstd(checksum=is_checked).encode(np.random.default_rng(size).bytes(size)))
    assert frame_size(content) == size
    if size:  # numcodecs does not unpack to nothing
        assert len(Zstd().decode(content)) == size


def test_a_missing_file_is_an_error_that_names_it(store, section):
    for name, entry in section.index.files.items():
        path = store.folder / "C2" / name
        content = path.read_bytes()
        guarded = GuardedStore(FolderLocation(store.folder), "C2", section.index)
        assert guarded.read(name) == content
        path.unlink()
        message = (
            rf"damaged at .*/C2/{name}: the file is not there, expected {entry.n_bytes} bytes.*fresh copy"
        )
        with pytest.raises(StoreError, match=message):
            guarded.read(name)
        path.write_bytes(content + b" ")
        with pytest.raises(StoreError, match=rf"/C2/{name}: the file has {len(content) + 1} bytes, expected"):
            guarded.read(name)
        path.write_bytes(content)


def test_a_link_is_not_followed(store, section, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    chunk = store.folder / "C2" / CHUNK
    (outside / "0").write_bytes(chunk.read_bytes())
    chunk.unlink()
    chunk.symlink_to(outside / "0")
    with pytest.raises(StoreError, match=rf"{CHUNK}: the file is not there"):
        store.section("C2").counts()
    chunk.unlink()
    chunk.parent.rmdir()
    chunk.parent.symlink_to(outside)
    with pytest.raises(StoreError, match=rf"{CHUNK}: the file is not there"):
        store.section("C2").counts()


def test_a_section_or_an_index_that_is_a_link_is_refused(store, section, tmp_path):
    index = store.folder / "C2/zarr.json"
    index.rename(tmp_path / "zarr.json")
    index.symlink_to(tmp_path / "zarr.json")
    with pytest.raises(StoreError, match=r"C2' is not there any more, or is a link.*take a copy"):
        store.section("C2")
    index.unlink()
    (tmp_path / "zarr.json").rename(index)
    (store.folder / "C2").rename(tmp_path / "C2")
    (store.folder / "C2").symlink_to(tmp_path / "C2")
    with pytest.raises(StoreError, match=r"C2' is not there any more, or is a link.*take a copy"):
        store.section("C2")


@pytest.fixture
def elsewhere(tmp_path, tree):
    """A folder of someone else's, with names that a store would delete; no file in it may change."""
    folder = tmp_path / "elsewhere"
    (folder / ".removed-photos").mkdir(parents=True)
    (folder / ".removed-photos/one").write_text("mine")
    for name in ("yarn.lock", "C2.lock", "spatial_connectivities"):
        (folder / name).write_text("not a lock of spam" * 3)
        os.utime(folder / name, (0, 0))
    (folder / "empty").mkdir()
    before = tree(folder)
    yield folder
    assert tree(folder) == before
    assert (folder / "empty").is_dir()


def test_nothing_is_deleted_through_a_linked_staging_folder(store, section, elsewhere, make_graph):
    (store.folder / ".unfinished").symlink_to(elsewhere)
    message = r"'\.unfinished' in store .* is a link, expected a part of the store.*remove the link with `rm "
    with pytest.raises(StoreError, match=message):
        open_store(store.folder, is_read_only=False)
    with pytest.raises(StoreError, match=message):
        section.write_graph("spatial", make_graph())
    for change in (
        lambda: remove_stale_locks(store.folder),
        lambda: sweep(store.folder),
        lambda: prune(store.folder, store.folder / ".unfinished/empty"),
        lambda: discard(store.folder, "spatial_connectivities"),
        lambda: staged(store.folder, "C2/obsm/x"),
    ):
        with pytest.raises(StoreError, match=message):
            change()


def test_a_file_that_is_no_lock_is_left_where_locks_lie(store, section, elsewhere):
    shutil.copytree(elsewhere, store.folder / ".unfinished/C2")
    (store.folder / ".unfinished/C2/link.lock").symlink_to(elsewhere / "yarn.lock")
    open_store(store.folder, is_read_only=False)
    assert sorted(path.name for path in (store.folder / ".unfinished/C2").glob("*.lock")) == [
        "C2.lock",
        "link.lock",
        "yarn.lock",
    ]


@pytest.mark.parametrize("name", ["obsp", "uns"])
def test_nothing_is_written_or_deleted_through_a_linked_folder_of_a_section(
    store, section, elsewhere, make_graph, name
):
    (elsewhere / "spatial_neighbors").write_text("mine")
    (store.folder / "C2" / name).rename(store.folder.parent / name)
    (store.folder / "C2" / name).symlink_to(elsewhere)
    with pytest.raises(
        StoreError, match=rf"'C2/{name}' in store .* is a link.*nothing is written or deleted"
    ):
        section.write_graph("spatial", make_graph())
    assert (elsewhere / "spatial_neighbors").read_text() == "mine"
    (elsewhere / "spatial_neighbors").unlink()


def test_a_store_itself_may_be_reached_by_a_link(store, section, tmp_path):
    (tmp_path / "link").symlink_to(store.folder)
    assert open_store(tmp_path / "link").section("C2").counts().shape == (13, 7)


@pytest.mark.parametrize("name", ["../C2", "/", ".", "..", ".unfinished", "C2/obs", ""])
def test_a_section_name_that_leads_elsewhere_is_unknown(store, section, name):
    with pytest.raises(StoreError, match=r"has no section"):
        store.section(name)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "C2/../../outside", "..", "C2/./../../outside"]
)
def test_a_file_outside_is_not_found(store, section, tmp_path, name):
    (tmp_path / "outside").write_text("secret")
    entry = section.index.files[CHUNK]
    assert FolderLocation(store.folder).part(name, entry) is None
    assert FolderLocation(store.folder).part(f"C2/{CHUNK}", entry) is not None


def test_a_guarded_store_is_a_zarr_store_of_the_files_of_its_index(store, section, make_feature_meta, fill):
    fill(section.feature_writer(make_feature_meta()), np.ones((13, 5)))
    (store.folder / "C2/X/stranger").write_text("not in the index")
    guarded = GuardedStore(FolderLocation(store.folder), "C2", section.index)
    content = (store.folder / "C2" / CHUNK).read_bytes()
    prototype = default_buffer_prototype()

    async def look():
        assert {name async for name in guarded.list()} == {"zarr.json", *section.index.files}
        assert [name async for name in guarded.list_dir("")] == [
            "X",
            "obs",
            "obsm",
            "obsp",
            "uns",
            "var",
            "zarr.json",
        ]
        assert [name async for name in guarded.list_dir("X/")] == ["data", "indices", "indptr", "zarr.json"]
        assert {name async for name in guarded.list_prefix("X/da")} == {"X/data/zarr.json", CHUNK}
        assert [await guarded.exists(name) for name in ("zarr.json", CHUNK, "X/stranger")] == [
            True,
            True,
            False,
        ]
        assert await guarded.get("X/stranger", prototype) is None
        parts = [
            RangeByteRequest(2, 5),
            OffsetByteRequest(7),
            SuffixByteRequest(3),
            SuffixByteRequest(10**6),
            None,
        ]
        found = await guarded.get_partial_values(prototype, [(CHUNK, part) for part in parts])
        expected = [content[2:5], content[7:], content[-3:], content, content]
        assert [part.to_bytes() for part in found] == expected
        for change in (
            guarded.set("x", prototype.buffer.from_bytes(b"")),
            guarded.set_partial_values([]),
            guarded.delete(CHUNK),
        ):
            with pytest.raises(StoreError, match=r"'C2' of .* is open for reading; change it with `spam`"):
                await change

    asyncio.run(look())
    array = zarr.open_array(guarded, path="obsm/tiny_112um", mode="r")
    np.testing.assert_array_equal(array[...], np.ones((13, 5)))
    again = GuardedStore(FolderLocation(store.folder), "C2", section.index)
    assert guarded == again
    assert hash(guarded) == hash(again)
    assert guarded != GuardedStore(FolderLocation(store.folder), "C3", section.index)
    assert str(guarded) == f"{store.folder}/C2"


def test_an_index_that_differs_from_its_nodes_own_metadata_is_the_one_that_counts(store, section):
    """The nodes' own ``zarr.json`` are for programs that do not consolidate; their bytes are under the seal too."""
    path = store.folder / "C2/X/zarr.json"
    document = json.loads(path.read_bytes())
    document["attributes"]["shape"] = [10**9, 10**9]
    path.write_text(json.dumps(document))
    assert store.section("C2").counts().shape == (13, 7)
