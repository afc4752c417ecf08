"""A section on its images: what is filled in, what is refused with which option, and which tile sizes it gets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from spam.errors import ConfigError, MissingInputError, SectionError, SlideError, TileError
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.tile_spec import TileSpec
from spam.sections.coordinates import find_array
from spam.tiles import locate, open_slide, require_sizes, resolve_tile_specs
from spam.tiles.tile_specs import common_side_px


@pytest.fixture
def wide_slide(tmp_path):
    """A slide of 401 x 307 px that states 0.5 µm per pixel."""
    path = tmp_path / "wide.tif"
    options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.zeros((307, 401, 3), dtype=np.uint8), **options)
    return path


def test_the_slide_gives_its_pixel_size_to_a_section_without_one(make_section, wide_slide):
    section = make_section([(0.0, 0.0), (400.9, 306.9)], wide_slide)
    with open_slide(wide_slide) as slide:
        located = locate(section, slide)
    assert (located.mpp, located.mpp_source) == (0.5, "slide")
    np.testing.assert_array_equal(located.xy_um, [[0.0, 0.0], [200.45, 153.45]])
    np.testing.assert_array_equal(located.xy_px, section.xy_px)


def test_a_section_keeps_its_pixel_size_unless_it_is_far_off(make_section, wide_slide, slide_path):
    xy = [(7.0, 11.0)]
    with open_slide(wide_slide) as slide, open_slide(slide_path) as unsized:
        for section, on in (
            (make_section(xy, wide_slide, mpp=0.52), slide),
            (make_section(xy, wide_slide, mpp=0.5, mpp_source="option"), slide),
            (make_section(xy, slide_path), unsized),
            (make_section(xy, slide_path, mpp=3.0), unsized),
        ):
            assert locate(section, on) is section
        for mpp, factor in ((2.0, 4), (0.05, 0.1), (0.52, 1.04)):
            located = locate(make_section(xy, wide_slide, mpp=mpp, mpp_source="option"), slide)
            assert (located.mpp, located.mpp_source) == (mpp, "option")
            assert located.join.notes == (
                f"--mpp {mpp:g} overrides the 0.5 µm per pixel of slide 'wide.tif' (by a factor of {factor:g})",
            )
        with pytest.raises(SlideError, match=r"'S1' .*0\.53 .*h5ad.*0\.5\b.*--mpp"):
            locate(make_section(xy, wide_slide, mpp=0.53), slide)


@pytest.mark.parametrize(
    "outside", [(-0.1, 5.0), (401.0, 5.0), (350.0, 307.0), (5.0, -3.0), (float("nan"), 5.0)]
)
def test_spots_outside_the_slide_are_counted_and_named(make_section, wide_slide, outside):
    with open_slide(wide_slide) as slide:
        words = r"^1 of 3 spots of section 'S1' .*401 x 307 px\): 'spot1', the first at .*--csv"
        with pytest.raises(TileError, match=words):
            locate(make_section([(7.0, 11.0), outside, (13.0, 17.0)], wide_slide), slide)
        with pytest.raises(TileError, match=r"7 of 7.*'spot4' and 2 more"):
            locate(make_section([outside] * 7, wide_slide), slide)


def test_a_turned_slide_is_named_beside_the_spots_outside(make_section, tmp_path):
    """Coordinates marked on the stored pixels do not fit the upright picture; an exchange of x and y is not the cause."""
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[274] = 6
    Image.new("RGB", (401, 307), (200, 90, 150)).save(path, exif=exif)
    with (
        open_slide(path) as slide,
        pytest.raises(TileError, match=r"307 x 401 px.*EXIF orientation 6.*upright"),
    ):
        locate(make_section([(390.0, 5.0), (7.0, 11.0)], path), slide)


@pytest.mark.parametrize(
    ("xy", "options", "advice"),
    [
        ([*[(11.0, 380.0), (300.0, 7.0)] * 3, (500.0, 500.0)], {}, "--swap-xy"),  # a row that is wrong anyhow
        ([(11.0, 380.0), (300.0, 7.0)], {}, "--swap-xy"),
        ([(11.0, 7.0), (1100.0, 850.0)], {"mpp": 3.0}, "--coordinates um"),
        ([(11.0, 7.0), (1100.0, 850.0)], {"hires_scale": 3.0}, "--coordinates hires"),
    ],
)
def test_the_option_that_brings_all_spots_inside_is_named(make_section, slide_path, xy, options, advice):
    with open_slide(slide_path) as slide, pytest.raises(TileError) as caught:
        locate(make_section(xy, slide_path, **options), slide)
    for option in ("--swap-xy", "--coordinates um", "--coordinates hires"):
        assert (option in str(caught.value)) == (option == advice)


def test_pixels_of_the_hires_image_are_recognised_by_the_corner_that_they_fill(make_section, slide_path):
    corner = [(3.0, 5.0), (39.0, 29.0), (17.0, 11.0)]  # of 40.1 x 30.7 px
    with open_slide(slide_path) as slide:
        for xy in (corner, [*corner * 7, (300.0, 11.0)]):  # one wrong row of 22 hides nothing
            with pytest.raises(TileError, match=r"'S1'.*scale 0\.1\).*--coordinates hires"):
                locate(make_section(xy, slide_path, hires_scale=0.1), slide)
        for unclear in (
            make_section(corner, slide_path),
            make_section(corner, slide_path, hires_scale=0.5),
            make_section([*corner * 6, (300.0, 11.0)], slide_path, hires_scale=0.1),
            make_section([(3.0, 5.0), (19.0, 29.0)], slide_path, hires_scale=0.1),
        ):
            assert locate(unclear, slide) is unclear


# Tile files


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"t{i}.png" for i in range(11)]
    for path in paths:
        Image.new("RGB", (61, 61)).save(path)
    return paths


def test_the_side_is_read_from_headers_alone(files):
    files[3].write_bytes(files[3].read_bytes()[:50])
    assert common_side_px(files) == common_side_px([files[0]] * 5) == 61


def test_unlike_and_oblong_files(files):
    for i in (4, 5):
        Image.new("RGB", (61, 59)).save(files[i])
    with pytest.raises(TileError, match=r"9 of 11 have 61 x 61 px, unlike 't4\.png', 't5\.png'"):
        common_side_px(files)
    with pytest.raises(TileError, match=r"squares.* 1 of 1 have 61 x 59 px"):
        common_side_px(files[4:5])


def test_unreadable_files_are_counted_named_and_can_be_skipped(files):
    files[2].write_bytes(b"")
    files[7].write_text("text")
    Image.new("CMYK", (61, 61)).save(files[8], format="JPEG")
    words = r"3 of 11 tile files .*'t2\.png', 't7\.png', 't8\.png'.*t2\.png.*0 bytes.*--skip-bad-tiles"
    with pytest.raises(SlideError, match=words):
        common_side_px(files)
    assert common_side_px(files, is_forgiving=True) == 61
    with pytest.raises(SlideError, match=r"2 of 2 tile files .*'t2\.png', 't7"):
        common_side_px([files[2], files[7], files[2]], is_forgiving=True)
    files[5].unlink()
    with pytest.raises(MissingInputError, match=r"t5\.png"):
        common_side_px(files, is_forgiving=True)


# Tile sizes


def _specs(section, *, mpp_note=None, **values):
    config = EmbedConfig(store=Path("s.zarr"), csv=Path("t.csv"), root=Path(), **values)
    return resolve_tile_specs(section, config, input_px=37, mpp_note=mpp_note)


def test_sizes_are_taken_as_given_each_once(make_section, slide_path):
    section = make_section([(1.0, 2.0)], slide_path, mpp=0.5, patch_px=99)
    sizes = _specs(section, tile_um=(224.0, 112.0, 224.0))
    assert sizes == (TileSpec(tile_um=224.0, out_px=37), TileSpec(tile_um=112.0, out_px=37))
    assert _specs(section, tile_px=(55,)) == (TileSpec(tile_px=55, out_px=37),)


def test_defaults_are_the_files_then_the_table_then_112_um(make_section, slide_path, files):
    xy = [(1.0, 2.0)] * len(files)
    for section, size in (
        (make_section(xy, files, mpp=0.69, patch_px=99), {"tile_um": 42.1}),
        (make_section(xy, files, patch_px=99), {"tile_px": 61}),
        (make_section(xy, slide_path, mpp=0.5, patch_px=99), {"tile_px": 99}),
        (make_section(xy, slide_path, mpp=0.5), {"tile_um": 112.0}),
    ):
        assert _specs(section) == (TileSpec(**size, out_px=37),)
    files[0].write_bytes(b"")
    with pytest.raises(SlideError, match="0 bytes"):
        _specs(make_section(xy, files))
    assert _specs(make_section(xy, files), skip_bad_tiles=True) == (TileSpec(tile_px=61, out_px=37),)


def hexagons(pitch_px, n=7, angle=0.0):
    """A hexagonal lattice of n x n spots, turned."""
    rows, columns = np.mgrid[:n, :n]
    xy = np.stack([columns + 0.5 * (rows % 2), rows * np.sqrt(0.75)], axis=-1).reshape(-1, 2) * pitch_px
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (xy - xy.mean(axis=0)) @ turn + 2 * n * pitch_px


def test_a_pixel_size_must_fit_the_distance_of_the_spots(make_section, slide_path):
    array = find_array(hexagons(137.6), {})
    section = make_section([(1.0, 2.0)], slide_path, mpp_source="option", array=array)
    for mpp in (0.7268, 0.67, 0.79):
        assert _specs(dataclasses.replace(section, mpp=mpp)) == (TileSpec(tile_um=112.0, out_px=37),)
    for mpp, source, words in (
        (0.6149, "h5ad", "from the h5ad"),
        (7.27, "option", "--mpp"),
        (0.07, "slide", "slide"),
    ):
        with pytest.raises(SectionError, match=rf"{mpp:g} .*{words}.*'S1'.*Visium is 100.*--mpp 0\.7267,"):
            _specs(dataclasses.replace(section, mpp=mpp, mpp_source=source))


def test_um_without_a_pixel_size_is_an_error_that_quotes_the_slide(make_section, slide_path, files):
    section, note = make_section([(1.0, 2.0)], slide_path), "states 353 µm per pixel (72 dpi)"
    for sizes in ((), (112.0, 224.0)):
        words = r"112um.*'S1'.*'slide\.png' states 353 µm per pixel \(72 dpi\).*--mpp.*--tile-px"
        with pytest.raises(ConfigError, match=words):
            _specs(section, tile_um=sizes, mpp_note=note)
    assert _specs(section, tile_px=(55,), mpp_note=note) == (TileSpec(tile_px=55, out_px=37),)
    with pytest.raises(ConfigError, match=r"tile files.*--mpp"):
        _specs(make_section([(1.0, 2.0)] * len(files), files), tile_um=(112.0,))


@pytest.mark.parametrize(
    ("size", "side"), [({"tile_um": 0.49}, "0.98"), ({"tile_um": 402.0}, "804"), ({"tile_px": 803}, "803")]
)
def test_tiles_must_fit_the_slide(make_section, wide_slide, size, side):
    section = make_section([(7.0, 11.0)], wide_slide, mpp=0.5)
    with open_slide(wide_slide) as slide:
        ((name, value),) = size.items()
        words = rf"'S1': --{name.replace('_', '-')} {value:g} is {side} px at 0\.5 .*401 x 307 px"
        with pytest.raises(TileError, match=words):
            require_sizes([TileSpec(**size)], section, slide)
        require_sizes([TileSpec(tile_um=0.5), TileSpec(tile_um=401.0), TileSpec(tile_px=802)], section, slide)
