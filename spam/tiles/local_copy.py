"""Copies of slides on a local disk (``--local-cache``), because random reads from a network disk are slow."""

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from spam.atomic import claimed
from spam.errors import OutputExistsError, SlideError
from spam.sections.lab_section import slide_files

_FLAG, _PREFIX, _COPY = "--local-cache", "spam-slide-", "slide"
_SETTLED_S = 60.0  # a folder of this age is locked by the process that made it, unless that was killed


@contextlib.contextmanager
def local_copy(path: Path, folder: Path) -> Iterator[Path]:
    """Copy a slide, with all files that belong to it, to `folder`; remove the copy after the ``with`` block.

    Copies that killed processes left there are removed first.

    Raises
    ------
    SlideError
        If the folder has less free space than the slide needs.
    """
    files = slide_files(path)
    _remove_stale(folder)
    place = folder / f"{_PREFIX}{secrets.token_hex(4)}"
    with claimed(place, _FLAG):
        n_bytes, n_free = sum(file.stat().st_size for file in files), shutil.disk_usage(place).free
        if n_bytes > n_free:
            sizes = f"needs {n_bytes / 1e9:.1f} GB, and {n_free / 1e9:.1f} GB are free in {folder} ({_FLAG})"
            message = f"Slide {path.name!r} {sizes}. Choose another folder, or omit {_FLAG}."
            raise SlideError(message)
        try:
            for file in files:
                copy = place / _COPY / file.relative_to(path.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            yield place / _COPY / path.name
        finally:
            shutil.rmtree(place / _COPY, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    for old in folder.glob(f"{_PREFIX}*"):
        if time.time() - old.stat().st_mtime > _SETTLED_S:
            with contextlib.suppress(OutputExistsError):  # in use
                with claimed(old, _FLAG):
                    shutil.rmtree(old / _COPY, ignore_errors=True)
                old.rmdir()
