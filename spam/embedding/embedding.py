"""The sections of a plan, one after the other.

Everything that can be wrong with the files is found before the first tile is computed and before anything is
written.
"""

import hashlib
import json
import time
from collections import Counter

from spam.encoders import Encoder, build_encoder
from spam.errors import StoreError
from spam.graphs import ensure_spatial_graph
from spam.hardware import resolve_device
from spam.planning import PlannedSection, differences, plan, slide_of
from spam.progress import SILENT, Progress
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.embed_report import EmbedReport, SectionReport
from spam.schemas.graph_config import DEFAULT_K
from spam.schemas.store_format import Sampling
from spam.schemas.tile_quality import tile_flags
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section
from spam.store import Overview, Store, StoredSection, create_store
from spam.tiles import Slide, TileReader, overview, sweep_order

from .filling import fill
from .share import Share
from .tile_arrays import Order, TileArrays, feature_meta_of

__all__ = ["embed"]


def embed(config: EmbedConfig, *, progress: Progress = SILENT) -> EmbedReport:
    """Embed the tiles of one section or of a cohort into a feature store.

    Features that are complete are left alone, incomplete ones go on at the first missing chunk, and end bit
    for bit like those of an unbroken run with the same batch size on the same machine. With ``--overwrite``
    they are made anew; a section is rewritten, and loses its other features and graphs, only if its inputs
    have changed.

    Parameters
    ----------
    config
        Options.
    progress
        Gets one task per section and tile size, counted in tiles.

    Raises
    ------
    ConfigError, EncoderError, MissingInputError, SectionError, SlideError, StoreError, TileError
        As `plan`, before anything is written. `EncoderError` also where the weights cannot be had, or a
        feature is not a finite number (the chunks before it are kept).
    """
    planned = plan(config)
    share = Share.of(config, planned)
    encoder = build_encoder(
        planned.card,
        device=resolve_device(config.device),
        amp=config.amp,
        is_averaged=config.dihedral,
        is_compiled=config.compile,
        lora=config.lora,
    )
    store = create_store(planned.store)
    for one in planned.sections:
        _require_same_features(store, one, encoder, config)
    reports = tuple(_embed_section(store, one, encoder, config, share, progress) for one in planned.sections)
    return EmbedReport(store=planned.store, encoder=planned.encoder, sections=reports)


def _run(one: PlannedSection, encoder: Encoder, config: EmbedConfig) -> dict[str, str | int]:
    """Name what changes features beside their meta: the last bits, by the order of sums, and the estimate of the stains."""
    run: dict[str, str | int] = {"--batch-size": config.batch_size, "--device": encoder.device.type}
    if one.stain is not None:
        estimate = json.dumps(one.stain.parameters, sort_keys=True).encode()
        run["estimate of the stains"] = hashlib.sha256(estimate).hexdigest()[:12]
    return run


def _order(section: Section, slide: Slide | None, sampling: Sampling, spec: TileSpec) -> Order:
    if slide is None:
        return None
    return sweep_order(section.xy_px, slide, native_px=sampling.native_px, out_px=spec.out_px)


def _require_same_features(store: Store, one: PlannedSection, encoder: Encoder, config: EmbedConfig) -> None:
    """Raise, before any compute, if features that are there already were made differently."""
    if config.overwrite or one.section.name not in store.section_names:
        return
    stored = store.section(one.section.name)
    for spec, sampling in zip(one.specs, one.samplings, strict=True):
        meta = feature_meta_of(spec, sampling, encoder, config)
        if meta.key in (*stored.feature_keys, *stored.unfinished_keys):
            stored.feature_writer(meta, run=_run(one, encoder, config))


def _embed_section(
    store: Store,
    one: PlannedSection,
    encoder: Encoder,
    config: EmbedConfig,
    share: Share,
    progress: Progress,
) -> SectionReport:
    begun = time.perf_counter()
    section, arrays, n_embedded = one.section, [], 0
    with slide_of(section) as slide:
        stored = _stored_section(store, one, slide, config, share)
        for spec, sampling in zip(one.specs, one.samplings, strict=True):
            meta = feature_meta_of(spec, sampling, encoder, config)
            order = _order(section, slide, sampling, spec)
            with stored.lock(meta.key, part=share.label):
                written = TileArrays(
                    stored, meta, order, run=_run(one, encoder, config), is_overwrite=config.overwrite
                )
                own, pending = share.of_chunks(written.chunks), written.pending
                todo = [chunk for chunk in own if chunk in pending]
                n_todo = _n_rows(todo)
                if n_todo:
                    reader = TileReader(
                        section,
                        spec,
                        slide=slide,
                        interpolation=encoder.card.interpolation,
                        stain=one.stain,
                        is_forgiving=config.skip_bad_tiles,
                    )
                    with (
                        reader,
                        progress.task(f"embed {section.name} {spec.label}", n_todo) as advance,
                    ):
                        fill(written, todo, reader, encoder, section.ids, config, advance)
                if not written.pending:  # whoever comes last puts the parts together
                    written.finish()
            n_embedded += n_todo
            arrays.append(written)
    n_left = sum(_n_rows(written.pending) for written in arrays)  # others may have come to an end
    if not n_left:
        for written in arrays:
            written.finish()
        # so that readers of the store find the graph that training uses
        ensure_spatial_graph(stored, k=DEFAULT_K)
    return SectionReport(
        name=section.name,
        n_spots=len(section.ids),
        keys=tuple(written.features.key for written in arrays if not written.pending),
        join=section.join.describe(),
        n_embedded=n_embedded,
        n_present=len(section.ids) * len(one.specs) - n_embedded - n_left,
        n_left=n_left,
        flags=_flags(stored, arrays),
        seconds=time.perf_counter() - begun,
    )


def _stored_section(
    store: Store, one: PlannedSection, slide: Slide | None, config: EmbedConfig, share: Share
) -> StoredSection:
    """Return the section in the store, after writing it if it is not there or its inputs changed."""
    name = one.section.name
    if name in store.section_names:
        stored = store.section(name)
        if not differences(stored, one.section, one.licence):  # else `plan` has made sure of --overwrite
            return stored
    small = None
    if slide is not None and config.overview:
        picture = overview(slide, is_forgiving=config.skip_bad_tiles)
        small = Overview(image=picture.image, scale=picture.scale)
    try:
        return store.add_section(
            one.section,
            slide_size_px=one.slide_size_px,
            licence=one.licence,
            overview=small,
            is_overwrite=config.overwrite,
        )
    except StoreError:
        if share.n == 1 or name not in store.section_names:
            raise
        return store.section(name)  # another part was faster


def _flags(stored: StoredSection, arrays: list[TileArrays]) -> dict[str, int]:
    """Count the tiles that have a flag, over all tile sizes that are finished."""
    counts: Counter[str] = Counter()
    for written in arrays:
        quality = stored.quality(written.features.key) if written.features.is_finished else None
        if quality is not None:
            counts.update({flag: int(has.sum()) for flag, has in tile_flags(quality).items()})
    return dict(counts)


def _n_rows(chunks: list[slice]) -> int:
    return sum(chunk.stop - chunk.start for chunk in chunks)
