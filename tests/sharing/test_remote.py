"""Reading stores from servers on loopback: the same numbers, few bytes, and what goes wrong in words."""

import itertools
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import fsspec
import huggingface_hub
import numpy as np
import pytest
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_server import HubServer
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server

from spam.errors import StoreError
from spam.store import SectionRecord, StoredSection, create_store, open_store
from spam.store.remote import RemoteLocation
from spam.store.remote_faults import scrubbed, shown

REPO = "org/cohort"
KINDS = ("s3", "http", "hub")

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

Serve = Callable[[str, Path], tuple[CountingServer, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spam.store.remote._WAIT_S", 0.0)
    yield tmp_path / "cache"
    forget_connections()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Put a store on a server; give the server, whose record is empty, and the store's address."""
    with ExitStack() as stack:

        def start(kind: str, store: Path) -> tuple[CountingServer, str]:
            if kind == "http":
                web = stack.enter_context(HttpRangeServer(store.parent))
                return web, f"{web.url}/{store.name}"
            if kind == "s3":
                bucket = stack.enter_context(S3Server())
                point_at_s3(bucket, monkeypatch)
                fsspec.filesystem("s3").put(f"{store}/", f"cohorts/{store.name}/", recursive=True)
                bucket.forget()
                return bucket, f"s3://cohorts/{store.name}"
            hub = stack.enter_context(HubServer(tmp_path / "hub"))
            point_at_hub(hub, monkeypatch)
            api = huggingface_hub.HfApi()
            api.create_repo(REPO, repo_type="dataset")
            api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=store, path_in_repo="sub")
            hub.forget()
            return hub, f"hf://datasets/{REPO}/sub"

        yield start


@pytest.fixture(scope="module")
def large_store(
    tmp_path_factory: pytest.TempPathFactory,
    make_record: Callable[..., SectionRecord],
    add_features: Callable[..., np.ndarray],
) -> Path:
    """One section whose features are 3.1 MB in two shards."""
    path = tmp_path_factory.mktemp("large") / "large.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.feature_format._SHARD_BYTES", 2_000_000)
        section = create_store(path).add_section(make_record("C2", n_spots=3989))
        add_features(section, dim=389, chunk_rows=509)
    return path


@pytest.fixture(scope="module")
def small_store(
    tmp_path_factory: pytest.TempPathFactory,
    make_record: Callable[..., SectionRecord],
    add_features: Callable[..., np.ndarray],
) -> Path:
    """One section of few files, where many would only take time; do not change it."""
    section = create_store(tmp_path_factory.mktemp("small") / "small.zarr").add_section(
        make_record("C2", obs={}, overview=None)
    )
    add_features(section)
    return Path(section._location.address)


def assert_same_section(found: StoredSection, expected: StoredSection) -> None:
    assert found.meta == expected.meta
    assert found.feature_keys == expected.feature_keys
    assert found.graph_keys == expected.graph_keys
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.xy_px, expected.xy_px)
    for key in expected.feature_keys:
        assert found.feature_meta(key) == expected.feature_meta(key)
        np.testing.assert_array_equal(found.stored_features(key), expected.stored_features(key))
    for key in expected.graph_keys:
        one, two = found.graph(key), expected.graph(key)
        assert one is not None
        assert two is not None
        assert (one.distances != two.distances).nnz == 0
    for name, values in expected.obs.items():
        np.testing.assert_array_equal(found.obs[name], values)
    if expected.meta.has_counts:
        assert (found.counts() != expected.counts()).nnz == 0
    overview, other = found.overview(), expected.overview()
    assert (overview is None) == (other is None)
    if overview is not None and other is not None:
        np.testing.assert_array_equal(overview.image, other.image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_store_reads_as_the_local_one(
    kind: str, serve: Serve, pristine_store: Path, small_store: Path
) -> None:
    local = pristine_store if kind == "http" else small_store
    _, address = serve(kind, local)
    found, expected = open_store(address), open_store(local)
    assert found.address == address
    assert found.section_names == expected.section_names != ()
    for name in expected.section_names:
        assert_same_section(found.section(name), expected.section(name))


@pytest.mark.parametrize("kind", KINDS)
def test_features_cost_their_stored_size_and_nothing_the_second_time(
    kind: str, serve: Serve, large_store: Path
) -> None:
    server, address = serve(kind, large_store)
    expected = open_store(large_store).section("C2")
    files = expected.index.below("obsm/tiny_112um")
    stored = sum(entry.n_bytes for path, entry in files.items() if "/c/" in path)
    assert stored > 3_000_000
    assert sum("/c/" in path for path in files) == 2
    np.testing.assert_array_equal(
        open_store(address).section("C2").features("tiny_112um"), expected.features("tiny_112um")
    )
    # All bodies that the server sent count: the features, and whatever else was asked for to find them.
    assert stored < server.bytes_sent <= 1.10 * stored

    server.forget()
    section = open_store(address).section("C2")
    opened = server.bytes_sent
    np.testing.assert_array_equal(section.features("tiny_112um"), expected.features("tiny_112um"))
    assert server.bytes_sent == opened
    assert opened < 0.01 * stored
    sent = {path for path, n_bytes in server.sent_by_path.items() if n_bytes}
    assert not any("/c/" in path for path in sent)


def test_some_genes_cost_less_than_all(serve: Serve, pristine_store: Path, tmp_path: Path) -> None:
    server, address = serve("http", pristine_store)
    expected = open_store(pristine_store).section("C2").counts(["GENE4"])
    assert (open_store(address).section("C2").counts(["GENE4"]) != expected).nnz == 0
    some = sum(n for path, n in server.sent_by_path.items() if "/X/" in path)
    shutil.rmtree(tmp_path / "cache")
    server.forget()
    open_store(address).section("C2").counts()
    every = sum(n for path, n in server.sent_by_path.items() if "/X/" in path)
    assert 0 < some < every


def test_what_two_stores_hold_is_fetched_once(serve: Serve, pristine_store: Path, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for name in ("a.zarr", "b.zarr"):
        shutil.copytree(pristine_store, tmp_path / "web" / name)
    server, address = serve("http", tmp_path / "web" / "a.zarr")
    open_store(address).section("C2").features("tiny_112um")
    server.forget()
    open_store(address.replace("a.zarr", "b.zarr")).section("C2").features("tiny_112um")
    assert all(path.endswith("zarr.json") for path in server.sent_by_path)


def test_a_change_is_seen_by_who_opens_again(
    serve: Serve, small_store: Path, tmp_path: Path, add_features: Callable[..., np.ndarray]
) -> None:
    store_path = Path(shutil.copytree(small_store, tmp_path / "small.zarr"))
    _, address = serve("s3", store_path)
    before = open_store(address).section("C2").features("tiny_112um")
    section = open_store(store_path, is_read_only=False).section("C2")
    rows = add_features(section, "tiny_112um", seed=1, is_overwrite=True)
    bucket = fsspec.filesystem("s3")
    bucket.put(f"{store_path}/", f"cohorts/{store_path.name}/", recursive=True)
    after = open_store(address).section("C2").features("tiny_112um")
    np.testing.assert_array_equal(after, rows.astype(np.float16).astype(np.float32))
    assert (before != after).any()


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_an_address_must_quote(
    kind: str, serve: Serve, make_record: Callable[..., SectionRecord], tmp_path: Path
) -> None:
    names = ("C 2#1 é%41", "a@b+c", "q?x=1")
    store = create_store(tmp_path / "odd.zarr")
    for name in names:
        store.add_section(make_record(name, obs={}, overview=None))
    _, address = serve(kind, store.folder)
    found = open_store(address)
    assert found.section_names == tuple(sorted(names))
    for name in names:
        np.testing.assert_array_equal(found.section(name).ids, store.section(name).ids)


class TestHub:
    def test_branches_and_commits(
        self, serve: Serve, small_store: Path, tmp_path: Path, add_features: Callable[..., np.ndarray]
    ) -> None:
        store_path = Path(shutil.copytree(small_store, tmp_path / "small.zarr"))
        server, _ = serve("hub", store_path)
        assert isinstance(server, HubServer)
        first = server.repository(REPO).resolve("main")
        api = huggingface_hub.HfApi()
        api.create_branch(REPO, repo_type="dataset", branch="v2")
        section = open_store(store_path, is_read_only=False).section("C2")
        add_features(section, "tiny_336um")
        api.upload_folder(
            repo_id=REPO, repo_type="dataset", folder_path=store_path, path_in_repo="sub", revision="v2"
        )
        keys = {
            at: "tiny_336um" in open_store(f"hf://datasets/{REPO}{at}/sub").section("C2").feature_keys
            for at in ("", "@main", f"@{first}", "@v2", f"@{server.repository(REPO).resolve('v2')}")
        }
        assert [*keys.values()] == [False, False, False, True, True]

    def test_no_such_revision(self, serve: Serve, small_store: Path) -> None:
        _, address = serve("hub", small_store)
        with pytest.raises(
            StoreError, match=r"no such repository or revision, or it is hidden.*hf auth login"
        ):
            open_store(address.replace("cohort", "cohort@v9"))

    def test_what_is_hidden_and_what_is_gated(
        self, serve: Serve, small_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, address = serve("hub", small_store)
        assert isinstance(server, HubServer)
        point_at_hub(server, monkeypatch, token=server.stranger_token)
        server.repository(REPO).is_gated = True
        with pytest.raises(
            StoreError, match=rf"given on request.*https://huggingface.co/datasets/{REPO}, then log"
        ):
            open_store(address)
        server.repository(REPO).is_private = True
        with pytest.raises(StoreError, match=r"no such repository .*hidden from you.*HF_TOKEN") as caught:
            open_store(address)
        assert server.stranger_token not in str(caught.value)


class TestWrongServers:
    @pytest.fixture
    def store(self, store_path: Path) -> Path:
        return store_path

    def test_another_content(self, serve: Serve, store: Path, cache: Path) -> None:
        _, address = serve("http", store)
        chunk = store / "C2/obsm/tiny_112um/c/0/0"
        data = bytearray(chunk.read_bytes())
        data[7] ^= 1
        chunk.write_bytes(data)
        with pytest.raises(
            StoreError, match=r"'C2/obsm/tiny_112um/c/0/0'.* is not what the index.*push it again"
        ):
            open_store(address).section("C2").features("tiny_112um")
        assert list(cache.rglob("*.partial")) == []
        assert not any(path.read_bytes() == bytes(data) for path in cache.rglob("*") if path.is_file())

    def test_another_index(self, serve: Serve, store: Path) -> None:
        _, address = serve("http", store)
        index = store / "C2/zarr.json"
        index.write_bytes(index.read_bytes().replace(b"CC-BY-4.0", b"CC-BY-4.1"))
        with pytest.raises(StoreError, match="digest"):
            open_store(address).section("C2")

    def test_a_file_that_vanishes(self, serve: Serve, store: Path) -> None:
        _, address = serve("http", store)
        section = open_store(address).section("C2")
        shutil.rmtree(store / "C2/obsm/tiny_112um")
        with pytest.raises(StoreError, match=r"obsm/tiny_112um.*is not there"):
            section.features("tiny_112um")

    def test_a_section_that_vanishes(self, serve: Serve, store: Path) -> None:
        _, address = serve("http", store)
        found = open_store(address)
        shutil.rmtree(store / "C2")
        with pytest.raises(StoreError, match=r"C2.*not there any more"):
            found.section("C2")

    @pytest.mark.parametrize("is_told", [False, True])
    @pytest.mark.parametrize("path", ["C2/obsm/tiny_112um/c/0/0", "C2/zarr.json"])
    def test_bytes_without_end(
        self, store: Path, path: str, is_told: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("spam.store.remote.MOST_BYTES", 1 << 20)
        served = HttpRangeServer(store).app

        def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] != f"/{path}":
                return served(environ, start)
            start("200 OK", [("Content-Length", str(1 << 40))] if is_told else [])
            return itertools.repeat(bytes(1 << 16), 1 << 12)  # 256 MB, to end the test where it fails

        words = rf"'{path}' of .* has more than the \d+ bytes"
        with CountingServer(app) as server, pytest.raises(StoreError, match=words):
            open_store(server.url).section("C2").features("tiny_112um")
        assert max(each.sent for each in server.requests) < 64 << 20
        assert not [*cache.rglob("*.partial")]

    def test_no_ranges(self, store: Path) -> None:
        def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            file = store / environ["PATH_INFO"].lstrip("/")
            start("200 OK" if file.is_file() else "404 Not Found", [])
            return [file.read_bytes()] if file.is_file() else []

        with CountingServer(app) as server:
            assert_same_section(open_store(server.url).section("C2"), open_store(store).section("C2"))

    def test_a_redirect(self, store: Path) -> None:
        with HttpRangeServer(store.parent) as there:

            def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
                start("302 Found", [("Location", f"{there.url}/{store.name}{environ['PATH_INFO']}")])
                return []

            with CountingServer(app) as server:
                assert_same_section(open_store(server.url).section("C2"), open_store(store).section("C2"))

    @pytest.mark.parametrize("n_breaks", [1, 3])
    def test_a_connection_that_breaks(self, store: Path, n_breaks: int) -> None:
        served = HttpRangeServer(store).app
        broken: list[str] = []

        def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if not path.endswith("/c/0/0") or broken.count(path) == n_breaks:
                return served(environ, start)
            broken.append(path)
            data = (store / path.lstrip("/")).read_bytes()
            start("200 OK", [("Content-Length", str(len(data)))])
            return [data[: len(data) // 2]]

        with CountingServer(app) as server:
            section = open_store(server.url).section("C2")
            if n_breaks == 1:
                expected = open_store(store).section("C2").features("tiny_112um")
                np.testing.assert_array_equal(section.features("tiny_112um"), expected)
            else:
                with pytest.raises(
                    StoreError, match=r"127.0.0.1 cannot be reached or broke off .*run the same comm"
                ):
                    section.features("tiny_112um")

    def test_a_server_that_is_busy_once(self, serve: Serve, store: Path) -> None:
        server, address = serve("http", store)
        answers = iter([503, 429])
        server.refuse = lambda method, path: next(answers, None)
        assert open_store(address).section_names == ("C2", "C3")

    def test_a_damaged_cache_is_fetched_again(self, serve: Serve, store: Path, cache: Path) -> None:
        _, address = serve("http", store)
        expected = open_store(address).section("C2").features("tiny_112um")
        for path in cache.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1])
        np.testing.assert_array_equal(open_store(address).section("C2").features("tiny_112um"), expected)

    def test_a_cache_that_cannot_be_written(
        self, serve: Serve, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, address = serve("http", store)
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(StoreError, match=r"on this machine .*SPAM_CACHE"):
            open_store(address)


class TestRefusals:
    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize(
        ("kind", "words"),
        [("s3", "AWS_ACCESS_KEY_ID"), ("http", "ask whoever shares it"), ("hub", "hf auth login")],
    )
    def test_not_allowed(self, serve: Serve, small_store: Path, kind: str, status: int, words: str) -> None:
        server, address = serve(kind, small_store)
        server.refuse = lambda method, path: status
        with pytest.raises(StoreError, match=rf"(not allowed|hidden from you) \(.*{words}"):
            open_store(address)

    def test_no_such_bucket(self, serve: Serve, small_store: Path) -> None:
        serve("s3", small_store)
        with pytest.raises(StoreError, match=r"'s3://absent/a.zarr' failed: there is no such bucket"):
            open_store("s3://absent/a.zarr")

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_store(self, serve: Serve, small_store: Path, kind: str) -> None:
        _, address = serve(kind, small_store)
        with pytest.raises(StoreError, match=r"is no store: it has no 'zarr.json'"):
            open_store(f"{address}x")

    def test_no_server(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(StoreError, match=r"127.0.0.1 cannot be reached .*network of this machine"):
            open_store(f"http://127.0.0.1:{port}/a.zarr")

    def test_no_server_of_the_hub(self, serve: Serve, small_store: Path) -> None:
        server, address = serve("hub", small_store)
        server.server.server_close()
        with pytest.raises(StoreError, match=r"the server cannot be reached"):
            open_store(address)

    def test_a_password_is_used_and_not_shown(self, serve: Serve, small_store: Path) -> None:
        server, address = serve("http", small_store)
        seen: list[Any] = []
        app = server.app

        def spying(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            seen.append(environ.get("HTTP_AUTHORIZATION"))
            return app(environ, start)

        server.app = spying
        named = address.replace("http://", "http://me:geheim@")
        store = open_store(named)
        assert set(seen) == {"Basic bWU6Z2VoZWlt"}
        assert store.address == address
        server.refuse = lambda method, path: 403
        with pytest.raises(StoreError, match="not allowed") as caught:
            open_store(named)
        assert "geheim" not in str(caught.value)

    def test_a_signed_address_is_refused_and_not_shown(self) -> None:
        with pytest.raises(StoreError, match=r"'https://host/a.zarr' goes on after a '\?'") as caught:
            RemoteLocation("https://host/a.zarr?sig=geheim")
        assert "geheim" not in str(caught.value)

    def test_no_package_for_it(self) -> None:
        with pytest.raises(
            StoreError, match=r"'gs://bucket/a.zarr' need a package .*pip install 'spam-st\[gs\]'"
        ):
            RemoteLocation("gs://bucket/a.zarr")
        with pytest.raises(StoreError, match=r"'quux://bucket/a.zarr' is no address .*s3://bucket/name.zarr"):
            RemoteLocation("quux://bucket/a.zarr")


def test_secrets_are_taken_out_of_words() -> None:
    text = "GET https://me:pw@host/x?sig=1&t=2 with hf_abcDEF123 and Bearer xyz"
    assert scrubbed(text) == "GET https://host/x?… with … and …"
    assert shown("s3://key:secret@bucket/a@b?v=1") == "s3://bucket/a@b"
    assert shown("hf://datasets/org/name@v1/x") == "hf://datasets/org/name@v1/x"
