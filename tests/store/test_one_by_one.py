"""What Zarr writes ends with the error of the write that failed."""

import asyncio

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from spam.store.elements import write_array, write_mapping
from spam.store.one_by_one import one_by_one


def let_zarr_end() -> None:
    """Wait for all that Zarr has begun and not ended."""

    async def others() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    sync(others())


@pytest.mark.parametrize("failing", [0, 13, 30])
def test_nothing_is_written_after_the_error_of_one_chunk(tmp_path, tree, failing):
    array = zarr.create_array(one_by_one(tmp_path / "a"), shape=(31,), chunks=(1,), dtype="i4", zarr_format=3)
    (tmp_path / f"a/c/{failing}").mkdir(parents=True)  # in the way of a file
    with pytest.raises(IsADirectoryError) as raised:
        array[...] = np.arange(1, 32)
    assert raised.value.filename.endswith(f"a/c/{failing}")
    there = tree(tmp_path)
    let_zarr_end()
    assert tree(tmp_path) == there
    with pytest.raises(IsADirectoryError):  # nor by any other node of the same folder
        array[...] = np.arange(1, 32)
    assert tree(tmp_path) == there


def test_the_files_are_those_that_zarr_writes(tmp_path, tree):
    values = np.arange(31 * 7, dtype=np.float32).reshape(31, 7)
    ours, zarrs = (
        zarr.create_group(place, zarr_format=3, attributes={"a": 1})
        for place in (one_by_one(tmp_path / "ours"), tmp_path / "zarrs")
    )
    for group in (ours, zarrs):
        write_array(write_mapping(group, "obsm", attributes={"b": 2}), "x", values, chunk=5)
        write_array(group, "names", np.array(["é", "", "c"]))
    assert len(tree(tmp_path / "ours")) == 14 + 5
    assert tree(tmp_path / "ours") == tree(tmp_path / "zarrs")
    np.testing.assert_array_equal(ours["obsm/x"][...], values)
