"""Embed once: sections -> tiles -> encoder -> store. The only writer of features.

Everything that can be wrong with the files is found before the first tile is computed and before anything is
written.
"""

import contextlib
import dataclasses
import os
import time

import numpy as np

from .encoders import Encoder, build_encoder
from .errors import ConfigError, EncoderError, StoreError
from .graphs import ensure_spatial_graph
from .hardware import resolve_device
from .planning import PlannedSection, differences, plan, slide_of, software_versions
from .progress import SILENT, Advance, Progress
from .schemas.embed_config import EmbedConfig
from .schemas.embed_report import EmbedReport, SectionReport
from .schemas.encoder_card import EncoderCard
from .schemas.graph_config import DEFAULT_K
from .schemas.store_meta import FeatureMeta, Sampling, feature_key
from .schemas.tile_spec import TileSpec
from .store import FeatureWriter, Overview, Store, StoredSection, create_store, default_chunk_rows
from .tiles import Slide, TileReader, overview, read_batches
from .typing import Array, Float32, Shaped

__all__ = ["EmbedReport", "SectionReport", "embed", "plan"]


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
    share = _Share.of(config)
    planned = plan(config)
    encoder = build_encoder(planned.card, device=resolve_device(config.device), amp=config.amp)
    store = create_store(planned.store)
    for one in planned.sections:
        _require_same_features(store, one, encoder, config)
    reports = tuple(_embed_section(store, one, encoder, config, share, progress) for one in planned.sections)
    return EmbedReport(store=planned.store, encoder=planned.card.name, sections=reports)


class _Share:
    """The chunks that this process computes: every n-th, counted through all sections and tile sizes."""

    def __init__(self, number: int, n: int) -> None:
        self.number, self.n, self._counted = number, n, 0

    @classmethod
    def of(cls, config: EmbedConfig) -> "_Share":
        """Take what ``--shard`` says, or else what torchrun has put into the environment.

        Raises
        ------
        ConfigError
            If torchrun's processes are to overwrite.
        """
        n = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if config.shard is not None or n == 1:
            return cls(*config.shard_of)
        if config.overwrite:
            message = (
                f"--overwrite would let the {n} processes of torchrun delete each other's work; "
                "run once without torchrun"
            )
            raise ConfigError(message)
        return cls(int(os.environ["RANK"]), n)

    @property
    def label(self) -> str:
        """Name of this part for locks; empty for all of the work."""
        return f"@{self.number + 1}of{self.n}" if self.n > 1 else ""

    def of_chunks(self, chunks: list[slice]) -> list[slice]:
        """Pick the chunks of one array that are this process's own."""
        first = self._counted
        self._counted += len(chunks)
        return [chunk for place, chunk in enumerate(chunks, first) if place % self.n == self.number]


def _feature_meta(spec: TileSpec, sampling: Sampling, encoder: Encoder, config: EmbedConfig) -> FeatureMeta:
    card = encoder.card.to_mapping()
    if encoder.card.source.startswith("local:"):
        card["source"] = encoder.card.name  # where the folder lies is this machine's affair, and may change
    return FeatureMeta(
        key=feature_key(encoder.card.name, spec.label),
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
    )


def _run(encoder: Encoder, config: EmbedConfig) -> dict[str, str | int]:
    """Name what changes the last bits of features: sums are taken in another order then."""
    return {"--batch-size": config.batch_size, "--device": encoder.device.type}


def _require_same_features(store: Store, one: PlannedSection, encoder: Encoder, config: EmbedConfig) -> None:
    """Raise, before any compute, if features that are there already were made differently."""
    if config.overwrite or one.section.name not in store.section_names:
        return
    stored = store.section(one.section.name)
    for spec, sampling in zip(one.specs, one.samplings, strict=True):
        meta = _feature_meta(spec, sampling, encoder, config)
        if meta.key in (*stored.feature_keys, *stored.unfinished_keys):
            stored.feature_writer(meta, run=_run(encoder, config))


def _embed_section(
    store: Store,
    one: PlannedSection,
    encoder: Encoder,
    config: EmbedConfig,
    share: _Share,
    progress: Progress,
) -> SectionReport:
    begun = time.perf_counter()
    section, writers, n_embedded = one.section, [], 0
    with slide_of(section) as slide:
        stored = _stored_section(store, one, slide, config, share)
        for spec, sampling in zip(one.specs, one.samplings, strict=True):
            meta = _feature_meta(spec, sampling, encoder, config)
            with stored.lock(meta.key, part=share.label):
                writer = stored.feature_writer(meta, run=_run(encoder, config), is_overwrite=config.overwrite)
                own, pending = share.of_chunks(writer.chunks), writer.pending
                todo = [chunk for chunk in own if chunk in pending]
                n_todo = _n_rows(todo)
                if n_todo:
                    reader = TileReader(section, spec, slide=slide, interpolation=encoder.card.interpolation)
                    with progress.task(f"embed {section.name} {spec.label}", n_todo) as advance:
                        _fill(writer, todo, reader, encoder, section.ids, config, advance)
                if not writer.pending:  # whoever comes last puts the parts together
                    writer.finish()
            n_embedded += n_todo
            writers.append(writer)
    n_left = sum(_n_rows(writer.pending) for writer in writers)  # others may have come to an end meanwhile
    if not n_left:
        for writer in writers:
            writer.finish()
        # so that readers of the store find the graph that training uses
        ensure_spatial_graph(stored, k=DEFAULT_K)
    return SectionReport(
        name=section.name,
        n_spots=len(section.ids),
        keys=tuple(writer.key for writer in writers if not writer.pending),
        join=section.join.describe(),
        n_embedded=n_embedded,
        n_present=len(section.ids) * len(one.specs) - n_embedded - n_left,
        n_left=n_left,
        seconds=time.perf_counter() - begun,
    )


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
    writer: FeatureWriter,
    chunks: list[slice],
    reader: TileReader,
    encoder: Encoder,
    ids: Shaped[Array, " n_spots"],
    config: EmbedConfig,
    advance: Advance,
) -> None:
    """Compute some chunks; no batch crosses one, so none depends on where a killed run stopped."""
    batches = [
        (chunk, range(start, min(start + config.batch_size, chunk.stop)))
        for chunk in chunks
        for start in range(chunk.start, chunk.stop, config.batch_size)
    ]
    ahead = read_batches(reader, [batch for _, batch in batches], n_threads=config.num_workers)
    rows: list[Float32[Array, "n dim"]] = []
    with contextlib.closing(ahead):  # its threads end before the slide is closed
        for (chunk, batch), tiles in zip(batches, ahead, strict=True):
            features = encoder.embed(tiles)
            _require_finite(features, ids[batch.start : batch.stop], encoder.card, config)
            rows.append(features)
            if batch.stop == chunk.stop:
                writer.write(chunk, np.concatenate(rows))
                rows.clear()
            advance(len(batch))


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
