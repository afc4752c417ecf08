import pytest
import torch

from spam.errors import ConfigError
from spam.hardware import limited_threads, resolve_device


def test_threads_are_limited_inside_the_block_alone() -> None:
    before = torch.get_num_threads()
    with limited_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), limited_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == before
    with limited_threads(0):
        assert torch.get_num_threads() == before


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu", "must be auto, cpu, cuda or cuda:N, not 'gpu'"), ("cuda:99", "usable GPUs; use --device")],
)
def test_a_device_that_is_not_there_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_device(name)
