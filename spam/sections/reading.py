"""From the three inputs of a section (h5ad, table, folder of images) to a checked `Section`."""

import dataclasses
from pathlib import Path

import numpy as np
from anndata import AnnData

from spam.errors import ConfigError, MissingInputError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Float64

from .coordinates import Reading, choose_reading, compare_with_h5ad, table_coordinates, to_pixels
from .counts import read_counts
from .h5ad import annotations, named_values, read_h5ad, spatial_library
from .identity import find_donor, find_section_name, rows_of_section
from .images import find_tiles
from .join import join_rows
from .scale import Scale, find_scale, scale_notes
from .section import Section
from .sources import describe_sources
from .table import read_table
from .tile_size import stated_tile_px

__all__ = ["read_section"]


def read_section(config: InputConfig, *, name_hint: str | None = None) -> Section:
    """Read one section: join its table to its h5ad by exact id, and check all that needs no pixels.

    Without an h5ad (pure prediction) ids, coordinates, donor and name come from the table, and there are no
    counts. Nothing is repaired: where a fault has a likely cause, the error names the option that mends it on
    purpose.

    Parameters
    ----------
    config
        Where the files are and how the table is to be read.
    name_hint
        Name of the section if `config` names none.

    Raises
    ------
    ConfigError
        If ``--csv`` or ``--root`` is missing, or an option cannot be used.
    MissingInputError
        If a named file or folder is not there; names all of them.
    SectionError
        If a file cannot be read, or table, h5ad and coordinates do not fit together.
    """
    csv, root = _require_inputs(config)
    table = read_table(csv)
    adata = read_h5ad(config.h5ad) if config.h5ad is not None else None
    name = find_section_name(
        config.section or name_hint,
        adata=adata,
        h5ad_stem=config.h5ad.stem if config.h5ad else "",
        table=table,
    )
    reading = choose_reading(table, unit=config.coordinates, is_swapped=config.swap_xy)
    of_section = rows_of_section(table, name)
    if adata is not None and named_values(adata, "section"):
        adata = adata[(adata.obs["section"].astype(str) == name).to_numpy(dtype=np.bool_)]
    donor = find_donor(config.donor, adata=adata, table=of_section)

    join = join_rows(
        of_section,
        None if adata is None else np.array(adata.obs_names, dtype=np.str_),
        section=name,
        n_other_sections=len(table) - len(of_section),
        config=config,
    )
    joined = of_section.where(join.table_rows)
    adata = None if adata is None else adata[join.h5ad_rows]

    library = spatial_library(adata, name) if adata is not None else {}
    scale = find_scale(config.mpp, library)
    xy = table_coordinates(joined, reading, ids=join.ids)
    xy_px = to_pixels(xy, reading, scale)
    coordinate_notes = _compare(xy, adata, reading, scale)
    patch_px, tile_notes = stated_tile_px(joined)
    notes = (*join.report.notes, *scale_notes(scale, library), *coordinate_notes, *tile_notes)
    counts, genes = (
        read_counts(adata, layer=config.counts_layer, where=str(config.h5ad))
        if adata is not None
        else (None, None)
    )
    tiles = find_tiles(joined, root)
    return Section(
        name=name,
        donor=donor,
        ids=join.ids,
        xy_px=xy_px,
        xy_um=None if scale.mpp is None else xy_px * scale.mpp,
        mpp=scale.mpp,
        mpp_source=scale.mpp_source,
        counts=counts,
        genes=genes,
        obs={} if adata is None else annotations(adata),
        tiles=tiles,
        patch_px=patch_px,
        hires_scale=scale.hires,
        join=dataclasses.replace(join.report, notes=notes),
        sources=describe_sources(h5ad=config.h5ad, csv=csv, tiles=tiles),
    )


def _require_inputs(config: InputConfig) -> tuple[Path, Path]:
    """Return table and folder of images, or raise naming everything that was not given or is not there."""
    if config.csv is None or config.root is None:
        message = (
            f"a section needs a table of tiles (--csv, given: {config.csv}) and the folder of its images "
            f"(--root, given: {config.root})"
        )
        raise ConfigError(message)
    missing = [
        f"{option} {path} is not {kind}"
        for option, path, kind, is_there in (
            ("--h5ad", config.h5ad, "a file", config.h5ad is None or config.h5ad.is_file()),
            ("--csv", config.csv, "a file", config.csv.is_file()),
            ("--root", config.root, "a folder", config.root.is_dir()),
        )
        if not is_there
    ]
    if missing:
        message = (
            f"inputs are not there: {'; '.join(missing)}; check these paths (relative ones start from the "
            "current folder)"
        )
        raise MissingInputError(message)
    return config.csv, config.root


def _compare(
    xy: Float64[Array, "n 2"], adata: AnnData | None, reading: Reading, scale: Scale
) -> tuple[str, ...]:
    """Compare the table's coordinates with ``obsm['spatial']`` where the h5ad has finite ones."""
    if adata is None or "spatial" not in adata.obsm:
        return ()
    spatial = np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2]
    if not np.isfinite(spatial).all():
        return (
            "obsm['spatial'] of the h5ad holds NaN, so the table's coordinates were not compared with it",
        )
    return compare_with_h5ad(xy, spatial, reading, scale)
