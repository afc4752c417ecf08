"""Copies of sections, features and graphs, file by file: `spam store select` and `spam store merge`."""

import dataclasses
import difflib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from spam.atomic import new_folder
from spam.errors import ConfigError, MissingInputError, StoreError
from spam.progress import SILENT, Advance, Progress
from spam.schemas.config import Record
from spam.schemas.store_config import MergeConfig, SelectConfig
from spam.schemas.store_format import FileEntry, SectionMeta, quality_key
from spam.typing import Array

from .feature_store import Store, choose_sections, create_store, filled_store, open_store
from .features import feature_names
from .layout import DONOR, IDENTITY, INDEX, SECTION, feature_graph_key, graph_nodes
from .section_index import SectionIndex, content_digest
from .stored_section import StoredSection, graph_names, is_stale_graph
from .writing import copy_nodes, copy_section, locked_section, write_root, write_section

Part: TypeAlias = tuple[Literal["features", "graph", "section"], str]
"""What can be copied or differ: kind and key, such as ``("features", "uni_112um")``."""

Parts: TypeAlias = Mapping[Part, tuple[str, ...]]
"""Features and graphs of a section, each with its nodes."""

_OF_PLACES = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
"""Columns of ``obs`` that no one computes from counts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport(Record):
    """Result of `select` and `merge`.

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


def select(config: SelectConfig, *, progress: Progress = SILENT, key: bytes | None = None) -> CopyReport:
    """Copy some sections, features and genes of a store, without data that must not be shared if asked.

    Unchanged sections are copied file by file and keep their content digest. With fewer genes the tables are written
    again; library sizes are then those of the genes that are left. Graphs over features that were replaced later are left
    out. The copy appears when it is complete.

    `without_counts` removes counts and genes, and the columns of ``obs``, which may be computed from them, except those
    of the array (``in_tissue``, ``array_row``, …). `without_coordinates` removes coordinates, all graphs, the slide
    size, the overview image, the names of the source files and all columns of ``obs``, replaces the ids by numbers
    (barcodes and ids such as ``10x12`` are positions) and shuffles the spots. `keep_obs` keeps columns in both cases.
    Anyone who has the slide can embed it and recognise each spot by its features: no copy with features can hide that.

    Parameters
    ----------
    key
        Secret from which the order of the spots is drawn, so that equal sections give equal copies; None for a new one.

    Raises
    ------
    ConfigError, MissingInputError
        If the file of genes is empty or does not exist.
    OutputExistsError
        If there is something at `out`.
    StoreError
        If sections, features or genes do not exist (names them all), or a file is damaged.
    """
    assert config.store is not None  # checked by SelectConfig
    assert config.out is not None
    store = open_store(config.store)
    sections = [store.section(name) for name in choose_sections(store, config.sections)]
    genes = _chosen_genes(config, sections)
    kept = chosen_parts(sections, config.features)
    if missing := set(config.keep_obs) - {name for section in sections for name in section.obs}:
        known = sorted({name for section in sections for name in section.obs})
        message = f"No obs column {', '.join(sorted(missing))} (--keep-obs). There are: {', '.join(known)}."
        raise StoreError(message)
    key = key or secrets.token_bytes()
    left_out: list[str] = []
    with (
        new_folder(config.out, "OUT") as folder,
        progress.task("copying", sum(len(s.index.files) for s in sections)) as advance,
    ):
        create_store(folder)
        for section in sections:
            parts = {}
            for part, nodes in parts_of(section.index).items():
                if part not in kept[section.meta.name]:
                    left_out.append(named(section, part))
                elif part[0] == "graph" and is_stale_graph(section.index, part[1]):
                    left_out.append(f"{named(section, part)} (its features were replaced later)")
                elif part[0] == "features" or not config.without_coordinates:
                    parts[part] = nodes
            if columns := sorted({*section.obs} - {*_kept_obs(section, config), SECTION, DONOR}):
                left_out.append(f"{section.meta.name}: obs columns {', '.join(columns)} (see --keep-obs)")
            _copy(section, folder, parts, genes, config, key, advance)
        write_root(folder)
    copy = open_store(config.out)
    copied = [copy.section(name) for name in copy.section_names]
    return CopyReport(
        out=config.out,
        sections=copy.section_names,
        added=tuple(named(s, part) for s in copied for part in parts_of(s.index)),
        left_out=tuple(left_out),
        redacted={section.meta.name: section.meta.redacted for section in copied},
    )


def parts_of(index: SectionIndex) -> dict[Part, tuple[str, ...]]:
    """List the features (with the quality arrays of their tiles) and graphs of a section, with their nodes."""
    features: dict[Part, tuple[str, ...]] = {
        ("features", key): (f"obsm/{key}",) for key in feature_names(index)
    }
    return features | {("graph", key): graph_nodes(key) for key in graph_names(index)}


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
    encoders = {
        (section.meta.name, key): str(section.feature_meta(key).encoder.get("name"))
        for section in sections
        for key in section.feature_keys
    }
    known = {*encoders.values(), *(key for _, key in encoders)}
    if unknown := [name for name in names if name not in known]:
        message = (
            f"No features {', '.join(unknown)} (--features). There are: {', '.join(sorted(known)) or 'none'}."
        )
        raise StoreError(message)
    chosen: dict[str, Parts] = {}
    for section in sections:
        others = [
            key
            for key in section.feature_keys
            if names and key not in names and encoders[section.meta.name, key] not in names
        ]
        dropped: set[Part] = {("features", key) for key in (*others, *map(quality_key, others))}
        dropped |= {("graph", feature_graph_key(key)) for key in others}
        found = parts_of(section.index)
        chosen[section.meta.name] = {part: nodes for part, nodes in found.items() if part not in dropped}
    return chosen


def _chosen_genes(config: SelectConfig, sections: Sequence[StoredSection]) -> set[str] | None:
    """Read the genes of the options; None for all."""
    genes = set(config.genes)
    if config.genes_file is not None:
        if not config.genes_file.is_file():
            message = f"File not found: {config.genes_file} (--genes-file)."
            raise MissingInputError(message)
        lines = config.genes_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        genes = {line.strip() for line in lines if line.strip()}
        if not genes:
            message = f"{config.genes_file} (--genes-file) names no gene. Write one name per line."
            raise ConfigError(message)
    if not genes:
        return None
    measured = {
        section.meta.name: set(section.genes.tolist()) for section in sections if section.genes is not None
    }
    known = set().union(*measured.values())
    unknown, bare = sorted(genes - known), [name for name, own in measured.items() if not own & genes]
    if unknown or bare:
        near = sorted(
            {match for gene in unknown[:3] for match in difflib.get_close_matches(gene, known, n=2)}
        )
        message = (
            f"{len(unknown)} of {len(genes)} genes (--genes) are in no section: {unknown[:3]} (similar: {near or 'none'}). "
            f"Sections without any of the genes: {bare or 'none'}."
        )
        raise StoreError(message)
    return genes


def _kept_obs(section: StoredSection, config: SelectConfig) -> dict[str, Array]:
    """Choose the columns of ``obs`` that a redacted copy keeps."""
    kept = set(config.keep_obs) | ({*_OF_PLACES} if not config.without_coordinates else set())
    is_redacted = config.without_counts or config.without_coordinates
    return {name: values for name, values in section.obs.items() if name in kept or not is_redacted}


def _copy(
    section: StoredSection,
    folder: Path,
    parts: Parts,
    genes: set[str] | None,
    config: SelectConfig,
    key: bytes,
    advance: Advance,
) -> None:
    """Copy a section, redacted if the options ask for it."""
    meta, obs = section.meta, _kept_obs(section, config)
    kept = [] if section.genes is None or config.without_counts else section.genes.tolist()
    kept = [gene for gene in kept if genes is None or gene in genes]
    is_open = not config.without_coordinates
    if len(kept) == meta.n_genes and is_open and {*obs, SECTION, DONOR} >= {*section.obs}:
        others = [nodes for part, nodes in parts_of(section.index).items() if part not in parts]
        copy_section(section.location, section.index, folder, advance, leave_out=sum(others, ()))
        return
    has_counts = meta.has_counts and not config.without_counts
    changed = dataclasses.replace(
        meta,
        n_genes=len(kept),
        has_counts=has_counts,
        has_coordinates=meta.has_coordinates and is_open,
        redacted=_redacted(meta, kept, config),
    )
    order, ids, overview = np.arange(meta.n_spots), section.ids, section.overview()
    if not is_open:
        # Not of the features, so that a copy with more of them has the same order.
        content = content_digest(table_files(section.index)).encode()
        order = np.random.default_rng(list(hmac.digest(key, content, "sha256"))).permutation(meta.n_spots)
        ids, overview = np.array([f"spot{number}" for number in range(meta.n_spots)]), None
        changed = dataclasses.replace(
            changed,
            slide_width_px=None,
            slide_height_px=None,
            # Other spots than those of a copy with another key: the order differs.
            spots_sha256=hmac.digest(key, content + b"spots", "sha256").hex(),
            sources=(),
            placement_doubt=None,
        )
    write_section(
        folder,
        changed,
        ids=ids,
        xy_px=section.xy_px if changed.has_coordinates else None,
        xy_um=section.xy_um if changed.has_coordinates else None,
        counts=section.counts(kept)[order] if has_counts else None,
        genes=np.array(kept, dtype=str) if has_counts else None,
        obs={name: values[order] for name, values in obs.items()},
        overview=None if overview is None else (overview.image, overview.scale),
        spot_diameter_px=section.spot_diameter_px,
    )
    nodes = sum(parts.values(), ())
    if is_open:
        copy_nodes(section.location, section.index, folder, nodes, advance)
    else:
        target = open_store(folder, is_read_only=False).section(meta.name)
        for node in nodes:
            _copy_shuffled(section, target, node.removeprefix("obsm/"), order)


def _copy_shuffled(section: StoredSection, target: StoredSection, key: str, order: Array) -> None:
    rows = section.stored_features(key)[order].astype(np.float32)
    writer = target.feature_writer(section.feature_meta(key))
    for chunk in writer.pending:
        writer.write(chunk, rows[chunk])
    writer.finish()


def _redacted(
    meta: SectionMeta, genes: Sequence[str], config: SelectConfig
) -> tuple[Literal["counts", "coordinates", "ids", "genes"], ...]:
    removed: dict[Literal["counts", "coordinates", "ids", "genes"], bool] = {
        "counts": config.without_counts and meta.has_counts,
        "coordinates": config.without_coordinates and meta.has_coordinates,
        "ids": config.without_coordinates,
        "genes": len(genes) < meta.n_genes and not config.without_counts,
    }
    return tuple(what for what, is_removed in removed.items() if is_removed or what in meta.redacted)


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


def apply_plans(plans: Mapping[str, Plan], target: Store, advance: Advance) -> None:
    """Copy what the plans add to a store in a folder; a killed run can be repeated."""
    for name, plan in plans.items():
        section = target.folder / name
        with locked_section(target.folder, name):
            now = target.section(name).index.digest if (section / INDEX).is_file() else None
            if now != (None if plan.is_new else plan.base.index.digest):
                message = f"Section {name!r} of {target.address!r} was changed meanwhile. Run again."
                raise StoreError(message)
            if plan.is_new:
                leave_out = [
                    nodes
                    for part, nodes in parts_of(plan.base.index).items()
                    if plan.parts.get(part) is not plan.base
                ]
                copy_section(
                    plan.base.location, plan.base.index, target.folder, advance, leave_out=sum(leave_out, ())
                )
            for part, source in plan.parts.items():
                if source is not plan.base:
                    nodes = parts_of(source.index)[part]
                    _remove_others(section, nodes, source.index)
                    copy_nodes(source.location, source.index, target.folder, nodes, advance)
    write_root(target.folder)


def _remove_others(section: Path, nodes: Sequence[str], index: SectionIndex) -> None:
    """Delete files of unfinished features or of a killed copy that the source does not have."""
    for path in [path for node in nodes for path in (section / node).rglob("*") if path.is_file()]:
        if path.relative_to(section).as_posix() not in index.files:
            path.unlink()


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
    exists = config.out.is_file() or (config.out / INDEX).is_file()
    own = open_store(config.out, is_read_only=False) if exists else None
    stores = [open_store(address) for address in config.stores]
    sections = [store.section(name) for store in stores for name in store.section_names]
    plans = merge_plans(
        [] if own is None else [own.section(name) for name in own.section_names],
        [(section, parts_of(section.index)) for section in sections],
    )
    advice = "Select what to merge: spam store select A part.zarr --sections … --features …"
    require_no_conflicts(plans, "These stores differ", advice)
    with (
        filled_store(config.out) as target,
        progress.task("merging", len(planned_files(plans.values()))) as advance,
    ):
        apply_plans(plans, target, advance)
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


def planned_files(plans: Iterable[Plan]) -> list[FileEntry]:
    """List the files that the plans copy."""
    files: list[FileEntry] = []
    for plan in plans:
        files += table_files(plan.base.index).values() if plan.is_new else ()
        for part in plan.added:
            index = plan.parts[part].index
            files += index.below(*parts_of(index)[part]).values()
    return files


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
