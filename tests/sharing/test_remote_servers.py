"""Reading stores from servers that break off, send something else, or never stop."""

import itertools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import numpy as np
import pytest
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from same_section import assert_same_section

from spam.errors import StoreError
from spam.store import open_store

REPO = "org/cohort"
KINDS = ("s3", "http", "hub")

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    # huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),
]

Serve = Callable[[str, Path], tuple[CountingServer, str]]


class TestWrongServers:
    @pytest.fixture
    def store(self, store_path: Path) -> Path:
        return store_path

    def test_another_content(self, serve: Serve, store: Path, own_cache: Path) -> None:
        _, address = serve("http", store)
        chunk = store / "C2/obsm/tiny_112um/c/0/0"
        data = bytearray(chunk.read_bytes())
        data[7] ^= 1
        chunk.write_bytes(data)
        with pytest.raises(
            StoreError, match=r"'C2/obsm/tiny_112um/c/0/0'.* is not what the index.*push it again"
        ):
            open_store(address).section("C2").features("tiny_112um")
        assert list(own_cache.rglob("*.partial")) == []
        assert not any(path.read_bytes() == bytes(data) for path in own_cache.rglob("*") if path.is_file())

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
        self, store: Path, path: str, is_told: bool, own_cache: Path, monkeypatch: pytest.MonkeyPatch
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
        assert not [*own_cache.rglob("*.partial")]

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

    def test_a_damaged_cache_is_fetched_again(self, serve: Serve, store: Path, own_cache: Path) -> None:
        _, address = serve("http", store)
        expected = open_store(address).section("C2").features("tiny_112um")
        for path in own_cache.rglob("*"):
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
