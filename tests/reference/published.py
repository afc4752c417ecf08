"""The published commands' files, and how they are run: as a user does, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import anndata
import pandas as pd


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "spam.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def write_visium_files(shared_data: Path, folder: Path) -> list[object]:
    """Write every third spot of a real Visium section, and name the files as options.

    A processor without bfloat16 computes the published ``--amp`` ten times slower than without, so spots are dear.
    """
    section = shared_data / "visium_mouse_brain_crop"
    h5ad, csv = folder / "crop.h5ad", folder / "mapping.csv"
    spots = anndata.read_h5ad(section / "visium_mouse_brain_crop.h5ad")[::3]
    spots.write_h5ad(h5ad)
    table = pd.read_csv(section / "mapping.csv")
    table[table["spot_id"].isin(spots.obs_names)].to_csv(csv, index=False)
    return ["--h5ad", h5ad, "--csv", csv, "--root", section / "images"]
