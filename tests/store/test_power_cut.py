"""A power cut loses what was not brought to the disk: no index may name that, in whatever order a disk writes."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from spam.store import create_store, open_store

ROWS = (np.arange(13 * 5, dtype=np.float32).reshape(13, 5) - 7) / 8


class Disk:
    """What would be left after a power cut in this moment, as far as POSIX promises it.

    The bytes of a file are there once the file was synced, a name in a folder once the folder was.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._digests: dict[int, str] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._unsynced_index: Path | None = None
        self.n_indexes = self.n_chunks = 0
        self._fsync, self._replace, self._rename = os.fsync, os.replace, os.rename
        patch.setattr(os, "fsync", self.fsync)
        patch.setattr(os, "replace", self.replace)
        patch.setattr(os, "rename", self.rename)

    def fsync(self, handle: int) -> None:
        path, number = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle).st_ino
        if path.is_dir():
            self._names[number] = {child.name: child.stat().st_ino for child in path.iterdir()}
            if self._unsynced_index is not None and self._unsynced_index.parent == path:
                self._unsynced_index = None
        else:
            self._digests[number] = hashlib.sha256(path.read_bytes()).hexdigest()
        self._fsync(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Nothing is moved away while an older index, which may name it, could come back."""
        assert self._unsynced_index is None
        self._rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        assert self._unsynced_index is None
        assert self._digests.get(source.stat().st_ino) == hashlib.sha256(source.read_bytes()).hexdigest()
        if target.name == "zarr.json":
            named = json.loads(source.read_bytes())["attributes"]["spam"]
            for name in named.get("sections", ()):
                number = (target.parent / name).stat().st_ino
                found = self._names.get(target.parent.stat().st_ino, {}).get(name)
                assert found == number, f"section {name!r} can be lost"
            for name, entry in named.get("files", {}).items():
                self.assert_there(target.parent, name, entry["sha256"])
            self._unsynced_index = target
            self.n_indexes += 1
        self.n_chunks += target.suffix == ".rows"
        self._replace(source, target)

    def assert_there(self, section: Path, name: str, sha256: str) -> None:
        """Find the bytes of a file, and each name on the way to it from the section."""
        folder = section
        for part in Path(name).parts:
            number = (folder / part).stat().st_ino
            assert self._names.get(folder.stat().st_ino, {}).get(part) == number, (
                f"the name {name!r} can be lost"
            )
            folder /= part
        assert self._digests.get(folder.stat().st_ino) == sha256, f"bytes of {name!r} can be lost"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's names of open files")
def test_no_index_names_what_a_power_cut_can_lose(
    tmp_path, make_record, make_feature_meta, make_graph, fill, small_shards, monkeypatch
):
    disk = Disk(monkeypatch)
    path = tmp_path / "cohort.zarr"
    section = create_store(path).add_section(make_record())
    fill(section.feature_writer(make_feature_meta()), ROWS)
    section.write_graph("spatial", make_graph())
    section.write_graph("features_tiny_112um", make_graph(k=2))
    n_chunks, n_indexes = disk.n_chunks, disk.n_indexes
    assert n_chunks == 5
    fill(section.feature_writer(make_feature_meta(weights_sha256="01" * 32), is_overwrite=True), -ROWS)
    assert disk.n_chunks == 2 * n_chunks
    assert disk.n_indexes > n_indexes
    open_store(path, is_read_only=False).add_section(make_record(donor="another"), is_overwrite=True)
    assert open_store(path).section("C2").meta.donor == "another"
