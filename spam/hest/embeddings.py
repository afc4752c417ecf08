"""Embeddings of one sample's patches, in the HDF5 layout that the HEST benchmark writes and reads."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from spam.atomic import replacing
from spam.errors import SectionError
from spam.sections.wording import quoted
from spam.store.array_files import open_hdf5, read_numbers, refuse_claims
from spam.typing import Array, Num

__all__ = ["Embeddings", "read_barcodes", "read_embeddings", "write_embeddings"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Features of the patches of one sample, in the number format of their file, and the spots that they show."""

    features: Num[Array, "n_spots dim"]
    barcodes: tuple[str, ...]


def read_barcodes(file: h5py.File) -> tuple[str, ...]:
    """Read which spot each row is: ``barcodes`` or ``barcode``, of shape (n, 1) or (n,).

    Raises
    ------
    SectionError
        If neither is there, or a spot is named twice.
    """
    key = next((key for key in ("barcodes", "barcode") if isinstance(file.get(key), h5py.Dataset)), None)
    if key is None:
        message = (
            f"{file.filename} holds no 'barcodes' (or 'barcode'), but {quoted(list(file))}; expected the spot of each row, "
            "as the HEST benchmark writes it"
        )
        raise SectionError(message)
    refuse_claims(file[key])
    values = np.asarray(file[key][()]).ravel()
    barcodes = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)
    names, counts = np.unique(barcodes, return_counts=True)
    if (counts > 1).any():
        message = (
            f"{file.filename}: {int((counts > 1).sum())} barcodes occur more than once: {quoted(list(names[counts > 1]))}; "
            "expected one row per spot"
        )
        raise SectionError(message)
    return barcodes


def read_embeddings(path: Path) -> Embeddings:
    """Read the embeddings of a sample, in the number format that they are stored in.

    Raises
    ------
    SectionError
        If the file is unsafe or damaged, or its arrays do not fit together.
    """
    with open_hdf5(path) as file:
        features, barcodes = read_numbers(file, "embeddings"), read_barcodes(file)
    if features.ndim != 2 or len(features) != len(barcodes) or not len(features):
        message = (
            f"{path}: 'embeddings' of shape {features.shape} do not fit {len(barcodes)} barcodes; expected one row of "
            "features per barcode"
        )
        raise SectionError(message)
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        message = f"{path}: {bad} of {len(features)} embeddings hold NaN or infinite values; embed this sample again"
        raise SectionError(message)
    return Embeddings(features=features, barcodes=barcodes)


def write_embeddings(
    path: Path, embeddings: Embeddings, coords: Num[Array, "n_spots 2"], attributes: Mapping[str, str]
) -> None:
    """Write embeddings as the HEST benchmark does (barcodes of shape (n, 1)), with attributes that say what made them."""
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        file["embeddings"] = embeddings.features
        file["coords"] = coords
        names = np.array(embeddings.barcodes, dtype=object)[:, None]
        file.create_dataset("barcodes", data=names, dtype=h5py.string_dtype())
        file.attrs.update(attributes)
