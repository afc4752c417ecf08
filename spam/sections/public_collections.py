"""Many sections in one folder: HEST-1k (arXiv 2406.16192), STimage-1K4M (arXiv 2406.06393), legacy ST (her2st repository).

STP-Bench (arXiv 2609.05956) has the layout of HEST-1k, but its h5ad files hold the positions in obs alone.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig

from .count_matrix import as_counts
from .h5ad import read_counts, read_h5ad
from .instrument_section import (
    InstrumentSection,
    choose_section,
    match_ids,
    read_counts_table,
    reading,
    require_columns,
    require_file,
    require_finite,
)
from .lab_section import require_unique

_COUNTS, _SPOTS, _SLIDES = "ST-cnts", "ST-spotfiles", "ST-imgs"
_SELECTION = "_selection.tsv"
_PIXEL_SIZES = ("pixel_size_um_estimated", "pixel_size_um_embedded")
_PIXEL_COLUMNS = ("pxl_col_in_fullres", "pxl_row_in_fullres")  # columns of obs: x, y
_EXPRESSION, _COORDINATES, _IMAGES = "gene_exp", "coord", "image"
_SUFFIX = "_coord.csv"
_TECHNOLOGIES = ("ST", "Visium", "VisiumHD")
# µm between neighbouring spots; Visium HD has several sizes of bins.
_PITCH_UM = {"ST": 200.0, "Visium": 100.0}
_SPOT_UM = {"ST": 100.0, "Visium": 55.0}


def is_hest(folder: Path) -> bool:
    """Return whether a folder holds HEST-1k: ``st/ID.h5ad`` and ``metadata/ID.json``."""
    return any((folder / "st").glob("*.h5ad")) and (folder / "metadata").is_dir()


def read_hest(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read a sample of HEST-1k or STP-Bench; µm per pixel is the authors' estimate, the image is ``wsis/ID.tif`` or ``.tiff``.

    Raises
    ------
    ConfigError
        If ``--section`` names none of several samples.
    SectionError
        If a file cannot be read, has no counts, or no positions.
    """
    samples = {path.stem: path for path in sorted((folder / "st").glob("*.h5ad"))}
    name = choose_section(samples, config.section, folder)
    path = samples[name]
    h5ad = read_h5ad(path, "--from")
    counts = read_counts(h5ad, option="--from")
    has_pixels = all(column in h5ad.obs for column in _PIXEL_COLUMNS)
    if counts is None or (h5ad.spatial is None and not has_pixels):
        lacks = (
            "counts" if counts is None else f"positions (obsm['spatial'] or obs {', '.join(_PIXEL_COLUMNS)})"
        )
        message = f"{path} has no {lacks}. Download it again."
        raise SectionError(message)
    require_unique(h5ad.ids, where=str(path))
    with reading("positions from", path):
        places = h5ad.spatial
        if places is None:
            places = np.stack([h5ad.obs[column] for column in _PIXEL_COLUMNS], axis=1)
        xy = places[:, :2].astype(np.float64)
    require_finite(xy, h5ad.ids, path, "the positions")
    facts_path = folder / "metadata" / f"{name}.json"
    facts: dict[str, Any] = {}
    if facts_path.exists():
        with reading("the facts of", facts_path):
            facts = dict(json.loads(facts_path.read_text(encoding="utf-8")))
    key = next((key for key in _PIXEL_SIZES if facts.get(key)), None)
    images = (folder / "wsis" / f"{name}{ending}" for ending in (".tif", ".tiff"))
    return InstrumentSection(
        platform=f"HEST-1k, {facts.get('st_technology', 'technology not stated')}",
        name=name,
        ids=h5ad.ids,
        counts=counts.counts,
        genes=counts.genes,
        gene_ids=counts.genes,
        xy_px=xy,
        mpp=None if key is None else float(facts[key]),
        mpp_note=key,
        image=next((image for image in images if image.exists()), None),
        donor=str(facts["patient"]) if facts.get("patient") else None,
        files=(path, *([facts_path] if facts else [])),
        notes=(*h5ad.notes, *counts.notes),
    )


def is_stimage(folder: Path) -> bool:
    """Return whether a folder holds STimage-1K4M, or one technology of it."""
    return bool(_coordinate_files(folder))


def read_stimage(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read a slide of STimage-1K4M; µm per pixel follows from the distance of neighbouring spots, where it is known.

    Raises
    ------
    ConfigError
        If ``--section`` names none of several slides.
    MissingInputError
        If the counts are missing.
    SectionError
        If a table cannot be read, or counts and coordinates share no spot.
    """
    slides = _coordinate_files(folder)
    name = choose_section(slides, config.section, folder)
    path = slides[name]
    home, technology = path.parents[1], path.parents[1].name
    counts_path, image = home / _EXPRESSION / f"{name}_count.csv", home / _IMAGES / f"{name}.png"
    require_file(counts_path if counts_path.exists() else None, counts_path.parent, counts_path.name)
    coordinates, table = read_counts_table(path, ","), read_counts_table(counts_path, ",")
    require_columns(coordinates, ("xaxis", "yaxis", "r"), path)
    found, _ = _of_tables(table, counts_path, coordinates, path, ("xaxis", "yaxis"))
    pitch_um, n = _PITCH_UM.get(technology), len(found.ids)
    pitch_px = float(np.median(cKDTree(found.xy_px).query(found.xy_px, k=2)[0][:, 1])) if n > 1 else 0.0
    return dataclasses.replace(
        found,
        platform=f"STimage-1K4M, {technology}",
        name=name,
        mpp=pitch_um / pitch_px if pitch_um and pitch_px else None,
        mpp_note=None if pitch_um is None else f"pitch of the spots, {pitch_um:g} µm",
        spot_um=_SPOT_UM.get(technology),
        pitch_um=pitch_um,
        image=image if image.exists() else None,
    )


def _coordinate_files(folder: Path) -> dict[str, Path]:
    homes = [folder, *(folder / name for name in _TECHNOLOGIES)]
    found = (path for home in homes for path in sorted((home / _COORDINATES).glob(f"*{_SUFFIX}")))
    return {path.name.removesuffix(_SUFFIX): path for path in found}


def _of_tables(
    counts: Any, counts_path: Path, places: Any, path: Path, columns: tuple[str, str]
) -> tuple[InstrumentSection, Any]:
    """Build a section of two tables, each with one row per spot, in the order of the counts; return its positions too."""
    rows, is_placed, notes = match_ids(counts.index, counts_path, places.index, path)
    counts, places = counts[is_placed], places.iloc[rows[is_placed]]
    xy, genes = places[list(columns)].to_numpy(dtype=np.float64), np.array(counts.columns, dtype=np.str_)
    require_finite(xy, places.index, path, ", ".join(columns))
    found = InstrumentSection(
        platform="",
        ids=counts.index.to_numpy(dtype=np.str_),
        counts=as_counts(csr_matrix(counts.to_numpy()), where=str(counts_path)),
        genes=genes,
        gene_ids=genes,
        xy_px=xy,
        files=(counts_path, path),
        notes=notes,
    )
    return found, places


def is_legacy_st(folder: Path) -> bool:
    """Return whether a folder holds spot files ``NAME_selection.tsv`` of legacy Spatial Transcriptomics."""
    return bool(_spot_files(folder))


def read_legacy_st(folder: Path, config: InputConfig) -> InstrumentSection:
    """Read a section: spots that have counts and are selected (under tissue), in the order of the counts.

    µm per pixel follows from the 1k array, whose spots lie 200 µm apart: least squares over all spots, averaged over both
    axes.

    Raises
    ------
    ConfigError
        If ``--section`` names none of several sections.
    MissingInputError
        If the counts are missing.
    SectionError
        If a table cannot be read, or the two tables share no spot.
    """
    files = _spot_files(folder)
    name = choose_section(files, config.section, folder)
    path = files[name]
    place = folder / _COUNTS if (folder / _COUNTS).is_dir() else folder
    names = (f"{name}.tsv.gz", f"{name}.tsv")
    counts_path = require_file(next((place / x for x in names if (place / x).exists()), None), place, *names)
    counts = read_counts_table(counts_path, "\t")
    if counts.columns.str.fullmatch(r"\d+x\d+").all():  # genes x spots
        counts = counts.T
    found, spots = _of_tables(counts, counts_path, _read_spots(path), path, ("pixel_x", "pixel_y"))
    image = sorted((folder / _SLIDES).glob(f"*/{name}/*.*"))
    if len(spots) < 2:
        message = f"{path}: µm per pixel cannot be measured on one spot."
        raise SectionError(message)
    # The measured array position where there is one, else the nominal one.
    axes = ((f"new_{x}" if f"new_{x}" in spots else x, f"pixel_{x}") for x in "xy")
    step_px = np.mean([abs(np.polyfit(spots[array], spots[pixel], 1)[0]) for array, pixel in axes])
    return dataclasses.replace(
        found,
        platform="Spatial Transcriptomics (legacy)",
        name=name,
        ids=np.array([f"{name}_{spot}" for spot in found.ids], dtype=np.str_),
        mpp=float(_PITCH_UM["ST"] / step_px),
        mpp_note="pitch of the 1k array, 200 µm",
        obs={"array_row": spots["y"].to_numpy(), "array_col": spots["x"].to_numpy()},
        spot_um=_SPOT_UM["ST"],
        pitch_um=_PITCH_UM["ST"],
        image=image[0] if len(image) == 1 else None,
        donor=image[0].parts[-3] if image else None,
    )


def _spot_files(folder: Path) -> dict[str, Path]:
    place = folder / _SPOTS if (folder / _SPOTS).is_dir() else folder
    return {path.name.removesuffix(_SELECTION): path for path in sorted(place.glob(f"*{_SELECTION}"))}


def _read_spots(path: Path) -> Any:
    """Read the selected spots, indexed ``COLxROW`` like the counts."""
    with reading("the positions of spots", path):
        spots = pd.read_csv(path, sep="\t")
    require_columns(spots, ("x", "y", "pixel_x", "pixel_y"), path)
    spots.index = pd.Index([f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)])
    if "selected" in spots:
        spots = spots[spots["selected"] == 1]
    require_unique(spots.index.to_numpy(np.str_), where=f"{path}, spots")
    return spots
