"""Merging stores into one: `spam store merge`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spam.errors import StoreError
from spam.progress import SILENT, Advance, Progress
from spam.schemas.store_config import MergeConfig
from spam.store import Store, StoredSection, create_store, open_store
from spam.store.feature_writer import LOCK_WAIT_S
from spam.store.index import change_index
from spam.store.layout import INDEX
from spam.store.lock import live_locks, locked
from spam.store.staging import discard, move_into_place, staged
from spam.store.store import write_root

from .copying import copy_files, copy_section
from .same_section import Part, part_difference, parts_of, section_differences
from .sharing_record import sharing_record

__all__ = ["MergeReport", "merge"]

_MERGED = ".merged"  # beside the unfinished features of a section, under a name that no feature key can have


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What `merge` did.

    Attributes
    ----------
    out, stores
        The store that everything is in now, and where it was taken from.
    sections
        Sections that were new in it.
    features, graphs
        Features and graphs that were added to sections, new ones included: ``section/key``.
    n_equal
        Sections, features and graphs that were met again with equal content, and left alone.
    unfinished
        Features of the stores that are not finished: ``store: section/key``; they are left out.
    """

    out: Path
    stores: tuple[str, ...]
    sections: tuple[str, ...]
    features: tuple[str, ...]
    graphs: tuple[str, ...]
    n_equal: int
    unfinished: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "out": str(self.out),
            "stores": list(self.stores),
            "sections": list(self.sections),
            "features": list(self.features),
            "graphs": list(self.graphs),
            "n_equal": self.n_equal,
            "unfinished": list(self.unfinished),
        }

    def summary(self) -> str:
        """Write what was added, and what was not."""
        return "\n".join(
            [
                *(f"section {name}: added" for name in self.sections),
                *(f"features {name}: added" for name in self.features),
                *(f"graph {name}: added" for name in self.graphs),
                *(f"unfinished features were left out: {name}" for name in self.unfinished),
                f"{self.n_equal} sections, features and graphs were equal to what was there, and left alone",
                f"everything is in {self.out}",
            ]
        )


class _Held(NamedTuple):
    """A section, and the store that it is taken from."""

    store: Store
    section: StoredSection


@dataclasses.dataclass(slots=True, kw_only=True)
class _Plan:
    """How one section comes about: whose tables it gets, and whose features and graphs."""

    base: _Held
    parts: dict[Part, _Held]
    is_new: bool

    @property
    def missing(self) -> dict[Part, _Held]:
        """Parts that do not come with the tables."""
        return {part: held for part, held in self.parts.items() if held is not self.base}


def merge(config: MergeConfig, *, progress: Progress = SILENT) -> MergeReport:
    """Put everything of several stores into one, which is made if it is not there; nothing in it is rewritten.

    A section that is not there is copied whole. One that is there must be the same section: its metadata (but the
    versions of software), ids, coordinates, counts, genes and annotations are compared; then it gets the features
    and graphs that it lacks. What is there with equal content is left alone. So the order and the grouping of merges
    do not matter, and merging again changes nothing. (Where equal tables were compressed by other versions of
    software, and where overview images differ, those of the store that is named first are kept.)

    What was overridden to share one of the stores is recorded in the root of the merged one too.

    A run that was killed leaves a store that reads whole; the next one completes it.

    Parameters
    ----------
    config
        The store to write, and the stores to take from: folders, packed or remote ones.
    progress
        Who watches.

    Raises
    ------
    StoreError
        If sections of one name are not the same, or features or graphs of one key differ: all such conflicts are
        listed before anything is written. Also if a store is not there, is damaged, or another process is writing.
    """
    assert config.out is not None  # held by __post_init__
    out = config.out
    is_begun = out.is_file() or (out / INDEX).is_file()
    target = open_store(out, is_read_only=False) if is_begun else None
    stores = [open_store(address) for address in config.stores]
    sections = [_Held(store, store.section(name)) for store in stores for name in store.section_names]
    own = [] if target is None else [_Held(target, target.section(name)) for name in target.section_names]
    plans = {held.section.meta.name: _planned(held, is_new=False) for held in own}
    n_equal = _take_up(plans, sections)
    target = target or create_store(out)
    added: list[tuple[str, Part]] = []
    with progress.task("merging", sum(map(_n_files, plans.values()))) as advance:
        for name, plan in plans.items():
            added += [(name, part) for part in (plan.parts if plan.is_new else plan.missing)]
            if plan.is_new:
                _add_section(target, plan.base, advance)
            if plan.missing:
                _add_parts(target, plan, advance)
    write_root(out, entries=sharing_record([target, *stores], target))
    return MergeReport(
        out=out,
        stores=tuple(store.address for store in stores),
        sections=tuple(name for name, plan in plans.items() if plan.is_new),
        features=tuple(f"{name}/{part.key}" for name, part in added if part.kind == "features"),
        graphs=tuple(f"{name}/{part.key}" for name, part in added if part.kind == "graph"),
        n_equal=n_equal,
        unfinished=tuple(
            f"{held.store.address}: {held.section.meta.name}/{key}"
            for held in sections
            for key in held.section.unfinished_keys
        ),
    )


def _planned(held: _Held, *, is_new: bool) -> _Plan:
    return _Plan(base=held, parts=dict.fromkeys(parts_of(held.section), held), is_new=is_new)


def _take_up(plans: dict[str, _Plan], sections: Sequence[_Held]) -> int:
    """Plan where each section, feature array and graph comes from: the first that has it; count what is equal.

    Raises
    ------
    StoreError
        If another that has it differs; lists all that do.
    """
    n_equal, conflicts = 0, []
    for held in sections:
        store, section = held
        name = section.meta.name
        plan = plans.get(name)
        if plan is None:
            plans[name] = _planned(held, is_new=True)
            continue
        where = f"store {store.address!r} against {plan.base.store.address!r}"
        differences = section_differences(plan.base.section, section)
        conflicts += [f"section {name!r} of {where}: {difference}" for difference in differences]
        n_equal += not differences
        for part in () if differences else parts_of(section):
            first = plan.parts.setdefault(part, held)
            difference = None if first is held else part_difference(first.section, section, part)
            where = f"store {store.address!r} against {first.store.address!r}"
            conflicts += [f"{part} of section {name!r} of {where}: {difference}"] if difference else []
            n_equal += first is not held and difference is None
    if conflicts:
        lines = "".join(f"\n- {conflict}" for conflict in conflicts)
        message = (
            f"these stores cannot be merged, nothing was written:{lines}\n"
            "Look closer with `spam store diff A B`. To merge the rest, take what is in question out of one of the two: "
            "`spam store select A part.zarr --sections … --features …`, then merge part.zarr"
        )
        raise StoreError(message)
    return n_equal


def _n_files(plan: _Plan) -> int:
    tables = len(plan.base.section.index.files) if plan.is_new else 0
    parts = (held.section.index.below(*part.nodes) for part, held in plan.missing.items())
    return tables + sum(map(len, parts))


def _add_section(target: Store, held: _Held, advance: Advance) -> None:
    """Copy a section that is not there, with its own features and graphs."""
    folder, name = target.folder, held.section.meta.name
    with locked(folder, name, wait_s=LOCK_WAIT_S):
        if name in target.section_names or live_locks(folder, name):
            raise _changed(target, name)
        discard(folder, name)
        path = staged(folder, name)
        copy_section(held.store.location, held.section.index, path, advance)
        move_into_place(folder, name, path)


def _add_parts(target: Store, plan: _Plan, advance: Advance) -> None:
    """Add features and graphs to a section that is there."""
    folder, name = target.folder, plan.base.section.meta.name
    nodes = [node for part in plan.missing for node in part.nodes]
    with locked(folder, name, wait_s=LOCK_WAIT_S):
        now = target.section(name)
        if now.index.digest != plan.base.section.index.digest or live_locks(folder, name):
            raise _changed(target, name)
        begun = [
            part.key for part in plan.missing if part.kind == "features" and part.key in now.unfinished_keys
        ]
        if begun:
            message = (
                f"section {name!r} of store {target.address!r} has unfinished features {', '.join(map(repr, begun))}, which "
                "the stores to merge have finished; finish them with `spam embed`, or leave them out of what is merged "
                "with `spam store select`"
            )
            raise StoreError(message)
        discard(folder, f"{name}/{_MERGED}")
        path = staged(folder, f"{name}/{_MERGED}")
        for part, held in plan.missing.items():
            copy_files(held.store.location, name, held.section.index.below(*part.nodes), path, advance)
        for node in nodes:
            move_into_place(folder, f"{name}/{node}", path / node)
        change_index(folder / name, add=nodes)
        discard(folder, f"{name}/{_MERGED}")


def _changed(target: Store, name: str) -> StoreError:
    message = (
        f"another process has changed section {name!r} of store {target.address!r}, or is changing it; wait for it and "
        "merge again: what is merged already stays"
    )
    return StoreError(message)
