"""The quality of tiles in a store: beside the features, and no features."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohorts import add_section
from quality_arrays import add_quality, good_measures

from spam.errors import StoreError
from spam.schemas.store_format import Sampling
from spam.schemas.tile_spec import MEASURES
from spam.store import StoredSection, choose_features, flagged_spots, open_store, readable_spots

SMALL, LARGE = "tiny_112um", "tiny_224um"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    add_section(tmp_path / "a.zarr", "S1", n_spots=23)
    return tmp_path / "a.zarr"


def test_quality_is_read_and_is_no_features(store: Path) -> None:
    section = open_store(store, is_read_only=False).section("S1")
    assert section.quality(SMALL) is None
    assert flagged_spots(section, [SMALL, LARGE]) == {}
    measures = np.random.default_rng(0).random((23, 4)).astype(np.float32)
    add_quality(section, SMALL, measures)
    section = open_store(store).section("S1")
    assert section.feature_keys == (SMALL, LARGE)
    assert section.quality_keys == (f"{SMALL}_quality",)
    assert choose_features(section, ()) == (SMALL, LARGE)
    found = section.quality(SMALL)
    assert found is not None
    np.testing.assert_array_equal(found, measures)
    assert section.quality(LARGE) is None


def test_a_spot_has_a_flag_if_one_of_its_tiles_has_it(store: Path) -> None:
    section = open_store(store, is_read_only=False).section("S1")
    small, large = good_measures(23, unreadable=(3, 7)), good_measures(23, unreadable=(7, 11))
    small[2, MEASURES.index("tissue")] = 0
    large[5, MEASURES.index("sharpness")] = 0.1
    add_quality(section, SMALL, small)
    add_quality(section, LARGE, large)

    def flagged(*keys: str) -> dict[str, list[int]]:
        return {flag: np.flatnonzero(spots).tolist() for flag, spots in flagged_spots(section, keys).items()}

    assert flagged(SMALL) == {"unreadable": [3, 7], "blank": [2], "pen": [], "blurred": []}
    assert flagged(SMALL, LARGE) == {"unreadable": [3, 7, 11], "blank": [2], "pen": [], "blurred": [5]}
    assert np.flatnonzero(~readable_spots(section, [LARGE])).tolist() == [7, 11]
    assert np.flatnonzero(~readable_spots(section, [SMALL, LARGE])).tolist() == [3, 7, 11]


def test_a_section_of_which_nothing_could_be_read_is_refused(store: Path) -> None:
    section = open_store(store, is_read_only=False).section("S1")
    add_quality(section, SMALL, good_measures(23, unreadable=range(23)))
    with pytest.raises(
        StoreError, match=rf"no tile of section 'S1' could be read when {SMALL} was made.*--overwrite"
    ):
        readable_spots(section, [SMALL])
    assert readable_spots(section, [LARGE]).all()


def replace_features(store: Path, **changes: Any) -> StoredSection:
    section = open_store(store, is_read_only=False).section("S1")
    meta = dataclasses.replace(section.feature_meta(SMALL), **changes)
    writer = section.feature_writer(meta, is_overwrite=True)
    for chunk in list(writer.pending):
        writer.write(chunk, np.ones((chunk.stop - chunk.start, meta.dim), np.float32))
    writer.finish()
    return open_store(store).section("S1")


def test_features_of_other_tiles_take_the_quality_of_the_old_ones_away(store: Path) -> None:
    """As when features are imported in the place of embedded ones: nobody has measured their tiles."""
    section = open_store(store, is_read_only=False).section("S1")
    for key in (SMALL, LARGE):
        add_quality(section, key, good_measures(23, [5]))
    sampling = Sampling(mpp=0.5, native_px=7.0, level=0, padding="edge", interpolation="bicubic")
    found = replace_features(store, sampling=sampling, origin="import:trident")
    assert found.feature_keys == (SMALL, LARGE)
    assert found.quality_keys == (f"{LARGE}_quality",)
    assert found.quality(SMALL) is None
    assert readable_spots(found, [SMALL]).all()
    assert not (store / "S1/obsm" / f"{SMALL}_quality").exists()
    assert found.quality(LARGE) is not None


def test_features_of_the_same_tiles_keep_their_quality(store: Path) -> None:
    """As when tiles are embedded again: their quality is finished before their features are."""
    section = open_store(store, is_read_only=False).section("S1")
    measures = good_measures(23, [5])
    add_quality(section, SMALL, measures)
    found = replace_features(store, weights_sha256="01" * 32)
    assert found.feature_meta(SMALL).weights_sha256 == "01" * 32
    quality = found.quality(SMALL)
    assert quality is not None
    np.testing.assert_array_equal(quality, measures)


def test_an_array_of_other_columns_is_damage(store: Path) -> None:
    section = open_store(store, is_read_only=False).section("S1")
    add_quality(section, SMALL, np.ones((23, 3), np.float32))
    with pytest.raises(StoreError, match=r"damaged at .*tiny_112um_quality: it has 3 columns.*has 4"):
        section.quality(SMALL)


def test_features_that_are_named_like_a_quality_array_stay_features(store: Path) -> None:
    section = open_store(store, is_read_only=False).section("S1")
    meta = dataclasses.replace(section.feature_meta(SMALL), key="image_quality", dim=4)
    writer = section.feature_writer(meta)
    for chunk in list(writer.pending):
        writer.write(chunk, np.ones((23, 4), np.float32)[chunk])
    writer.finish()
    assert "image_quality" in section.feature_keys
    assert section.quality_keys == ()
