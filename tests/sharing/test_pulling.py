"""Pulling stores, and parts of them, from servers on loopback: what is fetched, what goes on, what is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_server import HubServer
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server

from spam.errors import StoreError
from spam.schemas.store_config import PullConfig, PushConfig
from spam.sharing.pulling import PullReport, pull
from spam.sharing.pushing import push
from spam.store import StoredSection, open_store

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spam.store.remote._WAIT_S", 0.0)
    yield tmp_path / "cache"
    forget_connections()


@pytest.fixture
def web(store_path: Path) -> Iterator[HttpRangeServer]:
    """`store_path` on a web server."""
    with HttpRangeServer(store_path) as server:
        yield server


def pulled(store: Path | str, out: Path, **options: Any) -> PullReport:
    return pull(PullConfig(store=store, out=out, **options))


def fetched(server: CountingServer) -> list[str]:
    """Paths of all files but indexes that were sent, in order."""
    return [each.path.removeprefix("/") for each in server.requests if each.sent and each.path.count("/") > 2]


def test_a_whole_store_is_its_bytes(
    web: HttpRangeServer, store_path: Path, tmp_path: Path, tree: Tree, cache: Path
) -> None:
    out = tmp_path / "out.zarr"
    report = pulled(web.url, out)
    there = tree(out)
    assert there == tree(store_path)
    files = [data for name, data in there.items() if name.count("/") > 1]
    assert (report.n_files, report.n_bytes) == (len(files), sum(map(len, files)))
    assert (report.sections, report.n_there) == (("C2", "C3"), 0)
    assert report.features[:2] == ("C2/tiny_112um", "C2/tiny_224um")
    assert not cache.exists()
    assert not (out / ".unfinished").exists()
    assert report.summary().startswith(f"fetched {len(files)} files")
    json.dumps(report.to_mapping())

    web.forget()
    again = pulled(web.url, out)
    assert (again.n_files, again.n_bytes, again.n_there) == (0, 0, len(files))
    assert fetched(web) == []


@pytest.mark.parametrize("kind", ["s3", "hub"])
def test_what_was_pushed_comes_back(
    kind: str, store_path: Path, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(store_path / "C2")
    with ExitStack() as stack:
        if kind == "s3":
            point_at_s3(stack.enter_context(S3Server()), monkeypatch)
            address = "s3://cohorts/a.zarr"
        else:
            point_at_hub(stack.enter_context(HubServer(tmp_path / "hub")), monkeypatch)
            address = "hf://datasets/org/cohort"
        push(PushConfig(store=store_path, to=address))
        pulled(address, tmp_path / "out.zarr")
        open_store(store_path, is_read_only=False)  # its root still tells of C2
        assert tree(tmp_path / "out.zarr") == tree(store_path)


def test_other_features_and_their_graphs_are_not_fetched(
    web: HttpRangeServer, store_path: Path, tmp_path: Path, tree: Tree
) -> None:
    out = tmp_path / "out.zarr"
    report = pulled(web.url, out, sections=("C2",), features=("tiny_224um",))
    assert (report.sections, report.features) == (("C2",), ("C2/tiny_224um",))
    found, whole = open_store(out), open_store(store_path).section("C2")
    assert found.section_names == ("C2",)
    section = found.section("C2")
    assert section.feature_keys == ("tiny_224um",)
    assert section.graph_keys == ("features_tiny_224um", "spatial")
    np.testing.assert_array_equal(section.features("tiny_224um"), whole.features("tiny_224um"))
    asked = fetched(web)
    assert not any("tiny_112um" in path or path.startswith("C3/") for path in asked)
    assert sorted(asked) == sorted(f"C2/{path}" for path in section.index.files)

    # The rest of the section comes to it later, and the folder is as one pulled at once.
    web.forget()
    report = pulled(web.url, out, sections=("C2",), features=("tiny",))  # the encoder's name
    assert report.features == ("C2/tiny_112um", "C2/tiny_224um")
    assert all("tiny_112um" in path for path in fetched(web))
    assert (report.n_files, report.n_there) == (len(fetched(web)), len(section.index.files))
    pulled(web.url, tmp_path / "once.zarr", sections=("C2",))
    assert tree(out) == tree(tmp_path / "once.zarr")
    assert {name: data for name, data in tree(out).items() if name != "zarr.json"} == {
        name: data for name, data in tree(store_path).items() if name.startswith("C2/")
    }


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_store_on_this_machine(
    is_packed: bool, store_path: Path, tmp_path: Path, tree: Tree, pack_by_hand: Any
) -> None:
    source = pack_by_hand(store_path, tmp_path / "a.zip") if is_packed else store_path
    pulled(source, tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == tree(store_path)


def test_a_broken_pull_goes_on_at_every_place(
    web: HttpRangeServer, store_path: Path, tmp_path: Path, tree: Tree
) -> None:
    n_files = sum(len(open_store(store_path).section(name).index.files) for name in ("C2", "C3"))
    out = tmp_path / "out.zarr"
    seen = set()
    total = n_broken = 0
    is_done = False
    while not is_done:
        web.forget()
        left = iter(range(37))
        web.refuse = lambda method, path, left=left: (
            403 if path.count("/") > 2 and next(left, None) is None else None
        )
        try:
            pulled(web.url, out)
        except StoreError:
            n_broken += 1
        else:
            is_done = True
        total += len(fetched(web))
        sections = open_store(out).section_names
        seen.add(sections)
        for name in sections:  # what has appeared is whole
            assert open_store(out).section(name).feature_keys == ("tiny_112um", "tiny_224um")
    assert seen == {(), ("C2",), ("C2", "C3")}
    assert n_broken > 5
    assert total == n_files + n_broken  # of each that was refused the server sent its refusal
    assert tree(out) == tree(store_path)


def test_what_was_damaged_between_two_pulls_is_fetched_again(
    web: HttpRangeServer, store_path: Path, tmp_path: Path, tree: Tree
) -> None:
    out = tmp_path / "out.zarr"
    web.refuse = lambda method, path: 403 if path.endswith("tiny_224um/zarr.json") else None
    with pytest.raises(StoreError, match="not allowed"):
        pulled(web.url, out)
    staged = out / ".unfinished/C2/.pulled"
    halves = [path for path in staged.rglob("*") if path.is_file()]
    halves[0].write_bytes(b"")
    (staged / "stray").write_bytes(b"x")
    web.refuse = None
    pulled(web.url, out)
    assert tree(out) == tree(store_path)


class TestRefusals:
    def test_what_is_there_is_not_written_over(
        self, web: HttpRangeServer, store_path: Path, tmp_path: Path, tree: Tree, add_features: Callable[..., Any],
        reseal: Callable[..., None],
    ) -> None:  # fmt: skip
        out = Path(shutil.copytree(store_path, tmp_path / "out.zarr"))

        def own(name: str) -> StoredSection:
            return open_store(out, is_read_only=False).section(name)

        add_features(own("C2"), seed=5, is_overwrite=True)
        reseal(out / "C3", lambda document: document["attributes"]["spam"]["meta"].update(donor="somebody"))
        before = tree(out)
        with pytest.raises(StoreError) as caught:
            pulled(web.url, out)
        words = ("features 'tiny_112um' of section 'C2'", "section 'C3': its donor", "another folder")
        assert [word for word in words if word not in str(caught.value)] == []
        assert tree(out) == before
        # What does not differ can still be had.
        assert pulled(web.url, out, sections=("C2",), features=("tiny_224um",)).n_files == 0

    def test_what_is_not_there(self, web: HttpRangeServer, tmp_path: Path) -> None:
        out = tmp_path / "out.zarr"
        with pytest.raises(StoreError, match=r"no sections \['C9'\] \(it has: C2, C3\)"):
            pulled(web.url, out, sections=("C9",))
        with pytest.raises(
            StoreError, match=r"features \['uni_v1'\] \(they have: tiny_112um of encoder tiny"
        ):
            pulled(web.url, out, features=("uni_v1",))
        with pytest.raises(StoreError, match=r"no store of spam"):
            pulled(f"{web.url}/C2/obsm", out)
        assert not out.exists()

    def test_a_folder_of_something_else(self, web: HttpRangeServer, tmp_path: Path) -> None:
        (tmp_path / "desk").mkdir()
        (tmp_path / "desk/thesis.tex").write_text("x")
        with pytest.raises(StoreError, match="is no store"):
            pulled(web.url, tmp_path / "desk")
        assert [path.name for path in (tmp_path / "desk").iterdir()] == ["thesis.tex"]
        assert web.requests == []

    def test_a_damaged_file_on_the_server(
        self, web: HttpRangeServer, store_path: Path, tmp_path: Path
    ) -> None:
        chunk = store_path / "C3/obsm/tiny_112um/c/0/0"
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
        with pytest.raises(StoreError, match=r"'C3/obsm/tiny_112um/c/0/0' .* is not what the index"):
            pulled(web.url, tmp_path / "out.zarr")
        assert open_store(tmp_path / "out.zarr").section_names == ("C2",)

    def test_a_section_that_is_being_written(self, web: HttpRangeServer, tmp_path: Path) -> None:
        out = tmp_path / "out.zarr"
        pulled(web.url, out, features=("tiny_112um",))
        lock = out / ".unfinished/C2/obsm/tiny_336um.lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps({"owner": "x", "machine": "another", "pid": 1}))
        with pytest.raises(StoreError, match=r"another process .*section 'C2'.*pull again"):
            pulled(web.url, out)


def test_files_are_no_news(web: HttpRangeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="spam")
    pulled(web.url, tmp_path / "out.zarr", sections=("C3",))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("spam")] == []


def test_what_was_overridden_is_told_on(
    store_path: Path, tmp_path: Path, reseal: Callable[..., None]
) -> None:
    words = {"licence": None, "clause": None, "message": "nobody stated it"}
    said, other, _ = overridden = [{"what": f"section {name!r}"} | words for name in ("C2", "C3", "C9")]
    reseal(
        store_path, lambda document: document["attributes"]["spam"].update(shared={"overridden": overridden})
    )
    for _ in range(2):
        pulled(store_path, tmp_path / "out.zarr", sections=("C2",))
    root = json.loads((tmp_path / "out.zarr/zarr.json").read_text())
    assert root["attributes"]["spam"]["shared"] == {"overridden": [said]}
    pulled(store_path, tmp_path / "out.zarr")
    root = json.loads((tmp_path / "out.zarr/zarr.json").read_text())
    assert root["attributes"]["spam"]["shared"] == {"overridden": [said, other]}
