"""Features of other programs, in files laid out as those programs write them, are read back whole."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from foreign_layouts import (
    CLAM_COORDS,
    CORNERS,
    FEATURES,
    IDS,
    TRIDENT_COORDS,
    clam,
    clam_patches,
    h5ad,
    npy,
    slide2vec,
    slide2vec_places,
    table,
    trident,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spam.exchange import read_foreign_features


def test_trident(tmp_path: Path) -> None:
    path = trident(tmp_path / "C2.h5")
    found = read_foreign_features(path)
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 256.0)
    assert (found.kind, found.encoder_name, found.tile_px, found.mpp, found.ids) == (
        "trident",
        "uni_v1",
        512.0,
        None,
        None,
    )
    assert (found.source.name, found.source.n_bytes) == ("C2.h5", path.stat().st_size)
    assert found.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("coords", "side"),
    [
        ({**TRIDENT_COORDS, "patch_size_level0": 511}, 511.0),
        ({"patch_size": 256, "level0_magnification": 40, "target_magnification": 20}, 512.0),
        ({"patch_size": 256, "patch_level": 0}, 256.0),  # of CLAM's coordinates, without the downsampling
        (CLAM_COORDS, 1024.0),
        ({**CLAM_COORDS, "downsample": (4.0, 4.001)}, 256 * 4.0005),
        ({"patch_size": 256, "patch_level": 1, "downsample": 4.0, "custom_downsample": 2}, 2048.0),
    ],
)
def test_side_of_corner_files(tmp_path: Path, coords: dict[str, Any], side: float) -> None:
    found = read_foreign_features(trident(tmp_path / "C2.h5", **coords))
    assert found.tile_px == pytest.approx(side, rel=1e-12)
    np.testing.assert_allclose(found.xy_px, CORNERS + side / 2, rtol=1e-12)


def test_encoder_that_trident_did_not_know(tmp_path: Path) -> None:
    path = trident(tmp_path / "C2.h5")
    with h5py.File(path, "a") as file:
        file["features"].attrs["encoder"] = "None"  # so its writer spells it
    assert read_foreign_features(path).encoder_name is None


def test_leading_axis_and_half_precision(tmp_path: Path) -> None:
    half = FEATURES.astype(np.float16)
    found = read_foreign_features(trident(tmp_path / "C2.h5", features=half[None], corners=CORNERS[None]))
    np.testing.assert_array_equal(found.features, half.astype(np.float32))
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.xy_px, CORNERS + 256.0)


def test_clam_takes_the_side_from_its_coordinates(tmp_path: Path) -> None:
    found = read_foreign_features(clam(tmp_path / "C2.h5"), coordinates=clam_patches(tmp_path / "p.h5"))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 512.0)
    assert (found.kind, found.tile_px, found.encoder_name) == ("clam", 1024.0, None)


@pytest.mark.parametrize("is_new", [True, False], ids=["torch 1.6 and later", "torch before 1.6"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_clam_tensor(tmp_path: Path, dtype: torch.dtype, is_new: bool) -> None:
    tensor = torch.from_numpy(FEATURES).to(dtype)
    torch.save(tensor, tmp_path / "C2.pt", _use_new_zipfile_serialization=is_new)
    found = read_foreign_features(
        tmp_path / "C2.pt", kind="clam", coordinates=clam_patches(tmp_path / "p.h5")
    )
    np.testing.assert_array_equal(found.features, tensor.float().numpy())
    np.testing.assert_array_equal(found.xy_px, CORNERS + 512.0)


@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_slide2vec(tmp_path: Path, ending: str) -> None:
    found = read_foreign_features(slide2vec(tmp_path, ending=ending), coordinates=slide2vec_places(tmp_path))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 224.0)
    assert (found.kind, found.encoder_name, found.tile_px, found.mpp) == (
        "slide2vec",
        "virchow2",
        448.0,
        0.25,
    )


def test_slide2vec_sidecars_complete_each_other(tmp_path: Path) -> None:
    found = read_foreign_features(
        slide2vec(tmp_path, tile_size_lv0=None), coordinates=slide2vec_places(tmp_path, mpp=None)
    )
    assert (found.tile_px, found.mpp) == (448.0, None)
    found = read_foreign_features(slide2vec(tmp_path), coordinates=slide2vec_places(tmp_path, side=None))
    assert found.tile_px == 448.0
    (tmp_path / "C2.x.meta.json").unlink()
    found = read_foreign_features(
        tmp_path / "C2.x.pt", kind="slide2vec", coordinates=slide2vec_places(tmp_path)
    )
    assert (found.encoder_name, found.tile_px) == (None, 448.0)
    assert any("no sidecar" in note for note in found.notes)


def test_npy_with_a_table(tmp_path: Path) -> None:
    found = read_foreign_features(npy(tmp_path), coordinates=table(tmp_path))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS.astype(np.float64))
    np.testing.assert_array_equal(found.ids, IDS)
    assert (found.kind, found.tile_px, found.mpp) == ("npy", None, None)


def test_npy_with_ids_or_boxes_alone(tmp_path: Path) -> None:
    found = read_foreign_features(npy(tmp_path), coordinates=table(tmp_path, barcode=IDS))
    np.testing.assert_array_equal(found.ids, IDS)
    assert found.xy_px is None
    x, y = CORNERS.T
    boxes = table(tmp_path, x0_he_px=x, y0_he_px=y, x1_he_px=x + 6, y1_he_px=y + 10)
    found = read_foreign_features(npy(tmp_path), coordinates=boxes)
    np.testing.assert_array_equal(found.xy_px, CORNERS + np.array([3.0, 5.0]))
    assert found.ids is None


def test_h5ad(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "C2.h5ad", spatial=CORNERS * 0.5, other=FEATURES[:, :2])
    found = read_foreign_features(path, key="uni")
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS * 0.5)
    np.testing.assert_array_equal(found.ids, IDS)
    assert found.kind == "h5ad"
    np.testing.assert_array_equal(read_foreign_features(path, key="other").features, FEATURES[:, :2])


def test_h5ad_without_places(tmp_path: Path) -> None:
    found = read_foreign_features(h5ad(tmp_path / "C2.h5ad"), key="uni")
    assert found.xy_px is None
    np.testing.assert_array_equal(found.ids, IDS)


@given(
    features=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=13), elements=st.floats(-9, 9, width=32)
    )
)
def test_whatever_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, features: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    ids = table(folder, id=[f"r{row}" for row in range(len(features))])
    np.testing.assert_array_equal(
        read_foreign_features(npy(folder, features), coordinates=ids).features, features
    )
