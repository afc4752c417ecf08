"""Tiles of a section by number, from its slide and from tile files, one by one and read ahead."""

import threading

import numpy as np
import pytest
from PIL import Image

from spam.errors import ConfigError, MissingInputError, SlideError, TileError
from spam.schemas.tile_spec import TileSpec
from spam.tiles import TileReader, cut_tile, measure_quality, open_slide, read_batches
from spam.tiles.tiff_slide import TiffSlide

XY = [(100.0, 90.0), (7.0, 300.0), (250.5, 60.25), (395.0, 2.0), (201.0, 152.0)]
SPEC = TileSpec(tile_px=61, out_px=61)


@pytest.fixture
def tile_paths(tmp_path, picture):
    """Tiles of 61 px around XY, padded as the reader pads."""
    padded = np.pad(picture, ((61, 61), (61, 61), (0, 0)), mode="edge")
    paths = []
    for i, (x, y) in enumerate(XY):
        left, top = int(np.floor(x - 30)) + 61, int(np.floor(y - 30)) + 61
        paths.append(tmp_path / f"tile{i}.png")
        Image.fromarray(padded[top : top + 61, left : left + 61]).save(paths[-1])
    return paths


def test_tiles_come_in_the_order_asked_for(make_section, slide_path):
    section = make_section(XY, slide_path, mpp=0.5)
    spec = TileSpec(tile_um=23.0, out_px=29)
    with open_slide(slide_path) as slide, TileReader(section, spec) as reader:
        expected = [cut_tile(slide, x, y, native_px=46.0, out_px=29) for x, y in XY]
        assert len(reader) == 5
        np.testing.assert_array_equal([reader.read(i) for i in [3, 0, 3]], [expected[i] for i in (3, 0, 3)])
        np.testing.assert_array_equal(reader.read(4), expected[4])
        assert reader.read_batch([]).pixels.shape == (0, 29, 29, 3)


def test_the_filter_is_the_one_asked_for(make_section, slide_path):
    section = make_section(XY, slide_path)
    spec = TileSpec(tile_px=46, out_px=29)
    with open_slide(slide_path) as slide, TileReader(section, spec, interpolation="bilinear") as reader:
        expected = cut_tile(slide, *XY[0], native_px=46.0, out_px=29, interpolation="bilinear")
        np.testing.assert_array_equal(reader.read(0), expected)
        assert (cut_tile(slide, *XY[0], native_px=46.0, out_px=29) != expected).any()


def test_tile_files_are_the_tiles_of_the_slide(make_section, slide_path, tile_paths):
    sections = make_section(XY, slide_path), make_section(XY, tile_paths)
    with TileReader(sections[0], SPEC) as slide, TileReader(sections[1], SPEC) as files:
        np.testing.assert_array_equal(files.read_batch(range(5)).pixels, slide.read_batch(range(5)).pixels)


def test_a_smaller_extent_is_the_centre_of_the_file(make_section, tile_paths):
    with TileReader(make_section(XY, tile_paths), TileSpec(tile_px=21, out_px=21)) as reader:
        for i, path in enumerate(tile_paths):
            np.testing.assert_array_equal(reader.read(i), np.asarray(Image.open(path))[20:41, 20:41])


def test_the_rounded_extent_of_a_file_is_the_whole_file(make_section, tile_paths):
    section = make_section(XY, tile_paths, mpp=0.69)  # 61 px are 42.09 µm, and 42.1 µm are 61.01 px
    with TileReader(section, TileSpec(tile_um=42.1, out_px=61)) as reader:
        np.testing.assert_array_equal(reader.read(2), np.asarray(Image.open(tile_paths[2])))


def test_tile_files_that_do_not_fit_are_errors(make_section, tile_paths, tmp_path):
    with pytest.raises(TileError, match=r"62px need 62\.0 px.*'S1' have 61 px.*--tile-px"):
        TileReader(make_section(XY, tile_paths), TileSpec(tile_px=62))
    with pytest.raises(ConfigError, match="--mpp"):
        TileReader(make_section(XY, tile_paths), TileSpec(tile_um=30.0))
    Image.new("RGB", (61, 53)).save(tile_paths[1])
    with pytest.raises(TileError, match=r"4 of 5 have 61 x 61 px, unlike 'tile1\.png'"):
        TileReader(make_section(XY, tile_paths), SPEC)
    tile_paths[0].unlink()
    with pytest.raises(MissingInputError, match=r"tile0\.png"):
        TileReader(make_section(XY, tile_paths), SPEC)


def test_a_shared_slide_stays_open_and_an_own_one_is_closed(make_section, painted_pyramid, monkeypatch):
    closed, close = [], TiffSlide.close
    monkeypatch.setattr(TiffSlide, "close", lambda slide: (closed.append(slide), close(slide)))
    section, spec = make_section([(500.0, 500.0)], painted_pyramid), TileSpec(tile_px=31, out_px=31)
    with open_slide(painted_pyramid) as slide:
        with TileReader(section, spec, slide=slide) as reader:
            before = reader.read(0)
        assert closed == []
        np.testing.assert_array_equal(slide.read(485, 485, 31, 31), before)
    with TileReader(section, spec) as own:
        np.testing.assert_array_equal(own.read(0), before)
    assert len(closed) == 2


@pytest.mark.parametrize("n_threads", [0, 1, 2, 5])
def test_batches_read_ahead_are_those_read_one_by_one(make_section, slide_path, n_threads):
    section = make_section(XY, slide_path)
    batches = [[4, 1], [0], range(2, 4), [], [3, 3, 3]]
    with TileReader(section, TileSpec(tile_px=46, out_px=29)) as reader:
        found = list(read_batches(reader, batches, n_threads=n_threads))
        assert len(found) == 5
        for tiles, batch in zip(found, batches, strict=True):
            expected = np.array([reader.read(i) for i in batch]).reshape(-1, 29, 29, 3)
            np.testing.assert_array_equal(tiles.pixels, expected)
            np.testing.assert_array_equal(tiles.quality, measure_quality(tiles.pixels, native_px=46))
            assert tiles.faults == {}


def test_no_more_is_read_ahead_than_the_bound(make_section, slide_path):
    section = make_section(XY * 20, slide_path)
    begun: list[int] = []
    with TileReader(section, SPEC) as reader:
        cut = reader.read_batch
        reader.read_batch = lambda batch: begun.append(batch[0]) or cut(batch)  # type: ignore[method-assign]
        ahead = read_batches(reader, [[i] for i in range(100)], n_threads=2)
        for taken in range(1, 11):
            next(ahead)
            assert len(begun) <= taken + 2
        ahead.close()
        assert len(begun) <= 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tiles")]


def test_a_tile_that_cannot_be_read_raises_where_its_batch_would_come(make_section, tile_paths):
    section = make_section(XY, tile_paths)
    with TileReader(section, SPEC) as reader:
        tile_paths[2].write_bytes(tile_paths[2].read_bytes()[:2000])
        ahead = read_batches(reader, [[0, 1], [2], [3]], n_threads=2)
        np.testing.assert_array_equal(next(ahead).pixels, [reader.read(i) for i in [0, 1]])
        words = r"spot 'spot2' of section 'S1'.*tile2\.png.*cannot be.*--skip-bad-tiles"
        with pytest.raises(SlideError, match=words):
            next(ahead)
    with TileReader(section, SPEC, is_forgiving=True) as reader:
        batch = reader.read_batch([3, 2, 0])
        assert list(batch.faults) == [1]
        assert "tile2.png" in str(batch.faults[1])
        assert not batch.pixels[1].any()
        assert not batch.quality[1].any()
        np.testing.assert_array_equal(batch.pixels[[0, 2]], [reader.read(i) for i in [3, 0]])


def test_one_readable_tile_is_enough(tmp_path, make_section):
    paths = [tmp_path / f"t{i}.png" for i in range(5)]
    for path in paths:
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (61, 61, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    section = make_section([(1.0, 2.0)] * 5, paths)
    reader = TileReader(section, TileSpec(tile_px=61, out_px=37), is_forgiving=True)
    with pytest.raises(SlideError, match=r"None of the 5 tiles of section 'S1'.*t4\.png.*copied whole"):
        reader.require_readable()
    Image.new("RGB", (61, 61)).save(paths[3])
    reader.require_readable()
