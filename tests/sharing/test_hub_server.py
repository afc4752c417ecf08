"""The Hub's server of `tests/servers`, spoken to by huggingface_hub."""

import hashlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import huggingface_hub
import numpy as np
import pytest
from hub_repository import GIT_ATTRIBUTES
from hub_server import HubServer
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from sample_folder import LARGE, contents_of, write_sample

REPO = "org/cohort"

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "local")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    with HubServer(tmp_path / "hub", page_size=3) as server:
        yield server
    huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.fixture
def api(server: HubServer) -> huggingface_hub.HfApi:
    return huggingface_hub.HfApi(endpoint=server.url, token=server.token)


@pytest.fixture
def pushed(server: HubServer, api: huggingface_hub.HfApi, folder: Path) -> str:
    """Commit of the whole folder; the record is empty again."""
    api.create_repo(REPO, repo_type="dataset")
    commit = api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder)
    server.forget()
    return commit.oid


def push(api: huggingface_hub.HfApi, folder: Path) -> str:
    return api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder, delete_patterns="*").oid


def uploads(server: HubServer) -> list[int]:
    """Sizes of the large files that came, smallest first."""
    return sorted(each.received for each in server.requests if each.method == "PUT")


def test_a_pushed_folder_is_kept_whole(server: HubServer, api: huggingface_hub.HfApi, folder: Path) -> None:
    assert api.whoami()["name"] == "owner"
    assert api.create_repo(REPO, repo_type="dataset").repo_id == REPO
    assert api.create_repo(REPO, repo_type="dataset", exist_ok=True).repo_id == REPO
    first = api.dataset_info(REPO).sha
    commit = push(api, folder)
    assert uploads(server) == [211, LARGE, LARGE]
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
    server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
) -> None:
    (folder / "C2/obsm/features/c/1/0").write_bytes(np.random.default_rng(2).bytes(LARGE))
    (folder / "C2/empty").unlink()
    commit = push(api, folder)
    assert uploads(server) == [LARGE]
    assert server.bytes_received < LARGE + 10_000
    assert set(server.repository(REPO).files()) == {*contents_of(folder), ".gitattributes"}
    assert "C2/empty" in server.repository(REPO).files(pushed)

    server.forget()
    assert push(api, folder) == commit  # nothing changed: no commit
    assert uploads(server) == []
    assert not any("/commit/" in each.path for each in server.requests)


def test_a_broken_push_goes_on(server: HubServer, api: huggingface_hub.HfApi, folder: Path) -> None:
    api.create_repo(REPO, repo_type="dataset")
    first = server.repository(REPO).resolve("main")
    server.refuse = lambda method, path: 403 if "/commit/" in path else None
    with pytest.raises(HfHubHTTPError, match="403"):
        push(api, folder)
    assert server.repository(REPO).resolve("main") == first
    server.refuse = None
    server.forget()
    push(api, folder)
    assert uploads(server) == []  # all large files were there


def test_listings(server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str) -> None:
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
    server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
) -> None:
    hashed = subprocess.run(
        ["git", "hash-object", "zarr.json"], cwd=folder, capture_output=True, text=True, check=True
    )
    (info,) = api.get_paths_info(REPO, "zarr.json", repo_type="dataset")
    assert info.blob_id == hashed.stdout.strip()


def test_the_file_system_reads_all_and_ranges(server: HubServer, folder: Path, pushed: str) -> None:
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


def test_a_file_is_fetched_and_cached(server: HubServer, folder: Path, pushed: str, tmp_path: Path) -> None:
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


def test_a_snapshot_is_the_folder(server: HubServer, folder: Path, pushed: str, tmp_path: Path) -> None:
    target = tmp_path / "back"
    huggingface_hub.snapshot_download(
        REPO, repo_type="dataset", endpoint=server.url, local_dir=target, ignore_patterns=".gitattributes"
    )
    fetched = {name: each for name, each in contents_of(target).items() if not name.startswith(".cache/")}
    assert fetched == contents_of(folder)


def test_branches_and_old_commits(
    server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
) -> None:
    api.create_branch(REPO, repo_type="dataset", branch="v2")
    (folder / "zarr.json").write_text('{"zarr_format": 4}')
    api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder, revision="v2")
    refs = {each.name: each.target_commit for each in api.list_repo_refs(REPO, repo_type="dataset").branches}
    assert set(refs) == {"main", "v2"}
    assert refs["main"] == pushed != refs["v2"]
    hub = fsspec.filesystem("hf", endpoint=server.url, token=server.token)
    texts = {at: hub.cat_file(f"datasets/{REPO}@{at}/zarr.json") for at in ("main", "v2", pushed, refs["v2"])}
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


def test_who_may_do_what(server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str) -> None:
    def url(path: str = "zarr.json", revision: str = "main") -> str:
        return f"{server.url}/datasets/{REPO}/resolve/{revision}/{path}"

    nobody, stranger, wrong = (
        huggingface_hub.HfApi(endpoint=server.url, token=token)
        for token in (False, server.stranger_token, "hf_wrong")
    )
    assert nobody.dataset_info(REPO).sha == stranger.dataset_info(REPO).sha == pushed
    with pytest.raises(HfHubHTTPError, match="401"):
        push(nobody, folder)
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        push(stranger, folder)
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
    server: HubServer, api: huggingface_hub.HfApi, folder: Path, pushed: str
) -> None:
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        push(api, folder)
    (folder / "README.md").write_text("no head")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        push(api, folder)


def test_contents_are_taken_only_as_announced(
    server: HubServer, api: huggingface_hub.HfApi, pushed: str
) -> None:
    content = b"a large file, let us say"
    sha256 = hashlib.sha256(content).hexdigest()
    token = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    lfs = f"{server.url}/lfs/{REPO}/{sha256}"

    def ask(method: str, url: str, body: bytes, headers: dict[str, str]) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    batch = json.dumps({"objects": [{"oid": sha256, "size": len(content)}]}).encode()
    add = {"key": "lfsFile", "value": {"path": "a", "oid": sha256}}
    commit = b'{"key": "header", "value": {"summary": "s"}}\n' + json.dumps(add).encode()

    def ask_commit() -> int:
        return ask("POST", f"{server.url}/api/datasets/{REPO}/commit/main", commit, token)

    assert ask("PUT", lfs, content, {}) == 403  # nobody announced it
    assert ask("POST", f"{server.url}/datasets/{REPO}.git/info/lfs/objects/batch", batch, token) == 200
    assert ask("PUT", lfs, content[1:], {}) == 400
    assert ask("PUT", lfs, content, token) == 400  # a token that leaves the Hub
    assert ask_commit() == 400  # it has not come yet
    assert api.dataset_info(REPO).sha == pushed
    assert ask("PUT", lfs, content, {}) == 200
    assert ask_commit() == 200
    assert server.repository(REPO).files()["a"].read_bytes() == content
