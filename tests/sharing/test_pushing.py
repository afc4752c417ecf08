"""Pushing to an S3 server: what travels, in which order, and how a push that was broken goes on."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pushed import ADDRESS, held, section, shared, writes
from s3_server import S3Server

from spam.errors import StoreError
from spam.schemas.store_config import PushConfig, VerifyConfig
from spam.sharing.pushing import push
from spam.sharing.verifying import verify
from spam.store import Graph, SectionRecord, create_store, open_store

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


def test_what_is_replaced_is_deleted_there_last(bucket: S3Server, store: Path) -> None:
    shared(store, ADDRESS)
    before = set(held())
    bucket.forget()
    report = shared(store, ADDRESS, without_counts=True, overwrite=True)
    gone = before - set(held())
    assert report.n_deleted == len(gone) > 0
    assert all(name.startswith(("C2/X/", "C2/var/")) for name in gone)
    done = writes(bucket)
    n_deleted = len({each for each in done if each[0] == "DELETE"})
    assert {method for method, _ in done[-n_deleted:]} == {"DELETE"}
    assert [name for method, name in done if method == "PUT"][-2:] == ["C2/zarr.json", "README.md"]


class TestOthersWork:
    """What somebody else has pushed to the same place."""

    @pytest.fixture
    def both(
        self, few_files: Path, tmp_path: Path, add_features: Callable[..., np.ndarray],
        make_graph: Callable[..., Graph],
    ) -> Path:  # fmt: skip
        """The store with features and graphs of a colleague."""
        path = Path(shutil.copytree(few_files, tmp_path / "both.zarr"))
        made = section(path)
        add_features(made, "tiny_224um")
        made.write_graph("spatial", make_graph(made.n_spots))
        over = {"kind": "features", "unit": "cosine", "metric": "cosine"}
        for key in made.feature_keys:
            identity = made.feature_identity(key)
            graph = make_graph(made.n_spots, **over, features_key=key, features_identity=identity)
            made.write_graph(f"features_{key}", graph)
        return path

    def test_what_the_store_lacks_is_kept(
        self, both: Path, few_files: Path, tmp_path: Path, tree: Tree
    ) -> None:
        out = tmp_path / "out.zarr"
        shared(both, out)
        before = tree(out)
        report = shared(few_files, out)
        kept = ("tiny_224um", "features_tiny_112um", "features_tiny_224um", "spatial")
        assert report.kept == tuple(f"C2/{key}" for key in kept)
        assert (report.n_files, report.n_deleted, report.replaced) == (0, 0, ())
        assert tree(out) == before
        assert "only there were left: C2/tiny_224um" in report.summary()

    def test_stores_add_up_in_any_order(
        self, both: Path, few_files: Path, tmp_path: Path, tree: Tree
    ) -> None:
        out = tmp_path / "out.zarr"
        shared(few_files, out)
        shared(both, out)
        assert {name: data for name, data in tree(out).items() if name != "README.md"} == tree(both)

    def test_what_differs_is_listed_and_replaced_only_when_asked(
        self, both: Path, store: Path, tmp_path: Path, tree: Tree, add_features: Callable[..., np.ndarray]
    ) -> None:
        out = tmp_path / "out.zarr"
        shared(both, out)
        before = tree(out)
        rows = add_features(section(store), seed=1, is_overwrite=True).astype(np.float16).astype(np.float32)
        words = r"nothing was sent:\n- features 'tiny_112um' .*others\n- graph 'features_tiny_112um' .*--overwrite"
        with pytest.raises(StoreError, match=f"(?s){words}"):
            shared(store, out)
        assert tree(out) == before
        report = shared(store, out, overwrite=True)
        found = open_store(out).section("C2")
        np.testing.assert_array_equal(found.features("tiny_112um"), rows)
        assert found.feature_keys == ("tiny_112um", "tiny_224um")
        assert found.graph_keys == ("features_tiny_224um", "spatial")  # the third was over other features
        assert [line.split(" of ")[0] for line in report.replaced] == [
            "features 'tiny_112um'",
            "graph 'features_tiny_112um'",
        ]
        assert "replaced: features 'tiny_112um'" in report.summary()
        assert verify(VerifyConfig(store=out)).faults == ()

    def test_a_section_of_other_spots(
        self, both: Path, tmp_path: Path, tree: Tree, make_record: Callable[..., SectionRecord]
    ) -> None:
        out, other = tmp_path / "out.zarr", create_store(tmp_path / "other.zarr")
        shared(both, out)
        before = tree(out)
        other.add_section(make_record("C2", seed=7, obs={}, overview=None))
        with pytest.raises(StoreError, match=r"(?s)its spots_sha256 is .*'tiny_224um' .*--overwrite"):
            shared(other.folder, out)
        assert tree(out) == before
        assert shared(other.folder, out, overwrite=True).kept == ()
        assert {name: data for name, data in tree(out).items() if name != "README.md"} == tree(other.folder)

    def test_what_somebody_adds_meanwhile_is_not_lost(
        self, store: Path, tmp_path: Path, add_features: Callable[..., np.ndarray]
    ) -> None:
        out = tmp_path / "out.zarr"
        shared(store, out)
        add_features(section(store), "tiny_224um")

        class Colleague:
            @contextlib.contextmanager
            def task(self, description: str, total: int) -> Iterator[Any]:
                add_features(section(out), "tiny_336um")
                yield lambda steps=1, *, note="": None

        with pytest.raises(StoreError, match=r"changed by somebody else meanwhile; push again"):
            push(PushConfig(store=store, to=out), progress=Colleague())
        shared(store, out)
        assert open_store(out).section("C2").feature_keys == ("tiny_112um", "tiny_224um", "tiny_336um")


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
            shared(few_files, ADDRESS, overwrite=True)
            left = iter(range(n_left))
            bucket.refuse = lambda method, path, left=left: (
                403 if method in ("PUT", "DELETE") and next(left, None) is None else None
            )
            is_done = False
            with contextlib.suppress(StoreError):
                shared(store, ADDRESS, overwrite=True)
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
