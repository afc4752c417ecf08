"""What a file is, by its first bytes and the names in it: for messages about files of another kind than expected."""

import zipfile
from pathlib import Path

import h5py

from .hdf5_files import READ_ERRORS

_TEN_X = "a count matrix of 10x Genomics. Give its folder: spam import FOLDER"
_IMAGE = "an image. Name it in the table's column 'source_image', and give its folder with --root"
_PACKED = "compressed by {}. Unpack it first: {} -k {{path}}"
_PICTURE = "{}. Convert it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
_STARTS = (
    (b"\x1f\x8b", _PACKED.format("gzip", "gunzip")),
    (b"BZh", _PACKED.format("bzip2", "bunzip2")),
    (b"\xfd7zXZ", _PACKED.format("xz", "unxz")),
    (b"PAR1", "a Parquet table. Save it as CSV: pandas.read_parquet(...).to_csv(..., index=False)"),
    (b"%%MatrixMarket", _TEN_X),
    (b"version https://git-lfs", "a pointer of Git LFS. Fetch the file with: git lfs pull"),
    (b"II*\0", _IMAGE),
    (b"MM\0*", _IMAGE),
    (b"II+\0", _IMAGE),
    (b"\x89PNG", _IMAGE),
    (b"\xff\xd8\xff", _IMAGE),
    (b"%PDF", "a PDF. Export its picture as PNG"),
    (b"\xda\xce\xbe\x0a", "an ND2 of Nikon. Convert it to OME-Zarr: bioformats2raw IN OUT.zarr"),
    (b"\0\0\0\x0cjP  ", _PICTURE.format("a JPEG 2000 file")),
    (b"RIFF", _PICTURE.format("a WebP")),
    (b"GIF8", _PICTURE.format("a GIF")),
    (b"BM", _PICTURE.format("a BMP")),
    (b"\xff\xfe", "text in UTF-16. Save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16. Save it as UTF-8"),
    (b"<!DOCTYPE", "a web page: the download failed. Fetch it again"),
    (b"<html", "a web page: the download failed. Fetch it again"),
    (b"{", "JSON"),
)
_IN_HDF5 = (  # names at the top; the first line whose names are all there
    (("obs", "var"), "an AnnData file. Give it with --h5ad"),
    (("matrix",), _TEN_X),
    (("mod",), "a MuData file. Save its modality of genes: mudata.read(...)['rna'].write_h5ad(...)"),
    (("row_attrs", "col_attrs"), "a Loom file. Save it as h5ad: anndata.io.read_loom(...).write_h5ad(...)"),
    (
        ("assays", "cell.names"),
        "a file of SeuratDisk. Convert it with SeuratDisk::Convert(..., dest = 'h5ad')",
    ),
    (("features", "coords"), "a file of tile features. Add them to a store: spam store import"),
)
_IN_ZIP = (
    ("xl/workbook.xml", "an Excel workbook. Save the sheet as CSV"),
    (".zgroup", "a packed Zarr"),
    ("zarr.json", "a packed Zarr"),
)


def kind_of_file(path: Path) -> str | None:
    """Say what a file is and what to do with it (``a Parquet table. Save it as CSV: ...``); None if it is not known.

    The text continues "The file is", and has no full stop at its end.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    if start.startswith(b"\x89HDF"):
        return _kind_of_hdf5(path)
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    kind = next((kind for sign, kind in _STARTS if start.startswith(sign)), None)
    return kind.replace("{path}", str(path)) if kind else None


def _kind_of_hdf5(path: Path) -> str | None:
    try:
        with h5py.File(path, "r") as file:
            names = set(file)
    except READ_ERRORS:
        return "a damaged HDF5 file. Copy it again"
    return next((kind for needed, kind in _IN_HDF5 if names.issuperset(needed)), None)


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except READ_ERRORS:
        return "a damaged ZIP archive. Copy it again"
    return next((kind for name, kind in _IN_ZIP if name in names), "a ZIP archive. Unpack it first")
