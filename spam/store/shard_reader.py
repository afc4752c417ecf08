"""Reading whole feature arrays, at the speed of the disk.

What lies in a shard is plain Zarr v3 (``sharding_indexed`` of ``bytes`` + ``crc32c``), and zarr-python reads the same
numbers; it takes four times as long as a memory map of the raw rows, this takes half as long
(`benchmarks/test_store_reading.py`): rows go from the file to their place in the result, and each chunk's checksum is
compared while it is in the processor's cache.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np

from spam.schemas.store_meta import FeatureDtype
from spam.typing import Array, Shaped

from .feature_format import Cut, from_stored, is_finite, stored_dtype
from .location import FilePart

__all__ = ["ShardFault", "read_shards"]

_CRC_BYTES = 4
_ENTRY_BYTES = 16  # offset and length of a chunk, unsigned, little-endian
_N_THREADS = min(8, os.cpu_count() or 1)


class ShardFault(Exception):
    """A chunk that is not what was written; the message names the rows."""


def read_shards(
    part_of: Callable[[int], FilePart], cut: Cut, dim: int, dtype: FeatureDtype, *, is_raw: bool
) -> Shaped[Array, "n_spots dim"]:
    """Read all rows of a feature array.

    Parameters
    ----------
    part_of
        Gives the file of a shard by its number.
    cut
        How the rows are cut.
    dim, dtype
        Length of a feature vector and its stored number format.
    is_raw
        Whether to give the numbers as they are stored (bfloat16 as its bits); else float32.

    Raises
    ------
    ShardFault
        If a chunk is missing, its checksum is another than that of its bytes, or a number is not finite.
    """
    stored = stored_dtype(dtype)
    out = np.empty((cut.n_spots, dim), stored if is_raw else np.dtype("<f4"))
    is_direct = out.dtype == stored  # rows can be read into their place
    chunks = cut.chunks
    handles: list[int] = []
    jobs: list[tuple[int, int, slice]] = []
    try:
        for shard in range(-(-len(chunks) // cut.shard_chunks)):
            part = part_of(shard)
            handle = os.open(part.path, os.O_RDONLY)
            handles.append(handle)
            rows = chunks[shard * cut.shard_chunks : (shard + 1) * cut.shard_chunks]
            offsets = _offsets(handle, part, cut, rows, chunk_bytes=cut.chunk_rows * dim * stored.itemsize)
            jobs += [
                (handle, part.offset + offset, chunk) for offset, chunk in zip(offsets, rows, strict=True)
            ]

        def read(job: tuple[int, int, slice]) -> None:
            handle, offset, chunk = job
            n = chunk.stop - chunk.start
            is_whole = n == cut.chunk_rows  # else padding follows the rows, and is part of the checksum
            place = out[chunk] if is_direct and is_whole else np.empty((cut.chunk_rows, dim), stored)
            found = bytearray(_CRC_BYTES)
            n_read = os.preadv(handle, [place.data.cast("B"), found], offset)
            checksum = google_crc32c.value(place.reshape(-1).view(np.uint8))
            if n_read != place.nbytes + _CRC_BYTES or checksum != int.from_bytes(found, "little"):
                message = (
                    f"rows {chunk.start}:{chunk.stop} do not have the checksum that was written with them"
                )
                raise ShardFault(message)
            if not is_finite(place[:n], dtype):
                message = f"rows {chunk.start}:{chunk.stop} hold numbers that are not finite"
                raise ShardFault(message)
            if place.base is not out:
                out[chunk] = place[:n] if is_raw else from_stored(place[:n], dtype)

        with ThreadPoolExecutor(_N_THREADS) as pool:
            for _ in pool.map(read, jobs):
                pass
    finally:
        for handle in handles:
            os.close(handle)
    return out


def _offsets(handle: int, part: FilePart, cut: Cut, rows: list[slice], *, chunk_bytes: int) -> list[int]:
    """Read the index at the end of a shard: where each of its chunks begins."""
    n_index = _ENTRY_BYTES * cut.shard_chunks
    where = f"rows {rows[0].start}:{rows[-1].stop}"
    end = part.n_bytes - n_index - _CRC_BYTES
    data = os.pread(handle, n_index + _CRC_BYTES, part.offset + end) if end >= 0 else b""
    index, checksum = data[:n_index], data[n_index:]
    if len(checksum) != _CRC_BYTES or google_crc32c.value(index) != int.from_bytes(checksum, "little"):
        message = f"{where}: the index of their shard is not what was written"
        raise ShardFault(message)
    entries = np.frombuffer(index, "<u8").reshape(-1, 2)[: len(rows)]
    last = end - chunk_bytes - _CRC_BYTES
    if last < 0 or (entries[:, 1] != chunk_bytes + _CRC_BYTES).any() or (entries[:, 0] > last).any():
        message = f"{where}: a chunk is missing from their shard"
        raise ShardFault(message)
    return [int(offset) for offset in entries[:, 0]]
