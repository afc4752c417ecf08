"""The library twin of `spam store verify`: every byte of a store against its digests."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spam.errors import StoreError
from spam.progress import SILENT, Advance, Progress
from spam.schemas.store_config import VerifyConfig
from spam.schemas.store_index import FileEntry
from spam.store.index import SectionIndex, read_index
from spam.store.layout import INDEX, SECTIONS, SPAM
from spam.store.location import FilePart, Location, ZipLocation
from spam.store.node_rules import node_faults
from spam.store.sealing import read_sealed
from spam.store.store import Store, locate

from .damage import Place, damaged_places
from .listing import files_of, staged_chunks
from .zip_frame import frame_faults

__all__ = ["VerifyFault", "VerifyReport", "verify"]

_N_THREADS = 2  # one reads while the other hashes; more would fight over a disk
_BLOCK = 1 << 22


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyFault:
    """Something in a store that is not what was written.

    Attributes
    ----------
    path
        The file, within the store; ``""`` for a packed store as a file.
    fault
        What is wrong with it.
    place
        Which part of which array it holds; None for a file that is no chunk of an array.
    """

    path: str
    fault: str
    place: Place | None = None

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"{self.path or 'the ZIP file'}: {self.fault}{where}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    store
        Address of the store.
    n_files, n_bytes
        What was compared with a digest.
    sections
        Content digest of each section; None where its index is damaged.
    faults
        All that is not as it was written.
    """

    store: str
    n_files: int
    n_bytes: int
    sections: Mapping[str, str | None]
    faults: tuple[VerifyFault, ...]

    @property
    def is_intact(self) -> bool:
        """Whether every byte is what was written."""
        return not self.faults

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {**dataclasses.asdict(self), "is_intact": self.is_intact}

    def summary(self) -> str:
        """Write one line per section and one per fault."""
        size = f"{len(self.sections)} sections, {self.n_files} files, {self.n_bytes / 1e6:.1f} MB"
        lines = [
            f"{name}: content {digest[:12] if digest else 'unknown'}"
            for name, digest in self.sections.items()
        ]
        if self.is_intact:
            return "\n".join([*lines, f"{self.store}: {size}; every byte is what was written"])
        return "\n".join(
            [
                *lines,
                *map(str, self.faults),
                f"{self.store}: {size}; {len(self.faults)} faults: take a fresh copy of what is named, or write it "
                "again with `spam embed --overwrite`",
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A file to compare: its section, its path within that, what the index says of it, and the array it is of."""

    section: str
    path: str
    entry: FileEntry
    array: str | None
    node: dict[str, Any] | None


def verify(config: VerifyConfig, *, progress: Progress = SILENT) -> VerifyReport:
    """Compare every byte of a store with the digests that were written with it.

    These are the seals of the root and of each section's index, the size and SHA-256 of every file that an index
    names, and those of chunks that wait in ``.unfinished``. Files that no index names are faults too, but for a
    ``README.md``. Of a packed store what lies around the files is compared as well, once they are all right, with what
    `spam store pack` writes. Nothing stops at the first fault, and a damaged index hides only its own section.

    Nobody may write to the store meanwhile: what is being replaced would be reported as missing. Of a remote store all
    files are fetched that are not in the cache yet.

    Parameters
    ----------
    config
        Which store, and which of its sections.
    progress
        Who watches; steps are bytes.

    Raises
    ------
    StoreError
        If there is no store, or no section of a name that was asked for, or a packed store whose list of files cannot
        be read.
    """
    assert config.store is not None  # held by __post_init__
    location = locate(config.store)
    names, faults = _sections_of(location)
    chosen = _chosen(config, names)
    indices: dict[str, SectionIndex | None] = {}
    for name in chosen:
        indices[name], fault = _index(location, name)
        faults += fault
    jobs = [job for name, index in indices.items() if index for job in _jobs(name, index)]
    staged = staged_chunks(location, chosen)
    total = sum(job.entry.n_bytes for job in jobs) + sum(part.n_bytes for _, part, _ in staged)
    with progress.task("verifying", total) as advance, ThreadPoolExecutor(_N_THREADS) as pool:
        for found in pool.map(lambda job: _file_faults(location, job, advance), jobs):
            faults += found
        for path, part, sha256 in staged:
            if _digest(part, advance) != sha256:
                faults.append(
                    VerifyFault(path=path, fault="an unfinished chunk that is not what was written")
                )
    faults += _strange_files(location, indices, is_whole=len(chosen) == len(names))
    if isinstance(location, ZipLocation) and not faults:
        faults += [VerifyFault(path="", fault=fault) for fault in frame_faults(location.path)]
    seals = [index for index in indices.values() if index]
    return VerifyReport(
        store=location.address,
        n_files=len(jobs) + len(staged) + len(seals) + 1,
        n_bytes=total + sum(len(index.data) for index in seals) + len(location.read_index("") or b""),
        sections={name: index.digest if index else None for name, index in indices.items()},
        faults=tuple(faults),
    )


def _sections_of(location: Location) -> tuple[tuple[str, ...], list[VerifyFault]]:
    """List the sections that are there or should be; a damaged root hides none that can be found without it."""
    try:
        store = Store(location, is_writable=False)
        root = read_sealed(location.read_index("") or b"", location.address)
    except StoreError as error:
        names = location.section_names(())
        if not names or location.read_index("") is None:  # else all of any folder would be looked through
            raise
        return names, [VerifyFault(path=INDEX, fault=str(error))]
    return tuple(sorted({*store.section_names, *root["attributes"][SPAM][SECTIONS]})), []


def _chosen(config: VerifyConfig, names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in config.sections if name not in names]
    if unknown:
        message = (
            f"store {config.store!r} has no section {', '.join(map(repr, unknown))} (it has: "
            f"{', '.join(map(repr, names)) or 'none'}); name one of these with --sections, or none for all"
        )
        raise StoreError(message)
    return tuple(dict.fromkeys(config.sections)) or names


def _index(location: Location, name: str) -> tuple[SectionIndex | None, list[VerifyFault]]:
    path = f"{name}/{INDEX}"
    try:
        data = location.read_index(name)
        if data is None:
            fault = f"the index of section {name!r} is not there, so its files are not known"
            return None, [VerifyFault(path=path, fault=fault)]
        return read_index(data, f"{location.address}/{name}"), []
    except OSError as error:
        return None, [VerifyFault(path=path, fault=f"it cannot be read ({error.strerror})")]
    except StoreError as error:
        return None, [VerifyFault(path=path, fault=str(error))]


def _jobs(section: str, index: SectionIndex) -> Iterator[_Job]:
    # What is no array of a store is not looked into; its bytes are compared all the same.
    nodes = {} if node_faults(index) else index.nodes
    for path, entry in sorted(index.files.items()):
        array, is_chunk, _ = path.partition("/c/") if "/c/" in path else (path.removesuffix("/c"), True, "")
        node = nodes.get(array) if is_chunk and not path.endswith(INDEX) else None
        yield _Job(section=section, path=path, entry=entry, array=array if node else None, node=node)


def _file_faults(location: Location, job: _Job, advance: Advance) -> list[VerifyFault]:
    """Compare one file with its entry in the index."""
    name = f"{job.section}/{job.path}"
    part, fault = None, None
    try:
        part = location.part(name, job.entry)
        if part is None:
            fault = "it is not there, or is a link"
        elif part.n_bytes != job.entry.n_bytes:
            fault, part = f"it has {part.n_bytes} bytes, expected {job.entry.n_bytes}", None
        elif _digest(part, advance) != job.entry.sha256:
            fault = "its bytes are not what was written"
    except OSError as error:
        fault, part = f"it cannot be read ({error.strerror or error})", None
    except StoreError as error:  # of a remote store
        fault, part = str(error), None
    if fault is None:
        return []
    if job.array is None or job.node is None:
        return [VerifyFault(path=name, fault=fault)]
    places = damaged_places(job.path, job.array, job.node, part)
    return [VerifyFault(path=name, fault=fault, place=place) for place in places]


def _digest(part: FilePart, advance: Advance) -> str:
    digest, left = hashlib.sha256(), part.n_bytes
    with part.path.open("rb") as file:
        file.seek(part.offset)
        while left and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
            advance(len(block))
    return digest.hexdigest()


def _strange_files(
    location: Location, indices: Mapping[str, SectionIndex | None], *, is_whole: bool
) -> list[VerifyFault]:
    """Name the files that no index names, in the sections that were looked at and, if those are all, beside them."""
    known = {INDEX, *(f"{name}/{INDEX}" for name in indices)}
    known |= {f"{name}/{path}" for name, index in indices.items() if index for path in index.files}
    faults = []
    for path, is_link in files_of(location):
        section = path.split("/")[0] if "/" in path else ""
        if not is_whole and section not in indices:
            continue
        if path in known:
            continue  # a link among them is not read, and named already
        if is_link:
            faults.append(VerifyFault(path=path, fault="it is a link, which a store does not hold"))
        elif section not in indices or indices[section] is not None:
            faults.append(VerifyFault(path=path, fault="it should not be there: no index names it"))
    return faults
