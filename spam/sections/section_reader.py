"""From the inputs of a section (h5ad, table, folder of images) to a checked `Section`; the manifest of a cohort."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array

from .coordinates import (
    choose_reading,
    compare_with_h5ad,
    find_scale,
    stated_factor,
    table_coordinates,
    to_pixels,
)
from .h5ad import annotations, libraries, library_of, named_values, read_counts, read_h5ad, spots_of_section
from .lab_section import Section, SlideSource, TileFiles, TileSource, describe_sources, is_slide, quoted
from .tile_table import SLIDE_COLUMN, Table, join_rows, read_csv_text, read_table

_MANIFEST_COLUMNS = ("section", "donor", "h5ad", "csv", "root")
_DONOR_COLUMNS = ("patient", "donor")


def read_section(config: InputConfig, *, name_hint: str | None = None) -> Section:
    """Read one section: join its table to its h5ad by exact id, and check everything that needs no pixels.

    Without an h5ad (pure prediction) ids, coordinates, donor and name come from the table, and there are no counts.
    Nothing is repaired: if a fault has a likely cause, the error names the option that fixes it.

    Parameters
    ----------
    config
        Paths of the files and how to read the table.
    name_hint
        Name of the section if `config` gives none.

    Raises
    ------
    ConfigError
        If ``--csv`` or ``--root`` is missing, or an option cannot be used.
    MissingInputError
        If files or folders do not exist; names all of them.
    SectionError
        If a file cannot be read, or table, h5ad and coordinates do not fit together.
    """
    if config.csv is None or config.root is None:
        message = f"A section needs --csv (given: {config.csv}) and --root (given: {config.root})."
        raise ConfigError(message)
    files = {"--h5ad": config.h5ad, "--csv": config.csv}
    absent = {option: path for option, path in files.items() if path is not None and not path.is_file()}
    missing = [f"File not found: {path} ({option})." for option, path in absent.items()]
    missing += [] if config.root.is_dir() else [f"Folder not found: {config.root} (--root)."]
    if missing:
        message = " ".join(missing)
        raise MissingInputError(message)

    table = read_table(config.csv)
    adata = read_h5ad(config.h5ad) if config.h5ad is not None else None
    name = _section_name(config.section or name_hint, config, adata, table)
    reading = choose_reading(table, unit=config.coordinates, is_swapped=config.swap_xy)
    of_section = _rows_of_section(table, name)
    adata = None if adata is None else spots_of_section(adata, name)
    donor = config.donor or _stated_donor(adata, of_section)

    h5ad_ids = None if adata is None else np.array(adata.obs_names, dtype=np.str_)
    join = join_rows(of_section, h5ad_ids, section=name, config=config)
    joined = of_section.where(join.table_rows)
    scale = find_scale(config.mpp, library_of(adata, name))
    xy = table_coordinates(joined, reading)
    xy_px = to_pixels(xy, reading, scale)
    notes: tuple[str, ...] = (*join.report.notes, *scale.notes)
    counts, genes, obs = None, None, dict[str, Array]()
    if adata is not None:
        adata = adata[join.h5ad_rows]
        notes += compare_with_h5ad(xy, adata.obsm.get("spatial"), reading, scale)
        counts, genes = read_counts(adata, layer=config.counts_layer, where=str(config.h5ad))
        obs = annotations(adata)
    patch_px, tile_notes = joined.stated_tile_px()
    tiles = _find_images(joined, config.root)
    n_other = len(table) - len(of_section)
    return Section(
        name=name,
        donor=donor,
        ids=join.ids,
        xy_px=xy_px,
        mpp=scale.mpp,
        mpp_source=scale.mpp_source,
        counts=counts,
        genes=genes,
        obs=obs,
        tiles=tiles,
        patch_px=patch_px,
        hires_scale=scale.hires,
        spot_diameter_px=stated_factor(library_of(adata, name), "spot_diameter_fullres"),
        join=dataclasses.replace(join.report, n_other_sections=n_other, notes=(*notes, *tile_notes)),
        sources=describe_sources(tiles, h5ad=config.h5ad, csv=config.csv),
    )


def _section_name(requested: str | None, config: InputConfig, adata: AnnData | None, table: Table) -> str:
    """Return the requested name, else the one that the h5ad states, or (without an h5ad) the table.

    An h5ad states it by ``obs['section']``, the one key of ``uns['spatial']``, or its file name; a table by its column
    ``section`` or its file name.
    """
    if adata is None:
        stated, place = table.named_values("section"), f"Column 'section' of {table.path}"
        otherwise = table.path.name.removesuffix(".gz").removesuffix(".csv")
    else:
        stated, place = named_values(adata, "section"), f"obs['section'] of {config.h5ad}"
        keys = tuple(libraries(adata))
        otherwise = str(keys[0]) if len(keys) == 1 else config.h5ad.stem if config.h5ad else ""
    is_unclear = len(stated) > 1 if requested is None else bool(stated) and requested not in stated
    if is_unclear:
        but = f", not {requested!r}" if requested is not None else ""
        message = f"{place} holds {len(stated)} sections: {quoted(stated)}{but}. Choose with --section."
        raise SectionError(message)
    return requested or (stated[0] if stated else otherwise)


def _rows_of_section(table: Table, name: str) -> Table:
    """Keep the rows of one section; all, if the table has no (or an empty) column ``section``."""
    stated = table.named_values("section")
    if stated and name not in stated:
        message = f"{table.path} has no section {name!r}, only {quoted(stated)}. See --section."
        raise SectionError(message)
    return table.where(table.text("section") == name) if stated else table


def _stated_donor(adata: AnnData | None, table: Table) -> str | None:
    """Return the donor that h5ad and table (both cut to one section) state; None if they state none."""
    stated: dict[str, list[str]] = {}
    for column in _DONOR_COLUMNS:
        for donor in named_values(adata, column):
            stated.setdefault(donor, []).append(f"obs[{column!r}]")
        for donor in table.named_values(column):
            stated.setdefault(donor, []).append(f"column {column!r} of {table.path.name}")
    if len(stated) > 1:
        places = "; ".join(f"{donor!r} in {', '.join(where)}" for donor, where in stated.items())
        message = f"A section has one donor, but {len(stated)} are stated: {places}. Choose with --donor."
        raise SectionError(message)
    return next(iter(stated), None)


def _find_images(table: Table, root: Path) -> TileSource:
    """Find the images of the joined rows below `root`, or below its folder ``images``.

    One image for all rows of ``source_image`` is a slide; as many images as rows, or a column of tile files, are tiles.
    """
    column = table.image_column
    names = table.text(column).tolist()
    distinct = list(dict.fromkeys(names))
    if "" in distinct:
        unnamed = [spot for spot, image in zip(table.text(table.id_column), names, strict=True) if not image]
        message = f"{table.path}: {len(unnamed)} rows have an empty {column!r}: ids {quoted(unnamed)}."
        raise SectionError(message)
    is_one_slide = column == SLIDE_COLUMN and len(distinct) == 1
    if column == SLIDE_COLUMN and 1 < len(distinct) < len(names):
        message = (
            f"{table.path}: {len(names)} rows name {len(distinct)} images in {column!r} ({quoted(distinct)}), expected "
            "one slide, or one tile file per row. For several sections, add a column 'section' and choose with --section."
        )
        raise SectionError(message)
    places = {name: (root / name, root / "images" / name) for name in distinct}
    found = {x: path for x, paths in places.items() if (path := next(filter(is_slide, paths), None))}
    missing = [name for name in distinct if name not in found]
    if missing:
        folders = [name for name in missing if any(path.is_dir() for path in places[name])]
        no_slides = f" Folders, but not OME-Zarr or DICOM: {quoted(folders)}." if folders else ""
        message = (
            f"{len(missing)} of {len(distinct)} {'slides' if is_one_slide else 'tile files'} in column {column!r} of "
            f"{table.path} not found: {quoted(missing)}.{no_slides} Searched {root} and {root / 'images'} (--root)."
        )
        raise MissingInputError(message)
    paths = tuple(found[name] for name in names)
    return SlideSource(path=paths[0]) if is_one_slide else TileFiles(paths=paths)


def read_manifest(path: Path, *, root: Path | None) -> tuple[InputConfig, ...]:
    """Read a manifest, a CSV with one row per section: columns section, donor, h5ad, csv, root.

    Relative paths start from the manifest's folder, then from `root`. An empty ``root`` means `root`, an empty ``h5ad``
    pure prediction; an empty ``section`` or ``donor`` is taken from the section's files. Rows count from 1 after the
    header.

    Raises
    ------
    MissingInputError
        If the manifest does not exist, or its only faults are missing files.
    SectionError
        If it has other columns, a row without a table or root, or a section twice. All faults are listed.
    """
    if not path.is_file():
        message = f"File not found: {path} (--manifest)."
        raise MissingInputError(message)
    frame = read_csv_text(path)
    unknown = [column for column in frame.columns if column not in _MANIFEST_COLUMNS]
    if unknown or "csv" not in frame.columns:
        found = f"unknown columns {quoted(unknown)}" if unknown else "no column 'csv'"
        message = f"Manifest {path} has {found}. Allowed: {', '.join(_MANIFEST_COLUMNS)}."
        raise SectionError(message)

    folders = [path.parent] if root is None else [path.parent, root]
    configs: list[InputConfig] = []
    wrong: list[str] = []
    missing: list[str] = []
    first_row: dict[str, int] = {}
    for number, cells in enumerate(frame.to_dict("records"), start=1):
        row: dict[str, Any] = {"root": root} | {name: cell for name, cell in cells.items() if cell}
        section = row.get("section")
        if section is not None and first_row.setdefault(section, number) != number:
            wrong.append(f"row {number}: section {section!r} repeats row {first_row[section]}")
        wrong += [] if "csv" in row else [f"row {number}: no csv"]
        wrong += [] if row["root"] else [f"row {number}: no root (or give --root)"]
        for name in ("h5ad", "csv", "root"):
            if cell := cells.get(name):
                exists = Path.is_dir if name == "root" else Path.is_file
                row[name] = next((at / cell for at in folders if exists(at / cell)), None)
                missing += [] if row[name] else [f"row {number}: {name} {cell!r} not found"]
        configs.append(InputConfig(**row))
    if wrong or missing:
        searched = f" Searched {' and '.join(map(str, folders))}." if missing else ""
        message = f"Manifest {path}: {'; '.join([*wrong, *missing])}.{searched}"
        raise SectionError(message) if wrong else MissingInputError(message)
    return tuple(configs)
