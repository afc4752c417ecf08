"""Writing the features of a section chunk by chunk, so that a killed run goes on where it stopped."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta, SectionMeta, feature_identity, quality_key
from spam.typing import Array, Float, Int64, Shaped

from .feature_format import cut, fill_value, stored_dtype, to_stored
from .feature_reader import quality_names
from .graph_elements import graph_nodes
from .index import SectionIndex, change_index
from .layout import IDENTITY, META, SPAM, STAGING, feature_graph_key
from .lock import locked
from .one_by_one import one_by_one
from .shard_writer import write_shards
from .staged_chunks import StagedChunks
from .staging import discard, move_into_place, remove

__all__ = ["LOCK_WAIT_S", "FeatureWriter"]

_log = logging.getLogger(__name__)

LOCK_WAIT_S = 120.0
"""How long to wait for another process that changes the same section: seconds, for an assembly of gigabytes."""

_WHOLE = "whole"  # folder beside the chunks in which they are put together


class FeatureWriter:
    """Fills one feature array by whole chunks; made by `StoredSection.feature_writer`.

    Several processes may fill the same array, each its own chunks; whoever finds them all done finishes it.
    Nobody reads the array before `finish`.

    Attributes
    ----------
    chunks
        Rows of every chunk, in order, counted in the order in which rows are computed; the last may be shorter.
    """

    def __init__(
        self,
        store: Path,
        section: SectionMeta,
        meta: FeatureMeta,
        *,
        order: Int64[Array, " n_spots"] | None,
        is_finished: bool,
        refresh: Callable[[], SectionIndex],
    ) -> None:
        self._store, self._section, self._meta, self._refresh = store, section, meta, refresh
        self._name = f"{section.name}/obsm/{meta.key}"
        self._cut = cut(section.n_spots, meta.dim, meta.dtype, chunk_rows=meta.chunk_rows)
        self._staged = StagedChunks(store / STAGING / self._name)
        self._is_finished = is_finished
        self._order = order
        self.chunks: list[slice] = self._cut.chunks

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
        """Chunks that nobody has written yet; none once another process has finished the array."""
        if self._is_finished:
            return []
        done = self._staged.done()
        if not self._staged.is_begun:  # asked after the listing: this goes first when they are cleared away
            return []
        return [chunk for number, chunk in enumerate(self.chunks) if number not in done]

    def write(self, chunk: slice, rows: Float[Array, "n_rows dim"]) -> None:
        """Write one whole pending chunk; it is done when this returns.

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
        largest = _largest(self._meta)
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~(np.abs(rows) < largest).all(axis=1))  # NaN compares as false
        if bad.size:
            fault, remedy = "not finite", "look at the tile of that row and at the encoder"
            if np.isfinite(rows[bad]).all():
                fault, remedy = f"beyond the range of {self._meta.dtype}", "store them with --dtype float32"
            message = (
                f"{where} hold values {fault} in {bad.size} rows, the first is row {chunk.start + bad[0]}; "
                f"{remedy}"
            )
            raise StoreError(message)
        self._staged.write(self.chunks.index(chunk), to_stored(rows, self._meta.dtype))

    def finish(self) -> None:
        """Put the chunks together, each compared with its digest, then let readers see the array.

        Raises
        ------
        StoreError
            If chunks are pending, a chunk is not what was written (as after a power cut), another process has
            been changing this section for two minutes, or one has cleared the chunks away.
        """
        if self._is_finished:
            return
        with locked(self._store, self._section.name, wait_s=LOCK_WAIT_S):
            if self._staged.is_begun:
                self._finish()
            elif _identity(self._refresh(), self._meta.key) != feature_identity(self._section, self._meta):
                message = (
                    f"{self._name!r} cannot be finished: another process has replaced the section, or begun its "
                    "features anew; run `spam embed` again"
                )
                raise StoreError(message)
        self._is_finished = True
        self._refresh()

    def _finish(self) -> None:
        if self.pending:
            message = (
                f"{self._name!r} cannot be finished: {len(self.pending)} of {len(self.chunks)} chunks are "
                "missing; run `spam embed` again to go on"
            )
            raise StoreError(message)
        whole = self._staged.folder / _WHOLE
        if whole.exists():
            shutil.rmtree(whole)
        with contextlib.ExitStack() as on_failure:  # a full disk must not be filled by halves too
            on_failure.callback(shutil.rmtree, whole, ignore_errors=True)
            self._assemble(whole)
            on_failure.pop_all()
        node = f"obsm/{self._meta.key}"
        section = self._store / self._section.name
        gone = self._of_others(self._refresh())
        change_index(section, drop=(node, *gone))
        for name in gone:
            remove(self._store, f"{self._section.name}/{name}")
        move_into_place(self._store, self._name, whole)
        change_index(section, add=(node,))
        discard(self._store, self._name)

    def _of_others(self, index: SectionIndex) -> list[str]:
        """Name what goes with the features that are replaced: their graph, and the quality of other tiles.

        Where there are none yet, a graph of the index is that of another process, which wrote it from these very
        features. One that the index does not name was left out by a writer who was killed before its files were gone.
        """
        is_replaced = f"obsm/{self._meta.key}" in index.nodes
        graph = graph_nodes(feature_graph_key(self._meta.key))
        gone = [node for node in graph if is_replaced or node not in index.nodes]
        quality = quality_key(self._meta.key)
        node = f"obsm/{quality}"
        if quality in quality_names(index):  # that of the same tiles was finished before their features
            measured = index.nodes[node]["attributes"][SPAM][META]
            these = json.loads(json.dumps(self._meta.to_mapping()))
            is_other = any(measured.get(name) != these[name] for name in ("tile", "sampling"))
        else:
            is_other = node not in index.nodes
        return [*gone, node] if is_other else gone

    def _assemble(self, folder: Path) -> None:
        """Write the array, chunk by chunk: what memory holds at a time is one chunk."""
        meta, rows = self._meta, self._cut
        begun = self._staged.described()
        zarr.create_array(
            one_by_one(folder),
            shape=(rows.n_spots, meta.dim),
            chunks=(rows.chunk_rows, meta.dim),
            shards=(rows.shard_rows, meta.dim),
            dtype=stored_dtype(meta.dtype),
            fill_value=fill_value(meta.dtype),
            compressors=(Crc32cCodec(),),  # features hardly compress, and reading gets slower: docs/format.md
            attributes={
                "encoding-type": "array",
                "encoding-version": "0.2.0",
                SPAM: {META: begun.meta.to_mapping(), IDENTITY: begun.identity},
            },
            zarr_format=3,
        )
        write_shards(folder, self._in_order(), rows, meta.dim, meta.dtype)

    def _in_order(self) -> Iterator[Shaped[Array, "n dim"]]:
        """Give the staged rows, chunk by chunk, in the order of the spots."""
        if self._order is None:
            return (self._staged.read(number, self._meta, self._cut) for number in range(len(self.chunks)))
        return self._staged.reordered(self._order, self._meta, self._cut)


def _identity(index: SectionIndex, key: str) -> str | None:
    """Read the identity of finished features; None where there are none."""
    attributes = index.nodes.get(f"obsm/{key}", {}).get("attributes", {})
    identity = attributes.get(SPAM, {}).get(IDENTITY)
    return identity if isinstance(identity, str) else None


def _largest(meta: FeatureMeta) -> float:
    """Smallest number that the stored format rounds to infinity."""
    if meta.dtype == "float16":
        return 65520.0
    return (2.0 - 2.0**-8) * 2.0**127 if meta.dtype == "bfloat16" else float("inf")
