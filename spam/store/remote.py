"""Stores at a remote address (``hf://``, ``s3://``, ``gs://``, ``https://``): files are fetched when they are read.

What is fetched is kept in a cache by its digest, so that it is fetched once for all stores that hold it, and nothing in
the cache can be out of date; a file that was damaged there is fetched again. The indexes, which are small, are asked
for anew each time a store is opened.
"""

import contextlib
import logging
import os
import secrets
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
from fsspec.callbacks import Callback

from spam.errors import StoreError
from spam.schemas.store_index import FileEntry

from .index import file_entry
from .layout import INDEX, name_fault
from .location import FilePart
from .remote_faults import is_passing, naming_address, require_plain, shown
from .sealing import MOST_BYTES, sync

__all__ = ["RemoteLocation", "cache_folder", "is_remote", "remote_files"]

_log = logging.getLogger(__name__)

_PACKAGES = {"s3": "'spam-st[s3]'", "gs": "'spam-st[gs]'", "gcs": "'spam-st[gs]'"}
_WEB = ("http", "https")
_N_TRIES = 3
_WAIT_S = 0.5
_SILENCE_S = 60  # after which a server is taken to be gone; a file of 256 MB may take as long as it takes
_IN_ONE_STREAM = {"hf": {"block_size": 0}, "s3": {"max_concurrency": 1}}
"""What makes a file system ask for a file once: block by block, some send parts of it twice."""


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
    require_plain(address)
    options: dict[str, Any] = {}
    if scheme in _WEB:
        silence = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        options["client_kwargs"] = {"timeout": silence, "trust_env": True}  # proxies of the environment
    try:
        files, root = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "the package that it names")
        message = (
            f"addresses such as {shown(address)!r} need a package that is not installed ({error}); bring it with "
            f"`pip install {package}`"
        )
        raise StoreError(message) from error
    except ValueError as error:
        message = (
            f"{shown(address)!r} is no address that can be opened; write it as hf://datasets/org/name, "
            "s3://bucket/name.zarr, gs://bucket/name.zarr or https://host/name.zarr"
        )
        raise StoreError(message) from error
    return files, str(root).rstrip("/")


class RemoteLocation:
    """The files of a store behind an address.

    Parameters
    ----------
    address
        The address.
    cache
        Folder for what is fetched; default `cache_folder`.

    Attributes
    ----------
    address
        The address as it may be shown: without a user name and a password.
    """

    def __init__(self, address: str, *, cache: Path | None = None) -> None:
        self.address = shown(address).rstrip("/")
        self._scheme = address.split("://")[0]
        self._cache = cache if cache is not None else cache_folder()
        self._files, self._root = remote_files(address)
        self._seen: set[Path] = set()  # files of the cache that were compared with their digests

    def read_index(self, name: str) -> bytes | None:
        """Fetch the ``zarr.json`` of the root (``""``) or of a section; None if there is none.

        Raises
        ------
        StoreError
            If the place cannot be read (says why), or what arrives is too much for an index.
        """
        if name and name_fault(name, "a section's name"):
            return None
        path = f"{name}/{INDEX}".lstrip("/")
        try:
            self._files.invalidate_cache()
            with self._fetched(path, MOST_BYTES) as partial:
                return partial.read_bytes()
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
        if not self._is_cached(path, entry):
            _log.debug("fetching %s (%d bytes)", name, entry.n_bytes)
            try:
                with self._fetched(name, entry.n_bytes) as partial:
                    found = file_entry(partial)
                    if found != entry:
                        raise StoreError(self._not_as_named(name, found, entry))
                    path.parent.mkdir(exist_ok=True)
                    sync(partial)
                    partial.replace(path)
                    self._seen.add(path)
            except FileNotFoundError:
                return None
        return FilePart(path=path, offset=0, n_bytes=entry.n_bytes)

    def _is_cached(self, path: Path, entry: FileEntry) -> bool:
        """Tell whether a file is in the cache, whole: all its bytes are compared the first time that it is asked for."""
        if not path.is_file() or path.stat().st_size != entry.n_bytes:
            return False
        if path not in self._seen and file_entry(path) == entry:
            self._seen.add(path)
        return path in self._seen

    @contextlib.contextmanager
    def _fetched(self, name: str, most: int) -> Iterator[Path]:
        """Fetch a file of at most that many bytes to a name in the cache that is gone after the block."""
        with naming_address(self.address, f"fetching {name!r}"):
            self._cache.mkdir(parents=True, exist_ok=True)
        partial = self._cache / f"{secrets.token_hex(8)}.partial"
        try:
            with naming_address(self.address, f"fetching {name!r}"):
                self._fetch(name, most, partial)
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _fetch(self, name: str, most: int, partial: Path) -> None:
        # The names of a store are not quoted yet, as an address of the web has them.
        path = f"{self._root}/{urllib.parse.quote(name) if self._scheme in _WEB else name}"
        options = _IN_ONE_STREAM.get(self._scheme, {})
        for left in reversed(range(_N_TRIES)):
            try:
                self._files.get_file(
                    path, str(partial), callback=_NoMore(self.address, name, most), **options
                )
            except Exception as error:
                if not left or not is_passing(error):
                    raise
                _log.info("fetching %s broke off (%s); trying again", name, type(error).__name__)
                time.sleep(_WAIT_S)
            else:
                return

    def _not_as_named(self, name: str, found: FileEntry, entry: FileEntry) -> str:
        return (
            f"{name!r} of {self.address!r} is not what the index of its section names: {found.n_bytes} bytes of digest "
            f"{found.sha256[:12]}…, expected {entry.n_bytes} of {entry.sha256[:12]}…; if the store was changed in this "
            "moment, run the same command again; else whoever shares it has to push it again (`spam store verify` "
            "names all such files)"
        )


class _NoMore(Callback):  # type: ignore[misc]  # fsspec carries no types
    """Stops a transfer that brings more than the index names: it would fill the disk."""

    def __init__(self, address: str, name: str, most: int) -> None:
        super().__init__()
        self._address, self._name, self._most = address, name, most

    def call(self, *args: Any, **kwargs: Any) -> None:
        """Look at how much has arrived; called after each block, and when the server has told the size."""
        if max(self.value, self.size or 0) > self._most:
            message = (
                f"{self._name!r} of {self._address!r} has more than the {self._most} bytes that the index of its "
                "section names; whoever shares the store has to push it again"
            )
            raise StoreError(message)
