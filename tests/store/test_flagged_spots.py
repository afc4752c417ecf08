"""The quality of tiles in a store: beside the features, and no features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from cohorts import add_section
from quality_arrays import add_quality, good_measures

from spam.errors import StoreError
from spam.schemas.tile_spec import MEASURES
from spam.store import choose_features, flagged_spots, open_store, readable_spots

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
    with pytest.raises(StoreError, match=rf"No tile of section 'S1'.*{SMALL}.*--overwrite"):
        readable_spots(section, [SMALL])
    assert readable_spots(section, [LARGE]).all()


def test_features_that_are_named_like_a_quality_array_stay_features(store: Path) -> None:
    section = open_store(store, is_read_only=False).section("S1")
    meta = dataclasses.replace(section.feature_meta(SMALL), key="image_quality", dim=4)
    writer = section.feature_writer(meta)
    for chunk in list(writer.pending):
        writer.write(chunk, np.ones((23, 4), np.float32)[chunk])
    writer.finish()
    assert "image_quality" in section.feature_keys
    assert section.quality_keys == ()
