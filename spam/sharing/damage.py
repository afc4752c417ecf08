"""Where in an array the bytes lie that are not what was written: chunk and rows of a damaged file."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np

from spam.store.location import FilePart
from spam.store.node_rules import FEATURES, array_rule

__all__ = ["Place", "damaged_places"]

_CRC_BYTES = 4
_ENTRY = np.dtype([("offset", "<u8"), ("n_bytes", "<u8")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A chunk of an array.

    Attributes
    ----------
    array
        Path of the array within its section.
    chunk
        Its number, one for each axis with ``/`` between; for features that of the chunk within the array, or None
        where it is the list of chunks at the end of a file that is damaged.
    rows
        First row that it holds, and the one after the last; for the values of a sparse matrix its entries. None for a
        single value.
    """

    array: str
    chunk: str | None
    rows: tuple[int, int] | None

    def __str__(self) -> str:
        parts = [self.array, "the list of its chunks" if self.chunk is None else f"chunk {self.chunk}"]
        if self.rows is not None:
            is_sparse = self.array.startswith(("X/", "obsp/")) and not self.array.endswith("/indptr")
            parts.append(f"{'entries' if is_sparse else 'rows'} {self.rows[0]}:{self.rows[1]}")
        return ", ".join(parts)


def damaged_places(path: str, array: str, node: dict[str, Any], part: FilePart | None) -> list[Place]:
    """Say which rows a damaged chunk file holds; of a file of features, which of its chunks are damaged.

    Parameters
    ----------
    path
        The file, within its section; it is one of `array`.
    array
        The array, within its section.
    node
        Its metadata, of which `node_faults` has found nothing to say.
    part
        The bytes of the file where they can be read and their number is right, else None.
    """
    position = [int(number) for number in path.removeprefix(f"{array}/c").split("/") if number]
    sizes, steps = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    starts = [number * step for number, step in zip(position, steps, strict=True)]
    if array_rule(node) == FEATURES:
        chunk_rows = node["codecs"][0]["configuration"]["chunk_shape"][0]
        stop = min(starts[0] + steps[0], sizes[0])
        numbers = range(starts[0] // chunk_rows, math.ceil(stop / chunk_rows))
        found = list(numbers) if part is None else list(_damaged_chunks(part, node, numbers))
        places = [
            Place(
                array=array,
                chunk=str(number),
                rows=(number * chunk_rows, min((number + 1) * chunk_rows, stop)),
            )
            for number in found
        ]
        return places or [Place(array=array, chunk=None, rows=(starts[0], stop))]
    rows = (starts[0], min(starts[0] + steps[0], sizes[0])) if sizes else None
    return [Place(array=array, chunk="/".join(map(str, position)) or "0", rows=rows)]


def _damaged_chunks(part: FilePart, node: dict[str, Any], numbers: range) -> Iterator[int]:
    """Compare each chunk of a shard with the checksum behind it; none is told if the list of chunks is damaged.

    The layout is that of Zarr's ``sharding_indexed``: chunks, then offset and length of each, then a checksum.
    """
    shard_rows = node["chunk_grid"]["configuration"]["chunk_shape"][0]
    n_entries = shard_rows // node["codecs"][0]["configuration"]["chunk_shape"][0]
    n_index = n_entries * _ENTRY.itemsize
    with part.path.open("rb") as file:
        file.seek(part.offset + part.n_bytes - n_index - _CRC_BYTES)
        index, checksum = file.read(n_index), file.read(_CRC_BYTES)
        if google_crc32c.value(index) != int.from_bytes(checksum, "little"):
            return
        for number, entry in zip(numbers, np.frombuffer(index, _ENTRY)[: len(numbers)], strict=True):
            start, n_bytes = int(entry["offset"]), int(entry["n_bytes"]) - _CRC_BYTES
            is_inside = n_bytes >= 0 and start + n_bytes + _CRC_BYTES <= part.n_bytes
            if is_inside:
                file.seek(part.offset + start)
                data, checksum = file.read(n_bytes), file.read(_CRC_BYTES)
            if not is_inside or google_crc32c.value(data) != int.from_bytes(checksum, "little"):
                yield number
