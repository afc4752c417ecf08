"""Copies of sections, without data that must not be shared if asked: `spam store select`."""

import dataclasses
import difflib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from spam.atomic import new_folder
from spam.errors import ConfigError, MissingInputError, StoreError
from spam.progress import SILENT, Advance, Progress
from spam.schemas.store_config import SelectConfig
from spam.schemas.store_format import SectionMeta
from spam.typing import Array

from .destinations import Change, Destination
from .feature_store import choose_sections, create_store, open_store
from .layout import DONOR, SECTION
from .merging import CopyReport, Parts, chosen_parts, named, parts_of, table_files
from .section_index import content_digest, edited
from .stored_section import StoredSection
from .writing import write_root, write_section

_OF_PLACES = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
"""Columns of ``obs`` that no one computes from counts."""


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
                elif part[0] == "graph" and section.index.is_stale_graph(part[1]):
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
    meta, obs, place = section.meta, _kept_obs(section, config), Destination(str(folder))
    kept = [] if section.genes is None or config.without_counts else section.genes.tolist()
    kept = [gene for gene in kept if genes is None or gene in genes]
    is_open = not config.without_coordinates
    if len(kept) == meta.n_genes and is_open and {*obs, SECTION, DONOR} >= {*section.obs}:
        others = [nodes for part, nodes in parts_of(section.index).items() if part not in parts]
        index = edited(section.index, drop=sum(others, ()))
        place.send(section.location, Change(index=index, old=None, interim=None), advance)
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
    nodes, target = sum(parts.values(), ()), open_store(folder, is_read_only=False).section(meta.name)
    if is_open:
        index = edited(target.index, other=section.index, add=nodes)
        place.send(section.location, Change(index=index, old=target.index, interim=None), advance)
    else:
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
