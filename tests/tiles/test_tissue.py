"""What counts as tissue: stained, and not split where a slide shows one kind of thing only."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu

from spam.tiles.tissue_grid import otsu_threshold, tissue_mask

GLASS, TINTED = (244, 242, 243), (234, 217, 233)
EOSIN, HAEMATOXYLIN, GREY = (215, 160, 190), (110, 80, 150), (120, 118, 122)


def paint(*rows):
    """A picture with a band of 11 rows of each colour, and noise of one grey value."""
    noise = np.random.default_rng(1).integers(-1, 2, (11 * len(rows), 37, 1))
    return np.clip(np.repeat(np.array(rows), 11, axis=0)[:, None] + noise, 0, 255).astype(np.uint8)


def is_tissue(*rows):
    mask = tissue_mask(paint(*rows)).reshape(len(rows), -1)
    assert (mask == mask[:, :1]).all()
    return mask[:, 0].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=97))
def test_otsu_is_scikit_images(values):
    image = np.array(values, dtype=np.uint8)
    counts = np.bincount(image, minlength=29)
    ours = otsu_threshold(counts)
    if len(set(values)) == 1:
        assert ours == values[0]
    else:
        np.testing.assert_array_equal(image > ours, image > threshold_otsu(image))


def test_stained_is_tissue_grey_is_not():
    assert is_tissue(GLASS, EOSIN, HAEMATOXYLIN, GREY, (0, 0, 0)) == [False, True, True, False, False]
    assert is_tissue(TINTED, EOSIN, HAEMATOXYLIN) == [False, True, True]


def test_one_kind_of_thing_is_not_split():
    assert is_tissue(EOSIN, HAEMATOXYLIN) == [True, True]
    assert is_tissue((200, 165, 185), (150, 60, 120)) == [
        True,
        True,
    ]  # colours of 35 and 90: Otsu lies between
    for glass in (GLASS, TINTED, (128, 128, 128), (255, 255, 255)):
        assert is_tissue(glass) == [False]
    assert is_tissue(EOSIN) == [True]
    assert is_tissue(GLASS, (240, 232, 238)) == [False, False]
