"""The index of a section: which nodes and files belong to it. What it does not name is not there.

A change writes its files first and replaces the index last, in one step, so a reader meets the section before or
after the change, and never between.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spam.errors import StoreError
from spam.schemas.store_index import FileEntry
from spam.schemas.store_meta import SectionMeta

from .layout import DIGEST, FILES, INDEX, META, SPAM
from .sealing import read_sealed, sync, write_sealed

__all__ = ["SectionIndex", "change_index", "content_digest", "file_entry", "read_index"]

_BLOCK = 1 << 22
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionIndex:
    """What the index of a section says.

    Attributes
    ----------
    meta
        Name, donor, sizes and provenance.
    nodes
        Zarr metadata (``zarr.json``) of every group and array, by path within the section.
    files
        Size and digest of every file but the index, by path within the section.
    digest
        Content digest of the section: the seal of the index.
    data
        The bytes of the index.
    """

    meta: SectionMeta
    nodes: Mapping[str, dict[str, Any]]
    files: Mapping[str, FileEntry]
    digest: str
    data: bytes

    def below(self, *names: str) -> dict[str, FileEntry]:
        """Give the files of these nodes, and of all nodes below them."""
        return {path: entry for path, entry in self.files.items() if _is_below(path, names)}

    def children(self, name: str) -> list[str]:
        """List the names of the nodes directly below a group."""
        return sorted(node.rpartition("/")[2] for node in self.nodes if node.rpartition("/")[0] == name)


def read_index(data: bytes, where: str) -> SectionIndex:
    """Read the index of a section from its bytes.

    Raises
    ------
    StoreError
        If its digest is not that of its bytes, or it does not have the shape of an index.
    """
    document = read_sealed(data, where)
    try:
        spam = document["attributes"][SPAM]
        return SectionIndex(
            meta=SectionMeta.from_mapping(spam[META]),
            nodes={**document["consolidated_metadata"]["metadata"]},
            files={path: _entry(entry) for path, entry in spam[FILES].items()},
            digest=spam[DIGEST],
            data=data,
        )
    except (KeyError, TypeError, AttributeError) as error:
        message = (
            f"the index of {where} does not fit format version 1 ({type(error).__name__}: {error}); take a fresh "
            "copy of the store, or write the section again with `spam embed --overwrite`"
        )
        raise StoreError(message) from error


def change_index(section: Path, *, add: Collection[str] = (), drop: Collection[str] = ()) -> None:
    """Replace the index of a section in a folder: take up the nodes `add`, whose files are there, leave out `drop`.

    A section that has no index yet gets one, with all of its groups and arrays. The files that are taken up are
    brought to the disk and hashed.
    """
    document = json.loads((section / INDEX).read_bytes())
    spam = document["attributes"][SPAM]
    nodes = document.setdefault("consolidated_metadata", _consolidated({}))["metadata"]
    files = spam.setdefault(FILES, {})
    is_new = not nodes and not files
    dropped = [(part, path) for part in (nodes, files) for path in part if _is_below(path, (*add, *drop))]
    for part, path in dropped:
        del part[path]
    if not (is_new or add or dropped):
        return
    for folder in [section] if is_new else [section / name for name in add]:
        for path in sorted(folder.rglob("*")):
            sync(path)
            if path.is_dir() or path == section / INDEX:
                continue
            name = path.relative_to(section).as_posix()
            files[name] = file_entry(path).to_mapping()
            if path.name == INDEX:
                nodes[name.removesuffix(f"/{INDEX}")] = _node(path)
        for path in (folder, folder.parent):  # the name of what was moved there too
            sync(path)
    write_sealed(section / INDEX, document)


def file_entry(path: Path) -> FileEntry:
    """Measure and hash a file."""
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            n_bytes += len(block)
    return FileEntry(n_bytes=n_bytes, sha256=digest.hexdigest())


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """Hash the sizes and digests of some files: equal where all of their bytes are."""
    rows = sorted((path, entry.n_bytes, entry.sha256) for path, entry in files.items())
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _entry(values: dict[str, Any]) -> FileEntry:
    """Read an entry of a stranger's index: its digest names files in the cache of remote stores."""
    entry = FileEntry(**values)
    if type(entry.n_bytes) is not int or entry.n_bytes < 0 or not _DIGEST.fullmatch(entry.sha256):
        message = f"{str(values)[:200]} is no size and SHA-256"
        raise TypeError(message)
    return entry


def _is_below(path: str, names: Collection[str]) -> bool:
    return any(path == name or path.startswith(f"{name}/") for name in names)


def _consolidated(nodes: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": nodes}


def _node(path: Path) -> dict[str, Any]:
    """Read the metadata of a group or array, as Zarr consolidates them."""
    node: dict[str, Any] = json.loads(path.read_bytes())
    if node["node_type"] == "group":
        node["consolidated_metadata"] = _consolidated({})
    return node
