"""Writing simulated sections as the files that a laboratory would hand over."""

from collections.abc import Callable, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

from .section import SimulatedSection

__all__ = ["IMAGES", "MANIFEST", "replace_file", "write_manifest", "write_section"]

IMAGES = "images"
MANIFEST = "sections.csv"
_JPEG_QUALITY = 92  # as slide scanners use; the images of real sections are JPEG too
_PER_10K = 1e4


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then give it its own: a killed run leaves no half file."""
    partial = path.with_name(f".partial-{path.name}")
    write(partial)
    partial.replace(path)


def write_section(section: SimulatedSection, folder: Path) -> tuple[Path, Path, Path]:
    """Write ``<section>.h5ad``, ``<section>.csv`` and ``images/<section>.jpg`` into `folder`.

    The h5ad has raw counts in ``X`` and, beside what a real section has, the truth: ``layers['true_rate']``
    (expected expression per 10k), ``obs['true_depth']``, ``obsm['true_programmes']`` (named by
    ``uns['true_programmes']``) and in ``var`` the base rate, the effects and the loadings of each gene, and
    ``is_null`` where morphology does not move it. Files that are there are replaced.

    Returns
    -------
    h5ad, csv, image
        The written files.
    """
    images = folder / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    paths = (folder / f"{section.name}.h5ad", folder / f"{section.name}.csv", images / f"{section.name}.jpg")
    h5ad, csv, image = paths
    replace_file(
        image, lambda path: Image.fromarray(section.image).save(path, format="JPEG", quality=_JPEG_QUALITY)
    )
    replace_file(csv, lambda path: _table(section, image.name).to_csv(path, index=False))
    replace_file(h5ad, _to_anndata(section, image.name).write_h5ad)
    return paths


def write_manifest(sections: Sequence[tuple[str, str]], folder: Path) -> Path:
    """Write ``sections.csv`` for ``spam embed --manifest``; its paths are relative to itself.

    Parameters
    ----------
    sections
        Section and donor of each line.
    folder
        Folder of the sections' files.
    """
    lines = [
        {"section": name, "donor": donor, "h5ad": f"{name}.h5ad", "csv": f"{name}.csv", "root": IMAGES}
        for name, donor in sections
    ]
    path = folder / MANIFEST
    replace_file(path, lambda partial: pd.DataFrame(lines).to_csv(partial, index=False))
    return path


def _table(section: SimulatedSection, image: str) -> pd.DataFrame:
    """Lay out the table of tiles."""
    return pd.DataFrame(
        {
            "x": section.xy_px[:, 0],
            "y": section.xy_px[:, 1],
            "source_image": image,
            "spot_id": section.ids,
            "section": section.name,
            "patient": section.donor,
        }
    )


def _to_anndata(section: SimulatedSection, image: str) -> anndata.AnnData:
    """Lay out the h5ad of a section."""
    n_spots = len(section.ids)
    obs = pd.DataFrame(
        {
            "section": pd.Categorical([section.name] * n_spots),
            "patient": pd.Categorical([section.donor] * n_spots),
            "array_row": section.row_col[:, 0],
            "array_col": section.row_col[:, 1],
            "true_depth": section.depths,
        },
        index=pd.Index(section.ids, name="spot_id", dtype=object),
    )
    var = pd.DataFrame(
        {
            "base_log_rate": section.base,
            "donor_effect": section.donor_effect,
            "section_effect": section.section_effect,
            "is_null": section.is_null,
            **{f"loading_{name}": section.loadings[:, i] for i, name in enumerate(section.programme_names)},
        },
        index=pd.Index(section.genes, dtype=object),
    )
    diameter_px = section.spot_diameter_um / section.mpp
    spatial = {
        "images": {},
        "scalefactors": {"spot_diameter_fullres": diameter_px, "tissue_hires_scalef": 1.0},
        "metadata": {
            "mpp": section.mpp,
            "spot_diameter_um": section.spot_diameter_um,
            "pitch_um": section.pitch_um,
            "source_image": image,
            "technology": "simulated",
        },
    }
    return anndata.AnnData(
        X=sparse.csr_matrix(section.counts),
        obs=obs,
        var=var,
        obsm={"spatial": section.xy_px, "true_programmes": section.programmes},
        layers={"true_rate": (_PER_10K * section.rates).astype(np.float32)},
        uns={
            "spatial": {section.name: spatial},
            "true_programmes": np.array(section.programme_names, dtype=object),
        },
    )
