"""Runs a command of spam and kills it with SIGKILL at one of its changes to the disk.

``python killed_command.py N WORD...`` kills ``spam WORD...`` at change number N; without a kill, the number of changes is
the last line of the standard error. No file is changed before change 0.
"""

import os
import signal
import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # a change that only the first run makes
    step, words = int(sys.argv[1]), sys.argv[2:]
    from spam.cli import main  # before the hook: what an import caches is no change of the command

    number = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        global number
        flags = arguments[2] if event == "open" else 0
        is_write = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if is_write or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            number += 1

    sys.addaudithook(count)
    sys.argv = ["spam", *words]
    try:
        main()
    finally:
        print(f"{number}", file=sys.stderr)
