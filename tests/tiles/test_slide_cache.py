"""Regions decoded once: what is read through the cache is what the slide holds, and no block is decoded twice."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import SlideError
from spam.tiles import cut_tile, open_slide, sweep_order
from spam.tiles.slide import Slide
from spam.tiles.slide_cache import CachedSlide, region_size

WIDTH, HEIGHT = 1409, 1103
PIXELS = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class CountingSlide(Slide):
    """A slide in memory that counts how often each of its compressed blocks is decoded; some may be damaged."""

    def __init__(self, levels, block, *, damaged=()):
        sizes = tuple((pixels.shape[1], pixels.shape[0]) for pixels in levels)
        super().__init__("memory.tif", level_sizes=sizes, block_sizes=(block,) * len(sizes))
        self.levels, self.block, self.damaged = levels, block, set(damaged)
        self.decoded = Counter()
        self._lock = threading.Lock()

    def _read_inside(self, x, y, w, h, level):
        width, height = self.block
        columns = range(x // width, (x + w - 1) // width + 1)
        touched = [(level, i, j) for j in range(y // height, (y + h - 1) // height + 1) for i in columns]
        with self._lock:
            self.decoded.update(touched)
        if self.damaged.intersection(touched):
            raise SlideError(f"damaged at ({x}, {y})")
        return self.levels[level][y : y + h, x : x + w].copy()

    def close(self):
        pass


@pytest.mark.parametrize("block", [(256, 256), (240, 240), (WIDTH, 8), (WIDTH, HEIGHT), (2048, 2048)])
def test_regions_are_whole_blocks(block):
    slide = CountingSlide([PIXELS], block)
    width, height = region_size(slide, 0)
    assert width == WIDTH or width % block[0] == 0
    assert height == HEIGHT or height % block[1] == 0
    cached = CachedSlide(slide)
    whole = cached.read(0, 0, WIDTH, HEIGHT)
    np.testing.assert_array_equal(whole, PIXELS)
    assert set(slide.decoded.values()) == {1}
    cached.read(17, 19, 701, 503)
    assert set(slide.decoded.values()) == {1}


@settings(max_examples=60, deadline=None)
@given(st.integers(-90, WIDTH + 90), st.integers(-90, HEIGHT + 90), st.integers(1, 401), st.integers(1, 401))
def test_any_region_is_what_the_slide_gives(x, y, w, h):
    slide = CountingSlide([PIXELS], (128, 96))
    cached = CachedSlide(slide, most_bytes=0)
    np.testing.assert_array_equal(cached.read(x, y, w, h), slide.read(x, y, w, h))


@pytest.mark.parametrize(("native_px", "out_px"), [(64.0, 64), (150.0, 60), (37.5, 64)])
def test_overlapping_tiles_decode_each_block_once(native_px, out_px):
    """Tiles that overlap twenty-fold, in random order, read in the order of the sweep."""
    half = PIXELS[::2, ::2].copy()
    slide = CountingSlide([PIXELS, half], (64, 64))
    rng = np.random.default_rng(11)
    xy = rng.uniform((0, 0), (WIDTH, HEIGHT), (4001, 2))
    order = sweep_order(xy, slide, native_px=native_px, out_px=out_px)
    assert sorted(order) == list(range(4001))
    cached = CachedSlide(slide, most_bytes=8 << 20)  # less than the whole slide decoded
    for i in order[::7]:
        x, y = xy[i]
        expected = cut_tile(CountingSlide([PIXELS, half], (64, 64)), x, y, native_px=native_px, out_px=out_px)
        np.testing.assert_array_equal(cut_tile(cached, x, y, native_px=native_px, out_px=out_px), expected)
    assert max(slide.decoded.values()) == 1


def test_a_slide_wider_than_the_cache_is_swept_in_strips():
    wide = np.zeros((5003, 8011, 3), dtype=np.uint8)
    slide = CountingSlide([wide], (256, 256))
    xy = np.stack(np.meshgrid(np.arange(20, 8000, 161.0), np.arange(5, 5000, 163.0)), axis=-1).reshape(-1, 2)
    budget = 40 << 20  # two rows of regions have 50 MB
    cached = CachedSlide(slide, most_bytes=budget)
    for x, y in xy[sweep_order(xy, slide, native_px=200, out_px=200, cache_bytes=budget)]:
        cut_tile(cached, x, y, native_px=200, out_px=200)
    times = Counter(slide.decoded.values())
    assert set(times) == {1, 2}  # twice on the borders of strips
    assert times[2] < 0.5 * times[1]


def test_threads_share_what_one_of_them_decodes():
    slide = CountingSlide([PIXELS], (512, 512))
    cached = CachedSlide(slide)
    begin = threading.Barrier(8)
    found = []

    def read(x):
        begin.wait()
        found.append((x, cached.read(x, 200, 301, 207)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(100, 108)))
    assert set(slide.decoded.values()) == {1}
    for x, region in found:
        np.testing.assert_array_equal(region, PIXELS[200:407, x : x + 301])


def test_a_damaged_block_spoils_no_tile_beside_it():
    slide = CountingSlide([PIXELS], (64, 64), damaged=[(0, 3, 2)])
    cached = CachedSlide(slide)
    np.testing.assert_array_equal(cached.read(64 * 4, 64 * 2, 50, 50), PIXELS[128:178, 256:306])
    for _ in range(2):
        with pytest.raises(SlideError, match=r"damaged at \(200, 130\)"):
            cached.read(200, 130, 30, 30)


def test_a_region_that_cannot_be_decoded_is_tried_once_and_takes_no_room():
    """Tiles of a damaged region are read one by one, and the rest of it is not decoded again for each of them."""
    slide = CountingSlide([PIXELS], (64, 64), damaged=[(0, 3, 2)])
    cached = CachedSlide(slide, most_bytes=1024 * 1024 * 3)
    for i in range(11):
        np.testing.assert_array_equal(cached.read(641, 449, 60, 60 + i), PIXELS[449 : 509 + i, 641:701])
        cached.read(1100, 449, 10, 10)  # of the region beside it, which stays
    assert slide.decoded[0, 0, 0] == slide.decoded[0, 15, 15] == slide.decoded[0, 17, 7] == 1
    assert slide.decoded[0, 10, 7] == 1 + 11


def test_tile_order_is_that_of_a_strip_image(tmp_path):
    """A TIFF of strips is one column of regions: rows of tiles, from the top."""
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, np.zeros((4096, 64, 3), np.uint8), photometric="rgb", rowsperstrip=16)
    with open_slide(path) as slide:
        y = np.array([3000.0, 90.0, 2000.0, 100.0, 4000.0])
        order = sweep_order(np.stack([np.full(5, 30.0), y], axis=1), slide, native_px=32, out_px=32)
    assert order.tolist() == [1, 3, 2, 0, 4]
