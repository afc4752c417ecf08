"""Visium and Visium HD as Space Ranger 1 to 4 write them: spots, bins, segmented cells."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError, counted
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Float64

from .feature_matrix import FeatureMatrix, find_matrix, read_matrix
from .geojson import centroid, read_features
from .h5ad import require_unique
from .instrument_section import (
    InstrumentSection,
    find_file,
    open_text,
    reading,
    require_columns,
    require_file,
    require_finite,
)
from .lab_section import quoted

PITCH_UM = 100.0
"""µm between the centres of neighbouring Visium spots."""
SPOT_UM = 55.0
_STATED_SPOT_UM = 65.0  # what Space Ranger means by spot_diameter_fullres
_SPOT_TOLERANCE = 0.1
_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_SCALES = "scalefactors_json.json"
_MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
_CELL_MATRICES = ("filtered_feature_cell_matrix", "raw_feature_cell_matrix")
_CELLS = "cells"
# Images that Space Ranger writes, with the scale factor from full-resolution pixels; none for those of another camera.
_REDUCED = {
    "tissue_hires_image.png": "tissue_hires_scalef",
    "tissue_lowres_image.png": "tissue_lowres_scalef",
}
_OTHER_IMAGES = re.compile(
    r"(^|_)(detected_tissue_image|aligned_fiducials|aligned_tissue_image|cytassist_image)\."
)


def is_space_ranger(folder: Path) -> bool:
    """Return whether a folder holds the output of Space Ranger: Visium, Visium HD, or one bin size of it."""
    is_hd = any((folder / name).is_dir() for name in ("binned_outputs", "segmented_outputs"))
    return is_hd or bool(
        find_matrix(folder, *_MATRICES, *_CELL_MATRICES) or find_file(folder / "spatial", *_POSITIONS)
    )


def read_space_ranger(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read the counts and positions of a section; spots that are not under tissue are left out.

    Raises
    ------
    ConfigError
        If ``--bin`` names what the folder does not have.
    MissingInputError
        If a file of the section is missing.
    SectionError
        If a file cannot be read, or matrix and positions do not belong together.
    """
    folder, size = _choose_bin(folder, config.bin)
    scales = _read_scales(folder)
    if size == _CELLS:
        return _read_cells(folder, scales, config)
    matrix = read_matrix(
        require_file(find_matrix(folder, *_MATRICES), folder, *(f"{name}.h5" for name in _MATRICES))
    )
    path = require_file(find_file(folder / "spatial", *_POSITIONS), folder / "spatial", *_POSITIONS)
    positions = _read_positions(path)
    rows = positions.index.get_indexer(matrix.barcodes)
    is_placed = rows >= 0
    if is_placed.sum() * 2 < len(rows):
        absent = matrix.barcodes[~is_placed]
        message = (
            f"{len(absent)} of the {len(rows)} barcodes of {matrix.path} are not in {path}: {quoted(absent)}. "
            "Both files must be of one section."
        )
        raise SectionError(message)
    measured = (
        (scales.get("microns_per_pixel"), "microns_per_pixel") if size else visium_mpp(positions, scales)
    )
    spots = positions.iloc[rows]
    is_tissue = (spots["in_tissue"].to_numpy() == 1) & is_placed
    if not is_tissue.any():
        message = (
            f"All {len(spots)} spots of {matrix.path} have in_tissue 0 in {path}. Detect the tissue in Loupe Browser, "
            "and run Space Ranger again."
        )
        raise SectionError(message)
    left_out = {
        "with in_tissue 0": int((~is_tissue & is_placed).sum()),
        "without a position": int((~is_placed).sum()),
    }
    notes = [f"{n} of {len(spots)} spots {what} left out" for what, n in left_out.items() if n]
    spots = spots[is_tissue]
    columns = ("in_tissue", "array_row", "array_col")
    return _section(
        f"Visium HD, {float(size):g} µm bins" if size else "Visium",
        matrix,
        scales,
        config,
        ids=matrix.barcodes[is_tissue],
        counts=matrix.counts[is_tissue],
        xy_px=spots[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64),
        mpp=measured[0],
        mpp_note=measured[1],
        obs={name: spots[name].to_numpy() for name in columns},
        spot_um=float(size) if size else SPOT_UM,
        pitch_um=float(size) if size else PITCH_UM,
        files=(path, folder / "spatial" / _SCALES),
        notes=tuple(notes),
    )


def visium_mpp(positions: Any, scales: Mapping[str, float]) -> tuple[float | None, str]:
    """Measure µm per pixel of a Visium section: the median over the nearest array positions of all spots.

    Neighbours lie 100 µm apart. `positions` has array_row, array_col and the pixels; rows of the array are
    shifted by half a pitch, so that columns count half pitches. A single spot gives None.
    """
    row, column = (positions[name].to_numpy(dtype=np.float64) for name in ("array_row", "array_col"))
    ideal_um = np.stack([column * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2], axis=1)
    px = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
    if len(px) < 2:
        return None, "one spot has no pitch"
    # Each spot itself, and up to six neighbours
    um, nearest = cKDTree(ideal_um).query(ideal_um, k=min(7, len(px)))
    distance_px = np.linalg.norm(px[:, None] - px[nearest], axis=2)
    is_near = (um > 0) & (um <= um[:, 1:2] * 1.01)
    mpp = float(np.median(um[is_near] / np.maximum(distance_px[is_near], 1e-9)))
    note = "pitch of the spots, 100 µm"
    diameter = scales.get("spot_diameter_fullres")
    by_spot = _STATED_SPOT_UM / diameter if diameter else mpp
    if abs(by_spot / mpp - 1) > _SPOT_TOLERANCE:
        note += f"; spot_diameter_fullres {diameter:g} px would mean {by_spot:.3g}"
    return mpp, note


def _choose_bin(folder: Path, wanted: str | None) -> tuple[Path, str | None]:
    """Return the folder of a bin size, and its size in µm or 'cells'; None for Visium."""
    bins = {
        path.name[7:-2].lstrip("0"): path for path in sorted((folder / "binned_outputs").glob("square_*um"))
    }
    if (folder / "segmented_outputs").is_dir():
        bins[_CELLS] = folder / "segmented_outputs"
    if not bins:
        here = _size_of(folder)
        if wanted not in (None, here):
            is_a = {None: "not Visium HD", _CELLS: "segmented cells"}.get(here, f"{here} µm bins")
            message = f"--bin {wanted}: {folder} is {is_a}. Leave out --bin, or give the folder above binned_outputs."
            raise ConfigError(message)
        return folder, here
    chosen = wanted or ("8" if "8" in bins else next(iter(bins)))
    if chosen not in bins:
        message = f"--bin {chosen}: {folder} has {', '.join(bins)}."
        raise ConfigError(message)
    return bins[chosen], chosen


def _size_of(folder: Path) -> str | None:
    if find_matrix(folder, *_CELL_MATRICES):
        return _CELLS
    size = _read_scales(folder).get("bin_size_um")
    return None if size is None else f"{size:g}"


def _read_scales(folder: Path) -> dict[str, float]:
    """Read the numbers of ``scalefactors_json.json``; empty if it does not exist."""
    path = find_file(folder / "spatial", _SCALES) if (folder / "spatial").is_dir() else None
    if path is None:
        return {}
    with reading("the scale factors", path):
        stated = json.loads(path.read_text(encoding="utf-8"))
        scales = {str(key): float(value) for key, value in stated.items() if isinstance(value, int | float)}
    wrong = [f"{key} {value:g}" for key, value in scales.items() if not (np.isfinite(value) and value > 0)]
    if wrong:
        message = f"{path}: scale factors must be positive, not {', '.join(wrong)}."
        raise SectionError(message)
    return scales


def _read_positions(path: Path) -> Any:
    """Read the positions of all spots, with barcodes as index; Space Ranger 1 writes no header."""
    with reading("the spot positions", path):
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            with open_text(path) as file:
                has_header = b"barcode" in file.readline()
            with open_text(path) as file:
                names = {} if has_header else {"names": list(_COLUMNS)}
                frame = pd.read_csv(file, header=0 if has_header else None, encoding="utf-8-sig", **names)
    require_columns(frame, _COLUMNS, path)
    frame = frame.set_index(frame["barcode"].astype(str))
    require_unique(frame.index.to_numpy(dtype=np.str_), where=f"{path}, barcode")
    numbers = frame[list(_COLUMNS[1:])].apply(pd.to_numeric, errors="coerce")
    require_finite(numbers.to_numpy(dtype=np.float64), frame.index, path, ", ".join(_COLUMNS[1:]))
    return numbers


def _read_cells(folder: Path, scales: Mapping[str, float], config: InputConfig) -> InstrumentSection:
    """Read the segmented cells of Space Ranger 4: centroids of polygons in full-resolution pixels."""
    matrix = read_matrix(
        require_file(find_matrix(folder, *_CELL_MATRICES), folder, f"{_CELL_MATRICES[0]}.h5")
    )
    name = "cell_segmentations.geojson"
    path = require_file(find_file(folder, name, f"graphclust_annotated_{name}"), folder, name)
    with reading("the polygons and cell_id of", path):
        centres = {_cell_id(feature): centroid(feature["geometry"]) for feature in read_features(path)[0]}
    has_polygon = np.array([barcode in centres for barcode in matrix.barcodes.tolist()], dtype=np.bool_)
    if not has_polygon.any():
        message = f"No cell of {matrix.path} ({quoted(matrix.barcodes)}) has a polygon in {path} ({quoted(list(centres))})."
        raise SectionError(message)
    left_out = int((~has_polygon).sum())
    ids = matrix.barcodes[has_polygon]
    return _section(
        "Visium HD, segmented cells",
        matrix,
        scales,
        config,
        ids=ids,
        counts=matrix.counts[has_polygon],
        xy_px=np.array([centres[barcode] for barcode in ids.tolist()], dtype=np.float64),
        mpp=scales.get("microns_per_pixel"),
        mpp_note="microns_per_pixel",
        obs={},
        spot_um=None,
        files=(path, folder / "spatial" / _SCALES),
        notes=(f"{counted(left_out, 'cell')} without a polygon left out",) if left_out else (),
        is_cells=True,
    )


def _cell_id(feature: Mapping[str, Any]) -> str:
    """Write the id of a polygon as in the matrix: 1 is ``cellid_000000001-1``."""
    cell = feature["properties"]["cell_id"]
    return str(cell) if isinstance(cell, str) and not cell.isdigit() else f"cellid_{int(cell):09d}-1"


def _section(
    platform: str,
    matrix: FeatureMatrix,
    scales: Mapping[str, float],
    config: InputConfig,
    *,
    xy_px: Float64[Array, "n 2"],
    mpp: float | None,
    files: tuple[Path, ...],
    notes: tuple[str, ...],
    **more: Any,
) -> InstrumentSection:
    """Put a section together, in pixels of the full-resolution image, or of a reduced one that was asked for."""
    image = config.image.name if config.image else ""
    if _OTHER_IMAGES.search(image):
        message = (
            f"--image {config.image} is a picture of the CytAssist or of the alignment. Give the full-resolution H&E "
            "image that Space Ranger was run with."
        )
        raise ConfigError(message)
    for name, key in _REDUCED.items():
        if image.endswith(name) and config.image and key in scales:
            xy_px, mpp = xy_px * scales[key], None if mpp is None else mpp / scales[key]
            reduced = f"{image} is a reduced image: positions are in its pixels ({key} {scales[key]:g})"
            notes = (*notes, f"{reduced}; the full-resolution image shows more")
            factors = {"_fullres": scales[key], "_scalef": 1 / scales[key]}
            scales = {
                stated: value * next((factor for end, factor in factors.items() if stated.endswith(end)), 1.0)
                for stated, value in scales.items()
            }
            break
    version = (matrix.software or "").replace("spaceranger-", "Space Ranger ")
    return InstrumentSection(
        platform=platform + (f", {version}" if version else ""),
        genes=matrix.genes,
        gene_ids=matrix.gene_ids,
        xy_px=xy_px,
        mpp=mpp,
        scales=dict(scales),
        files=(matrix.path, *(file for file in files if file.exists())),
        notes=(*matrix.notes, *notes),
        **more,
    )
