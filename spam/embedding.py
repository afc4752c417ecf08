"""Embed once: sections -> tiles -> encoder -> store. The only writer of features.

Everything that can be wrong with the files is found before the first tile is computed and before anything is
written.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from .encoders import Encoder, build_encoder
from .errors import ConfigError, EncoderError, StoreError
from .graphs import ensure_spatial_graph
from .hardware import resolve_device
from .planning import EmbedPlan, PlannedSection, differences, plan, slide_of, software_versions
from .progress import SILENT, Advance, Progress
from .schemas.embed_config import EmbedConfig
from .schemas.embed_report import EmbedReport, SectionReport
from .schemas.encoder_card import EncoderCard
from .schemas.graph_config import DEFAULT_K
from .schemas.store_meta import QUALITY, FeatureMeta, Sampling, feature_key, quality_key
from .schemas.tile_quality import MEASURES
from .schemas.tile_spec import TileSpec
from .sections import Section
from .store import (
    Cut,
    FeatureWriter,
    Overview,
    Store,
    StoredSection,
    create_store,
    cut,
    default_chunk_rows,
)
from .tiles import Slide, TileReader, overview, read_batches, sweep_order
from .typing import Array, Float32, Int64, Shaped

__all__ = ["EmbedReport", "SectionReport", "embed", "plan"]

_log = logging.getLogger(__name__)

Order: TypeAlias = Int64[Array, " n_spots"] | None
"""Numbers of the spots in the order in which they are computed; None for their own."""


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
    share = _Share.of(config, planned)
    encoder = build_encoder(
        planned.card,
        device=resolve_device(config.device),
        amp=config.amp,
        is_averaged=config.dihedral,
        is_compiled=config.compile,
    )
    store = create_store(planned.store)
    for one in planned.sections:
        _require_same_features(store, one, encoder, config)
    reports = tuple(_embed_section(store, one, encoder, config, share, progress) for one in planned.sections)
    return EmbedReport(store=planned.store, encoder=planned.card.name, sections=reports)


class _Share:
    """The chunks that this process computes, counted through all sections and tile sizes: one run of them.

    Chunks that follow each other show tissue that lies together, so that a block of a slide is decoded by one process.
    """

    def __init__(self, number: int, n: int, *, n_chunks: int) -> None:
        self.number, self.n, self._counted = number, n, 0
        self._own = range(n_chunks * number // n, n_chunks * (number + 1) // n)

    @classmethod
    def of(cls, config: EmbedConfig, planned: EmbedPlan) -> "_Share":
        """Take what ``--shard`` says, or else what torchrun has put into the environment.

        Raises
        ------
        ConfigError
            If torchrun's processes are to overwrite.
        """
        n_chunks = sum(
            len(one.specs) * len(_cut(len(one.section.ids), planned.card.dim, config).chunks)
            for one in planned.sections
        )
        n = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if config.shard is not None or n == 1:
            return cls(*config.shard_of, n_chunks=n_chunks)
        if config.overwrite:
            message = (
                f"--overwrite would let the {n} processes of torchrun delete each other's work; "
                "run once without torchrun"
            )
            raise ConfigError(message)
        return cls(int(os.environ["RANK"]), n, n_chunks=n_chunks)

    @property
    def label(self) -> str:
        """Name of this part for locks; empty for all of the work."""
        return f"@{self.number + 1}of{self.n}" if self.n > 1 else ""

    def of_chunks(self, chunks: list[slice]) -> list[slice]:
        """Pick the chunks of one array that are this process's own."""
        first = self._counted
        self._counted += len(chunks)
        return [chunk for place, chunk in enumerate(chunks, first) if place in self._own]


def _cut(n_spots: int, dim: int, config: EmbedConfig) -> Cut:
    return cut(
        n_spots,
        dim,
        config.dtype,
        chunk_rows=config.chunk_rows or default_chunk_rows(dim, config.dtype),
    )


def _feature_meta(spec: TileSpec, sampling: Sampling, encoder: Encoder, config: EmbedConfig) -> FeatureMeta:
    card = encoder.card.to_mapping()
    if encoder.card.source.startswith("local:"):
        card["source"] = encoder.card.name  # where the folder lies is this machine's affair, and may change
    return FeatureMeta(
        key=feature_key(encoder.card.name, spec.label, stain=config.stain, is_averaged=config.dihedral),
        origin="embed",
        encoder=card,
        weights_sha256=encoder.weights_sha256,
        lora_sha256=None,
        tile=spec.to_mapping(),
        sampling=sampling,
        precision=encoder.precision,
        dim=encoder.card.dim,
        dtype=config.dtype,
        chunk_rows=config.chunk_rows or default_chunk_rows(encoder.card.dim, config.dtype),
        software=software_versions(),
        stain=config.stain,
        is_averaged=config.dihedral,
    )


def _quality_meta(features: FeatureMeta) -> FeatureMeta:
    """Describe the measures of the tiles that features are made from: chunk by chunk beside them."""
    return dataclasses.replace(
        features,
        key=quality_key(features.key),
        origin=QUALITY,
        encoder={"name": "tile_quality", "measures": list(MEASURES)},
        weights_sha256=None,
        lora_sha256=None,
        precision="float32",
        dim=len(MEASURES),
        dtype="float32",
        stain=None,  # measured before
        is_averaged=False,
    )


def _run(encoder: Encoder, config: EmbedConfig) -> dict[str, str | int]:
    """Name what changes the last bits of features: sums are taken in another order then."""
    return {"--batch-size": config.batch_size, "--device": encoder.device.type}


def _order(section: Section, slide: Slide | None, sampling: Sampling, spec: TileSpec) -> Order:
    if slide is None:
        return None
    return sweep_order(section.xy_px, slide, native_px=sampling.native_px, out_px=spec.out_px)


def _require_same_features(store: Store, one: PlannedSection, encoder: Encoder, config: EmbedConfig) -> None:
    """Raise, before any compute, if features that are there already were made differently."""
    if config.overwrite or one.section.name not in store.section_names:
        return
    stored = store.section(one.section.name)
    with slide_of(one.section) as slide:
        for spec, sampling in zip(one.specs, one.samplings, strict=True):
            meta = _feature_meta(spec, sampling, encoder, config)
            if meta.key in (*stored.feature_keys, *stored.unfinished_keys):
                order = _order(one.section, slide, sampling, spec)
                stored.feature_writer(meta, run=_run(encoder, config), order=order)


def _embed_section(
    store: Store,
    one: PlannedSection,
    encoder: Encoder,
    config: EmbedConfig,
    share: _Share,
    progress: Progress,
) -> SectionReport:
    begun = time.perf_counter()
    section, arrays, n_embedded = one.section, [], 0
    with slide_of(section) as slide:
        stored = _stored_section(store, one, slide, config, share)
        for spec, sampling in zip(one.specs, one.samplings, strict=True):
            meta = _feature_meta(spec, sampling, encoder, config)
            order = _order(section, slide, sampling, spec)
            with stored.lock(meta.key, part=share.label):
                written = _Arrays(
                    stored, meta, order, run=_run(encoder, config), is_overwrite=config.overwrite
                )
                own, pending = share.of_chunks(written.features.chunks), written.features.pending
                todo = [chunk for chunk in own if chunk in pending]
                n_todo = _n_rows(todo)
                if n_todo:
                    reader = TileReader(
                        section,
                        spec,
                        slide=slide,
                        interpolation=encoder.card.interpolation,
                        is_forgiving=config.skip_bad_tiles,
                    )
                    with (
                        reader,
                        progress.task(f"embed {section.name} {spec.label}", n_todo) as advance,
                    ):
                        _fill(written, todo, reader, encoder, section.ids, config, advance)
                if not written.features.pending:  # whoever comes last puts the parts together
                    written.finish()
            n_embedded += n_todo
            arrays.append(written)
    n_left = sum(_n_rows(written.features.pending) for written in arrays)  # others may have come to an end
    if not n_left:
        for written in arrays:
            written.finish()
        # so that readers of the store find the graph that training uses
        ensure_spatial_graph(stored, k=DEFAULT_K)
    return SectionReport(
        name=section.name,
        n_spots=len(section.ids),
        keys=tuple(written.features.key for written in arrays if not written.features.pending),
        join=section.join.describe(),
        n_embedded=n_embedded,
        n_present=len(section.ids) * len(one.specs) - n_embedded - n_left,
        n_left=n_left,
        seconds=time.perf_counter() - begun,
    )


class _Arrays:
    """The features of one tile size, and the quality of the tiles beside them.

    Of each chunk, and of the whole, the quality is written first: where there are features, there is quality. Features
    that were finished without it stay as they are.
    """

    def __init__(
        self,
        stored: StoredSection,
        meta: FeatureMeta,
        order: Order,
        *,
        run: Mapping[str, str | int],
        is_overwrite: bool,
    ) -> None:
        self._order = order
        self.features = stored.feature_writer(meta, run=run, order=order, is_overwrite=is_overwrite)
        self._quality: FeatureWriter | None = None
        if not self.features.is_finished:
            about = _quality_meta(meta)
            self._quality = stored.feature_writer(about, run=run, order=order, is_overwrite=is_overwrite)

    def rows(self, chunk: slice) -> Int64[Array, " n"]:
        """Name the spots of a chunk."""
        return np.arange(chunk.start, chunk.stop) if self._order is None else self._order[chunk]

    def write(self, chunk: slice, features: Float32[Array, "n dim"], quality: Float32[Array, "n 4"]) -> None:
        """Write one chunk of both."""
        if self._quality is not None and chunk in self._quality.pending:
            self._quality.write(chunk, quality)
        self.features.write(chunk, features)

    def finish(self) -> None:
        """Let readers see both."""
        if self._quality is not None:
            self._quality.finish()
        self.features.finish()


def _n_rows(chunks: list[slice]) -> int:
    return sum(chunk.stop - chunk.start for chunk in chunks)


def _stored_section(
    store: Store, one: PlannedSection, slide: Slide | None, config: EmbedConfig, share: _Share
) -> StoredSection:
    """Return the section in the store, after writing it if it is not there or its inputs changed."""
    name = one.section.name
    if name in store.section_names:
        stored = store.section(name)
        if not differences(stored, one.record):  # else `plan` has made sure of --overwrite
            return stored
    record = one.record
    if slide is not None and config.overview:
        small = overview(slide)
        record = dataclasses.replace(record, overview=Overview(image=small.image, scale=small.scale))
    try:
        return store.add_section(record, is_overwrite=config.overwrite)
    except StoreError:
        if share.n == 1 or name not in store.section_names:
            raise
        return store.section(name)  # another part was faster


def _fill(
    written: _Arrays,
    chunks: list[slice],
    reader: TileReader,
    encoder: Encoder,
    ids: Shaped[Array, " n_spots"],
    config: EmbedConfig,
    advance: Advance,
) -> None:
    """Compute some chunks; no batch crosses one, so none depends on where a killed run stopped."""
    batches = [
        (chunk, slice(start, min(start + config.batch_size, chunk.stop)))
        for chunk in chunks
        for start in range(chunk.start, chunk.stop, config.batch_size)
    ]
    spots = [written.rows(batch) for _, batch in batches]
    ahead = read_batches(reader, spots, n_threads=config.num_workers)
    features: list[Float32[Array, "n dim"]] = []
    quality: list[Float32[Array, "n 4"]] = []
    with contextlib.closing(ahead):  # its threads end before the slide is closed
        for (chunk, batch), rows, tiles in zip(batches, spots, ahead, strict=True):
            found = encoder.embed(tiles.pixels)
            _require_finite(found, ids[rows], encoder.card, config)
            for row, fault in tiles.faults.items():
                _log.warning(
                    "the tile of spot %r cannot be read and is left out: %s", str(ids[rows[row]]), fault
                )
            found[list(tiles.faults)] = 0
            features.append(found)
            quality.append(tiles.quality)
            if batch.stop == chunk.stop:
                written.write(chunk, np.concatenate(features), np.concatenate(quality))
                features.clear()
                quality.clear()
            advance(len(rows))


def _require_finite(
    features: Float32[Array, "n dim"],
    ids: Shaped[Array, " n"],
    card: EncoderCard,
    config: EmbedConfig,
) -> None:
    largest = np.finfo("float16" if config.dtype == "float16" else "float32").max
    bad = np.flatnonzero(~(np.abs(features) <= largest).all(axis=1))  # NaN compares as false
    if not bad.size:
        return
    is_finite = np.isfinite(features[bad]).all()
    cause = f"beyond the range of {config.dtype}" if is_finite else "that are not finite"
    remedy = "store them with --dtype float32" if is_finite else "try without --amp, and look at that tile"
    message = (
        f"encoder {card.name!r} gives features {cause} for {bad.size} spots of a batch, first for "
        f"{str(ids[bad[0]])!r}; {remedy}; then run the same command again (with --overwrite if "
        "--dtype changes)"
    )
    raise EncoderError(message)
