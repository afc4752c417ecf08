"""What the metadata of a section's arrays may be. Anything else is refused before a decoder sees it."""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from .index import SectionIndex
from .layout import INDEX

__all__ = ["FEATURES", "STRINGS", "TABLE", "array_rule", "chunk_names", "codec_names", "node_faults"]

FEATURES, STRINGS, TABLE = "features", "strings", "table"
"""The three kinds of arrays, which differ in their codecs (docs/format.md, clause 9)."""

_CODECS = {
    FEATURES: ("sharding_indexed", ("bytes", "crc32c"), ("bytes", "crc32c")),
    STRINGS: ("vlen-utf8", "crc32c"),
    TABLE: ("bytes", "zstd", "crc32c"),
}
_NUMBERS = {
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
}
_MOST_CHUNK_BYTES = 1 << 30
_FREE_BYTES, _MOST_RATIO = 1 << 28, 1000
"""What an array may unpack to: 256 MB in any case, and 1000 times its files (counts come to 20 times)."""
_MOST_CHUNKS = 1 << 22
_ZARR_FORMAT = 3


def codec_names(codecs: Any) -> tuple[Any, ...]:
    """Name the codecs of an array, a shard's with those inside it."""
    names: list[Any] = []
    for codec in codecs:
        names.append(codec["name"])
        if codec["name"] == "sharding_indexed":
            inside = codec["configuration"]
            names += [codec_names(inside["codecs"]), codec_names(inside["index_codecs"])]
    return tuple(names)


def array_rule(node: dict[str, Any]) -> str | None:
    """Tell the kind of an array by its codecs; None if they are none that a store has."""
    try:
        found = codec_names(node["codecs"])
    except (KeyError, TypeError):
        return None
    return next((rule for rule, codecs in _CODECS.items() if codecs == found), None)


def chunk_names(name: str, node: dict[str, Any]) -> Iterator[str]:
    """Name the files of an array's chunks (its shards, for features), by path within the section."""
    shape, chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    if 0 in shape:
        return  # `product` would keep the numbers of every other axis
    grid = (range(math.ceil(size / step)) for size, step in zip(shape, chunk, strict=True))
    for position in itertools.product(*grid):
        yield "/".join((name, "c", *map(str, position)))


def node_faults(index: SectionIndex) -> list[str]:
    """List all that is wrong with the nodes and files of an index, each with its path."""
    faults = [f"{path!r} is no path inside a section" for path in index.files if not _is_inside(path)]
    expected = {f"{name}/{INDEX}" for name in index.nodes}
    for name, node in index.nodes.items():
        try:
            if not isinstance(node.get("attributes", {}), dict):
                fault: str | None = "its attributes are no mapping"
            elif node["zarr_format"] != _ZARR_FORMAT or node["node_type"] not in ("group", "array"):
                fault = "it is no group and no array of Zarr v3"
            elif node["node_type"] == "group":
                continue
            else:
                fault = _array_fault(name, node, index)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            fault = f"its metadata do not fit Zarr v3 ({type(error).__name__}: {error})"
        if fault:
            faults.append(f"{name}: {fault}")
        else:
            expected.update(chunk_names(name, node))
    if not faults:
        missing, strange = expected - index.files.keys(), index.files.keys() - expected
        faults += [f"{path}: no such file in the index" for path in sorted(missing)[:5]]
        faults += [f"{path}: it belongs to no array" for path in sorted(strange)[:5]]
    return faults


def _array_fault(name: str, node: dict[str, Any], index: SectionIndex) -> str | None:
    rule = array_rule(node)
    if rule is None:
        return f"codecs {str(node.get('codecs'))[:200]} are none that a store has"
    data_type = node["data_type"]
    if (rule == STRINGS) != (data_type == "string") or (rule != STRINGS and data_type not in _NUMBERS):
        return f"data type {str(data_type)[:80]!r} with codecs of {rule}"
    shape, chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    if node["chunk_grid"]["name"] != "regular" or node["chunk_key_encoding"] not in _KEYS:
        return "its chunks are not cut or named as those of a store"
    sizes = [*shape, *chunk]
    if len(shape) != len(chunk) or not all(type(size) is int and 0 <= size < 1 << 48 for size in sizes):
        return f"shape {shape} and chunks {chunk} are no sizes"
    if 0 in chunk or node.get("storage_transformers"):
        return f"chunks {chunk} cannot be"
    if rule == TABLE and node["codecs"][0].get("configuration", _LITTLE) != _LITTLE:
        return "its numbers are not little-endian"
    if rule == FEATURES:
        shard = node["codecs"][0]["configuration"]
        inner, orders = shard["chunk_shape"], [shard[part][0] for part in ("codecs", "index_codecs")]
        if shard.get("index_location") != "end" or any(order["configuration"] != _LITTLE for order in orders):
            return "its shards are not little-endian with the index at the end"
        is_cut = len(inner) == len(chunk) == 2 and inner[1] == chunk[1] == shape[1]
        if not is_cut or type(inner[0]) is not int or inner[0] < 1 or chunk[0] % inner[0]:
            return f"chunks {inner} do not fill shards {chunk} of whole rows"
    decoded = inner if rule == FEATURES else chunk  # in one piece
    item = 16 if rule == STRINGS else int(re.sub(r"\D", "", data_type) or 8) // 8
    grid = [math.ceil(size / step) for size, step in zip(shape, chunk, strict=True)]
    # Beside an axis of none, readers still count out every other one.
    n_chunks = max(math.prod(grid), *grid, 0)
    if n_chunks > _MOST_CHUNKS or math.prod(decoded) * item > _MOST_CHUNK_BYTES:
        return f"{n_chunks} chunks of {chunk} are more than a store has"
    if n_chunks > len(index.files):  # before all their names are made
        return (
            f"shape {shape} in chunks of {chunk} takes {n_chunks} files, the index names {len(index.files)}"
        )
    claimed = math.prod(shape) * item
    stored = sum(entry.n_bytes for entry in index.below(name).values())
    # A shard's rows are not compressed, so its file is as large as they are.
    allowed = stored if rule == FEATURES else max(_FREE_BYTES, _MOST_RATIO * stored)
    if claimed > allowed:
        return f"shape {shape} of {data_type} takes {claimed} bytes, its files have {stored}"
    return None


_LITTLE = {"endian": "little"}
_KEYS = ({"name": "default", "configuration": {"separator": "/"}}, {"name": "default"})


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    is_plain = str(pure) == path and not pure.is_absolute() and ".." not in pure.parts
    return is_plain and path != INDEX and not any(c == "\\" or ord(c) < ord(" ") for c in path)
