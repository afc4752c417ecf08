"""Tells by its content which program may have written a file; its name and ending decide nothing.

HDF5 with ``obs`` and ``obsm`` is AnnData's. HDF5 with ``features`` and ``coords`` is TRIDENT's if an attribute names its
magnifications or its ``savetodir``, and CLAM's if there are no attributes or one is CLAM's ``patch_level``. An archive of
``features`` is slide2vec's, a PyTorch file too if a sidecar lies beside it; without one it may be CLAM's as well.
"""

import zipfile
from pathlib import Path
from typing import Literal, get_args

import h5py

from spam.errors import ConfigError, SectionError

from .hdf5_files import open_hdf5
from .records import ForeignKind
from .sidecars import sidecar_path

__all__ = ["FileFormat", "choose_kind", "file_format"]

FileFormat = Literal["hdf5", "npy", "npz", "torch", "other"]

# The last is the number that PyTorch before 1.6 began its files with; a bare pickle is no PyTorch file.
_SIGNATURES: dict[bytes, FileFormat] = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"\x93NUMPY": "npy",
    b"\x80\x02\x8a\x0al\xfc\x9cF": "torch",
}
_TRIDENT_COORDS = frozenset({"patch_size_level0", "level0_magnification", "target_magnification"})
_TRIDENT_FEATURES = frozenset({"savetodir", "encoder"})
_CLAM_COORDS = frozenset({"patch_level"})


def file_format(path: Path) -> FileFormat:
    """Tell the format of a file from its first bytes, and of an archive from the names in it."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile:
            return "other"
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
        return "npz" if any(name.endswith(".npy") for name in names) else "other"
    return next((found for signature, found in _SIGNATURES.items() if start.startswith(signature)), "other")


def choose_kind(path: Path, kind: ForeignKind | None) -> ForeignKind:
    """Return `kind` if the file can be of it, or the only kind that the file can be of if None was given.

    Raises
    ------
    ConfigError
        If the file may be of several kinds, or not of the one asked for.
    SectionError
        If it can be of none, or is unsafe to open.
    """
    kinds, seen = _plausible_kinds(path)
    known = ", ".join(get_args(ForeignKind))
    if not kinds:
        message = (
            f"{path} holds no features of a known kind ({known}): it is {seen}; save the features alone with "
            "`numpy.save` and give them with a CSV of their ids or centres"
        )
        raise SectionError(message)
    if kind is None and len(kinds) == 1:
        return kinds[0]
    if kind is None:
        choices = " or ".join(f"--kind {name}" for name in kinds)
        message = f"{path} may come from {' or '.join(kinds)}: it is {seen}; say which, with {choices}"
        raise ConfigError(message)
    if kind not in kinds:
        message = (
            f"{path} is not of the kind {kind!r}: it is {seen}, as {' and '.join(kinds)} would write it; give --kind "
            f"{kinds[0]}, or leave it out"
        )
        raise ConfigError(message)
    return kind


def _plausible_kinds(path: Path) -> tuple[tuple[ForeignKind, ...], str]:
    """Return the kinds that the content fits, and what the content is in words."""
    found = file_format(path)
    if found == "hdf5":
        return _kinds_of_hdf5(path)
    if found == "npy":
        return ("npy",), "one NumPy array"
    if found == "npz":
        return ("slide2vec",), "an archive of NumPy arrays"
    if found == "torch":
        if sidecar_path(path).is_file():
            return ("slide2vec",), f"a PyTorch file with {sidecar_path(path).name} beside it"
        return ("clam", "slide2vec"), f"a PyTorch file without {sidecar_path(path).name} beside it"
    return (), "neither HDF5, NumPy nor PyTorch"


def _kinds_of_hdf5(path: Path) -> tuple[tuple[ForeignKind, ...], str]:
    with open_hdf5(path) as file:
        names = set(file)
        of_features, of_coords = (
            set(file[name].attrs) if isinstance(file.get(name), h5py.Dataset) else None
            for name in ("features", "coords")
        )
    if {"obs", "obsm"} <= names:
        return ("h5ad",), "an AnnData file"
    if of_features is None or of_coords is None:
        return (), f"HDF5 with {', '.join(sorted(names)) or 'nothing'} in it"
    if of_coords & _TRIDENT_COORDS or of_features & _TRIDENT_FEATURES:
        return ("trident",), "HDF5 with features, coords and the attributes of TRIDENT"
    if of_coords & _CLAM_COORDS or not of_coords | of_features:
        return ("clam",), "HDF5 with features and coords and no attributes but CLAM's"
    attributes = ", ".join(sorted(of_coords | of_features))
    return ("trident", "clam"), f"HDF5 with features and coords and the attributes {attributes}"
