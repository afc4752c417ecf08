"""Copying a part of a store: `spam store select`."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spam.progress import SILENT, Advance, Progress
from spam.schemas.store_config import SelectConfig
from spam.store import Store, StoredSection, create_store, open_store
from spam.store.feature_format import from_stored
from spam.store.index import change_index
from spam.store.store import write_root
from spam.typing import Array, Int

from .choosing import chosen_sections, kept_parts, read_genes, require_chosen
from .copying import copy_files, copy_section
from .new_folder import new_folder, require_absent
from .redacting import Redaction, moved_graph, redacted
from .same_section import Part, is_stale, parts_of
from .sharing_record import sharing_record

__all__ = ["SelectReport", "SelectedSection", "select"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SelectedSection:
    """One section of the copy.

    Attributes
    ----------
    name
        Its name.
    n_spots, n_genes
        Sizes in the copy.
    features, graphs
        Keys that are in the copy.
    left_out
        Features and graphs that are not.
    stale
        Those of them that are graphs over features that were replaced since.
    redacted
        What was taken out, in this copy or in one that it was made from.
    """

    name: str
    n_spots: int
    n_genes: int
    features: tuple[str, ...]
    graphs: tuple[str, ...]
    left_out: tuple[str, ...]
    stale: tuple[str, ...]
    redacted: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SelectReport:
    """What `select` did.

    Attributes
    ----------
    store, out
        The store and its copy.
    sections
        What the copy holds.
    """

    store: str
    out: Path
    sections: tuple[SelectedSection, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        sections = [dataclasses.asdict(section) for section in self.sections]
        return {"store": self.store, "out": str(self.out), "sections": sections}

    def summary(self) -> str:
        """Write a line per section, and what to look at before a redacted copy is given away."""
        lines = []
        for section in self.sections:
            taken = f", without {', '.join(section.redacted)}" if section.redacted else ""
            lines.append(
                f"{section.name}: {section.n_spots} spots, {section.n_genes} genes, features "
                f"{', '.join(section.features) or 'none'}{taken}"
            )
            lines += [
                f"{part} of {section.name} was left out: its features were replaced since; build it anew with `spam graph`"
                for part in section.stale
            ]
        if any("ids" in section.redacted for section in self.sections):
            lines.append("names of sections are kept: look that none of them names a person")
        return "\n".join([*lines, f"{len(self.sections)} sections are in {self.out}"])


def select(config: SelectConfig, *, progress: Progress = SILENT) -> SelectReport:
    """Copy some sections, features and genes of a store, if asked without what must not be given away.

    What is copied whole is copied file by file, compared with its digest, and keeps its content digest. With fewer
    genes the tables are written anew, and library sizes are then those of the genes that are left. A graph over
    features goes where its features go, unless they were replaced after it was built: then it stays behind. What was
    overridden to share the store is recorded in the copy too. The copy appears when it is whole.

    **Without counts**: counts and genes go. The lab's columns of ``obs`` stay, so look whether one was computed from
    counts.

    **Without coordinates**: what tells where a spot lies goes: coordinates, the size of the slide, spatial graphs, the
    overview, all columns of ``obs`` but ``section`` and ``donor``, the ids (barcodes and ids such as ``10x12`` *are*
    positions) and the order of the spots (a raster's tells them too). Graphs over features stay. Two things remain that
    no copy with features can hide: whoever has the slide can embed it and find each spot again by its features,
    and features of tiles that overlap, like counts of neighbours, are alike.

    **Salted ids**: ids and donors are replaced by the first 16 digits of salted HMAC-SHA-256 digests; the salt, 32
    random bytes, is nowhere kept. A donor has one such name throughout a copy, a spot's depends on its section too: a
    barcode that several sections have tells nothing. Spots are in the order of their new names. All columns of ``obs``
    but ``section`` and ``donor`` go, since any of them may name a person or hold the ids again. *Names of sections
    stay*: they are how a store is used. Coordinates and the overview stay, unless they are left out as well.

    In both of the last two the source files go from the metadata: their names often hold ids, and their digests tell
    whoever has the files which they are; for the same reason the digest of imported features goes. The digest of the
    spots is that of the new ids, or None where there are no coordinates, and the identity of features follows from
    both: a redacted copy does not pass for its original.

    Parameters
    ----------
    config
        What to keep, and where to.
    progress
        Who watches.

    Raises
    ------
    StoreError
        If a section, a feature key or encoder, or a gene is not in the store (says what is), a section would be left
        without genes, or the store is damaged.
    MissingInputError
        If the file of genes is not there.
    OutputExistsError
        If there is something at `out`.
    """
    assert config.store is not None  # held by __post_init__
    assert config.out is not None
    require_absent(config.out)
    genes = config.genes or (read_genes(config.genes_file) if config.genes_file else ())
    redaction = Redaction(
        genes=frozenset(genes) or None,
        without_counts=config.without_counts,
        without_coordinates=config.without_coordinates,
        salted_ids=config.salted_ids,
    )
    store = open_store(config.store)
    sections = chosen_sections(store, config.sections)
    require_chosen(store, sections, config.features, redaction)
    asked = {section.meta.name: kept_parts(section, config.features, redaction) for section in sections}
    stale = {
        section.meta.name: [part for part in asked[section.meta.name] if is_stale(section, part)]
        for section in sections
    }
    kept = {name: [part for part in parts if part not in stale[name]] for name, parts in asked.items()}
    steps = sum(_n_steps(section, kept[section.meta.name], redaction) for section in sections)
    with new_folder(config.out) as folder, progress.task("copying", steps) as advance:
        copy = create_store(folder)
        for section in sections:
            _copy(store, section, copy, kept[section.meta.name], redaction, advance)
        write_root(folder, entries=sharing_record([store], copy))
        copied = tuple(_described(section, copy.section(section.meta.name), stale) for section in sections)
    return SelectReport(store=store.address, out=config.out, sections=copied)


def _left_out(section: StoredSection, kept: Sequence[Part]) -> list[Part]:
    return [part for part in parts_of(section) if part not in kept]


def _nodes(parts: Iterable[Part]) -> list[str]:
    return [node for part in parts for node in part.nodes]


def _n_steps(section: StoredSection, kept: Sequence[Part], redaction: Redaction) -> int:
    """Count the files that are copied; what is written anew counts one for the tables and one for each part."""
    if redaction.hides_spots:
        return 1 + len(kept)
    if redaction.touches(section):
        return 1 + len(section.index.below(*_nodes(kept)))
    return len(section.index.files) - len(section.index.below(*_nodes(_left_out(section, kept))))


def _copy(
    store: Store,
    section: StoredSection,
    copy: Store,
    kept: Sequence[Part],
    redaction: Redaction,
    advance: Advance,
) -> None:
    name, folder = section.meta.name, copy.folder / section.meta.name
    if not redaction.touches(section):
        leave_out = _nodes(_left_out(section, kept))
        copy_section(store.location, section.index, folder, advance, leave_out=leave_out)
        return
    tables = redacted(section, redaction)
    target = copy.add_section(tables.record)
    advance(note=name)
    if tables.order is None:
        nodes = _nodes(kept)
        copy_files(store.location, name, section.index.below(*nodes), folder, advance)
        change_index(folder, add=nodes)
        return
    for part in kept:
        if part.kind == "features":
            _move_features(section, target, part.key, tables.order)
        else:
            _move_graph(section, target, part.key, tables.order)
        advance(note=name)


def _move_features(section: StoredSection, target: StoredSection, key: str, order: Int[Array, " n"]) -> None:
    """Write features in the order of the copy; rounding them again changes nothing."""
    meta, rows = section.feature_meta(key), section.stored_features(key)
    if str(meta.encoder.get("source")).startswith(
        "file:"
    ):  # the digest of the rows tells who has them which they are
        meta = dataclasses.replace(meta, encoder={**meta.encoder, "source": "file"})
    writer = target.feature_writer(meta)
    for chunk in writer.pending:
        writer.write(chunk, from_stored(rows[order[chunk]], meta.dtype))
    writer.finish()


def _move_graph(section: StoredSection, target: StoredSection, key: str, order: Int[Array, " n"]) -> None:
    graph = section.graph(key)
    assert graph is not None  # its key was listed
    over = graph.meta.features_key
    target.write_graph(
        key,
        moved_graph(graph, order, features_identity=None if over is None else target.feature_identity(over)),
    )


def _described(
    section: StoredSection, copied: StoredSection, stale: Mapping[str, Sequence[Part]]
) -> SelectedSection:
    left_out = [part for part in parts_of(section) if part not in parts_of(copied)]
    return SelectedSection(
        name=copied.meta.name,
        n_spots=copied.n_spots,
        n_genes=copied.meta.n_genes,
        features=copied.feature_keys,
        graphs=copied.graph_keys,
        left_out=tuple(map(str, left_out)),
        stale=tuple(map(str, stale[copied.meta.name])),
        redacted=copied.meta.redacted,
    )
