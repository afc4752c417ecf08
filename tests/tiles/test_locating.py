"""A section on its slide: what is filled in, what is refused, and which option each refusal names."""

import numpy as np
import pytest
import tifffile

from spam.errors import SlideError, TileError
from spam.tiles import locate, open_slide


@pytest.fixture
def wide_slide(tmp_path):
    """A slide of 401 x 307 px that states 0.5 µm per pixel."""
    path = tmp_path / "wide.tif"
    pixels = np.zeros((307, 401, 3), dtype=np.uint8)
    tifffile.imwrite(
        path, pixels, photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
    )
    return path


def test_the_slide_gives_its_pixel_size_to_a_section_without_one(make_section, wide_slide):
    section = make_section([(0.0, 0.0), (400.9, 306.9)], wide_slide)
    with open_slide(wide_slide) as slide:
        located = locate(section, slide)
    assert (located.mpp, located.mpp_source) == (0.5, "slide")
    np.testing.assert_array_equal(located.xy_um, [[0.0, 0.0], [200.45, 153.45]])
    np.testing.assert_array_equal(located.xy_px, section.xy_px)


def test_a_section_that_knows_its_pixel_size_keeps_it(make_section, wide_slide, slide_path):
    near = make_section([(7.0, 11.0)], wide_slide, mpp=0.52)
    chosen = make_section([(7.0, 11.0)], wide_slide, mpp=2.0, mpp_source="option")
    with open_slide(wide_slide) as slide:
        assert locate(near, slide) is near
        assert locate(chosen, slide) is chosen
    unknown = make_section([(7.0, 11.0)], slide_path)
    with open_slide(slide_path) as slide:
        assert locate(unknown, slide) is unknown


def test_two_pixel_sizes_that_disagree_are_refused(make_section, wide_slide):
    section = make_section([(7.0, 11.0)], wide_slide, mpp=0.53)
    with open_slide(wide_slide) as slide, pytest.raises(SlideError, match=r"0\.53 .* h5ad.*0\.5.*--mpp"):
        locate(section, slide)


@pytest.mark.parametrize(
    "outside", [(-0.1, 5.0), (401.0, 5.0), (350.0, 307.0), (5.0, -3.0), (float("nan"), 5.0)]
)
def test_a_spot_outside_the_slide_is_named(make_section, wide_slide, outside):
    section = make_section([(7.0, 11.0), outside, (13.0, 17.0)], wide_slide)
    with (
        open_slide(wide_slide) as slide,
        pytest.raises(
            TileError, match=r"^1 of 3 spots of section 'S1' lie outside .*401 x 307 px: 'spot1' at .*belongs"
        ),
    ):
        locate(section, slide)


def test_many_spots_outside_are_counted_and_the_first_named(make_section, wide_slide):
    section = make_section([(900.0, 900.0)] * 7, wide_slide)
    with open_slide(wide_slide) as slide, pytest.raises(TileError, match=r"7 of 7.*'spot4' at .* and 2 more"):
        locate(section, slide)


def test_swapped_axes_are_recognised(make_section, wide_slide):
    section = make_section([(11.0, 380.0), (300.0, 7.0)], wide_slide)
    with (
        open_slide(wide_slide) as slide,
        pytest.raises(TileError, match=r"1 of 2.*exchanged.*--swap-xy") as caught,
    ):
        locate(section, slide)
    assert "--coordinates um" not in str(caught.value)


def test_micrometres_are_recognised(make_section, slide_path):
    section = make_section([(11.0, 7.0), (1100.0, 850.0)], slide_path, mpp=3.0)
    with (
        open_slide(slide_path) as slide,
        pytest.raises(TileError, match=r"taken as µm.*--coordinates um") as caught,
    ):
        locate(section, slide)
    assert "--swap-xy" not in str(caught.value)


def test_pixels_of_an_enlarged_hires_image_are_recognised(make_section, slide_path):
    section = make_section([(11.0, 7.0), (1100.0, 850.0)], slide_path, hires_scale=3.0)
    with open_slide(slide_path) as slide, pytest.raises(TileError, match="--coordinates hires"):
        locate(section, slide)


def test_pixels_of_the_hires_image_are_recognised_by_the_corner_that_they_fill(make_section, slide_path):
    corner = [(3.0, 5.0), (39.0, 29.0), (17.0, 11.0)]  # of 40.1 x 30.7 px
    section = make_section(corner, slide_path, hires_scale=0.1)
    with open_slide(slide_path) as slide:
        with pytest.raises(TileError, match=r"upper left corner.*scale 0\.1.*--coordinates hires"):
            locate(section, slide)
        for certain_no_more in (
            make_section(corner, slide_path),
            make_section(corner, slide_path, hires_scale=0.5),
            make_section([*corner, (300.0, 11.0)], slide_path, hires_scale=0.1),
            make_section([(3.0, 5.0), (19.0, 29.0)], slide_path, hires_scale=0.1),
        ):
            assert locate(certain_no_more, slide) is certain_no_more
