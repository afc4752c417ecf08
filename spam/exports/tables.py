"""Tables: CSV and Parquet, and the folder of Space Ranger (MEX matrix with ``spatial/``)."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import io, sparse

from .exported_section import ExportedSection

_FIDUCIAL_PER_SPOT = 1.6153  # of Space Ranger: diameters of 105 and 65 µm
_LOWRES_PX = 600  # longer side of Space Ranger's low-resolution image


def write_tables(section: ExportedSection, path: Path) -> None:
    """Write one row per spot: ``obs``, coordinates, dense values by gene, then ``<obsm key>:<column>``.

    Sparse counts go to a second file, ``<name>.counts.<suffix>``: one row per nonzero count.
    """
    _write_table(spots_table(section), path)
    if section.adata.X is not None and not section.is_dense:
        _write_table(counts_table(section), counts_path(path), has_index=False)


def counts_path(path: Path) -> Path:
    """Return the path of the second table, ``C2.counts.csv`` for ``C2.csv``."""
    return path.with_name(f"{path.stem}.counts{path.suffix}")


def _write_table(table: pd.DataFrame, path: Path, *, has_index: bool = True) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=has_index)
    else:
        table.to_parquet(path, index=has_index)


def spots_table(section: ExportedSection) -> pd.DataFrame:
    """Build the table of the spots."""
    adata = section.adata
    columns = {name: adata.obs[name] for name in adata.obs if name != "library_id"}  # the section again
    for key, unit in (("spatial", "px"), ("spatial_um", "um")):
        if key in adata.obsm:
            columns |= {f"{axis}_{unit}": adata.obsm[key][:, i] for i, axis in enumerate("xy")}
    if section.is_dense:
        names = [f"gene:{gene}" if gene in columns else gene for gene in adata.var_names]
        columns |= dict(zip(names, adata.X.T, strict=True))
    for key in adata.obsm:
        values = adata.obsm[key]
        if isinstance(values, pd.DataFrame):
            columns |= {f"{key}:{name}": values[name] for name in values}
        elif not key.startswith("spatial"):
            columns |= {f"{key}:{place}": column for place, column in enumerate(values.T)}
    return pd.DataFrame(columns, index=pd.Index(adata.obs_names, name="spot_id"))


def counts_table(section: ExportedSection) -> pd.DataFrame:
    """Build the table of the nonzero counts: spot_id, gene, count."""
    adata = section.adata
    counts = sparse.coo_array(adata.X)
    is_there = counts.data != 0
    return pd.DataFrame(
        {
            "spot_id": pd.Categorical.from_codes(counts.coords[0][is_there], adata.obs_names),
            "gene": pd.Categorical.from_codes(counts.coords[1][is_there], adata.var_names),
            "count": counts.data[is_there],
        }
    )


def write_mex(section: ExportedSection, folder: Path) -> None:
    """Write a folder as Space Ranger does: matrix, features and barcodes, and ``spatial/`` with positions and images.

    The values are whole numbers for counts. Spots without a prediction are left out. Array positions are 0 if unknown.
    """
    adata = section.adata[section.is_known]
    folder.mkdir()
    matrix = sparse.coo_array(adata.X.T)
    is_whole = bool((matrix.data == np.round(matrix.data)).all())
    with _gzipped(folder / "matrix.mtx.gz") as file:
        io.mmwrite(file, matrix.astype(np.int64) if is_whole else matrix)
    genes = pd.DataFrame({"id": adata.var_names, "name": adata.var_names, "type": "Gene Expression"})
    for name, table in (("features", genes), ("barcodes", pd.DataFrame(adata.obs_names))):
        with _gzipped(folder / f"{name}.tsv.gz") as file:
            table.to_csv(file, sep="\t", header=False, index=False)
    if "spatial" in adata.obsm:
        (folder / "spatial").mkdir()
        _write_positions(section, folder / "spatial")


def _gzipped(path: Path) -> gzip.GzipFile:
    return gzip.GzipFile(path, "wb", compresslevel=6, mtime=0)  # the same bytes at any time


def _write_positions(section: ExportedSection, folder: Path) -> None:
    obs = section.adata.obs[section.is_known]
    stated = {
        name: pd.to_numeric(obs[name], errors="coerce").fillna(unknown).astype(int)
        if name in obs
        else unknown
        for name, unknown in (("in_tissue", 1), ("array_row", 0), ("array_col", 0))
    }
    x, y = section.xy_px[section.is_known].T
    table = pd.DataFrame({**stated, "pxl_row_in_fullres": y, "pxl_col_in_fullres": x}, index=obs.index)
    table.rename_axis("barcode").to_csv(folder / "tissue_positions.csv")
    diameter_px = section.diameter_px
    factors = {
        "spot_diameter_fullres": diameter_px,
        "fiducial_diameter_fullres": diameter_px * _FIDUCIAL_PER_SPOT,
    }
    if section.overview is not None:
        pixels, scale = section.overview
        image = Image.fromarray(pixels)
        image.save(folder / "tissue_hires_image.png")
        image.thumbnail((_LOWRES_PX, _LOWRES_PX))
        image.save(folder / "tissue_lowres_image.png")
        factors["tissue_hires_scalef"] = scale
        factors["tissue_lowres_scalef"] = scale * image.width / pixels.shape[1]
    (folder / "scalefactors_json.json").write_text(json.dumps(factors), encoding="utf-8")
