"""Locks: one owner at a time, and none that a dead owner keeps."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spam.errors import StoreError
from spam.store import lock as lock_module
from spam.store.writing import live_locks, locked, locked_part
from spam.store.lock import remove_stale_locks

OTHER_MACHINE = {"owner": "ab" * 16, "machine": "0123456789abcdef", "pid": os.getpid(), "started": "1"}
NAME = "C2/obsm/tiny_112um"


def lock_file(store: Path, name: str = NAME) -> Path:
    return store / ".unfinished" / f"{name}.lock"


def leave_lock(store: Path, content: bytes, *, age_s: float = 0.0, name: str = NAME) -> Path:
    """Leave a lock file as another process would have, last touched some time ago."""
    path = lock_file(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


HOLD = """
import sys, time
from pathlib import Path
from spam.store.lock import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it is killed or its input ends."""
    command = [sys.executable, "-P", "-c", HOLD, str(tmp_path), NAME]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_at_once(tmp_path, holder):
    begun = time.monotonic()
    message = rf"'{NAME}' of store '.*' is being written by process {holder.pid} on this machine; wait for it, or.*delete "
    with (
        pytest.raises(StoreError, match=message + r"'\.unfinished/C2/obsm/tiny_112um\.lock'"),
        locked(tmp_path, NAME),
    ):
        pass
    assert time.monotonic() - begun < 1
    assert live_locks(tmp_path, "C2") == ["C2/obsm/tiny_112um"]
    with locked(tmp_path, "C2"), locked(tmp_path, "C3/obsm/tiny_112um"):  # other things are free
        pass


def test_a_process_waits_as_long_as_it_is_told(tmp_path, holder):
    begun = time.monotonic()
    with pytest.raises(StoreError, match="is being written"), locked(tmp_path, NAME, wait_s=0.5):
        pass
    assert 0.5 <= time.monotonic() - begun < 3
    holder.communicate()  # lets go
    with locked(tmp_path, NAME, wait_s=0.5):
        assert json.loads(lock_file(tmp_path).read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".unfinished").exists()


@pytest.mark.parametrize("is_reaped", [True, False])
def test_the_lock_of_a_killed_owner_is_taken_over_at_once(tmp_path, holder, is_reaped):
    """Also while its parent has not asked for its exit code, and so its process number is still in use."""
    holder.send_signal(signal.SIGKILL)
    if is_reaped:
        holder.wait()
    else:
        while Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
    begun = time.monotonic()
    assert live_locks(tmp_path, "C2") == []
    with locked(tmp_path, NAME):
        assert json.loads(lock_file(tmp_path).read_text())["pid"] == os.getpid()
    assert time.monotonic() - begun < 1
    assert not (tmp_path / ".unfinished").exists()


def test_a_stopped_owner_keeps_its_lock(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    then = time.time() - 3600
    os.utime(lock_file(tmp_path), (then, then))
    with pytest.raises(StoreError, match=f"process {holder.pid} on this machine"), locked(tmp_path, NAME):
        pass
    holder.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(("age_s", "is_stale"), [(0, False), (590, False), (610, True)])
def test_a_lock_of_another_machine_is_stale_after_ten_minutes_without_a_touch(tmp_path, age_s, is_stale):
    path = leave_lock(tmp_path, json.dumps(OTHER_MACHINE).encode(), age_s=age_s)
    assert live_locks(tmp_path, "C2") == ([] if is_stale else [NAME])
    if is_stale:
        with locked(tmp_path, NAME):
            assert json.loads(path.read_text())["machine"] != OTHER_MACHINE["machine"]
        assert not path.exists()
    else:
        message = f"process {os.getpid()} on another machine; wait.*not touched for 10 minutes is taken over"
        with pytest.raises(StoreError, match=message), locked(tmp_path, NAME):
            pass
        assert json.loads(path.read_text()) == OTHER_MACHINE


def test_an_owner_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_TOUCH_S", 0.05)
    with locked(tmp_path, NAME):
        os.utime(lock_file(tmp_path), (0, 0))
        until = time.monotonic() + 5
        while lock_file(tmp_path).stat().st_mtime < time.time() - 60:
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.mark.parametrize("content", [b"", b'{"owner"', b"[1]", b"\xff"])
def test_a_lock_without_an_owner_is_taken_over_after_seconds(tmp_path, content, monkeypatch):
    """Its maker was killed between making the file and writing to it."""
    leave_lock(tmp_path, content, age_s=4)
    begun = time.monotonic()
    with locked(tmp_path, NAME):
        pass
    assert 0.5 < time.monotonic() - begun < 4


@pytest.mark.parametrize("started", [True, False])
def test_a_process_number_that_was_given_again_is_no_owner(tmp_path, started):
    """Process 1 runs on every machine; the lock is its own only if it was started when the lock says."""
    own = {**OTHER_MACHINE, "machine": lock_module._machine(), "pid": 1}
    begun = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    leave_lock(tmp_path, json.dumps({**own, "started": begun if started else "-1"}).encode())
    if started:
        with pytest.raises(StoreError, match="process 1 on this machine"), locked(tmp_path, NAME):
            pass
    else:
        with locked(tmp_path, NAME):
            pass


def test_the_same_process_number_on_another_machine_is_another_owner(tmp_path):
    leave_lock(tmp_path, json.dumps({**OTHER_MACHINE, "pid": os.getpid()}).encode())
    assert live_locks(tmp_path, "C2") == [NAME]
    with locked(tmp_path, "C2"), locked(tmp_path, "C2/obsm/own"):
        assert live_locks(tmp_path, "C2") == [NAME]  # its own locks hold off nobody


def test_a_lock_that_was_lost_is_not_removed(tmp_path):
    """The machine slept, and another one took the lock over: it is the other's now."""
    message = (
        rf"'{NAME}' of store .* lock '\.unfinished/{NAME}\.lock' is another's or gone.*`spam store verify "
    )
    with pytest.raises(StoreError, match=message), locked(tmp_path, NAME):
        leave_lock(tmp_path, json.dumps(OTHER_MACHINE).encode())
    assert json.loads(lock_file(tmp_path).read_text()) == OTHER_MACHINE


def test_a_lock_that_is_gone_is_told_but_hides_no_other_error(tmp_path):
    with pytest.raises(StoreError, match="is another's or gone"), locked(tmp_path, NAME):
        lock_file(tmp_path).unlink()
    with pytest.raises(FileExistsError), locked(tmp_path, NAME):
        lock_file(tmp_path).rename(tmp_path / "elsewhere").mkdir()


def test_a_lock_that_was_lost_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_TOUCH_S", 0.02)
    path = lock_file(tmp_path)

    def lose() -> tuple[float, float]:
        leave_lock(tmp_path, json.dumps(OTHER_MACHINE).encode(), age_s=300)
        touched = path.stat().st_mtime
        time.sleep(0.5)
        return touched, path.stat().st_mtime

    ages: list[float] = []
    with pytest.raises(StoreError, match="is another's or gone"), locked(tmp_path, NAME):
        ages += lose()
    assert ages[0] == ages[1]


def test_a_lock_ends_with_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path, NAME):
        raise KeyError
    assert not (tmp_path / ".unfinished").exists()


def test_only_stale_locks_are_cleared_away(tmp_path):
    other = json.dumps(OTHER_MACHINE).encode()
    kept = leave_lock(tmp_path, other, name="C2")
    leave_lock(tmp_path, other, name="C3/obsm/tiny_112um", age_s=3600)
    leave_lock(tmp_path, b"", name=".root", age_s=60)
    remove_stale_locks(tmp_path)
    assert list((tmp_path / ".unfinished").rglob("*")) == [kept]
    kept.unlink()
    remove_stale_locks(tmp_path)


def test_parts_exclude_the_whole_and_themselves(tmp_path):
    """Held by this machine under another process number, so that they are another's."""
    other = json.dumps(OTHER_MACHINE).encode()
    path = leave_lock(tmp_path, other, name=f"{NAME}@2of3")
    with locked_part(tmp_path, NAME, "@1of3"), locked_part(tmp_path, "C2/obsm/tiny_112um2", ""):
        pass
    for part in ("@2of3", ""):
        with pytest.raises(StoreError, match=r"tiny_112um@2of3' .* is being written by process"):
            locked_part(tmp_path, NAME, part).__enter__()
    path.rename(lock_file(tmp_path))
    for part in ("@2of3", "@1of3", ""):
        with pytest.raises(StoreError, match=r"tiny_112um' .* is being written by process"):
            locked_part(tmp_path, NAME, part).__enter__()


def contend(store: Path, n: int, seed: int) -> None:
    """Count up a file that nothing but the lock protects; now and then die inside, or leave a stale lock."""
    rng = random.Random(seed)
    counter, inside = store / "counter", store / "inside"
    for _ in range(n):
        is_left = rng.random() < 0.1
        end = pytest.raises(StoreError, match="another's or gone") if is_left else contextlib.nullcontext()
        with end, locked(store, NAME, wait_s=60):
            handle = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if another process is inside
            os.close(handle)
            value = int(counter.read_text())
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.002)
            counter.write_text(str(value + 1))
            inside.unlink()
            if is_left:  # as if killed: the lock stays, and all others find it stale at once
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                content = {**json.loads(lock_file(store).read_text()), "pid": pid, "owner": "killed"}
                os.waitpid(pid, 0)
                lock_file(store).write_text(json.dumps(content))


CONTEND = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_lock
test_lock.lock_module._RETRY_S = 0.001
children = []
for seed in range(6):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            test_lock.contend(Path(sys.argv[2]), 50, seed)
            code = 0
        finally:
            os._exit(code)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_never_two_inside(tmp_path):
    """6 processes take one lock 50 times each; many of their locks are left behind by 'killed' owners."""
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-P", "-c", CONTEND, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "counter").read_text() == "300"
