"""Small files of features in the layouts of other programs, for the tests of `spam.store.foreign_files`."""

import json
import struct
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
import zarr

from spam.errors import SectionError
from spam.store.foreign_files import read_foreign_features

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


def lazyslide(path: Path, *, side: float = 512.0, zarr_format: Any = 3, mpp: Any = 0.25) -> Path:
    """Write what wsidata 0.12.0 writes, as far as features depend on it: two tables, the shapes in another order."""
    root = zarr.create_group(path, zarr_format=zarr_format, attributes={"slide_properties": {"mpp": mpp}})
    for key, width in (("uni_tiles", DIM), ("plip_tiles", DIM - 2)):
        facts = {
            "encoding-type": "anndata",
            "region": "tiles",
            "region_key": "library_id",
            "instance_key": "tile_id",
        }
        group = root.create_group(f"tables/{key}", attributes=facts)
        group.create_array("X", data=FEATURES[:, :width])
        group.create_array("obs/tile_id", data=np.arange(N) + 3)
    root.create_group("tables/genes", attributes={"encoding-type": "anndata"})
    root.create_group("shapes/tiles")
    order = np.random.default_rng(2).permutation(N)
    shapes = []
    for x, y in CORNERS[order]:
        ring = [(x + side, y), (x + side, y + side), (x, y + side), (x, y), (x + side, y)]
        shapes.append(struct.pack("<BIII10d", 1, 3, 1, 5, *np.ravel(ring)))
    frame = pyarrow.table({"tile_id": order + 3, "x": CORNERS[order, 0], "geometry": shapes})
    pyarrow.parquet.write_table(frame, path / "shapes" / "tiles" / "shapes.parquet")
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


def faults(path: Path, **options: Any) -> str:
    """Return the message that the file is refused with."""
    with pytest.raises(SectionError) as caught:
        read_foreign_features(path, **options)
    return str(caught.value)
