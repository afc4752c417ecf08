"""Stores on S3, on a web server and on the Hub: read as the folder is, and nothing is fetched that is not needed."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_server import HubServer, Repository
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_config import VerifyConfig
from spam.store import create_store, open_store, verify
from spam.store.remote import RemoteLocation, shown

KEY = "tiny_112um"
KINDS = ("s3", "http", "hub")
N_SPOTS, N_GENES, N_FEATURES = 401, 50, 64

Serve = Callable[[str], tuple[CountingServer, str]]


@pytest.fixture(scope="module")
def local(tmp_path_factory, add, make_feature_meta, make_graph, fill) -> Path:
    folder = tmp_path_factory.mktemp("remote") / "cohort.zarr"
    counts = sparse.random_array((N_SPOTS, N_GENES), density=0.9, rng=0, format="csr") * 9999
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.writing._CHUNK_ENTRIES", 500)
        section = add(
            create_store(folder),
            name="C 2é",
            n_spots=N_SPOTS,
            n_genes=N_GENES,
            counts=counts.astype(np.int64),
            obs={},
        )
    rows = np.random.default_rng(1).random((N_SPOTS, N_FEATURES), np.float32)
    for key in (KEY, "other_1px"):
        fill(section.feature_writer(make_feature_meta(key=key, dim=N_FEATURES, chunk_rows=64)), rows)
    section.write_graph("spatial", make_graph(n=N_SPOTS))
    return folder


@pytest.fixture
def serve(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spam.store.remote._WAIT_S", 0.01)
    running: list[CountingServer] = []

    def run(kind: str) -> tuple[CountingServer, str]:
        server: CountingServer
        if kind == "s3":
            server = S3Server()
            running.append(server.__enter__())
            s3fs.S3FileSystem(**server.storage_options).put(str(local), "cohorts/a.zarr", recursive=True)
            point_at_s3(server, monkeypatch)
            address = "s3://cohorts/a.zarr"
        elif kind == "hub":
            server = HubServer()
            running.append(server.__enter__())
            found = (path for path in local.rglob("*") if path.is_file())
            files = {path.relative_to(local).as_posix(): path.read_bytes() for path in found}
            server.repositories["org/cohort"] = Repository(is_private=True)
            server.repositories["org/cohort"].record(files)
            point_at_hub(server, monkeypatch)
            address = "hf://datasets/org/cohort"
        else:
            server = HttpRangeServer(local.parent)
            running.append(server.__enter__())
            address = f"{server.url}/{local.name}"
        server.forget()
        return server, address

    yield run
    for server in running:
        server.refuse = None
        server.__exit__(None, None, None)
    forget_connections()


def bytes_of_files(server: CountingServer) -> int:
    """Bytes sent, without the listings of folders by the Hub."""
    return sum(exchange.sent for exchange in server.requests if "/api/" not in exchange.path)


def size_of(section, *nodes: str) -> int:
    return sum(entry.n_bytes for entry in section.index.below(*nodes).values())


@pytest.mark.parametrize("kind", KINDS)
def test_remote_store_reads_as_the_local_one_and_fetches_what_is_needed(
    serve: Serve, local: Path, kind: str
) -> None:
    server, address = serve(kind)
    expected = open_store(local).section("C 2é")
    section = open_store(address).section("C 2é")
    indexes = len((local / "zarr.json").read_bytes()) + len(expected.index.data)
    assert indexes <= bytes_of_files(server) < indexes + 5_000
    for nodes, read in {
        ("obsm/tiny_112um",): lambda s: s.features(KEY),
        ("obs/_index",): lambda s: s.ids,
        ("obsp",): lambda s: s.graph("spatial").distances.toarray(),
        ("uns/spatial",): lambda s: s.overview().image,
    }.items():
        server.forget()
        np.testing.assert_array_equal(read(section), read(expected))
        assert (
            size_of(section, *nodes) * 0.5 < bytes_of_files(server) <= size_of(section, *nodes) * 1.02 + 5_000
        ), nodes
    section.genes  # noqa: B018
    server.forget()
    genes = ["GENE3", "GENE31", "GENE4"]
    np.testing.assert_array_equal(section.counts(genes).toarray(), expected.counts(genes).toarray())
    assert bytes_of_files(server) < 0.25 * size_of(section, "X") + 5_000
    np.testing.assert_array_equal(section.counts().toarray(), expected.counts().toarray())
    server.forget()
    again = open_store(address).section("C 2é")
    np.testing.assert_array_equal(again.features(KEY), expected.features(KEY))
    assert bytes_of_files(server) < indexes + 5_000  # the rest is in the cache
    assert not again.unfinished_keys
    assert verify(VerifyConfig(store=address)).is_intact


def test_damage_is_found_in_the_cache_and_at_the_server(serve: Serve, local: Path, tmp_path: Path) -> None:
    server, address = serve("http")
    expected = open_store(local).section("C 2é").features(KEY)
    open_store(address).section("C 2é").features(KEY)
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    for path in cached:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    # fetched again
    np.testing.assert_array_equal(open_store(address).section("C 2é").features(KEY), expected)
    copy = tmp_path / "served"
    shutil.copytree(local, copy / "cohort.zarr")
    server.folder = copy  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "cache")
    chunk = copy / "cohort.zarr/C 2é/obsm" / KEY / "c/1/0"
    for content, n in (
        (chunk.read_bytes()[:-1] + b"?", chunk.stat().st_size),
        (bytes(10**6), chunk.stat().st_size + 1),
    ):
        chunk.write_bytes(content)
        with pytest.raises(StoreError, match=rf"Damaged file: C 2é/obsm/{KEY}/c/1/0 .*{n} bytes"):
            open_store(address).section("C 2é").features(KEY)
        assert max(exchange.sent for exchange in server.requests if exchange.path.endswith("c/1/0")) <= n
    chunk.unlink()
    with pytest.raises(StoreError, match=r"c/1/0 .*missing"):
        open_store(address).section("C 2é").features(KEY)


@pytest.mark.parametrize(("n_breaks", "is_read"), [(2, True), (3, False)])
def test_busy_server_is_asked_three_times(serve: Serve, n_breaks: int, is_read: bool) -> None:
    server, address = serve("http")
    left = n_breaks

    def refuse(method: str, path: str) -> int | None:
        nonlocal left
        left -= path.endswith("zarr.json")
        return 503 if left >= 0 else None

    server.refuse = refuse
    if is_read:
        assert open_store(address).section_names == ("C 2é",)
    else:
        with pytest.raises(StoreError, match=r"127.0.0.1 cannot be reached.*503"):
            open_store(address)


@pytest.mark.parametrize(
    ("kind", "status", "advice"),
    [
        ("s3", 403, "AWS_ACCESS_KEY_ID"),
        ("http", 401, "user name and password"),
        ("hub", 403, "huggingface.co|hf auth"),
    ],
)
def test_refusals_say_what_to_do(serve: Serve, kind: str, status: int, advice: str) -> None:
    server, address = serve(kind)
    server.refuse = lambda method, path: status
    with pytest.raises(StoreError, match=advice):
        open_store(address)


@pytest.mark.parametrize("kind", KINDS)
def test_no_store_and_no_server(serve: Serve, kind: str) -> None:
    _, address = serve(kind)
    with pytest.raises(StoreError, match=r"is not a store|No repository|no such|No such"):
        open_store(f"{address}x")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match=r"127.0.0.1 cannot be reached.*network"):
        open_store(f"http://127.0.0.1:{port}/a.zarr")


def test_secrets_are_not_shown(serve: Serve) -> None:
    server, address = serve("http")
    named = address.replace("http://", "http://me:geheim@")
    assert open_store(named).address == address
    server.refuse = lambda method, path: 403
    with pytest.raises(StoreError, match="refused") as caught:
        open_store(named)
    assert "geheim" not in str(caught.value)
    with pytest.raises(StoreError, match=r"'https://host/a\.zarr' has a query") as caught:
        RemoteLocation("https://host/a.zarr?sig=geheim")
    assert "geheim" not in str(caught.value)
    assert shown("s3://key:secret@bucket/a@b?v=1") == "s3://bucket/a@b"
    assert shown("hf://datasets/org/name@v1/x") == "hf://datasets/org/name@v1/x"


def test_addresses_of_unknown_kinds() -> None:
    with pytest.raises(
        StoreError, match=r"'gs://bucket/a.zarr' needs a package: pip install 'spam-st\[gs\]'"
    ):
        RemoteLocation("gs://bucket/a.zarr")
    with pytest.raises(StoreError, match=r"Unknown address 'quux://bucket/a.zarr'.*s3://"):
        RemoteLocation("quux://bucket/a.zarr")
