"""Reading and checking all that an embedding run needs."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spam.encoders import adapted_card, encoder_card, read_adapter, require_reachable
from spam.errors import SectionError, SpamError, StoreError
from spam.schemas.embed_config import EmbedConfig, InputConfig
from spam.schemas.encoder_card import EncoderCard
from spam.schemas.store_format import Sampling, Stain
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, SlideSource, TileFiles, read_manifest, read_section
from spam.store import Store, open_store
from spam.tiles import (
    Slide,
    StainNormaliser,
    TileReader,
    common_side_px,
    grid_section,
    grid_slides,
    level_of,
    locate,
    mosaic,
    open_slide,
    overview,
    resolve_tile_specs,
)

from .planned import EmbedPlan, PlannedSection
from .records import differences

__all__ = ["plan", "slide_of"]

_log = logging.getLogger(__name__)

_OWN_PER_ROW = ("h5ad", "csv", "root", "section", "donor")  # what a manifest says of each section by itself
_BYTES = {"float16": 2, "float32": 4, "bfloat16": 2}
_MOST_IN_MOSAIC = 64  # tiles that stand for a section without a slide
_MOSAIC_TILE_PX = 224


def plan(config: EmbedConfig) -> EmbedPlan:
    """Read and check everything that `embed` would use, without computing or writing anything.

    Checked are the encoder, and whether its weights can be had, the files, the joins, the coordinates against the slides,
    the tile sizes, the stains and the sections that the store holds already. The faults of all sections are reported
    together.

    Raises
    ------
    ConfigError
        If an option cannot be used, such as tiles in µm where the µm per pixel is unknown.
    EncoderError
        If the encoder is unknown, its weights cannot be had, or the adapter is of another one.
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
    assert config.store is not None  # held by EmbedConfig
    card = encoder_card(config.enc_name, config.revision)
    adapted = card if config.lora is None else adapted_card(card, read_adapter(config.lora))
    require_reachable(card)
    store = open_store(config.store) if _is_begun(config.store) else None
    planned: list[PlannedSection] = []
    faults: list[SpamError] = []
    for read in _readers(config):
        try:
            planned.append(_check_section(read(), config, card, store))
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
        store=config.store,
        card=card,
        encoder=adapted.name,
        sections=tuple(planned),
        n_bytes=n_numbers * _BYTES[config.dtype],
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


def _readers(config: EmbedConfig) -> tuple[Callable[[], Section], ...]:
    """Give a function per section that reads it; how tables are read is the same for all of a cohort."""
    if config.tiles == "grid":
        assert config.root is not None  # held by EmbedConfig
        slides = grid_slides(config.root, section=config.section)
        return tuple(functools.partial(grid_section, slide, config) for slide in slides)
    if config.manifest is None:
        return (functools.partial(read_section, config),)
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(InputConfig)
        if field.name not in _OWN_PER_ROW
    }
    rows = read_manifest(config.manifest, root=config.root)
    return tuple(functools.partial(read_section, dataclasses.replace(row, **shared)) for row in rows)


def _check_section(
    section: Section, config: EmbedConfig, card: EncoderCard, store: Store | None
) -> PlannedSection:
    for note in section.join.notes:
        _log.warning("section %s: %s", section.name, note)
    with slide_of(section) as slide:
        if slide is not None:
            section = locate(section, slide)
        size = None if slide is None else (slide.width, slide.height)
        mpp_note = None if slide is None else slide.mpp_note
        specs = resolve_tile_specs(section, config, input_px=card.input_px, mpp_note=mpp_note)
        samplings = tuple(_sampling(section, spec, slide, card) for spec in specs)
        largest = max(specs, key=lambda spec: spec.native_px(section.mpp))
        if isinstance(section.tiles, TileFiles):  # opens every file, and compares their sizes with the tile's
            TileReader(section, largest, is_forgiving=config.skip_bad_tiles).close()
        stain = (
            None
            if config.stain is None
            else _normaliser(config.stain, section, slide, is_forgiving=config.skip_bad_tiles)
        )
    if store is not None and section.name in store.section_names and not config.overwrite:
        found = differences(store.section(section.name), section, config.licence)
        if found:
            message = (
                f"store {store.address!r} holds a section {section.name!r} that was made from "
                f"something else: {'; '.join(found)}; give another --section or --store, or replace it, with all of its "
                "features and graphs, with --overwrite"
            )
            raise StoreError(message)
    return PlannedSection(
        section=section,
        slide_size_px=size,
        licence=config.licence,
        specs=specs,
        samplings=samplings,
        stain=stain,
    )


def _sampling(section: Section, spec: TileSpec, slide: Slide | None, card: EncoderCard) -> Sampling:
    native_px = spec.native_px(section.mpp)
    return Sampling(
        mpp=section.mpp,
        native_px=native_px,
        level=None if slide is None else level_of(slide, native_px, spec.out_px),
        padding="edge",
        interpolation=card.interpolation,
    )


def _normaliser(name: Stain, section: Section, slide: Slide | None, *, is_forgiving: bool) -> StainNormaliser:
    """Estimate the stains of a section from a picture of all of it: its slide, or tiles from all over it."""
    if slide is not None:
        purpose = "the picture that its stains are estimated from"
        return StainNormaliser.fit(name, overview(slide, purpose=purpose, is_forgiving=is_forgiving).image)
    # Whole tile files: what is estimated must not depend on the tile sizes that are asked for.
    assert isinstance(section.tiles, TileFiles)  # there is no slide
    side = common_side_px(section.tiles.paths, is_forgiving=is_forgiving)
    spec = TileSpec(tile_px=side, out_px=min(side, _MOSAIC_TILE_PX))
    chosen = np.unique(np.linspace(0, section.n_spots - 1, _MOST_IN_MOSAIC).astype(np.int64))
    with TileReader(section, spec, is_forgiving=is_forgiving) as reader:
        batch = reader.read_batch(chosen)
    is_read = np.array([row not in batch.faults for row in range(len(chosen))])
    return StainNormaliser.fit(name, mosaic(batch.pixels[is_read]))
