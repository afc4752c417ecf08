"""Quality of tiles: drawn cases, a slow reference, blur, and real tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from tile_truth import SYMMETRIES, detail_ratio

from spam.schemas.tile_spec import MEASURES, tile_flags
from spam.tiles import cut_tile, measure_quality, open_slide

PINK, WHITE, GREY = (214, 130, 180), (244, 242, 245), (128, 130, 126)
INKS = {"red": (200, 40, 60), "green": (20, 150, 110), "blue": (30, 60, 200), "black": (20, 22, 18)}


def _drawn(*parts):
    """A tile of 29 px whose rows show colours: (colour, number of rows), ..."""
    rows = [np.tile(np.uint8(colour), (n, 29, 1)) for colour, n in parts]
    return np.concatenate(rows)[None]


def _measured(tiles, name, **options):
    return measure_quality(tiles, **options)[:, MEASURES.index(name)]


def _blurred(tiles, sigma):
    return np.stack([ndimage.gaussian_filter(tile.astype(float), (sigma, sigma, 0)) for tile in tiles])


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_shares_are_those_that_were_drawn(ink):
    tile = _drawn((PINK, 11), (WHITE, 7), (ink, 6), (GREY, 5))
    measures = measure_quality(tile)
    assert measures.dtype == np.float32
    np.testing.assert_allclose(measures[0, :3], (1, 11 / 29, 6 / 29), rtol=1e-6)
    # Each border between colours is one line long; a plain tile has no detail at all.
    assert measures[0, 3] > 0
    np.testing.assert_array_equal(measure_quality(_drawn((ink, 29)))[0], (1, 0, 1, 0))


def test_tinted_glass_is_no_tissue():
    rng = np.random.default_rng(0)
    tint = (PINK + rng.normal(0, (1.5, 1.5, 1.5), (2, 31, 31, 3))).round().astype(np.uint8)
    tint[1] = (tint[1].astype(int) + 5 * rng.integers(0, 4, (31, 31, 1))).astype(np.uint8)
    np.testing.assert_allclose(_measured(tint, "tissue"), (0, 1), atol=0.001)


# An eighth of the tile is the longest step, 7 px here.
@pytest.mark.parametrize(
    ("native_px", "step"), [(None, 1), (60.0, 1), (45.0, 2), (30.0, 2), (13.1, 5), (1.0, 7)]
)
def test_sharpness_is_the_ratio_of_differences(picture, native_px, step):
    tile = picture[17 : 17 + 61, 23 : 23 + 61]
    expected = detail_ratio(tile, step) / 0.66
    np.testing.assert_allclose(_measured(tile[None], "sharpness", native_px=native_px), expected, rtol=1e-5)


def test_sharpness_falls_with_every_blur_and_not_with_contrast(picture):
    corners = [(top, left) for top in (0, 103, 206) for left in (0, 157)]
    tiles = np.stack([picture[top : top + 101, left : left + 101] for top, left in corners])
    by_sigma = [_measured(_blurred(tiles, s).astype(np.uint8), "sharpness") for s in (0.5, 1, 2, 3, 5)]
    assert (np.diff(by_sigma, axis=0) < 0).all()
    faint = (200 + (tiles.astype(float) - 128) / 4).round().astype(np.uint8)
    np.testing.assert_allclose(_measured(faint, "sharpness"), _measured(tiles, "sharpness"), rtol=0.02)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), px=st.sampled_from((17, 40, 53)), native_px=st.sampled_from((None, 11.0)))
def test_turning_or_mirroring_a_tile_changes_nothing(seed, px, native_px):
    tiles = np.random.default_rng(seed).integers(0, 256, (3, px, px, 3), dtype=np.uint8)
    tiles[:2] = ndimage.uniform_filter(tiles[:2], (0, 5, 3, 0))  # in one direction more than in the other
    expected = measure_quality(tiles, native_px=native_px)
    for turn in SYMMETRIES:
        np.testing.assert_allclose(measure_quality(turn(tiles), native_px=native_px), expected, rtol=1e-5)


def test_a_tile_is_measured_alone(picture):
    tiles = np.stack([picture[:67, 31 * i : 31 * i + 67] for i in range(7)])
    order = [4, 0, 6, 1, 5, 2, 3]
    whole = measure_quality(tiles)
    np.testing.assert_array_equal(measure_quality(tiles[order]), whole[order])
    np.testing.assert_array_equal(np.concatenate([measure_quality(tile[None]) for tile in tiles]), whole)


def test_each_flag_is_raised_by_its_measure():
    sharp, unread, blank, inked = [1, 0.5, 0, 1], [0, 0, 0, 0], [1, 0.04, 0, 0.1], [1, 0.5, 0.3, 1]
    blurred, blank_ink, blurred_ink = [1, 0.5, 0, 0.3], [1, 0.01, 0.9, 0.1], [1, 0.3, 0.5, 0.2]
    measures = np.float32([sharp, unread, blank, inked, blurred, blank_ink, blurred_ink])
    flags = {name: np.flatnonzero(flag).tolist() for name, flag in tile_flags(measures).items()}
    assert flags == {"unreadable": [1], "blank": [2, 5], "pen": [3, 5, 6], "blurred": [4, 6]}


# µm per pixel; the centre of the tiles, every so many pixels.
_REAL = {
    "slides/CMU-1-Small-Region.svs": (0.499, 307),
    "her2st/images/C2.jpg": (0.69, 1201),
    "her2st/pyramid/C3.tif": (0.6904, 1201),
    "xenium_lung_ncbi858/outs_rewritten/he_image.ome.tif": (1.0, 199),
    "mob_st2k/images/MOB1.jpg": (4.41, 173),
    "her2st/images/A1_lowres.jpg": (3.2, 199),
}


@pytest.mark.parametrize("path", _REAL)
def test_flags_tell_sharp_real_tiles_from_blurred_and_blank_ones(shared_data, path):
    mpp, pitch = _REAL[path]
    native_px = 112 / mpp
    with open_slide(shared_data / path) as slide:
        grid = [(x, y) for x in range(pitch, slide.width, pitch) for y in range(pitch, slide.height, pitch)]
        tiles = np.stack([cut_tile(slide, x, y, native_px=native_px, out_px=224) for x, y in grid])
    sharp = measure_quality(tiles, native_px=native_px)
    shows_tissue = sharp[:, 1] > 0.1
    assert shows_tissue.sum() > 10
    # Blur of 3 px, of the tile or of the slide, whichever are larger.
    blurred = _blurred(tiles[shows_tissue], 3 * max(1, 224 / native_px)).astype(np.uint8)
    worse = measure_quality(blurred, native_px=native_px)
    area_under_curve = (sharp[shows_tissue, 3][:, None] > worse[:, 3]).mean()
    assert area_under_curve > 0.999
    found = tile_flags(worse)
    assert found["blurred"][~found["blank"]].all()
    if native_px > 100:  # elsewhere noise of the tile's pixels is none of the slide's
        noisy = np.clip(blurred + np.random.default_rng(0).normal(0, 2, blurred.shape), 0, 255)
        found = tile_flags(measure_quality(noisy.astype(np.uint8), native_px=native_px))
        assert found["blurred"][~found["blank"]].mean() > 0.95
    flags = tile_flags(sharp)
    assert flags["blurred"][shows_tissue].sum() <= 1  # the smear beside MOB1 has no detail
    assert not flags["pen"].any()
    assert not flags["blank"][shows_tissue].any()
