"""A SpatialData Zarr, and the folders of CosMx and MERSCOPE, read by the packages spatialdata and spatialdata-io.

Both are extras, because they bring 130 packages. Tested with spatialdata 0.8.0 and spatialdata-io 0.7.1.
"""

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from spam.errors import ConfigError, MissingInputError, SectionError, counted
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Float64

from .feature_matrix import checked_matrix
from .hdf5_files import readable
from .instrument_section import InstrumentSection, require_finite
from .lab_section import quoted
from .xenium import place_on_image

_ATTRIBUTES = "spatialdata_attrs"
_EXTRAS = {"spatialdata": "spatialdata", "spatialdata_io": "io"}
_COSMX_COUNTS, _COSMX_CELLS = "*_exprMat_file.csv*", "*_metadata_file.csv*"
_COSMX_UM = 0.12028  # per pixel of the global positions (NanoString's notes on the flat files)
_MERSCOPE = ("cell_by_gene.csv", "cell_metadata.csv")
_TO_MOSAIC = "images/micron_to_mosaic_pixel_transform.csv"
_KEPT = ("array_row", "array_col", "Area", "volume")
_AXES = ("x", "y")
_MOST_LETTERS = 300  # of an error that is quoted


def is_spatialdata(folder: Path) -> bool:
    """Return whether a folder is a SpatialData Zarr."""
    files = (folder / name for name in ("zarr.json", ".zattrs"))
    return any(file.is_file() and _ATTRIBUTES.encode() in file.read_bytes() for file in files)


def is_cosmx(folder: Path) -> bool:
    """Return whether a folder holds the flat files of CosMx."""
    return any(folder.glob(_COSMX_COUNTS)) and any(folder.glob(_COSMX_CELLS))


def is_merscope(folder: Path) -> bool:
    """Return whether a folder holds a region of MERSCOPE."""
    return all((folder / name).is_file() for name in _MERSCOPE)


def read_spatialdata(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read the table that annotates shapes, points or labels, and where their centres are on the RGB image.

    An image outside the Zarr needs ``--alignment``: a matrix from its pixels to the coordinate system of the elements.

    Raises
    ------
    ConfigError
        If the package is not installed.
    MissingInputError, SectionError
        If there is not one such table, an image is missing, or no coordinate system has both.
    """
    spatialdata = _library("spatialdata", folder)
    get_transformation = spatialdata.transformations.get_transformation
    with _reading("SpatialData", folder):
        data = spatialdata.read_zarr(folder)
        annotated = {name: dict(table.uns.get(_ATTRIBUTES, {})) for name, table in data.tables.items()}
        annotated = {x: facts for x, facts in annotated.items() if isinstance(facts.get("region"), str)}
        if len(annotated) != 1:
            message = f"{folder} has {len(annotated)} tables of one element ({quoted(list(annotated)) or 'none'}). Keep one."
            raise SectionError(message)
        ((name, facts),) = annotated.items()
        table, element = data.tables[name], data[facts["region"]]
        inside = folder / "images"
        images = [
            x
            for x, image in data.images.items()
            if len(spatialdata.models.get_channel_names(image)) in (3, 4)
        ]
        if config.image is not None:
            images = [x for x in data.images if (inside / x).resolve() == config.image.resolve()]
        systems = get_transformation(element, get_all=True)
        if len(images) == 1:
            of_image = get_transformation(data.images[images[0]], get_all=True)
            systems = {x: of_image[x].to_affine_matrix(_AXES, _AXES) for x in systems if x in of_image}
        if not systems:
            message = f"{folder}: image {images[0]!r} and {facts['region']!r} share no coordinate system."
            raise SectionError(message)
        system = "global" if "global" in systems else min(systems)
        centres = spatialdata.get_centroids(element, coordinate_system=system).compute()
        rows = pd.Index(centres.index).get_indexer(pd.Index(table.obs[facts["instance_key"]]))
        if (rows < 0).any():
            message = (
                f"{folder}: {int((rows < 0).sum())} rows of table {name!r} are not in {facts['region']!r}."
            )
            raise SectionError(message)
        xy = centres[list(_AXES)].to_numpy(dtype=np.float64)[rows]
        files = (folder / "tables" / name, next(folder.glob(f"*/{facts['region']}")))
    if len(images) == 1:
        to_pixels = np.linalg.inv(systems[system])
        xy_px = (np.column_stack([xy, np.ones(len(xy))]) @ to_pixels.T)[:, :2]
        image = None if config.image is not None else inside / images[0]
        return _section("SpatialData", table, files, xy_px=xy_px, image=image)
    return _section("SpatialData", table, files, **_placed(config, folder, xy, None))


def read_cosmx(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read the cells of CosMx at their global positions; control probes are left out.

    Raises
    ------
    ConfigError
        If the package is not installed.
    MissingInputError, SectionError
        If a file is missing or damaged, or ``--image`` is given without ``--alignment``.
    """
    if packed := sorted(folder.glob("*.csv.gz")):
        message = f"{packed[0]} is compressed by gzip. Unpack the tables of CosMx first: gunzip -k {folder}/*.csv.gz"
        raise SectionError(message)
    with _reading("CosMx", folder):
        table = _library("spatialdata_io", folder).cosmx(folder, transcripts=False)["table"]
        xy = np.asarray(table.obsm["global"], dtype=np.float64)
    files = (next(folder.glob(_COSMX_COUNTS)), next(folder.glob(_COSMX_CELLS)))
    place = {"xy_um": xy * _COSMX_UM, **_placed(config, folder, xy, _COSMX_UM)}
    return _section("CosMx", table, files, is_cells=True, **place)


def read_merscope(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read the cells of a region of MERSCOPE; blanks are left out.

    ``--alignment`` is a matrix from pixels of the H&E image to pixels of the mosaic images.

    Raises
    ------
    ConfigError
        If the package is not installed.
    MissingInputError, SectionError
        If a file is missing or damaged, or ``--image`` is given without ``--alignment``.
    """
    with _reading("MERSCOPE", folder):
        parts = {"transcripts": False, "cells_boundaries": False, "mosaic_images": False}
        table = _library("spatialdata_io", folder).merscope(folder, **parts)["table"]
        to_mosaic = np.loadtxt(folder / _TO_MOSAIC).reshape(3, 3)
        xy_um = np.asarray(table.obsm["spatial"], dtype=np.float64)
    pixels = (np.column_stack([xy_um, np.ones(len(xy_um))]) @ to_mosaic.T)[:, :2]
    pixel_um = float(abs(np.linalg.det(to_mosaic[:2, :2])) ** -0.5)
    files = (*(folder / name for name in _MERSCOPE), folder / _TO_MOSAIC)
    place = {"xy_um": xy_um, **_placed(config, folder, pixels, pixel_um)}
    return _section("MERSCOPE", table, files, is_cells=True, **place)


def _library(name: str, folder: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"Reading {folder} needs a package. Run: pip install 'spam-st[{_EXTRAS[name]}]'"
        if name == "spatialdata_io":
            message += " (with Python 3.12 or later)"
        raise ConfigError(message) from error


def _reading(kind: str, folder: Path) -> AbstractContextManager[None]:
    """Turn errors of the packages into one that quotes them: they name the file that is missing or odd."""
    return readable(lambda error: f"{folder} cannot be read as {kind}: {str(error).strip()[:_MOST_LETTERS]}")


def _placed(
    config: InputConfig, folder: Path, xy: Float64[Array, "n 2"], pixel_um: float | None
) -> Mapping[str, Any]:
    """Place positions on the H&E image by ``--alignment``; without image and alignment they stay where they are."""
    if config.alignment is not None:
        xy_px, mpp, notes = place_on_image(xy, config.alignment, pixel_um or 1.0)
        note = f"alignment {config.alignment.name}" if pixel_um else None
        return {"xy_px": xy_px, "mpp": mpp if pixel_um else None, "mpp_note": note, "notes": notes}
    if config.image is None:
        return {}
    message = (
        f"{folder} does not say where its positions are on {config.image} (--image). Give a 3 x 3 matrix from pixels of that "
        "image to those positions with --alignment."
    )
    raise MissingInputError(message)


def _section(
    platform: str,
    table: Any,
    files: tuple[Path, ...],
    *,
    notes: tuple[str, ...] = (),
    **place: Any,
) -> InstrumentSection:
    """Check counts, ids and genes of an AnnData; spots with ``in_tissue`` 0 are left out."""
    is_there = np.ones(table.n_obs, dtype=np.bool_)
    if "in_tissue" in table.obs:
        is_there = table.obs["in_tissue"].to_numpy() != 0
        n_lost = int((~is_there).sum())
        notes = (*notes, *([f"{counted(n_lost, 'spot')} with in_tissue 0 left out"] if n_lost else []))
    table = table[is_there]
    ids, genes = table.obs_names.to_numpy(dtype=np.str_), table.var_names.to_numpy(dtype=np.str_)
    place = {key: value[is_there] if key in ("xy_px", "xy_um") else value for key, value in place.items()}
    for values in (place.get("xy_px"), place.get("xy_um")):
        if values is not None:
            require_finite(values, ids, files[0], "the positions")
    found = InstrumentSection(
        platform=platform,
        ids=ids,
        counts=sparse.csr_matrix(table.layers.get("counts", table.X)),
        genes=genes,
        gene_ids=table.var["gene_ids"].to_numpy(dtype=np.str_) if "gene_ids" in table.var else genes,
        obs={name: table.obs[name].to_numpy() for name in _KEPT if name in table.obs},
        files=files,
        notes=notes,
        **place,
    )
    kinds = table.var["feature_types"].to_numpy(dtype=np.str_) if "feature_types" in table.var else None
    return checked_matrix(found, kinds)
