"""Stores of every version of the format that was ever released are read, and hold what was written."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from spam.schemas.store_config import UnpackConfig, ValidateConfig, VerifyConfig
from spam.schemas.store_meta import STORE_VERSION
from spam.sharing import unpack, validate, verify
from spam.store import open_store

FOLDERS = sorted(Path(__file__).parent.glob("v*"))
FORMATS = ("float16", "float32", "bfloat16")


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def archive(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_version_has_an_archive():
    assert [folder.name for folder in FOLDERS] == [f"v{version}" for version in range(1, STORE_VERSION + 1)]


@pytest.mark.parametrize("is_packed", [True, False])
def test_archives_hold_what_was_written(archive, tmp_path, is_packed):
    path = archive / "archive.zarr.zip"
    if not is_packed:
        unpack(UnpackConfig(packed=path, out=tmp_path / "archive.zarr"))
        path = tmp_path / "archive.zarr"
    expected = np.load(archive / "expected.npz")
    said = json.loads((archive / "expected.json").read_text(encoding="utf-8"))
    store = open_store(path)
    assert list(store.section_names) == said["sections"]
    for name in said["sections"]:
        section = store.section(name)
        truth = {
            key: expected[f"{name}/{key}"] for key in ("ids", "genes", "counts", "xy_px", "label", "quality")
        }
        assert section.meta.donor == "donor é"
        assert section.meta.licence == "CC-BY-4.0"
        for key in ("ids", "genes", "xy_px"):
            np.testing.assert_array_equal(getattr(section, key), truth[key])
        for key in ("label", "quality"):
            np.testing.assert_array_equal(section.obs[key], truth[key])
        np.testing.assert_array_equal(section.counts().toarray(), truth["counts"])
        np.testing.assert_array_equal(
            section.counts(["GENE7", "GENE2"]).toarray(), truth["counts"][:, [7, 2]]
        )
        for dtype in FORMATS:
            np.testing.assert_array_equal(section.features(f"tiny_{dtype}"), expected[f"{name}/{dtype}"])
            assert section.feature_meta(f"tiny_{dtype}").encoder == said["card"]
        graph = section.graph("spatial")
        rows = np.arange(section.n_spots)[:, None]
        found = graph.distances.toarray()[rows, expected[f"{name}/neighbours"]]
        np.testing.assert_array_equal(found, expected[f"{name}/distances"])
        assert graph.distances.nnz == expected[f"{name}/distances"].size
        np.testing.assert_array_equal(section.overview().image, expected[f"{name}/overview"])


def test_archives_are_valid_and_open_in_anndata(archive, tmp_path):
    packed = archive / "archive.zarr.zip"
    assert validate(ValidateConfig(store=packed)).faults == ()
    assert verify(VerifyConfig(store=packed)).faults == ()
    unpack(UnpackConfig(packed=packed, out=tmp_path / "archive.zarr"))
    expected = np.load(archive / "expected.npz")
    found = anndata.read_zarr(tmp_path / "archive.zarr" / "A")
    np.testing.assert_array_equal(found.X.toarray(), expected["A/counts"])
    np.testing.assert_array_equal(found.obsm["tiny_float32"], expected["A/float32"])
    bits = found.obsm["tiny_bfloat16"].astype(np.uint32) << 16  # docs/format.md: the bits of bfloat16
    np.testing.assert_array_equal(bits.view(np.float32), expected["A/bfloat16"])
