"""Reading feature arrays: which are there, how they were made, and their rows."""

import contextlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zarr

from spam.errors import StoreError
from spam.schemas.store_meta import QUALITY, FeatureDtype, FeatureMeta
from spam.typing import Array, Shaped

from .elements import array_at
from .feature_format import Cut, stored_dtype
from .index import SectionIndex
from .layout import META, SPAM, STAGING
from .location import FilePart, Location
from .metadata import damaged, read_meta
from .node_rules import FEATURES, array_rule
from .shard_reader import ShardFault, read_shards
from .staged_chunks import StagedChunks

__all__ = ["feature_names", "quality_names", "read_feature_meta", "read_features", "unfinished_names"]


def feature_names(index: SectionIndex) -> tuple[str, ...]:
    """List the feature arrays of a section, sorted, those that hold the quality of tiles among them."""
    return tuple(
        name for name in index.children("obsm") if array_rule(index.nodes[f"obsm/{name}"]) == FEATURES
    )


def quality_names(index: SectionIndex) -> tuple[str, ...]:
    """List those of the feature arrays that hold no features, but the quality of tiles."""
    return tuple(name for name in feature_names(index) if _origin(index.nodes[f"obsm/{name}"]) == QUALITY)


def _origin(node: dict[str, Any]) -> Any:
    """Read where an array comes from, as far as what stands there can be read: a stranger may have written it."""
    found: Any = node
    for entry in ("attributes", SPAM, META, "origin"):
        found = found.get(entry) if isinstance(found, dict) else None
    return found


def unfinished_names(store: Path, section: str) -> tuple[str, ...]:
    """List the feature arrays that a writer began and did not finish, sorted."""
    folder = store / STAGING / section / "obsm"
    # There is none, a writer finishes in this moment, or the store is a packed file.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return tuple(path.name for path in sorted(folder.iterdir()) if StagedChunks(path).is_begun)
    return ()


def read_feature_meta(
    section: zarr.Group, index: SectionIndex, key: str, *, location: Location
) -> FeatureMeta:
    """Read how finished features were made.

    Raises
    ------
    StoreError
        If there are no finished features of that name (says what there is), or their metadata are damaged.
    """
    if key not in feature_names(index):
        raise StoreError(_missing(index, key, location))
    array = array_at(section, f"obsm/{key}")
    meta = read_meta(array, FeatureMeta.from_mapping)
    if meta.dtype not in get_args(FeatureDtype):
        fault = f"its 'dtype' is {str(meta.dtype)[:80]!r}, expected one of {get_args(FeatureDtype)}"
        raise damaged(array, fault)
    return meta


def read_features(
    section: zarr.Group, index: SectionIndex, key: str, *, location: Location, is_raw: bool
) -> Shaped[Array, "n_spots dim"]:
    """Read finished features, one row per spot.

    Raises
    ------
    StoreError
        If there are no finished features of that name, or they are damaged: a shape or number format other
        than the metadata say, a chunk that is not what was written, or a value that is not finite.
    """
    meta = read_feature_meta(section, index, key, location=location)
    array, name = array_at(section, f"obsm/{key}"), f"obsm/{key}"
    found = array.shape, np.dtype(array.dtype).name
    stated = (index.meta.n_spots, meta.dim), stored_dtype(meta.dtype).name
    if found != stated:
        raise damaged(array, f"shape and number format are {found}, expected {stated}")
    node: dict[str, Any] = index.nodes[name]
    shard_rows = node["chunk_grid"]["configuration"]["chunk_shape"][0]
    chunk_rows = node["codecs"][0]["configuration"]["chunk_shape"][0]
    cut = Cut(n_spots=index.meta.n_spots, chunk_rows=chunk_rows, shard_chunks=shard_rows // chunk_rows)

    def part_of(shard: int) -> FilePart:
        file = f"{name}/c/{shard}/0"
        entry = index.files[file]
        part = location.part(f"{index.meta.name}/{file}", entry)
        if part is None or part.n_bytes != entry.n_bytes:
            state = "is not there" if part is None else f"has {part.n_bytes} bytes, expected {entry.n_bytes}"
            raise damaged(array, f"its file c/{shard}/0 {state}")
        return part

    try:
        return read_shards(part_of, cut, meta.dim, meta.dtype, is_raw=is_raw)
    except (ShardFault, OSError) as fault:
        raise damaged(array, str(fault)) from fault


def _missing(index: SectionIndex, key: str, location: Location) -> str:
    where = f"section {index.meta.name!r} of store {location.address!r}"
    if key in unfinished_names(Path(location.address), index.meta.name):
        return f"features {key!r} of {where} are unfinished; run `spam embed` again to go on"
    there = ", ".join(map(repr, feature_names(index))) or "none yet"
    return f"{where} has no features {key!r} (it has: {there}); make them with `spam embed`"
