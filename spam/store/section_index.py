"""The index of a section: its groups, arrays and files, with the digest of each file and of the index itself.

What the index does not name is not part of the section. A change of a section first replaces the index by one without
the nodes that change, then writes their files, then replaces the index by one that names them. So a writer that is
killed leaves a section without those nodes, never a damaged one.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from spam.atomic import PARTIAL, replacing
from spam.errors import ConfigError, StoreError, shortened
from spam.schemas.store_format import QUALITY, FeatureMeta, FileEntry, GraphMeta, SectionMeta, name_fault

from .layout import DIGEST, FILES, IDENTITY, INDEX, META, NEIGHBORS, SPAM, SPATIAL, graph_nodes

_UNSEALED = "0" * 64
_SHA256 = re.compile("[0-9a-f]{64}")
_CODECS = {"bytes", "vlen-utf8", "zstd", "crc32c"}
_MOST_CHUNK_BYTES = 1 << 30
_MOST_ROWS = 1 << 48
_FREE_BYTES, _MOST_RATIO = 1 << 28, 1000
"""An array may take 256 MB in memory, or 1000 times its files (counts reach 20 times)."""
MOST_INDEX_BYTES = 1 << 28
"""Largest index that is read; that of a section of a million spots has 200 kB."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionIndex:
    """The index of a section.

    Attributes
    ----------
    meta
        Name, donor, sizes and provenance.
    nodes
        Zarr metadata (``zarr.json``) of every group and array, by path within the section.
    files
        Size and digest of every file except the index, by path within the section.
    digest
        Content digest of the section: SHA-256 of the index, which covers all files.
    data
        The bytes of the index.
    """

    meta: SectionMeta
    nodes: Mapping[str, dict[str, Any]]
    files: Mapping[str, FileEntry]
    digest: str
    data: bytes

    def below(self, *names: str) -> dict[str, FileEntry]:
        """Return the files of these nodes and of all nodes below them."""
        return {path: entry for path, entry in self.files.items() if is_below(path, names)}

    def children(self, name: str) -> list[str]:
        """List the names of the nodes directly below a group, sorted."""
        return sorted(node.rpartition("/")[2] for node in self.nodes if node.rpartition("/")[0] == name)

    def attribute(self, node: str, entry: str) -> Any:
        """Return one entry of the attribute `SPAM` of a node, or None."""
        spam = self.nodes.get(node, {}).get("attributes", {}).get(SPAM)
        return spam.get(entry) if isinstance(spam, dict) else None

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Names of the finished feature arrays, sorted, without those of tile quality."""
        return self._arrays(is_quality=False)

    @property
    def quality_keys(self) -> tuple[str, ...]:
        """Names of the finished arrays with the quality of tiles, sorted."""
        return self._arrays(is_quality=True)

    def _arrays(self, *, is_quality: bool) -> tuple[str, ...]:
        metas = {name: self.attribute(f"obsm/{name}", META) for name in self.children("obsm")}
        return tuple(x for x, meta in metas.items() if meta and (meta.get("origin") == QUALITY) == is_quality)

    @property
    def graph_keys(self) -> tuple[str, ...]:
        """Names of the neighbour graphs, sorted."""
        names = [name for name in self.children("uns") if self.attribute(f"uns/{name}", META)]
        return tuple(name.removesuffix(NEIGHBORS) for name in names if name.endswith(NEIGHBORS))

    def feature_meta(self, key: str) -> FeatureMeta:
        """Read how finished features were computed.

        Raises
        ------
        StoreError
            If there are no finished features of that name, or their metadata do not fit the format.
        """
        if key not in (*self.feature_keys, *self.quality_keys):
            found = ", ".join(map(repr, self.feature_keys)) or "none"
            message = f"Section {self.meta.name!r} has no features {key!r} (found: {found}). Compute them with: spam embed"
            raise StoreError(message)
        try:
            return FeatureMeta.from_mapping(self.attribute(f"obsm/{key}", META))
        except (TypeError, ConfigError) as error:
            message = f"Section {self.meta.name!r}: metadata of {key!r} do not fit the format ({error})."
            raise StoreError(message) from error

    def graph_meta(self, key: str) -> GraphMeta:
        """Read how a graph was made.

        Raises
        ------
        StoreError
            If its metadata do not fit the format.
        """
        try:
            return GraphMeta.from_mapping(self.attribute(graph_nodes(key)[0], META))
        except TypeError as error:
            message = f"Section {self.meta.name!r}: graph {key!r} does not fit the format ({error}). Run: spam graph --overwrite"
            raise StoreError(message) from error

    def is_stale_graph(self, key: str) -> bool:
        """Tell whether a graph is over features that were replaced after it was built."""
        meta = self.graph_meta(key)
        node = f"obsm/{meta.features_key}"
        return node in self.nodes and bool(self.attribute(node, IDENTITY) != meta.features_identity)


def file_entry(data: bytes) -> FileEntry:
    """Measure and hash the bytes of a file."""
    return FileEntry(n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """Hash the sizes and digests of some files: equal if and only if all of their bytes are."""
    rows = sorted((path, entry.n_bytes, entry.sha256) for path, entry in files.items())
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def sealed(document: dict[str, Any]) -> bytes:
    """Return a ``zarr.json`` as bytes, with their SHA-256 in `DIGEST`; it is computed with 64 zeros in its place."""
    document["attributes"][SPAM][DIGEST] = _UNSEALED
    data = (json.dumps(document, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode()
    return data.replace(_digest_entry(_UNSEALED), _digest_entry(hashlib.sha256(data).hexdigest()))


def read_sealed(data: bytes, where: str) -> dict[str, Any]:
    """Parse what `sealed` returned.

    Raises
    ------
    StoreError
        If it is not a JSON object with a digest, or its digest is not that of its bytes.
    """
    try:
        document: dict[str, Any] = json.loads(data)
        digest = document["attributes"][SPAM][DIGEST]
        unsealed = data.replace(_digest_entry(digest), _digest_entry(_UNSEALED))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = (
            f"Damaged index: {where} is not the index of a store ({type(error).__name__}: {error}). {_ADVICE}"
        )
        raise StoreError(message) from error
    if len(data) > MOST_INDEX_BYTES or hashlib.sha256(unsealed).hexdigest() != digest:
        message = f"Damaged index: the bytes of {where} do not match the digest {str(digest)[:12]!r} in it. {_ADVICE}"
        raise StoreError(message)
    return document


def open_index(data: bytes, name: str, where: str) -> SectionIndex:
    """Read the index of section `name` and check all that it names before anything is read by it.

    Raises
    ------
    StoreError
        If it is damaged, has another name, or names paths outside the section, unknown codecs, or sizes that its files
        cannot have.
    """
    document = read_sealed(data, where)
    try:
        spam = document["attributes"][SPAM]
        index = SectionIndex(
            meta=SectionMeta.from_mapping(spam[META]),
            nodes={**document["consolidated_metadata"]["metadata"]},
            files={path: FileEntry(**entry) for path, entry in spam[FILES].items()},
            digest=spam[DIGEST],
            data=data,
        )
        faults = _index_faults(index, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        faults = [f"it does not fit the format ({type(error).__name__}: {error})"]
    if faults:
        message = f"Section {where!r} cannot be opened: {'; '.join(faults[:5])}. {_ADVICE}"
        raise StoreError(message)
    return index


def edited(
    index: SectionIndex,
    *,
    drop: Collection[str] = (),
    add: Collection[str] = (),
    other: SectionIndex | None = None,
    licence: str | None = None,
) -> SectionIndex:
    """Return an index without the nodes `drop`, with the nodes `add` of another index, or under a licence."""
    document = json.loads(index.data)
    spam, nodes = document["attributes"][SPAM], document["consolidated_metadata"]["metadata"]
    for part in (spam[FILES], nodes):
        for path in [path for path in part if is_below(path, drop)]:
            del part[path]
    if other is not None:
        spam[FILES] |= {path: dataclasses.asdict(entry) for path, entry in other.below(*add).items()}
        nodes |= {path: node for path, node in other.nodes.items() if is_below(path, add)}
    if licence is not None:
        spam[META]["licence"] = licence
    return open_index(sealed(document), index.meta.name, index.meta.name)


def update_index(section: Path, *, add: Collection[str] = (), drop: Collection[str] = ()) -> None:
    """Replace the index of a section: with the nodes `add`, whose files are hashed, and without `drop`.

    The caller holds the lock of the section.
    """
    document = json.loads((section / INDEX).read_bytes())
    inline: dict[str, Any] = {"kind": "inline", "must_understand": False}
    # Zarr before 3.1.4 writes null.
    document["consolidated_metadata"] = document.get("consolidated_metadata") or {**inline, "metadata": {}}
    nodes = document["consolidated_metadata"]["metadata"]
    files = document["attributes"][SPAM].setdefault(FILES, {})
    for part in (nodes, files):
        for path in [path for path in part if is_below(path, (*add, *drop))]:
            del part[path]
    for path in sorted(path for name in add for path in (section / name).rglob("*") if path.is_file()):
        if path.name.endswith(PARTIAL):  # of a killed writer
            path.unlink()
            continue
        name, data = path.relative_to(section).as_posix(), path.read_bytes()
        files[name] = dataclasses.asdict(file_entry(data))
        if path.name == INDEX:
            node = json.loads(data)
            if node["node_type"] == "group":  # as zarr consolidates nested groups
                node["consolidated_metadata"] = {**inline, "metadata": {}}
            nodes[name.removesuffix(f"/{INDEX}")] = node
    write_whole(section / INDEX, sealed(document))


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step; the caller holds the lock of its section."""
    with replacing(path, is_locked=True) as partial:
        partial.write_bytes(data)


def _index_faults(index: SectionIndex, name: str) -> list[str]:
    faults = [
        name_fault(name, "its name"),
        None if index.meta.name == name else f"its metadata name it {index.meta.name!r}",
        *(f"{path!r} is not a path inside a section" for path in index.files if not _is_plain(path)),
        *(
            f"{path}: {str(entry)[:99]} is not a size and SHA-256"
            for path, entry in index.files.items()
            if not (type(entry.n_bytes) is int and entry.n_bytes >= 0 and _SHA256.fullmatch(entry.sha256))
        ),
    ]
    for path, node in index.nodes.items():
        attributes = node.get("attributes", {})
        if not isinstance(attributes, dict) or not isinstance(attributes.get(SPAM, {}).get(META, {}), dict):
            faults.append(f"{path}: its attributes are no object")
        if node["node_type"] == "array":
            faults.append(_array_fault(path, node, index))
    columns = index.nodes["obs"]["attributes"]["column-order"]
    needed = {f"obs/{column}": index.meta.n_spots for column in ("_index", *columns)}
    needed |= {f"obsm/{SPATIAL}": index.meta.n_spots} if index.meta.has_coordinates else {}
    needed |= {"var/_index": index.meta.n_genes} if index.meta.has_counts else {}
    # A categorical column is a group of codes and categories.
    found = {p: index.nodes.get(f"{p}/codes", index.nodes.get(p, {})).get("shape", ()) for p in needed}
    unfit = [p for p, size in needed.items() if found[p][:1] != [size]]
    if unfit:
        faults.append(
            f"{', '.join(map(shortened, unfit[:3]))} do not fit {index.meta.n_spots} spots, {index.meta.n_genes} genes"
        )
    return [fault for fault in faults if fault]


def _array_fault(name: str, node: dict[str, Any], index: SectionIndex) -> str | None:
    codecs = {codec["name"] for codec in node["codecs"]}
    if not codecs <= _CODECS or node.get("storage_transformers"):
        return f"{name}: unknown codecs {sorted(codecs)}"
    shape, chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    if len(shape) != len(chunk) or not all(
        type(size) is int and 0 <= size <= _MOST_ROWS for size in (*shape, *chunk)
    ):
        return f"{name}: {shortened(shape)} and {shortened(chunk)} are no shapes"
    bits = re.fullmatch(r"(?:bool|string|u?int|float)(\d*)", node["data_type"])
    if bits is None or 0 in chunk:
        return f"{name}: {node['data_type']!r} in chunks of {chunk} cannot be read"
    n_bytes = int(bits[1]) // 8 if bits[1] else 16 if node["data_type"] == "string" else 1
    stored = sum(entry.n_bytes for entry in index.below(name).values())
    # An axis of length 0 hides the length of the others, which zarr still counts through.
    claimed = math.prod(max(size, 1) for size in shape) * n_bytes
    whole_chunk = (
        math.prod(min(size, max(length, 1)) for size, length in zip(chunk, shape, strict=True)) * n_bytes
    )
    if claimed > max(_FREE_BYTES, _MOST_RATIO * stored) or whole_chunk > _MOST_CHUNK_BYTES:
        return (
            f"{name}: shape {shape} in chunks of {chunk} would take {claimed} bytes; its files have {stored}"
        )
    return None


def is_below(path: str, names: Collection[str]) -> bool:
    """Tell whether a path is one of these nodes or below one."""
    return any(path == name or path.startswith(f"{name}/") for name in names)


def _is_plain(path: str) -> bool:
    pure = PurePosixPath(path)
    is_normal = str(pure) == path and not pure.is_absolute() and ".." not in pure.parts
    return is_normal and path != INDEX and not any(c == "\\" or ord(c) < ord(" ") for c in path)


def _digest_entry(digest: str) -> bytes:
    """Return the digest as it stands in the file; a string inside the file cannot hold these quotes."""
    return json.dumps({DIGEST: digest})[1:-1].encode()


_ADVICE = "Replace it from a copy of the store, or write the section again with `spam embed --overwrite`."
