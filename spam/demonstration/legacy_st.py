"""The legacy Spatial Transcriptomics layout (count table + spot file + image) as h5ad, table and manifest."""

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spam.atomic import replacing
from spam.errors import SectionError

__all__ = ["LegacySection", "write_cohort"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LegacySection:
    """One section's files: counts (spots x genes, index ``COLxROW``), spot file (x, y, pixel_x, pixel_y, ...), image."""

    name: str
    counts: Path
    spots: Path
    image: Path


def write_cohort(
    sections: Sequence[LegacySection], folder: Path, *, donor: str, pitch_um: float, spot_diameter_um: float
) -> Path:
    """Write ``<section>.h5ad``, ``mapping.csv`` and ``sections.csv`` into `folder`; return the manifest's path.

    The µm per pixel are the array's pitch over the pixels from one array position to the next, by least squares.

    Raises
    ------
    SectionError
        If counts and spot file of a section share no spot.
    """
    tables = []
    for section in sections:
        counts = pd.read_csv(section.counts, sep="\t", index_col=0)
        spots = pd.read_csv(section.spots, sep="\t")
        spots.index = pd.Index([f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)])
        shared = [spot for spot in counts.index if spot in spots.index]
        if not shared:
            message = (
                f"section {section.name!r}: counts {section.counts.name!r} and spot file {section.spots.name!r} share no "
                f"spot (such as {counts.index[0]!r} and {spots.index[0]!r}); take both from the same version of the data"
            )
            raise SectionError(message)
        counts, spots = counts.loc[shared], spots.loc[shared]
        mpp = pitch_um / _pixels_per_step(spots)
        _write_h5ad(section, folder, counts, spots, donor=donor, mpp=mpp, spot_diameter_um=spot_diameter_um)
        tables.append(
            pd.DataFrame(
                {
                    "x": spots["pixel_x"],
                    "y": spots["pixel_y"],
                    "source_image": os.path.relpath(section.image, folder),
                    "spot_id": [f"{section.name}_{spot}" for spot in shared],
                    "section": section.name,
                    "patient": donor,
                }
            )
        )
    pd.concat(tables).to_csv(folder / "mapping.csv", index=False)
    manifest = folder / "sections.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["section", "donor", "h5ad", "csv", "root"])
        writer.writerows([s.name, donor, f"{s.name}.h5ad", "mapping.csv", "."] for s in sections)
    return manifest


def _pixels_per_step(spots: pd.DataFrame) -> float:
    """Pixels from one array position to the next, a mean over both axes."""
    slopes = [
        np.polyfit(spots[array].to_numpy(), spots[pixel].to_numpy(), 1)[0]
        for array, pixel in (("new_x", "pixel_x"), ("new_y", "pixel_y"))
    ]
    return float(np.mean(np.abs(slopes)))


def _write_h5ad(
    section: LegacySection,
    folder: Path,
    counts: pd.DataFrame,
    spots: pd.DataFrame,
    *,
    donor: str,
    mpp: float,
    spot_diameter_um: float,
) -> None:
    obs = pd.DataFrame(index=pd.Index([f"{section.name}_{spot}" for spot in counts.index], name="spot_id"))
    obs["section"], obs["patient"] = section.name, donor
    obs["array_row"], obs["array_col"] = spots["y"].to_numpy(), spots["x"].to_numpy()
    matrix = csr_matrix(counts.to_numpy())
    result = anndata.AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=counts.columns.astype(str)))
    result.obsm["spatial"] = spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)
    facts = {"mpp": mpp, "spot_diameter_um": spot_diameter_um, "source_image": section.image.name}
    result.uns["spatial"] = {section.name: {"metadata": {**facts, "technology": "Spatial Transcriptomics"}}}
    with replacing(folder / f"{section.name}.h5ad") as partial:
        result.write_h5ad(partial)
