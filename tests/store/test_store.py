import getpass
import json
import re
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spam.errors import StoreError
from spam.store import create_store, open_store
from spam.typing import Array

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


def assert_same_columns(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)
        assert found[name].dtype.kind == ("U" if column.dtype.kind == "O" else column.dtype.kind)


def assert_holds(section, record) -> None:
    meta = record.meta
    assert section.meta == meta
    assert section.n_spots == meta.n_spots
    np.testing.assert_array_equal(section.ids, record.ids)
    np.testing.assert_array_equal(section.xy_px, record.xy_px)
    if record.xy_um is None:
        assert section.xy_um is None
    else:
        np.testing.assert_array_equal(section.xy_um, record.xy_um)
    own = {"section": np.full(meta.n_spots, meta.name)}
    if meta.donor is not None:
        own["donor"] = np.full(meta.n_spots, meta.donor)
    assert_same_columns(section.obs, {**record.obs, **own})
    if record.counts is None:
        assert section.genes is None
        with pytest.raises(StoreError, match=r"has no counts.*spam embed --h5ad"):
            section.counts()
    else:
        np.testing.assert_array_equal(section.genes, record.genes)
        assert section.counts().dtype == np.int32
        np.testing.assert_array_equal(section.counts().toarray(), record.counts.toarray())
    if record.overview is None:
        assert section.overview() is None
    else:
        np.testing.assert_array_equal(section.overview().image, record.overview.image)
        assert section.overview().scale == record.overview.scale


def test_a_section_comes_back_as_it_was_written(store, make_record):
    record = make_record()
    assert_holds(store.add_section(record), record)
    assert_holds(open_store(str(store.folder)).section("C2"), record)


@pytest.mark.parametrize(
    "changes",
    [
        {"has_counts": False, "n_genes": 0, "donor": None, "mpp": None, "mpp_source": None, "overview": None},
        {"n_spots": 1, "n_genes": 1, "obs": {}},
        {"n_genes": 0},
        {"counts": sparse.csr_array(np.eye(13, 7, dtype=np.uint8))},
        {"counts": sparse.csr_matrix((13, 7), dtype=np.int64)},
        {"slide_width_px": None, "slide_height_px": None, "sources": ()},
    ],
    ids=["bare", "one spot", "no genes", "csr array", "nothing counted", "tile files"],
)
def test_a_section_at_the_borders_comes_back(store, make_record, changes):
    record = make_record(**changes)
    store.add_section(record)
    assert_holds(open_store(store.folder).section("C2"), record)


@given(
    ids=st.lists(TEXT, min_size=1, max_size=23, unique=True), label=TEXT, name=TEXT, seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=8)
def test_any_text_comes_back(make_record, ids, label, name, seed):
    n = len(ids)
    counts = sparse.random_array(
        (n, 11), density=0.3, rng=seed, format="csr", data_sampler=lambda size: np.arange(size)
    ).astype(np.int64)
    record = make_record(
        n_spots=n,
        n_genes=11,
        ids=np.array(ids, dtype=object),
        counts=counts,
        donor=name,
        obs={"label": np.full(n, label)},
    )
    with tempfile.TemporaryDirectory() as folder:
        assert_holds(create_store(Path(folder)).add_section(record), record)


def test_the_stores_own_columns_come_from_the_meta(store, make_record):
    stale = {"section": np.full(13, "stale"), "donor": np.full(13, "stale")}
    assert set(store.add_section(make_record(obs=stale)).obs["section"]) == {"C2"}
    assert set(store.section("C2").obs["donor"]) == {"patient µ"}


def test_sections_are_listed_in_order_and_foreign_files_are_no_matter(store, make_record):
    for name in ("b", "A", "c d"):
        store.add_section(make_record(name=name))
    (store.folder / "README.md").write_text("what this is")
    (store.folder / "notes").mkdir()
    (store.folder / "notes" / "zarr.txt").write_text("no index")
    assert open_store(store.folder).section_names == ("A", "b", "c d")


def test_a_missing_section_names_those_there(store, make_record):
    with pytest.raises(StoreError, match=r"no section 'C2'.*none yet.*spam embed"):
        store.section("C2")
    store.add_section(make_record())
    with pytest.raises(StoreError, match=r"no section 'C3'.*it has: 'C2'"):
        store.section("C3")
    with pytest.raises(StoreError, match=r"no section"):
        store.section("C2/obs")


def test_a_section_is_replaced_only_on_purpose(store, make_record, make_graph):
    store.add_section(make_record()).write_graph("spatial", make_graph())
    other = make_record(donor="D", obs={})
    with pytest.raises(StoreError, match=r"section 'C2' already.*--section.*--overwrite"):
        store.add_section(other)
    assert store.section("C2").meta.donor == "patient µ"
    replaced = store.add_section(other, is_overwrite=True)
    assert_holds(replaced, other)
    assert replaced.graph("spatial") is None
    assert not (store.folder / ".unfinished").exists()


def test_a_store_open_for_reading_is_not_written(
    store, section, make_record, make_graph, make_feature_meta, tree
):
    before = tree(store.folder)
    reading = open_store(store.folder)
    assert (store.is_writable, section.is_writable) == (True, True)
    assert (reading.is_writable, reading.section("C2").is_writable) == (False, False)
    for write in (
        lambda: reading.add_section(make_record(name="D1")),
        lambda: reading.section("C2").write_graph("spatial", make_graph()),
        lambda: reading.section("C2").feature_writer(make_feature_meta()),
    ):
        with pytest.raises(StoreError, match=r"reading only.*is_read_only=False"):
            write()
    assert tree(store.folder) == before
    assert open_store(store.folder, is_read_only=False).section("C2").is_writable


def test_creating_again_opens_what_is_there(store, section):
    assert create_store(store.folder).section_names == ("C2",)


def test_a_written_store_tells_no_path_user_or_machine(
    store, section, make_feature_meta, make_graph, fill, tree, monkeypatch
):
    """Neither when it is finished nor while it is being written."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "user-of-this-test")
    secrets = [str(store.folder), str(Path.home()), socket.gethostname(), getpass.getuser()]
    found = {}
    with section.lock("tiny_112um"):
        writer = section.feature_writer(make_feature_meta())
        writer.write(slice(0, 3), np.zeros((3, 5), np.float32))
        found |= tree(store.folder)
    assert any(name.endswith(".lock") for name in found)
    fill(writer, np.zeros((13, 5), np.float32))
    section.write_graph("spatial", make_graph())
    found |= tree(store.folder)
    texts = {name: content for name, content in found.items() if name.endswith((".json", ".lock"))}
    assert len(texts) > 20
    for secret in secrets:
        word = re.compile(rb"(?<!\w)" + re.escape(secret.encode()) + rb"(?!\w)")
        assert [name for name, content in texts.items() if word.search(content)] == []
    assert [name for name, content in found.items() if secrets[0].encode() in content] == []


def test_what_is_no_store_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("no store")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "data.txt").write_text("1")
    group = tmp_path / "group"
    zarr.create_group(group, zarr_format=3)
    for opening in (open_store, create_store):
        with pytest.raises(StoreError, match=r"is no store: it has no 'zarr.json'.*spam embed --store"):
            opening(foreign)
        with pytest.raises(
            StoreError, match=r"no store of spam.*'spam_format' is None, expected 'spam-store'"
        ):
            opening(group)
    (foreign / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"not a readable Zarr v3 group.*spam embed --store"):
        open_store(foreign)
    with pytest.raises(StoreError, match=r"is no readable ZIP file.*spam store pack"):
        open_store(file)
    with pytest.raises(StoreError, match=r"a packed store is only read.*spam store unpack"):
        create_store(file)
    with pytest.raises(StoreError, match=r"there is no store at.*spam embed --store"):
        open_store(tmp_path / "missing")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "format version 2, this spam reads up to 1; update"),
        ("1", "'spam_version' is '1'"),
        (0, "damaged"),
    ],
)
def test_another_version_is_refused(store, reseal, version, message):
    reseal(store.folder / "zarr.json", lambda d: d["attributes"].update(spam_version=version))
    for opening in (open_store, create_store):
        with pytest.raises(StoreError, match=message):
            opening(store.folder)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"", b"\xff", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}']
)
def test_damaged_metadata_of_a_section_are_reported(store, section, content):
    (store.folder / "C2" / "zarr.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged.* at .*C2: it is no index.*fresh copy"):
        store.section("C2")


@pytest.mark.parametrize("field", ["n_spots", "sources"])
def test_a_section_without_a_field_is_reported(store, section, reseal, field):
    reseal(store.folder / "C2/zarr.json", lambda d: d["attributes"]["spam"]["meta"].pop(field))
    with pytest.raises(
        StoreError, match=rf"index of .*C2 does not fit format version 1 .*{field}.*fresh copy"
    ):
        store.section("C2")


READS = {
    "obs/_index": lambda s: s.ids,
    "obs/label": lambda s: s.obs,
    "var/_index": lambda s: s.genes,
    "obsm/spatial": lambda s: s.xy_px,
    "obsm/spatial_um": lambda s: s.xy_um,
    "X/data": lambda s: s.counts(),
    "X/indices": lambda s: s.counts(["GENE3"]),
    "uns/spatial/C2/images/hires": lambda s: s.overview(),
}


@pytest.mark.parametrize(("part", "read"), READS.items(), ids=READS)
@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_a_damaged_file_is_an_error_that_names_it(store, section, part, read, damage):
    chunk = next(path for path in (store.folder / "C2" / part / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    if damage == "gone":
        chunk.unlink()
        message = "the file is not there, expected"
    elif damage == "short":
        chunk.write_bytes(content[:-1])
        message = f"the file has {len(content) - 1} bytes, expected {len(content)}"
    else:
        content[-1] ^= 1
        chunk.write_bytes(content)
        message = "cannot be read .*checksum"
    with pytest.raises(StoreError, match=rf"damaged at .*C2/{part}.*{message}.*fresh copy"):
        read(open_store(store.folder).section("C2"))


@pytest.mark.parametrize(
    ("part", "values", "read", "message"),
    [
        ("obsm/spatial", np.zeros((5, 2)), lambda s: s.xy_px, r"obsm/spatial: coordinates of shape \(5, 2\)"),
        (
            "obs/array_row",
            np.arange(5),
            lambda s: s.ids,
            r"obs: columns of other lengths than 13: .*array_row",
        ),
        ("var/_index", np.array(["a"] * 5), lambda s: s.genes, "var: 5 genes, expected 7"),
        ("X/indices", np.full(60, 99), lambda s: s.counts(), "X: it makes no CSC matrix"),
        ("X/indices", np.full(51, 99), lambda s: s.counts(["GENE0"]), "X: it makes no CSC matrix"),
        ("X/indptr", np.zeros(3, int), lambda s: s.counts(), "X: it makes no CSC matrix"),
        ("X/indptr", np.zeros(3, int), lambda s: s.counts(["GENE0"]), "X: it makes no CSC matrix"),
        ("X/indptr", np.zeros(8, int), lambda s: s.counts(["GENE0"]), "X: it makes no CSC matrix"),
    ],
)
def test_parts_that_do_not_fit_are_an_error(store, section, swap_array, part, values, read, message):
    swap_array(store.folder / "C2", part, values)
    with pytest.raises(StoreError, match=rf"damaged at .*C2/{message}"):
        read(open_store(store.folder).section("C2"))


@pytest.mark.parametrize(
    "shape", ["13x7", [13], [13, -7], [13, 7, 1], [13, 7.5], None, [1 << 23, 7], [13, 5]]
)
def test_a_shape_that_is_none_is_damage(store, section, reindex, shape):
    node = store.folder / "C2/X/zarr.json"
    metadata = json.loads(node.read_text())
    metadata["attributes"]["shape"] = shape
    node.write_text(json.dumps(metadata))
    reindex(store.folder / "C2", "X/zarr.json")
    for genes in (None, ["GENE0"]):
        with pytest.raises(StoreError, match=r"damaged at .*C2/X: its shape is .*expected \[13, 7\]"):
            store.section("C2").counts(genes)


@given(picked=st.lists(st.integers(0, 10), max_size=23), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=15)
def test_some_genes_are_columns_of_all_counts(make_record, picked, seed):
    counts = sparse.random_array(
        (17, 11), density=0.2, rng=seed, format="csr", data_sampler=lambda size: np.arange(size) + 1
    )
    record = make_record(n_spots=17, n_genes=11, counts=counts.astype(np.int64), obs={})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.elements._CHUNK_ENTRIES", 5)
        section = create_store(Path(folder)).add_section(record)
        found = section.counts([f"GENE{gene}" for gene in picked])
    assert found.format == "csr"
    np.testing.assert_array_equal(found.toarray(), counts.toarray()[:, picked])


def test_unknown_genes_are_named(section):
    with pytest.raises(StoreError, match=r"'C2' .*lacks 2 of 3 genes, such as \['X', 'Y'\]; ask for genes"):
        section.counts(["X", "GENE1", "Y"])


def test_a_copy_without_coordinates(store, make_record):
    section = store.add_section(make_record(has_coordinates=False, xy_px=None, xy_um=None))
    assert section.xy_um is None
    with pytest.raises(StoreError, match=r"'C2' .* shared without coordinates; ask whoever shared it"):
        section.xy_px  # noqa: B018
