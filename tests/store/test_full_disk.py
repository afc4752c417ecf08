"""A disk that is full, or read-only: a clear error, what was whole stays whole, and the next run ends as if nothing was.

The disk is a small tmpfs of its own, so these tests need the right to mount (root); a machine without it skips them,
and CI must have it.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spam.store import create_store, open_store

ROWS = (np.arange(13 * 5, dtype=np.float32).reshape(13, 5) - 7) / 8
OTHER = ROWS * -2
PAGE = 4096  # what a file of a tmpfs takes at least


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "spam-test", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"a tmpfs cannot be mounted: {done.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small(small_shards):
    """Shards of two chunks, so that the features of a section have three files."""


class Ballast:
    """A file that leaves only some pages of the disk free."""

    def __init__(self, disk: Path) -> None:
        self._disk, self._file = disk, disk / "ballast"

    def leave(self, n_pages: int) -> None:
        self.drop()
        free = os.statvfs(self._disk).f_bavail * os.statvfs(self._disk).f_frsize
        with self._file.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - n_pages * PAGE)

    def drop(self) -> None:
        self._file.unlink(missing_ok=True)


def write_all(path, make_record, make_feature_meta, make_graph, fill) -> None:
    """Write what is not there yet."""
    store = create_store(path)
    for name in ("C2", "C3"):
        there = name in store.section_names
        section = store.section(name) if there else store.add_section(make_record(name=name))
        fill(section.feature_writer(make_feature_meta()), ROWS)
        if section.graph("spatial") is None:
            section.write_graph("spatial", make_graph())


def assert_whole(path, make_record, make_graph) -> None:
    """Compare all that can be read with what was to be written."""
    if not (path / "zarr.json").exists():
        return
    store, record = open_store(path), make_record()
    for name in store.section_names:
        section = store.section(name)
        np.testing.assert_array_equal(section.ids, record.ids)
        np.testing.assert_array_equal(section.counts().toarray(), record.counts.toarray())
        for key in section.feature_keys:
            np.testing.assert_array_equal(section.features(key), ROWS)
        graph = section.graph("spatial")
        if graph is not None:
            np.testing.assert_array_equal(graph.distances.toarray(), make_graph().distances.toarray())


def test_a_disk_that_fills_up_at_any_moment(
    disk, small, tmp_path, make_record, make_feature_meta, make_graph, fill, tree
):
    """Each run finds a few pages more than the last one and fails somewhere further on."""
    makers = make_record, make_feature_meta, make_graph, fill
    write_all(tmp_path / "unbroken", *makers)
    ballast, path = Ballast(disk), disk / "cohort.zarr"
    n_failures, n_pages = 0, 1
    for _ in range(400):
        ballast.leave(n_pages)
        try:
            write_all(path, *makers)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        else:
            break
        n_failures += 1
        n_pages += 1
        assert_whole(path, make_record, make_graph)
        assert not [file for file in path.rglob("*") if file.name.endswith((".partial", ".lock"))]
    assert n_failures > 11
    ballast.drop()
    write_all(path, *makers)
    assert tree(path) == tree(tmp_path / "unbroken")
    assert not (path / ".unfinished").exists()


@pytest.mark.parametrize("phase", ["chunk", "assembly", "index", "graph"])
def test_a_disk_that_is_full_in_one_phase(
    disk, small, tmp_path, make_record, make_feature_meta, make_graph, fill, tree, monkeypatch, phase
):
    """What is replaced stays as it was, or can be made again from what waits; nothing half-written is read."""
    makers = make_record, make_feature_meta, make_graph, fill
    path, ballast = disk / "cohort.zarr", Ballast(disk)
    write_all(path, *makers)
    section = open_store(path, is_read_only=False).section("C2")
    before = section.content_digest()
    new_meta = make_feature_meta(weights_sha256="01" * 32)

    def replace() -> None:
        section = open_store(path, is_read_only=False).section("C2")
        is_begun = section.unfinished_keys == ("tiny_112um",)
        is_new = section.feature_keys and section.feature_meta("tiny_112um").weights_sha256 == "01" * 32
        writer = section.feature_writer(new_meta, is_overwrite=not is_begun and not is_new)
        for number, chunk in enumerate(writer.pending):
            if phase == "chunk" and number == 3:
                ballast.leave(0)
            writer.write(chunk, OTHER[chunk])
        if phase == "assembly":
            ballast.leave(2)
        if phase == "index":
            ballast.leave(7)
        writer.finish()
        if phase == "graph":
            ballast.leave(9)
        section.write_graph("spatial", make_graph(k=2))

    with pytest.raises(OSError, match="No space left") as raised:
        replace()
    assert raised.value.errno == errno.ENOSPC
    reading = open_store(path).section("C2")
    if phase != "graph":
        assert reading.content_digest() == before
    rows = OTHER if phase == "graph" else ROWS
    for key in reading.feature_keys:
        np.testing.assert_array_equal(reading.features(key), rows)
    assert reading.feature_keys == ("tiny_112um",) or reading.unfinished_keys == ("tiny_112um",)
    ballast.drop()
    phase = "none"
    replace()

    store = create_store(tmp_path / "unbroken")
    for name in ("C2", "C3"):
        other = store.add_section(make_record(name=name))
        fill(
            other.feature_writer(new_meta if name == "C2" else make_feature_meta()),
            OTHER if name == "C2" else ROWS,
        )
        other.write_graph("spatial", make_graph(k=2) if name == "C2" else make_graph())
    assert tree(path) == tree(tmp_path / "unbroken")


def spam(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "spam.cli", *words], capture_output=True, text=True, check=False
    )


def test_a_store_that_cannot_be_written_is_told_by_the_command(
    disk, make_record, make_feature_meta, make_graph, fill, tree
):
    path = disk / "cohort.zarr"
    write_all(path, make_record, make_feature_meta, make_graph, fill)
    before = tree(path)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for write in (
        lambda: create_store(disk / "other.zarr"),
        lambda: open_store(path, is_read_only=False).add_section(make_record(name="D1")),
        lambda: open_store(path, is_read_only=False).section("C2").write_graph("late", make_graph()),
        lambda: (
            open_store(path, is_read_only=False).section("C2").feature_writer(make_feature_meta(key="b_1px"))
        ),
    ):
        with pytest.raises(OSError, match="Read-only file system") as raised:
            write()
        assert raised.value.errno == errno.EROFS
        assert raised.value.filename is not None
    done = spam("graph", "--store", str(path), "--k-spatial", "5")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Read-only file system; choose a path on a disk that can be written" in " ".join(
        done.stderr.split()
    )
    assert "cohort.zarr" in done.stderr
    assert_whole(path, make_record, make_graph)
    assert tree(path) == before


def test_a_full_disk_is_told_by_the_command(disk, make_record, make_feature_meta, make_graph, fill, tree):
    path, ballast = disk / "cohort.zarr", Ballast(disk)
    write_all(path, make_record, make_feature_meta, make_graph, fill)
    before = tree(path)
    ballast.leave(0)
    done = spam("graph", "--store", str(path), "--k-spatial", "5")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device; make room on this disk, then run the same command" in " ".join(
        done.stderr.split()
    )
    assert {
        name: content for name, content in tree(path).items() if not name.startswith(".unfinished")
    } == before
    ballast.drop()
    assert spam("graph", "--store", str(path), "--k-spatial", "5", "--overwrite").returncode == 0
    assert open_store(path).section("C2").graph("spatial").meta.k == 5
