"""Features in files as other programs write them are read whole; files that do not fit, or are unsafe, are refused."""

import math
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from foreign_layouts import (
    CLAM_COORDS,
    CORNERS,
    DIM,
    FEATURES,
    IDS,
    TRIDENT_COORDS,
    N,
    clam,
    clam_patches,
    faults,
    h5ad,
    lazyslide,
    npy,
    slide2vec,
    slide2vec_places,
    table,
    trident,
)

from spam.errors import ConfigError, MissingInputError, SectionError, SpamError
from spam.store.foreign_files import read_foreign_features


def test_trident(tmp_path: Path) -> None:
    found = read_foreign_features(trident(tmp_path / "C2.h5"))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 256.0)
    assert (found.name, found.kind, found.encoder_name) == ("C2.h5", "trident", "uni_v1")
    assert (found.tile_px, found.mpp, found.ids) == (512.0, None, None)


@pytest.mark.parametrize(
    ("coords", "side"),
    [
        ({**TRIDENT_COORDS, "patch_size_level0": 511}, 511.0),
        ({"patch_size": 256, "level0_magnification": 40, "target_magnification": 20}, 512.0),
        ({"patch_size": 256, "patch_level": 0}, 256.0),
        ({**CLAM_COORDS, "downsample": (4.0, 4.001)}, 256 * 4.0005),
        ({"patch_size": 256, "patch_level": 1, "downsample": 4.0, "custom_downsample": 2}, 2048.0),
    ],
)
def test_tile_size_of_corner_files(tmp_path: Path, coords: dict[str, Any], side: float) -> None:
    found = read_foreign_features(trident(tmp_path / "C2.h5", **coords))
    assert found.tile_px == pytest.approx(side, rel=1e-12)
    np.testing.assert_allclose(found.xy_px, CORNERS + side / 2, rtol=1e-12)


def test_leading_axis_half_precision_and_no_encoder(tmp_path: Path) -> None:
    half = FEATURES.astype(np.float16)
    path = trident(tmp_path / "C2.h5", features=half[None], corners=CORNERS[None])
    with h5py.File(path, "a") as file:
        file["features"].attrs["encoder"] = "None"  # as TRIDENT writes it
    found = read_foreign_features(path)
    np.testing.assert_array_equal(found.features, half.astype(np.float32))
    np.testing.assert_array_equal(found.xy_px, CORNERS + 256.0)
    assert found.encoder_name is None


def test_clam_takes_the_tile_size_from_its_coordinates(tmp_path: Path) -> None:
    found = read_foreign_features(clam(tmp_path / "C2.h5"), coordinates=clam_patches(tmp_path / "p.h5"))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 512.0)
    assert (found.kind, found.tile_px, found.encoder_name) == ("clam", 1024.0, None)


@pytest.mark.parametrize(
    ("dtype", "is_new"), [(torch.bfloat16, True), (torch.float64, True), (torch.float32, False)]
)
def test_clam_tensor(tmp_path: Path, dtype: torch.dtype, is_new: bool) -> None:
    tensor = torch.from_numpy(FEATURES).to(dtype)
    torch.save(tensor, tmp_path / "C2.pt", _use_new_zipfile_serialization=is_new)
    patches = clam_patches(tmp_path / "p.h5")
    found = read_foreign_features(tmp_path / "C2.pt", coordinates=patches)
    np.testing.assert_array_equal(found.features, tensor.float().numpy())
    np.testing.assert_array_equal(found.xy_px, CORNERS + 512.0)


@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_slide2vec(tmp_path: Path, ending: str) -> None:
    found = read_foreign_features(slide2vec(tmp_path, ending=ending), coordinates=slide2vec_places(tmp_path))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 224.0)
    assert (found.kind, found.encoder_name) == ("slide2vec", "virchow2")
    assert (found.tile_px, found.mpp) == (448.0, 0.25)


def test_slide2vec_sidecars_complete_each_other(tmp_path: Path) -> None:
    path, places = slide2vec(tmp_path, tile_size_lv0=None), slide2vec_places(tmp_path, mpp=None)
    found = read_foreign_features(path, coordinates=places)
    assert (found.tile_px, found.mpp) == (448.0, None)
    (tmp_path / "C2.x.meta.json").unlink()
    assert read_foreign_features(path, coordinates=places).encoder_name is None


@pytest.mark.parametrize("side", [448.0, 224.5])
def test_the_tile_size_of_an_option_makes_centres_of_corners(tmp_path: Path, side: float) -> None:
    """Issue 15: slide2vec's coordinates without their sidecar, and CLAM's features without their patches."""
    path, places = slide2vec(tmp_path, tile_size_lv0=None), slide2vec_places(tmp_path)
    (tmp_path / "C2.x.coordinates.meta.json").unlink()
    for file, coordinates in ((path, places), (clam(tmp_path / "C2.h5"), None)):
        text = faults(file, coordinates=coordinates)
        assert all(word in text for word in ("--tile-um", "--tile-px", "meta.json"))
        found = read_foreign_features(file, coordinates=coordinates, side_px=side)
        np.testing.assert_array_equal(found.xy_px, CORNERS + side / 2)
        assert found.tile_px == side
    centres = read_foreign_features(npy(tmp_path), coordinates=table(tmp_path), side_px=side)
    np.testing.assert_array_equal(centres.xy_px, CORNERS)


def test_npy_with_a_table(tmp_path: Path) -> None:
    found = read_foreign_features(npy(tmp_path), coordinates=table(tmp_path))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS.astype(np.float64))
    np.testing.assert_array_equal(found.ids, IDS)
    assert read_foreign_features(npy(tmp_path), coordinates=table(tmp_path, barcode=IDS)).xy_px is None
    x, y = CORNERS.T
    boxes = table(tmp_path, x0_he_px=x, y0_he_px=y, x1_he_px=x + 6, y1_he_px=y + 10)
    found = read_foreign_features(npy(tmp_path), coordinates=boxes)
    np.testing.assert_array_equal(found.xy_px, CORNERS + np.array([3.0, 5.0]))
    assert found.ids is None


def test_h5ad(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "C2.h5ad", spatial=CORNERS * 0.5, other=FEATURES[:, :2])
    found = read_foreign_features(path, key="other")
    np.testing.assert_array_equal(found.features, FEATURES[:, :2])
    np.testing.assert_array_equal(found.xy_px, CORNERS * 0.5)
    np.testing.assert_array_equal(found.ids, IDS)
    with pytest.raises(ConfigError, match=r"--key: other, uni"):
        read_foreign_features(path)
    with pytest.raises(ConfigError, match=r"'third'.*'other', 'uni'"):
        read_foreign_features(path, key="third")


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--key"):
        read_foreign_features(trident(tmp_path / "C2.h5"), key="uni")
    with pytest.raises(MissingInputError, match=r"gone\.csv \(--coordinates\)"):
        read_foreign_features(tmp_path / "C2.h5", coordinates=tmp_path / "gone.csv")


def test_all_faults_at_once(tmp_path: Path) -> None:
    broken = FEATURES.copy()
    broken[2, 1], broken[5, 0] = np.nan, np.inf
    text = faults(npy(tmp_path, broken), coordinates=table(tmp_path, id=["a", "b", "", "c", "c"]))
    for words in ("2 of 7 rows", "rows '2', '5'", "5 ids for 7 rows", "('c')", "1 are empty"):
        assert words in text
    centres = {"x": [1, 2, "?", 4, 5, 6, 7], "y": range(7)}
    assert "1 coordinates are not finite (rows '2')" in faults(
        npy(tmp_path), coordinates=table(tmp_path, **centres)
    )
    centres = {"x": [1, 1, 3, 4, 5, 6, 7], "y": [2, 2, 3, 4, 5, 6, 7]}
    assert "1 coordinates occur more than once" in faults(
        npy(tmp_path), coordinates=table(tmp_path, **centres)
    )


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (FEATURES[0], "(5,)"),
        (FEATURES[:0], "(0, 5)"),
        (FEATURES.astype(np.int32), "int32"),
        (np.full((N, DIM), 1e300), "float32"),
    ],
)
def test_arrays_that_are_no_features(tmp_path: Path, features: Any, words: str) -> None:
    assert words in faults(npy(tmp_path, features), coordinates=table(tmp_path))


def test_a_folder_is_not_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"^Not a file, but a folder: .* \(the features\)"):
        read_foreign_features(tmp_path)
    with pytest.raises(MissingInputError, match=r"^Not a file, but a folder: .* \(--coordinates\)"):
        read_foreign_features(npy(tmp_path), coordinates=tmp_path)


def test_missing_or_contradicting_coordinates(tmp_path: Path) -> None:
    assert "--coordinates" in faults(npy(tmp_path))
    assert "tile size is unknown" in faults(clam(tmp_path / "C2.h5"))
    assert "tile size is 0" in faults(
        trident(tmp_path / "f.h5", patch_size=0, level0_magnification=40, target_magnification=20)
    )
    reversed_corners = clam_patches(tmp_path / "p.h5", CORNERS[::-1])
    assert "other coordinates" in faults(tmp_path / "C2.h5", coordinates=reversed_corners)
    text = faults(slide2vec(tmp_path), coordinates=slide2vec_places(tmp_path, side=224))
    assert "448" in text
    assert "224" in text
    assert "shape (7,)" in faults(trident(tmp_path / "C2.h5", corners=CORNERS[:, 0]))
    np.savez(tmp_path / "c.npz", x=CORNERS[:, 0], y=CORNERS[:3, 1])
    assert "(3,)" in faults(slide2vec(tmp_path), coordinates=tmp_path / "c.npz")
    um = table(tmp_path, x_um=CORNERS[:, 0], y_um=CORNERS[:, 1])
    assert "'x_um', 'y_um'" in faults(npy(tmp_path), coordinates=um)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "{}" + " " * 2**24], ids=["cut", "deep", "long"])
def test_damaged_sidecar(tmp_path: Path, text: str) -> None:
    path = slide2vec(tmp_path)
    (tmp_path / "C2.x.meta.json").write_text(text)
    assert "C2.x.meta.json" in faults(path, coordinates=slide2vec_places(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("artifact_type", "slide_embeddings"), ("tile_size_lv0", -1)],
)
def test_sidecar_of_something_else(tmp_path: Path, name: str, value: Any) -> None:
    assert repr(value) in faults(slide2vec(tmp_path, **{name: value}), coordinates=slide2vec_places(tmp_path))


@pytest.mark.parametrize("value", ["448", True, [448]])
def test_an_entry_of_a_sidecar_that_is_no_number_is_named(tmp_path: Path, value: Any) -> None:
    text = faults(slide2vec(tmp_path, tile_size_lv0=value), coordinates=slide2vec_places(tmp_path))
    assert f"C2.x.meta.json: tile_size_lv0 is {value!r}" in text
    path = slide2vec(tmp_path, tile_size_lv0=None)
    text = faults(path, coordinates=slide2vec_places(tmp_path, side=value))
    assert f"C2.x.coordinates.meta.json: tile_size_lv0 is {value!r}" in text
    text = faults(path, coordinates=slide2vec_places(tmp_path, mpp=value))
    assert f"C2.x.coordinates.meta.json: base_spacing_um is {value!r}" in text


class Harm:
    """Makes a folder if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    torch.save(Harm(harm), tmp_path / "a.pt")
    torch.save(Harm(harm), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Harm(harm)))
    objects = np.array([Harm(harm)] * N, dtype=object)
    np.save(tmp_path / "d.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "e.npz", features=objects)
    torch.save(FEATURES, tmp_path / "f.pt")  # TRIDENT's .pt: a pickled array
    for name in ("a.pt", "b.pt", "c.pt", "d.npy", "e.npz", "f.pt"):
        text = faults(tmp_path / name)
        assert name in text
        assert "weights_only" not in text  # PyTorch's advice to switch the protection off
    assert not harm.exists()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"features": torch.ones(3)}, "dict"),
        (torch.ones(7, 5, dtype=torch.int64), "torch.int64"),
        (torch.ones(7, 5).to_sparse(), "(7, 5)"),
        (torch.zeros(1).expand(10**9, 10**6), "(1000000000, 1000000)"),
    ],
)
def test_tensors_that_are_no_features(tmp_path: Path, value: Any, words: str) -> None:
    torch.save(value, tmp_path / "C2.pt")
    assert words in faults(tmp_path / "C2.pt")


@pytest.mark.parametrize("kind", ["link", "soft", "raw", "virtual"])
def test_hdf5_that_refers_to_other_files(tmp_path: Path, kind: str) -> None:
    trident(tmp_path / "secret.h5")
    (tmp_path / "raw").write_bytes(FEATURES.tobytes())
    path = clam_patches(tmp_path / "C2.h5")
    with h5py.File(path, "a") as file:
        if kind == "link":
            file["features"] = h5py.ExternalLink("secret.h5", "features")
        elif kind == "soft":
            file["features"] = h5py.SoftLink("/coords")
        elif kind == "raw":
            raw = [(str(tmp_path / "raw"), 0, FEATURES.nbytes)]
            file.create_dataset("features", shape=(N, DIM), dtype="f4", external=raw)
        else:
            layout = h5py.VirtualLayout(shape=(N, DIM), dtype="f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "features", shape=(N, DIM))
            file.create_virtual_dataset("features", layout)
    expected = "int64 of shape" if kind == "soft" else "'features' refers to another file"
    assert expected in faults(path)


def _member(shape: tuple[int, ...], data: bytes) -> bytes:
    """Bytes of a .npy member of any claimed shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def test_claimed_sizes_are_checked_before_allocation(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", shape=(10**9, 1024), dtype="f4", chunks=(1, 1024))
        file.create_dataset("coords", shape=(10**9, 2), dtype="i8")
    assert "4,096,000,000,000 bytes" in faults(tmp_path / "a.h5")
    with h5py.File(h5ad(tmp_path / "b.h5ad"), "a") as file:
        del file["obs/_index"]
        file["obs"].create_dataset("_index", shape=(10**11,), dtype=h5py.string_dtype())
    assert "(100000000000,)" in faults(tmp_path / "b.h5ad", key="uni")
    lie = _member((10**9, 10**6), FEATURES.tobytes())
    (tmp_path / "c.npy").write_bytes(lie)
    assert "c.npy" in faults(tmp_path / "c.npy")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("features.npy", lie)
    assert "4,000,000,000,000,128 bytes" in faults(tmp_path / "d.npz")
    for name, member in (("e.npz", "features.npy"), ("f.pt", "x/data.pkl")):
        with (
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(member, "w", force_zip64=True) as stream,
        ):
            stream.write(_member((300, 2**18), b""))
            for _ in range(300):
                stream.write(bytes(2**20))
        assert "314,572,928 bytes" in faults(tmp_path / name)


def test_incomplete_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "C2.h5", "w") as file:
        features = file.create_dataset("features", shape=(N, DIM), chunks=(2, DIM), dtype="f4")
        features[:4] = FEATURES[:4]
        file.create_dataset("coords", data=CORNERS)
    assert "2 of 4 chunks" in faults(tmp_path / "C2.h5")
    for path in (trident(tmp_path / "a.h5"), npy(tmp_path), slide2vec(tmp_path)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SpamError, match=path.name):
            read_foreign_features(path)


def test_nodes_that_are_no_arrays(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("obs")
        file.create_group("obsm")
    with pytest.raises((ConfigError, SectionError), match=r"a\.h5"):
        read_foreign_features(tmp_path / "a.h5", key="uni")
    frame = pd.DataFrame(FEATURES, index=IDS, columns=list("abcde"))
    assert "obsm/frame" in faults(h5ad(tmp_path / "a.h5ad", frame=frame), key="frame")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_lazyslide(tmp_path: Path, zarr_format: int) -> None:
    path = lazyslide(tmp_path / "C2.zarr", zarr_format=zarr_format)
    found = read_foreign_features(path, key="uni_tiles")
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy_px, CORNERS + 256.0)
    assert (found.kind, found.encoder_name) == ("lazyslide", "uni")
    assert (found.tile_px, found.mpp, found.ids) == (512.0, 0.25, None)
    with pytest.raises(ConfigError, match=r"'plip_tiles', 'uni_tiles'.*--key"):
        read_foreign_features(path)
    with pytest.raises(ConfigError, match=r"not 'genes'.*--key"):
        read_foreign_features(path, key="genes")
    with pytest.raises(ConfigError, match="--coordinates"):
        read_foreign_features(path, key="uni_tiles", coordinates=table(tmp_path))


@pytest.mark.parametrize("mpp", [None, 0, math.nan, math.inf, "0.25"])
def test_a_pixel_size_of_lazyslide_that_is_none_is_unknown(tmp_path: Path, mpp: Any) -> None:
    found = read_foreign_features(lazyslide(tmp_path / "C2.zarr", mpp=mpp), key="uni_tiles")
    assert (found.mpp, found.tile_px) == (None, 512.0)


def test_damaged_zarr_of_lazyslide(tmp_path: Path) -> None:
    shapes = "shapes/tiles/shapes.parquet"
    for name, damage, wanted in (
        ("a", lambda path: (path / shapes).write_bytes(b"PAR1"), "not a complete Zarr"),
        ("b", lambda path: (path / shapes).unlink(), "not a complete Zarr"),
        ("c", lambda path: shutil.rmtree(path / "tables/uni_tiles/X"), "no dense array"),
        (
            "d",
            lambda path: shutil.rmtree(path / "tables/uni_tiles/X/c"),
            "lacks 1 of 1 chunks",
        ),
        ("e", lambda path: (path / "zarr.json").write_text("{"), "not a complete Zarr"),
    ):
        path = lazyslide(tmp_path / f"{name}.zarr")
        damage(path)
        assert re.search(wanted, faults(path, key="uni_tiles")), name
    wide = lazyslide(tmp_path / "wide.zarr")
    frame = pyarrow.parquet.read_table(wide / shapes).to_pandas()
    frame["geometry"] = [
        shape[:13] + np.frombuffer(shape[13:]).__mul__([1, 2] * 5).tobytes() for shape in frame["geometry"]
    ]
    frame.to_parquet(wide / shapes)
    assert "not squares" in faults(wide, key="uni_tiles")
    frame["geometry"] = [shape[:13] for shape in frame["geometry"]]
    frame.to_parquet(wide / shapes)
    assert "not rectangles" in faults(wide, key="uni_tiles")
    frame.iloc[1:].to_parquet(wide / shapes)
    assert "1 rows of table 'uni_tiles' have no tile" in faults(wide, key="uni_tiles")
