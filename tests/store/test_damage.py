"""Damage is found: by verify in any byte, by a reader in what it reads; a false index is rejected before it is used."""

import hashlib
import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cohorts import add_section
from edited_metadata import edited, outcome
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from spam.errors import StoreError
from spam.graphs import build_graphs
from spam.schemas.graph_config import GraphConfig
from spam.schemas.store_config import InfoConfig, VerifyConfig
from spam.store import create_store, open_store, verify
from spam.store.describing import describe
from spam.store.layout import STAGING
from spam.store.section_index import content_digest, read_sealed, sealed, update_index
from spam.store.writing import locked, write_root, write_section

KEY = "tiny_112um"
READS = {
    "obs/_index": lambda s: s.ids,
    "obs/label": lambda s: s.obs,
    "var/_index": lambda s: s.genes,
    "obsm/spatial": lambda s: s.xy_px,
    "obsm/spatial_um": lambda s: s.xy_um,
    "X/data": lambda s: s.counts(),
    "X/indices": lambda s: s.counts(["GENE3"]),
    "uns/spatial/C2/images/hires": lambda s: s.overview(),
    f"obsm/{KEY}": lambda s: s.features(KEY),
    f"obsm/{KEY}_quality": lambda s: s.quality(KEY),
    "obsp/spatial_distances/indices": lambda s: s.graph("spatial"),
}


@pytest.fixture(scope="session")
def full(tmp_path_factory, add, make_feature_meta, make_graph, fill) -> Path:
    """A store with everything in it and unfinished features; do not change it."""
    folder = tmp_path_factory.mktemp("full") / "cohort.zarr"
    section = add(create_store(folder))
    rows = np.arange(65, dtype=np.float32).reshape(13, 5)
    fill(
        section.feature_writer(make_feature_meta(key=f"{KEY}_quality", origin="quality", dim=4)), rows[:, :4]
    )
    fill(section.feature_writer(make_feature_meta()), rows)
    section.write_graph("spatial", make_graph())
    section.feature_writer(make_feature_meta(key="begun_1px")).write(slice(0, 3), rows[:3])
    (folder / "README.md").write_text("not checked")
    return folder


@pytest.fixture
def copy(full, tmp_path) -> Path:
    return Path(shutil.copytree(full, tmp_path / "cohort.zarr"))


def faults(path: Path, *sections: str) -> dict[str, str]:
    report = verify(VerifyConfig(store=path, sections=sections))
    assert report.is_intact == (not report.faults)
    return {fault.path: str(fault) for fault in report.faults}


def test_intact_store_is_verified(full):
    report = verify(VerifyConfig(store=full))
    files = [p for p in full.rglob("*") if p.is_file() and ".locks" not in p.parts and p.name != "README.md"]
    named = [p for p in files if "begun_1px" not in p.parts and "tables" not in p.parts]
    assert (report.is_intact, report.n_files) == (True, len(named))
    assert report.n_bytes == sum(p.stat().st_size for p in named)
    assert report.sections == {"C2": open_store(full).section("C2").content_digest()}
    assert report.to_mapping()["is_intact"]
    assert "every byte" in report.summary()
    with pytest.raises(StoreError, match=r"no section 'D9' \(--sections\)"):
        verify(VerifyConfig(store=full, sections=("D9",)))


@pytest.mark.parametrize("n_places", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_any_flipped_byte_is_named(copy, n_places):
    """In every file of the store, at a random byte, and at the first and the last one."""
    rng = random.Random(11)
    unchecked = {"begun_1px/zarr.json", "README.md"}
    paths = [path for path in sorted(copy.rglob("*")) if path.is_file() and ".locks" not in path.parts]
    found = {path.relative_to(copy).as_posix(): path.read_bytes() for path in paths}
    found = {name: content for name, content in found.items() if not name.endswith(tuple(unchecked))}
    # A damaged index hides the damage of what it lists.
    indexes = [name for name in found if name in ("zarr.json", "C2/zarr.json")]
    others = [name for name in found if name not in indexes]
    # Each damaged file has intact neighbours, which must not be named.
    for together in (*([name] for name in indexes), others[::2], others[1::2]):
        for number in range(n_places):
            for name in together:
                changed = bytearray(found[name])
                changed[(rng.randrange(len(changed)), 0, -1)[number]] ^= 1 << rng.randrange(8)
                (copy / name).write_bytes(changed)
            assert set(faults(copy)) == set(together)
        for name in together:
            (copy / name).write_bytes(found[name])
    assert faults(copy) == {}


def test_verify_names_the_rows(copy):
    n_entries = open_store(copy).section("C2").counts().nnz
    path = copy / "C2/obsm" / KEY / "c/4/0"
    content = bytearray(path.read_bytes())
    content[7] ^= 16
    path.write_bytes(content)
    entries = copy / "C2/X/data/c/0"
    entries.write_bytes(entries.read_bytes()[:-1])
    (copy / "C2/obsm/begun_1px/c/0/0").write_bytes(b"0" * 34)
    found = faults(copy)
    assert f"rows 12:13 of obsm/{KEY}" in found[f"C2/obsm/{KEY}/c/4/0"]
    assert f"entries 0:{n_entries} of X/data" in found["C2/X/data/c/0"]
    assert "checksum" in found["C2/obsm/begun_1px/c/0/0"]
    assert len(found) == 3


def test_verify_names_the_rows_of_a_column_of_the_name_c(copy, add):
    add(open_store(copy, is_read_only=False), name="D1", obs={"c": np.arange(13)})
    for path in ("c/0", "zarr.json"):
        (copy / "D1/obs/c" / path).write_bytes(b"")
    found = faults(copy)
    assert "rows 0:13 of obs/c" in found.pop("D1/obs/c/c/0")
    assert list(found) == ["D1/obs/c/zarr.json"]


def test_verify_finds_what_is_missing_too_many_or_a_link(copy, add):
    add(open_store(copy, is_read_only=False), name="D1")
    (copy / "C2/obs/label/c/0").unlink()
    (copy / "C2/X/notes.txt").write_text("not the store's")
    (copy / "notes.txt").write_text("not the store's")
    (copy / "C2/var/link").symlink_to(copy / "README.md")
    (copy / "C2/var/broken").symlink_to(copy / "nowhere")
    links = {"C2/var/link", "C2/var/broken"}
    (copy / "foreign/obsm/key").mkdir(parents=True)
    (copy / "foreign/obsm/key/zarr.json").touch()
    others = {"notes.txt", "foreign/obsm/key/zarr.json"}
    assert set(faults(copy)) == {"C2/obs/label/c/0", "C2/X/notes.txt", *links, *others}
    (copy / "C2/obs/label/c/0").symlink_to(copy / "README.md")
    assert "C2/obs/label/c/0" in faults(copy)
    assert set(faults(copy, "C2")) == {"C2/obs/label/c/0", "C2/X/notes.txt", *links}
    shutil.copytree(copy / "C2", copy / "C3", symlinks=True)
    assert {"C3/zarr.json"} <= set(faults(copy))  # it names another section
    (copy / "C2/zarr.json").unlink()
    assert "C2/zarr.json" in faults(copy)


def test_damaged_root_hides_no_section(copy):
    (copy / "zarr.json").write_bytes((copy / "zarr.json").read_bytes().replace(b"C2", b"C1"))
    (copy / "C2/X/data/c/0").write_bytes(b"")
    assert set(faults(copy)) == {"zarr.json", "C2/X/data/c/0"}


def test_what_a_killed_writer_left_is_no_fault(copy):
    (copy / f"{STAGING}C2").mkdir()
    for path in (f"{STAGING}C2/overview", "C2/X/data/c/0.partial", ".locks/C2.lock"):
        (copy / path).write_bytes(b"left")
    assert faults(copy) == {}


def test_verify_needs_a_store(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    zarr.create_group(tmp_path / "other")
    (copy / "zarr.json").unlink()
    for folder in (copy, tmp_path / "empty", tmp_path / "other"):
        with pytest.raises(StoreError, match="is not a store"):
            verify(VerifyConfig(store=folder))


def test_a_section_without_counts_is_intact(copy, add):
    add(open_store(copy, is_read_only=False), name="D1", has_counts=False, n_genes=0)
    assert faults(copy) == {}


def test_verify_reads_a_packed_store(copy, tmp_path):
    def pack(*, flip: str = "") -> Path:
        packed = tmp_path / "cohort.zarr.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(p for p in copy.rglob("*") if p.is_file()):
                name = path.relative_to(copy).as_posix()
                if not name.startswith(".locks") and "begun_1px" not in name:
                    content = path.read_bytes()
                    archive.writestr(name, content[:-1] + b"?" if name == flip else content)
        return packed

    assert faults(pack()) == {}
    assert set(faults(pack(flip="C2/X/data/c/0"))) == {"C2/X/data/c/0"}


@pytest.mark.parametrize(("part", "read"), READS.items(), ids=READS)
@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_damaged_file_is_an_error_when_it_is_read(copy, part, read, damage):
    chunk = next(path for path in sorted((copy / "C2" / part / "c").rglob("*")) if path.is_file())
    content = bytearray(chunk.read_bytes())
    message = {"gone": "missing", "short": f"has {len(content) - 1} bytes", "flipped": "SHA-256|checksum"}[
        damage
    ]
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content[:-1] if damage == "short" else content)
    if damage == "gone":
        chunk.unlink()
    with pytest.raises(StoreError, match=rf"Damaged file: C2/{part}/.*({message}).*spam store verify"):
        read(open_store(copy).section("C2"))


def test_sizes_of_files_are_compared_before_memory_is_allocated(copy, monkeypatch):
    section = open_store(copy).section("C2")
    chunk = copy / f"C2/obsm/{KEY}/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    monkeypatch.setattr("spam.store.features.np.empty", None)
    with pytest.raises(StoreError, match=f"{KEY}/c/1/0.*bytes"):
        section.features(KEY)


@pytest.mark.parametrize("change", ["flip", "short", "empty", "gone"])
def test_chunk_damaged_before_the_end_is_found_by_finish(section, store, make_feature_meta, change):
    rows = np.arange(65, dtype=np.float32).reshape(13, 5)
    writer = section.feature_writer(make_feature_meta())
    for chunk in writer.chunks:
        writer.write(chunk, rows[chunk])
    path = store.folder / "C2/obsm" / KEY / "c/1/0"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": content, "short": content[:-2], "empty": b""}[change])
    message = "1 of 5 chunks are missing" if change == "gone" else r"Rows 3:6 .*Check the disk.*spam embed"
    with pytest.raises(StoreError, match=message):
        writer.finish()
    assert section.feature_keys == ()
    assert writer.pending == [slice(3, 6)]
    writer.write(slice(3, 6), rows[3:6])
    writer.finish()
    np.testing.assert_array_equal(section.features(KEY), rows)


def test_features_replaced_while_they_are_read(copy, make_feature_meta, fill, monkeypatch):
    """A checksum does not distinguish new chunks from old ones, so the index is compared after reading."""
    reader = open_store(copy).section("C2")
    writing = open_store(copy, is_read_only=False).section("C2")
    fill(writing.feature_writer(make_feature_meta(weights_sha256="00"), is_overwrite=True), np.ones((13, 5)))
    with pytest.raises(StoreError, match=rf"'{KEY}' of section 'C2' were replaced"):
        reader.features(KEY)
    fill(writing.feature_writer(make_feature_meta(key="other_1px")), np.ones((13, 5)))
    reader.refresh()
    np.testing.assert_array_equal(reader.features(KEY), np.ones((13, 5)))


@given(data=st.data())
def test_any_changed_byte_of_an_index_is_found(data):
    content = sealed(
        {"attributes": {"spam": {"meta": {"name": "µ", "n": 13}, "files": {"a/c/0": 1}}}, "b": []}
    )
    place, flip = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(content)
    changed[place] ^= flip
    with pytest.raises(StoreError, match=r"Damaged index: .*'here'"):
        read_sealed(bytes(changed), "'here'")
    assert read_sealed(content, "'here'")["b"] == []


def test_digest_of_an_index_is_that_of_its_bytes_with_zeros_in_its_place(full):
    for folder in (full, full / "C2"):
        content = (folder / "zarr.json").read_bytes()
        digest = json.loads(content)["attributes"]["spam"]["digest"]
        assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_index_names_every_file_with_its_size_and_digest(full):
    index = open_store(full).section("C2").index
    found = {path: (entry.n_bytes, entry.sha256) for path, entry in index.files.items()}
    expected = {}
    for path in (p for p in (full / "C2").rglob("*") if p.is_file() and "begun_1px" not in p.parts):
        content = path.read_bytes()
        expected[path.relative_to(full / "C2").as_posix()] = (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
    del expected["zarr.json"]
    assert found == expected
    assert set(index.nodes) == {
        name.removesuffix("/zarr.json") for name in expected if name.endswith("zarr.json")
    }
    assert index.children("X") == ["data", "indices", "indptr"]
    assert set(index.below("X/dat", "X/data")) == {"X/data/zarr.json", "X/data/c/0"}
    rows = sorted((path, *entry) for path, entry in expected.items() if path.split("/")[0] in ("obs", "X"))
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
    assert content_digest(index.below("X", "obs")) == digest


def test_what_the_index_does_not_name_is_not_there(copy):
    folder, digest = copy / "C2", open_store(copy).section("C2").content_digest()
    shutil.copytree(folder / f"obsm/{KEY}", folder / "obsm/copied_112um")
    section = open_store(copy).section("C2")
    assert (section.feature_keys, section.content_digest()) == ((KEY,), digest)
    with pytest.raises(StoreError, match=r"'copied_112um' are unfinished"):
        section.features("copied_112um")
    before = (folder / "zarr.json").read_bytes()
    update_index(folder, drop=("uns/spatial_neighbors",))
    assert open_store(copy).section("C2").graph("spatial") is None
    (folder / "uns/spatial_neighbors/zarr.0123.partial").write_text("of a killed writer")
    update_index(folder, add=("uns/spatial_neighbors",))
    assert (folder / "zarr.json").read_bytes() == before
    assert not list(folder.rglob("*.partial"))


def node(name: str):
    return lambda d: d["consolidated_metadata"]["metadata"][name]


def entry(d):
    return d["attributes"]["spam"]["files"]["X/zarr.json"]


FORGED = {
    "no meta": (lambda d: d["attributes"]["spam"].pop("meta"), "KeyError: 'meta'"),
    "unknown field": (lambda d: d["attributes"]["spam"]["meta"].update(colour="red"), "colour"),
    "missing field": (lambda d: d["attributes"]["spam"]["meta"].pop("n_spots"), "n_spots"),
    "another name": (lambda d: d["attributes"]["spam"]["meta"].update(name="D1"), "D1"),
    "no nodes": (lambda d: d.pop("consolidated_metadata"), "consolidated_metadata"),
    "no files": (lambda d: d["attributes"]["spam"].update(files=[]), "AttributeError"),
    "negative size": (lambda d: entry(d).update(n_bytes=-1), "not a size"),
    "size of text": (lambda d: entry(d).update(n_bytes="9"), "not a size"),
    "path as digest": (lambda d: entry(d).update(sha256="../" * 21 + "x"), "not a size and SHA-256"),
    "path outside": (
        lambda d: d["attributes"]["spam"]["files"].update({"../a": entry(d)}),
        r"'\.\./a' is not a path",
    ),
    "absolute path": (
        lambda d: d["attributes"]["spam"]["files"].update({"/a": entry(d)}),
        "'/a' is not a path",
    ),
    "backslash": (lambda d: d["attributes"]["spam"]["files"].update({"a\\b": entry(d)}), "is not a path"),
    "own index": (
        lambda d: d["attributes"]["spam"]["files"].update({"zarr.json": entry(d)}),
        "is not a path",
    ),
    "unknown codec": (lambda d: node("X/data")(d)["codecs"].append({"name": "pickle"}), "codecs .*pickle"),
    "huge shape": (lambda d: node("obsm/spatial")(d).update(shape=[1 << 40, 2]), "would take"),
    "huge beside none": (lambda d: node("obsm/spatial")(d).update(shape=[0, 1 << 40]), "would take"),
    "negative shape": (lambda d: node("obsm/spatial")(d).update(shape=[-1, 2]), "no shapes"),
    "other dimensions": (lambda d: node("obsm/spatial")(d).update(shape=[13]), "no shapes"),
    "no chunk": (
        lambda d: node("X/data")(d)["chunk_grid"]["configuration"].update(chunk_shape=[0]),
        "cannot be read",
    ),
    "data type": (lambda d: node("X/data")(d).update(data_type="object"), "'object'"),
}


@pytest.mark.parametrize(("edit", "message"), FORGED.values(), ids=FORGED)
def test_forged_index_is_refused_on_opening(copy, reseal, edit, message):
    reseal(copy / "C2/zarr.json", edit)
    with pytest.raises(StoreError, match=rf"Section .*C2' cannot be opened: .*{message}"):
        open_store(copy).section("C2")
    assert "C2/zarr.json" in faults(copy)


@pytest.mark.parametrize(
    ("edit", "read"),
    [
        (
            lambda d: node(f"obsm/{KEY}")(d)["attributes"]["spam"]["meta"].update(dim=6),
            lambda s: s.features(KEY),
        ),
        (
            lambda d: node(f"obsm/{KEY}")(d)["attributes"]["spam"]["meta"].pop("dim"),
            lambda s: s.features(KEY),
        ),
        (lambda d: node(f"obsm/{KEY}")(d).update(shape=[14, 5]), lambda s: s.features(KEY)),
        (lambda d: node(f"obsm/{KEY}")(d).update(data_type="float32"), lambda s: s.features(KEY)),
        (lambda d: node(f"obsm/{KEY}")(d)["codecs"].pop(), lambda s: s.features(KEY)),
        (lambda d: d["attributes"]["spam"]["files"].pop(f"obsm/{KEY}/c/2/0"), lambda s: s.features(KEY)),
        (lambda d: d["attributes"]["spam"]["meta"].update(n_spots=5), lambda s: s.counts()),
        (lambda d: d["attributes"]["spam"]["meta"].update(n_spots=5), lambda s: s.counts(["GENE0"])),
        (lambda d: d["attributes"]["spam"]["meta"].update(n_spots=5), lambda s: s.graph("spatial")),
    ],
)
def test_parts_that_do_not_fit_are_an_error(copy, reseal, edit, read):
    reseal(copy / "C2/zarr.json", edit)
    with pytest.raises(StoreError, match=r"differ|do not fit|damaged"):
        read(open_store(copy).section("C2"))


def test_index_of_any_size_is_not_read(section, store, monkeypatch):
    monkeypatch.setattr("spam.store.section_index.MOST_INDEX_BYTES", 1000)
    monkeypatch.setattr("spam.store.places.MOST_INDEX_BYTES", 1000)
    with pytest.raises(StoreError, match="Damaged index"):
        store.section("C2")


def test_edited_indexes_give_one_message_or_the_same_values(tmp_path: Path) -> None:
    """Every entry of the index in every 1187th way, sealed again as the owner of a store could."""
    store = tmp_path / "cohort.zarr"
    add_section(store, "S1", n_spots=23, n_genes=17, unreadable=(2,))
    build_graphs(GraphConfig(store=store, k_spatial=3, k_features=3))
    path = store / "S1/zarr.json"
    document = json.loads(path.read_bytes())

    def values() -> list[Any]:
        section = open_store(store).section("S1")
        graphs = [section.graph(key) for key in section.graph_keys]
        features = [section.features(key) for key in section.feature_keys]
        counts = section.counts().toarray(), section.counts(["G3", "G1"]).toarray()
        describe(InfoConfig(store=store)).summary()
        verify(VerifyConfig(store=store)).summary()
        return [*features, *counts, section.ids, section.xy_px, *(g.distances.toarray() for g in graphs if g)]

    plain, n_refused = values(), 0
    for what, changed in edited(document, share=1187):
        try:
            path.write_bytes(sealed(changed))
        except (KeyError, TypeError, ValueError, AttributeError):  # nothing to seal
            path.write_text(json.dumps(changed))
        found, message = outcome(values)
        n_refused += bool(message)
        assert len(message) < 800, what
        for mine, theirs in zip(found, plain, strict=True) if found else ():
            np.testing.assert_array_equal(mine, theirs, err_msg=what)
    assert n_refused > 12


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda x: setattr(x, "indices", np.where(np.arange(x.nnz) == 3, -5, x.indices)),
            "indices go from -5",
        ),
        (lambda x: setattr(x, "indices", np.where(np.arange(x.nnz) == 3, 10**7, x.indices)), "to 10000000"),
        (lambda x: x.indptr.__setitem__(1, -4), "indptr decreases"),
        (lambda x: x.indptr.__setitem__(-1, x.nnz + 7), "indptr goes from 0"),
        (lambda x: setattr(x, "data", x.data[:-1]), "values for"),
    ],
)
def test_counts_that_are_no_sparse_matrix_are_found_whatever_their_digests(
    tmp_path, make_meta, make_tables, change, fault
):
    """The bytes are as written, but the writer was given no sparse matrix (issue 15, A1)."""
    meta = make_meta()
    tables = make_tables(meta)

    class Damaged(sparse.csr_matrix):
        def tocsc(self, *_, **__):
            broken = sparse.csr_matrix(self).tocsc()
            change(broken)
            broken.check_format = lambda **_: None
            return broken

    store = create_store(tmp_path / "cohort.zarr")
    with locked(store.folder, "C2"):
        write_section(store.folder, meta, **{**tables, "counts": Damaged(tables["counts"])})
    write_root(store.folder)
    section = open_store(tmp_path / "cohort.zarr").section("C2")
    for genes in (None, ["GENE0", "GENE5"]):
        with pytest.raises(
            StoreError, match=f"'X' of section 'C2' .* damaged.*{'' if genes else fault}.*--overwrite"
        ):
            section.counts(genes)
    found = faults(tmp_path / "cohort.zarr")
    assert list(found) == ["C2/X"]
    assert fault in found["C2/X"]


def test_a_graph_that_is_no_sparse_matrix_is_found(copy):
    node = "obsp/spatial_distances"
    zarr.open_array(copy / "C2" / node / "indices", mode="r+")[0] = 10**6
    with locked(copy, "C2"):
        update_index(copy / "C2", add=[node])
    found = faults(copy)
    assert list(found) == ["C2/obsp/spatial"]
    assert "to 1000000" in found["C2/obsp/spatial"]
