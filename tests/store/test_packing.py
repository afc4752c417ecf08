"""A packed store opens in place and unpacks to the same bytes; nothing in a ZIP file leads out of the folder."""

import shutil
import zipfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from shared_stores import make_store, tree

from spam.errors import MissingInputError, OutputExistsError, StoreError
from spam.schemas.store_config import PackConfig, UnpackConfig, VerifyConfig
from spam.store import open_store
from spam.store.packing import pack, unpack
from spam.store.verifying import verify


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("pack") / "s.zarr", "S1", "S2")


@pytest.fixture
def packed(store: Path, tmp_path: Path) -> Path:
    return pack(PackConfig(store=store, out=tmp_path / "s.zarr.zip")).out


def test_pack_and_unpack_are_inverse(store, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == tree(store)
        assert archive.namelist() == sorted(archive.namelist())
    report = unpack(UnpackConfig(packed=packed))
    assert report.out == tmp_path / "s.zarr"
    assert tree(report.out) == tree(store)
    again = pack(PackConfig(store=report.out, out=tmp_path / "again.zip")).out
    assert again.read_bytes() == packed.read_bytes()


def test_missing_folders_are_made(store, tmp_path):
    out = tmp_path / "new" / "s.zarr.zip"
    pack(PackConfig(store=store, out=out))
    unpack(UnpackConfig(packed=out, out=tmp_path / "other" / "s.zarr"))
    assert tree(tmp_path / "other" / "s.zarr") == tree(store)


def test_packed_store_opens_in_place(store, packed):
    own, found = open_store(store).section("S1"), open_store(packed).section("S1")
    np.testing.assert_array_equal(found.features("tiny_112um"), own.features("tiny_112um"))
    assert (found.counts() != own.counts()).nnz == 0
    assert not verify(VerifyConfig(store=packed)).faults


def test_unfinished_features_are_left_out(store, tmp_path):
    shutil.copytree(store, tmp_path / "u.zarr")
    section = open_store(tmp_path / "u.zarr", is_read_only=False).section("S1")
    writer = section.feature_writer(section.feature_meta("tiny_112um"), is_overwrite=True)
    writer.write(writer.pending[0], np.ones((12, 11), np.float32))
    report = pack(PackConfig(store=tmp_path / "u.zarr"))
    assert report.out == tmp_path / "u.zarr.zip"
    assert report.left_out == ("S1/tiny_112um (unfinished)",)
    assert open_store(report.out).section("S1").feature_keys == ("tiny_224um",)


def test_nothing_is_overwritten(store, packed, tmp_path):
    with pytest.raises(OutputExistsError, match=r"s\.zarr\.zip"):
        pack(PackConfig(store=store, out=packed))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="out"):
        unpack(UnpackConfig(packed=packed, out=tmp_path / "out"))
    with pytest.raises(MissingInputError, match=r"gone\.zip"):
        unpack(UnpackConfig(packed=tmp_path / "gone.zip"))


@pytest.mark.parametrize("name", ["../evil", "/tmp/spam-evil", "S1/../../evil", "C:\\evil", "S1/obsm/evil"])
def test_entries_that_no_index_names_are_not_written(packed, tmp_path, name):
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"evil")
    before = set(tmp_path.rglob("*"))
    out = unpack(UnpackConfig(packed=packed, out=tmp_path / "s.zarr")).out
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(out) for path in new)
    assert not any("evil" in path.name for path in new)
    assert not Path("/tmp/spam-evil").exists()


def rewritten(packed: Path, out: Path, **changed: bytes) -> Path:
    """Copy a ZIP file with other contents of some entries."""
    with zipfile.ZipFile(packed) as archive, zipfile.ZipFile(out, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, changed.get(name.replace("/", "__"), archive.read(name)))
    return out


def test_verify_of_a_packed_store_does_not_look_in_the_current_folder(packed, tmp_path, monkeypatch):
    name = "S1/obsm/new/c/0/0"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"row" + google_crc32c.value(b"row").to_bytes(4, "little"))
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"evil")
    assert [fault.path for fault in verify(VerifyConfig(store=packed)).faults] == [name]


def test_damaged_or_compressed_entries_are_refused(packed, tmp_path):
    chunk = "S1/obsm/tiny_112um/c/0/0"
    with zipfile.ZipFile(packed) as archive:
        data = archive.read(chunk)
    for number, other in enumerate((data[:-1] + b"?", data[:-1])):
        bad = rewritten(packed, tmp_path / f"{number}.zip", S1__obsm__tiny_112um__c__0__0=other)
        with pytest.raises(StoreError, match="tiny_112um/c/0/0"):
            unpack(UnpackConfig(packed=bad, out=tmp_path / "x.zarr"))
        assert not (tmp_path / "x.zarr").exists()
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", "{}" * 1000)
    with pytest.raises(StoreError, match="compressed"):
        unpack(UnpackConfig(packed=tmp_path / "c.zip", out=tmp_path / "x.zarr"))
