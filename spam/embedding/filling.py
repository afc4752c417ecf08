"""From tiles to written chunks: reading, encoding and writing go on side by side."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable

import numpy as np

from spam.encoders import Encoder
from spam.errors import EncoderError
from spam.progress import Advance
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.encoder_card import EncoderCard
from spam.tiles import TileBatch, TileReader, read_batches
from spam.typing import Array, Float32, Shaped

from .tile_arrays import TileArrays

__all__ = ["fill"]

_log = logging.getLogger(__name__)


def fill(
    written: TileArrays,
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
    ahead = read_batches(reader, spots, n_threads=config.n_readers(encoder.device.type))
    features: list[Float32[Array, "n dim"]] = []
    quality: list[Float32[Array, "n 4"]] = []

    def take(
        chunk: slice, batch: slice, tiles: TileBatch, wait: Callable[[], Float32[Array, "n dim"]]
    ) -> None:
        names, found = ids[written.rows(batch)], wait()
        _require_finite(found, names, encoder.card, config)
        for row, fault in tiles.faults.items():
            _log.warning("the tile of spot %r cannot be read and is left out: %s", str(names[row]), fault)
        found[list(tiles.faults)] = 0
        features.append(found)
        quality.append(tiles.quality)
        if batch.stop == chunk.stop:
            written.write(chunk, np.concatenate(features), np.concatenate(quality))
            features.clear()
            quality.clear()
        advance(len(found))

    begun: deque[tuple[slice, slice, TileBatch, Callable[[], Float32[Array, "n dim"]]]] = deque()
    with contextlib.closing(ahead):  # its threads end before the slide is closed
        for (chunk, batch), tiles in zip(batches, ahead, strict=True):
            begun.append((chunk, batch, tiles, encoder.begin(tiles.pixels)))
            if len(begun) > 1:  # a GPU computes one batch while another is fetched and written
                take(*begun.popleft())
        while begun:
            take(*begun.popleft())


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
