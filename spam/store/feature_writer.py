"""Writing the features of a section chunk by chunk, so that a killed run goes on where it stopped."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta
from spam.typing import Array, Float

from .elements import array_at
from .layout import CHUNKS, META, SPAM, SPATIAL, SPATIAL_UM, name_fault
from .metadata import read_entry, read_meta
from .staging import discard, is_there, move_into_place, staging_group, staging_name

__all__ = ["FeatureWriter", "open_feature_writer"]


class FeatureWriter:
    """Fills one feature array by whole chunks; made by `StoredSection.feature_writer`.

    A chunk is written first and marked done after, with its digest: killed in between, it is pending again.
    Nobody reads the array before `finish`. One process writes one array at a time.

    Attributes
    ----------
    chunks
        Rows of every chunk, in order; the last may be shorter.
    """

    def __init__(self, array: zarr.Array[Any], *, store: Path, name: str, is_finished: bool) -> None:
        self._meta = read_meta(array, FeatureMeta.from_mapping)
        self._digests: list[str | None] = list(read_entry(array, CHUNKS))
        self._array, self._store, self._name, self._is_finished = array, store, name, is_finished
        self.chunks: list[slice] = _chunk_slices(array.shape[0], self._meta.chunk_rows)

    @property
    def pending(self) -> list[slice]:
        """Chunks that are not marked done."""
        return [chunk for chunk, digest in zip(self.chunks, self._digests, strict=True) if digest is None]

    def write(self, chunk: slice, rows: Float[Array, "n_rows dim"]) -> None:
        """Write one whole pending chunk and mark it done.

        Raises
        ------
        StoreError
            If `chunk` is no pending chunk, or `rows` do not fill it exactly, or hold values that are not
            finite in the stored number format.
        """
        where = f"rows {chunk.start}:{chunk.stop} of {self._name!r}"
        if chunk not in self.pending:
            state = "are written already" if chunk in self.chunks else "are no chunk"
            message = f"{where} {state}; write one of the {len(self.pending)} chunks in `pending`"
            raise StoreError(message)
        shape = (chunk.stop - chunk.start, self._meta.dim)
        if rows.shape != shape:
            message = f"{where} take the shape {shape}, not {rows.shape}; write the whole chunk at once"
            raise StoreError(message)
        with np.errstate(over="ignore"):  # an overflow is found, with its row, just below
            stored = np.ascontiguousarray(rows, dtype=self._meta.dtype)
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if bad.size:
            fault, remedy = "not finite", "look at the tile of that row and at the encoder"
            if np.isfinite(rows[bad]).all():
                fault, remedy = f"beyond the range of {stored.dtype}", "store them with --dtype float32"
            message = (
                f"{where} hold values {fault} in {bad.size} rows, the first is row {chunk.start + bad[0]}; "
                f"{remedy}"
            )
            raise StoreError(message)
        self._array[chunk] = stored
        self._digests[self.chunks.index(chunk)] = _digest(stored)
        self._array.update_attributes({SPAM: _described(self._meta, self._digests)})

    def finish(self) -> None:
        """Check every chunk against its digest, then let readers see the array.

        Raises
        ------
        StoreError
            If chunks are pending, or a chunk is not what was written (as after a power cut).
        """
        if self._is_finished:
            return
        if self.pending:
            message = (
                f"{self._name!r} cannot be finished: {len(self.pending)} of {len(self.chunks)} chunks are "
                "missing; run `spam embed` again to go on"
            )
            raise StoreError(message)
        for chunk, digest in zip(self.chunks, self._digests, strict=True):
            if _digest(np.asarray(self._array[chunk])) != digest:
                message = (
                    f"rows {chunk.start}:{chunk.stop} of {self._name!r} are not what was written; check "
                    f"the disk of {str(self._store)!r}, then run `spam embed --overwrite`"
                )
                raise StoreError(message)
        move_into_place(self._store, self._name)
        self._is_finished = True


def open_feature_writer(
    root: zarr.Group, section: str, n_spots: int, meta: FeatureMeta, *, store: Path, is_overwrite: bool
) -> FeatureWriter:
    """Begin a feature array, or go on with it; see `StoredSection.feature_writer`.

    Raises
    ------
    StoreError
        If `meta` cannot be stored, or differs from that of the array that is there.
    """
    _check_meta(meta)
    name = f"{section}/obsm/{meta.key}"
    staged = staging_name(name)
    if is_overwrite:
        discard(store, name)
    for place in (staged,) if is_overwrite else (staged, name):
        if is_there(store, place):
            array = array_at(root, place)
            _check_same(array, meta, n_spots=n_spots, where=f"{store}/{name}")
            return FeatureWriter(array, store=store, name=name, is_finished=place == name)
    array = staging_group(store, name).create_array(
        meta.key,
        shape=(n_spots, meta.dim),
        chunks=(min(meta.chunk_rows, n_spots), meta.dim),
        dtype=meta.dtype,
        fill_value=float("nan"),  # a chunk that was never written reads as not finite, not as zeros
        compressors=None,  # features hardly compress, and reading gets slower: docs/format.md
        attributes={
            "encoding-type": "array",
            "encoding-version": "0.2.0",
            SPAM: _described(meta, [None] * len(_chunk_slices(n_spots, meta.chunk_rows))),
        },
    )
    return FeatureWriter(array, store=store, name=name, is_finished=False)


def _chunk_slices(n_spots: int, chunk_rows: int) -> list[slice]:
    return [slice(start, min(start + chunk_rows, n_spots)) for start in range(0, n_spots, chunk_rows)]


def _described(meta: FeatureMeta, digests: list[str | None]) -> dict[str, Any]:
    return {META: meta.to_mapping(), CHUNKS: list(digests)}


def _digest(rows: Array) -> str:
    """Hash the rows as they lie in the file: little-endian, row by row, without a short chunk's padding."""
    return hashlib.sha256(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def _check_meta(meta: FeatureMeta) -> None:
    faults = [
        name_fault(meta.key, "the key", reserved=(SPATIAL, SPATIAL_UM)),
        None if meta.dim > 0 else f"dim must be positive, not {meta.dim}",
        None if meta.chunk_rows > 0 else f"--chunk-rows must be positive, not {meta.chunk_rows}",
        None
        if meta.dtype in ("float16", "float32")
        else f"--dtype must be float16 or float32, not {meta.dtype!r}",
    ]
    found = [fault for fault in faults if fault]
    if found:
        message = f"features {meta.key!r} cannot be stored: " + "; ".join(found)
        raise StoreError(message)


def _check_same(array: zarr.Array[Any], meta: FeatureMeta, *, n_spots: int, where: str) -> None:
    asked = json.loads(json.dumps(meta.to_mapping()))  # tuples as lists, as they come back from the store
    differences = _differences(read_entry(array, META), asked)
    if array.shape != (n_spots, meta.dim):
        differences.append(f"shape {array.shape} in the store, {(n_spots, meta.dim)} asked for")
    if differences:
        message = (
            f"features at {where!r} were made differently: {'; '.join(differences)}; embed as before, or "
            "replace them with `spam embed --overwrite`"
        )
        raise StoreError(message)


def _differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """Name each entry in which two nested mappings differ, such as ``tile.tile_um``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        return [
            difference
            for key in dict.fromkeys([*asked, *stored])
            for difference in _differences(stored.get(key), asked.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if stored == asked else [f"{path} {stored!r} in the store, {asked!r} asked for"]
