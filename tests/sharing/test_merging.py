"""Merging: the same store whatever the order, nothing rewritten, and every conflict named before anything is written."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from http_range_server import HttpRangeServer
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.schemas.store_config import MergeConfig, PackConfig
from spam.sharing.merging import MergeReport, merge
from spam.sharing.packing import pack
from spam.store import create_store, open_store
from spam.store.lock import locked
from spam.store.store import write_root

SCRIPT = Path(__file__).with_name("killed_merges.py")


def merged(out: Path, *stores: Path) -> MergeReport:
    return merge(MergeConfig(out=out, stores=tuple(map(str, stores))))


@pytest.fixture(scope="session")
def write_store(make_record, add_features, make_graph):
    """Write a store: section -> keys of its features; a key that is no tile size is that of a graph."""

    def write(folder: Path, content: dict[str, tuple[str, ...]], *, seed: int = 0, **changes) -> Path:
        store = create_store(folder)
        for section_name, keys in content.items():
            bare = {"n_spots": 11, "overview": None, "obs": {}}
            section = store.add_section(make_record(section_name, **(bare | changes)))
            for key in keys:
                if key.startswith("tiny_"):
                    add_features(section, key, seed=seed)
                else:
                    section.write_graph(key, make_graph(11, k=3 + seed))
        return folder

    return write


@pytest.fixture
def make_store(tmp_path, write_store):
    def make(name: str, content: dict[str, tuple[str, ...]], **changes) -> Path:
        return write_store(tmp_path / name, content, **changes)

    return make


class TestUnion:
    def test_into_nothing_is_a_copy(self, pristine_store, tmp_path, tree):
        report = merged(tmp_path / "all", pristine_store)
        assert tree(tmp_path / "all") == tree(pristine_store)
        assert report.sections == ("C2", "C3")
        assert report.features == ("C2/tiny_112um", "C2/tiny_224um", "C3/tiny_112um", "C3/tiny_224um")
        assert set(report.graphs) == {
            f"{name}/{key}"
            for name in ("C2", "C3")
            for key in ("spatial", "features_tiny_112um", "features_tiny_224um")
        }
        assert report.n_equal == 0

    def test_parts_are_added_and_what_is_there_is_not_touched(self, make_store, tmp_path, tree):
        out = make_store("out", {"A": ("tiny_1um",)})
        before = {path: path.stat().st_mtime_ns for path in (out / "A").rglob("*") if path.is_file()}
        other = make_store("other", {"A": ("tiny_2um", "spatial"), "B": ("tiny_1um",)})
        report = merged(out, other)
        assert (report.sections, report.features) == (("B",), ("A/tiny_2um", "B/tiny_1um"))
        assert (report.graphs, report.n_equal) == (("A/spatial",), 1)
        assert tree(out) == tree(
            make_store("whole", {"A": ("tiny_1um", "tiny_2um", "spatial"), "B": ("tiny_1um",)})
        )
        after = {path: path.stat().st_mtime_ns for path in before}
        assert {path for path in before if before[path] != after[path]} == {out / "A" / "zarr.json"}

    def test_again_changes_nothing(self, pristine_store, tmp_path, tree):
        out = tmp_path / "all"
        merged(out, pristine_store)
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        report = merged(out, pristine_store, out)
        assert (report.sections, report.features, report.graphs) == ((), (), ())
        assert report.n_equal == 2 * (2 + 4 + 6)
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before

    def test_from_packed_stores(self, pristine_store, tmp_path, tree):
        path = pack(PackConfig(store=pristine_store, out=tmp_path / "p.zip")).out
        merged(tmp_path / "all", path)
        assert tree(tmp_path / "all") == tree(pristine_store)

    KEYS = st.sets(st.sampled_from(["tiny_1um", "tiny_2um", "spatial"])).map(lambda keys: tuple(sorted(keys)))
    STORES = st.lists(st.dictionaries(st.sampled_from("AB"), KEYS, max_size=2), min_size=2, max_size=3)

    @given(STORES, st.randoms(use_true_random=False))
    @settings(max_examples=5, deadline=None)
    def test_order_and_grouping_do_not_matter(self, write_store, tree, contents, random):
        whole: dict[str, tuple[str, ...]] = {}
        for content in contents:
            for name, keys in content.items():
                whole[name] = tuple(sorted({*whole.get(name, ()), *keys}))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            expected = tree(write_store(folder / "whole", whole))
            stores = [write_store(folder / str(i), content) for i, content in enumerate(contents)]
            random.shuffle(stores)
            merged(folder / "at once", *stores)
            merged(folder / "rest", *stores[1:])
            merged(folder / "right", stores[0], folder / "rest")
            for store in stores:
                merged(folder / "one by one", store)
            for way in ("at once", "right", "one by one"):
                assert tree(folder / way) == expected

    def test_equal_tables_in_other_bytes_are_the_same_section(self, make_store, tmp_path, tree, monkeypatch):
        one = make_store("one", {"A": ("tiny_1um",)})
        monkeypatch.setattr("spam.store.elements._CHUNK_ENTRIES", 7)
        two = make_store("two", {"A": ("tiny_2um",)}, software={"spam": "0.2.0"})
        report = merged(tmp_path / "all", one, two)
        assert report.features == ("A/tiny_1um", "A/tiny_2um")
        section = open_store(tmp_path / "all").section("A")
        assert section.meta.software == {"spam": "0.1.0", "numpy": "2"}
        np.testing.assert_array_equal(
            section.counts().toarray(), open_store(two).section("A").counts().toarray()
        )

    def test_unfinished_features_are_left_out_and_left_alone(self, make_store, tmp_path, add_features):
        one, two = make_store("one", {"A": ()}), make_store("two", {"A": ("tiny_3um",)})
        section = open_store(one, is_read_only=False).section("A")
        add_features(section, "tiny_1um", n_chunks=1)
        add_features(section, "tiny_2um", n_chunks=1)
        staging = set((one / ".unfinished").rglob("*"))
        report = merged(tmp_path / "all", one)
        assert report.unfinished == (f"{one}: A/tiny_1um", f"{one}: A/tiny_2um")
        assert "unfinished features were left out" in report.summary()
        assert open_store(tmp_path / "all").section("A").feature_keys == ()
        merged(one, two)
        assert open_store(one).section("A").feature_keys == ("tiny_3um",)
        assert set((one / ".unfinished").rglob("*")) == staging

    def test_what_was_overridden_is_kept(self, make_store, tmp_path):
        one, two = make_store("one", {"A": ()}), make_store("two", {"B": ()})
        about = [("x", "section 'A'"), ("y", "section 'A'"), ("z", "section 'B'"), ("z", "section 'D'")]
        said = [{"what": what, "licence": None, "clause": None, "message": text} for text, what in about]
        write_root(one, entries={"shared": {"overridden": said[:2]}})
        write_root(two, entries={"shared": {"overridden": [said[3], said[2], said[1]]}})
        for name, stores in (("ab", (one, two)), ("ba", (two, one))):
            merged(tmp_path / name, *stores)
            root = json.loads((tmp_path / name / "zarr.json").read_text())
            assert root["attributes"]["spam"]["shared"] == {"overridden": said[:3]}
        assert (tmp_path / "ab" / "zarr.json").read_bytes() == (tmp_path / "ba" / "zarr.json").read_bytes()

    def test_no_password_is_told(self, few_files, tmp_path):
        with HttpRangeServer(few_files) as server:
            address = server.url.replace("://", "://user:s3cret@")
            report = merge(MergeConfig(out=tmp_path / "all", stores=(address,)))
            assert report.stores == (server.url,)
            assert "s3cret" not in json.dumps(report.to_mapping()) + report.summary()

    def test_report_is_plain(self, pristine_store, tmp_path):
        report = merged(tmp_path / "all", pristine_store)
        plain = report.to_mapping()
        assert json.loads(json.dumps(plain)) == plain
        assert plain.keys() == {field.name for field in dataclasses.fields(report)}
        assert "section C3: added" in report.summary()


class TestConflicts:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"donor": "other"}, "its donor is 'other' there, 'patient µ' here"),
            ({"licence": None}, "its licence is None there, 'CC-BY-4.0' here"),
            ({"n_spots": 7, "n_genes": 5}, "its n_spots is 7 there, 11 here"),
            ({"has_counts": False}, "its has_counts is False there, True here"),
            ({"ids": np.array([f"x{i}" for i in range(11)])}, "its ids are others"),
            ({"genes": np.array([f"x{i}" for i in range(7)])}, "its genes are others"),
            ({"xy_um": None}, "its xy_um are others"),
            ({"xy_px": np.zeros((11, 2))}, "its xy_px are others"),
            ({"obs": {"label": np.arange(11)}}, r"its obs columns \['label'\] are others"),
        ],
    )
    def test_sections_that_are_not_the_same(self, make_store, tmp_path, changes, words):
        one, two = make_store("one", {"A": ()}), make_store("two", {"A": ()}, **changes)
        with pytest.raises(StoreError, match=f"section 'A' of store '.*two' against '.*one': {words}"):
            merged(tmp_path / "all", one, two)
        assert not (tmp_path / "all").exists()

    def test_other_counts(self, make_store, tmp_path, make_record):
        counts = make_record("A", n_spots=11).counts.copy()
        counts.data[3] += 1
        one, two = make_store("one", {"A": ()}), make_store("two", {"A": ()}, counts=counts)
        with pytest.raises(StoreError, match="its counts are others"):
            merged(tmp_path / "all", one, two)

    def test_all_are_named_and_nothing_is_written(self, make_store, tmp_path, tree, add_features):
        out = make_store("out", {"A": ("tiny_1um", "spatial"), "B": ("tiny_2um",)})
        two = make_store("two", {"A": ("tiny_1um", "spatial"), "D": ()}, seed=1)
        three = make_store("three", {"B": ()})
        add_features(open_store(three, is_read_only=False).section("B"), "tiny_2um", weights_sha256="ee" * 32)
        before = tree(out)
        with pytest.raises(StoreError, match="nothing was written") as caught:
            merged(out, two, three)
        lines = str(caught.value).splitlines()
        assert [line.split(" of section")[0] for line in lines[1:4]] == [
            "- features 'tiny_1um'",
            "- graph 'spatial'",
            "- features 'tiny_2um'",
        ]
        assert "made alike, and yet their bytes differ" in lines[1]
        assert "it has other bytes" in lines[2]
        assert "made otherwise (identity" in lines[3]
        assert "`spam store diff A B`" in lines[4]
        assert tree(out) == before

    def test_between_two_sources(self, make_store, tmp_path):
        stores = [make_store(str(i), {"A": ("tiny_1um",)}, seed=i) for i in range(2)]
        with pytest.raises(StoreError, match=r"store '.*/1' against '.*/0': they were made alike"):
            merged(tmp_path / "all", make_store("none", {"A": ()}), *stores)


class TestTarget:
    def test_must_be_a_folder_of_a_store(self, pristine_store, tmp_path):
        path = pack(PackConfig(store=pristine_store, out=tmp_path / "p.zip")).out
        with pytest.raises(StoreError, match="a packed store is only read"):
            merged(path, pristine_store)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")
        with pytest.raises(StoreError, match="is no store"):
            merged(tmp_path / "mine", pristine_store)
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]

    def test_damage_is_named_and_no_half_appears(self, store_path, tmp_path):
        path = store_path / "C3" / "obsm" / "tiny_112um" / "c" / "0" / "0"
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(
            StoreError, match=r"cohort\.zarr/C3/obsm/tiny_112um/c/0/0: its bytes have the digest"
        ):
            merged(tmp_path / "all", store_path)
        assert open_store(tmp_path / "all").section_names == ("C2",)

    def test_a_section_that_is_being_written(self, make_store, tmp_path, monkeypatch):
        monkeypatch.setattr("spam.sharing.merging.LOCK_WAIT_S", 0.0)
        out, other = make_store("out", {"A": ()}), make_store("other", {"A": ("tiny_1um",)})
        with locked(out, "A"), pytest.raises(StoreError, match=r"'A' of store .* is being written"):
            merged(out, other)

    def test_features_that_somebody_is_writing(self, make_store, add_features, tree):
        out, other = make_store("out", {"A": ()}), make_store("other", {"A": ("tiny_1um",)})
        lock = out / ".unfinished/A/obsm/tiny_1um.lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps({"owner": "x", "machine": "another", "pid": 1}))
        with pytest.raises(StoreError, match=r"another process has changed section 'A'.*or is changing it"):
            merged(out, other)
        lock.unlink()
        add_features(open_store(out, is_read_only=False).section("A"), "tiny_1um", n_chunks=1, seed=1)
        before = tree(out)
        with pytest.raises(StoreError, match=r"'A' .*unfinished features 'tiny_1um'.*spam embed"):
            merged(out, other)
        assert tree(out) == before

    def test_a_section_that_changes_meanwhile(self, make_store, add_features):
        out, other = make_store("out", {"A": ()}), make_store("other", {"A": ("tiny_1um",), "B": ()})

        class Meddler:
            @contextlib.contextmanager
            def task(self, description, total):
                add_features(open_store(out, is_read_only=False).section("A"), "tiny_2um")
                yield lambda steps=1, *, note="": None

        config = MergeConfig(out=out, stores=(str(other),))
        with pytest.raises(StoreError, match=r"another process has changed section 'A'.*merge again"):
            merge(config, progress=Meddler())
        merge(config)
        assert open_store(out).section("A").feature_keys == ("tiny_1um", "tiny_2um")

    def test_progress_comes_to_its_end(self, make_store):
        out, other = (
            make_store("out", {"A": ()}),
            make_store("other", {"A": ("tiny_1um",), "B": ("spatial",)}),
        )
        steps = []

        class Counter:
            @contextlib.contextmanager
            def task(self, description, total):
                steps.append(total)
                yield lambda n=1, *, note="": steps.append(-n)

        merge(MergeConfig(out=out, stores=(str(other),)), progress=Counter())
        assert steps[0] > 20
        assert sum(steps) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_merge_is_completed_by_the_next(make_store, tmp_path):
    out = make_store("out", {"A": ()})
    one, two = (
        make_store("one", {"A": ("tiny_1um", "spatial")}),
        make_store("two", {"A": ("tiny_2um",), "B": ()}),
    )
    (tmp_path / "kills").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", SCRIPT, out, one, two, tmp_path / "kills", "9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "kills")
