from pathlib import Path

import numpy as np
import pytest
from cohorts import add_section

from spam.errors import StoreError
from spam.store import open_store
from spam.training.cohort import SpotData, read_spots
from spam.training.groups import N_BLOCKS, assign_groups, spatial_blocks

KEYS = ("tiny_112um",)


def spots_of(store: Path, *names: str) -> tuple[SpotData, ...]:
    return tuple(read_spots(open_store(store).section(name), KEYS, k=4) for name in names)


def test_blocks_are_strips_of_equal_size_along_the_longer_axis() -> None:
    xy = np.array([[x, y] for x in range(10) for y in range(3)], dtype=float)
    blocks = spatial_blocks(xy, 5)
    np.testing.assert_array_equal(np.bincount(blocks), [6] * 5)
    columns = [set(xy[blocks == b, 0]) for b in range(5)]
    assert sorted(map(sorted, columns)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_blocks_do_not_depend_on_the_order_of_the_spots() -> None:
    rng = np.random.default_rng(3)
    xy, order = rng.normal(size=(53, 2)) * [7, 1], rng.permutation(53)
    np.testing.assert_array_equal(spatial_blocks(xy[order], 5), spatial_blocks(xy, 5)[order])


def test_each_of_several_sections_is_a_group(cohort: Path) -> None:
    groups = assign_groups(spots_of(cohort, "S1", "S2", "S3"), ("S3",))
    np.testing.assert_array_equal(groups.group, np.repeat([0, 1, 2], [37, 39, 41]))
    np.testing.assert_array_equal(groups.is_val, np.repeat([False, False, True], [37, 39, 41]))
    assert not groups.are_blocks
    assert groups.train_groups == [0, 1]


def test_a_lone_section_is_cut_and_its_last_block_held_out(cohort: Path) -> None:
    groups = assign_groups(spots_of(cohort, "S1"), ())
    assert groups.are_blocks
    assert sorted(np.unique(groups.group)) == list(range(N_BLOCKS))
    np.testing.assert_array_equal(groups.is_val, groups.group == N_BLOCKS - 1)


def test_a_lone_section_with_another_to_validate_on_is_cut_and_trained_on_whole(cohort: Path) -> None:
    groups = assign_groups(spots_of(cohort, "S1", "S2"), ("S2",))
    np.testing.assert_array_equal(groups.is_val, np.repeat([False, True], [37, 39]))
    assert groups.train_groups == list(range(N_BLOCKS))


def test_sections_that_validate_a_lone_one_are_groups_of_their_own(cohort: Path) -> None:
    groups = assign_groups(spots_of(cohort, "S1", "S2", "S3"), ("S2", "S3"))
    assert len(np.unique(groups.group)) == N_BLOCKS + 2
    sections = np.repeat([1, 2, 3], [37, 39, 41])
    for g in np.unique(groups.group):
        assert len(np.unique(sections[groups.group == g])) == 1


def test_a_section_too_small_to_cut_is_refused(tmp_path: Path) -> None:
    add_section(tmp_path / "s.zarr", "S", n_spots=9)
    with pytest.raises(StoreError, match=r"9 spots, too few to be cut into 5 blocks"):
        assign_groups(spots_of(tmp_path / "s.zarr", "S"), ())
