"""Reads features that another program made, so that nobody has to embed the same slide twice."""

import hashlib
from pathlib import Path

import numpy as np

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.typing import Array, Float64

from .checking import combined_places, feature_faults, place_faults, rows_of
from .corner_files import read_corner_features, read_corner_places
from .h5ad_files import read_h5ad_features
from .numpy_files import read_npy
from .recognising import choose_kind, file_format
from .records import FeatureSource, ForeignFeatures, ForeignKind, Found, Places
from .slide2vec_files import read_slide2vec_features, read_slide2vec_places
from .tables import read_table_places
from .torch_files import read_tensor

__all__ = ["read_foreign_features"]


def read_foreign_features(
    path: Path, *, kind: ForeignKind | None = None, coordinates: Path | None = None, key: str | None = None
) -> ForeignFeatures:
    """Read the features of one slide or section as TRIDENT, CLAM, slide2vec or plain NumPy and AnnData files hold them.

    Nothing in the files is executed, followed to other files, or believed about its size. Corners become
    centres (corner + side / 2); nothing else is changed, and no row is left out.

    Parameters
    ----------
    path
        The file of the features.
    kind
        What it is; None recognises it by its content and refuses what could be several.
    coordinates
        Where the tiles lie, for features that do not say so themselves: the ``patches/<slide>.h5`` of CLAM, the
        ``.coordinates.npz`` of slide2vec, or a CSV with one row per row of the features (ids, centres in
        full-resolution pixels, or both).
    key
        Name of the features in the ``obsm`` of an h5ad.

    Raises
    ------
    MissingInputError
        If a file is not there.
    ConfigError
        If the kind is unclear or another one, or an option does not go with it.
    SectionError
        If a file is unsafe or damaged, or features and places do not fit; lists every fault.
    """
    for file in (path, coordinates):
        if file is not None and not file.is_file():
            message = (
                f"there is no file {str(file)!r}; expected features made elsewhere, or their coordinates"
            )
            raise MissingInputError(message)
    chosen = choose_kind(path, kind)
    _refuse_options(path, chosen, coordinates=coordinates, key=key)
    found = _read(path, chosen, key=key)
    given = None if coordinates is None else _read_places(coordinates)
    features = rows_of(found.features)
    places, faults = combined_places(found.places, given)
    faults += feature_faults(features)
    faults += place_faults(places, len(features) if features.ndim == 2 else None)
    if faults:
        message = f"{path} ({chosen}) cannot be imported: {'; '.join(faults)}"
        raise SectionError(message)
    return ForeignFeatures(
        features=np.ascontiguousarray(features, dtype=np.float32),
        xy_px=_centres(places),
        ids=places.ids,
        tile_px=places.side_px,
        mpp=places.mpp,
        encoder_name=found.encoder_name,
        kind=chosen,
        source=_describe(path),
        notes=found.notes,
    )


def _refuse_options(path: Path, kind: ForeignKind, *, coordinates: Path | None, key: str | None) -> None:
    """Refuse options that would change nothing."""
    faults = []
    if key is not None and kind != "h5ad":
        faults.append(
            f"--key {key!r} names features in an h5ad, and {path} is of the kind {kind}: leave it out"
        )
    if coordinates is not None and kind == "h5ad":
        faults.append(
            f"{path} has its own ids and obsm['spatial']: leave out --coordinates {str(coordinates)!r}"
        )
    if faults:
        raise ConfigError("; ".join(faults))


def _read(path: Path, kind: ForeignKind, *, key: str | None) -> Found:
    if kind == "h5ad":
        return read_h5ad_features(path, key=key)
    if kind == "npy":
        return Found(features=read_npy(path), places=Places(name=path.name))
    if kind == "slide2vec":
        return read_slide2vec_features(path)
    if file_format(path) == "torch":
        return Found(features=read_tensor(path), places=Places(name=path.name))
    return read_corner_features(path)


def _read_places(path: Path) -> Places:
    """Read a file of coordinates by its content; what is no known binary format is read as CSV."""
    found = file_format(path)
    if found == "hdf5":
        return read_corner_places(path)
    if found == "npz":
        return read_slide2vec_places(path)
    if found == "other":
        return read_table_places(path)
    message = (
        f"{path} holds no coordinates that can be told apart ({found}); expected CLAM's patches/<slide>.h5, slide2vec's "
        "<sample>.coordinates.npz, or a CSV"
    )
    raise SectionError(message)


def _centres(places: Places) -> Float64[Array, "n_tiles 2"] | None:
    if places.xy is None:
        return None
    xy = np.array(rows_of(places.xy), dtype=np.float64)
    return xy + places.side_px / 2 if places.is_corner and places.side_px is not None else xy


def _describe(path: Path) -> FeatureSource:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FeatureSource(name=path.name, n_bytes=path.stat().st_size, sha256=digest)
