"""The overview is the whole slide, reduced once."""

import numpy as np
from PIL import Image

from spam.tiles import open_slide, overview


def test_a_small_slide_is_its_own_overview(slide_path, picture):
    with open_slide(slide_path) as slide:
        small = overview(slide)
    assert small.scale == 1.0
    np.testing.assert_array_equal(small.image, picture)


def test_a_large_slide_is_reduced_to_2048_px(tmp_path, picture):
    large = np.tile(picture, (7, 11, 1))[:2000, :4391]
    Image.fromarray(large).save(tmp_path / "large.png", compress_level=1)
    with open_slide(tmp_path / "large.png") as slide:
        small = overview(slide)
    assert small.scale == 2048 / 4391
    assert small.image.shape == (933, 2048, 3)
    whole = np.asarray(Image.fromarray(large).resize((2048, 933), Image.Resampling.BICUBIC))
    # Drawn band by band, it is the same picture but for rounding and the padded upper and lower edge.
    assert np.abs(small.image[3:-3].astype(int) - whole[3:-3]).max() <= 1
    assert np.abs(small.image.astype(int) - whole).mean() < 0.1


def test_the_best_level_is_taken(painted_pyramid, monkeypatch):
    monkeypatch.setattr("spam.tiles.thumbnail._LONGER_SIDE_PX", 200)
    with open_slide(painted_pyramid) as slide:
        small = overview(slide)
    assert small.scale == 200 / 1024
    np.testing.assert_array_equal(small.image, np.broadcast_to(np.uint8([0, 255, 0]), (200, 200, 3)))
