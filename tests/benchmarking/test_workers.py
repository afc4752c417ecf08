"""Processes that work side by side: they share the threads, and one that is killed is told as such."""

import os
from collections.abc import Iterator

import pytest
import torch

from spam.benchmarking.workers import side_by_side
from spam.errors import ConfigError


@pytest.fixture
def five_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("five_threads")
def test_each_process_gets_its_share_of_the_threads_and_this_one_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")  # a list, for nested regions, is allowed
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    assert list(side_by_side(os.getenv, [("MKL_NUM_THREADS",)], n_processes=2)) == [
        ("2", ("MKL_NUM_THREADS",))
    ]
    assert dict(os.environ) == before


def test_a_killed_process_is_told_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"--jobs 1 was killed.*memory.*fewer --jobs.*__main__"):
        list(side_by_side(os._exit, [(9,)], n_processes=1))
