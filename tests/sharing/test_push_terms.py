"""What may be pushed and what is left out of it; where to, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from pushed import ADDRESS, held, section, shared
from s3_server import S3Server

from spam.errors import StoreError
from spam.sharing.validate_metadata import metadata_faults
from spam.store import SectionRecord, create_store, open_store

Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def store(small_path: Path) -> Path:
    return small_path


class TestLicences:
    @pytest.fixture
    def store(
        self,
        tmp_path: Path,
        make_record: Callable[..., SectionRecord],
        add_features: Callable[..., np.ndarray],
    ) -> Path:
        """Nobody stated the licence of the section, and that of the encoder forbids sharing."""
        store = create_store(tmp_path / "closed.zarr")
        made = store.add_section(make_record("C2", obs={}, overview=None, licence=None))
        meta = {"name": "tiny", "source": "hub", "revision": "0", "licence": "CC-BY-NC-ND-4.0"}
        add_features(made, encoder=meta)
        return store.folder

    def test_each_clause_is_named_and_nothing_is_sent(self, store: Path, bucket: S3Server) -> None:
        with pytest.raises(StoreError) as caught:
            shared(store, ADDRESS)
        words = ("section 'C2': nobody stated", "Section 2(a)(1)", "--licence", "--i-have-the-right-to-share")
        assert [word for word in words if word not in str(caught.value)] == []
        assert bucket.requests == []

    def test_an_override_is_recorded_in_root_and_readme(self, store: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.zarr"
        report = shared(store, out, i_have_the_right_to_share=True)
        root = json.loads((out / "zarr.json").read_text())
        overridden = root["attributes"]["spam"]["shared"]["overridden"]
        assert [one["what"] for one in overridden] == ["section 'C2'", "features 'tiny_112um'"]
        assert (overridden[0]["licence"], overridden[1]["licence"]) == (None, "CC-BY-NC-ND-4.0")
        assert overridden[1]["clause"].startswith("Section 2(a)(1)")
        assert metadata_faults(root["attributes"], "root") == []
        assert len(report.overridden) == 2
        assert report.overridden[0] in report.summary()
        assert "CC-BY-NC-ND-4.0" in (out / "README.md").read_text()
        assert open_store(out).section_names == ("C2",)

    def test_a_licence_is_that_of_the_copy_alone(self, store: Path, tmp_path: Path, tree: Tree) -> None:
        before, out = tree(store), tmp_path / "out.zarr"
        report = shared(store, out, licence="CC0-1.0", i_have_the_right_to_share=True)
        assert tree(store) == before
        copy = open_store(out).section("C2")
        assert copy.meta.licence == "CC0-1.0"
        assert open_store(store).section("C2").meta.licence is None
        assert [line.split(":")[0] for line in report.overridden] == ["features 'tiny_112um'"]
        np.testing.assert_array_equal(
            copy.features("tiny_112um"), open_store(store).section("C2").features("tiny_112um")
        )
        changed = {name for name, data in tree(out).items() if before.get(name) != data}
        assert changed == {"README.md", "zarr.json", "C2/zarr.json"}
        assert shared(store, out, licence="CC0-1.0", i_have_the_right_to_share=True).n_files == 0

    def test_a_licence_for_who_has_one(self, few_files: Path, tmp_path: Path) -> None:
        with pytest.raises(
            StoreError, match=r"--licence 'MIT' is for sections that state none.*C2 CC-BY-4.0"
        ):
            shared(few_files, tmp_path / "out.zarr", licence="MIT")
        assert shared(few_files, tmp_path / "out.zarr", licence="CC-BY-4.0").sections == ("C2",)


class TestLeftOut:
    def test_counts_that_were_sent_before_are_deleted(self, bucket: S3Server, store: Path) -> None:
        shared(store, ADDRESS)
        with pytest.raises(StoreError, match=r"its has_counts is True there, False here"):
            shared(store, ADDRESS, without_counts=True)
        shared(store, ADDRESS, without_counts=True, overwrite=True)
        copy = open_store(ADDRESS).section("C2")
        assert (copy.meta.has_counts, copy.meta.redacted) == (False, ("counts",))
        assert not any(name.startswith(("C2/X", "C2/var/GENE")) for name in held())
        np.testing.assert_array_equal(copy.features("tiny_112um"), section(store).features("tiny_112um"))

    def test_nothing_of_the_copy_is_left(
        self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        shared(store, tmp_path / "out.zarr", without_coordinates=True, salted_ids=True)
        assert list((tmp_path / "tmp").iterdir()) == []
        copy, own = open_store(tmp_path / "out.zarr").section("C2"), section(store)
        assert copy.meta.redacted == ("coordinates", "ids")
        assert not set(copy.ids) & set(own.ids)
        assert sorted(map(tuple, copy.features("tiny_112um").tolist())) == sorted(
            map(tuple, own.features("tiny_112um").tolist())
        )


class TestRefusals:
    def test_a_damaged_store(self, bucket: S3Server, store: Path) -> None:
        chunk = store / "C2/obsm/tiny_112um/c/1/0"
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
        with pytest.raises(StoreError, match=r"c/1/0.*digest.*spam store verify"):
            shared(store, ADDRESS)
        assert "C2/zarr.json" not in held()
        assert "C2/obsm/tiny_112um/c/1/0" not in held()

    def test_a_store_that_is_being_written(self, store: Path, tmp_path: Path) -> None:
        lock = store / ".unfinished/C2/obsm/tiny_224um.lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps({"owner": "x", "machine": "another", "pid": 1}))
        with pytest.raises(StoreError, match=r"is writing 'C2/obsm/tiny_224um'; wait for it"):
            shared(store, tmp_path / "out.zarr")

    def test_what_is_unfinished_stays_at_home(
        self, store: Path, tmp_path: Path, add_features: Callable[..., np.ndarray]
    ) -> None:
        add_features(section(store), "tiny_224um", n_chunks=2)
        report = shared(store, tmp_path / "out.zarr")
        assert report.unfinished == ("C2/tiny_224um",)
        assert "unfinished features were left out: C2/tiny_224um" in report.summary()
        assert not (tmp_path / "out.zarr/.unfinished").exists()
        assert open_store(tmp_path / "out.zarr").section("C2").feature_keys == ("tiny_112um",)

    def test_a_place_of_something_else(self, bucket: S3Server, store: Path, tmp_path: Path) -> None:
        fsspec.filesystem("s3").pipe_file("cohorts/team/small.zarr/thesis.tex", b"x")
        (tmp_path / "desk").mkdir()
        (tmp_path / "desk/thesis.tex").write_text("x")
        for to in (ADDRESS, tmp_path / "desk"):
            with pytest.raises(StoreError, match=r"no store, and it is not empty: it holds thesis.tex"):
                shared(store, to)
        assert held() == {"thesis.tex": b"x"}

    @pytest.mark.parametrize(
        ("to", "words"),
        [
            ("https://host/a.zarr", "of the web, which is only read; push to hf://datasets/org/name"),
            ("hf://org/model", "no dataset of the Hub; write the address as hf://datasets/org/name"),
            ("hf://datasets/name", "no dataset of the Hub"),
            ("hf://user:s3cret@datasets/name", "'hf://datasets/name' is no dataset of the Hub"),
            ("{store}", "is the store itself"),
            ("{store}/zarr.json", "is a file"),
            ("s3://absent/a.zarr", "no such bucket"),
        ],
    )
    def test_no_place_for_a_store(self, bucket: S3Server, store: Path, to: str, words: str) -> None:
        with pytest.raises(StoreError, match=words):
            shared(store, to.format(store=store))

    def test_nothing_to_push(self, tmp_path: Path, pack_by_hand: Any, store: Path) -> None:
        with pytest.raises(StoreError, match="has no section yet"):
            shared(create_store(tmp_path / "empty.zarr").folder, tmp_path / "out.zarr")
        packed = pack_by_hand(store, tmp_path / "a.zip")
        with pytest.raises(StoreError, match=r"unpack it with `spam store unpack .*a.zip`"):
            shared(packed, tmp_path / "out.zarr")


class TestFolder:
    def test_a_folder_is_gone_on_with(self, store: Path, tmp_path: Path, tree: Tree) -> None:
        out = tmp_path / "out.zarr"
        chunk = store / "C2/obsm/tiny_112um/c/1/0"
        whole = chunk.read_bytes()
        chunk.write_bytes(b"?")
        with pytest.raises(StoreError, match="c/1/0"):
            shared(store, f"file://{out}")
        chunk.write_bytes(whole)
        there = tree(out)
        assert shared(store, out).n_files < len(there) + 5
        assert {name: data for name, data in tree(out).items() if name != "README.md"} == tree(store)

    def test_a_folder_that_is_being_written(self, store: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.zarr"
        shared(store, out)
        lock = out / ".unfinished/C2/obsm/tiny_224um.lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps({"owner": "x", "machine": "another", "pid": 1}))
        with pytest.raises(StoreError, match=r"another process is writing 'C2/obsm/tiny_224um'"):
            shared(store, out)
