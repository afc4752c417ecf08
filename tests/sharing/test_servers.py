"""The HTTP and S3 servers of `tests/servers`, spoken to by fsspec."""

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from s3_server import S3Server
from sample_folder import LARGE, contents_of, write_sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "local")


def sent(server: CountingServer, method: str = "GET") -> list[tuple[str | None, int, int]]:
    """Range, status and bytes of each request of one method."""
    return [(each.range, each.status, each.sent) for each in server.requests if each.method == method]


class TestHttp:
    @pytest.fixture
    def server(self, folder: Path) -> Iterator[HttpRangeServer]:
        with HttpRangeServer(folder) as server:
            yield server

    def test_every_file_reads_whole(self, server: HttpRangeServer, folder: Path) -> None:
        web = fsspec.filesystem("http")
        expected = contents_of(folder)
        read = {name: web.cat_file(f"{server.url}/{urllib.parse.quote(name)}") for name in expected}
        assert read == expected
        assert server.bytes_sent == sum(map(len, expected.values()))
        assert server.sent_by_path == {f"/{name}": len(content) for name, content in expected.items()}

    @pytest.mark.parametrize(
        ("asked", "status", "first", "stop"),
        [
            ("bytes=0-0", 206, 0, 1),
            ("bytes=7-106", 206, 7, 107),
            (f"bytes={LARGE - 5}-{LARGE + 99}", 206, LARGE - 5, LARGE),  # a range ends with the file
            ("bytes=2999999-", 206, 2_999_999, LARGE),
            ("bytes=-13", 206, LARGE - 13, LARGE),
            (None, 200, 0, LARGE),
        ],
    )
    def test_ranges(
        self, server: HttpRangeServer, folder: Path, asked: str | None, status: int, first: int, stop: int
    ) -> None:
        url = f"{server.url}/C2/obsm/features/c/0/0"
        request = urllib.request.Request(url, headers={"Range": asked} if asked else {})
        with urllib.request.urlopen(request) as answer:
            assert answer.status == status
            assert answer.read() == (folder / "C2/obsm/features/c/0/0").read_bytes()[first:stop]
            assert answer.headers["Content-Length"] == str(stop - first)
            assert answer.headers["Accept-Ranges"] == "bytes"
            if asked:
                assert answer.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{LARGE}"
        assert sent(server) == [(asked, status, stop - first)]

    @pytest.mark.parametrize(
        ("method", "path", "asked", "status"),
        [
            ("GET", "/zarr.json", "bytes=18-", 416),
            ("GET", "/absent", None, 404),
            ("GET", "/C2", None, 404),  # no listing
            ("GET", "/", None, 404),
            ("GET", "/../secret", None, 404),
            ("PUT", "/zarr.json", None, 405),
        ],
    )
    def test_refusals(
        self, server: HttpRangeServer, folder: Path, method: str, path: str, asked: str | None, status: int
    ) -> None:
        (folder.parent / "secret").write_text("not served")
        request = urllib.request.Request(
            server.url + path, headers={"Range": asked} if asked else {}, method=method
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        caught.value.close()
        assert caught.value.code == status

    def test_the_client_reads_a_size_and_a_range(self, server: HttpRangeServer, folder: Path) -> None:
        web = fsspec.filesystem("http")
        url = f"{server.url}/C2/obsm/features/c/1/0"
        assert web.info(url)["size"] == LARGE
        assert web.cat_file(url, start=11, end=1024) == contents_of(folder)["C2/obsm/features/c/1/0"][11:1024]
        assert sent(server, "HEAD") == [(None, 200, 0)]
        assert sent(server) == [("bytes=11-1023", 206, 1013)]

    def test_a_transfer_can_be_broken(self, server: HttpRangeServer) -> None:
        server.refuse = lambda method, path: 503 if path == "/zarr.json" else None
        web = fsspec.filesystem("http")
        assert web.cat_file(f"{server.url}/C2/obsm/features/zarr.json") == b"{}"
        with pytest.raises(Exception, match="503"):
            web.cat_file(f"{server.url}/zarr.json")
        server.refuse = None
        assert web.cat_file(f"{server.url}/zarr.json") == b'{"zarr_format": 3}'


class TestS3:
    @pytest.fixture
    def server(self) -> Iterator[S3Server]:
        s3fs.S3FileSystem.clear_instance_cache()
        with S3Server() as server:
            yield server
        s3fs.S3FileSystem.clear_instance_cache()

    def test_a_folder_comes_back(self, server: S3Server, folder: Path, tmp_path: Path) -> None:
        bucket = fsspec.filesystem("s3", **server.storage_options)
        bucket.put(f"{folder}/", "cohorts/her2.zarr/", recursive=True)
        expected = contents_of(folder)
        assert set(bucket.find("cohorts")) == {f"cohorts/her2.zarr/{name}" for name in expected}
        assert server.bytes_received == sum(map(len, expected.values()))
        bucket.get("cohorts/her2.zarr/", f"{tmp_path}/back/", recursive=True)
        assert contents_of(tmp_path / "back") == expected

    def test_a_range_sends_no_more(self, server: S3Server) -> None:
        content = np.random.default_rng(1).bytes(LARGE)
        bucket = fsspec.filesystem("s3", **server.storage_options)
        bucket.pipe_file("cohorts/large", content)
        assert bucket.info("cohorts/large")["size"] == LARGE
        server.forget()
        assert bucket.cat_file("cohorts/large", start=7, end=1016) == content[7:1016]
        assert sent(server) == [("bytes=7-1015", 206, 1009)]
        assert bucket.cat_file("cohorts/large") == content
        assert server.bytes_sent == 1009 + LARGE

    def test_the_environment_is_enough(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").pipe_file("cohorts/a", b"b")
        with fsspec.open("s3://cohorts/a") as file:
            assert file.read() == b"b"

    def test_nothing_outlives_the_server(self, server: S3Server) -> None:
        fsspec.filesystem("s3", **server.storage_options).pipe_file("cohorts/a", b"b")
        with S3Server("other") as second:
            options = second.storage_options
            assert fsspec.filesystem("s3", **options).ls("") == ["cohorts", "other"]  # one memory, moto's
        with S3Server() as third:
            assert fsspec.filesystem("s3", **third.storage_options).find("cohorts") == []
