"""A new folder that is whole or not there."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from spam.errors import OutputExistsError
from spam.store.layout import STAGING
from spam.store.lock import locked
from spam.store.sealing import sync

__all__ = ["new_folder", "require_absent"]

_COPY = "copy"


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Hand out an empty folder to fill; at the end of the ``with`` block it is renamed to `out`.

    It lies in ``<out>.partial``. If the block fails nothing is left; what a killed process left there is cleared away
    by the next one that makes `out`.

    Raises
    ------
    OutputExistsError
        If there is something at `out`, or something else in ``<out>.partial``.
    StoreError
        If another process is making `out`.
    """
    require_absent(out)
    partial = out.with_name(f"{out.name}.partial")
    if partial.exists() and not (
        partial.is_dir() and {child.name for child in partial.iterdir()} <= {_COPY, STAGING}
    ):
        message = (
            f"{str(partial)!r} is in the way: {out.name!r} is made there before it gets its name, and it holds "
            "something else; rename it, or choose another name for what is written"
        )
        raise OutputExistsError(message)
    folder = partial / _COPY
    try:
        with locked(partial, _COPY):
            if folder.exists():
                shutil.rmtree(folder)
            try:
                folder.mkdir()
                yield folder
                require_absent(out)
                folder.rename(out)
                sync(out.parent)
            finally:
                if folder.exists():
                    shutil.rmtree(folder)
    finally:
        with contextlib.suppress(OSError):  # another process works in it
            partial.rmdir()


def require_absent(out: Path) -> None:
    """Refuse to write where something is.

    Raises
    ------
    OutputExistsError
        If there is something at `out`.
    """
    if out.exists() or out.is_symlink():
        message = (
            f"{str(out)!r} is there already, and nothing is written over; choose another name for what is written, "
            "or delete that first"
        )
        raise OutputExistsError(message)
