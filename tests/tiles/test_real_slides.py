"""Tiles of real slides: the same tissue from JPEG, pyramid and tile files, and cells at the border."""

import io

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from spam.schemas.embed_config import InputConfig
from spam.schemas.tile_spec import TileSpec
from spam.sections import read_section
from spam.tiles import TileReader, locate, open_slide, read_batches, sweep_order


@pytest.mark.parametrize("n_threads", [0, 2])
def test_dense_tiles_in_sweep_order_are_single_reads_of_openslide(shared_data, make_section, n_threads):
    """Tiles of 224 px every 37 px: each pixel is in some 37 tiles, and the batches come from the cache."""
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    corners = np.stack(np.meshgrid(np.arange(300, 1200, 37), np.arange(500, 1300, 37)), axis=-1)
    xy = np.random.default_rng(0).permutation(corners.reshape(-1, 2)) + 112.0
    section, spec = make_section(xy, path), TileSpec(tile_px=224)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        assert locate(section, slide).mpp == 0.499
        order = sweep_order(xy, slide, native_px=224, out_px=224)
        batches = [order[i : i + 61] for i in range(0, len(order), 61)]
        with TileReader(section, spec, slide=slide) as reader:
            for batch, tiles in zip(batches, read_batches(reader, batches, n_threads=n_threads), strict=True):
                for spot, tile in zip(batch[::7], tiles.pixels[::7], strict=True):
                    corner = tuple((xy[spot] - 112).astype(int).tolist())
                    expected = np.asarray(truth.read_region(corner, 0, (224, 224)).convert("RGB"))
                    np.testing.assert_array_equal(tile, expected)


def test_tile_files_are_the_tiles_of_their_slide(shared_data):
    folder = shared_data / "her2st"
    whole, files = (
        read_section(InputConfig(h5ad=folder / "C5.h5ad", csv=folder / table, root=root, section="C5"))
        for table, root in (("mapping.csv", folder / "images"), ("mapping_tiles_C5.csv", folder))
    )
    spec = TileSpec(tile_um=154.6)
    with TileReader(whole, spec) as slide_tiles, TileReader(files, spec) as file_tiles:
        assert len(file_tiles) == len(slide_tiles) == 181
        a, b = (reader.read_batch(range(0, 181, 7)).pixels for reader in (slide_tiles, file_tiles))
    for from_slide, from_file in zip(a, b, strict=True):
        # The files were made at JPEG quality 90; encoders of other versions may round differently.
        again = io.BytesIO()
        Image.fromarray(from_slide).save(again, "JPEG", quality=90)
        np.testing.assert_allclose(np.asarray(Image.open(again), dtype=float), from_file, atol=2)
    np.testing.assert_array_equal(b[0], np.asarray(Image.open(files.tiles.paths[0])))


def test_cells_at_the_border_are_padded_with_the_edge(shared_data):
    folder = shared_data / "xenium_lung_ncbi858"
    files = {"h5ad": folder / "NCBI858.h5ad", "csv": folder / "mapping.csv", "root": folder / "images"}
    section = read_section(InputConfig(**files))
    image = np.asarray(Image.open(folder / "images" / "NCBI858.jpg"))
    padded = np.pad(image, ((112, 113), (112, 113), (0, 0)), mode="edge")
    table = pd.read_csv(folder / "mapping.csv").set_index("cell_id").loc[section.ids]
    corners = np.floor(table[["x", "y"]].to_numpy() - 112 + 0.5).astype(int)
    beyond = (corners < 0) | (corners + 224 > (1431, 1249))
    assert beyond.any(axis=1).sum() > 20
    with TileReader(section, TileSpec(tile_px=224)) as reader:
        for index, (left, top) in enumerate(corners + 112):
            np.testing.assert_array_equal(reader.read(index), padded[top : top + 224, left : left + 224])
