"""Files for viewers: QuPath (GeoJSON), OME-TIFF maps, Vitessce, SpatialData."""

import gzip
import json
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from scipy.spatial import KDTree

from spam.errors import ConfigError
from spam.store.anndata_files import write_zarr, zarr_version
from spam.typing import Array, Int64

from .exported_section import ExportedSection

_N_CORNERS = 16  # of the polygon that stands for a round spot
_SPOT_PX, _MOST_PX = 8.0, 4096  # of a map: diameter of a spot, and longer side of the map
_TILE_PX = 256
SERVED_AT = "http://localhost:8000"
"""Where a Vitessce configuration expects its folder; Vitessce takes no relative addresses."""
_MOST_CATEGORIES = 50  # of a column that Vitessce shows as sets of spots


def write_geojson(section: ExportedSection, genes: Sequence[str], path: Path) -> None:
    """Write a gzipped GeoJSON for QuPath: a round detection per spot, in full-resolution pixels, with genes as measurements.

    Spots without a prediction have no measurements.
    """
    turns = np.linspace(0, 2 * np.pi, _N_CORNERS + 1)
    circle = section.diameter_px / 2 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    circle[-1] = circle[0]  # a ring ends where it begins
    outlines = np.round(section.xy_px[:, None] + circle, 2).tolist()
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{section.name}/{spot}")),
            "geometry": {"type": "Polygon", "coordinates": [outline]},
            "properties": {
                "objectType": "detection",
                "name": spot,
                "measurements": {gene: v for gene, v in zip(genes, row, strict=True) if math.isfinite(v)},
            },
        }
        for spot, outline, row in zip(
            section.adata.obs_names, outlines, section.values(genes).tolist(), strict=True
        )
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def write_maps(section: ExportedSection, genes: Sequence[str], path: Path) -> None:
    """Write an OME-TIFF with a channel per gene: float32, NaN between the spots.

    The upper left corner is that of the slide, and the size of a pixel is that of the slide's pixels over the scale (in µm, or
    in full-resolution pixels if µm are unknown), so that viewers lay the maps over the slide.
    """
    labels, scale = _label_spots(section)
    values = np.vstack([section.values(genes), np.full((1, len(genes)), np.nan)]).astype(np.float32)
    size = (section.mpp or 1.0) / scale
    unit = "µm" if section.mpp else "pixel"
    metadata = {
        "axes": "CYX",
        "Name": section.name,
        "Channel": {"Name": list(genes)},
        **{f"PhysicalSize{axis}": size for axis in "XY"},
        **{f"PhysicalSize{axis}Unit": unit for axis in "XY"},
    }
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as file:
        file.write(
            (np.ascontiguousarray(values[labels, channel]) for channel in range(len(genes))),
            shape=(len(genes), *labels.shape),
            dtype=np.float32,
            photometric="minisblack",
            compression="zlib",
            rowsperstrip=_TILE_PX,
            metadata=metadata,
        )


def _label_spots(section: ExportedSection) -> tuple[Int64[Array, "height width"], float]:
    """Number the spot that covers each pixel (the nearest one; n_spots for none); return the pixels per slide pixel too."""
    diameter_px = section.diameter_px
    extent = np.maximum(section.xy_px.max(axis=0) + diameter_px, 1.0)
    scale = min(1.0, _SPOT_PX / diameter_px, _MOST_PX / extent.max())
    width, height = np.ceil(extent * scale).astype(int)
    labels = np.full((height, width), section.adata.n_obs, dtype=np.int64)
    tree, radius = KDTree(section.xy_px * scale), max(diameter_px * scale / 2, 0.75)  # at least one pixel
    for top in range(0, height, _TILE_PX):
        rows, columns = np.mgrid[top : min(top + _TILE_PX, height), :width]
        centres = np.stack([columns, rows], axis=-1) + 0.5
        labels[top : top + _TILE_PX] = tree.query(centres, distance_upper_bound=radius)[1]
    return labels, scale


def write_vitessce(section: ExportedSection, genes: Sequence[str], folder: Path) -> None:
    """Write a folder with ``config.json``, an AnnData-Zarr (version 2) and the overview image, to be served at `SERVED_AT`."""
    address = f"{SERVED_AT}/{folder.name}"
    adata = section.adata.copy()
    for name in [key for key in adata.obsm if key != "spatial"]:
        del adata.obsm[name]  # Vitessce reads none of the features
    adata.obsm["spatial"] = section.xy_px.astype(np.float32)
    del adata.obsp, adata.uns
    adata.strings_to_categoricals()
    folder.mkdir()
    sets = [
        {"name": name, "path": f"obs/{name}"}
        for name, column in adata.obs.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
        and 1 < len(column.cat.categories) <= _MOST_CATEGORIES
    ]
    write_zarr(adata, folder / "spots.zarr", zarr_format=2)
    options = {
        "obsLocations": {"path": "obsm/spatial"},
        "obsFeatureMatrix": {"path": "X"},
        **({"obsSets": sets} if sets else {}),
    }
    files: list[dict[str, Any]] = [
        {"fileType": "anndata.zarr", "url": f"{address}/spots.zarr", "options": options}
    ]
    if section.overview is not None:
        pixels, scale = section.overview
        planes, channels = np.moveaxis(pixels, 2, 0), {"axes": "CYX", "Channel": {"Name": ["R", "G", "B"]}}
        tifffile.imwrite(
            folder / "overview.ome.tif", planes, ome=True, photometric="minisblack", metadata=channels
        )
        # in the DimensionOrder of the file, XYCZT
        steps = [{"type": "scale", "scale": [1 / scale, 1 / scale, 1, 1, 1]}]
        image = {"fileType": "image.ome-tiff", "url": f"{address}/overview.ome.tif"}
        files.append({**image, "options": {"coordinateTransformations": steps}})
    spots = {"opacity": 1, "radius": section.diameter_px / 2, "visible": True, "stroked": False}
    scopes = {
        "dataset": section.name,
        "featureSelection": [genes[0]],
        "obsColorEncoding": "geneSelection",
        "spatialSegmentationLayer": spots,
    }
    views = {"spatial": (0, 0, 8, 12), "layerController": (8, 0, 4, 4), "featureList": (8, 4, 4, 4)}
    views |= {"obsSets": (8, 8, 4, 4)} if sets else {}
    config = {
        "version": "1.0.15",
        "name": section.name,
        "description": "made by spam export",
        "datasets": [{"uid": section.name, "name": section.name, "files": files}],
        "coordinationSpace": {name: {"A": value} for name, value in scopes.items()},
        "layout": [
            {
                "component": view,
                "coordinationScopes": dict.fromkeys(scopes, "A"),
                **dict(zip("xywh", place, strict=True)),
            }
            for view, place in views.items()
        ],
        "initStrategy": "auto",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def write_spatialdata(section: ExportedSection, path: Path) -> None:
    """Write a SpatialData Zarr: ``table``, ``spots`` (circles) and ``overview``, in full-resolution pixels (``global``).

    Names that SpatialData does not take are changed by its own rules.

    Raises
    ------
    ConfigError
        If the package spatialdata is not installed.
    """
    try:
        import spatialdata
        from spatialdata import models, transformations
    except ImportError as error:
        message = "--format spatialdata needs that package. Run: pip install 'spam-st[spatialdata]'"
        raise ConfigError(message) from error
    adata = section.adata.copy()
    spatialdata.sanitize_table(adata)
    adata.obs["region"] = pd.Categorical(["spots"] * adata.n_obs)
    adata.obs["instance_id"] = adata.obs_names.to_numpy(dtype=object)
    keys = {"region": "spots", "region_key": "region", "instance_key": "instance_id"}
    elements: dict[str, Any] = {
        "spots": models.ShapesModel.parse(
            section.xy_px,
            geometry=0,
            radius=section.diameter_px / 2,
            index=adata.obs["instance_id"].to_numpy(),
        )
    }
    elements["table"] = models.TableModel.parse(adata, **keys)
    if section.overview is not None:
        pixels, scale = section.overview
        place = {"global": transformations.Scale([1 / scale, 1 / scale], axes=("x", "y"))}
        planes = np.moveaxis(pixels, 2, 0)
        elements["overview"] = models.Image2DModel.parse(
            planes, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=place
        )
    with zarr_version(3):
        spatialdata.SpatialData.init_from_elements(elements).write(path)
