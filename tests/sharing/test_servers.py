"""The servers of `tests/servers`, each spoken to by the library that it is for."""

import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import huggingface_hub
import numpy as np
import pytest
import s3fs
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_repository import GIT_ATTRIBUTES
from hub_server import HubServer
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from s3_server import S3Server

LARGE = 3_000_017  # bytes
REPO = "org/cohort"

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small and large files, text and not, an empty one, and names that an address must quote."""
    rng = np.random.default_rng(0)
    contents = {
        "README.md": b"---\nlicense: cc0-1.0\n---\n# A cohort\n",
        "zarr.json": b'{"zarr_format": 3}',
        "C2/obsm/features/c/0/0": rng.bytes(LARGE),
        "C2/obsm/features/c/1/0": rng.bytes(LARGE),
        "C2/obsm/features/zarr.json": b"{}",
        "C2/empty": b"",
        "D 3+%41 µ/counts.bin": rng.bytes(211),
    }
    for name, content in contents.items():
        file = tmp_path / "local" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "local"


def contents_of(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


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


class TestHub:
    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        with HubServer(tmp_path / "hub", page_size=3) as server:
            yield server
        huggingface_hub.HfFileSystem.clear_instance_cache()

    @pytest.fixture
    def api(self, server: HubServer) -> huggingface_hub.HfApi:
        return huggingface_hub.HfApi(endpoint=server.url, token=server.token)

    @pytest.fixture
    def pushed(self, server: HubServer, api: huggingface_hub.HfApi, folder: Path) -> str:
        """Commit of the whole folder; the record is empty again."""
        api.create_repo(REPO, repo_type="dataset")
        commit = api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder)
        server.forget()
        return commit.oid

    def push(self, api: huggingface_hub.HfApi, folder: Path) -> str:
        return api.upload_folder(
            repo_id=REPO, repo_type="dataset", folder_path=folder, delete_patterns="*"
        ).oid

    def uploads(self, server: HubServer) -> list[int]:
        """Sizes of the large files that came, smallest first."""
        return sorted(each.received for each in server.requests if each.method == "PUT")

    def test_a_pushed_folder_is_kept_whole(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path
    ) -> None:
        assert api.whoami()["name"] == "owner"
        assert api.create_repo(REPO, repo_type="dataset").repo_id == REPO
        assert api.create_repo(REPO, repo_type="dataset", exist_ok=True).repo_id == REPO
        first = api.dataset_info(REPO).sha
        commit = self.push(api, folder)
        assert self.uploads(server) == [211, LARGE, LARGE]
        files = server.repository(REPO).files()
        expected = {**contents_of(folder), ".gitattributes": GIT_ATTRIBUTES}
        assert {name: file.read_bytes() for name, file in files.items()} == expected
        assert len(commit) == 40
        assert commit != first
        info = api.dataset_info(REPO)
        assert (info.sha, info.private, info.gated) == (commit, False, False)
        assert {each.rfilename for each in info.siblings} == set(expected)
        assert set(server.repository(REPO).files(first)) == {".gitattributes"}

    def test_only_what_changed_travels(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
    ) -> None:
        (folder / "C2/obsm/features/c/1/0").write_bytes(np.random.default_rng(2).bytes(LARGE))
        (folder / "C2/empty").unlink()
        commit = self.push(api, folder)
        assert self.uploads(server) == [LARGE]
        assert server.bytes_received < LARGE + 10_000
        assert set(server.repository(REPO).files()) == {*contents_of(folder), ".gitattributes"}
        assert "C2/empty" in server.repository(REPO).files(pushed)

        server.forget()
        assert self.push(api, folder) == commit  # nothing changed: no commit
        assert self.uploads(server) == []
        assert not any("/commit/" in each.path for each in server.requests)

    def test_a_broken_push_goes_on(self, server: HubServer, api: huggingface_hub.HfApi, folder: Path) -> None:
        api.create_repo(REPO, repo_type="dataset")
        first = server.repository(REPO).resolve("main")
        server.refuse = lambda method, path: 403 if "/commit/" in path else None
        with pytest.raises(HfHubHTTPError, match="403"):
            self.push(api, folder)
        assert server.repository(REPO).resolve("main") == first
        server.refuse = None
        server.forget()
        self.push(api, folder)
        assert self.uploads(server) == []  # all large files were there

    def test_listings(self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str) -> None:
        expected = contents_of(folder)
        tree = list(api.list_repo_tree(REPO, repo_type="dataset", recursive=True, expand=True))
        assert [each.path for each in tree] == sorted(each.path for each in tree)
        files = {each.path: each for each in tree if isinstance(each, huggingface_hub.hf_api.RepoFile)}
        assert {path: file.size for path, file in files.items()} == {
            **{name: len(content) for name, content in expected.items()},
            ".gitattributes": len(GIT_ATTRIBUTES),
        }
        assert {path for path, file in files.items() if file.lfs} == {
            "C2/obsm/features/c/0/0",
            "C2/obsm/features/c/1/0",
            "D 3+%41 µ/counts.bin",
        }
        assert {each.path for each in tree} - set(files) == {
            "C2", "C2/obsm", "C2/obsm/features", "C2/obsm/features/c", "C2/obsm/features/c/0",
            "C2/obsm/features/c/1", "D 3+%41 µ",
        }  # fmt: skip
        assert {each.last_commit.oid for each in tree} == {pushed}
        pages = [each for each in server.requests if "/tree/" in each.path]
        assert len(pages) == -(-len(tree) // 3)

        flat = api.list_repo_tree(REPO, "C2", repo_type="dataset")
        assert [each.path for each in flat] == ["C2/empty", "C2/obsm"]
        (info,) = api.get_paths_info(REPO, ["zarr.json", "absent"], repo_type="dataset")
        assert (info.path, info.size) == ("zarr.json", 18)

    def test_git_and_the_server_name_a_content_alike(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
    ) -> None:
        hashed = subprocess.run(
            ["git", "hash-object", "zarr.json"], cwd=folder, capture_output=True, text=True, check=True
        )
        (info,) = api.get_paths_info(REPO, "zarr.json", repo_type="dataset")
        assert info.blob_id == hashed.stdout.strip()

    def test_the_file_system_reads_all_and_ranges(self, server: HubServer, folder: Path, pushed: str) -> None:
        expected = contents_of(folder)
        hub = fsspec.filesystem("hf", endpoint=server.url, token=server.token)
        root = f"datasets/{REPO}"
        assert set(hub.find(root)) == {f"{root}/{name}" for name in [*expected, ".gitattributes"]}
        assert set(hub.ls(f"{root}/C2", detail=False)) == {f"{root}/C2/empty", f"{root}/C2/obsm"}
        assert {name: hub.cat_file(f"hf://{root}/{name}") for name in expected} == expected
        large = "C2/obsm/features/c/0/0"
        server.forget()
        part = hub.cat_file(f"{root}/{large}", start=7, end=1016, cache_type="none")
        assert part == expected[large][7:1016]
        assert [each.sent for each in server.requests if each.path.startswith("/cdn/")] == [1009]

    def test_a_file_is_fetched_and_cached(
        self, server: HubServer, folder: Path, pushed: str, tmp_path: Path
    ) -> None:
        hub = fsspec.filesystem("hf", endpoint=server.url, token=server.token)
        large = "C2/obsm/features/c/0/0"
        hub.get_file(f"datasets/{REPO}/{large}", str(tmp_path / "got"))
        assert (tmp_path / "got").read_bytes() == (folder / large).read_bytes()
        server.forget()
        for _ in range(2):
            got = huggingface_hub.hf_hub_download(
                REPO,
                large,
                repo_type="dataset",
                revision=pushed,
                endpoint=server.url,
                cache_dir=tmp_path / "cache",
            )
            assert Path(got).read_bytes() == (folder / large).read_bytes()
        assert [each.sent for each in server.requests if each.path.startswith("/cdn/")] == [LARGE]

    def test_a_snapshot_is_the_folder(
        self, server: HubServer, folder: Path, pushed: str, tmp_path: Path
    ) -> None:
        target = tmp_path / "back"
        huggingface_hub.snapshot_download(
            REPO, repo_type="dataset", endpoint=server.url, local_dir=target, ignore_patterns=".gitattributes"
        )
        fetched = {name: each for name, each in contents_of(target).items() if not name.startswith(".cache/")}
        assert fetched == contents_of(folder)

    def test_branches_and_old_commits(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
    ) -> None:
        api.create_branch(REPO, repo_type="dataset", branch="v2")
        (folder / "zarr.json").write_text('{"zarr_format": 4}')
        api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder, revision="v2")
        refs = {
            each.name: each.target_commit for each in api.list_repo_refs(REPO, repo_type="dataset").branches
        }
        assert set(refs) == {"main", "v2"}
        assert refs["main"] == pushed != refs["v2"]
        hub = fsspec.filesystem("hf", endpoint=server.url, token=server.token)
        texts = {
            at: hub.cat_file(f"datasets/{REPO}@{at}/zarr.json") for at in ("main", "v2", pushed, refs["v2"])
        }
        assert texts == dict(
            zip(texts, [b'{"zarr_format": 3}', b'{"zarr_format": 4}'] * 2, strict=True),
        )
        with pytest.raises(HfHubHTTPError, match="412"):
            api.create_commit(
                REPO,
                [huggingface_hub.CommitOperationDelete("zarr.json")],
                repo_type="dataset",
                commit_message="late",
                parent_commit=refs["v2"],
            )

    def test_who_may_do_what(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
    ) -> None:
        def url(path: str = "zarr.json", revision: str = "main") -> str:
            return f"{server.url}/datasets/{REPO}/resolve/{revision}/{path}"

        nobody, stranger, wrong = (
            huggingface_hub.HfApi(endpoint=server.url, token=token)
            for token in (False, server.stranger_token, "hf_wrong")
        )
        assert nobody.dataset_info(REPO).sha == stranger.dataset_info(REPO).sha == pushed
        with pytest.raises(HfHubHTTPError, match="401"):
            self.push(nobody, folder)
        with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
            self.push(stranger, folder)
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            wrong.dataset_info(REPO)
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            wrong.whoami()
        with pytest.raises(RepositoryNotFoundError, match="404"):
            api.dataset_info("org/absent")
        with pytest.raises(RepositoryNotFoundError, match="401"):  # the Hub does not say what it hides
            nobody.dataset_info("org/absent")
        with pytest.raises(RevisionNotFoundError):
            api.get_hf_file_metadata(url=url(revision="absent"))
        with pytest.raises(RemoteEntryNotFoundError):
            api.get_hf_file_metadata(url=url("absent"))

        server.repository(REPO).is_gated = True
        assert stranger.dataset_info(REPO).gated == "manual"
        assert api.get_hf_file_metadata(url=url()).commit_hash == pushed
        with pytest.raises(GatedRepoError, match="403"):
            stranger.get_hf_file_metadata(url=url())
        with pytest.raises(GatedRepoError, match="401"):
            nobody.get_hf_file_metadata(url=url())

        server.repository(REPO).is_private = True
        assert api.dataset_info(REPO).private
        with pytest.raises(RepositoryNotFoundError, match="404"):
            stranger.dataset_info(REPO)

    def test_a_bad_card_is_refused(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
    ) -> None:
        (folder / "README.md").write_text("---\nlicense: [\n---\n")
        with pytest.raises(ValueError, match="Invalid metadata in README"):
            self.push(api, folder)
        (folder / "README.md").write_text("no head")
        with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
            self.push(api, folder)

    def test_a_large_file_that_never_came_is_not_committed(
        self, server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
    ) -> None:
        lines = b'{"key": "header", "value": {"summary": "s"}}\n' + (
            b'{"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": "%s", "size": 3}}'
            % (b"0" * 64)
        )
        request = urllib.request.Request(
            f"{server.url}/api/datasets/{REPO}/commit/main",
            lines,
            {"Authorization": f"Bearer {server.token}"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        caught.value.close()
        assert caught.value.code == 400
        assert api.dataset_info(REPO).sha == pushed

    def test_a_child_process_needs_the_environment_only(
        self, server: HubServer, folder: Path, pushed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        code = f"import fsspec; print(fsspec.open('hf://datasets/{REPO}/zarr.json').open().read().decode())"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert child.stdout.strip() == '{"zarr_format": 3}'
