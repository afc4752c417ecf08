"""Embed once: tiles of sections -> encoder -> features in the store, chunk by chunk.

A chunk holds the features of consecutive spots and is complete when its file exists. No batch crosses the border of a
chunk, so a resumed run gives the same bytes as an uninterrupted one.
"""

import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence

import numpy as np

from spam.encoders import Encoder, build_encoder
from spam.errors import StoreError
from spam.graphs import ensure_spatial_graph
from spam.hardware import resolve_device
from spam.progress import SILENT, Advance, Progress
from spam.schemas.embed_config import EmbedConfig, EmbedReport, SectionReport
from spam.schemas.graph_config import DEFAULT_K
from spam.schemas.store_format import QUALITY, FeatureMeta, FileEntry, quality_key
from spam.schemas.tile_spec import MEASURES, tile_flags
from spam.store import (
    FeatureWriter,
    Overview,
    Store,
    StoredSection,
    chunk_slices,
    default_chunk_rows,
    differences,
    filled_store,
)
from spam.tiles import TileBatch, overview
from spam.typing import Array, Float32, Int64
from spam.versions import software_versions

from .planning import EmbedPlan, PlannedSection, read_plan

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
        As `read_plan`, before anything is written; `StoreError` also if a feature is not finite (earlier chunks are kept;
        a new section without any is removed, and so is a new store without sections).
    """
    with contextlib.ExitStack() as slides:
        plan = read_plan(config, slides)
        shard = Shard(config, plan)
        encoder = planned_encoder(plan, config)
        with filled_store(plan.store) as store:
            run = _Run(store, encoder, config, shard, progress)
            for planned in plan.sections:
                run.require_same_settings(planned)
            reports = [run.embed(planned) for planned in plan.sections]
    return EmbedReport(store=plan.store, encoder=plan.encoder, sections=tuple(reports))


class Shard:
    """The chunks that this process embeds, out of those of all sections and tile sizes (``--shard``, or torchrun's rank).

    They are consecutive, because neighbouring chunks tend to show neighbouring tissue.
    """

    def __init__(self, config: EmbedConfig, plan: EmbedPlan) -> None:
        number, self.n = config.shard_of
        rows = config.chunk_rows or default_chunk_rows(plan.card.dim, config.dtype)
        n_chunks = sum(
            len(planned.specs) * len(chunk_slices(planned.section.n_spots, rows)) for planned in plan.sections
        )
        self.label = f"@{number + 1}of{self.n}" if self.n > 1 else ""  # of this part, for locks
        self._chunks = range(n_chunks * number // self.n, n_chunks * (number + 1) // self.n)
        self._n_counted = 0

    def select(self, chunks: Sequence[slice]) -> list[slice]:
        """Select this process's chunks of the next array; call it once per array, in the order of the plan."""
        first, self._n_counted = self._n_counted, self._n_counted + len(chunks)
        return [chunk for place, chunk in enumerate(chunks, first) if place in self._chunks]


class _Run:
    """One run of `embed`: the store, the encoder, the options, and the shard of this process."""

    def __init__(
        self, store: Store, encoder: Encoder, config: EmbedConfig, shard: Shard, progress: Progress
    ) -> None:
        self.store, self.encoder, self.config = store, encoder, config
        self.shard, self.progress = shard, progress
        # Both change the last bits of features, by the order of sums.
        self.settings: dict[str, str | int] = {
            "--batch-size": config.batch_size,
            "--device": encoder.device.type,
        }

    def require_same_settings(self, planned: PlannedSection) -> None:
        """Raise, before any computation, if existing features were computed with other settings."""
        if self.config.overwrite or planned.section.name not in self.store.section_names:
            return
        stored = self.store.section(planned.section.name)
        for meta in self._metas(planned):
            if meta.key in (*stored.feature_keys, *stored.unfinished_keys):
                stored.feature_writer(meta, run=self.settings)

    def embed(self, planned: PlannedSection) -> SectionReport:
        """Embed a section at all tile sizes."""
        begun = time.perf_counter()
        section, arrays, n_embedded = planned.section, [], 0
        stored = self._stored_section(planned)
        for which, meta in enumerate(self._metas(planned)):
            with stored.lock(meta.key, part=self.shard.label):
                arrays.append(array := _TileArrays(stored, meta, self))
                pending = array.pending
                chunks = [chunk for chunk in self.shard.select(array.features.chunks) if chunk in pending]
                if chunks:
                    planned = planned.on_local_disk(self.config.local_cache)
                    title = f"embed {section.name} {planned.specs[which].label}"
                    with self.progress.task(title, _n_rows(chunks)) as advance:
                        self._fill(array, chunks, planned, which, advance)
                if not array.pending:
                    array.finish()
            n_embedded += _n_rows(chunks)
        flags: Counter[str] = Counter()
        n_left = 0
        for array in arrays:  # with --shard, the last process finishes what the others have written meanwhile
            if pending := array.pending:
                n_left += _n_rows(pending)
                continue
            array.finish()
            if (quality := stored.quality(array.features.key)) is not None:
                flags.update({flag: int(has.sum()) for flag, has in tile_flags(quality).items()})
        if not n_left:
            # for readers of the store: training uses the same graph
            ensure_spatial_graph(stored, k=DEFAULT_K)
            _warn_of_equal_features(self.store, stored)
        planned.files.close()  # a PNG or JPEG is in memory as a whole
        return SectionReport(
            name=section.name,
            n_spots=section.n_spots,
            scale=section.scale,
            keys=tuple(array.features.key for array in arrays if array.features.is_finished),
            join=section.join.describe(),
            n_embedded=n_embedded,
            n_present=section.n_spots * len(planned.specs) - n_embedded - n_left,
            n_left=n_left,
            flags=dict(flags),
            seconds=time.perf_counter() - begun,
        )

    def _stored_section(self, planned: PlannedSection) -> StoredSection:
        """Return the section in the store, after writing it if it is missing or its inputs changed."""
        name, config = planned.section.name, self.config
        if name in self.store.section_names:
            stored = self.store.section(name)
            if not differences(stored, planned.section, config.licence):  # else the plan required --overwrite
                return stored
        small = None
        if planned.slide is not None and config.overview:
            picture = overview(planned.slide, is_forgiving=config.skip_bad_tiles)
            small = Overview(image=picture.image, scale=picture.scale)
        try:
            return self.store.add_section(
                planned.section,
                slide_size_px=None if planned.slide is None else (planned.slide.width, planned.slide.height),
                licence=config.licence,
                overview=small,
                is_overwrite=config.overwrite,
            )
        except StoreError:
            if self.shard.n == 1 or name not in self.store.section_names:
                raise
            return self.store.section(name)  # another process has written it

    def _metas(self, planned: PlannedSection) -> list[FeatureMeta]:
        """Describe the features of each tile size."""
        card, config = self.encoder.card, self.config
        return [
            FeatureMeta(
                key=key,
                origin="embed",
                encoder=card.to_mapping(),
                weights_sha256=self.encoder.weights_sha256,
                lora_sha256=self.encoder.lora_sha256,
                tile=spec.to_mapping(),
                sampling=sampling,
                precision=self.encoder.precision,
                dim=card.dim,
                dtype=config.dtype,
                chunk_rows=config.chunk_rows or default_chunk_rows(card.dim, config.dtype),
                software=software_versions(),
                is_averaged=config.dihedral,
                adapted_on=self.encoder.adapted_on,
            )
            for key, spec, sampling in zip(planned.keys, planned.specs, planned.samplings, strict=True)
        ]

    def _fill(
        self, array: "_TileArrays", chunks: list[slice], planned: PlannedSection, which: int, advance: Advance
    ) -> None:
        """Compute and write chunks.

        Within a chunk, tiles are read in slide order, so that each region is decoded once, and their rows are put back into
        the order of the spots before the chunk is written.
        """
        batches = []
        for chunk in chunks:
            spots = planned.in_reading_order(np.arange(chunk.start, chunk.stop), which)
            step = self.config.batch_size
            batches += [(chunk, spots[start : start + step]) for start in range(0, len(spots), step)]
        done: list[tuple[Array, Array, Array]] = []  # spots, quality and features of the batches of one chunk
        encoded = encode(planned, [spots for _, spots in batches], which, self.config, self.encoder)
        with contextlib.closing(encoded):  # the threads end before the slide is closed
            for (chunk, spots), (tiles, features) in zip(batches, encoded, strict=True):
                for row, fault in tiles.faults.items():
                    spot = str(planned.section.ids[spots[row]])
                    _log.warning("the tile of spot %r cannot be read and is skipped: %s", spot, fault)
                features[list(tiles.faults)] = 0
                done.append((spots, tiles.quality, features))
                order, *rows = map(np.concatenate, zip(*done, strict=True))
                if len(order) == chunk.stop - chunk.start:
                    array.write(chunk, *(values[np.argsort(order)] for values in rows))
                    done.clear()
                advance(len(spots))


def planned_encoder(plan: EmbedPlan, config: EmbedConfig) -> Encoder:
    """Build the encoder of a plan as the options say."""
    return build_encoder(
        plan.card,
        device=resolve_device(config.device),
        is_amp=config.amp,
        is_averaged=config.dihedral,
        is_compiled=config.compile,
        lora=config.lora,
    )


def encode(
    planned: PlannedSection,
    batches: Sequence[Int64[Array, " _"]],
    which: int,
    config: EmbedConfig,
    encoder: Encoder,
) -> Generator[tuple[TileBatch, Array], None, None]:
    """Yield tiles of ``specs[which]`` and their features: threads read tiles ahead, and a GPU computes one batch ahead."""
    ahead = planned.read_tiles(batches, which, config, encoder.device.type)
    previous: tuple[TileBatch, Callable[[], Array]] | None = None
    with contextlib.closing(ahead):
        for tiles in ahead:
            begun = encoder.begin(tiles.pixels)
            if previous is not None:
                yield previous[0], previous[1]()
            previous = (tiles, begun)
        if previous is not None:
            yield previous[0], previous[1]()


class _TileArrays:
    """Features of one tile size and the quality of the tiles, chunk by chunk; quality is written and finished first.

    Finished features without quality stay as they are.
    """

    def __init__(self, stored: StoredSection, meta: FeatureMeta, run: _Run) -> None:
        def writer(meta: FeatureMeta) -> FeatureWriter:
            return stored.feature_writer(meta, run=run.settings, is_overwrite=run.config.overwrite)

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


def _warn_of_equal_features(store: Store, section: StoredSection) -> None:
    """Warn if another section has features of the same bytes: the same image under another name."""

    def chunks(stored: StoredSection, key: str) -> dict[str, FileEntry]:
        return {path: entry for path, entry in stored.index.below(f"obsm/{key}").items() if "/c/" in path}

    others = [store.section(name) for name in store.section_names if name != section.meta.name]
    for key in section.feature_keys:
        same = [
            s.meta.name for s in others if key in s.feature_keys and chunks(s, key) == chunks(section, key)
        ]
        if same:
            _log.warning(
                "section %s: its features %s are those of section %s", section.meta.name, key, ", ".join(same)
            )


def _n_rows(chunks: list[slice]) -> int:
    return sum(chunk.stop - chunk.start for chunk in chunks)
