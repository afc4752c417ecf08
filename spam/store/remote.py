"""Stores at a remote address (``hf://``, ``s3://``, ``gs://``, ``https://``): files are fetched when they are read.

What is fetched is kept in a cache by its digest, so that it is fetched once for all stores that hold it, and nothing
in the cache can be out of date. The indexes, which are small, are asked for anew each time a store is opened.
"""

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback

from spam.errors import StoreError
from spam.schemas.store_index import FileEntry

from .index import file_entry
from .layout import INDEX, name_fault
from .location import FilePart

__all__ = ["RemoteLocation", "cache_folder", "is_remote", "naming_address", "remote_files"]

_log = logging.getLogger(__name__)

_PACKAGES = {"s3": "'spam-st[s3]'", "gs": "'spam-st[gs]'", "gcs": "'spam-st[gs]'"}


def is_remote(address: Path | str) -> bool:
    """Tell an address such as ``s3://bucket/cohort.zarr`` from a path."""
    return isinstance(address, str) and "://" in address and not address.startswith("file://")


def cache_folder() -> Path:
    """Folder of what was fetched: ``SPAM_CACHE``, or ``spam`` in the user's cache folder. It may be deleted."""
    if own := os.environ.get("SPAM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spam"


def remote_files(address: str) -> tuple[Any, str]:
    """Open the file system of an address; return it with the path of the store in it, without a slash at the end.

    Raises
    ------
    StoreError
        If no package for such addresses is installed (says which), or the address has none of their forms.
    """
    scheme = address.split("://")[0]
    try:
        files, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "the package that it names")
        message = (
            f"addresses such as {address!r} need a package that is not installed ({error}); bring it with "
            f"`pip install {package}`"
        )
        raise StoreError(message) from error
    except ValueError as error:
        message = (
            f"{address!r} is no address that can be opened ({error}); write it as hf://datasets/org/name, "
            "s3://bucket/name.zarr, gs://bucket/name.zarr or https://host/name.zarr"
        )
        raise StoreError(message) from error
    return files, str(root).rstrip("/")


@contextlib.contextmanager
def naming_address(address: str, what: str) -> Iterator[None]:
    """Turn whatever a file system raises into one message that says what could not be done, and where.

    Raises
    ------
    StoreError
        In place of any other error than `FileNotFoundError`.
    """
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except Exception as error:
        # Links with signatures and the like are of no use to the reader, and may give away a secret.
        said = re.sub(r"\?\S+", "?…", f"{type(error).__name__}: {error}")[:300]
        message = (
            f"{what} at {address!r} failed ({said}); check the address, that this machine can reach it, and that you "
            "are logged in (`hf auth login`, AWS_… or GOOGLE_… variables), then run the same command again: what has "
            "arrived is kept"
        )
        raise StoreError(message) from error


class RemoteLocation:
    """The files of a store behind an address.

    Parameters
    ----------
    address
        The address.
    cache
        Folder for what is fetched; default `cache_folder`.
    """

    def __init__(self, address: str, *, cache: Path | None = None) -> None:
        self.address = address.rstrip("/")
        self._cache = cache if cache is not None else cache_folder()
        self._files, self._root = remote_files(self.address)

    def read_index(self, name: str) -> bytes | None:
        """Fetch the ``zarr.json`` of the root (``""``) or of a section; None if there is none."""
        if name and name_fault(name, "a section's name"):
            return None
        path = "/".join(part for part in (self._root, name, INDEX) if part)
        with naming_address(self.address, f"reading {f'{name}/{INDEX}'.lstrip('/')!r}"):
            try:
                self._files.invalidate_cache()
                return bytes(self._files.cat_file(path))
            except FileNotFoundError:
                return None

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """Take the sections that the root names: web servers do not list folders."""
        return listed

    def part(self, name: str, entry: FileEntry) -> FilePart | None:
        """Fetch a file, unless it is in the cache; None if it is not there.

        Raises
        ------
        StoreError
            If it cannot be fetched, or what arrives is not what the index names.
        """
        path = self._cache / entry.sha256[:2] / entry.sha256
        if not (path.is_file() and path.stat().st_size == entry.n_bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            _log.info("fetching %s (%d bytes)", name, entry.n_bytes)
            try:
                self._fetch(name, entry, path)
            except FileNotFoundError:
                return None
        return FilePart(path=path, offset=0, n_bytes=entry.n_bytes)

    def _fetch(self, name: str, entry: FileEntry, path: Path) -> None:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
        try:
            with naming_address(self.address, f"fetching {name!r}"):
                self._files.get_file(
                    f"{self._root}/{name}", str(partial), callback=_NoMore(self.address, name, entry)
                )
            found = file_entry(partial)
            if found != entry:
                message = (
                    f"{name!r} of {self.address!r} is not what the index of its section names: {found.n_bytes} bytes "
                    f"of digest {found.sha256[:12]}…, expected {entry.n_bytes} of {entry.sha256[:12]}…; whoever "
                    "shares the store has to push it again (`spam store verify` names all such files)"
                )
                raise StoreError(message)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class _NoMore(Callback):  # type: ignore[misc]  # fsspec carries no types
    """Stops a transfer that brings more than the index names: it would fill the disk."""

    def __init__(self, address: str, name: str, entry: FileEntry) -> None:
        super().__init__()
        self._address, self._name, self._most = address, name, entry.n_bytes

    def call(self, *args: Any, **kwargs: Any) -> None:
        """Look at how much has arrived; called after each block."""
        if self.value > self._most:
            message = (
                f"{self._name!r} of {self._address!r} has more than the {self._most} bytes that the index of its "
                "section names; whoever shares the store has to push it again"
            )
            raise StoreError(message)
