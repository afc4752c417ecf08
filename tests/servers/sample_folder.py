"""A folder as a store might be: small and large files, text and not, an empty one, names that an address must quote."""

from pathlib import Path

import numpy as np

LARGE = 3_000_017  # bytes


def write_sample(folder: Path) -> Path:
    """Write the sample into a folder that is not there yet, and return it."""
    rng = np.random.default_rng(0)
    contents = {
        "README.md": b"---\nlicense: cc0-1.0\n---\n# A cohort\n",
        "zarr.json": b'{"zarr_format": 3}',
        "C2/obsm/features/c/0/0": rng.bytes(LARGE),
        "C2/obsm/features/c/1/0": rng.bytes(LARGE),
        "C2/obsm/features/zarr.json": b"{}",
        "C2/empty": b"",
        "D 3+%41 µ/counts.bin": rng.bytes(211),
    }
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def contents_of(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
