"""The tiles that a run keeps are those that the reader cuts, in memory or on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spam.embedding import plan
from spam.embedding.tile_bank import cut_tiles
from spam.errors import SlideError
from spam.planning import slide_of
from spam.progress import SILENT
from spam.schemas.embed_config import EmbedConfig
from spam.tiles import TileReader

KEPT = [np.array([0, 3, 34]), np.array([], dtype=np.int64), np.array([7, 11])]
ROWS = np.array([2, 5, 20, 41, 43])


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("n_threads", [0, 3])
def test_tiles_are_those_of_the_reader(
    tiles: EmbedConfig, tmp_path: Path, memory_gb: float, n_threads: int
) -> None:
    planned = plan(EmbedConfig.from_mapping({**tiles.to_mapping(), "tile_um": [16.0, 8.0]}))
    bank = cut_tiles(
        planned.sections,
        KEPT,
        ROWS,
        planned.card,
        n_rows=47,
        memory_gb=memory_gb,
        folder=tmp_path,
        n_threads=n_threads,
        is_forgiving=False,
        progress=SILENT,
    )
    assert list(np.flatnonzero(bank.place >= 0)) == list(ROWS)
    assert list(tmp_path.iterdir()) == []
    for size in range(2):
        expected = []
        for one, own in zip(planned.sections, KEPT, strict=True):
            with (
                slide_of(one.section) as slide,
                TileReader(one.section, one.specs[size], slide=slide, interpolation="bilinear") as reader,
            ):
                expected.append(reader.read_many(own.tolist()))
        found = bank.gather(ROWS[::-1], torch.device("cpu"))[size]
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), np.concatenate(expected)[::-1])


def test_a_tile_that_cannot_be_read_is_named_or_left_out(
    tiles: EmbedConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tile files, of which one is cut short."""
    table = ["x,y,source_image,spot_id"]
    for i in range(5):
        Image.fromarray(np.full((32, 32, 3), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
        table.append(f"{10 * i},{7 * i},{i}.png,A{i}")
    (tmp_path / "map.csv").write_text("\n".join(table))
    values = {**tiles.to_mapping(), "manifest": None, "section": "T", "csv": str(tmp_path / "map.csv")}
    values |= {
        "root": str(tmp_path),
        "store": str(tmp_path / "s.zarr"),
        "skip_bad_tiles": True,
        "tile_um": [],
    }
    planned = plan(EmbedConfig.from_mapping(values))
    raw = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(raw[: len(raw) // 2])

    def cut(*, is_forgiving: bool) -> object:
        return cut_tiles(
            planned.sections,
            [np.array([1, 3, 4])],
            np.array([0, 1, 2]),
            planned.card,
            n_rows=3,
            memory_gb=1.0,
            folder=tmp_path,
            n_threads=0,
            is_forgiving=is_forgiving,
            progress=SILENT,
        )

    with pytest.raises(SlideError, match=r"tile of spot 'A3'.*--skip-bad-tiles"):
        cut(is_forgiving=False)
    bank = cut(is_forgiving=True)
    assert "1 of 3 tiles cannot be read" in caplog.text
    assert list(bank.place) == [0, -1, 2]
    found = bank.gather(np.array([2, 0]), torch.device("cpu"))[0]
    assert found[:, 0, 0, 0].tolist() == [160, 40]
