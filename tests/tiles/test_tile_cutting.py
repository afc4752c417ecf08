"""Tiles against slow truths: exact pixels if copied, a written-out filter if resampled; and the overview."""

import math

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spam.tiles import cut_tile, open_slide, overview
from tests.reference.resample_truth import resampled_tile


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=st.floats(-30, 430, allow_nan=False),
    y=st.floats(-30, 330, allow_nan=False),
    px=st.sampled_from([1, 2, 7, 31]),
)
def test_a_tile_of_the_encoders_size_is_copied_and_padded(slide_path, picture, x, y, px):
    padded = np.pad(picture, ((64, 64), (64, 64), (0, 0)), mode="edge")
    left, top = math.floor(x - px / 2 + 0.5) + 64, math.floor(y - px / 2 + 0.5) + 64
    with open_slide(slide_path) as slide:
        tile = cut_tile(slide, x, y, native_px=px, out_px=px)
    np.testing.assert_array_equal(tile, padded[top : top + px, left : left + px])


def test_less_than_half_a_pixel_of_difference_is_not_resampled(slide_path, picture):
    with open_slide(slide_path) as slide:
        for native_px in (30.51, 31.0, 31.49):
            tile = cut_tile(slide, 100.0, 90.0, native_px=native_px, out_px=31)
            np.testing.assert_array_equal(tile, picture[75:106, 85:116])
        assert (cut_tile(slide, 100.0, 90.0, native_px=31.5, out_px=31) != picture[75:106, 85:116]).any()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("x", "y", "native_px"),
    [
        (200.0, 150.0, 39.0),  # whole factor
        (200.3, 150.9, 35.7),  # reduced by a fraction
        (200.3, 150.9, 9.1),  # enlarged
        (2.2, 303.4, 47.3),  # leaves the slide at two sides
        (396.7, 1.1, 160.0),  # mostly outside
    ],
)
def test_a_resampled_tile_is_the_written_out_filter(slide_path, picture, x, y, native_px, interpolation):
    with open_slide(slide_path) as slide:
        tile = cut_tile(slide, x, y, native_px=native_px, out_px=13, interpolation=interpolation)
    truth = resampled_tile(picture, x, y, native_px, 13, interpolation)
    # Pillow filters along one axis, rounds to whole numbers, and then along the other.
    np.testing.assert_allclose(tile, truth, atol=1.5, rtol=0)


@pytest.mark.parametrize(
    ("native_px", "level"), [(31, 0), (20, 0), (122, 0), (124, 1), (400, 1), (490, 1), (496, 2), (900, 2)]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(painted_pyramid, native_px, level):
    colour = [0, 0, 0]
    colour[level] = 255
    with open_slide(painted_pyramid) as slide:
        tile = cut_tile(slide, 512.0, 512.0, native_px=native_px, out_px=31)
    np.testing.assert_array_equal(tile, np.broadcast_to(np.uint8(colour), (31, 31, 3)))


def test_coarser_levels_show_the_same_place(tmp_path):
    """A straight slope of colour looks the same on every level, so a shift of half a pixel would show."""

    def slope(side: int, step: float) -> np.ndarray:
        at = (np.arange(side) + 0.5) * step / 8
        return np.stack(np.broadcast_arrays(at[None], at[:, None], 100.0), axis=-1).round().astype(np.uint8)

    with tifffile.TiffWriter(tmp_path / "slope.tif") as writer:
        for level, factor in enumerate((1, 4)):
            options = {
                "tile": (64, 64),
                "photometric": "rgb",
                "subfiletype": int(level > 0),
                "metadata": None,
            }
            writer.write(slope(2000 // factor, factor), **options)
    with open_slide(tmp_path / "slope.tif") as slide:
        assert len(slide.level_sizes) == 2
        for x, y, native_px in ((907.0, 1103.0, 124.0), (907.0, 1103.0, 211.0), (1200.7, 700.3, 93.0)):
            tile = cut_tile(slide, x, y, native_px=native_px, out_px=31).astype(float)
            at = (np.arange(31) + 0.5) * native_px / 31 - native_px / 2
            expected = np.broadcast_arrays((x + at[None]) / 8, (y + at[:, None]) / 8)
            np.testing.assert_allclose(tile[..., :2], np.stack(expected, axis=-1), atol=1.01)


def test_the_overview_is_the_slide_reduced_to_2048_px_or_itself(tmp_path, slide_path, picture):
    with open_slide(slide_path) as slide:
        small = overview(slide)
    assert small.scale == 1.0
    np.testing.assert_array_equal(small.image, picture)
    large = np.tile(picture, (7, 11, 1))[:2000, :4391]
    Image.fromarray(large).save(tmp_path / "large.png", compress_level=1)
    with open_slide(tmp_path / "large.png") as slide:
        small = overview(slide)
    assert small.scale == 2048 / 4391
    assert small.image.shape == (933, 2048, 3)
    whole = np.asarray(Image.fromarray(large).resize((2048, 933), Image.Resampling.BICUBIC))
    # Drawn in bands, it is the same picture but for rounding and the padded upper and lower edge.
    assert np.abs(small.image[3:-3].astype(int) - whole[3:-3]).max() <= 1
    assert np.abs(small.image.astype(int) - whole).mean() < 0.1


def test_the_overview_is_drawn_from_the_best_level(painted_pyramid, monkeypatch):
    monkeypatch.setattr("spam.tiles.tile_cutting._OVERVIEW_PX", 200)
    with open_slide(painted_pyramid) as slide:
        small = overview(slide)
    assert small.scale == 200 / 1024
    np.testing.assert_array_equal(small.image, np.broadcast_to(np.uint8([0, 255, 0]), (200, 200, 3)))
