"""Writes the folder of an instrument as the files that `spam embed` reads: h5ad, table of tiles, manifest."""

import os
import shlex
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from spam.atomic import replacing
from spam.errors import OutputExistsError
from spam.h5ad_output import write_h5ad
from spam.progress import SILENT, Progress
from spam.schemas.embed_config import InputConfig
from spam.schemas.import_config import ImportConfig, ImportReport

from .coordinates import find_array, require_pitch
from .instrument_folder import read_folder
from .instrument_section import InstrumentSection, notes_of, to_section
from .tile_table import read_csv_text


def import_folder(config: ImportConfig, *, progress: Progress = SILENT) -> ImportReport:
    """Write an instrument's folder as h5ad, table of tiles and manifest.

    Several sections can be imported into one folder, whose ``sections.csv`` then lists all of them.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        As `read_folder_section`; without ``--image``, only the h5ad is written.
    OutputExistsError
        If the section was imported before, without ``--overwrite``.
    """
    inputs = config.inputs()
    assert config.out_dir is not None  # checked by the configuration
    with progress.task("import", 1) as advance:
        name, found = read_folder(inputs)
        if inputs.image is not None:
            to_section(found, inputs, name=name)  # the same checks as `spam embed --from`
        if found.xy_px is not None:
            mpp, source = (inputs.mpp, "option") if inputs.mpp else (found.mpp, "folder")
            require_pitch(find_array(found.xy_px, found.library(inputs)), mpp, source, name)
        existing = [path for path in lab_file_names(config.out_dir, name) if path.exists()]
        if existing and not config.overwrite:
            message = f"{existing[0]} exists. Choose another --out-dir or --section, or add --overwrite."
            raise OutputExistsError(message)
        files = write_lab_files(found, inputs, name=name, folder=config.out_dir)
        advance()
    stated, *notes = notes_of(found, inputs)
    words = ["spam", "embed", "--manifest", str(files[-1]), "--store", "cohort.zarr"]
    options = "--image, --alignment" if found.xy_px is None else "--image"
    without = f"No table of tiles was written, because no H&E image is known. Repeat with {options} and --overwrite."
    return ImportReport(
        section=name,
        found=stated,
        notes=tuple(notes),
        n_spots=len(found.ids),
        n_genes=len(found.genes),
        mpp=inputs.mpp or found.mpp,
        files=files,
        next_step=f"Next: {shlex.join(words)}" if len(files) > 1 else without,
    )


def lab_file_names(folder: Path, name: str) -> tuple[Path, Path]:
    """Name the h5ad and the table of tiles of a section."""
    return folder / f"{name}.h5ad", folder / f"{name}.csv"


def write_lab_files(
    found: InstrumentSection, config: InputConfig, *, name: str, folder: Path
) -> tuple[Path, ...]:
    """Write the h5ad, the table with one row per tile, and the row of the section in the manifest ``sections.csv``.

    Without an image only the h5ad is written; ``obsm['spatial']`` is then in µm where pixels are unknown.

    Returns
    -------
    tuple
        The files, the manifest last.

    Raises
    ------
    SectionError
        If an existing ``sections.csv`` is not a manifest.
    """
    image = config.image or found.image
    xy = found.xy_px if found.xy_px is not None else found.xy_um
    stated = {"section": name} | ({"patient": donor} if (donor := config.donor or found.donor) else {})
    adata = anndata.AnnData(
        X=found.counts,
        obs=pd.DataFrame(
            {**stated, **found.obs}, index=pd.Index(found.ids.astype(object), name=_id_column(found))
        ),
        var=pd.DataFrame(
            {"gene_id": found.gene_ids.astype(object)}, index=pd.Index(found.genes.astype(object))
        ),
    )
    adata.obsm["spatial"] = np.asarray(xy)
    adata.uns["spatial"] = {name: found.library(config)}
    h5ad, table = lab_file_names(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(h5ad) as partial:
        write_h5ad(adata, partial, compression="gzip")
    if image is None or found.xy_px is None:
        return (h5ad,)
    x, y = found.xy_px.T
    tiles = pd.DataFrame({"x": x, "y": y, "source_image": image.name, _id_column(found): found.ids, **stated})
    with replacing(table) as partial:
        tiles.to_csv(partial, index=False)
    manifest = folder / "sections.csv"
    rows = read_csv_text(manifest).to_dict("records") if manifest.exists() else []
    root = os.path.relpath(image.absolute().parent, folder.absolute())
    if not (folder / root / image.name).exists():  # a link to a folder on the way
        root = str(image.absolute().parent)
    row = {
        "section": name,
        "donor": stated.get("patient", ""),
        "h5ad": h5ad.name,
        "csv": table.name,
        "root": root,
    }
    with replacing(manifest) as partial:
        pd.DataFrame([*(other for other in rows if other.get("section") != name), row]).to_csv(
            partial, index=False
        )
    return h5ad, table, manifest


def _id_column(found: InstrumentSection) -> str:
    return "cell_id" if found.is_cells else "spot_id"
