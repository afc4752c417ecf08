"""Pushing to an S3 server, to a folder and to the Hub's server: what travels, in which order, and what is refused."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hub_server import HubServer
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server

from spam.errors import StoreError
from spam.schemas.store_config import PushConfig
from spam.sharing.pushing import PushReport, push
from spam.sharing.validate_metadata import metadata_faults
from spam.store import SectionRecord, StoredSection, create_store, open_store

ADDRESS = "s3://cohorts/team/small.zarr"
REPO = "org/cohort"

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spam.store.remote._WAIT_S", 0.0)
    yield
    forget_connections()


@pytest.fixture(scope="module")
def pushed_store(
    tmp_path_factory: pytest.TempPathFactory,
    make_record: Callable[..., SectionRecord],
    add_features: Callable[..., np.ndarray],
) -> Path:
    """One section of few files, features in two shards among them; do not change it."""
    path = tmp_path_factory.mktemp("small") / "small.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.feature_format._SHARD_BYTES", 150)
        add_features(create_store(path).add_section(make_record("C2", obs={}, overview=None)))
    return path


@pytest.fixture
def store(pushed_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pushed_store, tmp_path / "small.zarr"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server() as server:
        point_at_s3(server, monkeypatch)
        yield server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", page_size=7) as server:
        point_at_hub(server, monkeypatch)
        yield server


def shared(store: Path, to: Path | str, **options: Any) -> PushReport:
    return push(PushConfig(store=store, to=to, **options))


def held(address: str = ADDRESS) -> dict[str, bytes]:
    """Every object below an address, by its path."""
    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    root = address.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def writes(server: S3Server | HubServer) -> list[tuple[str, str]]:
    """Method and path within the store of every request that changed something, in order."""
    return [
        (each.method, each.path.removeprefix("/cohorts/team/small.zarr/"))
        for each in server.requests
        if each.method in ("PUT", "POST", "DELETE")
    ]


def section(store: Path) -> StoredSection:
    return open_store(store, is_read_only=False).section("C2")


Tree = Callable[[Path], dict[str, bytes]]


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
    bucket: S3Server, store: Path, pushed_store: Path, tree: Tree, add_features: Callable[..., np.ndarray]
) -> None:
    add_features(section(store), "tiny_224um")
    shared(store, ADDRESS)
    bucket.forget()
    report = shared(pushed_store, ADDRESS)
    there = held()
    del there["README.md"]
    assert there == tree(pushed_store)
    assert report.n_deleted == len(tree(store)) - len(tree(pushed_store))
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
        self, bucket: S3Server, store: Path, pushed_store: Path, changed: np.ndarray, tree: Tree
    ) -> None:
        old = open_store(pushed_store).section("C2").features("tiny_112um")
        seen = set()
        n_left = 0
        while True:
            shared(pushed_store, ADDRESS)
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
        pushed_store: Path,
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

        for source, how in ((store, breaks_at_the_index), (pushed_store, breaks_after_the_shard)):
            bucket.refuse = how
            with pytest.raises(StoreError, match="not allowed"):
                shared(source, ADDRESS)
        assert held()[shard] == (pushed_store / shard).read_bytes() != (store / shard).read_bytes()
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

    def test_a_licence_for_who_has_one(self, pushed_store: Path, tmp_path: Path) -> None:
        with pytest.raises(
            StoreError, match=r"--licence 'MIT' is for sections that state none.*C2 CC-BY-4.0"
        ):
            shared(pushed_store, tmp_path / "out.zarr", licence="MIT")
        assert shared(pushed_store, tmp_path / "out.zarr", licence="CC-BY-4.0").sections == ("C2",)


class TestLeftOut:
    def test_counts_that_were_sent_before_are_deleted(self, bucket: S3Server, store: Path) -> None:
        shared(store, ADDRESS)
        shared(store, ADDRESS, without_counts=True)
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


class TestHub:
    ADDRESS = f"hf://datasets/{REPO}"

    def files(self, hub: HubServer, revision: str = "main") -> dict[str, bytes]:
        files = hub.repository(REPO).files(revision)
        return {
            name: path.read_bytes()
            for name, path in files.items()
            if name not in (".gitattributes", "README.md")
        }

    def test_one_commit_of_what_changed(
        self,
        hub: HubServer,
        store: Path,
        tree: Tree,
        pushed_store: Path,
        add_features: Callable[..., np.ndarray],
    ) -> None:
        with pytest.raises(StoreError, match="no such repository"):
            open_store(self.ADDRESS)
        report = shared(store, self.ADDRESS)
        np.testing.assert_array_equal(open_store(self.ADDRESS).section("C2").ids, section(store).ids)
        repository = hub.repository(REPO)
        assert repository.is_private
        assert report.commit == repository.resolve("main")
        assert len(repository.commits) == 2  # the first is the Hub's own
        assert self.files(hub) == tree(store)
        assert f"(commit {report.commit})" in report.summary()

        hub.forget()
        again = shared(store, self.ADDRESS)
        assert (again.n_files, again.commit, len(repository.commits)) == (0, report.commit, 2)

        add_features(section(store), "tiny_224um")
        hub.forget()
        shared(store, self.ADDRESS)
        assert self.files(hub) == tree(store)
        new = {name: data for name, data in tree(store).items() if name.startswith("C2/obsm/tiny_224um/c/")}
        readme = (
            repository.files()["README.md"].stat().st_size
        )  # not ASCII, so large by the rule of the server
        assert sorted(each.received for each in hub.requests if each.method == "PUT") == sorted(
            [*map(len, new.values()), readme]
        )

        shared(pushed_store, self.ADDRESS)
        assert self.files(hub) == tree(pushed_store)

    def test_a_public_one_in_a_folder_of_a_branch(self, hub: HubServer, store: Path, tree: Tree) -> None:
        shared(store, self.ADDRESS, private=False)
        assert not hub.repository(REPO).is_private
        hub.repository(REPO).branches["v2"] = hub.repository(REPO).resolve("main") or ""
        to = f"{self.ADDRESS}@v2/sub"
        shared(store, to)
        expected = {f"sub/{name}": data for name, data in tree(store).items()}
        assert {name: data for name, data in self.files(hub, "v2").items() if name != "sub/README.md"} == {
            **tree(store),
            **expected,
        }
        assert self.files(hub) == tree(store)
        np.testing.assert_array_equal(open_store(to).section("C2").ids, section(store).ids)

    def test_a_broken_push_goes_on(self, hub: HubServer, store: Path, tree: Tree) -> None:
        hub.refuse = lambda method, path: 403 if "/commit/" in path else None
        with pytest.raises(StoreError, match=r"pushing at .* it is not allowed .*hf auth login") as caught:
            shared(store, self.ADDRESS)
        assert hub.token not in str(caught.value)
        hub.refuse = None
        hub.forget()
        shared(store, self.ADDRESS)
        assert [each for each in hub.requests if each.method == "PUT"] == []
        assert self.files(hub) == tree(store)

    def test_by_xet(self, hub: HubServer, store: Path, tmp_path: Path, tree: Tree) -> None:
        code = (
            "import sys; from spam.sharing.pushing import push; from spam.schemas.store_config import PushConfig;"
            "print(push(PushConfig.from_mapping({'store': sys.argv[1], 'to': sys.argv[2]})).commit)"
        )
        # hf_xet keeps a log and a cache in the user's folder, and its threads as long as the process is there.
        environment = {**hub.environment, "HF_HUB_DISABLE_XET": "0", "HF_HOME": str(tmp_path / "home")}
        hub.forget()
        child = subprocess.run(
            [sys.executable, "-c", code, str(store), self.ADDRESS],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr
        assert child.stdout.strip() == hub.repository(REPO).resolve("main")
        assert self.files(hub) == tree(store)
        assert not any(each.method == "PUT" for each in hub.requests)  # nothing by LFS

    def test_somebody_else_was_faster(self, hub: HubServer, store: Path) -> None:
        shared(store, self.ADDRESS)
        repository = hub.repository(REPO)

        def interfere(method: str, path: str) -> None:
            if "/commit/" in path:
                hub.refuse = None
                repository.commit("main", [b'{"key": "header", "value": {"summary": "s"}}'])

        hub.refuse = interfere  # type: ignore[assignment]
        with pytest.raises(StoreError, match=r"changed by somebody else .*push again"):
            shared(store, self.ADDRESS, without_counts=True)

    def test_too_many_files(self, hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("spam.sharing.hub._MOST_FILES", 11)
        with pytest.raises(
            StoreError, match=r"would have \d+ files .*takes fewer than 11; .*spam store select"
        ):
            shared(store, self.ADDRESS)

    def test_no_right_to_make_or_write(
        self, hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        point_at_hub(hub, monkeypatch, token=hub.stranger_token)
        with pytest.raises(StoreError, match=r"opening the dataset .*not allowed .*hf auth login") as caught:
            shared(store, self.ADDRESS)
        assert hub.stranger_token not in str(caught.value)
        point_at_hub(hub, monkeypatch)
        shared(store, self.ADDRESS, private=False)
        point_at_hub(hub, monkeypatch, token=hub.stranger_token)
        with pytest.raises(StoreError, match=r"not allowed|no such repository"):
            shared(store, self.ADDRESS, without_counts=True)

    def test_no_network(self, hub: HubServer, store: Path) -> None:
        hub.server.server_close()
        with pytest.raises(StoreError, match=r"opening the dataset .* cannot be reached .*network"):
            shared(store, self.ADDRESS)
