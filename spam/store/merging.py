"""Merging sections part by part: `spam store merge`, and what a push or a pull adds to a place."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from spam.errors import StoreError
from spam.progress import SILENT, Progress
from spam.schemas.records import Record
from spam.schemas.store_config import MergeConfig
from spam.schemas.store_format import (
    QUALITY,
    FeatureMeta,
    FileEntry,
    SectionMeta,
    feature_identity,
    quality_key,
)
from spam.typing import Array

from .destinations import Change, Destination
from .feature_store import filled_store, open_store
from .layout import IDENTITY, INDEX, META, feature_graph_key, graph_nodes
from .places import Location
from .section_index import SectionIndex, content_digest, edited
from .stored_section import StoredSection, encoders_of, features_named

Part: TypeAlias = tuple[Literal["features", "graph", "section"], str]
"""What can be copied or differ: kind and key, such as ``("features", "uni_112um")``."""

Parts: TypeAlias = Mapping[Part, tuple[str, ...]]
"""Features and graphs of a section, each with its nodes."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport(Record):
    """Result of `select`, `merge`, `pack` and `unpack`.

    Attributes
    ----------
    out
        The store that was written.
    sections
        Sections that are new in it.
    added
        Features and graphs that are new in it, ``section: features 'key'``.
    left_out
        Features, graphs and columns of ``obs`` that were not copied, with the reason.
    redacted
        What was removed from the sections, by section.
    n_equal
        Sections, features and graphs that `merge` found with equal content.
    """

    out: Path
    sections: tuple[str, ...]
    added: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    redacted: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    n_equal: int = 0

    def summary(self) -> str:
        """List what was added and what was left out."""
        lines = [f"added section {name}" for name in self.sections]
        lines += [f"added {name}" for name in self.added]
        lines += [f"left out {name}" for name in self.left_out]
        lines += [f"removed {', '.join(what)} of {name}" for name, what in self.redacted.items() if what]
        lines += [f"already there: {self.n_equal} sections, features and graphs"] if self.n_equal else []
        return "\n".join([*lines, f"wrote {self.out}"])


def parts_of(index: SectionIndex) -> dict[Part, tuple[str, ...]]:
    """List the features (with the quality arrays of their tiles) and graphs of a section, with their nodes."""
    keys = (*index.feature_keys, *index.quality_keys)
    features: dict[Part, tuple[str, ...]] = {("features", key): (f"obsm/{key}",) for key in keys}
    return features | {("graph", key): graph_nodes(key) for key in index.graph_keys}


def named(section: StoredSection, part: Part) -> str:
    """Name a part in reports: ``C2: features 'uni_112um'``, or ``section 'C2'``."""
    name = f"{part[0]} {part[1]!r}"
    return name if part[0] == "section" else f"{section.meta.name}: {name}"


def chosen_parts(sections: Sequence[StoredSection], names: Sequence[str]) -> dict[str, Parts]:
    """Choose features by key or encoder name, with the quality of their tiles and the graphs over them.

    All features if no name is given. Graphs over coordinates are always chosen.

    Raises
    ------
    StoreError
        If no section has features of that name; lists what there is.
    """
    known = {name for section in sections for pair in encoders_of(section).items() for name in pair}
    if unknown := [name for name in names if name not in known]:
        message = (
            f"No features {', '.join(unknown)} (--features). There are: {', '.join(sorted(known)) or 'none'}."
        )
        raise StoreError(message)
    chosen: dict[str, Parts] = {}
    for section in sections:
        others = sorted({*section.feature_keys} - {*features_named(section, names)})
        dropped: set[Part] = {("features", key) for key in (*others, *map(quality_key, others))}
        dropped |= {("graph", feature_graph_key(key)) for key in others}
        found = parts_of(section.index)
        chosen[section.meta.name] = {part: nodes for part, nodes in found.items() if part not in dropped}
    return chosen


@dataclasses.dataclass(slots=True, kw_only=True)
class Plan:
    """Sources of one section of the result: its tables, and each of its features and graphs.

    Attributes
    ----------
    base
        Section with the tables: the one in the target, or the first of that name.
    parts
        Source of each feature array and graph.
    is_new
        Whether the target has no such section.
    conflicts
        Parts, or the section itself, that differ between sources, with the difference.
    n_equal
        Number of sources, and of their parts, that are equal to what was planned before.
    """

    base: StoredSection
    parts: dict[Part, StoredSection]
    is_new: bool
    conflicts: dict[Part, str] = dataclasses.field(default_factory=dict)
    n_equal: int = 0

    @property
    def added(self) -> list[Part]:
        """Parts that are new in the target."""
        return [part for part, source in self.parts.items() if self.is_new or source is not self.base]


def merge_plans(
    own: Iterable[StoredSection], sources: Iterable[tuple[StoredSection, Parts]]
) -> dict[str, Plan]:
    """Plan a merge of sections, by section name: existing content is kept, and new content comes from the first source.

    Parameters
    ----------
    own
        Sections of the target.
    sources
        Sections to merge, each with the features and graphs to take.
    """
    plans = {
        section.meta.name: Plan(
            base=section, parts=dict.fromkeys(parts_of(section.index), section), is_new=False
        )
        for section in own
    }
    for section, parts in sources:
        name = section.meta.name
        if name not in plans:
            plans[name] = Plan(base=section, parts=dict.fromkeys(parts, section), is_new=True)
            continue
        plan = plans[name]
        if difference := _section_difference(plan.base, section):
            plan.conflicts["section", name] = difference
            continue
        plan.n_equal += 1
        for part, nodes in parts.items():
            first = plan.parts.setdefault(part, section)
            if first is section:
                continue
            if _part_content(first.index, nodes) == _part_content(section.index, nodes):
                plan.n_equal += 1
            else:
                plan.conflicts[part] = "different content"
    return plans


def require_no_conflicts(plans: Mapping[str, Plan], what: str, advice: str) -> None:
    """Raise StoreError with every conflict of the plans."""
    lines = [
        f"{named(plan.base, part)}: {difference}"
        for plan in plans.values()
        for part, difference in plan.conflicts.items()
    ]
    if lines:
        message = f"{what}; nothing was written:\n- " + "\n- ".join(lines) + f"\n{advice}"
        raise StoreError(message)


def changes_of(
    sections: Iterable[tuple[StoredSection, Parts]],
    own: Iterable[StoredSection],
    conflicts: Mapping[str, Collection[Part]],
) -> list[tuple[Location, Change]]:
    """List what sections, one after the other, add to a place with the sections `own`, each with where its files are.

    Conflicts, by section, are replaced.
    """
    now = {section.meta.name: section.index for section in own}
    changes = []
    for section, parts in sections:
        name = section.meta.name
        change = _change(now.get(name), section, parts, conflicts.get(name, ()))
        changes.append((section.location, change))
        now[name] = change.index
    return changes


def _change(
    old: SectionIndex | None, section: StoredSection, parts: Parts, conflicts: Collection[Part]
) -> Change:
    """Find what a place lacks of some parts of a section, whose index there is `old`."""
    if old is None:
        others = [nodes for part, nodes in parts_of(section.index).items() if part not in parts]
        return Change(index=edited(section.index, drop=sum(others, ())), old=None, interim=None)
    own = parts_of(old)
    if ("section", section.meta.name) in conflicts:
        kept = [nodes for part, nodes in own.items() if part not in parts and _fits(section, old, part)]
        return Change(index=edited(section.index, other=old, add=sum(kept, ())), old=old, interim=b"")
    # Replaced features take their graph and the quality of their tiles with them.
    keys = [key for kind, key in conflicts if kind == "features"]
    behind: list[Part] = [("graph", feature_graph_key(key)) for key in keys]
    behind += [("features", quality_key(key)) for key in keys]
    dropped = [own[part] for part in dict.fromkeys((*conflicts, *behind)) if part in own]
    remaining = edited(old, drop=sum(dropped, ()))
    added = [nodes for nodes in parts.values() if not set(nodes) <= set(remaining.nodes)]
    index = edited(remaining, other=section.index, add=sum(added, ()))
    return Change(index=index, old=old, interim=remaining.data if dropped else None)


def _fits(section: StoredSection, old: SectionIndex, part: Part) -> bool:
    """Tell whether features (or their quality or graph) of others stay when the section is replaced.

    They do if they were computed from the same spots and images, and the section lacks these features itself.
    """
    key = part[1].removesuffix(f"_{QUALITY}")
    if part[0] == "graph":
        key = part[1].removeprefix(feature_graph_key(""))
    node = f"obsm/{key}"
    if section.meta.spots_sha256 is None or node in section.index.nodes or not old.attribute(node, META):
        return False
    meta = FeatureMeta.from_mapping(old.attribute(node, META))
    return bool(old.attribute(node, IDENTITY) == feature_identity(section.meta, meta))


def sections_in(out: Path) -> list[StoredSection]:
    """Open the sections of a store in a folder, for writing; none if there is no store yet."""
    exists = out.is_file() or (out / INDEX).is_file()
    return open_store(out, is_read_only=False).sections() if exists else []


def add_sections(
    out: Path,
    own: Sequence[StoredSection],
    sections: Sequence[tuple[StoredSection, Parts]],
    progress: Progress,
    label: str,
) -> list[FileEntry]:
    """Copy what a store in a folder, whose sections are `own`, lacks of others without conflicts; return the copied files.

    The store is created if it does not exist. A killed run can be repeated.
    """
    changes = changes_of(sections, own, {})
    with filled_store(out), progress.task(label, sum(len(change.files) for _, change in changes)) as advance:
        return Destination(str(out)).apply(changes, advance)


def merge(config: MergeConfig, *, progress: Progress = SILENT) -> CopyReport:
    """Merge several stores into one, which is created if it does not exist; nothing in it is rewritten.

    A new section is copied. A section that exists must be the same (metadata apart from software versions, ids,
    coordinates, counts, genes, columns of ``obs``) and gets the features and graphs that it lacks. So the order and
    grouping of merges do not matter, and a repeated merge changes nothing. (Overview images are not compared.)

    Raises
    ------
    StoreError
        If sections, features or graphs of one name differ (lists all; nothing is written), or a store is damaged.
    """
    assert config.out is not None  # checked by MergeConfig
    own = sections_in(config.out)
    stores = [open_store(address) for address in config.stores]
    sections = [section for store in stores for section in store.sections()]
    chosen = [(section, parts_of(section.index)) for section in sections]
    plans = merge_plans(own, chosen)
    advice = "Select what to merge: spam store select A part.zarr --sections … --features …"
    require_no_conflicts(plans, "These stores differ", advice)
    add_sections(config.out, own, chosen, progress, "merging")
    unfinished = [
        f"{s.store_address}: {s.meta.name}: {key} (unfinished)" for s in sections for key in s.unfinished_keys
    ]
    return CopyReport(
        out=config.out,
        sections=tuple(name for name, plan in plans.items() if plan.is_new),
        added=tuple(named(plan.base, part) for plan in plans.values() for part in plan.added),
        left_out=tuple(unfinished),
        n_equal=sum(plan.n_equal for plan in plans.values()),
    )


def table_files(index: SectionIndex) -> dict[str, FileEntry]:
    """Return the files of a section that belong to no features and no graph."""
    in_parts = index.below(*sum(parts_of(index).values(), ()))
    return {path: entry for path, entry in index.files.items() if path not in in_parts}


def _part_content(index: SectionIndex, nodes: Sequence[str]) -> tuple[object, str]:
    """Return what is compared of features or a graph: their identity and bytes, without versions of software."""
    files = index.below(*nodes)
    data = {path: entry for path, entry in files.items() if not path.endswith(INDEX)}
    return index.attribute(nodes[0], IDENTITY), content_digest(data)


def _section_difference(a: StoredSection, b: StoredSection) -> str | None:
    """Name what differs between two sections apart from features, graphs, overview and software; None if nothing."""
    fields = [field.name for field in dataclasses.fields(SectionMeta) if field.name != "software"]
    found = [name for name in fields if getattr(a.meta, name) != getattr(b.meta, name)]
    # Equal tables have other bytes if another version compressed them.
    if not found and content_digest(table_files(a.index)) != content_digest(table_files(b.index)):
        tables = ("ids", "genes", "xy_um", *(["xy_px"] if a.meta.has_coordinates else []))
        found = [name for name in tables if not _is_equal(getattr(a, name), getattr(b, name))]
        found += [f"obs {key}" for key in {*a.obs, *b.obs} if not _is_equal(a.obs.get(key), b.obs.get(key))]
        if a.meta.has_counts and not found and (a.counts() != b.counts()).nnz:
            found = ["counts"]
    return f"different {', '.join(sorted(found))}" if found else None


def _is_equal(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")
