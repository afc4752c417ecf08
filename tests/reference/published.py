"""The published commands' files, and how they are run: as a user does, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "spam.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def visium_files(shared_data: Path) -> list[object]:
    """Options that name the files of a real Visium section."""
    folder = shared_data / "visium_mouse_brain_crop"
    return [
        *("--h5ad", folder / "visium_mouse_brain_crop.h5ad"),
        *("--csv", folder / "mapping.csv"),
        *("--root", folder / "images"),
    ]
