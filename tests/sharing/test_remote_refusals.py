"""What goes wrong with an address, in words, and without a secret."""

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from counting_server import CountingServer

from spam.errors import StoreError
from spam.store import open_store
from spam.store.remote import RemoteLocation
from spam.store.remote_faults import scrubbed, shown

REPO = "org/cohort"
KINDS = ("s3", "http", "hub")

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    # huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),
]

Serve = Callable[[str, Path], tuple[CountingServer, str]]


class TestRefusals:
    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize(
        ("kind", "words"),
        [("s3", "AWS_ACCESS_KEY_ID"), ("http", "ask whoever shares it"), ("hub", "hf auth login")],
    )
    def test_not_allowed(self, serve: Serve, few_files: Path, kind: str, status: int, words: str) -> None:
        server, address = serve(kind, few_files)
        server.refuse = lambda method, path: status
        with pytest.raises(StoreError, match=rf"(not allowed|hidden from you) \(.*{words}"):
            open_store(address)

    def test_no_such_bucket(self, serve: Serve, few_files: Path) -> None:
        serve("s3", few_files)
        with pytest.raises(StoreError, match=r"'s3://absent/a.zarr' failed: there is no such bucket"):
            open_store("s3://absent/a.zarr")

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_store(self, serve: Serve, few_files: Path, kind: str) -> None:
        _, address = serve(kind, few_files)
        with pytest.raises(StoreError, match=r"is no store: it has no 'zarr.json'"):
            open_store(f"{address}x")

    def test_no_server(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(StoreError, match=r"127.0.0.1 cannot be reached .*network of this machine"):
            open_store(f"http://127.0.0.1:{port}/a.zarr")

    def test_no_server_of_the_hub(self, serve: Serve, few_files: Path) -> None:
        server, address = serve("hub", few_files)
        server.server.server_close()
        with pytest.raises(StoreError, match=r"the server cannot be reached"):
            open_store(address)

    def test_a_password_is_used_and_not_shown(self, serve: Serve, few_files: Path) -> None:
        server, address = serve("http", few_files)
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
