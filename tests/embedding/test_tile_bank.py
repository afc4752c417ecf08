"""The tiles that an adaptation run keeps are those that the reader cuts."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from spam.embedding.planning import read_plan
from spam.embedding.tile_bank import cut_tiles
from spam.progress import SILENT
from spam.schemas.embed_config import EmbedConfig
from spam.tiles import TileReader

KEPT = [np.array([0, 3, 34]), np.array([], dtype=np.int64), np.array([7, 11])]
ROWS = [np.array([2, 5, 20]), np.array([], dtype=np.int64), np.array([41, 43])]


@pytest.mark.parametrize("n_threads", [0, 3])
def test_tiles_are_those_of_the_reader(tiles: EmbedConfig, tmp_path: Path, n_threads: int) -> None:
    config = EmbedConfig.from_mapping(
        {**tiles.to_mapping(), "tile_um": [16.0, 8.0], "num_workers": n_threads}
    )
    with contextlib.ExitStack() as slides:
        planned = read_plan(config, slides)
        bank = cut_tiles(
            planned.sections,
            KEPT,
            ROWS,
            config,
            n_rows=47,
            folder=tmp_path,
            device=torch.device("cpu"),
            progress=SILENT,
        )
    rows = np.concatenate(ROWS)
    assert [np.flatnonzero(place >= 0).tolist() for place in bank.places] == [rows.tolist()] * 2
    assert list(tmp_path.iterdir()) == []
    for size in range(2):
        expected = []
        for one, own in zip(planned.sections, KEPT, strict=True):
            with TileReader(one.section, one.specs[size], interpolation="bilinear") as reader:
                expected.append(reader.read_batch(own).pixels)
        found = bank.gather(rows[::-1], torch.device("cpu"))[size]
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), np.concatenate(expected)[::-1])
