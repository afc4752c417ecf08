"""Tiles against slow truths: exact pixels where nothing is resampled, a written-out filter where something is."""

import math

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spam.tiles import cut_tile, open_slide
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


def test_less_than_half_a_pixel_of_difference_is_no_resampling(slide_path, picture):
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
def test_a_resampled_tile_is_what_the_written_out_filter_gives(
    slide_path, picture, x, y, native_px, interpolation
):
    with open_slide(slide_path) as slide:
        tile = cut_tile(slide, x, y, native_px=native_px, out_px=13, interpolation=interpolation)
    truth = resampled_tile(picture, x, y, native_px, 13, interpolation)
    # Pillow filters along one axis, rounds to whole numbers, and then along the other.
    np.testing.assert_allclose(tile, truth, atol=1.5, rtol=0)


def test_a_whole_factor_is_near_the_mean_of_the_pixels(slide_path, picture):
    blocks = picture[:240, :320].astype(float).reshape(15, 16, 20, 16, 3).mean(axis=(1, 3))
    with open_slide(slide_path) as slide:
        tile = cut_tile(slide, 120.0, 120.0, native_px=240, out_px=15)
    # The filter weighs pixels by distance, the mean does not: alike, not equal. Point sampling is off by 13 here.
    assert np.abs(tile - blocks[:, :15]).mean() < 3
    points = picture[8:240:16, 8:240:16].astype(float)
    assert np.abs(points - blocks[:, :15]).mean() > 10


@pytest.mark.parametrize(
    ("native_px", "level"),
    [(31, 0), (20, 0), (122, 0), (124, 1), (400, 1), (490, 1), (496, 2), (900, 2)],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(painted_pyramid, native_px, level):
    colour = [0, 0, 0]
    colour[level] = 255
    with open_slide(painted_pyramid) as slide:
        tile = cut_tile(slide, 512.0, 512.0, native_px=native_px, out_px=31)
    np.testing.assert_array_equal(tile, np.broadcast_to(np.uint8(colour), (31, 31, 3)))


def test_coarser_levels_show_the_same_place(tmp_path):
    """A picture that is a straight slope looks the same from every level, so a shift of half a pixel would show."""

    def slope(side: int, step: float) -> np.ndarray:
        at = (np.arange(side) + 0.5) * step
        return (
            np.stack(np.broadcast_arrays(at[None] / 8, at[:, None] / 8, 100.0), axis=-1)
            .round()
            .astype(np.uint8)
        )

    with tifffile.TiffWriter(tmp_path / "slope.tif") as writer:
        for level, factor in enumerate((1, 4)):
            writer.write(
                slope(2000 // factor, factor), tile=(64, 64), photometric="rgb", subfiletype=int(level > 0), metadata=None
            )  # fmt: skip
    with open_slide(tmp_path / "slope.tif") as slide:
        assert len(slide.level_sizes) == 2
        for x, y, native_px in ((907.0, 1103.0, 124.0), (907.0, 1103.0, 211.0), (1200.7, 700.3, 93.0)):
            tile = cut_tile(slide, x, y, native_px=native_px, out_px=31).astype(float)
            at = (np.arange(31) + 0.5) * native_px / 31 - native_px / 2
            np.testing.assert_allclose(tile[..., 0], np.broadcast_to((x + at) / 8, (31, 31)), atol=1.01)
            np.testing.assert_allclose(
                tile[..., 1], np.broadcast_to((y + at)[:, None] / 8, (31, 31)), atol=1.01
            )
