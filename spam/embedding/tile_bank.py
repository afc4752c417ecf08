"""The tiles of a training run, cut once and kept in a temporary file."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spam.progress import Progress
from spam.schemas.embed_config import EmbedConfig
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
    places
        For each tile size, the row of each spot of the cohort in its array, -1 for spots without tiles, (n,).
    """

    pixels: tuple[UInt8[Array, "..."], ...]
    places: tuple[Int64[Array, " n"], ...]

    def gather(self, rows: Int64[Array, " b"], device: torch.device) -> list[Shaped[torch.Tensor, "b 3 _ _"]]:
        """Return the tiles of these spots as uint8, channels-last in memory, one tensor per tile size."""
        return [
            torch.from_numpy(pixels[place[rows]]).to(device).permute(0, 3, 1, 2)
            for pixels, place in zip(self.pixels, self.places, strict=True)
        ]


def cut_tiles(
    sections: Sequence[PlannedSection],
    spots: Sequence[Int64[Array, "..."]],
    rows: Sequence[Int64[Array, "..."]],
    tiles: EmbedConfig,
    *,
    n_rows: int,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> TileBank:
    """Cut the tiles that a run needs into temporary files, 150 kB per tile of 224 px; they vanish with the process.

    Parameters
    ----------
    spots, rows
        Of each section, the numbers of the needed spots and their rows in the training set.
    tiles
        Threads that read, and whether tile files of other spots may be unreadable.
    n_rows
        Length of the training set.
    folder
        Folder of the temporary files.

    Raises
    ------
    SlideError
        If a tile cannot be read.
    """
    n_kept = sum(map(len, spots))
    pixels: list[UInt8[Array, "n_kept px px 3"]] = []
    places: list[Int64[Array, " n"]] = []
    for size, spec in enumerate(sections[0].specs):
        place, n_cut = np.full(n_rows, -1), 0
        with (
            tempfile.TemporaryFile(dir=folder) as file,
            progress.task(f"cut tiles of {spec.label}", n_kept) as advance,
        ):
            for one, numbers, own_rows in zip(sections, spots, rows, strict=True):
                row_of = dict(zip(numbers.tolist(), own_rows.tolist(), strict=True))
                order = one.in_reading_order(numbers, size)
                parts = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
                with contextlib.closing(one.read_tiles(parts, size, tiles, device.type)) as batches:
                    for part, batch in zip(parts, batches, strict=True):
                        if batch.faults:
                            raise next(iter(batch.faults.values()))
                        # Not written through a memory map, because a full disk would kill the process.
                        file.write(batch.pixels.tobytes())
                        place[[row_of[spot] for spot in part.tolist()]] = n_cut + np.arange(len(part))
                        n_cut += len(part)
                        advance(len(part))
            file.flush()
            pixels.append(np.memmap(file, np.uint8, "r", shape=(n_kept, spec.out_px, spec.out_px, 3)))
            places.append(place)
    return TileBank(pixels=tuple(pixels), places=tuple(places))
