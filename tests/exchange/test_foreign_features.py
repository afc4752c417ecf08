"""Features of other programs, in files laid out as those programs write them, read back whole; and files that lie."""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spam.errors import ConfigError, MissingInputError, SectionError, SpamError
from spam.exchange import read_foreign_features
from spam.exchange.claims import claim_fault

N, DIM = 7, 5
FEATURES = np.random.default_rng(11).normal(size=(N, DIM)).astype(np.float32)
CORNERS = np.array(
    [[0, 0], [512, 0], [1024, 0], [0, 512], [512, 512], [1024, 512], [3, 1031]], dtype=np.int64
)
IDS = np.array([f"s{row}" for row in range(N)])
TRIDENT_COORDS = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "C2",
    "savetodir": "/somebody/20x_256px_0px_overlap",
    "level0_width": 9274,
    "level0_height": 9911,
}
CLAM_COORDS = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (4.0, 4.0),
    "downsampled_level_dim": np.array([2318, 2477]),
    "level_dim": (2318, 2477),
    "name": "C2",
    "save_path": "/somebody/patches",
}


def write_h5(
    path: Path, *, chunk: int, attributes: dict[str, dict[str, Any]] | None = None, **arrays: Any
) -> Path:
    """Write datasets as both programs do: growing along the first axis, in chunks of `chunk` rows."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            dataset = file.create_dataset(
                name,
                shape=values.shape,
                maxshape=(None, *values.shape[1:]),
                chunks=(chunk, *values.shape[1:]),
                dtype=values.dtype,
            )
            dataset[:] = values
            dataset.attrs.update((attributes or {}).get(name, {}))
    return path


def trident(path: Path, features: Any = FEATURES, corners: Any = CORNERS, **coords: Any) -> Path:
    named = {"name": "C2", "savetodir": "/somebody/features_uni_v1", "encoder": "uni_v1"}
    attributes = {"features": named, "coords": coords or TRIDENT_COORDS}
    return write_h5(path, chunk=1, attributes=attributes, features=features, coords=corners)


def clam(path: Path) -> Path:
    return write_h5(path, chunk=32, features=FEATURES, coords=CORNERS.astype(np.int32))


def clam_patches(path: Path, corners: Any = CORNERS) -> Path:
    return write_h5(path, chunk=32, attributes={"coords": CLAM_COORDS}, coords=corners)


def slide2vec(folder: Path, *, ending: str = ".pt", **stated: Any) -> Path:
    path = folder / f"C2.x{ending}"
    if ending == ".pt":
        torch.save(torch.from_numpy(FEATURES), path)
    else:
        np.savez_compressed(path, features=FEATURES, tile_index=np.arange(N))
    sidecar = {
        "sample_id": "C2.x", "artifact_type": "tile_embeddings", "feature_dim": DIM, "num_tiles": N,
        "encoder_name": "virchow2", "tile_size_lv0": 448, "coordinates_npz_path": "/etc/passwd", **stated,
    }  # fmt: skip
    path.with_name("C2.x.meta.json").write_text(json.dumps(sidecar))
    return path


def slide2vec_places(folder: Path, *, side: Any = 448, mpp: Any = 0.25) -> Path:
    path = folder / "C2.x.coordinates.npz"
    np.savez_compressed(
        path,
        tile_index=np.arange(N, dtype=np.int32),
        x=CORNERS[:, 0],
        y=CORNERS[:, 1],
        tissue_fractions=np.ones(N, dtype=np.float32),
    )
    meta = {"slide": {"base_spacing_um": mpp}, "tiling": {"tile_size_lv0": side, "n_tiles": N}}
    path.with_name("C2.x.coordinates.meta.json").write_text(json.dumps(meta))
    return path


def npy(folder: Path, features: Any = FEATURES) -> Path:
    np.save(folder / "f.npy", features)
    return folder / "f.npy"


def table(folder: Path, **columns: Any) -> Path:
    pd.DataFrame(columns or {"spot_id": IDS, "x": CORNERS[:, 0], "y": CORNERS[:, 1]}).to_csv(
        folder / "t.csv", index=False
    )
    return folder / "t.csv"


def h5ad(path: Path, **obsm: Any) -> Path:
    adata = anndata.AnnData(
        X=np.zeros((N, 3), dtype=np.float32), obs=pd.DataFrame(index=IDS), obsm={"uni": FEATURES, **obsm}
    )
    adata.write_h5ad(path)
    return path


# What is read


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


# Which kind


def test_what_could_be_several_kinds_is_not_guessed(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(FEATURES), tmp_path / "C2.pt")
    with pytest.raises(
        ConfigError, match=r"may come from clam or slide2vec.*--kind clam or --kind slide2vec"
    ):
        read_foreign_features(tmp_path / "C2.pt")
    odd = write_h5(
        tmp_path / "o.h5", chunk=1, attributes={"coords": {"mpp": 0.5}}, features=FEATURES, coords=CORNERS
    )
    with pytest.raises(ConfigError, match=r"may come from trident or clam.*attributes mpp"):
        read_foreign_features(odd)


def test_another_kind_than_the_content(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not of the kind 'clam'.*TRIDENT.*--kind trident"):
        read_foreign_features(trident(tmp_path / "C2.h5"), kind="clam")
    with pytest.raises(ConfigError, match=r"not of the kind 'h5ad'.*NumPy"):
        read_foreign_features(npy(tmp_path), kind="h5ad")


def test_unknown_content(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("x,y\n")
    with pytest.raises(SectionError, match=r"neither HDF5, NumPy nor PyTorch.*numpy\.save"):
        read_foreign_features(tmp_path / "a.h5")
    with pytest.raises(SectionError, match=r"HDF5 with coords in it"):
        read_foreign_features(clam_patches(tmp_path / "p.h5"))
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(SectionError, match="no features of a known kind"):
        read_foreign_features(tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(SectionError, match="no features of a known kind"):
        read_foreign_features(tmp_path / "c.pt")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no file .*a\.h5"):
        read_foreign_features(tmp_path / "a.h5")
    with pytest.raises(MissingInputError, match=r"no file .*t\.csv"):
        read_foreign_features(npy(tmp_path), coordinates=tmp_path / "t.csv")


def test_options_that_would_change_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--key 'uni'.*of the kind npy"):
        read_foreign_features(npy(tmp_path), coordinates=table(tmp_path), key="uni")
    with pytest.raises(ConfigError, match=r"leave out --coordinates"):
        read_foreign_features(h5ad(tmp_path / "a.h5ad"), coordinates=table(tmp_path), key="uni")


@pytest.mark.parametrize("key", [None, "unl", "../X", "spatial"])
def test_h5ad_key_is_named(tmp_path: Path, key: str | None) -> None:
    with pytest.raises(ConfigError, match=r"obsm holds 'b', 'uni': choose with --key"):
        read_foreign_features(h5ad(tmp_path / "a.h5ad", b=FEATURES, spatial=CORNERS), key=key)


# What does not fit


def faults(path: Path, **options: Any) -> str:
    with pytest.raises(SectionError) as caught:
        read_foreign_features(path, **options)
    return str(caught.value)


def test_all_faults_at_once(tmp_path: Path) -> None:
    broken = FEATURES.copy()
    broken[2, 1], broken[5, 0] = np.nan, np.inf
    text = faults(
        npy(tmp_path, broken),
        coordinates=table(tmp_path, id=["a", "b", "", "c", "c"], x=[1, 2, "?", 4, 1], y=[1, 2, 3, 4, 1]),
    )
    for words in (
        "2 of 7 rows of the features hold NaN",
        "rows '2', '5'",
        "5 ids for 7 rows",
        "1 empty ids",
        "1 ids more than once ('c')",
        "5 coordinates for 7 rows",
        "1 coordinates that are no finite numbers (rows '2')",
        "1 places more than once (first (1.0, 1.0))",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (FEATURES[0], r"shape (5,) (one vector for the whole slide?)"),
        (FEATURES.reshape(N, 1, DIM), "shape (7, 1, 5)"),
        (FEATURES[:0], "at least one tile"),
        (FEATURES[:, :0], "at least one tile"),
        (FEATURES.astype(np.int32), "type int32, expected floating-point"),
        (FEATURES.astype(np.complex64), "type complex64"),
        (np.full((N, DIM), 1e300), "what float32 cannot hold"),
    ],
)
def test_arrays_that_are_no_features(tmp_path: Path, features: Any, words: str) -> None:
    assert words in faults(npy(tmp_path, features), coordinates=table(tmp_path))


def test_nothing_says_where(tmp_path: Path) -> None:
    assert "nothing says which tile a row belongs to" in faults(npy(tmp_path))
    assert "tiles/<sample>.coordinates.npz" in faults(slide2vec(tmp_path))
    assert "nothing says how large a tile is" in faults(clam(tmp_path / "C2.h5"))
    assert "nothing says how large" in faults(trident(tmp_path / "f.h5", savetodir="a", patch_size="None"))
    text = faults(npy(tmp_path), coordinates=table(tmp_path, x_um=CORNERS[:, 0], y_um=CORNERS[:, 1]))
    assert "neither by id nor by place" in text
    assert "'x_um', 'y_um'" in text


def test_side_that_is_none(tmp_path: Path) -> None:
    path = trident(tmp_path / "C2.h5", patch_size=0, level0_magnification=40, target_magnification=20)
    assert "side of 0 px" in faults(path)


def test_coordinates_of_another_slide(tmp_path: Path) -> None:
    path = clam(tmp_path / "C2.h5")
    assert "other coordinates" in faults(path, coordinates=clam_patches(tmp_path / "p.h5", CORNERS[::-1]))
    assert "other coordinates" in faults(path, coordinates=table(tmp_path))
    text = faults(slide2vec(tmp_path), coordinates=slide2vec_places(tmp_path, side=224))
    assert "side is 448 according to C2.x.meta.json and 224" in text


def test_coordinates_of_a_wrong_shape(tmp_path: Path) -> None:
    flat = trident(tmp_path / "C2.h5", corners=CORNERS[:, 0])
    assert "coordinates of shape (7,)" in faults(flat)
    places = tmp_path / "c.npz"
    np.savez(places, x=CORNERS[:, 0], y=CORNERS[:3, 1])
    assert "two lists of one length" in faults(slide2vec(tmp_path), coordinates=places)
    assert "there is no 'y.npy'" in faults(slide2vec(tmp_path), coordinates=_npz(tmp_path, x=CORNERS[:, 0]))
    assert "can be told apart (npy)" in faults(slide2vec(tmp_path), coordinates=npy(tmp_path))


def _npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "n.npz", **arrays)
    return folder / "n.npz"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"artifact_type": "slide_embeddings"}, "holds 'slide_embeddings'"),
        ({"tile_size_lv0": -1}, "'tile_size_lv0' is -1"),
        ({"tile_size_lv0": "448"}, "'tile_size_lv0' is '448'"),
        ({"tile_size_lv0": True}, "'tile_size_lv0' is True"),
    ],
)
def test_sidecar_with_other_contents(tmp_path: Path, stated: dict[str, Any], words: str) -> None:
    assert words in faults(slide2vec(tmp_path, **stated), coordinates=slide2vec_places(tmp_path))


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, " " * (2**24 + 1)])
def test_sidecar_that_is_none(tmp_path: Path, text: str) -> None:
    path = slide2vec(tmp_path)
    (tmp_path / "C2.x.meta.json").write_text(text)
    assert "C2.x.meta.json" in faults(path, coordinates=slide2vec_places(tmp_path))


# Files that would do harm


class Harm:
    """Makes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    torch.save(Harm(harm), tmp_path / "a.pt")
    torch.save(Harm(harm), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Harm(harm)))
    for name in ("a.pt", "b.pt"):
        assert "no PyTorch file that can be read safely" in faults(tmp_path / name, kind="clam")
    assert "no features of a known kind" in faults(tmp_path / "c.pt", kind="clam")
    objects = np.array([Harm(harm)] * N, dtype=object)
    np.save(tmp_path / "d.npy", objects, allow_pickle=True)
    assert "one .npy array" in faults(tmp_path / "d.npy")
    np.savez(tmp_path / "e.npz", features=objects)
    assert "holds Python objects" in faults(tmp_path / "e.npz")
    assert not harm.exists()


def test_trident_tensor_file_is_explained(tmp_path: Path) -> None:
    torch.save(FEATURES, tmp_path / "C2.pt")  # as `--save_as pt` does: a pickled array
    text = faults(tmp_path / "C2.pt", kind="clam")
    assert "TRIDENT's .pt is a pickled NumPy array" in text
    assert "weights_only" not in text


# What PyTorch says when it takes the time to check a sparse tensor.
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"features": torch.ones(3)}, "a dict"),
        (torch.ones(7, 5, dtype=torch.int64), "type torch.int64"),
        (torch.ones(7, 5).to_sparse(), "layout torch.sparse_coo"),
        (torch.zeros(1).expand(10**9, 10**6), "claims more than its 4 bytes"),
    ],
)
def test_tensors_that_are_no_features(tmp_path: Path, value: Any, words: str) -> None:
    torch.save(value, tmp_path / "C2.pt")
    assert words in faults(tmp_path / "C2.pt", kind="clam")


@pytest.mark.parametrize("kind", ["link", "soft", "raw", "virtual"])
def test_hdf5_that_leads_elsewhere(tmp_path: Path, kind: str) -> None:
    trident(tmp_path / "secret.h5")
    (tmp_path / "raw").write_bytes(FEATURES.tobytes())
    path = clam_patches(tmp_path / "C2.h5")
    with h5py.File(path, "a") as file:
        group = file.create_group("deep")  # even where nobody looks
        if kind == "link":
            file["features"] = h5py.ExternalLink("secret.h5", "features")
        elif kind == "soft":
            file["features"] = h5py.SoftLink("/deep")
        elif kind == "raw":
            file.create_dataset(
                "features", shape=(N, DIM), dtype="f4", external=[(str(tmp_path / "raw"), 0, 140)]
            )
        else:
            layout = h5py.VirtualLayout(shape=(N, DIM), dtype="f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "features", shape=(N, DIM))
            group.create_virtual_dataset("features", layout)
    text = faults(path)
    assert "may lie in other files" in text
    assert "features (" in text


@pytest.mark.parametrize("chunk", [None, (1, 1024)])
def test_hdf5_of_a_huge_claim(tmp_path: Path, chunk: Any) -> None:
    with h5py.File(tmp_path / "C2.h5", "w") as file:
        file.create_dataset("features", shape=(10**9, 1024), dtype="f4", chunks=chunk)
        file.create_dataset("coords", shape=(10**9, 2), dtype="i8", chunks=None if chunk is None else (64, 2))
    assert "of shape (1000000000, 1024) claims 4,096,000,000,000 bytes but takes up 0" in faults(
        tmp_path / "C2.h5"
    )


def test_h5ad_of_a_huge_index(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad")
    with h5py.File(path, "a") as file:
        del file["obs/_index"]
        file["obs"].create_dataset("_index", shape=(10**11,), dtype=h5py.string_dtype())
    with pytest.raises(SectionError, match=r"_index' of shape \(100000000000,\) claims"):
        read_foreign_features(path, key="uni")


def test_interrupted_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "C2.h5", "w") as file:
        features = file.create_dataset("features", shape=(N, DIM), chunks=(2, DIM), dtype="f4")
        features[:4] = FEATURES[:4]
        file.create_dataset("coords", data=CORNERS)
    assert "2 of the 4 chunks of 'features' were written" in faults(tmp_path / "C2.h5")


def test_damaged_files(tmp_path: Path) -> None:
    whole = trident(tmp_path / "C2.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as HDF5" in faults(tmp_path / "cut.h5")
    whole = npy(tmp_path).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    assert "cannot be read as one .npy array" in faults(tmp_path / "cut.npy")
    whole = slide2vec(tmp_path).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:-40])
    with pytest.raises(SpamError):
        read_foreign_features(tmp_path / "cut.pt", kind="clam")


def _member(shape: tuple[int, ...], data: bytes) -> bytes:
    """Bytes of a .npy member of any claimed shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def test_numpy_of_a_huge_claim(tmp_path: Path) -> None:
    lie = _member((10**9, 10**6), FEATURES.tobytes())
    (tmp_path / "a.npy").write_bytes(lie)
    assert "cannot be read as one .npy array" in faults(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", lie)
    assert "claims 4,000,000,000,000,128 bytes but holds 268" in faults(tmp_path / "a.npz")


def test_compressed_bombs(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w", force_zip64=True) as file,
    ):
        file.write(_member((300, 2**18), b""))
        for _ in range(300):
            file.write(bytes(2**20))
    assert "claims 314,572,928 bytes but takes up" in faults(tmp_path / "a.npz")
    (tmp_path / "a.npz").rename(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("x/data.pkl", b"")
    assert "claims 314,572,928 bytes but takes up" in faults(tmp_path / "a.zip", kind="clam")


def test_claims() -> None:
    assert claim_fault(2**28, 0) is None
    assert claim_fault(2**28 + 1, 0) is not None
    assert claim_fault(10**12, 10**10) is None
    assert claim_fault(10**12 + 1, 10**10) is not None


def test_no_anndata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("obs")
        file.create_group("obsm")
    assert "is no AnnData file" in faults(tmp_path / "a.h5", key="uni")


def test_table_of_features(tmp_path: Path) -> None:
    frame = pd.DataFrame(FEATURES, index=IDS, columns=list("abcde"))
    assert "'obsm/frame' is a group, not an array" in faults(
        h5ad(tmp_path / "a.h5ad", frame=frame), key="frame"
    )
