"""Visium and Visium HD as Space Ranger 1 to 4 write them: spots, bins, segmented cells."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError
from spam.schemas.embed_config import InputConfig

from .feature_matrix import find_matrix, read_matrix
from .geojson import read_objects
from .instrument_section import (
    InstrumentSection,
    find_file,
    match_ids,
    open_text,
    reading,
    require_columns,
    require_file,
    require_finite,
)
from .lab_section import require_unique

PITCH_UM = 100.0
"""µm between the centres of neighbouring Visium spots."""
SPOT_UM = 55.0
_STATED_SPOT_UM = 65.0  # what Space Ranger means by spot_diameter_fullres
_SPOT_TOLERANCE = 0.1
_PIXELS = ("pxl_col_in_fullres", "pxl_row_in_fullres")
_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", *_PIXELS[::-1])
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_SCALES = "scalefactors_json.json"
_MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
_CELL_MATRICES = ("filtered_feature_cell_matrix", "raw_feature_cell_matrix")
_CELLS = "cells"
_POLYGONS = ("cell_segmentations.geojson", "graphclust_annotated_cell_segmentations.geojson")
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
    scales, is_cells = _read_scales(folder), size == _CELLS
    names = _CELL_MATRICES if is_cells else _MATRICES
    matrix = read_matrix(require_file(find_matrix(folder, *names), folder, *(f"{name}.h5" for name in names)))
    place, files = (folder, _POLYGONS) if is_cells else (folder / "spatial", _POSITIONS)
    path = require_file(find_file(place, *files), place, *files)
    positions = (_read_centres if is_cells else _read_positions)(path)
    what = "cells" if is_cells else "spots"
    rows, is_kept, notes = match_ids(matrix.ids, matrix.files[0], positions.index, path, what)
    if not is_cells:
        is_off = positions["in_tissue"].to_numpy()[rows] != 1
        n_off, n = int((is_off & is_kept).sum()), len(rows)
        notes += (f"{n_off} of {n} spots with in_tissue 0 left out",) if n_off else ()
        is_kept &= ~is_off
        if not is_kept.any():
            message = (
                f"All {n} spots of {matrix.files[0]} have in_tissue 0 in {path}. Detect the tissue in Loupe Browser, and run "
                "Space Ranger again."
            )
            raise SectionError(message)
    spots = positions.iloc[rows[is_kept]]
    measured = (
        (scales.get("microns_per_pixel"), "microns_per_pixel") if size else visium_mpp(positions, scales)
    )
    platform = "Visium HD, segmented cells" if is_cells else "Visium"
    pitch_um = None if is_cells else PITCH_UM
    if size and not is_cells:
        platform, pitch_um = f"Visium HD, {float(size):g} µm bins", float(size)
    version = matrix.platform.replace("spaceranger-", "Space Ranger ")
    found = dataclasses.replace(
        matrix,
        platform=f"{platform}, {version}" if version else platform,
        ids=matrix.ids[is_kept],
        counts=matrix.counts[is_kept],
        xy_px=spots[list(_PIXELS)].to_numpy(dtype=np.float64),
        mpp=measured[0],
        mpp_note=measured[1],
        obs={name: spots[name].to_numpy() for name in _COLUMNS[1:4] if name in spots},
        scales=scales,
        spot_um=pitch_um if size else SPOT_UM,
        pitch_um=pitch_um,
        is_cells=is_cells,
        files=tuple(file for file in (*matrix.files, path, folder / "spatial" / _SCALES) if file.exists()),
        notes=(*matrix.notes, *notes),
    )
    return _on_image(found, config.image)


def visium_mpp(positions: Any, scales: Mapping[str, float]) -> tuple[float | None, str]:
    """Measure µm per pixel of a Visium section: the median over the nearest array positions of all spots.

    Neighbours lie 100 µm apart. `positions` has array_row, array_col and the pixels; rows of the array are
    shifted by half a pitch, so that columns count half pitches. A single spot gives None.
    """
    row, column = (positions[name].to_numpy(dtype=np.float64) for name in ("array_row", "array_col"))
    ideal_um = np.stack([column * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2], axis=1)
    px = positions[list(_PIXELS)].to_numpy(dtype=np.float64)
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


def _read_centres(path: Path) -> Any:
    """Read the centroids of the segmented cells of Space Ranger 4, with their ids as index."""
    with reading("the polygons and cell_id of", path):
        cells = [one for one in read_objects(path)[0] if one.polygons and one.cell_id is not None]
        centres = {_cell_id(one.cell_id): one.centre for one in cells}
    return pd.DataFrame(np.reshape(list(centres.values()), (-1, 2)), list(centres), columns=list(_PIXELS))


def _cell_id(cell: str | int) -> str:
    """Write the id of a polygon as in the matrix: 1 is ``cellid_000000001-1``."""
    return str(cell) if isinstance(cell, str) and not cell.isdigit() else f"cellid_{int(cell):09d}-1"


def _on_image(found: InstrumentSection, image: Path | None) -> InstrumentSection:
    """Return the section in pixels of the full-resolution image, or of a reduced one that was asked for."""
    name = image.name if image else ""
    if _OTHER_IMAGES.search(name):
        message = (
            f"--image {image} is a picture of the CytAssist or of the alignment. Give the full-resolution H&E "
            "image that Space Ranger was run with."
        )
        raise ConfigError(message)
    scales = found.scales
    key = next((key for end, key in _REDUCED.items() if name.endswith(end) and key in scales), None)
    if key is None or found.xy_px is None:
        return found
    scale = scales[key]
    factors = {"_fullres": scale, "_scalef": 1 / scale}
    reduced = f"{name} is a reduced image: positions are in its pixels ({key} {scale:g})"
    return dataclasses.replace(
        found,
        xy_px=found.xy_px * scale,
        mpp=None if found.mpp is None else found.mpp / scale,
        scales={
            stated: value * next((factor for end, factor in factors.items() if stated.endswith(end)), 1.0)
            for stated, value in scales.items()
        },
        notes=(*found.notes, f"{reduced}; the full-resolution image shows more"),
    )
