"""The index of a section: its seal, what it names, and how it changes."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.schemas.store_format import FileEntry
from spam.store import open_store
from spam.store.index import change_index, read_index
from spam.store.section_index import content_digest, file_entry
from spam.store.section_index import read_sealed, sealed
from spam.store.sealing import write_sealed
from spam.store.writing import write_root


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def without_seal(content: bytes) -> bytes:
    """Put 64 zeros in the place of the digest, as docs/format.md says."""
    digest = json.loads(content)["attributes"]["spam"]["digest"]
    return content.replace(digest.encode(), b"0" * 64)


def test_the_seal_is_the_digest_of_the_bytes_with_zeros_in_its_place(section, store):
    for folder in (store.folder, store.folder / "C2"):
        content = (folder / "zarr.json").read_bytes()
        assert json.loads(content)["attributes"]["spam"]["digest"] == sha256(without_seal(content))
    assert section.content_digest() == section.index.digest


def test_every_file_stands_in_the_index_with_its_size_and_digest(
    section, store, make_graph, make_feature_meta, fill
):
    fill(section.feature_writer(make_feature_meta()), np.zeros((13, 5)))
    section.write_graph("spatial", make_graph())
    folder = store.folder / "C2"
    expected = {}
    for path in folder.rglob("*"):
        if path.is_file() and path != folder / "zarr.json":
            content = path.read_bytes()
            expected[path.relative_to(folder).as_posix()] = FileEntry(
                n_bytes=len(content), sha256=sha256(content)
            )
    assert dict(section.index.files) == expected
    nodes = {name.removesuffix("/zarr.json") for name in expected if name.endswith("zarr.json")}
    assert set(section.index.nodes) == nodes


@given(data=st.data())
def test_a_change_of_any_byte_is_found(data):
    content, _ = sealed(
        {"attributes": {"spam": {"meta": {"name": "µ", "n": 13}, "files": {"a/c/0": 1}}}, "b": []}
    )
    place, flip = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(content)
    changed[place] ^= flip
    with pytest.raises(
        StoreError, match=r"damaged, or was changed by another program, at 'here'.*fresh copy"
    ):
        read_sealed(bytes(changed), "'here'")
    assert read_sealed(content, "'here'")["b"] == []


@pytest.mark.parametrize("extent", [slice(None, -1), slice(1, None), slice(None, 0)])
def test_a_shortened_index_is_found(section, store, extent):
    path = store.folder / "C2/zarr.json"
    path.write_bytes(path.read_bytes()[extent])
    with pytest.raises(StoreError, match=r"damaged.* at .*cohort.zarr/C2"):
        store.section("C2")


@pytest.mark.parametrize("digest", ["0" * 63, 5, None, "0" * 64, ["0" * 64]])
def test_a_digest_that_is_none(digest):
    content = json.dumps({"attributes": {"spam": {"digest": digest}}}).encode()
    with pytest.raises(StoreError, match=r"its (bytes have the )?digest .*fresh copy"):
        read_sealed(content, "here")


def test_an_index_of_any_size_is_not_read(section, store, monkeypatch):
    monkeypatch.setattr("spam.store.sealing.MOST_BYTES", 1000)
    monkeypatch.setattr("spam.store.location.MOST_BYTES", 1000)
    with pytest.raises(StoreError, match=r"it has 1001 bytes, more than any index"):
        store.section("C2")


@given(text=st.text(max_size=30), number=st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_sealed_comes_back(text, number):
    document = {"attributes": {"spam": {"a": text}, text: number}, "0" * 64: "0" * 64}
    content, digest = sealed(document)
    found = read_sealed(content, "here")
    assert found["attributes"]["spam"] == {"a": text, "digest": digest}
    assert sealed(found) == (content, digest)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["attributes"]["spam"].pop("meta"), "KeyError: 'meta'"),
        (lambda d: d["attributes"]["spam"].update(files=[]), "AttributeError"),
        (lambda d: d["attributes"]["spam"].update(meta=7), "TypeError"),
        (lambda d: d["attributes"]["spam"]["meta"].update(colour="red"), "colour"),
        (lambda d: d.pop("consolidated_metadata"), "KeyError: 'consolidated_metadata'"),
        (lambda d: d["attributes"]["spam"]["files"]["X/zarr.json"].pop("sha256"), "sha256"),
        (lambda d: d["attributes"]["spam"]["files"]["X/zarr.json"].update(n_bytes=-1), "-1"),
        (lambda d: d["attributes"]["spam"]["files"]["X/zarr.json"].update(n_bytes="9"), "9"),
        (lambda d: d["attributes"]["spam"]["files"]["X/zarr.json"].update(n_bytes=True), "True"),
        (lambda d: d["attributes"]["spam"]["files"]["X/zarr.json"].update(sha256="../" * 21 + "x"), r"\.\./"),
        (lambda d: d["attributes"]["spam"]["files"]["X/zarr.json"].update(sha256="AB" * 32), "ABAB"),
    ],
)
def test_an_index_without_its_parts(section, store, reseal, edit, message):
    reseal(store.folder / "C2/zarr.json", edit)
    with pytest.raises(
        StoreError, match=rf"index of .*C2 does not fit format version 1 .*{message}.*fresh copy"
    ):
        store.section("C2")


def test_what_the_index_does_not_name_is_not_there(
    section, store, make_feature_meta, make_graph, fill, tmp_path
):
    fill(section.feature_writer(make_feature_meta()), np.zeros((13, 5)))
    section.write_graph("spatial", make_graph())
    folder, digest = store.folder / "C2", section.content_digest()
    shutil.copytree(folder / "obsm/tiny_112um", folder / "obsm/copied_112um")
    (folder / "X/notes.txt").write_text("not the store's")
    found = open_store(store.folder).section("C2")
    assert (found.feature_keys, found.content_digest()) == (("tiny_112um",), digest)
    with pytest.raises(StoreError, match=r"no features 'copied_112um'"):
        found.features("copied_112um")
    change_index(
        folder, drop=("uns/spatial_neighbors", "obsp/spatial_connectivities", "obsp/spatial_distances")
    )
    found = open_store(store.folder).section("C2")
    assert (found.graph_keys, found.graph("spatial")) == ((), None)
    assert (folder / "uns/spatial_neighbors/zarr.json").exists()


def test_adding_and_dropping_come_back_to_the_same_index(section, store, make_feature_meta, fill):
    path = store.folder / "C2/zarr.json"
    before = path.read_bytes()
    change_index(store.folder / "C2", drop=("obsm/none",))
    assert path.read_bytes() == before
    for key in ("tiny_112um", "tiny_112um2"):
        fill(section.feature_writer(make_feature_meta(key=key)), np.zeros((13, 5)))
    both = path.read_bytes()
    change_index(store.folder / "C2", drop=("obsm/tiny_112um",))
    assert store.section("C2").feature_keys == ("tiny_112um2",)  # a longer name is another node
    change_index(store.folder / "C2", add=("obsm/tiny_112um",))
    assert path.read_bytes() == both
    change_index(store.folder / "C2", drop=("obsm/tiny_112um", "obsm/tiny_112um2"))
    assert path.read_bytes() == before


def test_an_index_takes_up_a_changed_node_in_place_of_the_old_one(section, store, make_feature_meta, fill):
    fill(section.feature_writer(make_feature_meta()), np.zeros((13, 5)))
    old = section.index.below("obsm/tiny_112um")
    fill(section.feature_writer(make_feature_meta(dim=7), is_overwrite=True), np.ones((13, 7)))
    new = section.index.below("obsm/tiny_112um")
    assert new.keys() == old.keys()
    assert all(new[name] != old[name] for name in old)
    assert new == {name: file_entry(store.folder / "C2" / name) for name in new}


def test_what_a_killed_writer_left_beside_the_index_is_cleared_away(section, store, make_graph, tree):
    section.write_graph("spatial", make_graph())
    before = tree(store.folder)
    for folder in (store.folder, store.folder / "C2"):
        (folder / "zarr.json.0123.partial").write_text("{")
    section.write_graph("spatial", make_graph())
    assert tree(store.folder / "C2") == {
        name.removeprefix("C2/"): content for name, content in before.items() if name.startswith("C2/")
    }


def test_the_digest_of_nodes_is_that_of_their_files_in_any_order(section):
    names = ("obs", "X")
    rows = sorted(
        (path, entry.n_bytes, entry.sha256)
        for path, entry in section.index.files.items()
        if path.split("/")[0] in names
    )
    assert section.content_digest(*names) == sha256(json.dumps(rows, ensure_ascii=False).encode())
    files = dict(section.index.files)
    assert content_digest(dict(reversed(files.items()))) == content_digest(files)
    changed = {**files, "X/zarr.json": FileEntry(n_bytes=1, sha256=files["X/zarr.json"].sha256)}
    assert content_digest(changed) != content_digest(files)
    assert content_digest({}) == sha256(b"[]")


def test_children_are_those_directly_below(section):
    index = section.index
    assert index.children("") == ["X", "obs", "obsm", "obsp", "uns", "var"]
    assert index.children("X") == ["data", "indices", "indptr"]
    assert index.children("uns") == ["spatial"]
    assert index.children("none") == []
    assert set(index.below("X/data")) == {"X/data/zarr.json", "X/data/c/0"}
    assert set(index.below("X/dat")) == set()


def test_the_root_names_the_sections_and_keeps_what_else_it_holds(store, make_record):
    write_root(store.folder, entries={"shared": {"by": "nobody"}})
    for name in ("b", "a"):
        store.add_section(make_record(name=name))
    root = read_sealed((store.folder / "zarr.json").read_bytes(), "here")["attributes"]["spam"]
    assert (root["sections"], root["shared"]) == (["a", "b"], {"by": "nobody"})
    assert zarr.open_group(store.folder, mode="r").attrs["spam_format"] == "spam-store"


def test_a_root_that_lacks_a_section_is_mended_by_the_next_writer(store, section, reseal):
    whole = (store.folder / "zarr.json").read_bytes()
    reseal(store.folder / "zarr.json", lambda d: d["attributes"]["spam"].update(sections=[]))
    assert open_store(store.folder).section_names == ("C2",)  # a folder is listed
    assert (store.folder / "zarr.json").read_bytes() != whole
    open_store(store.folder, is_read_only=False)
    assert (store.folder / "zarr.json").read_bytes() == whole


def test_an_unsealed_index_is_read_as_nothing(section, store):
    document = json.loads((store.folder / "C2/zarr.json").read_bytes())
    document["attributes"]["spam"].pop("digest")
    (store.folder / "C2/zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"it is no index with a digest \(KeyError: 'digest'\)"):
        store.section("C2")
    write_sealed(store.folder / "C2/zarr.json", document)
    assert read_index((store.folder / "C2/zarr.json").read_bytes(), "here").meta == section.meta
