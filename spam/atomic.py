"""Files that are whole or not there: written beside their place, then moved into it in one step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a name to write to; at the end of the ``with`` block the file there takes the place of `path`.

    If the block fails, an older file at `path` stays as it was and what was written is removed.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)  # noqa: PTH105  atomic on every platform
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
