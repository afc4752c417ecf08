"""Each spot gets the row of its tile, by id or by place, or a message that says which do not and why."""

import dataclasses

import h5py
import numpy as np
import pytest
from foreign_layouts import trident
from hypothesis import given
from hypothesis import strategies as st

from spam.errors import ConfigError, SectionError
from spam.exchange import FeatureSource, ForeignFeatures, match_to_spots, read_foreign_features

GRID = np.array([[64.0 + 128 * x, 64.0 + 128 * y] for y in range(5) for x in range(7)])


def foreign(*, xy=None, ids=None, tile_px=None) -> ForeignFeatures:
    n_tiles = len(xy if xy is not None else ids)
    return ForeignFeatures(
        features=np.zeros((n_tiles, 3), dtype=np.float32),
        xy_px=None if xy is None else np.array(xy, dtype=np.float64).reshape(-1, 2),
        ids=None if ids is None else np.array(ids, dtype=np.str_),
        tile_px=tile_px,
        mpp=None,
        encoder_name=None,
        kind="npy",
        source=FeatureSource(name="f.npy", n_bytes=1, sha256="0" * 64),
    )


def names(n: int) -> np.ndarray:
    return np.array([f"s{spot}" for spot in range(n)], dtype=np.str_)


def slow_rows(tiles, spots) -> list[int]:
    return [int(np.argmin([np.hypot(*(tile - spot)) for tile in tiles])) for spot in spots]


@given(seed=st.integers(0, 2**32 - 1), n_tiles=st.integers(1, 31), n_spots=st.integers(0, 17))
def test_nearest_tile_as_a_slow_loop_finds_it(seed, n_tiles, n_spots):
    rng = np.random.default_rng(seed)
    tiles, spots = rng.uniform(0, 1000, (n_tiles, 2)), rng.uniform(0, 1000, (n_spots, 2))
    rows = match_to_spots(foreign(xy=tiles), names(n_spots), spots, tolerance_px=2000.0)
    assert rows.tolist() == slow_rows(tiles, spots)
    assert rows.dtype == np.int64


@given(st.permutations(range(35)))
def test_order_of_tiles_does_not_matter(order):
    rows = match_to_spots(foreign(xy=GRID[order]), names(35), GRID, tolerance_px=0.0)
    np.testing.assert_array_equal(np.array(order)[rows], np.arange(35))
    by_id = foreign(ids=names(35)[order])
    np.testing.assert_array_equal(match_to_spots(by_id, names(35), GRID, tolerance_px=0.0), rows)


def test_tolerance_is_inclusive_and_tiles_may_be_shared_or_left_over():
    tiles = foreign(xy=[[0, 0], [100, 0], [900, 900]])
    spots = np.array([[3.0, 4.0], [0.0, 5.0], [100.0, 0.0]])
    assert match_to_spots(tiles, names(3), spots, tolerance_px=5.0).tolist() == [0, 0, 1]
    with pytest.raises(SectionError, match=r"2 of 3 spots \('s0', 's1'\) have no tile within 4.9 px"):
        match_to_spots(tiles, names(3), spots, tolerance_px=4.9)


def test_missing_and_ambiguous_spots_in_one_message():
    tiles = foreign(xy=[[0, 0], [10, 0]])
    spots = np.array([[0.0, 0.0], [5.0, 0.0], [10.0, 20.0], [10.0, 40.0]])
    with pytest.raises(SectionError) as caught:
        match_to_spots(tiles, names(4), spots, tolerance_px=8.0)
    text = str(caught.value)
    assert (
        "2 of 4 spots ('s2', 's3') have no tile within 8 px (smallest distance 20.0 px, median 30.0 px)"
        in text
    )
    assert "1 of 4 spots ('s1') lie just between two tiles" in text
    assert "were moved" not in text


def test_a_single_tile_is_never_ambiguous():
    assert match_to_spots(
        foreign(xy=[[1, 1]]), names(1), np.array([[1.0, 2.0]]), tolerance_px=1.0
    ).tolist() == [0]


@pytest.mark.parametrize("tile_px", [128.0, None], ids=["side known", "side unknown"])
def test_corners_given_for_centres_are_found_out(tile_px):
    corners = foreign(xy=GRID - 64.0, tile_px=tile_px)
    with pytest.raises(
        SectionError, match=r"35 of 35 spots would have one.*moved by \(\+64\.0, \+64\.0\) px.*side / 2"
    ):
        match_to_spots(corners, names(35), GRID, tolerance_px=30.0)


def test_centres_shifted_twice_are_found_out():
    with pytest.raises(SectionError, match=r"moved by \(-64\.0, -64\.0\) px"):
        match_to_spots(foreign(xy=GRID + 64.0, tile_px=128.0), names(35), GRID, tolerance_px=30.0)


def test_no_hint_where_no_shift_explains_it():
    spots = np.random.default_rng(5).uniform(0, 9000, (23, 2))
    with pytest.raises(SectionError, match="full-resolution pixels, or a larger --tolerance-px"):
        match_to_spots(foreign(xy=GRID, tile_px=128.0), names(23), spots, tolerance_px=10.0)


def test_ids_that_are_not_there():
    with pytest.raises(
        SectionError, match=r"1 of 3 spots \('s2'\) have no row with their id, while it has 's0', 's1', 'x'"
    ):
        match_to_spots(foreign(ids=["s0", "s1", "x"]), names(3), None, tolerance_px=1.0)


def test_ids_of_another_section_are_found_out_by_place():
    tiles = foreign(ids=["s1", "s0", "s2"], xy=GRID[:3])
    spots = GRID[[1, 0, 3]]
    assert match_to_spots(tiles, names(3), spots, tolerance_px=128.0).tolist() == [1, 0, 2]
    assert match_to_spots(tiles, names(3), None, tolerance_px=0.0).tolist() == [1, 0, 2]
    words = (
        r"1 of 3 spots \('s2'\) have their id there, but more than 100 px away \(smallest distance 128.0 px"
    )
    with pytest.raises(SectionError, match=words):
        match_to_spots(tiles, names(3), spots, tolerance_px=100.0)


def test_nothing_in_common():
    with pytest.raises(SectionError, match=r"f\.npy has no ids, and the section has no coordinates"):
        match_to_spots(foreign(xy=GRID), names(35), None, tolerance_px=1.0)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_tolerance_must_be_a_distance(tolerance):
    with pytest.raises(ConfigError, match="--tolerance-px must not be negative"):
        match_to_spots(foreign(xy=GRID), names(35), GRID, tolerance_px=tolerance)


def test_real_section_through_a_file_of_corners(shared_data, tmp_path):
    with h5py.File(shared_data / "her2st" / "C3.h5ad") as file:
        spots = np.array(file["obsm/spatial"], dtype=np.float64)
    order = np.random.default_rng(3).permutation(len(spots))
    corners = np.round(spots[order] - 112.0).astype(np.int64)
    features = np.random.default_rng(7).normal(size=(len(spots), 3)).astype(np.float32)
    coords = {
        "patch_size": 224,
        "patch_size_level0": 224,
        "level0_magnification": 20,
        "target_magnification": 20,
    }
    found = read_foreign_features(trident(tmp_path / "C3.h5", features=features, corners=corners, **coords))
    rows = match_to_spots(found, names(len(spots)), spots, tolerance_px=1.0)  # corners are whole pixels
    np.testing.assert_array_equal(order[rows], np.arange(len(spots)))
    forgotten = dataclasses.replace(found, xy_px=corners.astype(np.float64))
    with pytest.raises(SectionError, match=r"moved by \(\+112\.0, \+112\.0\) px"):
        match_to_spots(forgotten, names(len(spots)), spots, tolerance_px=1.0)


JITTER = np.random.default_rng(13).uniform(
    -20, 20, GRID.shape
)  # which of four corners is nearest is then by chance


def test_corners_are_found_out_by_the_side_where_most_tiles_have_no_spot():
    some = (GRID + JITTER)[[0, 1, 2, 8, 9, 17, 23]]
    with pytest.raises(SectionError, match=r"7 of 7 spots would have one.*moved by \(\+64\.0, \+64\.0\) px"):
        match_to_spots(foreign(xy=GRID - 64.0, tile_px=128.0), names(7), some, tolerance_px=30.0)


def test_corners_are_found_out_by_the_middle_of_all_where_the_side_is_unknown():
    x, y = JITTER.mean(axis=0) + 64.0
    with pytest.raises(SectionError, match=rf"35 of 35 spots.*moved by \(\{x:+.1f}, \{y:+.1f}\) px"):
        match_to_spots(foreign(xy=GRID - 64.0), names(35), GRID + JITTER, tolerance_px=35.0)
