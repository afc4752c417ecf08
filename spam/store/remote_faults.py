"""What goes wrong with a remote address, in words: why, and what to do next; and never a secret.

Every kind of address has a package of its own, with errors of its own. They are told apart by what they have in common:
a status of HTTP, a class of the standard library, or a name.
"""

import asyncio
import contextlib
import errno
import re
import urllib.parse
from collections.abc import Iterator

from spam.errors import StoreError

__all__ = ["is_passing", "naming_address", "require_plain", "scrubbed", "shown"]

_LOG_IN = {
    "hf": "log in with `hf auth login`, or set HF_TOKEN, as somebody who may",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of an account that may",
    "gs": "log in with `gcloud auth application-default login` as somebody who may",
    "gcs": "log in with `gcloud auth application-default login` as somebody who may",
}
_NO_ACCOUNT = ("NoCredentialsError", "LocalTokenNotFoundError", "DefaultCredentialsError")
_NO_PLACE = ("NoSuchBucket", "RepositoryNotFoundError", "RevisionNotFoundError")
_ABSENT = 404
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def shown(address: str) -> str:
    """Give an address as it may be shown: without a user name and a password, and without what follows a ``?``."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", address.split("?")[0])


def scrubbed(text: str) -> str:
    """Take out of a message of others what may be a secret: passwords, signatures, tokens."""
    text = re.sub(r"(\w+://)[^/@\s]*@", r"\1", text)
    text = re.sub(r"\?[^\s'\"]+", "?…", text)
    text = re.sub(r"\bhf_\w+|Bearer \S+", "…", text)
    return " ".join(text.split())[:300]


def require_plain(address: str) -> None:
    """Refuse an address that names one file by what follows a ``?``, such as a signature.

    Raises
    ------
    StoreError
        If it does.
    """
    if "?" in address:
        message = (
            f"the address {shown(address)!r} goes on after a '?': that is one of a single file, and a store is many; give "
            "the folder of the store, and a name and password, if it needs them, as https://name:password@host/…"
        )
        raise StoreError(message)


def is_passing(error: BaseException) -> bool:
    """Tell whether what went wrong may be gone at the next try: a broken connection, a busy server."""
    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    return _is_network(error) and not _names(error, _NO_ACCOUNT)


@contextlib.contextmanager
def naming_address(address: str, what: str) -> Iterator[None]:
    """Turn whatever a file system raises into one message: what could not be done, where, why, and what to do next.

    Raises
    ------
    FileNotFoundError
        If the place is there, and a file in it is not.
    StoreError
        In place of any other error.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not _names(error, _NO_PLACE) and (
            isinstance(error, FileNotFoundError) or _status(error) == _ABSENT
        ):
            raise FileNotFoundError(shown(address)) from error
        message = f"{what} at {shown(address)!r} failed: {_reason(address, error)}"
        raise StoreError(message) from error


def _reason(address: str, error: Exception) -> str:
    scheme = address.split("://")[0]
    said = scrubbed(f"{type(error).__name__}: {error}")
    status = _status(error)
    log_in = _LOG_IN.get(
        scheme, "ask whoever shares it to let you, or give a name and password in the address"
    )
    if any(isinstance(one, OSError) and (one.filename or one.errno in _FULL) for one in _chain(error)):
        return (
            f"a file cannot be read or written on this machine ({said}); make room or give the right to, or name another "
            "folder for what is fetched with SPAM_CACHE"
        )
    if _names(error, ("GatedRepoError",)):
        page = f"https://huggingface.co/{_repository(address)}"
        return f"access to this data set is given on request ({said}); ask for it on {page}, then {log_in}"
    if _names(error, _NO_ACCOUNT):
        return f"nobody is logged in ({said}); {log_in}"
    if _names(error, _NO_PLACE):
        return (
            f"there is no such {'repository or revision' if scheme == 'hf' else 'bucket'}, or it is hidden from you "
            f"({said}); look at its name, and if it is right {log_in}"
        )
    if status in (401, 403):
        return f"it is not allowed ({said}); {log_in}"
    if _is_network(error):
        host = urllib.parse.urlsplit(shown(address)).hostname if scheme in ("http", "https") else None
        return (
            f"{host or 'the server'} cannot be reached or broke off ({said}); look at the network of this machine and at "
            "the address, and run the same command again: what has arrived is kept"
        )
    again = "it may pass: run" if is_passing(error) else "look at the address, then run"
    return f"{said}; {again} the same command again: what has arrived is kept"


def _repository(address: str) -> str:
    return "/".join(shown(address).split("://")[1].split("@")[0].split("/")[:3])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _names(error: BaseException, names: tuple[str, ...]) -> bool:
    """Tell by their names whether an error, or one that it came from, is one of some: not all packages are installed."""
    return any(kind.__name__ in names for one in _chain(error) for kind in type(one).__mro__)


def _status(error: BaseException) -> int | None:
    """Find the status of HTTP that an error speaks of."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        status = getattr(one, "status", None) or getattr(response, "status_code", None)
        if isinstance(response, dict):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return None


def _is_network(error: BaseException) -> bool:
    kinds = (ConnectionError, TimeoutError, asyncio.TimeoutError, EOFError)
    names = (
        "ClientConnectionError",  # aiohttp: no connection
        "ClientPayloadError",  # aiohttp: it ended before all was there
        "TransportError",  # httpx
        "HTTPClientError",  # botocore
    )
    return any(isinstance(one, kinds) for one in _chain(error)) or _names(error, names)
