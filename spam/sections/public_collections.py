"""HEST-1k (arXiv 2406.16192) and STimage-1K4M (arXiv 2406.06393) as they are published: many sections in one folder.

STP-Bench (arXiv 2609.05956) has the layout of HEST-1k, but its h5ad files hold the positions in obs alone.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig

from .count_matrix import as_counts
from .h5ad import read_counts, read_h5ad, require_unique
from .instrument_section import (
    InstrumentSection,
    choose_section,
    match_spots,
    read_counts_table,
    reading,
    require_columns,
    require_file,
    require_finite,
)

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
    table, coordinates, notes = match_spots(table, counts_path, coordinates, path)
    xy = coordinates[["xaxis", "yaxis"]].to_numpy(dtype=np.float64)
    require_finite(xy, table.index, path, "xaxis, yaxis")
    pitch_um = _PITCH_UM.get(technology)
    pitch_px = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 0.0
    genes = np.array(table.columns, dtype=np.str_)
    return InstrumentSection(
        platform=f"STimage-1K4M, {technology}",
        name=name,
        ids=table.index.to_numpy(dtype=np.str_),
        counts=as_counts(csr_matrix(table.to_numpy()), where=str(counts_path)),
        genes=genes,
        gene_ids=genes,
        xy_px=xy,
        mpp=pitch_um / pitch_px if pitch_um and pitch_px else None,
        mpp_note=None if pitch_um is None else f"pitch of the spots, {pitch_um:g} µm",
        spot_um=_SPOT_UM.get(technology),
        pitch_um=pitch_um,
        image=image if image.exists() else None,
        files=(counts_path, path),
        notes=notes,
    )


def _coordinate_files(folder: Path) -> dict[str, Path]:
    homes = [folder, *(folder / name for name in _TECHNOLOGIES)]
    found = (path for home in homes for path in sorted((home / _COORDINATES).glob(f"*{_SUFFIX}")))
    return {path.name.removesuffix(_SUFFIX): path for path in found}
