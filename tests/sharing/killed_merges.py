"""Kills merges with SIGKILL at chosen file operations; a script, because each merge is a forked process.

``python killed_merges.py BASE A B FOLDER N`` merges A and B into copies of BASE and spreads N kills over the merge. After
each it checks in another process that everything that can be read is whole, merges again, and compares the store with
that of an unbroken merge. This process itself never touches Zarr, whose threads do not survive a fork.
"""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from spam.schemas.store_config import MergeConfig
from spam.sharing.merging import merge
from spam.store import open_store

OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "open")


def forked(work: Callable[[], None]) -> int:
    """Do something in a process of its own; return what it exits with, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(base: Path, sources: tuple[str, ...], folder: Path, n_kills: int) -> None:
    os.fsync = lambda handle: None  # a killed process loses nothing that it wrote; only a power cut does

    def run(out: Path, *, kill_at: int = -1, counted: Path | None = None) -> None:
        n_operations = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal n_operations
            if event in OPERATIONS and str(out) in str(arguments[0]):
                n_operations += 1
                if n_operations == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        merge(MergeConfig(out=out, stores=sources))
        if counted:
            counted.write_text(str(n_operations))

    def check(out: Path) -> None:
        store = open_store(out) if (out / "zarr.json").exists() else None
        for name in store.section_names if store else ():
            section = store.section(name)
            if section.meta.has_counts:
                section.counts()
            for key in section.feature_keys:
                section.features(key)
            for key in section.graph_keys:
                assert section.graph(key) is not None
        run(out)
        assert tree(out) == tree(folder / "whole")

    def tree(path: Path) -> dict[str, bytes]:
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}

    shutil.copytree(base, folder / "whole")
    assert forked(lambda: run(folder / "whole", counted=folder / "n")) == 0
    n_operations = int((folder / "n").read_text())
    for number in range(n_kills):
        kill_at = 1 + number * n_operations // n_kills
        out = folder / f"killed-{kill_at}"
        shutil.copytree(base, out)
        assert forked(lambda out=out, at=kill_at: run(out, kill_at=at)) == -signal.SIGKILL
        assert forked(lambda out=out: check(out)) == 0, kill_at


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:4]), Path(sys.argv[4]), int(sys.argv[5]))
