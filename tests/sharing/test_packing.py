"""Packing and unpacking: the same bytes come back, and no ZIP file of a stranger does harm."""

import dataclasses
import hashlib
import json
import os
import stat
import tempfile
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import MissingInputError, OutputExistsError, StoreError
from spam.schemas.store_config import PackConfig, UnpackConfig
from spam.sharing.packing import pack
from spam.sharing.unpacking import unpack
from spam.store import create_store, open_store
from spam.store.lock import locked


def packed(folder: Path, out: Path | None = None) -> Path:
    return pack(PackConfig(store=folder, out=out)).out


def unpacked(path: Path, out: Path) -> Path:
    return unpack(UnpackConfig(packed=path, out=out)).out


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestRoundTrip:
    def test_the_same_bytes_come_back(self, pristine_store, tmp_path, tree):
        out = packed(pristine_store, tmp_path / "p.zip")
        report = unpack(UnpackConfig(packed=out, out=tmp_path / "back"))
        expected = tree(pristine_store)
        assert tree(tmp_path / "back") == expected
        assert report.n_files == len(expected)
        assert report.n_bytes == sum(map(len, expected.values()))
        assert report.sections == ("C2", "C3")
        assert left(tmp_path) == {"p.zip", "back"}

    def test_equals_a_zip_made_by_hand(self, pristine_store, tmp_path, pack_by_hand):
        ours, theirs = (
            packed(pristine_store, tmp_path / "a.zip"),
            pack_by_hand(pristine_store, tmp_path / "b.zip"),
        )
        with zipfile.ZipFile(ours) as a, zipfile.ZipFile(theirs) as b:
            assert a.namelist() == b.namelist() == sorted(a.namelist())
            assert [a.read(name) for name in a.namelist()] == [b.read(name) for name in b.namelist()]
            assert a.testzip() is None
            for entry in a.infolist():
                assert entry.date_time == (1980, 1, 1, 0, 0, 0)
                assert entry.compress_type == zipfile.ZIP_STORED
                assert entry.external_attr >> 16 == stat.S_IFREG | 0o644
                assert entry.flag_bits & ~0x800 == 0

    def test_bytes_depend_on_the_content_alone(self, pristine_store, tmp_path):
        one = packed(pristine_store, tmp_path / "a.zip")
        two = packed(unpacked(one, tmp_path / "elsewhere"), tmp_path / "b.zip")
        assert one.read_bytes() == two.read_bytes()

    def test_default_names_stand_beside(self, store_path, tmp_path, tree):
        report = pack(PackConfig(store=store_path))
        assert report.out == tmp_path / "cohort.zarr.zip"
        assert report.to_mapping()["n_bytes"] == report.out.stat().st_size
        store_path.rename(tmp_path / "old")
        assert unpack(UnpackConfig(packed=report.out)).out == store_path
        assert tree(store_path) == tree(tmp_path / "old")

    @given(
        st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=7, unique=True),
        st.integers(1, 11),
        st.sampled_from(["float16", "float32", "bfloat16"]),
    )
    @settings(max_examples=7, deadline=None)
    def test_stores_of_any_size(self, make_record, add_features, tree, ids, dim, dtype):
        clean = [f"{name!a}" for name in ids]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            record = make_record(n_spots=len(ids), ids=np.array(clean), has_counts=dim % 2 == 0)
            add_features(create_store(folder / "s").add_section(record), dim=dim, dtype=dtype)
            out = unpacked(packed(folder / "s"), folder / "t")
            assert tree(out) == tree(folder / "s")

    def test_an_empty_store(self, tmp_path, tree):
        folder = create_store(tmp_path / "s").folder
        assert tree(unpacked(packed(folder), tmp_path / "t")) == tree(folder)

    def test_entries_beyond_4_gb_have_longer_headers(self, pristine_store, tmp_path, tree, monkeypatch):
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
        out = packed(pristine_store, tmp_path / "p.zip")
        monkeypatch.undo()
        assert b"PK\x06\x06" in out.read_bytes()[-200:]
        assert tree(unpacked(out, tmp_path / "t")) == tree(pristine_store)


class TestPack:
    def test_reads_without_unpacking(self, pristine_store, tmp_path):
        store, whole = open_store(packed(pristine_store, tmp_path / "p.zip")), open_store(pristine_store)
        assert store.section_names == whole.section_names
        for name in store.section_names:
            one, two = store.section(name), whole.section(name)
            assert one.content_digest() == two.content_digest()
            for key in two.feature_keys:
                np.testing.assert_array_equal(one.stored_features(key), two.stored_features(key))

    def test_others_read_it_without_unpacking(self, pristine_store, tmp_path):
        store = zarr.storage.ZipStore(packed(pristine_store, tmp_path / "p.zip"), mode="r")
        adata = anndata.read_zarr(zarr.open_group(store, path="C2", mode="r"))
        section = open_store(pristine_store).section("C2")
        np.testing.assert_array_equal(adata.X.toarray(), section.counts().toarray())
        assert list(adata.obs_names) == section.ids.tolist()
        np.testing.assert_array_equal(adata.obsm["tiny_112um"], section.stored_features("tiny_112um"))
        store.close()

    def test_the_root_names_what_is_there(self, store_path, tmp_path, reseal):
        reseal(store_path, lambda root: root["attributes"]["spam"].update(sections=["C3"]))
        out = packed(store_path, tmp_path / "p.zip")
        with zipfile.ZipFile(out) as archive:
            assert json.loads(archive.read("zarr.json"))["attributes"]["spam"]["sections"] == ["C2", "C3"]
        assert open_store(out).section_names == ("C2", "C3")

    def test_unfinished_features_and_strange_files_stay_out(self, store_path, tmp_path, add_features, tree):
        expected = tree(store_path)
        store = open_store(store_path, is_read_only=False)
        add_features(store.section("C3"), "tiny_55um", n_chunks=1)
        (store_path / "notes.txt").write_text("x")
        (store_path / "C2" / "notes.txt").write_text("x")
        report = pack(PackConfig(store=store_path))
        assert report.unfinished == ("C3/tiny_55um",)
        assert "unfinished features were left out: C3/tiny_55um" in report.summary()
        with zipfile.ZipFile(report.out) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == expected

    def test_damage_is_named_and_nothing_written(self, store_path, tmp_path):
        path = store_path / "C2" / "obsm" / "tiny_112um" / "c" / "0" / "0"
        data = bytearray(path.read_bytes())
        data[17] ^= 4
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"damaged.*C2/obsm/tiny_112um/c/0/0.*digest.*spam store verify"):
            packed(store_path)
        assert left(tmp_path) == {"cohort.zarr"}

    @pytest.mark.parametrize(("change", "words"), [("cut", "bytes, expected"), ("gone", "is not there")])
    def test_lost_bytes_are_named(self, store_path, tmp_path, change, words):
        path = store_path / "C3" / "obs" / "_index" / "c" / "0"
        path.write_bytes(path.read_bytes()[:-1])
        if change == "gone":
            path.unlink()
        with pytest.raises(StoreError, match=f"C3/obs/_index/c/0: .*{words}"):
            packed(store_path)
        assert left(tmp_path) == {"cohort.zarr"}

    def test_refuses_while_another_process_writes(self, store_path, tmp_path):
        with locked(store_path, "C2/obsm/tiny_112um"):
            lock = next((store_path / ".unfinished").rglob("*.lock"))
            holder = json.loads(lock.read_text())
            parent = os.getppid()
            started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
            lock.write_text(json.dumps(holder | {"pid": parent, "started": started}))
            with pytest.raises(StoreError, match=r"another process is writing 'C2/obsm/tiny_112um'; wait"):
                packed(store_path)
        assert left(tmp_path) == {"cohort.zarr"}

    def test_writes_over_nothing(self, store_path, tmp_path):
        (tmp_path / "p.zip").write_text("mine")
        with pytest.raises(OutputExistsError, match=r"p\.zip' is there already"):
            packed(store_path, tmp_path / "p.zip")
        assert (tmp_path / "p.zip").read_text() == "mine"

    def test_a_packed_store_is_not_packed_again(self, pristine_store, tmp_path):
        out = packed(pristine_store, tmp_path / "p.zip")
        with pytest.raises(StoreError, match="packed store is packed already"):
            packed(out, tmp_path / "q.zip")


def rewrite(path: Path, edit) -> Path:
    """Write a ZIP file again from (info, data) pairs that `edit` has changed; it may add and drop some."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: (info, archive.read(info)) for info in archive.infolist()}
    pairs = list(entries.values())
    pairs = edit(pairs) or pairs
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in pairs:
            archive.writestr(info, data)
    return path


def added(name: str, data: bytes = b"evil", mode: int = 0o644, **changes):
    def edit(pairs):
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        for key, value in changes.items():
            setattr(info, key, value)
        return [*pairs, (info, data)]

    return edit


def without(name: str):
    return lambda pairs: [pair for pair in pairs if pair[0].filename != name]


class TestHostile:
    @pytest.fixture
    def zipped(self, pristine_store, tmp_path) -> Path:
        folder = tmp_path / "deep"
        folder.mkdir()
        return packed(pristine_store, folder / "p.zip")

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (added("../evil"), r"'\.\./evil' is no path inside"),
            (added("C2/../../evil"), "is no path inside"),
            (added("/evil"), "'/evil' is no path inside"),
            (added("C:/evil"), "'C:/evil' is no path inside"),
            (added("C2\\evil"), "is no path inside"),
            (added("C2/\x1bevil"), "is no path inside"),
            (added("C2/./evil"), "is no path inside"),
            (added("C2/evil/", b""), "is no path inside"),
            (added("C2/evil", b"/etc/passwd", stat.S_IFLNK | 0o777), "'C2/evil' is a link"),
            (added("C2/evil", b"", stat.S_IFIFO | 0o644), "'C2/evil' is a link or another"),
            (added("evil"), "'evil' is named by no index"),
            (added("C2/evil"), "'C2/evil' is named by no index"),
            (added(".unfinished/C2.lock"), r"named by no index"),
            (added("C2/evil", b"0" * 10**6, compress_type=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
            (without("C2/var/zarr.json"), "'C2/var/zarr.json' is missing"),
            (without("C2/X/data/c/0"), "'C2/X/data/c/0' is missing"),
            (without("zarr.json"), "has no 'zarr.json'"),
            (without("C3/zarr.json"), "is named by no index"),
        ],
    )
    def test_entries_that_no_packed_store_has(self, zipped, edit, words):
        rewrite(zipped, edit)
        with pytest.raises(StoreError, match=words):
            unpacked(zipped, zipped.with_name("out"))
        assert left(zipped.parent) == {"p.zip"}
        assert left(zipped.parent.parent) == {"deep"}

    def test_all_faults_are_named(self, zipped):
        rewrite(zipped, added("../evil"))
        rewrite(zipped, added("/bad"))
        with pytest.raises(
            StoreError, match=r"nothing was written: '\.\./evil' .*; '/bad' .*take a fresh copy"
        ):
            unpacked(zipped, zipped.with_name("out"))

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_an_entry_that_occurs_twice(self, zipped):
        rewrite(zipped, lambda pairs: [*pairs, (zipfile.ZipInfo("C2/var/zarr.json"), b"{}")])
        with pytest.raises(StoreError, match="1 occur twice"):
            unpacked(zipped, zipped.with_name("out"))

    def test_a_section_whose_name_leads_outside(self, zipped, tmp_path, reseal):
        """The index is sealed by whoever wrote it, so its own name does not protect."""
        folder = unpacked(zipped, tmp_path / "s")
        reseal(folder / "C3", lambda index: index["attributes"]["spam"]["meta"].update(name=".."))

        def edit(pairs):
            pairs = [pair for pair in pairs if not pair[0].filename.startswith("C3/")]
            files = [path for path in (folder / "C3").rglob("*") if path.is_file()]
            names = {f"../{path.relative_to(folder / 'C3').as_posix()}": path.read_bytes() for path in files}
            return [*pairs, *((zipfile.ZipInfo(name), data) for name, data in names.items())]

        rewrite(zipped, edit)
        with pytest.raises(StoreError, match="is no path inside a store"):
            unpacked(zipped, zipped.with_name("out"))
        with pytest.raises(StoreError, match=r"its name '\.\.' cannot name a folder"):
            open_store(zipped).section("..")

    def test_an_index_that_leads_outside(self, zipped, tmp_path, reseal):
        folder = unpacked(zipped, tmp_path / "s")
        entry = {"n_bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
        reseal(
            folder / "C2", lambda index: index["attributes"]["spam"]["files"].update({"../../evil": entry})
        )
        data = (folder / "C2" / "zarr.json").read_bytes()

        def edit(pairs):
            return [(info, data if info.filename == "C2/zarr.json" else old) for info, old in pairs]

        rewrite(zipped, edit)
        with pytest.raises(StoreError, match=r"'\.\./\.\./evil' is no path inside a section"):
            unpacked(zipped, zipped.with_name("out"))
        assert left(tmp_path) == {"deep", "s"}

    def test_a_size_that_lies(self, zipped):
        def edit(pairs):
            return [(i, d + b"more" if i.filename == "C2/obs/_index/c/0" else d) for i, d in pairs]

        rewrite(zipped, edit)
        with pytest.raises(StoreError, match=r"'C2/obs/_index/c/0' has \d+ bytes, its index says \d+"):
            unpacked(zipped, zipped.with_name("out"))
        assert left(zipped.parent) == {"p.zip"}

    def test_entries_that_lie_over_each_other(self, zipped):
        """A ZIP bomb without compression: the central directory says that an entry goes on through all others."""
        data = bytearray(zipped.read_bytes())
        central = data.index(b"PK\x01\x02")
        n = len(data)
        data[central + 20 : central + 28] = n.to_bytes(4, "little") * 2
        zipped.write_bytes(data)
        with pytest.raises(
            StoreError, match=r"its entries have \d+ bytes together, the file \d+|digest|damaged"
        ):
            unpacked(zipped, zipped.with_name("out"))
        assert left(zipped.parent) == {"p.zip"}

    def test_flipped_bytes(self, tmp_path, make_record, add_features, tree):
        """Each flip is an error that says where, or is in what ZIP readers skip, and then all bytes come back."""
        section = create_store(tmp_path / "s").add_section(
            make_record(has_counts=False, overview=None, obs={})
        )
        add_features(section)
        zipped, expected = packed(tmp_path / "s", tmp_path / "p.zip"), tree(tmp_path / "s")
        data, rng = zipped.read_bytes(), np.random.default_rng(3)
        errors = []
        for place in rng.integers(0, len(data), 61).tolist():
            flipped = data[place] ^ 1 << int(rng.integers(8))
            zipped.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
            out = tmp_path / f"out{place}"
            try:
                unpacked(zipped, out)
            except StoreError as error:
                errors.append(str(error))
                assert not out.exists()
            else:
                assert tree(out) == expected
        assert len(errors) > 40
        assert all("p.zip" in error for error in errors)

    def test_a_flipped_data_byte_names_its_file(self, zipped):
        with zipfile.ZipFile(zipped) as archive:
            info = archive.getinfo("C2/obsm/tiny_112um/c/1/0")
        data = bytearray(zipped.read_bytes())
        data[info.header_offset + 30 + len(info.filename) + 5] ^= 1
        zipped.write_bytes(data)
        with pytest.raises(StoreError, match=r"p\.zip/C2/obsm/tiny_112um/c/1/0: its bytes have the digest"):
            unpacked(zipped, zipped.with_name("out"))
        assert left(zipped.parent) == {"p.zip"}

    @pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"no zip at all" * 100])
    def test_what_is_no_zip(self, tmp_path, data):
        (tmp_path / "p.zip").write_bytes(data)
        with pytest.raises(StoreError, match="no readable ZIP file"):
            unpacked(tmp_path / "p.zip", tmp_path / "out")

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(MissingInputError, match=r"'.*p\.zip' is not there; give the ZIP file"):
            unpacked(tmp_path / "p.zip", tmp_path / "out")
        with pytest.raises(MissingInputError, match="is a folder: it needs no unpacking"):
            unpacked(tmp_path, tmp_path / "out")

    def test_writes_over_nothing(self, zipped):
        zipped.with_name("out").mkdir()
        with pytest.raises(OutputExistsError, match="out' is there already"):
            unpacked(zipped, zipped.with_name("out"))


class TestPartialFolder:
    def test_what_a_killed_run_left_is_cleared(self, pristine_store, tmp_path, tree):
        path = packed(pristine_store, tmp_path / "p.zip")
        (tmp_path / "out.partial" / "copy" / "C2").mkdir(parents=True)
        (tmp_path / "out.partial" / "copy" / "C2" / "half").write_text("x")
        assert tree(unpacked(path, tmp_path / "out")) == tree(pristine_store)
        assert left(tmp_path) == {"p.zip", "out"}

    def test_what_somebody_else_has_there_is_not(self, pristine_store, tmp_path):
        path = packed(pristine_store, tmp_path / "p.zip")
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "thesis.txt").write_text("x")
        with pytest.raises(OutputExistsError, match=r"out\.partial' is in the way.*rename it"):
            unpacked(path, tmp_path / "out")
        assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "x"


def test_reports_are_plain(pristine_store, tmp_path):
    first = pack(PackConfig(store=pristine_store, out=tmp_path / "p.zip"))
    second = unpack(UnpackConfig(packed=first.out, out=tmp_path / "out"))
    for report in (first, second):
        plain = report.to_mapping()
        assert json.loads(json.dumps(plain)) == plain
        assert plain.keys() == {field.name for field in dataclasses.fields(report)}
        assert f"2 sections, {report.n_files} files, {report.n_bytes} bytes" in report.summary()
