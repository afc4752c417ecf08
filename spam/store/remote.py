"""Stores and single files at a remote address (``hf://``, ``s3://``, ``gs://``, ``https://``), read through fsspec.

A file is fetched when it is read and is kept in a cache under its SHA-256, so that it is fetched once for all stores
that hold it and a cached file is never out of date. The indexes, which are small, are fetched each time a store is opened.
"""

import contextlib
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import fsspec

from spam.atomic import replacing
from spam.errors import StoreError
from spam.schemas.store_format import FileEntry, name_fault

from .layout import INDEX
from .places import FilePart, Location
from .section_index import MOST_INDEX_BYTES, file_entry

_log = logging.getLogger(__name__)

_PACKAGES = {"s3": "'spam-st[s3]'", "gs": "'spam-st[gs]'", "gcs": "'spam-st[gs]'"}
_WEB = ("http", "https")
_SILENCE_S = 60  # after which a server is given up
_PIECE = 1 << 20
_MOST_FILE_BYTES = 1 << 32  # of a file that no index names
_PIN = re.compile(r"sha256=([0-9a-f]{64})")
_DIGEST = re.compile(r"[0-9a-f]{64}\b")  # as `sha256sum` writes it, in lower case
_N_TRIES, _WAIT_S = 3, 0.5
_N_THREADS = 8
_LOG_IN = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
    "gs": "Run: gcloud auth application-default login",
    "gcs": "Run: gcloud auth application-default login",
}


def is_remote(address: Path | str) -> bool:
    """Tell an address such as ``s3://bucket/cohort.zarr`` from a path."""
    return isinstance(address, str) and "://" in address and not address.startswith("file://")


def shown(address: str) -> str:
    """Return an address without user name, password and query, as it may be shown."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", address.split("?")[0])


def cache_folder() -> Path:
    """Return the folder for fetched files: ``SPAM_CACHE``, or ``spam`` in the user's cache folder. It may be deleted."""
    if own := os.environ.get("SPAM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spam"


def remote_files(address: str) -> tuple[Any, str]:
    """Open the file system of an address; return it with the path of the store in it, without a slash at the end.

    Raises
    ------
    StoreError
        If the package for such addresses is not installed, or the address has an unknown form.
    """
    scheme = address.split("://")[0]
    if "?" in address:  # a signed link to one file; a store is many files
        message = f"{shown(address)!r} has a query ('?…'). Give the address without it."
        raise StoreError(message)
    options: dict[str, Any] = {}
    if scheme in _WEB:
        silence = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        options["client_kwargs"] = {"timeout": silence, "trust_env": True}  # proxies of the environment
    try:
        files, root = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        message = f"{shown(address)!r} needs a package: pip install {_PACKAGES.get(scheme, error.name)}"
        raise StoreError(message) from error
    except ValueError as error:
        message = (
            f"Unknown address {shown(address)!r}. Use one that begins with hf://, s3://, gs:// or https://"
        )
        raise StoreError(message) from error
    return files, str(root).rstrip("/")


class RemoteLocation(Location):
    """The files of a store behind an address; what is fetched is kept in `cache` (default: `cache_folder`)."""

    def __init__(self, address: str, *, cache: Path | None = None) -> None:
        self.address = shown(address).rstrip("/")
        self._scheme = address.split("://")[0]
        self._cache = cache if cache is not None else cache_folder()
        self._files, self._root = remote_files(address)
        self._seen: set[str] = set()  # digests of cached files that were compared with their bytes

    def section_names(self, listed: tuple[str, ...]) -> tuple[str, ...]:
        """Return the sections that the root names: web servers do not list folders."""
        return listed

    def read_index(self, name: str) -> bytes | None:
        """Fetch the ``zarr.json`` of the root (``""``) or of a section; None if there is none.

        Raises
        ------
        StoreError
            If the address cannot be read.
        """
        if name and name_fault(name, "a section's name"):
            return None
        self._files.invalidate_cache()
        return self._fetch(f"{name}/{INDEX}".lstrip("/"), MOST_INDEX_BYTES)

    def part(self, path: str, entry: FileEntry | None) -> FilePart | None:
        """Fetch a file, unless it is in the cache; None if it does not exist.

        Raises
        ------
        StoreError
            If it cannot be fetched, or is not what the index names.
        """
        assert entry is not None  # only an index has none
        cached = self._cached(entry.sha256)
        if entry.sha256 not in self._seen and not (
            cached.is_file() and file_entry(cached.read_bytes()) == entry
        ):
            data = self._fetch(path, entry.n_bytes)
            if data is None:
                return None
            if file_entry(data) != entry:
                raise self.damaged(path, f"{len(data)} bytes that the index does not name")
            self._keep(data, entry.sha256)
        self._seen.add(entry.sha256)
        return FilePart(path=cached, offset=0, n_bytes=entry.n_bytes)

    def _cached(self, sha256: str) -> Path:
        """Place of a file in the cache."""
        return self._cache / sha256[:2] / sha256

    def _keep(self, data: bytes, sha256: str) -> Path:
        """Write a file into the cache."""
        cached = self._cached(sha256)
        with remote_errors(self.address, "storing files"):
            cached.parent.mkdir(parents=True, exist_ok=True)
            with replacing(cached) as partial:
                partial.write_bytes(data)
        return cached

    def read_file(self, path: str, most: int = _MOST_FILE_BYTES) -> bytes | None:
        """Fetch the first bytes of a file that no index names, without the cache; None if it does not exist.

        Raises
        ------
        StoreError
            If the address cannot be read.
        """
        self._files.invalidate_cache()
        return self._fetch(path, most)

    def read_beside(self, path: str, most: int = _MOST_FILE_BYTES) -> bytes | None:
        """Fetch a file that may be missing, as `read_file`; None also where the bucket may not be listed."""
        try:
            return self.read_file(path, most)
        except StoreError as error:
            if _status(error) != 403:  # what such a bucket answers for a missing file
                raise
            return None

    def read_digest(self, path: str) -> bytes | None:
        """Fetch ``<path>.sha256``, which lies beside a shared file; None if there is none."""
        return self.read_beside(f"{path}.sha256", 1 << 10)

    def checked_file(self, path: str, sha256: str | None) -> Path:
        """Fetch a file that no index names, unless it is in the cache; compare it with `sha256`, if that is known.

        Raises
        ------
        StoreError
            If the file does not exist, cannot be fetched, or has another digest.
        """
        if sha256 is not None:
            cached = self._cached(sha256)
            if cached.is_file() and file_entry(cached.read_bytes()).sha256 == sha256:
                return cached
        data = self.read_file(path)
        if data is None:
            message = f"{self.address!r} has no file {path!r}. Check the address."
            raise StoreError(message)
        found = file_entry(data).sha256
        if sha256 not in (None, found):
            message = (
                f"{path!r} at {self.address!r} was changed or damaged: its SHA-256 is {found[:12]}…, not {sha256[:12]}…. "
                "Do not use it; ask the person who shared it."
            )
            raise StoreError(message)
        return self._keep(data, found)

    def prefetch(self, files: Mapping[str, FileEntry]) -> None:
        """Fetch several files at once into the cache."""
        with ThreadPoolExecutor(_N_THREADS) as pool:
            list(pool.map(self.part, files.keys(), files.values()))

    def _fetch(self, path: str, n_bytes: int) -> bytes | None:
        """Fetch a file of at most `n_bytes` bytes, plus one byte if it is longer."""
        _log.debug("fetching %s (%d bytes)", path, n_bytes)
        # Addresses of the web are quoted; those of a store are not.
        where = f"{self._root}/{urllib.parse.quote(path) if self._scheme in _WEB else path}"
        for left in reversed(range(_N_TRIES)):
            try:
                with remote_errors(self.address, f"reading {path!r}"):
                    return self._read(where, n_bytes + 1)
            except FileNotFoundError:
                return None
            except StoreError as error:
                if not left or not _is_passing(error.__cause__):
                    raise
                time.sleep(_WAIT_S)
        return None  # pragma: no cover

    def _read(self, where: str, n_bytes: int) -> bytes:
        """Read the first `n_bytes` bytes of a file."""
        data = bytearray()
        if self._scheme in (*_WEB, "hf"):
            # Without a block size of 0, these file systems fetch block by block, some of them twice.
            limit = {} if self._scheme == "hf" else {"headers": {"Range": f"bytes=0-{n_bytes - 1}"}}
            with self._files.open(where, block_size=0, size=n_bytes, **limit) as file:
                while len(data) < n_bytes and (piece := file.read(min(_PIECE, n_bytes - len(data)))):
                    data += piece
            return bytes(data)
        return bytes(self._files.cat_file(where, end=n_bytes))


def split_address(address: str, name: str) -> tuple[str, str, str | None]:
    """Split the address of a file into its folder, its name (`name` if a folder or repository is given) and its digest.

    Raises
    ------
    StoreError
        If what follows ``#`` is no digest.
    """
    where, mark, fragment = address.partition("#")
    pin = _PIN.fullmatch(fragment.lower())
    if mark and pin is None:
        message = f"{shown(where)!r} is followed by {fragment!r}. Write {shown(where)}#sha256= and 64 hexadecimal digits."
        raise StoreError(message)
    folder = where.rstrip("/")
    if folder.endswith(Path(name).suffix):
        folder, _, name = folder.rpartition("/")
    return folder, name, None if pin is None else pin[1]


def stated_digest(data: bytes | None) -> str | None:
    """Return the SHA-256 in a file ``<name>.sha256``; None if there is none."""
    found = _DIGEST.match((data or b"").decode("ascii", "replace").strip().lower())
    return found[0] if found else None


def local_file(address: Path | str, name: str) -> Path:
    """Return where a file is on this machine; one at an address is fetched into the cache first.

    Its digest is the one in the address (``…#sha256=<64 hexadecimal digits>``), else the one that lies beside it, in
    ``<name>.sha256``. A file whose digest is known is fetched once; with a digest in the address, nothing is asked again.

    Parameters
    ----------
    address
        Path or address of the file, of its folder or of its repository on the Hub (``hf://org/name@revision``).
    name
        Name of the file in such a folder.

    Raises
    ------
    StoreError
        If the file cannot be fetched, or has another digest.
    """
    if not is_remote(address):
        path = Path(str(address).removeprefix("file://"))
        return path / name if path.is_dir() else path
    folder, name, sha256 = split_address(str(address), name)
    location = RemoteLocation(folder)
    known = sha256 or stated_digest(location.read_digest(name))
    path = location.checked_file(name, known)
    if known is None:
        pin = f"{shown(str(address))}#sha256={path.name}"
        _log.warning("%s was fetched without a digest to compare it with. Next time, write %s", name, pin)
    return path


def pinned(address: Path | str, name: str) -> Path | str:
    """Add the digest of a file to its address, so that nothing else is read from there; a path stays as it is.

    Raises
    ------
    StoreError
        As `local_file`.
    """
    if not is_remote(address):
        return address
    return f"{str(address).partition('#')[0]}#sha256={local_file(address, name).name}"


@contextlib.contextmanager
def remote_errors(address: str, action: str) -> Iterator[None]:
    """Turn errors of a file system into a message with the reason and the next step, without secrets.

    Raises
    ------
    FileNotFoundError
        If the place exists and the file in it does not.
    StoreError
        In place of any other error.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        is_no_place = any(kind.__name__ in _NO_PLACE for one in _chain(error) for kind in type(one).__mro__)
        if not is_no_place and (isinstance(error, FileNotFoundError) or _status(error) == 404):
            raise FileNotFoundError(shown(address)) from error
        message = f"{action} at {shown(address)!r} failed. {_advice(address, error)}"
        raise StoreError(message) from error


_NO_PLACE = ("NoSuchBucket", "RepositoryNotFoundError", "RevisionNotFoundError")


def _advice(address: str, error: Exception) -> str:
    scheme, status = address.split("://")[0], _status(error)
    # Error texts of HTTP clients hold the address with its password or signature.
    reason = re.sub(
        r"\?[^\s'\"]+|\bhf_\w+|Bearer \S+|(?<=://)[^/@\s]*@", "…", f"{type(error).__name__}: {error}"
    )
    reason = f"({' '.join(reason.split())[:300]})"
    if isinstance(error, OSError) and error.filename and not isinstance(error, ConnectionError):
        return f"A file on this machine cannot be written {reason}. Choose another folder with SPAM_CACHE."
    if scheme == "hf":
        from spam.hub import hub_refusal

        return hub_refusal(
            error, "/".join(shown(address).split("://")[1].split("@")[0].split("/")[:3])
        ).advice
    if status in (401, 403) or type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
        log_in = _LOG_IN.get(scheme, "Give a user name and password: https://user:password@host/…")
        return f"Access was refused {reason}. {log_in}"
    if type(error).__name__ == "NoSuchBucket" or "NoSuchBucket" in reason:
        return f"No such bucket {reason}. Check its name."
    if _is_passing(error):
        host = urllib.parse.urlsplit(shown(address)).hostname if scheme in _WEB else "The server"
        return f"{host} cannot be reached {reason}. Check the network and the address, then run the command again."
    return f"Check the address {reason}."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException | None) -> int | None:
    """Find the HTTP status behind an error of any of the packages."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        status = getattr(one, "status", None) or getattr(response, "status_code", None)
        if isinstance(response, dict):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return None


def _is_passing(error: BaseException | None) -> bool:
    """Tell whether the next try may succeed: a broken connection or a busy server."""
    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    names = ("ClientConnectionError", "ClientPayloadError", "TransportError", "HTTPClientError")
    return any(
        isinstance(one, ConnectionError | TimeoutError | EOFError)
        or any(kind.__name__ in names for kind in type(one).__mro__)
        for one in _chain(error)
    )
