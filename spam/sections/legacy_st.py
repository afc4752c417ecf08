"""Legacy Spatial Transcriptomics: a table of counts and a spot file for each section, as in the her2st repository."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig

from .count_matrix import as_counts
from .h5ad import require_unique
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

PITCH_UM = 200.0
"""µm between the centres of neighbouring spots of the 1k array."""
SPOT_UM = 100.0
_COUNTS, _SPOTS, _IMAGES = "ST-cnts", "ST-spotfiles", "ST-imgs"
_SELECTION = "_selection.tsv"
_COLUMNS = ("x", "y", "pixel_x", "pixel_y")


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
    counts, spots, notes = match_spots(counts, counts_path, _read_spots(path), path)
    require_finite(spots[list(_COLUMNS)].to_numpy(np.float64), spots.index, path, ", ".join(_COLUMNS))
    image = sorted((folder / _IMAGES).glob(f"*/{name}/*.*"))
    if len(spots) < 2:
        message = f"{path}: µm per pixel cannot be measured on one spot."
        raise SectionError(message)
    axes = ((_position(spots, "x"), "pixel_x"), (_position(spots, "y"), "pixel_y"))
    step_px = np.mean([abs(np.polyfit(spots[array], spots[pixel], 1)[0]) for array, pixel in axes])
    genes = np.array(counts.columns, dtype=np.str_)
    return InstrumentSection(
        platform="Spatial Transcriptomics (legacy)",
        name=name,
        ids=np.array([f"{name}_{spot}" for spot in counts.index], dtype=np.str_),
        counts=as_counts(csr_matrix(counts.to_numpy()), where=str(counts_path)),
        genes=genes,
        gene_ids=genes,
        xy_px=spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64),
        mpp=float(PITCH_UM / step_px),
        mpp_note="pitch of the 1k array, 200 µm",
        obs={"array_row": spots["y"].to_numpy(), "array_col": spots["x"].to_numpy()},
        spot_um=SPOT_UM,
        pitch_um=PITCH_UM,
        image=image[0] if len(image) == 1 else None,
        donor=image[0].parts[-3] if image else None,
        files=(counts_path, path),
        notes=notes,
    )


def _spot_files(folder: Path) -> dict[str, Path]:
    place = folder / _SPOTS if (folder / _SPOTS).is_dir() else folder
    return {path.name.removesuffix(_SELECTION): path for path in sorted(place.glob(f"*{_SELECTION}"))}


def _position(spots: Any, axis: str) -> str:
    """Return the measured array position where there is one, else the nominal one."""
    return f"new_{axis}" if f"new_{axis}" in spots else axis


def _read_spots(path: Path) -> Any:
    """Read the selected spots, indexed ``COLxROW`` like the counts."""
    with reading("the positions of spots", path):
        spots = pd.read_csv(path, sep="\t")
    require_columns(spots, _COLUMNS, path)
    spots.index = pd.Index([f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)])
    if "selected" in spots:
        spots = spots[spots["selected"] == 1]
    require_unique(spots.index.to_numpy(np.str_), where=f"{path}, spots")
    return spots
