"""Embed once: tiles of sections -> encoder -> features in the store, chunk by chunk.

A chunk holds the features of consecutive spots and is complete when its file exists. No batch crosses the border of a
chunk, so a resumed run gives the same bytes as an uninterrupted one.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

import numpy as np

from spam.encoders import Encoder, build_encoder
from spam.errors import ConfigError, EncoderError, StoreError
from spam.graphs import ensure_spatial_graph
from spam.hardware import resolve_device
from spam.progress import SILENT, Advance, Progress
from spam.schemas.embed_config import EmbedConfig, EmbedReport, SectionReport
from spam.schemas.graph_config import DEFAULT_K
from spam.schemas.store_format import QUALITY, FeatureMeta, Sampling, feature_key, quality_key
from spam.schemas.tile_spec import MEASURES, TileSpec, tile_flags
from spam.store import (
    FeatureWriter,
    Overview,
    Store,
    StoredSection,
    chunk_slices,
    create_store,
    default_chunk_rows,
)
from spam.tiles import TileBatch, TileReader, overview, read_batches, sweep_order
from spam.typing import Array, Float32, Int64
from spam.versions import software_versions

from .planning import EmbedPlan, PlannedSection, differences, read_plan

_log = logging.getLogger(__name__)


def embed(config: EmbedConfig, *, progress: Progress = SILENT) -> EmbedReport:
    """Embed the tiles of one section or of a cohort into a feature store.

    Complete features are kept, and incomplete ones resume at the first missing chunk; the result equals that of an
    uninterrupted run bit for bit (with the same batch size, on the same machine). ``--overwrite`` embeds again; a section is
    rewritten, and loses its other features and graphs, only if its inputs changed.

    Parameters
    ----------
    progress
        Gets one task per section and tile size, counted in tiles.

    Raises
    ------
    ConfigError, EncoderError, MissingInputError, SectionError, SlideError, StoreError, TileError
        As `read_plan`, before anything is written; `EncoderError` also if a feature is not finite (earlier chunks are kept).
    """
    with contextlib.ExitStack() as slides:
        plan = read_plan(config, slides)
        shard = Shard(config, plan)
        encoder = build_encoder(
            plan.card,
            device=resolve_device(config.device),
            amp=config.amp,
            is_averaged=config.dihedral,
            is_compiled=config.compile,
            lora=config.lora,
        )
        store = create_store(plan.store)
        for planned in plan.sections:
            _require_same_settings(store, planned, encoder, config)
        reports = [
            _embed_section(store, planned, encoder, config, shard, progress) for planned in plan.sections
        ]
    return EmbedReport(store=plan.store, encoder=plan.encoder, sections=tuple(reports))


class Shard:
    """The chunks that this process embeds, out of those of all sections and tile sizes (``--shard``, or torchrun's rank).

    They are consecutive, because neighbouring chunks tend to show neighbouring tissue.

    Raises
    ------
    ConfigError
        If ``--overwrite`` is given for several processes.
    """

    def __init__(self, config: EmbedConfig, plan: EmbedPlan) -> None:
        self.number, self.n = config.shard_of
        if config.shard is None and "TORCHELASTIC_RUN_ID" in os.environ:
            self.number, self.n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if self.n > 1 and config.overwrite:
            message = f"--overwrite: {self.n} processes of torchrun would delete each other's work. Run it without torchrun."
            raise ConfigError(message)
        rows = config.chunk_rows or default_chunk_rows(plan.card.dim, config.dtype)
        n_chunks = sum(
            len(planned.specs) * len(chunk_slices(planned.section.n_spots, rows)) for planned in plan.sections
        )
        self._chunks = range(n_chunks * self.number // self.n, n_chunks * (self.number + 1) // self.n)
        self._n_counted = 0

    @property
    def label(self) -> str:
        """Name of this part for locks; empty if there is only one."""
        return f"@{self.number + 1}of{self.n}" if self.n > 1 else ""

    def select(self, chunks: Sequence[slice]) -> list[slice]:
        """Select this process's chunks of the next array; call it once per array, in the order of the plan."""
        first, self._n_counted = self._n_counted, self._n_counted + len(chunks)
        return [chunk for place, chunk in enumerate(chunks, first) if place in self._chunks]


def _embed_section(
    store: Store,
    planned: PlannedSection,
    encoder: Encoder,
    config: EmbedConfig,
    shard: Shard,
    progress: Progress,
) -> SectionReport:
    begun = time.perf_counter()
    section, arrays, n_embedded = planned.section, [], 0
    stored = _stored_section(store, planned, config, shard)
    for spec, sampling in zip(planned.specs, planned.samplings, strict=True):
        meta = _feature_meta(spec, sampling, encoder, config)
        with stored.lock(meta.key, part=shard.label):
            arrays.append(array := _TileArrays(stored, meta, encoder, config))
            pending = array.pending
            chunks = [chunk for chunk in shard.select(array.features.chunks) if chunk in pending]
            if chunks:
                with progress.task(f"embed {section.name} {spec.label}", _n_rows(chunks)) as advance:
                    _fill(array, chunks, planned, spec, sampling, encoder, config, advance)
            if not array.pending:
                array.finish()
        n_embedded += _n_rows(chunks)
    n_left = sum(_n_rows(array.pending) for array in arrays)  # other processes may have finished meanwhile
    flags: Counter[str] = Counter()
    for array in arrays:
        if not array.pending:
            array.finish()
            quality = stored.quality(array.features.key)
            if quality is not None:
                flags.update({flag: int(has.sum()) for flag, has in tile_flags(quality).items()})
    if not n_left:
        ensure_spatial_graph(stored, k=DEFAULT_K)  # for readers of the store: training uses the same graph
    planned.files.close()  # a PNG or JPEG is in memory as a whole
    return SectionReport(
        name=section.name,
        n_spots=section.n_spots,
        keys=tuple(array.features.key for array in arrays if array.features.is_finished),
        join=section.join.describe(),
        n_embedded=n_embedded,
        n_present=section.n_spots * len(planned.specs) - n_embedded - n_left,
        n_left=n_left,
        flags=dict(flags),
        seconds=time.perf_counter() - begun,
    )


def _stored_section(
    store: Store, planned: PlannedSection, config: EmbedConfig, shard: Shard
) -> StoredSection:
    """Return the section in the store, after writing it if it is missing or its inputs changed."""
    name = planned.section.name
    if name in store.section_names:
        stored = store.section(name)
        if not differences(stored, planned.section, config.licence):  # else the plan required --overwrite
            return stored
    image = None
    if planned.slide is not None and config.overview:
        small = overview(planned.slide, is_forgiving=config.skip_bad_tiles)
        image = Overview(image=small.image, scale=small.scale)
    try:
        return store.add_section(
            planned.section,
            slide_size_px=planned.slide_size_px,
            licence=config.licence,
            overview=image,
            is_overwrite=config.overwrite,
        )
    except StoreError:
        if shard.n == 1 or name not in store.section_names:
            raise
        return store.section(name)  # another process has written it


def _require_same_settings(
    store: Store, planned: PlannedSection, encoder: Encoder, config: EmbedConfig
) -> None:
    """Raise, before any computation, if existing features were computed with other settings."""
    if config.overwrite or planned.section.name not in store.section_names:
        return
    stored = store.section(planned.section.name)
    for spec, sampling in zip(planned.specs, planned.samplings, strict=True):
        meta = _feature_meta(spec, sampling, encoder, config)
        if meta.key in (*stored.feature_keys, *stored.unfinished_keys):
            stored.feature_writer(meta, run=_run(encoder, config))


def _run(encoder: Encoder, config: EmbedConfig) -> dict[str, str | int]:
    """Return the settings that change the last bits of features, by the order of sums."""
    return {"--batch-size": config.batch_size, "--device": encoder.device.type}


def _feature_meta(spec: TileSpec, sampling: Sampling, encoder: Encoder, config: EmbedConfig) -> FeatureMeta:
    card = encoder.card.to_mapping()
    if encoder.card.source.startswith("local:"):
        card["source"] = encoder.card.name  # the folder belongs to this machine, and may change
    return FeatureMeta(
        key=feature_key(encoder.card.name, spec.label, is_averaged=config.dihedral),
        origin="embed",
        encoder=card,
        weights_sha256=encoder.weights_sha256,
        lora_sha256=encoder.lora_sha256,
        tile=spec.to_mapping(),
        sampling=sampling,
        precision=encoder.precision,
        dim=encoder.card.dim,
        dtype=config.dtype,
        chunk_rows=config.chunk_rows or default_chunk_rows(encoder.card.dim, config.dtype),
        software=software_versions(),
        is_averaged=config.dihedral,
        adapted_on=encoder.adapted_on,
    )


class _TileArrays:
    """Features of one tile size and the quality of the tiles, chunk by chunk; quality is written and finished first.

    Finished features without quality stay as they are.
    """

    def __init__(
        self, stored: StoredSection, meta: FeatureMeta, encoder: Encoder, config: EmbedConfig
    ) -> None:
        def writer(meta: FeatureMeta) -> FeatureWriter:
            return stored.feature_writer(meta, run=_run(encoder, config), is_overwrite=config.overwrite)

        self.features = writer(meta)
        self._writers = [self.features]
        if not self.features.is_finished:
            quality = dataclasses.replace(
                meta,
                key=quality_key(meta.key),
                origin=QUALITY,
                encoder={"name": "tile_quality", "measures": list(MEASURES)},
                weights_sha256=None,
                lora_sha256=None,
                precision="float32",
                dim=len(MEASURES),
                dtype="float32",
                is_averaged=False,
                adapted_on=(),
            )
            self._writers.insert(0, writer(quality))

    @property
    def pending(self) -> list[slice]:
        """Chunks that are missing in either array."""
        missing = [chunk for writer in self._writers for chunk in writer.pending]
        return [chunk for chunk in self.features.chunks if chunk in missing]

    def write(self, chunk: slice, quality: Float32[Array, "n 4"], features: Float32[Array, "n dim"]) -> None:
        """Write the missing arrays of a chunk; rows are in the order of the spots."""
        for writer, rows in zip(self._writers, (quality, features), strict=True):
            if chunk in writer.pending:
                writer.write(chunk, rows)

    def finish(self) -> None:
        """Make both arrays visible to readers."""
        for writer in self._writers:
            writer.finish()


def _fill(
    array: _TileArrays,
    chunks: list[slice],
    planned: PlannedSection,
    spec: TileSpec,
    sampling: Sampling,
    encoder: Encoder,
    config: EmbedConfig,
    advance: Advance,
) -> None:
    """Compute and write chunks: threads read tiles ahead, and a GPU computes a batch while the previous one is written.

    Within a chunk, tiles are read in slide order (`sweep_order`), so that each region is decoded once, and their rows are
    put back into the order of the spots before the chunk is written.
    """
    section, batches = planned.section, []
    for chunk in chunks:
        spots = np.arange(chunk.start, chunk.stop)
        if planned.slide is not None:
            xy = section.xy_px[chunk]
            spots = spots[sweep_order(xy, planned.slide, native_px=sampling.native_px, out_px=spec.out_px)]
        parts = (
            spots[start : start + config.batch_size] for start in range(0, len(spots), config.batch_size)
        )
        batches += [(chunk, part) for part in parts]
    done: list[tuple[Array, Array, Array]] = []  # spots, quality and features of the batches of one chunk

    def take(chunk: slice, spots: Int64[Array, " n"], tiles: TileBatch, wait: Callable[[], Array]) -> None:
        features = wait()
        _require_finite(features, section.ids[spots], encoder, config)
        for row, fault in tiles.faults.items():
            spot = str(section.ids[spots[row]])
            _log.warning("the tile of spot %r cannot be read and is skipped: %s", spot, fault)
        features[list(tiles.faults)] = 0
        done.append((spots, tiles.quality, features))
        order, *rows = map(np.concatenate, zip(*done, strict=True))  # rows: quality, features
        if len(order) == chunk.stop - chunk.start:
            array.write(chunk, *(part[np.argsort(order)] for part in rows))
            done.clear()
        advance(len(spots))

    reader = TileReader(
        section,
        spec,
        slide=planned.slide,
        interpolation=encoder.card.interpolation,
        is_forgiving=config.skip_bad_tiles,
    )
    n_threads = config.n_readers(encoder.device.type)
    ahead = read_batches(reader, [spots for _, spots in batches], n_threads=n_threads)
    begun: deque[tuple[slice, Int64[Array, " n"], TileBatch, Callable[[], Array]]] = deque()
    with reader, contextlib.closing(ahead):  # the threads end before the slide is closed
        for (chunk, spots), tiles in zip(batches, ahead, strict=True):
            begun.append((chunk, spots, tiles, encoder.begin(tiles.pixels)))
            if len(begun) > 1:
                take(*begun.popleft())
        while begun:
            take(*begun.popleft())


def _require_finite(
    features: Float32[Array, "n dim"], ids: Array, encoder: Encoder, config: EmbedConfig
) -> None:
    largest = np.finfo(config.dtype).max
    bad = np.flatnonzero(~(np.abs(features) <= largest).all(axis=1))  # NaN compares as false
    if not bad.size:
        return
    is_finite = np.isfinite(features[bad]).all()
    cause = f"features beyond the range of {config.dtype}" if is_finite else "features that are not finite"
    remedy = (
        "Use --dtype float32 --overwrite." if is_finite else "Try it without --amp, and look at that tile."
    )
    message = (
        f"Encoder {encoder.card.name!r} returns {cause} for {bad.size} spots of a batch, first for "
        f"{str(ids[bad[0]])!r}. {remedy}"
    )
    raise EncoderError(message)


def _n_rows(chunks: list[slice]) -> int:
    return sum(chunk.stop - chunk.start for chunk in chunks)
