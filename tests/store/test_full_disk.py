"""A disk that is full, or read-only: a clear error, what was whole stays whole, and the next run ends as if nothing was.

The disk is a separate small tmpfs, so these tests need the right to mount (root); a machine without it skips them,
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
PAGE = 4096  # what a file of a tmpfs takes at least


@pytest.fixture
def tables(make_tables, make_meta):
    return make_tables(make_meta())


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


def write_all(path, add, make_feature_meta, make_graph, fill) -> None:
    """Write what is not there yet."""
    store = create_store(path)
    for name in ("C2", "C3"):
        there = name in store.section_names
        section = store.section(name) if there else add(store, name=name)
        fill(section.feature_writer(make_feature_meta()), ROWS)
        if section.graph("spatial") is None:
            section.write_graph("spatial", make_graph())


def assert_whole(path, tables, make_graph) -> None:
    """Compare all that can be read with what was to be written."""
    if not (path / "zarr.json").exists():
        return
    store = open_store(path)
    for name in store.section_names:
        section = store.section(name)
        np.testing.assert_array_equal(section.ids, tables["ids"])
        np.testing.assert_array_equal(section.counts().toarray(), tables["counts"].toarray())
        for key in section.feature_keys:
            np.testing.assert_array_equal(section.features(key), ROWS)
        graph = section.graph("spatial")
        if graph is not None:
            np.testing.assert_array_equal(graph.distances.toarray(), make_graph().distances.toarray())


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_at_any_moment(
    disk, tmp_path, add, tables, make_feature_meta, make_graph, fill, tree, step
):
    """Each run finds a few pages more than the last one and fails somewhere further on."""
    makers = add, make_feature_meta, make_graph, fill
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
        n_pages += step
        assert_whole(path, tables, make_graph)
        assert not list(path.rglob("*.partial"))
    assert n_failures > 33 / step
    ballast.drop()
    write_all(path, *makers)
    assert tree(path) == tree(tmp_path / "unbroken")
    assert not list(path.glob(".unfinished-*"))


def test_read_only_folder(disk, add, tables, make_feature_meta, make_graph, fill, tree):
    path = disk / "cohort.zarr"
    write_all(path, add, make_feature_meta, make_graph, fill)
    before = tree(path)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for write in (
        lambda: create_store(disk / "other.zarr"),
        lambda: add(open_store(path, is_read_only=False), name="D1"),
        lambda: open_store(path, is_read_only=False).section("C2").write_graph("late", make_graph()),
        lambda: (
            open_store(path, is_read_only=False).section("C2").feature_writer(make_feature_meta(key="b_1px"))
        ),
    ):
        with pytest.raises(OSError, match="Read-only file system") as raised:
            write()
        assert raised.value.errno == errno.EROFS
        assert raised.value.filename is not None
    assert_whole(path, tables, make_graph)
    assert tree(path) == before


def test_command_says_what_to_do_on_a_full_disk(disk, add, make_feature_meta, make_graph, fill, tree):
    path, ballast = disk / "cohort.zarr", Ballast(disk)
    write_all(path, add, make_feature_meta, make_graph, fill)
    before = tree(path)
    ballast.leave(0)
    command = [sys.executable, "-P", "-m", "spam.cli", "graph", "--store", str(path), "--k-spatial", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in " ".join(done.stderr.split())
    assert tree(path) == before
