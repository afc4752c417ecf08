"""Writing the features of a section chunk by chunk, so that a killed run goes on where it stopped."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta
from spam.typing import Array, Float, Shaped

from .elements import array_at
from .layout import CHUNKS, META, SPAM, SPATIAL, SPATIAL_UM, name_fault
from .staging import discard, move_into_place, staging_name

__all__ = ["FeatureWriter", "chunk_slices", "open_feature_writer"]


def chunk_slices(n_spots: int, chunk_rows: int) -> list[slice]:
    """Cut ``0..n_spots`` into chunks of `chunk_rows` rows; the last may be shorter."""
    return [slice(start, min(start + chunk_rows, n_spots)) for start in range(0, n_spots, chunk_rows)]


class FeatureWriter:
    """Fills one feature array by whole chunks; made by `StoredSection.feature_writer`.

    A chunk is written first and marked done after, with its digest: killed in between, it is pending again. Nobody
    reads the array before `finish`. One process writes one array at a time.

    Attributes
    ----------
    chunks
        Rows of every chunk, in order.
    """

    def __init__(self, array: zarr.Array[Any], *, store: Path, name: str, is_finished: bool) -> None:
        described = dict(array.attrs[SPAM])  # type: ignore[call-overload, arg-type]
        meta = FeatureMeta.from_mapping(described[META])
        self.chunks: list[slice] = chunk_slices(array.shape[0], meta.chunk_rows)
        self._array, self._store, self._name, self._meta = array, store, name, meta
        self._digests: list[str | None] = list(described[CHUNKS])
        self._is_finished = is_finished

    @property
    def pending(self) -> list[slice]:
        """Chunks that are not marked done."""
        return [chunk for chunk, digest in zip(self.chunks, self._digests, strict=True) if digest is None]

    def write(self, chunk: slice, rows: Float[Array, "n_rows dim"]) -> None:
        """Write one whole pending chunk and mark it done.

        Raises
        ------
        StoreError
            If `chunk` is no pending chunk, or `rows` do not fill it exactly, or hold values that are not finite in
            the stored number format.
        """
        if chunk not in self.pending:
            state = "is done already" if chunk in self.chunks else "is no chunk"
            message = (
                f"rows {chunk.start}:{chunk.stop} cannot be written to {self._name!r}: that {state}; "
                f"write one of the {len(self.pending)} chunks in `pending` ({self._meta.chunk_rows} rows each)"
            )
            raise StoreError(message)
        shape = (chunk.stop - chunk.start, self._meta.dim)
        if rows.shape != shape:
            message = (
                f"rows {chunk.start}:{chunk.stop} of {self._name!r} take an array of shape {shape}, not {rows.shape}; "
                "write the whole chunk at once"
            )
            raise StoreError(message)
        with np.errstate(over="ignore"):  # an overflow is found, with its row, just below
            stored = np.ascontiguousarray(rows, dtype=self._array.dtype)
        self._refuse_non_finite(chunk, stored, rows)
        self._array[chunk] = stored
        self._digests[self.chunks.index(chunk)] = _digest(stored)
        self._array.update_attributes({SPAM: {META: self._meta.to_mapping(), CHUNKS: list(self._digests)}})

    def finish(self) -> None:
        """Check every chunk against its digest and make the array visible to readers.

        Raises
        ------
        StoreError
            If chunks are pending, or a chunk's bytes are not those that were written (as after a power cut).
        """
        if self._is_finished:
            return
        if self.pending:
            message = (
                f"{self._name!r} cannot be finished: {len(self.pending)} of {len(self.chunks)} chunks are not "
                "written; run `spam embed` again to go on"
            )
            raise StoreError(message)
        for chunk, digest in zip(self.chunks, self._digests, strict=True):
            if _digest(np.asarray(self._array[chunk])) != digest:
                message = (
                    f"rows {chunk.start}:{chunk.stop} of {self._name!r} are not what was written; check the disk of "
                    f"{str(self._store)!r}, then run `spam embed --overwrite`"
                )
                raise StoreError(message)
        move_into_place(self._store, self._name)
        self._is_finished = True

    def _refuse_non_finite(self, chunk: slice, stored: Shaped[Array, "n_rows dim"], rows: Array) -> None:
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if not bad.size:
            return
        row = int(bad[0])
        cause, remedy = "not finite", "look at the tile of that row and at the encoder"
        if np.isfinite(rows[row]).all():
            cause = f"beyond the range of {stored.dtype} (±{np.finfo(stored.dtype).max:g})"
            remedy = "store them with `spam embed --dtype float32`"
        message = f"{bad.size} rows for {self._name!r} hold values {cause}, the first is row {chunk.start + row}; {remedy}"
        raise StoreError(message)


def open_feature_writer(
    root: zarr.Group, section: str, n_spots: int, meta: FeatureMeta, *, store: Path, is_overwrite: bool
) -> FeatureWriter:
    """Begin a feature array, or go on with it.

    An unfinished array of the same key is gone on with, a finished one has nothing pending. With `is_overwrite` the
    array begins anew; an older finished one stays readable until the new one is finished.

    Raises
    ------
    StoreError
        If `meta` cannot be stored, or differs from that of the array that is there.
    """
    _check_meta(meta)
    name = f"{section}/obsm/{meta.key}"
    if is_overwrite:
        discard(store, name)
    for place in (staging_name(name), name):
        is_finished = place == name
        if place in root and not (is_finished and is_overwrite):
            array = array_at(root, place)
            _check_same(array, meta, name=f"{store}/{name}", n_spots=n_spots)
            return FeatureWriter(array, store=store, name=name, is_finished=is_finished)
    n_chunks = len(chunk_slices(n_spots, meta.chunk_rows))
    array = root.create_array(
        staging_name(name),
        shape=(n_spots, meta.dim),
        chunks=(min(meta.chunk_rows, n_spots), meta.dim),
        dtype=meta.dtype,
        fill_value=float("nan"),  # a chunk that was never written reads as not finite, not as zeros
        compressors=None,  # saves < 8 % of the bytes and costs reading speed: docs/format.md
        attributes={
            "encoding-type": "array",
            "encoding-version": "0.2.0",
            SPAM: {META: meta.to_mapping(), CHUNKS: [None] * n_chunks},
        },
    )
    return FeatureWriter(array, store=store, name=name, is_finished=False)


def _digest(rows: Array) -> str:
    return hashlib.sha256(
        np.ascontiguousarray(rows).astype(rows.dtype.newbyteorder("<"), copy=False)
    ).hexdigest()


def _check_meta(meta: FeatureMeta) -> None:
    faults = [
        name_fault(meta.key, "the feature key", reserved=(SPATIAL, SPATIAL_UM)),
        None if meta.dim > 0 else f"dim must be positive, not {meta.dim}",
        None if meta.chunk_rows > 0 else f"chunk_rows (--chunk-rows) must be positive, not {meta.chunk_rows}",
        None
        if meta.dtype in ("float16", "float32")
        else f"dtype must be float16 or float32, not {meta.dtype!r}",
    ]
    found = [fault for fault in faults if fault]
    if found:
        message = f"features {meta.key!r} cannot be stored: " + "; ".join(found)
        raise StoreError(message)


def _check_same(array: zarr.Array[Any], meta: FeatureMeta, *, name: str, n_spots: int) -> None:
    stored = dict(array.attrs.get(SPAM, {})).get(META, {})  # type: ignore[arg-type, call-overload]
    asked = json.loads(json.dumps(meta.to_mapping()))
    differences = _differences(stored, asked)
    if array.shape != (n_spots, meta.dim):
        differences.append(f"shape {array.shape} in the store, {(n_spots, meta.dim)} asked for")
    if differences:
        message = (
            f"features at {name!r} were made differently: {'; '.join(differences)}; "
            "embed as before, or replace them with `spam embed --overwrite`"
        )
        raise StoreError(message)


def _differences(stored: Any, asked: Any, prefix: str = "") -> list[str]:
    """Name each entry in which two nested mappings differ, e.g. ``tile.tile_um``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = dict.fromkeys([*asked, *stored])
        return [
            difference
            for key in keys
            for difference in _differences(
                stored.get(key), asked.get(key), f"{prefix}.{key}" if prefix else key
            )
        ]
    return [] if stored == asked else [f"{prefix} {stored!r} in the store, {asked!r} asked for"]
