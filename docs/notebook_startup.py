"""What the kernels of the tutorials run first: one shared folder, and `%%bash` whose output is one piece."""

import os
import subprocess

from IPython import get_ipython

os.chdir(os.environ["SPAM_TUTORIALS"])


def _bash(line: str, cell: str) -> None:
    """Run a cell in bash until its first error; IPython's own magic cuts the output into pieces of 100 letters."""
    command = ["bash", "-e"]
    done = subprocess.run(
        command, input=cell, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.stdout:
        print(done.stdout.strip())
    done.check_returncode()


get_ipython().register_magic_function(_bash, "cell", "bash")
