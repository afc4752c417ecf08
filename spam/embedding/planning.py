"""Plans of `spam embed`: inputs read and checked before anything is computed or written; needs no torch."""

import contextlib
import dataclasses
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The names of `encoders` resolve on first use, because only reading an adapter needs torch.
from spam import encoders
from spam.errors import ConfigError, SectionError, SpamError, StoreError, counted
from spam.schemas.embed_config import EmbedConfig, InputConfig
from spam.schemas.encoder_card import EncoderCard
from spam.schemas.store_format import Sampling, feature_key
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, SlideSource, read_inputs, read_section
from spam.store import Store, differences, open_store, warn_of_duplicates, warn_of_gene_names
from spam.tiles import (
    Slide,
    TileBatch,
    TileReader,
    check_placement,
    grid_section,
    grid_slides,
    level_of,
    local_copy,
    locate,
    open_slide,
    read_batches,
    require_sizes,
    resolve_tile_specs,
    sweep_order,
)
from spam.typing import Array, Int64

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSection:
    """A section that was read and checked.

    Attributes
    ----------
    section
        The section, located on its slide.
    slide
        Its slide, open until `files` is closed; None for tile files.
    files
        Closes the slide; may be closed twice.
    specs, samplings, keys
        Tile sizes, how the tiles of each are cut, and the names of their features in the store.
    """

    section: Section
    slide: Slide | None
    files: contextlib.ExitStack
    specs: tuple[TileSpec, ...]
    samplings: tuple[Sampling, ...]
    keys: tuple[str, ...]

    def on_local_disk(self, folder: Path | None) -> "PlannedSection":
        """Replace the slide by a copy in `folder`, once; closing `files` removes the copy (``--local-cache``)."""
        if folder is None or self.slide is None or folder in self.slide.path.parents:
            return self
        copy = self.files.enter_context(local_copy(self.slide.path, folder))
        return dataclasses.replace(self, slide=self.files.enter_context(open_slide(copy)))

    def in_reading_order(self, spots: Int64[Array, " n"], which: int) -> Int64[Array, " n"]:
        """Order spots such that each region of the slide is decoded once, for tiles of ``specs[which]``."""
        if self.slide is None:
            return spots
        native_px, out_px = self.samplings[which].native_px, self.specs[which].out_px
        xy_px = self.section.xy_px[spots]
        return np.asarray(spots[sweep_order(xy_px, self.slide, native_px=native_px, out_px=out_px)])

    def read_tiles(
        self, batches: Sequence[Int64[Array, " _"]], which: int, config: EmbedConfig, device: str
    ) -> Generator[TileBatch, None, None]:
        """Read batches of tiles of ``specs[which]`` ahead, for a device type; close the generator before the slide."""
        reader = TileReader(
            self.section,
            self.specs[which],
            slide=self.slide,
            interpolation=self.samplings[which].interpolation,
            is_forgiving=config.skip_bad_tiles,
        )
        ahead = read_batches(reader, batches, n_threads=config.n_readers(device))
        with reader, contextlib.closing(ahead):
            yield from ahead


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedPlan:
    """What `embed` will do: the outcome of all checks, and the amount of work.

    Attributes
    ----------
    card
        The published encoder.
    encoder
        Name that the features will have: the encoder's, or that of its adaptation.
    n_bytes
        Size of all features.
    """

    store: Path
    card: EncoderCard
    encoder: str
    sections: tuple[PlannedSection, ...]
    n_bytes: int

    @property
    def n_tiles(self) -> int:
        """Tiles of all sections and sizes, embedded or not."""
        return sum(one.section.n_spots * len(one.specs) for one in self.sections)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "store": str(self.store),
            "encoder": self.encoder,
            "n_tiles": self.n_tiles,
            "n_bytes": self.n_bytes,
            "sections": [
                {
                    "name": one.section.name,
                    "donor": one.section.donor,
                    "n_spots": one.section.n_spots,
                    "mpp": one.section.mpp,
                    "tiles": [spec.label for spec in one.specs],
                    "join": one.section.join.describe(),
                }
                for one in self.sections
            ],
        }

    def summary(self) -> str:
        """Summarise each section in a line."""
        lines = [
            f"{one.section.name}: {one.section.join.describe()}; {one.section.scale}; "
            f"tiles of {', '.join(spec.label for spec in one.specs)}"
            for one in self.sections
        ]
        size = f"{counted(self.n_tiles, 'tile')} with {self.encoder}: {self.n_bytes / 1e6:.1f} MB of features"
        return "\n".join([*lines, f"{size} in {self.store}"])


def dry_run(config: EmbedConfig) -> EmbedPlan:
    """Read and check everything that `embed` would use, without computing or writing anything (``--dry-run``).

    Raises
    ------
    ConfigError, EncoderError, MissingInputError, SectionError, SlideError, StoreError, TileError
        As `read_plan`.
    """
    with contextlib.ExitStack() as slides:
        return read_plan(config, slides)


def read_plan(config: EmbedConfig, slides: contextlib.ExitStack) -> EmbedPlan:
    """Read and check everything; slides stay open until `slides` is closed.

    Checked are the encoder and access to its weights, files, joins, coordinates against slides, tile sizes, and sections
    that the store already holds. The errors of all sections are reported together.

    Raises
    ------
    ConfigError
        If an option cannot be used, such as tiles in µm without µm per pixel.
    EncoderError
        If the encoder is unknown or its weights are not available, or the adapter belongs to another one.
    MissingInputError
        If a file does not exist.
    SectionError
        If files do not fit together, a name occurs twice, or several sections have errors.
    SlideError
        If a slide cannot be read.
    StoreError
        If the store holds a section of the same name from other inputs.
    TileError
        If coordinates lie outside the slide, or tile files do not fit.
    """
    assert config.store is not None  # checked by EmbedConfig
    inputs = _inputs(config)
    card = encoders.encoder_card(config.enc_name, config.revision)
    encoder = card
    if config.lora is not None:
        encoder = encoders.adapted_card(card, encoders.read_adapter(config.lora))
    encoders.require_reachable(card)
    is_empty = config.store.is_dir() and not any(config.store.iterdir())
    store = open_store(config.store) if config.store.exists() and not is_empty else None
    sections: list[PlannedSection] = []
    errors: list[SpamError] = []
    for files in inputs:
        try:
            sections.append(_plan_section(files, config, encoder, store, slides))
        except SpamError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        message = "\n- ".join([f"{len(errors)} sections cannot be embedded:", *map(str, errors)])
        raise SectionError(message) from errors[0]
    names = [one.section.name for one in sections]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message = f"--manifest names several sections {', '.join(map(repr, twice))}. Use unique names."
        raise SectionError(message)
    warn_of_duplicates([one.section for one in sections], store)
    for source, one in zip(inputs, sections, strict=True):
        if isinstance(source, InputConfig):
            warn_of_gene_names(one.section, source.h5ad, [other.section for other in sections], store)
    n_numbers = card.dim * sum(one.section.n_spots * len(one.specs) for one in sections)
    return EmbedPlan(
        store=config.store,
        card=card,
        encoder=encoder.name,
        sections=tuple(sections),
        n_bytes=n_numbers * np.dtype(config.dtype).itemsize,
    )


def _inputs(config: EmbedConfig) -> Sequence[InputConfig | Path]:
    """List the files of each section, or the slides to lay a grid over; other options hold for all sections."""
    if config.tiles == "grid":
        assert config.root is not None  # checked by EmbedConfig
        slides = grid_slides(config.root, section=config.section)
        if config.regions is not None and len(slides) > 1:
            message = f"--regions {str(config.regions)!r} is of one slide, but --root has {len(slides)}."
            raise ConfigError(message)
        return slides
    return read_inputs(config)


def _plan_section(
    source: InputConfig | Path,
    config: EmbedConfig,
    encoder: EncoderCard,
    store: Store | None,
    slides: contextlib.ExitStack,
) -> PlannedSection:
    slide, files = None, slides.enter_context(contextlib.ExitStack())
    if isinstance(source, Path):
        slide = files.enter_context(open_slide(source))
        section = grid_section(slide, config)
    else:
        section = read_section(source)
        if isinstance(section.tiles, SlideSource):
            slide = files.enter_context(open_slide(section.tiles.path))
            section = locate(section, slide)
    stored = None if store is None or section.name not in store.section_names else store.section(section.name)
    if slide is not None and isinstance(source, InputConfig) and (stored is None or config.overwrite):
        section = check_placement(
            section,
            slide,
            is_decided=any(x is not None for x in (source.swap_xy, source.from_, source.cells)),
            is_forgiving=config.skip_bad_tiles,
        )
        if config.manifest is not None:
            slide.release()  # the slides of a cohort do not fit into memory together
    for note in section.join.notes:
        _log.warning("section %s: %s", section.name, note)
    mpp_note = None if slide is None else slide.mpp_note
    specs = resolve_tile_specs(section, config, input_px=encoder.input_px, mpp_note=mpp_note)
    if slide is not None:
        require_sizes(specs, section, slide)
    largest_first = sorted(specs, key=lambda spec: -spec.native_px(section.mpp))
    for spec in largest_first if config.skip_bad_tiles else largest_first[:1]:
        # Opens every tile file, and compares their sizes with the tile's.
        with TileReader(section, spec, slide=slide, is_forgiving=config.skip_bad_tiles) as reader:
            if config.skip_bad_tiles:
                reader.require_readable()
    if stored and not config.overwrite and (found := differences(stored, section, config.licence)):
        message = (
            f"Section {section.name!r} in the store was made from other inputs: {'; '.join(found)}. Use another --section "
            "or --store, or replace it, with all its features and graphs: --overwrite"
        )
        raise StoreError(message)
    samplings = tuple(
        Sampling(
            mpp=section.mpp,
            native_px=(native_px := spec.native_px(section.mpp)),
            level=None if slide is None else level_of(slide, native_px, spec.out_px),
            padding="edge",
            interpolation=encoder.interpolation,
        )
        for spec in specs
    )
    keys = tuple(feature_key(encoder.name, spec.label, is_averaged=config.dihedral) for spec in specs)
    return PlannedSection(
        section=section, slide=slide, files=files, specs=specs, samplings=samplings, keys=keys
    )
