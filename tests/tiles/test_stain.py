"""Stain normalisation: the library's own result, known stains, real sections, and what cannot be normalised."""

import json
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from spam.errors import ConfigError, SlideError
from spam.tiles import StainNormaliser, cut_tile, mosaic, open_slide, overview

STAINS = np.array(
    [[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]]
)  # Ruifrok and Johnston (2001), doi:10.1097/00129039-200112000
OTHER_STAINS = np.array([[0.52, 0.25], [0.75, 0.80], [0.41, 0.55]])


def _stained(stains, strength=1.0, shape=(131, 113), seed=0, light=239.0):
    """An image of fine grain, all of it tissue, whose pixels hold both stains by the Beer-Lambert law."""
    rng = np.random.default_rng(seed)
    share, total = rng.uniform(0, 1, shape), rng.uniform(0.9, 1.7, shape)
    amounts = np.stack([share * total, (1 - share) * total], axis=-1)
    rgb = light * np.exp(-strength * amounts @ (stains / np.linalg.norm(stains, axis=0)).T)
    return np.clip(rgb.round(), 0, 255).astype(np.uint8)


def _library(name, image):
    if name == "macenko":
        return NumpyMacenkoNormalizer().normalize(image, stains=False)[0]
    normaliser = NumpyReinhardNormalizer()
    normaliser.target_means = np.array([58.12343, 26.483482, -12.701005])
    normaliser.target_stds = np.array([14.675022, 7.5744166, 5.226378])
    return normaliser.normalize(image)


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_it_is_what_the_library_makes_of_the_same_pixels(name):
    image = _stained(STAINS)
    ours = StainNormaliser.fit(name, image).apply(image[None])[0]
    # The library cuts to whole numbers as we do: where float32 falls just below one, the result is one less.
    difference = np.abs(ours.astype(int) - _library(name, image))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05  # the tables of Reinhard's method have 2^14 steps
    assert np.abs(ours.astype(int) - image).mean() > 5


def test_the_stains_of_a_section_are_found_and_taken_out():
    """Two sections of the same tissue in other stains of other strengths are alike after normalisation."""
    one, other = _stained(STAINS), _stained(OTHER_STAINS, strength=0.8)
    before = np.abs(one.astype(int) - other).mean()
    normalisers = [StainNormaliser.fit("macenko", image) for image in (one, other)]
    for normaliser, stains in zip(normalisers, (STAINS, OTHER_STAINS), strict=True):
        found = np.array(normaliser.parameters["stain_matrix"])
        angles = np.degrees(np.arccos((found * stains).sum(0) / np.linalg.norm(stains, axis=0)))
        assert (angles < 5).all()  # the percentiles of the angle lie a little inside the true stains
    after = [n.apply(image[None])[0] for n, image in zip(normalisers, (one, other), strict=True)]
    assert np.abs(after[0].astype(int) - after[1]).mean() < 0.2 * before


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_a_tile_depends_on_its_section_and_on_no_other_tile(name):
    normaliser = StainNormaliser.fit(name, _stained(STAINS))
    tiles = np.stack(
        [*(_stained(OTHER_STAINS, shape=(37, 37), seed=seed) for seed in range(3)), np.full((37, 37, 3), 255)]
    )
    tiles = np.concatenate([tiles, np.zeros((1, 37, 37, 3))]).astype(np.uint8)  # a blank and a black one
    whole = normaliser.apply(tiles)
    assert_array_equal(np.concatenate([normaliser.apply(tile[None]) for tile in tiles]), whole)
    assert_array_equal(normaliser.apply(tiles[::-1]), whole[::-1])
    assert whole[3].min() > 230
    assert whole[4].max() < 60
    assert normaliser.apply(tiles[:0]).shape == (0, 37, 37, 3)


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_glass_around_the_tissue_changes_no_estimate(name):
    image = _stained(STAINS)
    wide = np.concatenate([image, np.full((131, 226, 3), 243, np.uint8)], axis=1)
    alone, among = (StainNormaliser.fit(name, picture).parameters for picture in (image, wide))
    for key in set(alone) - {"torchstain"}:
        assert_allclose(among[key], alone[key], rtol=1e-6)


def test_tinted_glass_hardly_counts():
    image = _stained(STAINS)
    wide = np.concatenate([image, np.full((131, 226, 3), (236, 202, 227), np.uint8)], axis=1)
    counted = NumpyReinhardNormalizer()
    counted.fit(wide)
    alone, among = (StainNormaliser.fit("reinhard", picture).parameters for picture in (image, wide))
    for key, if_counted in (("means", counted.target_means), ("stds", counted.target_stds)):
        # Not the nearest columns: their neighbourhoods reach into the tissue.
        off, would_be_off = (
            np.linalg.norm(values - np.array(alone[key])) for values in (among[key], if_counted)
        )
        assert off < 0.4 * would_be_off


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_the_parameters_are_all_there_is_and_go_through_json(name):
    image = _stained(STAINS)
    normaliser = StainNormaliser.fit(name, image)
    again = StainNormaliser(name=name, parameters=json.loads(json.dumps(normaliser.parameters)))
    assert_array_equal(again.apply(image[None]), normaliser.apply(image[None]))
    assert normaliser.parameters["torchstain"]


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_a_slide_without_tissue_is_refused(name):
    glass = np.full((211, 97, 3), 243, np.uint8)
    with pytest.raises(
        SlideError, match=rf"--stain {name} finds 0 pixels of tissue in an overview of 97 x 211 px.*without"
    ):
        StainNormaliser.fit(name, glass)


def test_a_section_of_one_stain_is_refused():
    with pytest.raises(SlideError, match=r"one stain in this section, not two.*--stain reinhard"):
        StainNormaliser.fit("macenko", _stained(STAINS[:, :1] @ np.ones((1, 2))))


def test_without_torchstain_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchstain.numpy.normalizers", None)
    with pytest.raises(
        ConfigError, match=r"--stain macenko needs torchstain.*pip install 'spam-st\[stain\]'"
    ):
        StainNormaliser.fit("macenko", _stained(STAINS))


@pytest.mark.parametrize(
    ("n", "shape"), [(1, (5, 5)), (2, (5, 10)), (3, (10, 10)), (7, (15, 15)), (12, (15, 20))]
)
def test_a_mosaic_holds_each_tile_once(n, shape):
    tiles = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 5, 5, 3))
    laid = mosaic(tiles)
    assert laid.shape == (*shape, 3)
    expected = np.full(shape[0] * shape[1] // 25, 255)
    expected[:n] = np.arange(n)
    for corner in ((0, 0), (4, 4)):
        assert_array_equal(laid[corner[0] :: 5, corner[1] :: 5, 1].ravel(), expected)


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_real_sections_of_two_laboratories_come_closer(shared_data, name):
    """Mean colours of tissue in her2st C2 and in the olfactory bulb, (dark blue against pale violet)."""
    means = []
    for path, mpp in (("her2st/images/C2.jpg", 0.69), ("mob_st2k/images/MOB1.jpg", 4.41)):
        with open_slide(shared_data / path) as slide:
            middle = [(slide.width * x / 9, slide.height * y / 9) for x in (3, 4, 5, 6) for y in (3, 4, 5, 6)]
            tiles = np.stack([cut_tile(slide, x, y, native_px=448 / mpp, out_px=112) for x, y in middle])
            normaliser = StainNormaliser.fit(name, overview(slide).image)
        means.append([t.reshape(-1, 3).mean(axis=0) for t in (tiles, normaliser.apply(tiles))])
    before, after = (np.linalg.norm(means[0][i] - means[1][i]) for i in (0, 1))
    assert after < 0.6 * before
