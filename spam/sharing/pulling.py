"""Fetching a store, or a part of one: `spam store pull`."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spam.errors import StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import PullConfig
from spam.schemas.store_index import FileEntry
from spam.store import Store, StoredSection, create_store, open_store
from spam.store.feature_writer import LOCK_WAIT_S
from spam.store.index import SectionIndex, change_index
from spam.store.layout import INDEX, STAGING
from spam.store.lock import live_locks, locked
from spam.store.remote import RemoteLocation, is_remote
from spam.store.sealing import write_durably
from spam.store.staging import discard, move_into_place, staged
from spam.store.store import write_root

from .changed_index import without_nodes
from .choosing import chosen_sections, kept_parts, require_chosen
from .fetching import Fetching
from .redacting import Redaction
from .same_section import Part, part_difference, parts_of, section_differences
from .sharing_record import sharing_record

__all__ = ["PullReport", "pull"]

_PULLED = ".pulled"  # beside the unfinished features of a section, under a name that no feature key can have
_FETCHED = ".fetched"
_PULL_LOCK = ".pull"
_ALL = Redaction()  # nothing is taken out of what is pulled


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullReport:
    """What `pull` did.

    Attributes
    ----------
    store, out
        Where it was fetched from, and the folder that it is in now.
    sections
        Sections that were asked for, all of them there now.
    features
        Their features that were asked for, ``section/key``.
    n_files, n_bytes
        Files that were fetched, and their size.
    n_there
        Files that were there already and were not fetched.
    """

    store: str
    out: Path
    sections: tuple[str, ...]
    features: tuple[str, ...]
    n_files: int
    n_bytes: int
    n_there: int

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain = dataclasses.asdict(self) | {"out": str(self.out)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def summary(self) -> str:
        """Write what is there now, and how much of it was fetched."""
        return (
            f"fetched {self.n_files} files, {self.n_bytes} bytes; {self.n_there} files were there already\n"
            f"sections {', '.join(self.sections)} of {self.store} are in {self.out}, with features "
            f"{', '.join(self.features) or 'none'}"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How one section comes into the folder.

    Attributes
    ----------
    section
        The section at the address.
    index
        Its index, without what is not asked for.
    own
        The section of that name in the folder, if there is one.
    missing
        Features and graphs that it lacks.
    """

    section: StoredSection
    index: SectionIndex
    own: StoredSection | None
    missing: tuple[Part, ...]

    @property
    def nodes(self) -> list[str]:
        """Nodes that are added to a section that is there."""
        return [node for part in self.missing for node in part.nodes]

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """Files that the folder lacks."""
        return self.index.files if self.own is None else self.index.below(*self.nodes)


def pull(config: PullConfig, *, progress: Progress = SILENT) -> PullReport:
    """Fetch a store, or some sections and features of it, into a folder.

    A section appears when it is whole, each file compared with its digest. Features that are not asked for are not
    fetched, nor are graphs over them. Into a folder that has a section already only features and graphs that it lacks are
    fetched; what is there is never replaced. A pull that was killed goes on when it is run again: files that had arrived
    whole are kept. Nothing is left in the user's cache.

    Parameters
    ----------
    config
        The address of the store, what of it, and where to.
    progress
        Who watches.

    Raises
    ------
    StoreError
        If there is no store at the address, it cannot be reached, may not be read or is damaged (says why, and what to
        do); if what is asked for is not there (says what is); if the folder is none of a store, or holds a section,
        features or a graph of the same name and other content (names them all; nothing is fetched then).
    """
    assert config.store is not None  # held by __post_init__
    assert config.out is not None
    out = config.out
    is_begun = out.is_file() or (out / INDEX).exists() or _has_others(out)
    target = open_store(out, is_read_only=False) if is_begun else None
    with _source(config.store, out) as source:
        sections = chosen_sections(source, config.sections)
        require_chosen(source, sections, config.features, _ALL)
        plans = [
            _planned(section, kept_parts(section, config.features, _ALL), target) for section in sections
        ]
        _require_equal(plans, source, out)
        target = target or create_store(out)
        with progress.task(
            "pulling", sum(e.n_bytes for plan in plans for e in plan.files.values())
        ) as advance:
            fetching = Fetching(source.location, advance)
            for plan in plans:
                _pull(plan, target, fetching)
                write_root(out, entries=sharing_record([target, source], target))
    features = [(plan.index.meta.name, key) for plan in plans for key in _feature_keys(plan)]
    return PullReport(
        store=source.address,
        out=out,
        sections=tuple(plan.index.meta.name for plan in plans),
        features=tuple(f"{name}/{key}" for name, key in features),
        n_files=fetching.n_files,
        n_bytes=fetching.n_bytes,
        n_there=sum(len(plan.index.files) for plan in plans) - fetching.n_files,
    )


def _has_others(out: Path) -> bool:
    """Tell whether a folder holds anything but what a pull left that was killed before there was a store."""
    return out.is_dir() and any(path.name != STAGING for path in out.iterdir())


@contextlib.contextmanager
def _source(address: Path | str, out: Path) -> Iterator[Store]:
    """Open the store at an address; what is fetched of it lies in the folder, so that it is moved and not copied."""
    if not is_remote(address):
        yield open_store(address)
        return
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out, _PULL_LOCK):
            try:
                cache = staged(out, _FETCHED)
                yield Store(RemoteLocation(str(address), cache=cache), is_writable=False)
            finally:
                discard(out, _FETCHED)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # there is something in it now
                out.rmdir()


def _planned(section: StoredSection, kept: Sequence[Part], target: Store | None) -> _Plan:
    name = section.meta.name
    own = target.section(name) if target is not None and name in target.section_names else None
    left_out = [node for part in parts_of(section) if part not in kept for node in part.nodes]
    there = () if own is None else parts_of(own)
    return _Plan(
        section=section,
        index=without_nodes(section.index, left_out),
        own=own,
        missing=tuple(part for part in kept if part not in there),
    )


def _require_equal(plans: Sequence[_Plan], source: Store, out: Path) -> None:
    """Refuse to pull what is in the folder under the same name with another content."""
    conflicts = []
    for plan in plans:
        own, name = plan.own, plan.section.meta.name
        if own is None:
            continue
        conflicts += [f"section {name!r}: {fault}" for fault in section_differences(own, plan.section)]
        wanted = set(plan.index.nodes)
        both = [part for part in parts_of(own) if wanted.issuperset(part.nodes)]
        faults = {part: part_difference(own, plan.section, part) for part in both}
        conflicts += [f"{part} of section {name!r}: {fault}" for part, fault in faults.items() if fault]
    if conflicts:
        lines = "".join(f"\n- {conflict}" for conflict in conflicts)
        message = (
            f"{str(out)!r} holds something else under the same name (here) than {source.address!r} (there), and nothing is "
            f"written over:{lines}\nPull into another folder"
        )
        raise StoreError(message)


def _pull(plan: _Plan, target: Store, fetching: Fetching) -> None:
    folder, name = target.folder, plan.index.meta.name
    with locked(folder, name, wait_s=LOCK_WAIT_S):
        now = target.section(name).index.digest if name in target.section_names else None
        if now != (None if plan.own is None else plan.own.index.digest) or live_locks(folder, name):
            message = (
                f"another process has changed section {name!r} of store {target.address!r}, or is changing it; wait for it "
                "and pull again: what was fetched is kept"
            )
            raise StoreError(message)
        path = staged(folder, f"{name}/{_PULLED}")
        fetching.fetch(name, plan.files, path)
        if plan.own is None:
            write_durably(path / INDEX, plan.index.data)
            move_into_place(folder, name, path)
        else:
            for node in plan.nodes:
                move_into_place(folder, f"{name}/{node}", path / node)
            change_index(folder / name, add=plan.nodes)
        discard(folder, f"{name}/{_PULLED}")


def _feature_keys(plan: _Plan) -> list[str]:
    return [key for key in plan.section.feature_keys if f"obsm/{key}" in plan.index.nodes]
