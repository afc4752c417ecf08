import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spam.errors import ConfigError
from spam.hardware import limited_threads, resolve_device, seeded
from spam.memory import available_bytes, budget_bytes


def blas_pools() -> list[dict[str, object]]:
    """Thread pools of NumPy and SciPy."""
    return [pool for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_threads_are_limited_inside_the_block() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2, user_api="blas"):
        for n in (1, 2):
            with limited_threads(n):
                assert torch.get_num_threads() == n
                assert {pool["num_threads"] for pool in blas_pools()} == {n}
        assert {pool["num_threads"] for pool in blas_pools()} == {2}
    torch.set_num_threads(before)
    with pytest.raises(ZeroDivisionError), limited_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == before
    with limited_threads(0):
        assert torch.get_num_threads() == before
    torch.set_num_threads(2)
    for n, values, expected in ((0, 64 * 541, 1), (0, 126 * 2000, 2), (3, 64 * 541, 3)):
        with limited_threads(n, values=values):
            assert torch.get_num_threads() == expected
    torch.set_num_threads(before)


_FAULTS = """
import resource
from spam.hardware import keep_freed_memory
keep_freed_memory()
found = []
for _ in range(7):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [bytearray(24 << 20) for _ in range(9)]
    del arrays
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_memory_is_used_again() -> None:
    """Nine arrays of 24 MB take 55 thousand new pages of the system, or none if their memory was kept."""
    done = subprocess.run([sys.executable, "-P", "-c", _FAULTS], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 1000


def test_memory_is_limited_by_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spam.memory._ROOT", tmp_path)
    files = {
        "proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 700 kB\n",
        "proc/self/cgroup": "9:cpu:/\n4:cpuset,memory:/one\n0::/slurm/job/step\n",
        "sys/fs/cgroup/slurm/job/step/memory.max": "max\n",
    }
    limits = {
        "sys/fs/cgroup/memory/one/memory.limit_in_bytes": 600_000,
        "sys/fs/cgroup/slurm/job/memory.max": 500_000,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = [available_bytes()]
    for name, limit in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{limit}\n")
        found.append(available_bytes())
    assert found == [700 * 1024, 600_000, 500_000]
    assert (budget_bytes(None), budget_bytes(0.25)) == (250_000, 250_000_000)


def test_seeds_are_local() -> None:
    cpu = torch.device("cpu")
    state = torch.get_rng_state()
    drawn = []
    for seed in ((3, 5), (3, 5), (3, 7)):
        with seeded(*seed, device=cpu):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    names = {"cpu": "cpu", "auto": "cuda:1", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    assert {name: str(resolve_device(name)) for name in names} == names
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99"])
def test_unavailable_devices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--device .*{name}"):
        resolve_device(name)
