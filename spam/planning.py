"""What `spam embed` is about to do: everything read and checked, before anything is computed or written."""

import contextlib
import dataclasses
import logging
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .encoders import encoder_card
from .errors import SectionError, SpamError, StoreError
from .schemas.embed_config import EmbedConfig, InputConfig
from .schemas.encoder_card import EncoderCard
from .schemas.store_meta import Sampling, SectionMeta
from .schemas.tile_spec import TileSpec
from .sections import Section, SlideSource, TileFiles, read_manifest, read_section
from .store import SectionRecord, Store, StoredSection, open_store, spots_digest
from .tiles import Slide, TileReader, level_of, locate, open_slide, resolve_tile_specs

__all__ = ["EmbedPlan", "PlannedSection", "differences", "plan", "slide_of", "software_versions"]

_log = logging.getLogger(__name__)

_SOFTWARE = {"spam": "spam-st", "numpy": "numpy", "torch": "torch", "timm": "timm", "zarr": "zarr"}
_OWN_PER_ROW = ("h5ad", "csv", "root", "section", "donor")  # what a manifest says of each section by itself
_BYTES = {"float16": 2, "float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSection:
    """A section that was read and checked.

    Attributes
    ----------
    section
        The section, located on its slide.
    record
        The same as the store will hold it, without the overview.
    specs
        The tile sizes that it is to get.
    samplings
        How the tiles of each size are cut.
    """

    section: Section
    record: SectionRecord
    specs: tuple[TileSpec, ...]
    samplings: tuple[Sampling, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedPlan:
    """What `embed` would do: the outcome of all checks, and how much work it is.

    Attributes
    ----------
    store
        Folder of the store.
    card
        The encoder.
    sections
        The sections, in order.
    n_bytes
        Size of the features once they are all there.
    """

    store: Path
    card: EncoderCard
    sections: tuple[PlannedSection, ...]
    n_bytes: int

    @property
    def n_tiles(self) -> int:
        """Count the tiles of all sections and sizes, embedded already or not."""
        return sum(len(planned.section.ids) * len(planned.specs) for planned in self.sections)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "store": str(self.store),
            "encoder": self.card.name,
            "n_tiles": self.n_tiles,
            "n_bytes": self.n_bytes,
            "sections": [
                {
                    "name": planned.section.name,
                    "donor": planned.section.donor,
                    "n_spots": len(planned.section.ids),
                    "mpp": planned.section.mpp,
                    "tiles": [spec.label for spec in planned.specs],
                    "join": planned.section.join.describe(),
                }
                for planned in self.sections
            ],
        }

    def summary(self) -> str:
        """Say in a few lines of plain text what would be done."""
        lines = [
            f"{planned.section.name}: {planned.section.join.describe()}; "
            f"tiles of {', '.join(spec.label for spec in planned.specs)}"
            for planned in self.sections
        ]
        lines.append(
            f"{self.n_tiles} tiles through {self.card.name} make {self.n_bytes / 1e6:.1f} MB of features "
            f"in {self.store}"
        )
        return "\n".join(lines)


def plan(config: EmbedConfig) -> EmbedPlan:
    """Read and check everything that `embed` would use, without computing or writing anything.

    Checked are the files, the joins, the coordinates against the slides, the tile sizes, the encoder's name
    and the sections that the store holds already. The faults of all sections are reported together.

    Raises
    ------
    ConfigError
        If an option cannot be used, such as tiles in µm where the µm per pixel is unknown.
    EncoderError
        If the encoder is unknown.
    MissingInputError
        If a file is not there.
    SectionError
        If a section's files do not fit together, a name occurs twice, or several sections have faults.
    SlideError
        If a slide cannot be read.
    StoreError
        If the store holds a section of that name that was made from something else.
    TileError
        If coordinates lie outside the slide, or tile files do not fit what is asked for.
    """
    card = encoder_card(config.enc_name)
    assert config.store is not None  # held by EmbedConfig
    store = open_store(config.store) if _is_begun(config.store) else None
    planned: list[PlannedSection] = []
    faults: list[SpamError] = []
    for row in _rows(config):
        try:
            planned.append(_check_section(row, config, card, store))
        except SpamError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        message = f"{len(faults)} sections cannot be embedded:\n" + "\n".join(
            f"- {fault}" for fault in faults
        )
        raise SectionError(message) from faults[0]
    names = [one.section.name for one in planned]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = (
            f"manifest {str(config.manifest)!r} leads to several sections of one name: "
            f"{', '.join(map(repr, twice))}; give each its own name in the column 'section'"
        )
        raise SectionError(message)
    n_numbers = card.dim * sum(len(one.section.ids) * len(one.specs) for one in planned)
    return EmbedPlan(
        store=config.store, card=card, sections=tuple(planned), n_bytes=n_numbers * _BYTES[config.dtype]
    )


@contextlib.contextmanager
def slide_of(section: Section) -> Iterator[Slide | None]:
    """Open the section's slide; None for tile files."""
    if isinstance(section.tiles, SlideSource):
        with open_slide(section.tiles.path) as slide:
            yield slide
    else:
        yield None


def _is_begun(store: Path) -> bool:
    return store.exists() and not (store.is_dir() and not any(store.iterdir()))


def _rows(config: EmbedConfig) -> tuple[InputConfig, ...]:
    """Give one configuration per section; how tables are read is the same for all of a cohort."""
    if config.manifest is None:
        return (config,)
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(InputConfig)
        if field.name not in _OWN_PER_ROW
    }
    rows = read_manifest(config.manifest, root=config.root)
    return tuple(dataclasses.replace(row, **shared) for row in rows)


def _check_section(
    row: InputConfig, config: EmbedConfig, card: EncoderCard, store: Store | None
) -> PlannedSection:
    section = read_section(row)
    for note in section.join.notes:
        _log.warning("section %s: %s", section.name, note)
    with slide_of(section) as slide:
        if slide is not None:
            section = locate(section, slide)
        size = (slide.width, slide.height) if slide is not None else (None, None)
        specs = resolve_tile_specs(section, config, input_px=card.input_px)
        samplings = tuple(_sampling(section, spec, slide, card) for spec in specs)
    if isinstance(section.tiles, TileFiles):
        largest = max(specs, key=lambda spec: spec.native_px(section.mpp))
        TileReader(section, largest).close()  # opens every file, and compares their sizes with the tile's
    record = _record(section, *size, licence=config.licence)
    if store is not None and record.meta.name in store.section_names and not config.overwrite:
        found = differences(store.section(record.meta.name), record)
        if found:
            message = (
                f"store {store.address!r} holds a section {section.name!r} that was made from "
                f"something else: {'; '.join(found)}; give another --section or --store, or replace it, with all of its "
                "features and graphs, with --overwrite"
            )
            raise StoreError(message)
    return PlannedSection(section=section, record=record, specs=specs, samplings=samplings)


def _sampling(section: Section, spec: TileSpec, slide: Slide | None, card: EncoderCard) -> Sampling:
    native_px = spec.native_px(section.mpp)
    return Sampling(
        mpp=section.mpp,
        native_px=native_px,
        level=None if slide is None else level_of(slide, native_px, spec.out_px),
        padding="edge",
        interpolation=card.interpolation,
    )


def software_versions() -> dict[str, str]:
    """Name the versions of Python, spam and the packages that touch features."""
    versions = {name: metadata.version(distribution) for name, distribution in _SOFTWARE.items()}
    return {"python": platform.python_version(), **versions}


def _record(
    section: Section, slide_width_px: int | None, slide_height_px: int | None, *, licence: str | None
) -> SectionRecord:
    meta = SectionMeta(
        name=section.name,
        donor=section.donor,
        n_spots=len(section.ids),
        n_genes=0 if section.genes is None else len(section.genes),
        has_counts=section.counts is not None,
        mpp=section.mpp,
        mpp_source=section.mpp_source,
        slide_width_px=slide_width_px,
        slide_height_px=slide_height_px,
        sources=section.sources,
        software=software_versions(),
        spots_sha256=spots_digest(section.ids, section.xy_px),
        licence=licence,
    )
    return SectionRecord(
        meta=meta,
        ids=section.ids,
        xy_px=section.xy_px,
        xy_um=section.xy_um,
        counts=section.counts,
        genes=section.genes,
        obs=section.obs,
        overview=None,
    )


def differences(stored: StoredSection, record: SectionRecord) -> list[str]:
    """Name what a stored section and a new one of its name do not share.

    The table itself may have changed, as it does when a cohort grows: what it says of these spots must not
    have.
    """
    old, new = stored.meta, record.meta
    found = [
        f"{what} was {before!r}, is {after!r}"
        for what, before, after in (
            ("donor", old.donor, new.donor),
            ("µm per pixel (--mpp)", old.mpp, new.mpp),
            ("number of spots", old.n_spots, new.n_spots),
            ("number of genes", old.n_genes, new.n_genes),
        )
        if before != after
    ]
    if new.licence is not None and new.licence != old.licence:
        found.append(f"licence was {old.licence!r}, is {new.licence!r}")
    if old.redacted:
        return [*found, f"the store holds a copy without {', '.join(old.redacted)}"]
    before, after = (
        {source.role: source for source in meta.sources if source.role != "csv"} for meta in (old, new)
    )
    for role in sorted({*before, *after}):
        digests = [one[role].sha256[:12] if role in one else "absent" for one in (before, after)]
        if digests[0] != digests[1]:
            found.append(f"{role} was {digests[0]}, is {digests[1]} (SHA-256)")
    if old.n_spots == new.n_spots:
        if not np.array_equal(stored.ids, record.ids):
            found.append("ids of the spots differ")
        if record.xy_px is None or not np.array_equal(stored.xy_px, record.xy_px):
            found.append("coordinates of the spots differ")
    if record.counts is not None and record.genes is not None and stored.genes is not None and not found:
        is_same = np.array_equal(stored.genes, record.genes) and not (stored.counts() != record.counts).nnz
        found += [] if is_same else ["counts differ (--counts-layer)"]
    return found
