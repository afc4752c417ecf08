"""A warm process that forks for each command, so that a case costs milliseconds and neither crash nor memory is shared.

Run as a script, it reads one JSON object per line (`argv`, `cwd`) and answers each with one.
"""

import contextlib
import dataclasses
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

SECONDS = 60  # a case that takes longer is killed
# address space beyond that of the warm process: a runaway case must not take the machine
_SPARE_BYTES = 3 * 2**30
_ROOMS = ("embedding", "training", "predicting", "evaluation", "hest_tasks", "store", "encoders", "graphs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: exit code (or ``"signal 11"``), output, seconds, and peak memory in bytes."""

    code: int | str
    out: str
    err: str
    peak_bytes: int

    @property
    def json(self) -> Any:
        """The JSON object on standard output; an empty one without output."""
        return json.loads(self.out) if self.out.strip() else {}


class CommandServer:
    """Runs `spam` commands in forks of one process that has imported everything."""

    def __init__(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self, *argv: object, cwd: Path) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"argv": [*map(str, argv)], "cwd": str(cwd)}) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


def _run_child(argv: list[str], cwd: str, files: tuple[Any, ...]) -> None:
    """Become `spam`: never returns."""
    code = 99
    try:
        signal.alarm(SECONDS)
        os.setsid()
        with Path("/proc/self/statm").open() as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _SPARE_BYTES, used + _SPARE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(cwd)
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), write_through=True) for n in (1, 2)
        )
        sys.argv = ["spam", *argv]
        from spam.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  the fork must not go on as a second server
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _answer(argv: list[str], cwd: str) -> dict[str, Any]:
    with Path(os.devnull).open() as empty, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _run_child(argv, cwd, (empty, out, err))
        _, status, usage = os.wait4(child, 0)
        code: int | str = os.waitstatus_to_exitcode(status)
        code = f"signal {-code}" if isinstance(code, int) and code < 0 else code
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
    return {"code": code, "out": texts[0], "err": texts[1], "peak_bytes": usage.ru_maxrss * 1024}


def _serve() -> None:
    import importlib
    import pkgutil

    import spam.store

    store = [f"store.{module.name}" for module in pkgutil.iter_modules(spam.store.__path__)]
    for name in (*_ROOMS, *store, "cli"):
        importlib.import_module(f"spam.{name}")
    importlib.import_module("peft")  # takes longer than a case
    for line in sys.stdin:
        print(json.dumps(_answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
