"""The files that make up one slide: one file, a file with its companions, or a whole folder."""

from pathlib import Path

__all__ = ["is_ome_zarr", "is_slide", "is_slide_folder", "slide_files"]

_ZARR_GROUPS = ("zarr.json", ".zgroup")  # Zarr v3, v2
_DICOM_MAGIC_AT = 128


def is_slide(path: Path) -> bool:
    """Tell whether there is a file, or a folder that is a slide as a whole."""
    return path.is_file() or is_slide_folder(path)


def is_slide_folder(path: Path) -> bool:
    """Tell whether a folder is one slide: an OME-Zarr, or a DICOM series (all of its files are DICOM)."""
    return is_ome_zarr(path) or bool(_dicom_series(path))


def is_ome_zarr(path: Path) -> bool:
    """Tell whether a folder is the root of a Zarr group; whether that holds a picture shows when it is opened."""
    return any((path / name).is_file() for name in _ZARR_GROUPS)


def _has_dicom_magic(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        file.seek(_DICOM_MAGIC_AT)
        return file.read(4) == b"DICM"


def slide_files(path: Path) -> tuple[Path, ...]:
    """List the files of a slide, sorted by their path.

    All files of a folder. Of a MIRAX slide also those of the folder beside it that has its name; of a DICOM file
    also the others of its folder, where the other levels are. Of any other file itself alone.
    """
    if path.is_dir():
        return _all_files(path)
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        return (path, *_all_files(path.with_suffix("")))
    if _has_dicom_magic(path):
        return tuple(file for file in _visible_files(path.parent) if _has_dicom_magic(file))
    return (path,)


def _dicom_series(folder: Path) -> tuple[Path, ...]:
    """List the files of a folder of DICOM files; none if the folder is no such."""
    if not folder.is_dir():
        return ()
    files = _visible_files(folder)
    return files if all(_has_dicom_magic(file) for file in files) else ()


def _visible_files(folder: Path) -> tuple[Path, ...]:
    return tuple(
        sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    )


def _all_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
