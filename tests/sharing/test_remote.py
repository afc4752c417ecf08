"""Reading stores from servers on loopback: the same numbers, and few bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import huggingface_hub
import numpy as np
import pytest
from counting_server import CountingServer
from hub_server import HubServer
from pointing import point_at_hub
from same_section import assert_same_section

from spam.errors import StoreError
from spam.store import SectionRecord, create_store, open_store

REPO = "org/cohort"
KINDS = ("s3", "http", "hub")

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    # huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),
]

Serve = Callable[[str, Path], tuple[CountingServer, str]]


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_store_reads_as_the_local_one(
    kind: str, serve: Serve, pristine_store: Path, few_files: Path
) -> None:
    local = pristine_store if kind == "http" else few_files
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


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(
    serve: Serve, pristine_store: Path, tmp_path: Path
) -> None:
    server, address = serve("http", pristine_store)
    expected = open_store(pristine_store).section("C2")
    open_store(address).section("C2").features("tiny_112um")
    entry = next(entry for path, entry in expected.index.below("obsm/tiny_112um").items() if "/c/" in path)
    cached = tmp_path / "cache" / entry.sha256[:2] / entry.sha256
    cached.write_bytes(bytes(entry.n_bytes))
    server.forget()
    found = open_store(address).section("C2").features("tiny_112um")
    np.testing.assert_array_equal(found, expected.features("tiny_112um"))
    assert sum("/c/" in path for path, n_bytes in server.sent_by_path.items() if n_bytes) == 1


def test_a_change_is_seen_by_who_opens_again(
    serve: Serve, few_files: Path, tmp_path: Path, add_features: Callable[..., np.ndarray]
) -> None:
    store_path = Path(shutil.copytree(few_files, tmp_path / "small.zarr"))
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
        self, serve: Serve, few_files: Path, tmp_path: Path, add_features: Callable[..., np.ndarray]
    ) -> None:
        store_path = Path(shutil.copytree(few_files, tmp_path / "small.zarr"))
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

    def test_no_such_revision(self, serve: Serve, few_files: Path) -> None:
        _, address = serve("hub", few_files)
        with pytest.raises(
            StoreError, match=r"no such repository or revision, or it is hidden.*hf auth login"
        ):
            open_store(address.replace("cohort", "cohort@v9"))

    def test_what_is_hidden_and_what_is_gated(
        self, serve: Serve, few_files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, address = serve("hub", few_files)
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
