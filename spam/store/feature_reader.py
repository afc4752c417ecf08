"""Reading feature arrays: which are there, how they were made, and their rows."""

from pathlib import Path

import numpy as np
import zarr

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta
from spam.typing import Array, Float32

from .elements import array_at, node_at, read_array
from .layout import CHUNKS, SPAM
from .metadata import damaged, read_entry, read_meta
from .staging import child_names, is_there, staging_name

__all__ = ["feature_names", "read_feature_meta", "read_features"]


def feature_names(root: zarr.Group, store: Path, section: str) -> tuple[str, ...]:
    """List the feature arrays below a section, or below its staging group, sorted."""
    names = [f"{section}/obsm/{name}" for name in child_names(store, f"{section}/obsm")]
    return tuple(name.rsplit("/", 1)[1] for name in names if SPAM in node_at(root, name).attrs)


def read_feature_meta(root: zarr.Group, store: Path, section: str, key: str) -> FeatureMeta:
    """Read how finished features were made.

    Raises
    ------
    StoreError
        If there are no finished features of that name (says what there is), or their metadata are damaged.
    """
    if key not in feature_names(root, store, section):
        raise StoreError(_missing(root, store, section, key))
    array = array_at(root, f"{section}/obsm/{key}")
    n_missing = read_entry(array, CHUNKS).count(None)
    if n_missing:
        raise damaged(array, f"{n_missing} of its chunks are not marked done")
    return read_meta(array, FeatureMeta.from_mapping)


def read_features(
    root: zarr.Group, store: Path, section: str, key: str, *, n_spots: int
) -> Float32[Array, "n_spots dim"]:
    """Read finished features, one row per spot.

    Raises
    ------
    StoreError
        If there are no finished features of that name, or they are damaged: a shape or number format other
        than the metadata say, or a value that is not finite.
    """
    meta = read_feature_meta(root, store, section, key)
    array = array_at(root, f"{section}/obsm/{key}")
    found, stated = (array.shape, str(array.dtype)), ((n_spots, meta.dim), meta.dtype)
    if found != stated:
        raise damaged(array, f"shape and number format are {found}, expected {stated}")
    features = read_array(root, f"{section}/obsm/{key}").astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise damaged(array, f"{bad.size} rows are not finite, the first is row {bad[0]}")
    return features


def _missing(root: zarr.Group, store: Path, section: str, key: str) -> str:
    where = f"section {section!r} of store {str(store)!r}"
    staged = f"{staging_name(section)}/obsm/{key}"
    if is_there(store, staged):
        digests = read_entry(array_at(root, staged), CHUNKS)
        return (
            f"features {key!r} of {where} are unfinished: {digests.count(None)} of {len(digests)} chunks are "
            "missing; run `spam embed` again to go on"
        )
    there = ", ".join(map(repr, feature_names(root, store, section))) or "none yet"
    return f"{where} has no features {key!r} (it has: {there}); make them with `spam embed`"
