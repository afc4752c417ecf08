"""Push then pull is the identity over S3, HTTP (pull) and the Hub; data pushed by others are kept; a killed transfer resumes."""

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_server import HubServer
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server
from shared_stores import change_feature, make_store, tree

from spam.atomic import claimed
from spam.errors import StoreError
from spam.schemas.store_config import InfoConfig, PullConfig, PushConfig, SelectConfig, VerifyConfig
from spam.store import destinations, open_store
from spam.store.copying import select
from spam.store.describing import describe
from spam.store.publishing import TransferReport, pull, push
from spam.store.verifying import verify

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


class Place:
    """A destination: its address, its files, and its server (none for a folder)."""

    def __init__(self, address: str, server: CountingServer | None) -> None:
        self.address, self.server = address, server

    def files(self) -> dict[str, bytes]:
        """Every file below the address but the README and git's own."""
        if isinstance(self.server, HubServer):
            found = self.server.repositories["org/cohort"].files
            return {name: data for name, data in found.items() if name not in (".gitattributes", "README.md")}
        if self.server is None:
            return tree(Path(self.address))
        files = fsspec.filesystem("s3")
        files.invalidate_cache()
        root = self.address.removeprefix("s3://")
        found = {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}
        return {name: data for name, data in found.items() if name != "README.md"}

    def readme(self) -> str:
        if isinstance(self.server, HubServer):
            return self.server.repositories["org/cohort"].files["README.md"].decode()
        with fsspec.open(f"{self.address}/README.md", "rt", encoding="utf-8") as file:
            return file.read()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("push") / "s.zarr", "S1", "S2")


LOCAL = pytest.mark.parametrize("place", ["folder", "hub"], indirect=True)
"""For tests of what does not depend on fsspec's file system: moto needs 30 ms for a file."""
PLANNED = pytest.mark.parametrize(
    "place", ["folder", pytest.param("hub", marks=pytest.mark.slow)], indirect=True
)
"""For tests of what is decided before anything is sent."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    yield
    forget_connections()


@pytest.fixture(params=["folder", "s3", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with ExitStack() as stack:
        if request.param == "folder":
            yield Place(str(tmp_path / "shared.zarr"), None)
        elif request.param == "s3":
            bucket = stack.enter_context(S3Server())
            point_at_s3(bucket, monkeypatch)
            yield Place("s3://cohorts/team/shared.zarr", bucket)
        else:
            hub = stack.enter_context(HubServer())
            point_at_hub(hub, monkeypatch)
            yield Place("hf://datasets/org/cohort", hub)


def pushed(store: Path, to: Place | Path | str, **options: Any) -> TransferReport:
    address = to.address if isinstance(to, Place) else to
    return push(PushConfig(store=store, to=address, i_have_the_right_to_share=True, **options))


def pulled(place: Place | str, out: Path, **options: Any) -> TransferReport:
    address = place.address if isinstance(place, Place) else place
    return pull(PullConfig(store=address, out=out, **options))


def part_of(store: Path, out: Path, **options: Any) -> Path:
    select(SelectConfig(store=store, out=out, **options))
    return out


def test_push_then_pull_is_the_identity(store, place, tmp_path):
    report = pushed(store, place)
    assert place.files() == tree(store)
    assert report.sections == ("S1", "S2")
    assert (report.commit is not None) == isinstance(place.server, HubServer)
    pulled(place, tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == tree(store)
    assert not verify(VerifyConfig(store=tmp_path / "out.zarr")).faults
    found = open_store(place.address).section("S2")
    np.testing.assert_array_equal(
        found.features("tiny_112um"), open_store(store).section("S2").features("tiny_112um")
    )
    assert "S2: 23 spots" in describe(InfoConfig(store=place.address)).names_only()
    name = place.address if place.server is not None else "shared.zarr"  # no folder of this machine
    assert f"spam store pull {name} cohort.zarr" in place.readme()
    assert str(tmp_path) not in place.readme()


def test_pull_over_http(store, tmp_path):
    with HttpRangeServer(store.parent) as server:
        address = f"{server.url}/{store.name}"
        pulled(address, tmp_path / "out.zarr")
        assert tree(tmp_path / "out.zarr") == tree(store)
        server.forget()
        pulled(address, tmp_path / "part.zarr", sections=("S2",), features=("tiny_224um",))
        part = open_store(tmp_path / "part.zarr")
        assert part.section_names == ("S2",)
        assert part.section("S2").feature_keys == ("tiny_224um",)
        assert not any("S1/" in path or "tiny_112um/c" in path for path in server.sent_by_path)
        with pytest.raises(StoreError, match="can only be read"):
            pushed(store, address)


@LOCAL
def test_second_push_sends_nothing(store, place):
    pushed(store, place)
    before = place.files()
    report = pushed(store, place)
    assert (report.n_files, report.added, report.replaced) == (0, (), ())
    assert place.files() == before


@LOCAL
def test_what_others_pushed_stays(store, place, tmp_path):
    a = part_of(store, tmp_path / "a.zarr", features=("tiny_112um",))
    b = part_of(store, tmp_path / "b.zarr", features=("tiny_224um",))
    pushed(a, place)
    report = pushed(b, place)
    assert "S1: features 'tiny_224um'" in report.added
    assert place.files() == tree(store)
    for name in ("S1", "S2"):
        assert f"| {name} | tiny\\_224um" in place.readme()


@LOCAL
def test_what_differs_is_replaced_only_with_overwrite(store, place, tmp_path):
    pushed(store, place)
    other = shutil.copytree(store, tmp_path / "o.zarr")
    change_feature(other, "S1", "tiny_112um")
    before = place.files()
    with pytest.raises(StoreError, match=r"S1: features 'tiny_112um'.*\n?.*--overwrite"):
        pushed(other, place)
    assert place.files() == before
    report = pushed(other, place, overwrite=True)
    assert report.replaced == ("S1: features 'tiny_112um'",)
    found = open_store(place.address)
    assert (found.section("S1").features("tiny_112um") == 1).all()
    assert found.section("S1").graph_keys == ("features_tiny_224um", "spatial")  # one graph is out of date
    assert found.section("S1").feature_keys == ("tiny_112um", "tiny_224um")
    assert found.section("S2").index.digest == open_store(store).section("S2").index.digest
    assert not verify(VerifyConfig(store=place.address)).faults


@PLANNED
def test_counts_can_be_taken_back(store, place):
    pushed(store, place)
    report = pushed(store, place, without_counts=True, overwrite=True)
    assert report.replaced == ("section 'S1'", "section 'S2'")
    found = open_store(place.address).section("S1")
    assert (found.meta.has_counts, found.meta.redacted) == (False, ("counts",))
    assert not any("/X" in name for name in place.files())
    np.testing.assert_array_equal(
        found.features("tiny_112um"), open_store(store).section("S1").features("tiny_112um")
    )


@PLANNED
def test_features_of_others_stay_when_their_section_is_replaced(store, place, tmp_path):
    """Only those of the same spots: a copy in another order does not get them."""
    a = part_of(store, tmp_path / "a.zarr", sections=("S1",), features=("tiny_112um",))
    b = part_of(store, tmp_path / "b.zarr", sections=("S1",), features=("tiny_224um",))
    pushed(a, place, licence="CC-BY-4.0")
    with pytest.raises(StoreError, match="different licence"):
        pushed(b, place)
    assert pushed(b, place, overwrite=True).replaced == ("section 'S1'",)
    found, own = open_store(place.address).section("S1"), open_store(store).section("S1")
    assert found.feature_keys == own.feature_keys
    assert found.quality_keys == own.quality_keys
    assert found.graph_keys == own.graph_keys
    np.testing.assert_array_equal(found.features("tiny_112um"), own.features("tiny_112um"))
    report = pushed(b, place, overwrite=True, without_coordinates=True)
    assert report.replaced == ("section 'S1'", "S1: features 'tiny_112um'")
    assert open_store(place.address).section("S1").feature_keys == ("tiny_224um",)
    assert not any("tiny_112um" in name for name in place.files())
    assert not verify(VerifyConfig(store=place.address)).faults


@PLANNED
def test_replaced_features_take_their_quality_with_them(store, place, tmp_path):
    other = shutil.copytree(store, tmp_path / "o.zarr")
    change_feature(other, "S1", "tiny_112um")
    assert open_store(other).section("S1").quality_keys == ("tiny_224um_quality",)
    pushed(store, place)
    pushed(other, place, overwrite=True)
    assert open_store(place.address).section("S1").quality_keys == ("tiny_224um_quality",)


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)  # the Hub refuses the commit, see below
def test_sections_of_a_push_at_the_same_time_stay(store, place, tmp_path, monkeypatch):
    parts = [part_of(store, tmp_path / name, sections=(name,)) for name in ("S1", "S2")]
    pushed(parts[0], place)
    real, is_first = destinations.Destination.send, True

    def send(*arguments: Any) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            pushed(parts[1], place)
        return real(*arguments)

    monkeypatch.setattr(destinations.Destination, "send", send)
    pushed(part_of(store, tmp_path / "S3.zarr", sections=("S1",)), place)
    assert open_store(place.address).section_names == ("S1", "S2")
    assert place.files() == tree(store)


def test_push_to_a_folder_replaces_an_index_in_one_step(store, tmp_path, monkeypatch):
    shared = tmp_path / "shared.zarr"
    pushed(part_of(store, tmp_path / "a.zarr", features=("tiny_112um",)), shared)
    before = (shared / "zarr.json").stat().st_ino, (shared / "S1/zarr.json").stat().st_ino
    pushed(store, shared)
    assert (shared / "S1/zarr.json").stat().st_ino != before[1]  # renamed into place
    assert (shared / "zarr.json").stat().st_ino == before[0]
    assert not list(shared.rglob("*.partial"))


def test_push_to_a_folder_spares_the_work_of_other_processes(store, tmp_path, monkeypatch):
    monkeypatch.setattr("spam.store.writing._PROBE_S", 0.1)
    shared = tmp_path / "shared.zarr"
    pushed(part_of(store, tmp_path / "a.zarr", sections=("S1",), features=("tiny_112um",)), shared)
    section = open_store(shared, is_read_only=False).section("S1")
    meta = dataclasses.replace(section.feature_meta("tiny_112um"), key="new_112um", chunk_rows=8)
    writer = section.feature_writer(meta)
    writer.write(writer.chunks[0], np.ones((8, meta.dim), np.float32))
    with section.lock("new_112um"), pytest.raises(StoreError, match="S1/new_112um.*another process"):
        pushed(store, shared)
    pushed(store, shared)
    section.refresh()
    assert section.feature_keys == ("tiny_112um", "tiny_224um")
    assert section.unfinished_keys == ("new_112um",)
    assert section.feature_writer(meta).pending == writer.chunks[1:]


def test_killed_push_is_resumed(store, place):
    if place.server is None:
        Path(place.address, "S1/obsm/tiny_112um/c/0").mkdir(parents=True)
        for name in ("zarr.json", "S1/obsm/tiny_112um/c/0/0"):
            shutil.copy(store / name, Path(place.address) / name)
    else:
        puts = 0

        def refuse(method: str, path: str) -> int | None:
            nonlocal puts
            puts += method == "PUT"
            return 403 if method == "PUT" and puts > 20 else None

        place.server.refuse = refuse
        with pytest.raises(StoreError, match="failed"):
            pushed(store, place)
        place.server.refuse = None
        place.server.forget()
    report = pushed(store, place)
    n_files = len(tree(store)) - 4
    if place.server is None:
        assert report.n_files == n_files - 1
    elif isinstance(place.server, S3Server):
        assert n_files - 20 <= report.n_files < n_files
    else:
        sent = [exchange.path for exchange in place.server.requests if exchange.method == "PUT"]
        assert len(sent) < sum(not data[:512].isascii() for data in tree(store).values())
    assert place.files() == tree(store)


def test_killed_replacement_is_resumed_and_spares_sections_of_similar_names(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s.zarr", "S1", "S12", has_graphs=False)
    with S3Server() as bucket:
        point_at_s3(bucket, monkeypatch)
        place = Place("s3://cohorts/team/shared.zarr", bucket)
        pushed(store, place)
        bucket.refuse = lambda method, path: 403 if method == "PUT" and ".locks" not in path else None
        options = {"overwrite": True, "without_counts": True}
        with pytest.raises(StoreError, match="failed"):
            pushed(store, place, **options)
        bucket.refuse = None
        assert "S1/zarr.json" not in place.files()
        pushed(store, place, **options)
        found = open_store(place.address)
        assert [found.section(name).meta.has_counts for name in ("S1", "S12")] == [False, False]
        assert not any("/X/" in name for name in place.files())
        assert not verify(VerifyConfig(store=place.address)).faults


def test_killed_pull_is_resumed(store, tmp_path):
    with HttpRangeServer(store.parent) as server:
        address = f"{server.url}/{store.name}"
        server.refuse = lambda method, path: 403 if "S1/obsp" in path else None
        with pytest.raises(StoreError, match="S1/obsp"):
            pulled(address, tmp_path / "out.zarr")
        server.refuse = None
        n_there = len(tree(tmp_path / "out.zarr"))
        assert n_there > 10
        report = pulled(address, tmp_path / "out.zarr")
        assert report.n_files <= len(tree(store)) - n_there
        assert tree(tmp_path / "out.zarr") == tree(store)
        assert pulled(address, tmp_path / "out.zarr").n_files == 0


def test_pull_adds_features_later_and_overwrites_nothing(store, tmp_path):
    pulled(str(store), tmp_path / "out.zarr", features=("tiny_112um",))
    report = pulled(str(store), tmp_path / "out.zarr")
    assert "S2: features 'tiny_224um'" in report.added
    assert tree(tmp_path / "out.zarr") == tree(store)
    change_feature(tmp_path / "out.zarr", "S1", "tiny_112um")
    before = tree(tmp_path / "out.zarr")
    with pytest.raises(StoreError, match="S1: features 'tiny_112um'"):
        pulled(str(store), tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == before


@LOCAL
def test_damaged_files_are_not_shared(store, place, tmp_path):
    other = shutil.copytree(store, tmp_path / "o.zarr")
    chunk = other / "S1/obsm/tiny_112um/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="tiny_112um/c/0/0"):
        pushed(other, place)
    assert "S1/zarr.json" not in place.files()


def test_licences_guard_the_push(store, tmp_path):
    out = tmp_path / "shared.zarr"
    with pytest.raises(StoreError, match=r"section 'S1'.*not stated[\s\S]*--i-have-the-right-to-share"):
        push(PushConfig(store=store, to=out, licence=None))
    with pytest.raises(StoreError) as caught:
        push(PushConfig(store=store, to=out, licence="CC-BY-4.0"))
    assert "section 'S1'" not in str(caught.value)
    assert "features 'tiny_112um'" in str(caught.value)
    assert not out.exists()
    report = pushed(store, out, licence="CC-BY-4.0")
    assert len(report.overridden) == 2
    assert "features 'tiny\\_112um': the licence" in (out / "README.md").read_text()
    assert open_store(out).section("S1").meta.licence == "CC-BY-4.0"
    assert not verify(VerifyConfig(store=out)).faults


def test_nothing_of_a_redacted_copy_is_left(store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    killed, running = (tmp_path / "tmp" / f"spam-push-{name}" for name in ("killed", "running"))
    shutil.copytree(store, killed / "store")
    (killed / ".lock").touch()
    with claimed(running, ""):
        pushed(store, tmp_path / "out.zarr", without_coordinates=True)
        assert list((tmp_path / "tmp").iterdir()) == [running]
    assert open_store(tmp_path / "out.zarr").section("S1").meta.redacted == ("coordinates", "ids")


def test_places_of_something_else_are_refused(store, place):
    if place.server is None:
        Path(place.address).mkdir()
        Path(place.address, "thesis.tex").write_text("x")
    elif isinstance(place.server, S3Server):
        fsspec.filesystem("s3").pipe_file("cohorts/team/shared.zarr/thesis.tex", b"x")
    else:
        pushed(store, place)
        place.server.repositories["org/cohort"].record({"thesis.tex": b"x"})
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        pushed(store, place)
    assert set(place.files()) == {"thesis.tex"}


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("https://host/a.zarr", "can only be read"),
        ("hf://org/model", "hf://datasets/org/name"),
        ("hf://user:s3cret@datasets/name", "'hf://datasets/name'"),
        ("{store}", "the source itself"),
        ("{store}/zarr.json", "is a file"),
    ],
)
def test_addresses_that_are_no_places(store, to, words):
    with pytest.raises(StoreError, match=words):
        pushed(store, to.format(store=store))


def test_hub_refusals(store, tmp_path, monkeypatch):
    with HubServer() as hub:
        point_at_hub(hub, monkeypatch)
        pushed(store, "hf://datasets/org/cohort")
        assert hub.repositories["org/cohort"].is_private
        hub.repositories["org/cohort"].is_private = False
        hub.repositories["org/cohort"].is_gated = True
        point_at_hub(hub, monkeypatch, token=hub.stranger_token)
        with pytest.raises(StoreError, match=r"gated.*datasets/org/cohort"):
            pulled("hf://datasets/org/cohort", tmp_path / "out.zarr")
        with pytest.raises(StoreError, match="token"):
            pushed(
                part_of(store, tmp_path / "a.zarr", genes=("G1",)), "hf://datasets/org/cohort", overwrite=True
            )
        with pytest.raises(StoreError, match="datasets/org/gone"):
            pulled("hf://datasets/org/gone", tmp_path / "out.zarr")


def test_commits_of_others_are_not_undone(store, tmp_path, monkeypatch):
    with HubServer() as hub:
        point_at_hub(hub, monkeypatch)
        pushed(part_of(store, tmp_path / "a.zarr", sections=("S1",)), "hf://datasets/org/cohort")
        repository = hub.repositories["org/cohort"]

        def race(method: str, path: str) -> None:
            if "/preupload/" in path:
                repository.record({**repository.files, "note.txt": b"meanwhile"})

        hub.refuse = race
        with pytest.raises(StoreError, match="was changed while"):
            pushed(store, "hf://datasets/org/cohort")
        assert "note.txt" in repository.files


def test_a_redacted_push_is_the_same_each_time(store, tmp_path, monkeypatch):
    """So a killed one is resumed, and one with more features is added; another user or address has another order."""
    options = {"without_coordinates": True, "without_counts": True}
    pushed(part_of(store, tmp_path / "a.zarr", features=("tiny_112um",)), tmp_path / "out.zarr", **options)
    (tmp_path / "out.zarr/S2/zarr.json").unlink()  # as if killed before its end
    report = pushed(store, tmp_path / "out.zarr", **options)
    assert report.replaced == ()
    assert "S1: features 'tiny_224um'" in report.added
    pushed(store, tmp_path / "whole.zarr", **options)
    assert not verify(VerifyConfig(store=tmp_path / "out.zarr")).faults
    before = tree(tmp_path / "out.zarr")
    assert pushed(store, tmp_path / "out.zarr", **options).n_files == 0
    assert tree(tmp_path / "out.zarr") == before

    def order(address: Path) -> list[int]:
        found = open_store(address).section("S2").features("tiny_112um").tolist()
        return [open_store(store).section("S2").features("tiny_112um").tolist().index(row) for row in found]

    assert sorted(order(tmp_path / "out.zarr")) == list(range(23))
    assert order(tmp_path / "out.zarr") != order(tmp_path / "whole.zarr")
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "other cache"))
    with pytest.raises(StoreError, match="--overwrite"):
        pushed(store, tmp_path / "out.zarr", **options)
    key = tmp_path / "other cache/shuffle.key"
    assert (len(key.read_bytes()), key.stat().st_mode & 0o777) == (32, 0o600)


def test_what_can_identify_a_person_is_said_before_a_push(store, tmp_path, caplog):
    caplog.set_level("WARNING", logger="spam")
    pushed(store, tmp_path / "a.zarr")
    (line,) = [record.getMessage() for record in caplog.records if "identify" in record.getMessage()]
    assert "S1 of donor d1" in line
    assert "coordinates and spot ids, an overview image of the slide (--without-coordinates)" in line
    assert "raw counts of 17 genes (--without-counts)" in line
    caplog.clear()
    pushed(store, tmp_path / "b.zarr", without_coordinates=True, without_counts=True)
    (line,) = [record.getMessage() for record in caplog.records if "identify" in record.getMessage()]
    assert not any(word in line for word in ("coordinates and", "image of the slide (", "raw counts"))


def test_two_pushes_of_a_section_into_an_object_store_wait_for_each_other(store, tmp_path, monkeypatch):
    """The second finds the section as the first left it; it adds its features, and no file is of both."""
    monkeypatch.setattr(destinations, "_PAUSE_S", 0.05)
    one = part_of(store, tmp_path / "one.zarr", sections=("S1",))
    parts = [part_of(one, tmp_path / f"{um}.zarr", features=(f"tiny_{um}um",)) for um in (112, 224)]
    with S3Server() as bucket:
        point_at_s3(bucket, monkeypatch)
        place = Place("s3://cohorts/team/shared.zarr", bucket)
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(pushed, part, place) for part in parts]
            errors = [error for run in runs if (error := run.exception()) is not None]
        assert all("was changed meanwhile" in str(error) for error in errors)
        assert len(errors) < 2
        for part in parts:
            pushed(part, place)
        assert place.files() == tree(one)
        assert not verify(VerifyConfig(store=place.address)).faults


@pytest.mark.parametrize("error", [PermissionError("no"), KeyboardInterrupt()])
def test_a_push_that_ends_while_it_claims_leaves_no_claim(tmp_path, monkeypatch, error):
    files, place = fsspec.filesystem("memory"), destinations.Destination("memory://claims/s.zarr", tmp_path)

    def fail(path: str) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(files, "modified", fail)
        expected = StoreError if isinstance(error, PermissionError) else KeyboardInterrupt
        with pytest.raises(expected), place._locked("S1"):
            pass
    assert files.find("/claims") == []


def test_a_claim_may_be_deleted_while_it_is_read(tmp_path, monkeypatch):
    files, place = fsspec.filesystem("memory"), destinations.Destination("memory://claims/s.zarr", tmp_path)
    files.pipe_file("/claims/s.zarr/.locks/S1/theirs", b"")
    real = files.modified

    def modified(path: str) -> Any:
        if path.endswith("theirs"):
            files.rm_file(path)
        return real(path)

    monkeypatch.setattr(files, "modified", modified)
    with place._locked("S1"):
        (claim,) = files.find("/claims")
        assert claim.startswith("/claims/s.zarr/.locks/S1/")
    assert files.find("/claims") == []


def test_a_claim_of_a_killed_push_is_named_and_taken_over(store, tmp_path, monkeypatch):
    monkeypatch.setattr(destinations, "_PAUSE_S", 0.05)
    monkeypatch.setattr(destinations, "LOCK_WAIT_S", 0.1)
    one = part_of(store, tmp_path / "one.zarr", sections=("S1",))
    with S3Server() as bucket:
        point_at_s3(bucket, monkeypatch)
        place = Place("s3://cohorts/team/shared.zarr", bucket)
        files = fsspec.filesystem("s3")
        claim = "cohorts/team/shared.zarr/.locks/S1/abc"
        files.pipe_file(claim, b"")
        with pytest.raises(
            StoreError, match=rf"'S1' at 's3://.* pushed by another process.*delete s3://{claim}"
        ):
            pushed(one, place)
        files.invalidate_cache()
        assert files.find("cohorts/team/shared.zarr/.locks") == [claim]
        monkeypatch.setattr(destinations, "_CLAIM_LASTS", timedelta(0))
        pushed(one, place)
        assert place.files() == tree(one)
