"""The features of a section: written chunk by chunk in place, so that a killed run resumes, and read quickly.

One chunk of whole rows is one file: the rows as they are in memory, then their CRC-32C (Zarr v3, codecs ``bytes`` and
``crc32c``). zarr writes it beside its place and renames it, so a chunk is done if and only if its file exists. The array is
finished when the index of its section names it. zarr reads the same files, but copies their bytes several times.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from spam.errors import StoreError
from spam.schemas.store_format import QUALITY, FeatureMeta, feature_identity, name_fault, quality_key
from spam.typing import Array, Float, Int64, Shaped

from .layout import (
    IDENTITY,
    INDEX,
    META,
    RUN,
    SPAM,
    SPATIAL,
    SPATIAL_UM,
    chunk_slices,
    feature_graph_key,
    graph_nodes,
    inside,
)
from .places import FilePart, FolderLocation, Location
from .section_index import SectionIndex, update_index
from .writing import discard, locked, remove_nodes

_log = logging.getLogger(__name__)

_CRC_BYTES = 4
_N_THREADS = min(8, os.cpu_count() or 1)
_FLOAT16_OVERFLOW = 65520.0  # smallest number that float16 rounds to infinity


def unfinished_names(location: Location, index: SectionIndex) -> tuple[str, ...]:
    """List the feature arrays that were begun and not finished, sorted; none of a packed or remote store."""
    if not isinstance(location, FolderLocation):
        return ()
    names = (path.parent.name for path in (location.path / index.meta.name / "obsm").glob(f"*/{INDEX}"))
    return tuple(sorted(name for name in names if f"obsm/{name}" not in index.nodes))


class FeatureChunks:
    """The files of finished features, found and compared with their metadata; `read` and `rows` read them.

    Raises
    ------
    StoreError
        If there are no features of that name, or a file is missing or has another size.
    """

    def __init__(self, location: Location, index: SectionIndex, key: str) -> None:
        meta, name = index.feature_meta(key), f"obsm/{key}"
        self._location, self._key, self._name = location, key, index.meta.name
        where = f"{index.meta.name}/{name}"
        node, self.dtype = index.nodes[name], np.dtype(meta.dtype).newbyteorder("<")
        shape, chunk = tuple(node["shape"]), node["chunk_grid"]["configuration"]["chunk_shape"]
        self.shape, self._n_rows = (index.meta.n_spots, meta.dim), chunk[0]
        codecs = [codec["name"] for codec in node["codecs"]]
        n_bytes = chunk[0] * meta.dim * self.dtype.itemsize + _CRC_BYTES
        files = [f"{name}/c/{i}/0" for i in range(-(-index.meta.n_spots // chunk[0]))]
        entries = {path: index.files.get(path) for path in files}
        is_as_stated = shape == self.shape and chunk[1] == meta.dim and codecs == ["bytes", "crc32c"]
        if (
            not is_as_stated
            or node["data_type"] != meta.dtype
            or {e and e.n_bytes for e in entries.values()} != {n_bytes}
        ):
            fault = "its shape, format or files differ from its metadata"
            raise location.damaged(where, fault)
        location.prefetch({f"{index.meta.name}/{path}": entry for path, entry in entries.items() if entry})
        self._parts: list[FilePart] = []
        for path, entry in entries.items():
            where = f"{index.meta.name}/{path}"
            part = location.part(where, entry)
            if part is None or part.n_bytes != n_bytes:
                raise location.damaged(
                    where, "it is missing" if part is None else f"it has {part.n_bytes} bytes"
                )
            self._parts.append(part)

    def read(self, *, is_float32: bool) -> Shaped[Array, "n_spots dim"]:
        """Read all of them, one row per spot, as float32 or as they are stored (float16 or float32).

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        out = np.empty(self.shape, np.float32 if is_float32 else self.dtype)

        def read(number: int) -> None:
            rows = out[number * self._n_rows :][: self._n_rows]
            # Padding follows the rows of the last chunk, and is part of its checksum.
            is_direct = len(rows) == self._n_rows and out.dtype == self.dtype
            chunk = self._read(number, rows if is_direct else None)
            if not is_direct:
                rows[:] = chunk[: len(rows)]

        with ThreadPoolExecutor(_N_THREADS) as pool:
            list(pool.map(read, range(len(self._parts))))
        return out

    def rows(self, rows: Int64[Array, " n"], columns: slice) -> Shaped[Array, "n d"]:
        """Read columns of some rows (ascending), as they are stored.

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        out = np.empty((len(rows), len(range(self.shape[1])[columns])), self.dtype)
        numbers = np.unique(rows // self._n_rows)
        cuts = np.append(np.searchsorted(rows, numbers * self._n_rows), len(rows))

        def read(i: int) -> None:
            own = slice(cuts[i], cuts[i + 1])
            out[own] = self._read(int(numbers[i]))[rows[own] - numbers[i] * self._n_rows, columns]

        with ThreadPoolExecutor(_N_THREADS) as pool:
            list(pool.map(read, range(len(numbers))))
        return out

    def _read(self, number: int, place: Array | None = None) -> Array:
        """Read a chunk, into `place` if there is one, and compare it with its checksum."""
        part, where = self._parts[number], f"{self._name}/obsm/{self._key}/c/{number}/0"
        chunk: Array = np.empty((self._n_rows, self.shape[1]), self.dtype) if place is None else place
        checksum = bytearray(_CRC_BYTES)
        try:
            with part.path.open("rb", buffering=0) as file:
                os.preadv(file.fileno(), [chunk.data.cast("B"), checksum], part.offset)
        except FileNotFoundError as error:  # removed by a writer since it was found
            raise self._location.damaged(where, "it is missing") from error
        if google_crc32c.value(chunk.reshape(-1).view(np.uint8)) != int.from_bytes(checksum, "little"):
            first = number * self._n_rows
            last = min(first + self._n_rows, self.shape[0])
            fault = f"rows {first}:{last} of {self._key!r} do not match their checksum"
            raise self._location.damaged(where, fault)
        return chunk


class FeatureWriter:
    """Fills one feature array by whole chunks; made by `StoredSection.feature_writer`.

    Several processes may fill the same array, each its own chunks. Readers do not see the array before `finish`.

    Attributes
    ----------
    chunks
        Rows of every chunk, in the order of the spots.
    """

    def __init__(
        self,
        store: Path,
        index: SectionIndex,
        meta: FeatureMeta,
        *,
        is_finished: bool,
        refresh: Callable[[], SectionIndex],
    ) -> None:
        self._store, self._meta, self._refresh = store, meta, refresh
        self._section, self._node = index.meta.name, f"obsm/{meta.key}"
        self._folder = inside(store, f"{self._section}/{self._node}")
        self._is_finished = is_finished
        self._array: zarr.Array[Any] = zarr.open_array(self._folder, mode="r+")
        self.chunks = chunk_slices(index.meta.n_spots, meta.chunk_rows)

    @property
    def key(self) -> str:
        """Name of the features."""
        return self._meta.key

    @property
    def is_finished(self) -> bool:
        """Whether readers see the array."""
        return self._is_finished

    @property
    def pending(self) -> list[slice]:
        """Chunks that are not written yet."""
        if self._is_finished:
            return []
        return [chunk for i, chunk in enumerate(self.chunks) if not self._chunk_file(i).exists()]

    def _chunk_file(self, number: int) -> Path:
        return self._folder / "c" / str(number) / "0"

    def write(self, chunk: slice, rows: Float[Array, "n_rows dim"]) -> None:
        """Write one whole chunk; it is done when this returns.

        Raises
        ------
        StoreError
            If `chunk` is none of `chunks`, or `rows` do not fill it or are not finite in the stored number format.
        """
        where = f"rows {chunk.start}:{chunk.stop} of {self._section}/{self._node}"
        if chunk not in self.chunks or rows.shape != (chunk.stop - chunk.start, self._meta.dim):
            message = f"{where}: a chunk of {self._meta.dim} columns is written whole, not an array of shape {rows.shape}"
            raise StoreError(message)
        largest = np.float32(_FLOAT16_OVERFLOW if self._meta.dtype == "float16" else np.inf)
        bad = np.flatnonzero(~(np.abs(rows) < largest).all(axis=1))  # NaN compares as false
        if bad.size:
            remedy = "Check the tile of that row and the encoder."
            if np.isfinite(rows[bad]).all():
                remedy = f"They exceed the range of {self._meta.dtype}. Use: --dtype float32"
            message = f"{where} are not finite in {bad.size} rows, the first is row {chunk.start + bad[0]}. {remedy}"
            raise StoreError(message)
        self._array[chunk] = rows.astype(self._meta.dtype)

    def finish(self) -> None:
        """Compare every chunk with its checksum, then let readers see the array.

        Raises
        ------
        StoreError
            If chunks are pending or damaged, or another process has replaced the array or changes this section for two
            minutes.
        """
        if self._is_finished:
            return
        with locked(self._store, self._section):
            index = self._refresh()
            if self._node not in index.nodes:
                self._finish(index)
            elif index.attribute(self._node, IDENTITY) != feature_identity(index.meta, self._meta):
                message = (
                    f"{self._section}/{self._node} was replaced by another process. Run `spam embed` again."
                )
                raise StoreError(message)
        self._is_finished = True
        self._refresh()

    def _finish(self, index: SectionIndex) -> None:
        if self.pending:
            message = (
                f"{self._section}/{self._node}: {len(self.pending)} of {len(self.chunks)} chunks are missing. "
                "Run `spam embed` again to resume."
            )
            raise StoreError(message)
        for i, chunk in enumerate(self.chunks):
            if not is_intact_chunk(self._chunk_file(i).read_bytes()):
                self._chunk_file(i).unlink()
                message = (
                    f"Rows {chunk.start}:{chunk.stop} of {self._section}/{self._node} were damaged on the disk and are "
                    "removed. Check the disk, then run `spam embed` again to compute them."
                )
                raise StoreError(message)
        spam = {META: self._meta.to_mapping(), IDENTITY: feature_identity(index.meta, self._meta)}
        begun = _begun(self._folder) or {}
        # The settings of the run are dropped; the metadata, with its software, stay as they were when the array was begun.
        self._array.attrs[SPAM] = spam | {META: begun.get(META, spam[META])}
        update_index(self._store / self._section, add=(self._node,))


def is_intact_chunk(data: bytes) -> bool:
    """Tell whether a chunk file of features ends with the CRC-32C of its rows."""
    is_whole = len(data) > _CRC_BYTES  # the checksum of nothing is 0, as the last bytes of an empty file are
    return is_whole and bool(
        google_crc32c.value(data[:-_CRC_BYTES]) == int.from_bytes(data[-_CRC_BYTES:], "little")
    )


def open_feature_writer(
    store: Path,
    section: str,
    meta: FeatureMeta,
    *,
    run: Mapping[str, str | int],
    is_overwrite: bool,
    refresh: Callable[[], SectionIndex],
) -> FeatureWriter:
    """Begin a feature array, or resume it; see `StoredSection.feature_writer`.

    Raises
    ------
    StoreError
        If `meta` cannot be stored, or differs from that of the array that exists.
    """
    faults = [
        name_fault(meta.key, "the key", reserved=(SPATIAL, SPATIAL_UM)),
        None if meta.dim > 0 else f"dim is {meta.dim}",
        None if meta.chunk_rows > 0 else f"--chunk-rows is {meta.chunk_rows}",
    ]
    if any(faults):
        message = f"Features {meta.key!r} cannot be stored: {'; '.join(fault for fault in faults if fault)}"
        raise StoreError(message)
    node = f"obsm/{meta.key}"
    folder = inside(store, f"{section}/{node}")
    with locked(store, section):  # begun or finished by one process at a time
        index = refresh()
        is_finished = node in index.nodes
        begun = _begun(folder)
        asked = {
            META: json.loads(json.dumps(meta.to_mapping())),
            IDENTITY: feature_identity(index.meta, meta),
        }
        if not is_finished:
            asked[RUN] = dict(run)
        differences = [] if begun is None else _differences(begun, asked)
        graph = graph_nodes(feature_graph_key(meta.key))
        # Features are removed with their quality. Quality alone is never replaced: a resumed run keeps a finished one.
        if is_overwrite and (differences or (is_finished and meta.origin != QUALITY)):
            remove_nodes(store, section, node, f"obsm/{quality_key(meta.key)}", *graph)
            index, is_finished, begun = refresh(), False, None
            asked[RUN] = dict(run)
        elif differences:
            message = (
                f"Features {section}/{node} in store {str(store)!r} were {'computed' if is_finished else 'begun'} "
                f"differently: {'; '.join(differences)}. Use the same settings, or replace them: spam embed --overwrite"
            )
            raise StoreError(message)
        for name in graph:  # left by a writer that was killed while it removed old features
            if name not in index.nodes:
                discard(store, f"{section}/{name}")
        if begun is None:
            chunks = chunk_slices(index.meta.n_spots, meta.chunk_rows)
            zarr.create_array(
                folder,
                shape=(index.meta.n_spots, meta.dim),
                chunks=(chunks[0].stop, meta.dim),
                dtype=meta.dtype,
                fill_value=np.nan,
                # no compression: it saves 8 % and reading takes two to five times as long
                compressors=(Crc32cCodec(),),
                attributes={"encoding-type": "array", "encoding-version": "0.2.0", SPAM: asked},
                zarr_format=3,
                overwrite=True,
            )
        elif not is_finished and begun[META].get("software") != meta.software:
            _log.warning("features %s were begun with %s", node, begun[META].get("software"))
    return FeatureWriter(store, index, meta, is_finished=is_finished, refresh=refresh)


def _begun(folder: Path) -> dict[str, Any] | None:
    """Read spam's attribute of a feature array, finished or not; None if there is none that can be read."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        spam: dict[str, Any] = json.loads((folder / INDEX).read_bytes())["attributes"][SPAM]
        if isinstance(spam[META], dict):
            return spam
    return None


def _differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """Name each entry in which two nested mappings differ, such as ``tile.tile_um``.

    Versions of software are ignored; settings of the run are compared only if both are known.
    """
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = [key for key in dict.fromkeys([*asked, *stored]) if f"{path}.{key}" != f".{META}.software"]
        return [
            difference
            for key in keys
            if not (path == "" and (key not in stored or key not in asked))
            for difference in _differences(
                stored.get(key), asked.get(key), f"{path}.{key}" if path else f".{key}"
            )
        ]
    name = path.removeprefix(f".{META}.").removeprefix(f".{RUN}.").lstrip(".")
    return [] if stored == asked else [f"{name} {stored!r} in the store, {asked!r} now"]
