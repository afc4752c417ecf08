"""The files of one section as a read-only Zarr store that gives out only what the index names, after a look at it.

A store may come from a stranger, or from a bad disk: a missing file must not read as zeros, and no file may make a
decoder ask for more memory than the metadata say.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from spam.errors import StoreError

from .index import SectionIndex
from .layout import INDEX
from .location import Location
from .node_rules import STRINGS, TABLE, array_rule, chunk_names
from .zstandard import frame_size

__all__ = ["GuardedStore", "open_section_group"]

_CRC_BYTES = 4


class GuardedStore(Store):
    """A section's files, by path within the section.

    Parameters
    ----------
    location
        Where the store lies.
    section
        Name of the section.
    index
        Its index, of which `node_rules.check_nodes` has found nothing to say.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes: Literal[False] = False
    supports_listing = True

    def __init__(self, location: Location, section: str, index: SectionIndex) -> None:
        super().__init__(read_only=True)
        self._location, self._section, self._index = location, section, index
        self._arrays = {
            chunk: node
            for name, node in index.nodes.items()
            if node["node_type"] == "array"
            for chunk in chunk_names(name, node)
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GuardedStore) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        return f"{self._location.address}/{self._section}"

    def _key(self) -> tuple[str, str, str]:
        return self._location.address, self._section, self._index.digest

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file that the index names; None for any other."""
        data = await asyncio.to_thread(self.read, key)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(_cut(data, byte_range))

    def read(self, key: str) -> bytes | None:
        """Read a file that the index names, whole; None for any other.

        Raises
        ------
        StoreError
            If it is not there, has another size than the index says, or would not decode to what the metadata say.
        """
        if key == INDEX:
            return self._index.data
        entry = self._index.files.get(key)
        if entry is None:
            return None
        part = self._location.part(f"{self._section}/{key}", entry)
        if part is None or part.n_bytes != entry.n_bytes:
            found = "is not there" if part is None else f"has {part.n_bytes} bytes"
            raise self._damaged(key, f"the file {found}, expected {entry.n_bytes} bytes")
        try:
            data = part.read()
        except OSError as error:  # of the disk; or a writer has taken it away in this moment
            raise self._damaged(key, f"the file cannot be read ({error})") from error
        node = self._arrays.get(key)
        fault = None if node is None else _fault(data, node)
        if fault:
            raise self._damaged(key, fault)
        return data

    def _damaged(self, key: str, fault: str) -> StoreError:
        message = (
            f"the store is damaged at {self._location.address}/{self._section}/{key}: {fault}; take a fresh copy of "
            "the store, or write that part again with `spam embed --overwrite`"
        )
        return StoreError(message)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of several files."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether the index names a file."""
        return key == INDEX or key in self._index.files

    async def list(self) -> AsyncIterator[str]:
        """List all files."""
        for key in (INDEX, *self._index.files):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the files whose path begins with `prefix`."""
        for key in (INDEX, *self._index.files):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List what lies directly in a folder."""
        start = f"{prefix.rstrip('/')}/".lstrip("/")
        keys = (key.removeprefix(start) for key in (INDEX, *self._index.files) if key.startswith(start))
        for name in sorted({key.split("/")[0] for key in keys}):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: the store is open for reading."""
        raise self._refusal()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, Any]]) -> None:
        """Refuse: the store is open for reading."""
        raise self._refusal()

    async def delete(self, key: str) -> None:
        """Refuse: the store is open for reading."""
        raise self._refusal()

    def _refusal(self) -> StoreError:
        message = f"section {self._section!r} of {self._location.address!r} is open for reading; change it with `spam`"
        return StoreError(message)


def open_section_group(location: Location, index: SectionIndex) -> zarr.Group:
    """Open a section for reading, through its `GuardedStore`.

    Raises
    ------
    StoreError
        If its nodes are none of Zarr v3.
    """
    store = GuardedStore(location, index.meta.name, index)
    try:
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, NotImplementedError) as error:
        message = (
            f"section {str(store)!r} cannot be opened: its metadata are none of Zarr v3 "
            f"({type(error).__name__}: {error}); look at it with `spam store validate`, or take a fresh copy"
        )
        raise StoreError(message) from error


def _cut(data: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case RangeByteRequest():
            return data[byte_range.start : byte_range.end]
        case OffsetByteRequest():
            return data[byte_range.offset :]
        case SuffixByteRequest():
            return data[max(0, len(data) - byte_range.suffix) :]
    return data


def _fault(data: bytes, node: dict[str, Any]) -> str | None:
    """Say what is wrong with the bytes of one chunk before anything decodes them; shards are read elsewhere."""
    rule = array_rule(node)
    n_items = math.prod(node["chunk_grid"]["configuration"]["chunk_shape"])
    if rule == TABLE:
        expected = n_items * _item_bytes(node["data_type"])
        found = frame_size(data[:-_CRC_BYTES])
        return None if found == expected else f"it would unpack to {found} bytes, expected {expected}"
    if rule == STRINGS:
        found = int.from_bytes(data[:4], "little")
        return None if found == n_items else f"it holds {found} strings, expected {n_items}"
    return None


def _item_bytes(data_type: str) -> int:
    return 1 if data_type == "bool" else int(data_type.lstrip("uintfloa")) // 8
