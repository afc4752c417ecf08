"""Legacy Spatial Transcriptomics: a table of counts and a spot file for each section, as in the her2st repository."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spam.errors import MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig

from .count_matrix import as_counts
from .h5ad import require_unique
from .instrument_section import InstrumentSection, choose_section, open_text, reading, require_finite
from .lab_section import quoted

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
    counts_path = next(
        (each for kind in (".tsv.gz", ".tsv") if (each := place / f"{name}{kind}").exists()), None
    )
    if counts_path is None:
        message = f"{place} has no counts {name}.tsv.gz for {path}. Copy it from the source."
        raise MissingInputError(message)
    counts, spots = _read_counts(counts_path), _read_spots(path)
    is_placed = counts.index.isin(spots.index)
    if not is_placed.any():
        message = f"No spot of {counts_path} ({quoted(counts.index)}) is in {path} ({quoted(spots.index)})."
        raise SectionError(message)
    notes = (
        [f"{(~is_placed).sum()} spots without a selected position are left out"]
        if not is_placed.all()
        else []
    )
    counts = counts[is_placed]
    spots = spots.loc[counts.index]
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
        notes=tuple(notes),
    )


def _spot_files(folder: Path) -> dict[str, Path]:
    place = folder / _SPOTS if (folder / _SPOTS).is_dir() else folder
    return {path.name.removesuffix(_SELECTION): path for path in sorted(place.glob(f"*{_SELECTION}"))}


def _position(spots: Any, axis: str) -> str:
    """Return the measured array position where there is one, else the nominal one."""
    return f"new_{axis}" if f"new_{axis}" in spots else axis


def _read_counts(path: Path) -> Any:
    """Read a table of spots x genes, or of genes x spots; its names are kept as they are."""
    with reading("spots x genes, separated by tabs, from", path):
        with open_text(path) as file:
            header = file.readline().decode("utf-8-sig").rstrip("\r\n").split("\t")
            table = pd.read_csv(file, sep="\t", header=None, index_col=0, keep_default_na=False)
        table.index = table.index.astype(str)
        table.columns = pd.Index(header[-table.shape[1] :])
        if table.columns.str.fullmatch(r"\d+x\d+").all():
            table = table.T
        table = table.astype(np.float64)
    require_unique(table.index.to_numpy(np.str_), where=f"{path}, spots")
    require_unique(
        table.columns.to_numpy(np.str_), where=f"{path}, genes", advice="Sum the counts of each gene."
    )
    return table


def _read_spots(path: Path) -> Any:
    """Read the selected spots, indexed ``COLxROW`` like the counts."""
    with reading("the positions of spots", path):
        spots = pd.read_csv(path, sep="\t")
    missing = [name for name in _COLUMNS if name not in spots.columns]
    if missing:
        message = f"{path} has no column {quoted(missing)}, only {quoted(spots.columns)}."
        raise SectionError(message)
    spots.index = pd.Index([f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)])
    if "selected" in spots:
        spots = spots[spots["selected"] == 1]
    require_unique(spots.index.to_numpy(np.str_), where=f"{path}, spots")
    return spots
