"""A folder that Zarr writes to one file after another, and not at all once a write has failed.

Zarr writes several files at a time in threads of its own. When one of them fails (a full disk) the error reaches the
caller while the others are still at it (zarr-python 3.1.6): they would go on after the lock of the section has been given
back, and so into what the next writer makes in the same place.
"""

from pathlib import Path

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, WrapperStore

__all__ = ["OneByOneStore", "one_by_one"]


class OneByOneStore(WrapperStore[LocalStore]):
    """A folder on this machine, of which nobody else knows yet: see `staging`.

    A write ends before it gives way to another, so no two ever run; of those that wait when one fails, each fails too.
    What was being written stays as it is: whoever staged it throws it away.
    """

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self._failure: OSError | None = None

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file, in place of an older one."""
        self._write(self._store.root / key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file that is not there yet."""
        path = self._store.root / key
        if not path.exists():
            self._write(path, value)

    def _write(self, path: Path, value: Buffer) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value.to_bytes())
        except OSError as error:
            self._failure = error
            raise


def one_by_one(folder: Path) -> OneByOneStore:
    """Give a folder, which need not be there yet, to Zarr."""
    return OneByOneStore(LocalStore(folder))
