"""The tiles that an adaptation run looks at again and again: cut once, and kept."""

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from spam.planning import PlannedSection, slide_of
from spam.progress import Progress
from spam.schemas.encoder_card import EncoderCard
from spam.tiles import TileBatch, TileReader, read_batches, sweep_order
from spam.typing import Array, Int64, Shaped, UInt8

__all__ = ["TileBank", "cut_tiles"]

_log = logging.getLogger(__name__)

_BATCH = 32  # tiles read at a time by one thread


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileBank:
    """Tiles of some spots of a cohort.

    Attributes
    ----------
    pixels
        One array per tile size, (n_kept, px, px, 3); in memory, or mapped from a file.
    place
        Row of each spot of the cohort in them, -1 for spots without tiles, (n,).
    """

    pixels: tuple[UInt8[Array, "..."], ...]
    place: Int64[Array, " n"]

    def gather(self, rows: Int64[Array, " b"], device: torch.device) -> list[Shaped[torch.Tensor, "b 3 _ _"]]:
        """Fetch the tiles of these spots as uint8, one tensor per tile size, with the channels last in memory."""
        where = self.place[rows]
        return [torch.from_numpy(one[where]).to(device).permute(0, 3, 1, 2) for one in self.pixels]


def cut_tiles(
    sections: Sequence[PlannedSection],
    kept: Sequence[Int64[Array, "..."]],
    rows: Int64[Array, " n_kept"],
    card: EncoderCard,
    *,
    n_rows: int,
    memory_gb: float,
    folder: Path,
    n_threads: int,
    is_forgiving: bool,
    progress: Progress,
) -> TileBank:
    """Cut the tiles of the spots that a run needs.

    Up to `memory_gb` of them (all sizes together) stay in memory. More go into temporary files in `folder`, 150 kB a tile
    of 224 px, which the system reads ahead and forgets as memory allows; they vanish with the run, even with a killed one.

    Parameters
    ----------
    sections
        Sections of the cohort, in its order.
    kept
        Numbers of the spots that are needed, per section, ascending.
    rows
        Row of each of them in the training set, section after section.
    card
        The encoder that the tiles are for.
    n_rows
        Length of the training set.
    n_threads
        Threads that read.
    is_forgiving
        Whether spots whose tile cannot be read are left out, and the log says how many.

    Raises
    ------
    SlideError
        If a tile cannot be read, and `is_forgiving` is not set.
    """
    n_kept = sum(map(len, kept))
    sizes = [spec.out_px for spec in sections[0].specs]
    is_in_memory = n_kept * sum(3 * px**2 for px in sizes) <= memory_gb * 1e9
    is_read = np.ones(n_kept, dtype=bool)
    pixels: list[UInt8[Array, "n_kept px px 3"]] = []
    for number, px in enumerate(sizes):
        with contextlib.ExitStack() as stack:
            file = None if is_in_memory else stack.enter_context(tempfile.TemporaryFile(dir=folder))
            task = progress.task(f"cut tiles of {sections[0].specs[number].label}", n_kept)
            advance = stack.enter_context(task)
            found = np.empty((n_kept if is_in_memory else 0, px, px, 3), dtype=np.uint8)
            first = 0
            for one, own in zip(sections, kept, strict=True):
                for places, batch in _batches(
                    one, number, own, card, n_threads=n_threads, is_forgiving=is_forgiving
                ):
                    where = first + places
                    is_read[where[list(batch.faults)]] = False
                    if file is None:
                        found[where] = batch.pixels
                    else:
                        _write(file, where, batch.pixels)
                    advance(len(where))
                first += len(own)
            if file is not None and n_kept:
                file.flush()
                found = np.memmap(file, dtype=np.uint8, mode="r", shape=(n_kept, px, px, 3))
            pixels.append(found)
    if not is_read.all():
        _log.warning(
            "%d of %d tiles cannot be read; their spots are left out", n_kept - is_read.sum(), n_kept
        )
    place = np.full(n_rows, -1, dtype=np.int64)
    place[rows[is_read]] = np.flatnonzero(is_read)
    return TileBank(pixels=tuple(pixels), place=place)


def _write(file: BinaryIO, where: Int64[Array, " b"], pixels: UInt8[Array, "b px px 3"]) -> None:
    """Write tiles to their places; not through the memory map, where a full disk would kill the process."""
    for row, tile in zip(where, pixels, strict=True):
        file.seek(int(row) * tile.nbytes)
        file.write(tile.tobytes())


def _batches(
    one: PlannedSection,
    size: int,
    own: Int64[Array, " n"],
    card: EncoderCard,
    *,
    n_threads: int,
    is_forgiving: bool,
) -> Iterator[tuple[Int64[Array, " b"], TileBatch]]:
    """Yield places in `own` and their tiles, in the order in which a slide is decoded once."""
    spec, section = one.specs[size], one.section
    with slide_of(section) as slide:
        order = np.arange(len(own))
        if slide is not None:
            order = sweep_order(
                section.xy_px[own], slide, native_px=one.samplings[size].native_px, out_px=spec.out_px
            )
        reader = TileReader(
            section,
            spec,
            slide=slide,
            interpolation=card.interpolation,
            is_forgiving=is_forgiving,
        )
        parts = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
        batches = read_batches(reader, [own[part].tolist() for part in parts], n_threads=n_threads)
        with reader, contextlib.closing(batches):
            yield from zip(parts, batches, strict=True)
