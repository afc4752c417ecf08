"""Stores and the tables of their sections: writing and reading are inverse; other folders are rejected."""

import getpass
import itertools
import json
import re
import shutil
import socket
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_sections import lab_section
from plotting_tools import assert_plots
from scipy import sparse

from spam.errors import StoreError
from spam.store import Overview, StoredSection, choose_sections, create_store, open_store, spots_digest
from spam.store.places import FolderLocation
from spam.store.writing import locked, locked_section

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


def assert_holds(section: StoredSection, meta: Any, tables: dict[str, Any]) -> None:
    assert section.meta == meta
    assert section.n_spots == meta.n_spots
    for name in ("ids", "xy_px", "xy_um", "genes"):
        if tables[name] is None:
            assert getattr(section, name) is None
        else:
            np.testing.assert_array_equal(getattr(section, name), tables[name], err_msg=name)
    columns = {**tables["obs"], "section": np.full(meta.n_spots, meta.name)}
    columns |= {} if meta.donor is None else {"donor": np.full(meta.n_spots, meta.donor)}
    assert list(section.obs) == list(columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(section.obs[name], column, err_msg=name)
        assert section.obs[name].dtype.kind == ("U" if column.dtype.kind == "O" else column.dtype.kind)
    if tables["counts"] is not None:
        assert section.counts().dtype == np.int32
        np.testing.assert_array_equal(section.counts().toarray(), tables["counts"].toarray())
    overview = section.overview()
    if tables["overview"] is None:
        assert overview is None
    else:
        assert overview is not None
        np.testing.assert_array_equal(overview.image, tables["overview"][0])
        assert overview.scale == tables["overview"][1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"has_counts": False, "n_genes": 0, "donor": None, "mpp": None, "overview": None},
        {"n_spots": 1, "n_genes": 1, "obs": {}},
        {"n_genes": 0},
        {"counts": sparse.csr_array(np.eye(13, 7, dtype=np.uint8))},
        {"counts": sparse.csr_matrix((13, 7), dtype=np.int64)},
        {"obs": {"section": np.full(13, "stale"), "donor": np.full(13, "stale")}},
    ],
    ids=["full", "bare", "one spot", "no genes", "csr array", "nothing counted", "stale columns"],
)
def test_section_comes_back(store, add, make_meta, make_tables, changes):
    add(store, **changes)
    fields = type(make_meta()).__dataclass_fields__
    meta = make_meta(**{key: value for key, value in changes.items() if key in fields})
    tables = make_tables(meta) | {key: value for key, value in changes.items() if key not in fields}
    if "stale" in str(tables["obs"].get("donor")):
        tables["obs"] = {}
    assert_holds(open_store(str(store.folder)).section("C2"), meta, tables)


@given(ids=st.lists(TEXT, min_size=1, max_size=23, unique=True), label=TEXT, donor=TEXT)
@settings(deadline=None, max_examples=8)
def test_any_text_comes_back(add, ids, label, donor):
    with tempfile.TemporaryDirectory() as folder:
        texts = {
            "ids": np.array(ids, dtype=object),
            "obs": {"label": np.full(len(ids), label)},
            "donor": donor,
        }
        section = add(create_store(Path(folder)), n_spots=len(ids), **texts)
        assert section.ids.tolist() == ids
        assert set(section.obs["label"]) == {label}
        assert set(section.obs["donor"]) == {donor}


@given(picked=st.lists(st.integers(0, 10), max_size=23), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=15)
def test_some_genes_are_columns_of_all_counts(add, picked, seed):
    counts = sparse.random_array(
        (17, 11), density=0.2, rng=seed, format="csr", data_sampler=lambda size: np.arange(size) + 1
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.writing._CHUNK_ENTRIES", 5)
        patch.setattr("spam.store.writing._MOST_CHUNKS", 99)
        section = add(
            create_store(Path(folder)), n_spots=17, n_genes=11, counts=counts.astype(np.int64), obs={}
        )
        found = section.counts([f"GENE{gene}" for gene in picked])
    assert found.format == "csr"
    np.testing.assert_array_equal(found.toarray(), counts.toarray()[:, picked])


def test_missing_parts_are_named(store, section, add):
    with pytest.raises(StoreError, match=r"'C2'.* lacks 2 of 3 genes, such as X, Y"):
        section.counts(["X", "GENE1", "Y"])
    bare = add(store, name="D1", has_counts=False, n_genes=0, has_coordinates=False, xy_px=None, xy_um=None)
    assert (bare.genes, bare.xy_um) == (None, None)
    with pytest.raises(StoreError, match=r"'D1'.* no counts.*--h5ad"):
        bare.counts()
    with pytest.raises(StoreError, match=r"'D1'.* without coordinates"):
        bare.xy_px  # noqa: B018


def test_lab_section_is_added_and_replaced_only_on_purpose(store, make_graph, make_tables, make_meta):
    tables = make_tables(make_meta())
    del tables["overview"], tables["xy_um"]
    lab = lab_section("C2", donor="d1", mpp=0.5, **tables)
    image = np.full((3, 5, 3), 7, np.uint8)
    given_once = {
        "slide_size_px": (1009, 907),
        "licence": "CC-BY-4.0",
        "overview": Overview(image=image, scale=0.1),
    }
    section = store.add_section(lab, **given_once)
    meta = section.meta
    assert (meta.name, meta.donor, meta.n_spots, meta.n_genes, meta.has_counts) == ("C2", "d1", 13, 7, True)
    assert (meta.mpp, meta.mpp_source, meta.slide_width_px, meta.slide_height_px) == (
        0.5,
        "option",
        1009,
        907,
    )
    assert meta.spots_sha256 == spots_digest(lab.ids, lab.xy_px)
    assert meta.licence == "CC-BY-4.0"
    assert_holds(section, meta, {**tables, "xy_um": lab.xy_um, "overview": (image, 0.1)})
    section.write_graph("spatial", make_graph())
    with pytest.raises(StoreError, match=r"'C2'.*--section.*--overwrite"):
        store.add_section(lab, **given_once)
    replaced = store.add_section(lab, slide_size_px=None, licence=None, overview=None, is_overwrite=True)
    assert (replaced.graph_keys, replaced.overview(), replaced.meta.slide_width_px) == ((), None, None)
    assert not list(store.folder.glob(".unfinished-*"))
    for name, obs in (
        ("a/b", {}),
        ("", {}),
        (".x", {}),
        ("tables", {}),
        ("D1", {"_index": lab.xy_px[:, 0]}),
        ("D1", {"a/b": lab.ids}),
    ):
        bad = lab_section(name, ids=lab.ids, xy_px=lab.xy_px, obs=obs)
        with pytest.raises(StoreError, match="cannot be stored"):
            store.add_section(bad, slide_size_px=None, licence=None, overview=None)
    assert store.section_names == ("C2",)


@pytest.mark.parametrize(("n", "diameter_px"), [(1, 100.0), (2, 0.8 * 50)])
def test_a_section_of_few_spots_is_plotted_too(store, n, diameter_px):
    """Without an overview, the size of the slide and a spot diameter; a column library_id of the laboratory is kept."""
    xy_px = np.array([[30.0, 40.0], [0.0, 0.0]])[:n]
    lab = lab_section(
        "D1", ids=np.array(["a", "b"])[:n], xy_px=xy_px, obs={"library_id": np.array(["x", "y"])[:n]}
    )
    store.add_section(lab, slide_size_px=None, licence=None, overview=None)
    found = anndata.read_zarr(store.folder / "D1")
    assert_plots(found, "D1")
    assert found.uns["spatial"]["D1"]["scalefactors"]["spot_diameter_fullres"] == diameter_px
    assert list(found.obs["lab_library_id"]) == ["x", "y"][:n]
    assert store.section("D1").overview() is None


def test_sections_are_listed_and_chosen(store, add):
    with pytest.raises(StoreError, match=r"no section.*it has: none.*spam embed"):
        choose_sections(store, ())
    for name in ("b", "A", "c d"):
        add(store, name=name)
    (store.folder / "README.md").write_text("what this is")
    (store.folder / "notes").mkdir()
    (store.folder / "notes" / "zarr.txt").write_text("no index")
    assert open_store(store.folder).section_names == choose_sections(store, ()) == ("A", "b", "c d")
    assert choose_sections(store, ["c d", "A", "c d"]) == ("c d", "A")
    with pytest.raises(StoreError, match=r"no section 'x', 'y' \(--section\); it has: 'A', 'b', 'c d'"):
        choose_sections(store, ["A", "x", "y"], flag="--section")
    for name in ("C3", "A/obs", "../cohort.zarr/A"):
        with pytest.raises(StoreError, match="has no section"):
            store.section(name)


def test_store_open_for_reading_is_not_written(store, section, make_graph, make_feature_meta, tree):
    before = tree(store.folder)
    reading = open_store(store.folder)
    lab = lab_section("D1", ids=section.ids, xy_px=section.xy_px)
    for write in (
        lambda: reading.add_section(lab, slide_size_px=None, licence=None, overview=None),
        lambda: reading.section("C2").write_graph("spatial", make_graph()),
        lambda: reading.section("C2").feature_writer(make_feature_meta()),
        lambda: reading.section("C2").lock("tiny_112um"),
    ):
        with pytest.raises(StoreError, match=r"reading only.*is_read_only=False"):
            write()
    assert tree(store.folder) == before
    assert open_store(store.folder, is_read_only=False).section("C2").is_writable


def test_what_is_no_store_is_refused(tmp_path):
    file, foreign, group = tmp_path / "file", tmp_path / "foreign", tmp_path / "group"
    file.write_text("no store")
    foreign.mkdir()
    (foreign / "data.txt").write_text("1")
    zarr.create_group(group, zarr_format=3)
    for opening in (open_store, create_store):
        with pytest.raises(StoreError, match=r"is not a store.*'zarr.json'.*spam embed --store"):
            opening(foreign)
        with pytest.raises(StoreError, match=r"not a store of spam \(spam_format=None\)"):
            opening(group)
        with pytest.raises(StoreError, match=r"is not a packed store.*spam store pack"):
            opening(file)
    for content in (b"{", b"[]", b"", b"\xff"):
        (foreign / "zarr.json").write_bytes(content)
        with pytest.raises(StoreError, match="Damaged root"):
            open_store(foreign)
    with pytest.raises(StoreError, match=r"No store at.*spam embed --store"):
        open_store(tmp_path / "missing")


@pytest.mark.parametrize(
    ("version", "advice"), [(4, "pip install --upgrade"), (1, "spam embed"), ("2", "upgrade")]
)
def test_another_version_is_refused(store, reseal, version, advice):
    reseal(store.folder / "zarr.json", lambda d: d["attributes"].update(spam_version=version))
    for opening in (open_store, create_store):
        with pytest.raises(StoreError, match=rf"format version {version!r}.*{advice}"):
            opening(store.folder)


def test_packed_store_is_read_in_place(
    store, section, make_feature_meta, make_tables, make_meta, fill, tmp_path
):
    rows = np.arange(65, dtype=np.float32).reshape(13, 5) / 8
    fill(section.feature_writer(make_feature_meta()), rows)
    packed = tmp_path / "cohort.zarr.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(p for p in store.folder.rglob("*") if p.is_file() and ".locks" not in p.parts):
            archive.write(path, path.relative_to(store.folder))
    found = open_store(packed)
    assert found.section_names == ("C2",)
    assert_holds(found.section("C2"), make_meta(), make_tables(make_meta()))
    np.testing.assert_array_equal(found.section("C2").features("tiny_112um"), rows)
    assert found.section("C2").unfinished_keys == ()
    with pytest.raises(StoreError, match=r"read-only.*spam store unpack"):
        open_store(packed, is_read_only=False)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(store.folder / "zarr.json", "zarr.json")
    with pytest.raises(StoreError, match=r"'zarr.json' is compressed.*spam store pack"):
        open_store(packed)


def test_root_that_lacks_a_section_is_mended_by_the_next_writer(store, section, reseal):
    whole = (store.folder / "zarr.json").read_bytes()
    reseal(store.folder / "zarr.json", lambda d: d["attributes"]["spam"].update(sections=[]))
    assert open_store(store.folder).section_names == ("C2",)
    open_store(store.folder, is_read_only=False)
    assert (store.folder / "zarr.json").read_bytes() == whole


def test_leftovers_of_killed_writers_are_removed_unless_their_writer_lives(store, section):
    for name in (".unfinished-C2@12", ".unfinished-D@1@34"):
        (store.folder / name / "X").mkdir(parents=True)
    with locked(store.folder, "C2"):
        open_store(store.folder, is_read_only=False)
    assert [path.name for path in store.folder.glob(".unfinished-*")] == [".unfinished-C2@12"]
    create_store(store.folder)
    assert not list(store.folder.glob(".unfinished-*"))


def test_locks_exclude_each_other(store, section, monkeypatch):
    folder = store.folder
    monkeypatch.setattr("spam.store.writing._PROBE_S", 0.1)
    with section.lock("a", part="@1of2"), section.lock("a", part="@2of2"), section.lock("b"):
        for key, part in (("a", ""), ("a", "@1of2"), ("b", ""), ("b", "@1of2")):
            with pytest.raises(StoreError, match=f"'C2/{key}.*another process"), section.lock(key, part=part):
                pass
        lab = lab_section("C2", ids=section.ids, xy_px=section.xy_px)
        with pytest.raises(StoreError, match=r"'C2/a@1of2'.*another process"):
            store.add_section(lab, slide_size_px=None, licence=None, overview=None, is_overwrite=True)
    with locked_section(folder, "C2"):
        pass
    with (
        locked(folder, "C2"),
        pytest.raises(StoreError, match=r"'C2' in store.*another process"),
        locked(folder, "C2", wait_s=0.1),
    ):
        pass


def test_parts_of_a_job_array_that_start_together_do_not_refuse_each_other(store, section):
    """Finding out whether a lock is free takes it for a moment."""
    with section.lock("a"):  # leaves a lock file, which every part then tries
        pass

    def start(number: int) -> None:
        for _ in range(60):
            with section.lock("a", part=f"@{number}of4"):
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))


def test_written_store_tells_no_path_user_or_machine(
    store, section, make_feature_meta, make_graph, fill, monkeypatch
):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "user-of-this-test")
    secrets = [str(store.folder), str(Path.home()), socket.gethostname(), getpass.getuser()]
    with section.lock("tiny_112um"):
        fill(section.feature_writer(make_feature_meta()), np.zeros((13, 5), np.float32))
        section.write_graph("spatial", make_graph())
        texts = [path.read_bytes() for path in store.folder.rglob("*") if path.suffix in (".json", ".lock")]
    assert len(texts) > 20
    for secret in secrets:
        word = re.compile(rb"(?<!\w)" + re.escape(secret.encode()) + rb"(?!\w)")
        assert not any(word.search(text) for text in texts)


def test_links_lead_nowhere(store, section, make_feature_meta, tmp_path):
    """A store of unknown origin must not make spam read or write outside it."""
    outside = tmp_path / "outside"
    shutil.move(store.folder / "C2/X", outside)
    (store.folder / "C2/X").symlink_to(outside)
    with pytest.raises(StoreError, match=r"'C2/X.*' in store .* leads outside.*rm"):
        section.counts()
    (store.folder / "C2/obsm/tiny_112um").symlink_to(outside)
    with pytest.raises(StoreError, match=r"'C2/obsm/tiny_112um' in store .* leads outside"):
        section.feature_writer(make_feature_meta(), is_overwrite=True)
    (store.folder / ".unfinished-C2@0").symlink_to(outside)
    open_store(store.folder, is_read_only=False)  # removes what killed writers left
    assert sorted(path.name for path in outside.iterdir()) == ["data", "indices", "indptr", "zarr.json"]


def test_an_index_that_is_replaced_by_a_longer_one_is_read_whole(tmp_path):
    """Regression: the size was that of the old file, the bytes those of the new one."""
    texts = [json.dumps({"attributes": "x" * n}).encode() for n in (3, 5003)]
    (tmp_path / "zarr.json").write_bytes(texts[0])
    is_over = threading.Event()

    def replace_again_and_again() -> None:
        for text in itertools.cycle(texts):
            (tmp_path / "new").write_bytes(text)
            (tmp_path / "new").replace(tmp_path / "zarr.json")
            if is_over.is_set():
                return

    writer = threading.Thread(target=replace_again_and_again)
    writer.start()
    try:
        found = {FolderLocation(tmp_path).read_index("") for _ in range(3000)}
    finally:
        is_over.set()
        writer.join()
    assert found == set(texts)
