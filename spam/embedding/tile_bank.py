"""The tiles of a training run, cut once and kept in a temporary file."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from spam.progress import Progress
from spam.schemas.encoder_card import EncoderCard
from spam.tiles import TileBatch, TileReader, read_batches, sweep_order
from spam.typing import Array, Int64, Shaped, UInt8

from .planning import PlannedSection

_BATCH = 32  # tiles that a thread reads at a time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileBank:
    """Tiles of some spots of a cohort.

    Attributes
    ----------
    pixels
        One array per tile size, (n_kept, px, px, 3), memory-mapped: they stay in memory as long as there is room.
    place
        Row of each spot of the cohort in them, -1 for spots without tiles, (n,).
    """

    pixels: tuple[UInt8[Array, "..."], ...]
    place: Int64[Array, " n"]

    def gather(self, rows: Int64[Array, " b"], device: torch.device) -> list[Shaped[torch.Tensor, "b 3 _ _"]]:
        """Return the tiles of these spots as uint8, channels-last in memory, one tensor per tile size."""
        where = self.place[rows]
        return [torch.from_numpy(one[where]).to(device).permute(0, 3, 1, 2) for one in self.pixels]


def cut_tiles(
    sections: Sequence[PlannedSection],
    spots: Sequence[Int64[Array, "..."]],
    rows: Int64[Array, " n_kept"],
    card: EncoderCard,
    *,
    n_rows: int,
    folder: Path,
    n_threads: int,
    is_forgiving: bool,
    progress: Progress,
) -> TileBank:
    """Cut the tiles that a run needs into temporary files, 150 kB per tile of 224 px; they vanish with the process.

    Parameters
    ----------
    spots
        Numbers of the needed spots of each section, ascending.
    rows
        Row of each of them in the training set, section after section.
    card
        The encoder of the tiles.
    n_rows
        Length of the training set.
    folder
        Folder of the temporary files.
    is_forgiving
        Whether tile files of other spots may be unreadable.

    Raises
    ------
    SlideError
        If a tile cannot be read.
    """
    n_kept = sum(map(len, spots))
    pixels: list[UInt8[Array, "n_kept px px 3"]] = []
    for size, spec in enumerate(sections[0].specs):
        with (
            tempfile.TemporaryFile(dir=folder) as file,
            progress.task(f"cut tiles of {spec.label}", n_kept) as advance,
        ):
            first = 0
            for one, own in zip(sections, spots, strict=True):
                with contextlib.closing(_batches(one, size, own, card, n_threads, is_forgiving)) as batches:
                    for places, batch in batches:
                        if batch.faults:
                            raise next(iter(batch.faults.values()))
                        # Not written through a memory map, because a full disk would kill the process.
                        for place, tile in zip(first + places, batch.pixels, strict=True):
                            file.seek(int(place) * tile.nbytes)
                            file.write(tile.tobytes())
                        advance(len(places))
                first += len(own)
            file.flush()
            shape = (n_kept, spec.out_px, spec.out_px, 3)
            is_any = n_kept > 0
            pixels.append(
                np.memmap(file, np.uint8, "r", shape=shape) if is_any else np.empty(shape, np.uint8)
            )
    place = np.full(n_rows, -1, dtype=np.int64)
    place[rows] = np.arange(n_kept)
    return TileBank(pixels=tuple(pixels), place=place)


def _batches(
    one: PlannedSection,
    size: int,
    own: Int64[Array, " n"],
    card: EncoderCard,
    n_threads: int,
    is_forgiving: bool,  # noqa: FBT001
) -> Iterator[tuple[Int64[Array, " b"], TileBatch]]:
    """Yield places in `own` and their tiles, in an order in which each region of the slide is decoded once."""
    spec, section = one.specs[size], one.section
    order = np.arange(len(own))
    if one.slide is not None:
        native_px = one.samplings[size].native_px
        order = sweep_order(section.xy_px[own], one.slide, native_px=native_px, out_px=spec.out_px)
    parts = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
    reader = TileReader(
        section, spec, slide=one.slide, interpolation=card.interpolation, is_forgiving=is_forgiving
    )
    batches = read_batches(reader, [own[part] for part in parts], n_threads=n_threads)
    with reader, contextlib.closing(batches):
        yield from zip(parts, batches, strict=True)
