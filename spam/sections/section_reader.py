"""From the inputs of a section (h5ad, table, folder of images) to a checked `Section`; the manifest of a cohort."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd

from spam.errors import ConfigError, MissingInputError, SectionError, counted, shortened
from spam.schemas.embed_config import InputConfig, SectionsConfig
from spam.schemas.store_format import name_fault
from spam.typing import Array, Float64, Shaped

from .coordinates import (
    CENTRE_COLUMNS,
    UM_COLUMNS,
    choose_reading,
    compare_with_h5ad,
    find_array,
    find_scale,
    pitch_hint,
    spot_diameter,
    table_coordinates,
    to_pixels,
)
from .geojson import read_cells, select_regions
from .h5ad import H5ad, library_of, named_values, read_counts, read_h5ad, require_readable, spots_of_section
from .id_join import choose_ids, join_rows
from .instrument_folder import read_folder_section
from .lab_section import (
    Section,
    SlideSource,
    TileFiles,
    TileSource,
    describe_sources,
    is_slide,
    is_there,
    quoted,
    require_name,
)
from .tile_table import ID_COLUMNS, SLIDE_COLUMN, Table, read_csv_text, read_table

_MANIFEST_COLUMNS = ("section", "donor", "h5ad", "csv", "root", "regions")
_MOST_FAULTS = 8  # that a message lists
_DONOR_COLUMNS = ("patient", "donor")
# Other names in use, without case and signs; read if there are none of the two above.
_OTHER_DONOR_COLUMNS = frozenset(
    {
        *("patient", "donor", "subject", "individual", "participant", "patientid", "donorid", "subjectid"),
        *("individualid", "participantid", "caseid", "animalid", "mouseid", "patientname", "donorname"),
    }
)
_LIKE_A_DONOR = re.compile("patient|donor|subject|individual|participant|animal|mouse|case", re.IGNORECASE)


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
    if config.from_ is not None:
        return select_regions(read_folder_section(config), config.regions)
    if config.cells is not None:
        return select_regions(read_cells(config), config.regions)
    if config.csv is None or config.root is None:
        message = f"A section needs --csv (given: {config.csv}) and --root (given: {config.root})."
        raise ConfigError(message)
    files = {"--h5ad": config.h5ad, "--csv": config.csv}
    absent = {option: path for option, path in files.items() if path is not None and not path.is_file()}
    missing = [f"File not found: {path} ({option})." for option, path in absent.items()]
    if config.root.is_file():
        missing.append(
            f"Not a folder, but a file: {config.root} (--root). Give its folder, {config.root.parent}."
        )
    elif not config.root.is_dir():
        missing.append(f"Folder not found: {config.root} (--root).")
    if missing:
        message = " ".join(missing)
        raise MissingInputError(message)

    h5ad = read_h5ad(config.h5ad) if config.h5ad is not None else None
    return _joined(read_table(config.csv), h5ad, config, name_hint)


def read_section_without_images(
    config: InputConfig, ids: Shaped[Array, " n"] | None = None, xy_px: Float64[Array, "n 2"] | None = None
) -> Section:
    """Read a section without images, for features that exist: the spots of an h5ad at their ``obsm['spatial']``.

    Parameters
    ----------
    config
        The h5ad and how it is read; without an h5ad the section has no counts.
    ids, xy_px
        Positions by id in full-resolution pixels, in place of those of the h5ad.

    Raises
    ------
    ConfigError
        If an option cannot be used, or positions in µm need ``--mpp``.
    SectionError
        If the h5ad cannot be read, has no usable positions, or they do not fit its spots.
    """
    h5ad = read_h5ad(config.h5ad) if config.h5ad is not None else None
    columns, sections = CENTRE_COLUMNS[0], dict[str, Array]()
    if h5ad is not None and xy_px is None:
        if h5ad.spatial is None:
            message = f"{h5ad.where} has no obsm['spatial'] with a position for each spot."
            raise SectionError(message)
        ids, xy_px, h5ad = h5ad.ids, h5ad.spatial[:, :2], dataclasses.replace(h5ad, spatial=None)
        sections = {x: values.astype(str) for x, values in h5ad.obs.items() if x == "section"}
        units = {library["metadata"].get("unit") for library in h5ad.libraries.values()}
        columns = UM_COLUMNS if units == {"um"} else columns  # as `spam import` writes it without an image
    assert ids is not None  # with the positions
    assert xy_px is not None
    cells = {ID_COLUMNS[0]: ids, **sections, **dict(zip(columns, xy_px.T.astype(str), strict=True))}
    table = Table(
        path=config.h5ad or Path("the features"),
        frame=pd.DataFrame(cells),
        id_column=ID_COLUMNS[0],
        image_column=SLIDE_COLUMN,
    )
    return _joined(table, h5ad, config, None)


def _joined(table: Table, h5ad: H5ad | None, config: InputConfig, name_hint: str | None) -> Section:
    """Join a table with an h5ad, and read what belongs to the spots that both have."""
    name = _section_name(config.section or name_hint, h5ad, table)
    require_name(name)
    reading = choose_reading(table, unit=config.coordinates, is_swapped=bool(config.swap_xy))
    of_section = _rows_of_section(table, name)
    h5ad = None if h5ad is None else spots_of_section(h5ad, name)
    donor, donor_notes = _find_donor(config.donor, h5ad, of_section)
    notes = [*(() if h5ad is None else h5ad.notes), *donor_notes]

    of_section, id_note = choose_ids(of_section, h5ad, config)
    join = join_rows(of_section, h5ad, section=name, config=config)
    joined = of_section.where(join.table_rows)
    library = library_of(h5ad, name)
    if h5ad is not None and h5ad.libraries and name not in h5ad.libraries and len(h5ad.libraries) > 1:
        others = f"the libraries {quoted(list(h5ad.libraries))}, none of them for section {shortened(name)}"
        notes.append(f"uns['spatial'] of the h5ad has {others}, so their scales were not used; see --section")
    scale = find_scale(config.mpp, library)
    xy = table_coordinates(joined, reading)
    xy_px = to_pixels(xy, reading, scale)
    array = find_array(xy_px, library)
    hint = pitch_hint(array, library) if scale.mpp is None else None
    notes += [*id_note, *join.report.notes, *scale.notes, *filter(None, [hint])]
    found, obs = None, dict[str, Array]()
    if h5ad is not None and join.h5ad_rows is not None:
        h5ad = h5ad.at(join.h5ad_rows)
        notes += compare_with_h5ad(xy, h5ad.spatial, reading, scale)
        found = read_counts(h5ad, layer=config.counts_layer)
        notes += found.notes if found is not None else ()
        obs, obs_notes = _annotations(h5ad)
        notes += obs_notes
    patch_px, tile_notes = joined.stated_tile_px()
    tiles = None if config.root is None else _find_images(joined, config.root)
    n_other = len(table) - len(of_section)
    section = Section(
        name=name,
        donor=donor,
        ids=join.ids,
        xy_px=xy_px,
        mpp=scale.mpp,
        mpp_source=scale.mpp_source,
        counts=None if found is None else found.counts,
        genes=None if found is None else found.genes,
        obs=obs,
        tiles=tiles,
        patch_px=patch_px,
        hires_scale=scale.hires,
        spot_diameter_px=spot_diameter(library, scale.mpp),
        array=array,
        join=dataclasses.replace(join.report, n_other_sections=n_other, notes=(*notes, *tile_notes)),
        sources=describe_sources(tiles, h5ad=config.h5ad, csv=config.csv),
    )
    return select_regions(section, config.regions)


def _section_name(requested: str | None, h5ad: H5ad | None, table: Table) -> str:
    """Return the requested name, else the one that the h5ad states, or (without an h5ad) the table.

    An h5ad states it by ``obs['section']``, the one key of ``uns['spatial']``, or its file name; a table by its column
    ``section`` or its file name.
    """
    if h5ad is None:
        stated, place = table.named_values("section"), f"Column 'section' of {table.path}"
        otherwise = table.path.name.removesuffix(".gz").removesuffix(".csv")
    else:
        require_readable(h5ad, ["section"])
        stated, place = named_values(h5ad, "section"), f"obs['section'] of {h5ad.path}"
        keys = tuple(h5ad.libraries)
        otherwise = keys[0] if len(keys) == 1 else h5ad.path.stem
    is_unclear = len(stated) > 1 if requested is None else bool(stated) and requested not in stated
    if is_unclear:
        but = f", not {shortened(requested)}" if requested is not None else ""
        message = (
            f"{place} holds {counted(len(stated), 'section')}: {quoted(stated)}{but}. Choose with --section."
        )
        raise SectionError(message)
    return requested or (stated[0] if stated else otherwise)


def _rows_of_section(table: Table, name: str) -> Table:
    """Keep the rows of one section; all, if the table has no (or an empty) column ``section``."""
    stated = table.named_values("section")
    if stated and name not in stated:
        message = f"{table.path} has no section {shortened(name)}, only {quoted(stated)}. See --section."
        raise SectionError(message)
    return table.where(table.text("section") == name) if stated else table


def _find_donor(option: str | None, h5ad: H5ad | None, table: Table) -> tuple[str | None, list[str]]:
    """Return the donor that the option, or h5ad and table (both cut to one section) state, and notes on what was not used.

    The columns are patient and donor, else others of that meaning. A column that only looks like one is named.
    """
    stated: list[tuple[str, str, tuple[str, ...]]] = []  # column, place, values
    if h5ad is not None:
        require_readable(h5ad, filter(_is_of_donor, h5ad.unreadable))
        stated = [(name, f"obs[{shortened(name)}]", named_values(h5ad, name)) for name in h5ad.obs]
    of_table = f"of {table.path.name}"
    stated += [(x, f"column {shortened(x)} {of_table}", table.named_values(x)) for x in table.frame.columns]
    stated = [one for one in stated if one[2] and _LIKE_A_DONOR.search(one[0])]
    used = [one for one in stated if one[0] in _DONOR_COLUMNS] or [x for x in stated if _is_of_donor(x[0])]
    places: dict[str, list[str]] = {}
    for _, place, donors in used:
        for donor in donors:
            places.setdefault(donor, []).append(place)
    shown = "; ".join(
        f"{shortened(donor)} in {', '.join(where)}" for donor, where in list(places.items())[:5]
    )
    if option is not None:
        return option, [f"--donor {option!r} overrules {shown}"] if {*places} - {option} else []
    if len(places) > 1:
        message = f"A section has one donor, but {len(places)} are stated: {shown}. Choose with --donor."
        raise SectionError(message)
    found = next(iter(places), None)
    others = [
        (place, values[0])
        for name, place, values in stated
        if len(values) == 1 and values[0] != found and (found is None or _is_of_donor(name))
    ]
    but = "the donor is not known" if found is None else f"the donor is {shortened(found)}"
    return found, [f"{x} ({shortened(y)}) looks like a donor, but {but}; see --donor" for x, y in others]


def _is_of_donor(column: str) -> bool:
    return re.sub("[^a-z]", "", column.lower()) in _OTHER_DONOR_COLUMNS


def _annotations(h5ad: H5ad) -> tuple[dict[str, Array], list[str]]:
    """Return the obs columns that the store can keep, and a note on the others; those of the whole section are left out."""
    columns = {name: x for name, x in h5ad.obs.items() if name != "section" and not _is_of_donor(name)}
    unfit = [name for name in columns if name_fault(name, "")]
    note = f"obs columns {quoted(unfit)} were left out: a store has no such names"
    return {name: x for name, x in columns.items() if name not in unfit}, [note] if unfit else []


def _find_images(table: Table, root: Path) -> TileSource:
    """Find the images of the joined rows below `root`, or below its folder ``images``.

    One image for all rows of ``source_image`` is a slide; as many images as rows, or a column of tile files, are tiles.
    """
    column = table.image_column
    names = table.text(column).tolist()
    distinct = list(dict.fromkeys(names))
    if "" in distinct:
        unnamed = [spot for spot, image in zip(table.text(table.id_column), names, strict=True) if not image]
        message = f"{table.path}: {counted(len(unnamed), 'row', 'have')} an empty {column!r}: ids {quoted(unnamed)}."
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
        folders = [name for name in missing if any(is_there(path, is_folder=True) for path in places[name])]
        no_slides = f" Folders, but not OME-Zarr or DICOM: {quoted(folders)}." if folders else ""
        message = (
            f"{len(missing)} of {len(distinct)} {'slides' if is_one_slide else 'tile files'} in column {column!r} of "
            f"{table.path} not found: {quoted(missing)}.{no_slides} Searched {root} and {root / 'images'} (--root)."
        )
        raise MissingInputError(message)
    paths = tuple(found[name] for name in names)
    return SlideSource(path=paths[0]) if is_one_slide else TileFiles(paths=paths)


def read_inputs(config: SectionsConfig) -> tuple[InputConfig, ...]:
    """Return the files of each section: those of the options, or of each row of the manifest.

    Raises
    ------
    MissingInputError, SectionError
        As `read_manifest`.
    """
    if config.manifest is None:
        return (config,)
    names = {field.name for field in dataclasses.fields(InputConfig)} - {*_MANIFEST_COLUMNS}
    shared = {name: getattr(config, name) for name in names}
    rows = read_manifest(config.manifest, root=config.root)
    return tuple(dataclasses.replace(row, **shared) for row in rows)


def read_manifest(path: Path, *, root: Path | None) -> tuple[InputConfig, ...]:
    """Read a manifest, a CSV with one row per section: columns section, donor, h5ad, csv, root, regions.

    Relative paths start from the manifest's folder, then from `root`. An empty ``root`` means `root`, an empty ``h5ad``
    pure prediction; an empty ``section`` or ``donor`` is taken from the section's files. Rows count from 1 after the
    header.

    Raises
    ------
    MissingInputError
        If the manifest does not exist, or its only faults are missing files.
    SectionError
        If it has other columns, a row without a table or root, or a section twice. The first faults are listed.
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
            wrong.append(f"row {number}: section {shortened(section)} repeats row {first_row[section]}")
        wrong += [] if "csv" in row else [f"row {number}: no csv"]
        wrong += [] if row["root"] else [f"row {number}: no root (or give --root)"]
        for name in ("h5ad", "csv", "root", "regions"):
            if cell := cells.get(name):
                places = (at / cell for at in folders)
                row[name] = next((x for x in places if is_there(x, is_folder=name == "root")), None)
                missing += [] if row[name] else [f"row {number}: {name} {shortened(cell)} not found"]
        configs.append(InputConfig(**row))
    if wrong or missing:
        searched = f" Searched {' and '.join(map(str, folders))}." if missing else ""
        faults = [*wrong, *missing]
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        message = f"Manifest {path}: {'; '.join(faults[:_MOST_FAULTS])}{more}.{searched}"
        raise SectionError(message) if wrong else MissingInputError(message)
    return tuple(configs)
