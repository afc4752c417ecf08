"""Each spot gets the row of its tile, by id or by coordinates, or an error that counts those without one."""

import dataclasses

import h5py
import numpy as np
import pytest
from foreign_layouts import trident
from hypothesis import given
from hypothesis import strategies as st

from spam.errors import SectionError
from spam.store.array_files import ForeignFeatures
from spam.store.foreign_files import read_foreign_features
from spam.store.importing import match_to_spots

GRID = np.array([[64.0 + 128 * x, 64.0 + 128 * y] for y in range(5) for x in range(7)])
JITTER = np.random.default_rng(13).uniform(-20, 20, GRID.shape)


def foreign(*, xy=None, ids=None, tile_px=None) -> ForeignFeatures:
    n_tiles = len(xy if xy is not None else ids)
    return ForeignFeatures(
        name="f.npy",
        kind="npy",
        features=np.zeros((n_tiles, 3), dtype=np.float32),
        xy_px=None if xy is None else np.array(xy, dtype=np.float64).reshape(-1, 2),
        ids=None if ids is None else np.array(ids, dtype=np.str_),
        tile_px=tile_px,
        mpp=None,
        encoder_name=None,
    )


def names(n: int) -> np.ndarray:
    return np.array([f"s{spot}" for spot in range(n)], dtype=np.str_)


def fault(tiles: ForeignFeatures, spots: np.ndarray | None, tolerance_px: float, n: int | None = None) -> str:
    with pytest.raises(SectionError) as caught:
        match_to_spots(tiles, names(len(spots) if n is None else n), spots, tolerance_px=tolerance_px)
    return str(caught.value)


@given(seed=st.integers(0, 2**32 - 1), n_tiles=st.integers(1, 31), n_spots=st.integers(0, 17))
def test_nearest_tile_as_a_slow_loop_finds_it(seed, n_tiles, n_spots):
    rng = np.random.default_rng(seed)
    tiles, spots = rng.uniform(0, 1000, (n_tiles, 2)), rng.uniform(0, 1000, (n_spots, 2))
    rows = match_to_spots(foreign(xy=tiles), names(n_spots), spots, tolerance_px=2000.0)
    assert rows.tolist() == [int(np.argmin([np.hypot(*(tile - spot)) for tile in tiles])) for spot in spots]


@given(st.permutations(range(35)))
def test_order_of_tiles_does_not_matter(order):
    rows = match_to_spots(foreign(xy=GRID[order]), names(35), GRID, tolerance_px=0.0)
    np.testing.assert_array_equal(np.array(order)[rows], np.arange(35))
    by_id = foreign(ids=names(35)[order])
    np.testing.assert_array_equal(match_to_spots(by_id, names(35), None, tolerance_px=0.0), rows)


def test_tolerance_is_inclusive_and_tiles_may_be_shared_or_left_over():
    tiles = foreign(xy=[[0, 0], [100, 0], [900, 900]])
    spots = np.array([[3.0, 4.0], [0.0, 5.0], [100.0, 0.0]])
    assert match_to_spots(tiles, names(3), spots, tolerance_px=5.0).tolist() == [0, 0, 1]
    assert "2 of 3 spots ('s0', 's1')" in fault(tiles, spots, 4.9)


def test_missing_and_tied_spots_in_one_message():
    spots = np.array([[0.0, 0.0], [5.0, 0.0], [10.0, 20.0], [10.0, 40.0]])
    text = fault(foreign(xy=[[0, 0], [10, 0]]), spots, 8.0)
    for words in (
        "2 of 4 spots ('s2', 's3')",
        "smallest distance 20.0 px, median 30.0",
        "1 of 4 spots ('s1')",
    ):
        assert words in text


def test_ids():
    assert "1 of 3 spots ('s2')" in fault(foreign(ids=["s0", "s1", "x"]), None, 1.0, n=3)
    tiles = foreign(ids=["s1", "s0", "s2"], xy=GRID[:3])
    spots = GRID[[1, 0, 3]]
    assert match_to_spots(tiles, names(3), spots, tolerance_px=128.0).tolist() == [1, 0, 2]
    assert "1 of 3 spots ('s2') are more than 100 px" in fault(tiles, spots, 100.0)  # ids of another section


def test_features_are_never_joined_by_position():
    assert "no ids" in fault(foreign(xy=GRID), None, 1.0, n=35)


@pytest.mark.parametrize(
    ("tiles", "spots", "tolerance", "shift"),
    [
        (foreign(xy=GRID - 64, tile_px=128.0), GRID, 30.0, (64.0, 64.0)),  # corners given as centres
        (foreign(xy=GRID - 64), GRID, 30.0, (64.0, 64.0)),
        (foreign(xy=GRID + 64, tile_px=128.0), GRID, 30.0, (-64.0, -64.0)),  # half a tile added twice
        (foreign(xy=GRID - 64, tile_px=128.0), (GRID + JITTER)[[0, 1, 2, 8, 9, 17, 23]], 30.0, (64.0, 64.0)),
        (foreign(xy=GRID - 64), GRID + JITTER, 35.0, tuple(JITTER.mean(axis=0) + 64)),
    ],
)
def test_shift_of_all_tiles_is_named(tiles, spots, tolerance, shift):
    assert f"({shift[0]:+.1f}, {shift[1]:+.1f}) px" in fault(tiles, spots, tolerance)


def test_no_shift_is_named_if_none_explains_it():
    spots = np.random.default_rng(5).uniform(0, 9000, (23, 2))
    assert "--tolerance-um" in fault(foreign(xy=GRID, tile_px=128.0), spots, 10.0)


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
    assert "(+112.0, +112.0) px" in fault(forgotten, spots, 1.0)
