"""The library twin of `spam store verify`: every byte of a store is compared with its digest."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spam.atomic import PARTIAL
from spam.errors import StoreError, counted
from spam.progress import SILENT, Progress
from spam.schemas.store_config import VerifyConfig
from spam.schemas.store_format import FileEntry

from .feature_store import find_location, read_root
from .features import is_intact_chunk
from .layout import INDEX, LOCKS, STAGING, TABLES, TABLES_INDEX
from .places import FolderLocation, Location, ZipLocation
from .section_index import SectionIndex, open_index
from .stored_section import StoredSection

_N_THREADS = 2  # one reads while the other hashes
_README = "README.md"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyFault:
    """A file of a store that differs from what was written.

    Attributes
    ----------
    path
        The file, within the store.
    fault
        What is wrong with it.
    place
        The part of an array that it holds (``rows 0:1024``), or ``""``.
    """

    path: str
    fault: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.fault}{f' ({self.place})' if self.place else ''}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Result of `verify`.

    Attributes
    ----------
    store
        Address of the store.
    n_files, n_bytes
        What was compared with a digest.
    sections
        Content digest of each section; None if its index is damaged.
    faults
        Everything that is not as it was written.
    """

    store: str
    n_files: int
    n_bytes: int
    sections: Mapping[str, str | None]
    faults: tuple[VerifyFault, ...]

    @property
    def is_intact(self) -> bool:
        """Whether every byte is as written."""
        return not self.faults

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {**dataclasses.asdict(self), "is_intact": self.is_intact}

    def summary(self) -> str:
        """Write one line per section and one per fault."""
        sections = [f"{name}: content {(digest or 'unknown')[:12]}" for name, digest in self.sections.items()]
        n_sections, n_files = counted(len(self.sections), "section"), counted(self.n_files, "file")
        size = f"{self.store}: {n_sections}, {n_files}, {self.n_bytes / 1e6:.1f} MB"
        result = "every byte is what was written"
        if self.faults:
            result = (
                f"{counted(len(self.faults), 'fault')}. Replace these files, or run: spam embed --overwrite"
            )
        return "\n".join([*sections, *map(str, self.faults), f"{size}; {result}"])


def verify(config: VerifyConfig, *, progress: Progress = SILENT) -> VerifyReport:
    """Compare every byte of a store with the digests that were written with it.

    These are the digests of the root and of each section's index, the size and SHA-256 of every file that an index names,
    and the checksums of unfinished chunks of features. Files that no index names are faults too, except ``README.md``, and
    so are counts and graphs that are no sparse matrices. All faults are listed; a damaged index hides only its own section.
    A store that is being written at the same time shows faults that are none. Of a remote store, all files are fetched.

    Parameters
    ----------
    config
        Which store, and which of its sections.
    progress
        Shows progress, in bytes.

    Raises
    ------
    StoreError
        If there is no store, or no section of a given name.
    """
    assert config.store is not None  # held by __post_init__
    location = find_location(config.store)
    names, faults = _sections_of(location)
    if missing := [name for name in config.sections if name not in names]:
        message = f"Store {config.store!r} has no section {', '.join(map(repr, missing))} (--sections); it has: {names}"
        raise StoreError(message)
    indices: dict[str, SectionIndex | None] = {}
    for name in dict.fromkeys(config.sections) or names:
        indices[name] = None
        try:
            data = location.read_index(name)
            if data is None:
                faults.append(VerifyFault(path=f"{name}/{INDEX}", fault="it is missing"))
            else:
                indices[name] = open_index(data, name, f"{location.address}/{name}")
        except (StoreError, OSError) as error:
            faults.append(VerifyFault(path=f"{name}/{INDEX}", fault=str(error)))
    whole = [index for index in indices.values() if index]
    jobs = [(index, path, entry) for index in whole for path, entry in sorted(index.files.items())]
    n_bytes = sum(entry.n_bytes for _, _, entry in jobs)
    with progress.task("verifying", n_bytes) as advance, ThreadPoolExecutor(_N_THREADS) as pool:

        def check(job: tuple[SectionIndex, str, FileEntry]) -> VerifyFault | None:
            index, path, entry = job
            name = f"{index.meta.name}/{path}"
            try:
                fault = location.checked(name, entry)[1]
            except (StoreError, OSError) as error:
                fault = str(error)
            advance(entry.n_bytes)
            return VerifyFault(path=name, fault=fault, place=_place(index, path)) if fault else None

        faults += [fault for fault in pool.map(check, jobs) if fault]
    damaged = {fault.path.split("/")[0] for fault in faults}
    for index in whole:
        if index.meta.name not in damaged:
            faults += _matrix_faults(StoredSection(location, index.meta.name, is_writable=False))
    is_all = len(indices) == len(names)
    faults += [
        fault for path in _files_of(location) if (fault := _unnamed(location, path, indices, is_all=is_all))
    ]
    return VerifyReport(
        store=location.address,
        n_files=len(jobs) + len(whole) + 1,
        n_bytes=n_bytes + sum(len(index.data) for index in whole) + len(location.read_index("") or b""),
        sections={name: index.digest if index else None for name, index in indices.items()},
        faults=tuple(faults),
    )


def _matrix_faults(section: StoredSection) -> Iterator[VerifyFault]:
    """Find sparse matrices whose bytes are as written and that are none: their writer was given damaged ones."""
    readers: dict[str, Callable[[], object]] = {"X": section.counts} if section.meta.has_counts else {}
    readers |= {f"obsp/{key}": functools.partial(section.graph, key) for key in section.graph_keys}
    for name, read in readers.items():
        try:
            read()
        except StoreError as error:
            yield VerifyFault(path=f"{section.meta.name}/{name}", fault=str(error))


def _sections_of(location: Location) -> tuple[tuple[str, ...], list[VerifyFault]]:
    """List the sections that exist or should; a damaged root hides none that can be found without it."""
    try:
        return tuple(sorted({*location.section_names(()), *read_root(location)})), []
    except StoreError as error:
        names = location.section_names(())
        if not names or location.read_index("") is None:
            raise
        return names, [VerifyFault(path=INDEX, fault=str(error))]


def _place(index: SectionIndex, path: str) -> str:
    """Say which rows (or entries of a sparse matrix) a chunk file holds; ``""`` for other files."""
    array, _, position = path.rpartition("/c/")
    node = index.nodes.get(array, {})
    if node.get("node_type") != "array":  # else a file of the group that holds a column of the name c
        return ""
    length, step = node["shape"][0], node["chunk_grid"]["configuration"]["chunk_shape"][0]
    first = int(position.split("/")[0]) * step
    what = "entries" if array.endswith(("/data", "/indices")) else "rows"
    return f"{what} {first}:{min(first + step, length)} of {array}"


def _files_of(location: Location) -> Iterator[str]:
    """List every file by its path within the store, except of a remote store."""
    if isinstance(location, ZipLocation):
        yield from sorted(location.entries)
    if isinstance(location, FolderLocation):
        for path in sorted(location.path.rglob("*")):
            if path.is_symlink() or path.is_file():
                yield path.relative_to(location.path).as_posix()


def _unnamed(
    location: Location, path: str, indices: Mapping[str, SectionIndex | None], *, is_all: bool
) -> VerifyFault | None:
    """Describe the fault of a file that no index names."""
    section, _, inner = path.partition("/")
    index = indices.get(section)
    folder = location.path if isinstance(location, FolderLocation) else None
    is_link = folder is not None and (folder / path).is_symlink()
    is_ours = (
        path in (INDEX, _README) or section == LOCKS or path.startswith(STAGING) or path.endswith(PARTIAL)
    )
    is_known = inner == INDEX or (index is not None and inner in index.files)
    is_elsewhere = (section in indices and index is None) or (not is_all and section not in indices)
    if is_link:
        return VerifyFault(path=path, fault="it is a link, which a store must not hold")
    if path == f"{TABLES}/{INDEX}":
        part = location.part(path, None)
        is_whole = part is not None and part.read() == TABLES_INDEX
        return None if is_whole else VerifyFault(path=path, fault="its bytes are not those of the format")
    if is_ours or is_known or is_elsewhere:
        return None
    array, is_chunk, _ = inner.partition("/c/")
    if (
        index is not None
        and folder is not None
        and array.startswith("obsm/")
        and (folder / section / array.removesuffix(f"/{INDEX}")).is_dir()
    ):
        # Unfinished features, which the index does not name yet.
        if not is_chunk or is_intact_chunk((folder / path).read_bytes()):
            return None
        return VerifyFault(path=path, fault="an unfinished chunk that does not match its checksum")
    return VerifyFault(path=path, fault="it should not be there: no index names it")
