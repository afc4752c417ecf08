"""The library twin of `spam store validate`: whether a store keeps docs/format.md."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from spam.errors import StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import ValidateConfig
from spam.schemas.store_index import FileEntry
from spam.store.index import SectionIndex, read_index
from spam.store.layout import INDEX, SECTIONS, SPAM, name_fault
from spam.store.location import Location
from spam.store.node_rules import node_faults
from spam.store.sealing import read_sealed
from spam.store.section import StoredSection
from spam.store.store import Store, locate

from .content_rules import content_faults
from .encodings import encoding_faults
from .validate_metadata import metadata_faults

__all__ = ["ValidateFault", "ValidateReport", "validate"]

_ENCODING = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
_MOST_NODE_BYTES = 1 << 24  # that of a data frame with a hundred thousand columns has 2 MB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ValidateFault:
    """A clause of the format that a store does not keep: which node (``C2/obsm/uni2_112um``), and how."""

    path: str
    fault: str

    def __str__(self) -> str:
        return f"{self.path}: {self.fault}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ValidateReport:
    """What `validate` found.

    Attributes
    ----------
    store
        Address of the store.
    sections
        Sections that were looked at.
    faults
        All that is not as the format says.
    """

    store: str
    sections: tuple[str, ...]
    faults: tuple[ValidateFault, ...]

    @property
    def is_valid(self) -> bool:
        """Whether the store keeps the format."""
        return not self.faults

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types, with ``is_valid``."""
        return {**dataclasses.asdict(self), "is_valid": self.is_valid}

    def summary(self) -> str:
        """Write one line per fault."""
        if self.is_valid:
            return f"{self.store}: {len(self.sections)} sections; all is as docs/format.md says"
        return "\n".join(
            [
                *map(str, self.faults),
                f"{self.store}: {len(self.sections)} sections; {len(self.faults)} faults: see docs/format.md; ask "
                "whoever made the store for a whole one, or write what is named again with `spam embed --overwrite`",
            ]
        )


def validate(config: ValidateConfig, *, progress: Progress = SILENT) -> ValidateReport:
    """Check that a store keeps the format: names, metadata, encodings and values of all that it holds.

    Everything is read, and every fault told; whatever a stranger wrote there gives faults and no exception. Bytes that
    changed since they were written are faults too where they are read; `spam.sharing.verify` finds them all.

    Parameters
    ----------
    config
        Which store.
    progress
        Who watches; steps are sections.

    Raises
    ------
    StoreError
        If there is no store, or one of a newer version.
    """
    assert config.store is not None  # held by __post_init__
    location = locate(config.store)
    names, faults = _root(location)
    with progress.task("validating", len(names)) as advance:
        for name in names:
            faults += [
                ValidateFault(path=f"{name}/{path}".rstrip("/"), fault=fault)
                for path, fault in _section(location, name)
            ]
            advance(note=name)
    return ValidateReport(store=location.address, sections=names, faults=tuple(faults))


def _root(location: Location) -> tuple[tuple[str, ...], list[ValidateFault]]:
    """List the sections, and what is wrong with the root; it hides no section that can be found without it."""
    try:
        names = Store(location, is_writable=False).section_names
    except StoreError as error:
        names = location.section_names(())
        if not names:
            raise
        return names, [ValidateFault(path=INDEX, fault=str(error))]
    root = read_sealed(location.read_index("") or b"", location.address)
    faults = metadata_faults(root["attributes"], "root")
    if (root.get("zarr_format"), root.get("node_type")) != (3, "group"):
        faults.append("it is no Zarr v3 group")
    listed = root["attributes"][SPAM][SECTIONS]
    faults += [
        f"it does not name the section {name!r}, which is there" for name in names if name not in listed
    ]
    faults += [f"it names the section {name!r}, which is not there" for name in listed if name not in names]
    return names, [ValidateFault(path=INDEX, fault=fault) for fault in faults]


def _section(location: Location, name: str) -> Iterator[tuple[str, str]]:
    """Yield path within a section and fault; what can only be looked at after something else is whole comes last."""
    if fault := name_fault(name, "the section's name"):
        yield "", fault
    data = location.read_index(name)
    if data is None:
        yield INDEX, "it is not there, or is a link"
        return
    found = list(_index_faults(data))
    yield from ((INDEX, fault) for fault in found)
    try:
        index = read_index(data, f"{location.address}/{name}")
    except StoreError as error:
        yield INDEX, str(error)
        return
    strange = node_faults(index)
    if index.meta.name != name:
        strange.append(f"it is named {index.meta.name!r} in its own metadata")
    yield from ((INDEX, fault) for fault in strange)
    if found or strange:
        return
    yield from _node_files(location, name, index)
    misplaced = list(encoding_faults(index))
    yield from misplaced
    if misplaced:
        return  # reading would say the same again
    try:
        section = StoredSection(location, name, is_writable=False)
    except StoreError as error:
        yield "", str(error)
        return
    yield from content_faults(section)


def _index_faults(data: bytes) -> Iterator[str]:
    """Say what is wrong with an index as a document, whether or not its seal is whole."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return  # its seal says so
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict):
        yield "it is no group with attributes"
        return
    yield from metadata_faults(attributes.get(SPAM), "index")
    if {key: attributes.get(key) for key in _ENCODING} != _ENCODING:
        yield f"its encoding is not {_ENCODING}, so AnnData does not open the section"
    if (document.get("zarr_format"), document.get("node_type")) != (3, "group"):
        yield "it is no Zarr v3 group"
    consolidated = document.get("consolidated_metadata")
    kind = consolidated if isinstance(consolidated, dict) else {}
    if (kind.get("kind"), kind.get("must_understand")) != ("inline", False):
        yield "its consolidated metadata are not Zarr's: kind 'inline', must_understand false"


def _node_files(location: Location, section: str, index: SectionIndex) -> Iterator[tuple[str, str]]:
    """Compare each node's own metadata with what the index says of it: readers use the one or the other."""
    for name, node in sorted(index.nodes.items()):
        path = f"{name}/{INDEX}"
        try:
            own = _document(location, f"{section}/{path}", index.files[path])
        except (OSError, StoreError, ValueError, RecursionError) as error:
            yield path, f"it cannot be read ({error})"
            continue
        if own != {key: value for key, value in node.items() if key != "consolidated_metadata"}:
            yield path, "it says something else than the index does of this node"


def _document(location: Location, path: str, entry: FileEntry) -> Any:
    part = location.part(path, entry)
    if part is None or part.n_bytes != entry.n_bytes or part.n_bytes > _MOST_NODE_BYTES:
        found = "it is not there" if part is None else f"it has {part.n_bytes} bytes"
        message = f"{found}, expected {entry.n_bytes} and no more than {_MOST_NODE_BYTES}"
        raise ValueError(message)
    return json.loads(part.read())
