"""Pushing to an S3 server: what travels, in which order, and how a push that was broken goes on."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pushed import ADDRESS, held, section, shared, writes
from s3_server import S3Server

from spam.errors import StoreError
from spam.store import SectionRecord, create_store, open_store

Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def store(small_path: Path) -> Path:
    return small_path


def test_what_arrives_in_a_bucket_is_the_store(bucket: S3Server, store: Path, tree: Tree) -> None:
    before = tree(store)
    report = shared(store, ADDRESS)
    there = held()
    readme = there.pop("README.md").decode()
    assert there == before == tree(store)
    assert (report.sections, report.others, report.overridden, report.commit) == (("C2",), (), (), None)
    files = [name for name in before if name != "zarr.json"]
    assert (report.n_files, report.n_bytes) == (len(files), sum(len(before[name]) for name in files))
    assert (report.n_there, report.n_deleted) == (0, 0)
    assert "# small" in readme
    assert f"spam store pull {ADDRESS}" in readme
    assert "CC-BY-4.0" in readme
    names = [name for method, name in writes(bucket) if method == "PUT"]
    assert (names[0], names[-3:]) == ("zarr.json", ["C2/zarr.json", "zarr.json", "README.md"])
    assert report.to_mapping()["sections"] == ["C2"]
    assert report.summary().endswith(f"sections C2 are shared at {ADDRESS}")
    json.dumps(report.to_mapping())


def test_only_what_changed_travels(
    bucket: S3Server, store: Path, tree: Tree, add_features: Callable[..., np.ndarray]
) -> None:
    shared(store, ADDRESS)
    bucket.forget()
    report = shared(store, ADDRESS)
    assert (report.n_files, report.n_bytes, report.n_deleted) == (0, 0, 0)
    assert report.n_there == len(open_store(store).section("C2").index.files)
    assert writes(bucket) == []

    add_features(section(store), "tiny_224um")
    bucket.forget()
    report = shared(store, ADDRESS)
    new = {name for name in tree(store) if name.startswith("C2/obsm/tiny_224um/")} | {"C2/zarr.json"}
    sent = [name for _, name in writes(bucket)]
    assert set(sent) == {*new, "README.md"}
    assert sent[-2:] == ["C2/zarr.json", "README.md"]
    assert report.n_files == len(new)
    there = held()
    del there["README.md"]
    assert there == tree(store)


def test_what_is_gone_here_is_deleted_there_last(
    bucket: S3Server, store: Path, few_files: Path, tree: Tree, add_features: Callable[..., np.ndarray]
) -> None:
    add_features(section(store), "tiny_224um")
    shared(store, ADDRESS)
    bucket.forget()
    report = shared(few_files, ADDRESS)
    there = held()
    del there["README.md"]
    assert there == tree(few_files)
    assert report.n_deleted == len(tree(store)) - len(tree(few_files))
    done = writes(bucket)
    assert [name for method, name in done if method == "PUT"] == ["C2/zarr.json", "README.md"]
    assert {method for method, _ in done[2:]} == {"DELETE"}


class TestInterruption:
    """A push of other features under the same name is broken before each of its changes."""

    @pytest.fixture
    def changed(self, store: Path, add_features: Callable[..., np.ndarray]) -> np.ndarray:
        rows = add_features(section(store), seed=1, is_overwrite=True)
        return rows.astype(np.float16).astype(np.float32)

    def test_nobody_meets_a_mixture(
        self, bucket: S3Server, store: Path, few_files: Path, changed: np.ndarray, tree: Tree
    ) -> None:
        old = open_store(few_files).section("C2").features("tiny_112um")
        seen = set()
        n_left = 0
        while True:
            shared(few_files, ADDRESS)
            left = iter(range(n_left))
            bucket.refuse = lambda method, path, left=left: (
                403 if method in ("PUT", "DELETE") and next(left, None) is None else None
            )
            is_done = False
            with contextlib.suppress(StoreError):
                shared(store, ADDRESS)
                is_done = True
            bucket.refuse = None
            there = open_store(ADDRESS).section("C2")
            if "tiny_112um" in there.feature_keys:
                found = there.features("tiny_112um")
                seen.add("old" if (found == old).all() else "new")
                np.testing.assert_array_equal(found, old if (found == old).all() else changed)
            else:
                seen.add("none")
            np.testing.assert_array_equal(there.ids, section(store).ids)
            if is_done:
                break
            n_left += 1
        assert seen == {"old", "none", "new"}
        assert n_left >= 5  # the index without them, metadata and two shards, the index
        there = held()
        del there["README.md"]
        assert there == tree(store)

    def test_what_arrived_whole_is_not_sent_again(
        self, bucket: S3Server, store: Path, monkeypatch: pytest.MonkeyPatch, tree: Tree
    ) -> None:
        monkeypatch.setattr("spam.sharing.destinations._JOURNALLED", 1)
        shards = [f"C2/obsm/tiny_112um/c/{i}/0" for i in range(2)]
        bucket.refuse = lambda method, path: 403 if method == "PUT" and path.endswith(shards[1]) else None
        with pytest.raises(
            StoreError, match=rf"sending '{shards[1]}' at '{ADDRESS}' failed: it is not allowed"
        ):
            shared(store, ADDRESS)
        assert open_store(ADDRESS).section_names == ()
        bucket.refuse = None
        bucket.forget()
        shared(store, ADDRESS)
        sent = [name for _, name in writes(bucket)]
        assert shards[0] not in sent
        assert shards[1] in sent
        there = held()
        del there["README.md"]
        assert there == tree(store)

    def test_what_arrived_is_sent_again_where_another_version_came_after_it(
        self,
        bucket: S3Server,
        store: Path,
        few_files: Path,
        monkeypatch: pytest.MonkeyPatch,
        changed: np.ndarray,
    ) -> None:
        monkeypatch.setattr("spam.sharing.destinations._JOURNALLED", 1)
        shard, journal = "C2/obsm/tiny_112um/c/0/0", ".unfinished/push.json"

        def breaks_after_the_shard(method: str, path: str) -> int | None:
            before = bucket.requests[-2].path if len(bucket.requests) > 1 else ""
            return 403 if method == "PUT" and path.endswith(journal) and before.endswith(shard) else None

        def breaks_at_the_index(method: str, path: str) -> int | None:
            return 403 if method == "PUT" and path.endswith("C2/zarr.json") else None

        for source, how in ((store, breaks_at_the_index), (few_files, breaks_after_the_shard)):
            bucket.refuse = how
            with pytest.raises(StoreError, match="not allowed"):
                shared(source, ADDRESS)
        assert held()[shard] == (few_files / shard).read_bytes() != (store / shard).read_bytes()
        bucket.refuse = None
        shared(store, ADDRESS)
        np.testing.assert_array_equal(open_store(ADDRESS).section("C2").features("tiny_112um"), changed)
        assert not any(name.startswith(".unfinished") for name in held())


def test_other_sections_stay(
    bucket: S3Server,
    store: Path,
    tmp_path: Path,
    make_record: Callable[..., SectionRecord],
    add_features: Callable[..., np.ndarray],
) -> None:
    shared(store, ADDRESS)
    other = create_store(tmp_path / "other.zarr")
    licence = {"licence": None}
    add_features(other.add_section(make_record("C7", obs={}, overview=None, **licence)))
    report = shared(other.folder, ADDRESS, i_have_the_right_to_share=True)
    assert (report.sections, report.others) == (("C7",), ("C2",))
    assert len(report.overridden) == 1
    found = open_store(ADDRESS)
    assert found.section_names == ("C2", "C7")
    np.testing.assert_array_equal(found.section("C2").ids, section(store).ids)
    # Pushing C2 again needs no right over C7, and keeps what was overridden for it.
    report = shared(store, ADDRESS)
    assert report.others == ("C7",)
    assert "section 'C7': nobody stated" in report.overridden[0]
    text = held()["README.md"].decode()
    assert all(word in text for word in ("C2", "C7", "nobody stated"))
