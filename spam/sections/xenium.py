"""Xenium as the instrument and Xenium Ranger 1 to 4 write it, on the H&E image of the same section."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Float64

from .feature_matrix import find_matrix, read_matrix, xenium_ids, zipped_zarr
from .instrument_section import (
    InstrumentSection,
    find_file,
    match_ids,
    open_text,
    reading,
    require_file,
    require_finite,
)
from .lab_section import quoted, require_unique

_EXPERIMENT = "experiment.xenium"
_MATRIX = "cell_feature_matrix"
_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv", "cells.zarr.zip")
_CENTRE = ("x_centroid", "y_centroid")
# name in Zarr -> name in tables
_IN_ZARR = {"cell_centroid_x": "x_centroid", "cell_centroid_y": "y_centroid"}
_ALIGNMENTS = ("he_imagealignment.csv", "he_keypoints.csv")
_KEYPOINTS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
_KEPT = ("cell_area", "nucleus_area", "transcript_counts", "total_counts")
_PIXEL_UM = (0.1, 1.1)  # the instrument's is 0.2125 µm; files that were written again may say 1
_SHEAR = (
    0.02  # relative difference of the scales of both axes from which an alignment is said to be distorted
)


def is_xenium(folder: Path) -> bool:
    """Return whether a folder holds the output of Xenium."""
    return bool(
        find_file(folder, _EXPERIMENT) or (find_file(folder, *_CELLS) and find_matrix(folder, _MATRIX))
    )


def read_xenium(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read counts and centroids of the cells, and place them on the H&E image.

    The alignment M maps pixels of the H&E image to pixels of the morphology image: ``xy_he = M^-1 (xy_um / pixel_size)``.
    Without ``--image`` and without an alignment, positions stay in µm.

    Raises
    ------
    ConfigError
        If ``--image`` is the fluorescence image.
    MissingInputError
        If a file is missing, or the alignment of ``--image``.
    SectionError
        If a file cannot be read, or its parts do not belong together.
    """
    matrix = read_matrix(require_file(find_matrix(folder, _MATRIX), folder, f"{_MATRIX}.h5"))
    cells_path = require_file(find_file(folder, *_CELLS), folder, *_CELLS)
    cells = _read_cells(cells_path)
    rows, _, notes = match_ids(matrix.ids, matrix.files[0], cells.index, cells_path, "cells", is_one_run=True)
    cells = cells.iloc[rows]
    xy_um = cells[list(_CENTRE)].to_numpy(dtype=np.float64)
    image = config.image
    # Xenium 4 names them morphology_focus/ch0000_dapi.ome.tif.
    if image is not None and any(
        x.startswith("morphology") for x in (image.name, image.absolute().parent.name)
    ):
        message = (
            f"--image {image} is the fluorescence image of Xenium. Give the H&E image of the same section."
        )
        raise ConfigError(message)
    experiment = find_file(folder, _EXPERIMENT)
    facts = _read_experiment(experiment) if experiment else {}
    version = facts.get("analysis_sw_version")
    alignment = config.alignment or find_file(folder, *_ALIGNMENTS)
    xy_px = mpp = mpp_note = None
    if alignment is not None:
        pixel_um = _pixel_size(facts, folder)
        xy_px, mpp, fit = place_on_image(xy_um / pixel_um, alignment, pixel_um)
        mpp_note = f"alignment {alignment.name}"
        notes += fit
    elif config.image is not None:
        tables = sorted(path.name for path in folder.glob("*.csv"))
        only = f"only {quoted(tables)}" if tables else "and no other table"
        message = (
            f"{folder} has no *_he_imagealignment.csv for {config.image} (--image), {only}. Give the alignment or the keypoints "
            "of Xenium Explorer with --alignment."
        )
        raise MissingInputError(message)
    return dataclasses.replace(
        matrix,
        platform="Xenium" + (f", {version}" if version else ""),
        xy_px=xy_px,
        xy_um=xy_um,
        mpp=mpp,
        mpp_note=mpp_note,
        obs={name: cells[name].to_numpy() for name in _KEPT if name in cells and cells[name].notna().any()},
        is_cells=True,
        files=(*matrix.files, cells_path, *filter(None, [experiment, alignment])),
        notes=(*matrix.notes, *notes),
    )


def place_on_image(
    xy: Float64[Array, "n 2"], alignment: Path, pixel_um: float
) -> tuple[Float64[Array, "n 2"], float, tuple[str, ...]]:
    """Place positions in pixels of the instrument's image on the H&E image.

    The alignment M maps pixels of the H&E image to those of the instrument's: ``xy_he = M^-1 xy``.

    Returns
    -------
    tuple
        Positions in pixels of the H&E image, its µm per pixel, and notes on the fit and on a distortion.

    Raises
    ------
    SectionError
        If the file holds neither a matrix nor keypoints, or the matrix cannot be inverted.
    """
    matrix, notes = _read_alignment(alignment, pixel_um)
    homogeneous = np.column_stack([xy, np.ones(len(xy))])
    scales = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if scales[0] / scales[1] > 1 + _SHEAR:
        ratio = f"{scales[0] / scales[1]:.3g} times as much as the other"
        notes.append(f"the alignment scales one axis {ratio}; check it")
    mpp = float(pixel_um * np.sqrt(np.prod(scales)))
    return (homogeneous @ np.linalg.inv(matrix).T)[:, :2], mpp, tuple(notes)


def _read_cells(path: Path) -> Any:
    """Read the centroids in µm and the sizes of the cells, with their ids as index."""
    with reading("cell_id, x_centroid and y_centroid of", path):
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif zipfile.is_zipfile(path):
            frame = _cells_of_zarr(path)
        else:
            with open_text(path) as file:
                frame = pd.read_csv(file, dtype={"cell_id": str})
        # The first versions wrote ids as bytes.
        ids = frame["cell_id"].map(lambda one: one.decode() if isinstance(one, bytes) else str(one))
        numbers = frame[[name for name in (*_CENTRE, *_KEPT) if name in frame]]
        frame = numbers.apply(pd.to_numeric, errors="coerce").set_index(ids)
        centres = frame[list(_CENTRE)].to_numpy(dtype=np.float64)
    require_unique(frame.index.to_numpy(dtype=np.str_), where=f"{path}, cell_id")
    require_finite(centres, frame.index, path, ", ".join(_CENTRE))
    return frame


def _cells_of_zarr(path: Path) -> Any:
    group = zipped_zarr(path)
    summary = group["cell_summary"]
    names = [_IN_ZARR.get(name, name) for name in summary.attrs["column_names"]]
    return pd.DataFrame(summary[:], columns=names).assign(cell_id=xenium_ids(group["cell_id"][:]))


def _read_experiment(path: Path) -> dict[str, Any]:
    with reading("the facts of", path):
        facts = json.loads(path.read_text(encoding="utf-8"))
    return facts if isinstance(facts, dict) else {}


def _pixel_size(facts: dict[str, Any], folder: Path) -> float:
    """Return µm per pixel of the morphology image; whatever the version of the software says, it must be stated."""
    stated = facts.get("pixel_size")
    low, high = _PIXEL_UM
    if not isinstance(stated, int | float) or not low <= stated <= high:
        where = f"{folder / _EXPERIMENT} must state pixel_size in µm, from {low} to {high}"
        message = f"{where}; found {stated!r}. Copy {_EXPERIMENT} from the output of Xenium."
        raise SectionError(message)
    return float(stated)


def _read_alignment(path: Path, pixel_um: float) -> tuple[Float64[Array, "3 3"], list[str]]:
    """Read the matrix from pixels of the H&E image to those of the morphology image, or fit it to keypoints.

    Keypoints are pixels of the morphology image (fixedX, fixedY) and of the H&E image (alignmentX, alignmentY).

    Raises
    ------
    SectionError
        If the file is neither, or the matrix cannot be inverted.
    """
    with reading(f"a 3 x 3 matrix or keypoints ({', '.join(_KEYPOINTS)}) from", path):
        with open_text(path) as file:
            text = file.read().decode("utf-8-sig")
        if "fixedX" in text:
            points = pd.read_csv(io.StringIO(text), skipinitialspace=True)[list(_KEYPOINTS)]
            return _fit_keypoints(points.to_numpy(dtype=np.float64), path, pixel_um)
        matrix = pd.read_csv(io.StringIO(text), header=None).to_numpy(dtype=np.float64)
    is_affine = matrix.shape == (3, 3) and np.isfinite(matrix).all() and np.allclose(matrix[2], [0, 0, 1])
    if not is_affine or abs(np.linalg.det(matrix)) < 1e-9:
        message = (
            f"{path} must hold a 3 x 3 matrix whose last row is 0, 0, 1 and that can be inverted. "
            "Export the alignment again in Xenium Explorer."
        )
        raise SectionError(message)
    return matrix, []


def _fit_keypoints(
    points: Float64[Array, "n 4"], path: Path, pixel_um: float
) -> tuple[Float64[Array, "3 3"], list[str]]:
    """Fit an affine matrix to all keypoints by least squares; the note states the residuals in µm."""
    fixed, moving = points[:, :2], np.column_stack([points[:, 2:], np.ones(len(points))])
    if len(points) < 3 or np.linalg.matrix_rank(moving - moving.mean(axis=0) * [1, 1, 0]) < 3:
        message = f"{path} needs at least three keypoints that do not lie on a line; it has {len(points)}."
        raise SectionError(message)
    solution = np.linalg.lstsq(moving, fixed, rcond=None)[0]  # (3, 2)
    residual_um = np.linalg.norm(moving @ solution - fixed, axis=1) * pixel_um
    matrix = np.vstack([solution.T, [0.0, 0.0, 1.0]])
    root_mean_square = float(np.sqrt((residual_um**2).mean()))
    exact = "; three points always fit exactly" if len(points) == 3 else ""
    note = f"{len(points)} keypoints fit with a residual of {root_mean_square:.2f} µm (largest {residual_um.max():.2f})"
    return matrix, [note + exact]
