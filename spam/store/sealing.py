"""JSON documents that carry their own digest, so that not one of their bytes can change unnoticed."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from spam.errors import StoreError

from .layout import DIGEST, SPAM

__all__ = ["MOST_BYTES", "read_sealed", "sealed", "sync", "write_durably", "write_sealed"]

_UNSEALED = "0" * 64
_PARTIAL = ".partial"
MOST_BYTES = 1 << 28
"""No index comes near 256 MB: a section of a million spots has one of 100 kB."""


def sealed(document: dict[str, Any]) -> tuple[bytes, str]:
    """Give the bytes of a Zarr ``zarr.json`` with their digest in its attribute ``spam``, and the digest.

    The digest is taken with 64 zeros in its own place.
    """
    document["attributes"][SPAM][DIGEST] = _UNSEALED
    unsealed = (json.dumps(document, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode()
    digest = hashlib.sha256(unsealed).hexdigest()
    return unsealed.replace(_entry(_UNSEALED), _entry(digest)), digest


def write_sealed(path: Path, document: dict[str, Any]) -> str:
    """Write a sealed document and return its digest; the caller holds the lock of what it is the index of.

    The file is replaced in one step and is on the disk when this returns.
    """
    for leftover in path.parent.glob(f"{path.name}.*{_PARTIAL}"):  # of a killed writer
        leftover.unlink()
    data, digest = sealed(document)
    write_durably(path, data)
    return digest


def read_sealed(data: bytes, where: str) -> dict[str, Any]:
    """Parse what `write_sealed` wrote, after comparing its bytes with its digest.

    Raises
    ------
    StoreError
        If it is no JSON object with a digest, or the digest is another than that of the bytes.
    """
    if len(data) > MOST_BYTES:
        raise _broken(where, f"it has {len(data)} bytes, more than any index")
    try:
        document = json.loads(data)
        digest = document["attributes"][SPAM][DIGEST]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(where, f"it is no index with a digest ({type(error).__name__}: {error})") from error
    if not isinstance(digest, str) or len(digest) != len(_UNSEALED) or data.count(_entry(digest)) != 1:
        raise _broken(where, f"its digest is {str(digest)[:80]!r}, expected 64 hexadecimal digits once")
    found = hashlib.sha256(data.replace(_entry(digest), _entry(_UNSEALED))).hexdigest()
    if found != digest:
        raise _broken(where, f"its bytes have the digest {found[:12]}…, it names {digest[:12]}…")
    assert isinstance(document, dict)
    return document


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step; its bytes are on the disk when this returns."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105  atomic on every platform
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk, where the system can."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entry(digest: str) -> bytes:
    """Give the digest as it stands in the file: no string can hold it with these quotes."""
    return json.dumps({DIGEST: digest})[1:-1].encode()


def _broken(where: str, fault: str) -> StoreError:
    message = (
        f"the store is damaged, or was changed by another program, at {where}: {fault}; take a fresh copy of the "
        "store, or write that part again with `spam embed --overwrite`"
    )
    return StoreError(message)
