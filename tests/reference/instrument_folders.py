"""Writes folders as instruments do, from made-up sections whose every number is known."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

N_SPOTS, N_GENES = 19, 7
GENES = tuple(f"G{i}" for i in range(N_GENES))
IDS = tuple(f"ENSG{i:011d}" for i in range(N_GENES))


def dense_counts(n_spots: int = N_SPOTS, n_genes: int = N_GENES, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.7, (n_spots, n_genes)).astype(np.int32)


def read_dense(path: Path, group: str = "matrix") -> tuple[np.ndarray, list[str], list[str]]:
    """Read a 10x HDF5 matrix by a loop over its columns: barcodes x features, barcodes, feature names."""
    with h5py.File(path) as file:
        parts = {key: file[f"{group}/{key}"][:] for key in ("data", "indices", "indptr", "shape", "barcodes")}
        names = [name.decode() for name in file[f"{group}/features/name"][:]]
    n_features, n_barcodes = map(int, parts["shape"])
    dense = np.zeros((n_barcodes, n_features), dtype=np.int32)
    for column in range(n_barcodes):
        entries = slice(int(parts["indptr"][column]), int(parts["indptr"][column + 1]))
        np.add.at(
            dense[column], parts["indices"][entries].astype(np.int64), parts["data"][entries].astype(np.int32)
        )
    return dense, [barcode.decode() for barcode in parts["barcodes"]], names


def write_h5(
    path: Path,
    counts: np.ndarray,
    barcodes: Any,
    *,
    genes: Any = GENES,
    ids: Any = IDS,
    kinds: Any = None,
    **attributes: str,
) -> Path:
    """Write counts (spots x features) as the HDF5 of Cell Ranger 3 and later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spots, features = np.nonzero(counts)
    indptr = np.searchsorted(spots, np.arange(len(counts) + 1))
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(list(barcodes), dtype="S")
        matrix["data"] = counts[spots, features].astype(np.int32)
        matrix["indices"] = features.astype(np.int64)
        matrix["indptr"] = indptr.astype(np.int64)
        matrix["shape"] = np.array([counts.shape[1], counts.shape[0]], dtype=np.int32)
        described = matrix.create_group("features")
        described["id"] = np.array(list(ids), dtype="S")
        described["name"] = np.array(list(genes), dtype="S")
        described["feature_type"] = np.array(kinds or ["Gene Expression"] * len(genes), dtype="S")
    return path


def write_mex(
    folder: Path, counts: np.ndarray, barcodes: Any, *, kinds: Any = None, is_compressed: bool = True
) -> Path:
    folder.mkdir(parents=True)
    spots, features = np.nonzero(counts)
    lines = [f"{f + 1} {s + 1} {counts[s, f]}" for s, f in zip(spots, features, strict=True)]
    head = [
        "%%MatrixMarket matrix coordinate integer general",
        "%",
        f"{counts.shape[1]} {len(counts)} {len(lines)}",
    ]
    kinds = kinds or ["Gene Expression"] * len(GENES)
    texts = {
        "matrix.mtx": [*head, *lines],
        "barcodes.tsv": list(barcodes),
        "features.tsv": ["\t".join(row) for row in zip(IDS, GENES, kinds, strict=True)],
    }
    for name, rows in texts.items():
        content = ("\n".join(rows) + "\n").encode()
        path = folder / (f"{name}.gz" if is_compressed else name)
        path.write_bytes(gzip.compress(content) if is_compressed else content)
    return folder


def hexagonal(n_rows: int, n_columns: int, *, mpp: float, degrees: float = 0.0) -> pd.DataFrame:
    """Lay out a Visium array: neighbours 100 µm apart, odd rows shifted by half a pitch, turned by some degrees."""
    rows = []
    angle = np.deg2rad(degrees)
    for row in range(n_rows):
        for column in range(row % 2, 2 * n_columns, 2):
            x, y = column * 50.0 / mpp, row * 50.0 * np.sqrt(3) / mpp
            turned = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
            rows.append((f"AC{row:02d}{column:02d}-1", 1, row, column, turned[1] + 900, turned[0] + 700))
    names = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
    return pd.DataFrame(rows, columns=names)


def write_visium(
    outs: Path, *, mpp: float = 0.5, degrees: float = 0.0, header: bool = True, n_spots: int = N_SPOTS
) -> tuple[np.ndarray, pd.DataFrame]:
    """Write a Visium section; the positions are in another order than the matrix. Returns counts and positions."""
    positions = hexagonal(6, 7, mpp=mpp, degrees=degrees)
    counts = dense_counts(n_spots)
    write_h5(
        outs / "filtered_feature_bc_matrix.h5",
        counts,
        positions["barcode"][:n_spots],
        software_version="spaceranger-2.1.0",
    )
    (outs / "spatial").mkdir(exist_ok=True)
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    positions[::-1].to_csv(outs / "spatial" / name, index=False, header=header)
    scales = {
        "spot_diameter_fullres": 65 / mpp,
        "tissue_hires_scalef": 0.2,
        "fiducial_diameter_fullres": 105 / mpp,
        "tissue_lowres_scalef": 0.06,
    }
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))
    return counts, positions


def write_bins(
    outs: Path, size: int, *, n_bins: int = 23, mpp: float = 0.25
) -> tuple[np.ndarray, pd.DataFrame]:
    """Write one bin size of Visium HD; the positions list every bin, also those without counts."""
    folder = outs / "binned_outputs" / f"square_{size:03d}um"
    counts = dense_counts(n_bins, seed=size)
    side = 7
    names = [f"s_{size:03d}um_{i // side:05d}_{i % side:05d}-1" for i in range(side * side)]
    place = np.arange(side * side)
    positions = pd.DataFrame(
        {
            "barcode": names,
            "in_tissue": 1,
            "array_row": place // side,
            "array_col": place % side,
            "pxl_row_in_fullres": 500 + place // side * size / mpp,
            "pxl_col_in_fullres": 900 - place % side * size / mpp,
        }
    )
    write_h5(
        folder / "filtered_feature_bc_matrix.h5", counts, names[:n_bins], software_version="spaceranger-3.1.0"
    )
    (folder / "spatial").mkdir()
    positions.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    scales = {"bin_size_um": float(size), "microns_per_pixel": mpp, "spot_diameter_fullres": size / mpp}
    scales["tissue_hires_scalef"] = 0.1
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))
    return counts, positions


def write_cells(outs: Path, *, mpp: float = 0.25) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Write the segmented cells of Space Ranger 4: rectangles, whose centres are returned with counts and ids."""
    folder = outs / "segmented_outputs"
    n_cells = 11
    counts = dense_counts(n_cells, seed=5)
    ids = [f"cellid_{i:09d}-1" for i in range(1, n_cells + 1)]
    corners = np.random.default_rng(3).uniform(1000, 20000, (n_cells, 2))
    sides = np.random.default_rng(4).uniform(20, 60, (n_cells, 2))
    write_h5(folder / "filtered_feature_cell_matrix.h5", counts, ids, software_version="spaceranger-4.0.1")
    features = []
    for i in reversed(range(n_cells)):
        (x, y), (w, h) = corners[i], sides[i]
        # One side has a vertex in its middle: the mean of the vertices is not the centroid.
        ring = [[x, y], [x + w / 3, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"cell_id": i + 1}, "geometry": geometry})
    collection = {"type": "FeatureCollection", "features": features}
    (folder / "cell_segmentations.geojson").write_text(json.dumps(collection))
    (folder / "spatial").mkdir()
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps({"microns_per_pixel": mpp}))
    return counts, ids, corners + sides / 2


def xenium_id(prefix: int, suffix: int = 1) -> str:
    """Write a cell id as 10x documents it: each hexadecimal digit 0-f is a letter a-p."""
    letters = "abcdefghijklmnop"
    return "".join(letters[(prefix >> 4 * digit) & 15] for digit in reversed(range(8))) + f"-{suffix}"


def write_xenium(
    folder: Path, *, cells: str = "cells.parquet", matrix: str = "h5", facts: Any = None
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Write a Xenium output without an alignment. Returns counts, ids and centroids in µm."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = dense_counts(seed=9)
    prefixes = [7 + 65537 * i for i in range(N_SPOTS)]
    ids = [xenium_id(prefix) for prefix in prefixes]
    xy_um = np.random.default_rng(2).uniform(100, 3000, (N_SPOTS, 2))
    pair = np.array([[prefix, 1] for prefix in prefixes], dtype=np.uint32)
    order = np.arange(N_SPOTS)[::-1]
    frame = pd.DataFrame(
        {"cell_id": ids, "x_centroid": xy_um[:, 0], "y_centroid": xy_um[:, 1], "cell_area": 50.5}
    )
    if cells == "cells.parquet":
        frame.iloc[order].to_parquet(folder / cells, index=False)
    elif cells == "cells.csv.gz":
        frame.iloc[order].to_csv(folder / cells, index=False)
    else:
        arrays = {"cell_id": pair, "cell_summary": np.column_stack([xy_um, np.full(N_SPOTS, 50.5)])}
        names = {"column_names": ["cell_centroid_x", "cell_centroid_y", "cell_area"]}
        write_zipped_zarr(folder / cells, arrays, {"cell_summary": names})
    kinds = ["Gene Expression"] * (N_GENES - 2) + ["Negative Control Probe", "Unassigned Codeword"]
    if matrix == "h5":
        write_h5(folder / "cell_feature_matrix.h5", counts, ids, kinds=kinds)
    elif matrix == "mex":
        write_mex(folder / "cell_feature_matrix", counts, ids, kinds=kinds)
    else:
        features, spots = np.nonzero(counts.T)
        arrays = {
            "cell_features/cell_id": pair,
            "cell_features/data": counts.T[features, spots].astype(np.uint32),
            "cell_features/indices": spots.astype(np.uint32),
            "cell_features/indptr": np.searchsorted(features, np.arange(N_GENES + 1)).astype(np.uint32),
        }
        words = ["gene"] * (N_GENES - 2) + ["negative_control_probe", "unassigned_codeword"]
        keys = {"feature_keys": list(GENES), "feature_ids": list(IDS), "feature_types": words}
        write_zipped_zarr(folder / "cell_feature_matrix.zarr.zip", arrays, {"cell_features": keys})
    facts = {"pixel_size": 0.2125, "analysis_sw_version": "xenium-3.1.0.0"} | (facts or {})
    (folder / "experiment.xenium").write_text(json.dumps(facts))
    return counts[:, : N_GENES - 2], ids, xy_um


def write_zipped_zarr(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Write Zarr v2 by hand, uncompressed, one chunk for each array."""
    groups = {"", *(key.rpartition("/")[0] for key in arrays)}
    with zipfile.ZipFile(path, "w") as file:
        for group in groups:
            file.writestr(f"{group}/.zgroup".lstrip("/"), json.dumps({"zarr_format": 2}))
        for key, values in arrays.items():
            facts = {
                "zarr_format": 2,
                "shape": values.shape,
                "chunks": values.shape,
                "dtype": values.dtype.str,
            }
            facts |= {"compressor": None, "filters": None, "fill_value": 0, "order": "C"}
            file.writestr(f"{key}/.zarray", json.dumps(facts))
            file.writestr(f"{key}/{'.'.join('0' * values.ndim)}", values.tobytes())
        for key, words in attributes.items():
            file.writestr(f"{key}/.zattrs", json.dumps(words))


def write_image(path: Path, width: int = 2300, height: int = 1900) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(90, 200, (height // 10, width // 10, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height)).save(path, compress_level=1)
    return path
