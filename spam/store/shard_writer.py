"""Writing the shards of a feature array, one chunk in memory at a time.

zarr-python holds a whole shard in memory, several times over; the bytes are the same (Zarr v3, ``sharding_indexed`` with the
index at the end, of ``bytes`` + ``crc32c``).
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from spam.schemas.store_meta import FeatureDtype
from spam.typing import Array, Shaped

from .feature_format import Cut, fill_value, stored_dtype

__all__ = ["write_shards"]

_ABSENT = (1 << 64) - 1  # Zarr v3, sharding codec: offset and length of a chunk that is not there


def write_shards(
    folder: Path, chunks: Iterator[Shaped[Array, "n dim"]], cut: Cut, dim: int, dtype: FeatureDtype
) -> None:
    """Write the files ``c/<number>/0`` of an array.

    Parameters
    ----------
    folder
        Folder of the array, which holds its ``zarr.json``.
    chunks
        Rows of each chunk in order, as they are stored; the last may be shorter, and is padded.
    cut, dim, dtype
        How the rows are cut, the length of a vector, and the stored number format.
    """
    n_shards = -(-len(cut.chunks) // cut.shard_chunks)
    for shard in range(n_shards):
        path = folder / f"c/{shard}/0"
        path.parent.mkdir(parents=True)
        entries = np.full((cut.shard_chunks, 2), _ABSENT, dtype="<u8")
        with path.open("wb") as file:
            for number, rows in enumerate(islice(chunks, cut.shard_chunks)):
                whole = np.full((cut.chunk_rows, dim), fill_value(dtype), dtype=stored_dtype(dtype))
                whole[: len(rows)] = rows
                begin = file.tell()
                _write_checked(file, whole.tobytes())
                entries[number] = begin, file.tell() - begin
            _write_checked(file, entries.tobytes())


def _write_checked(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.write(google_crc32c.value(data).to_bytes(4, "little"))
