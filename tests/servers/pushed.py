"""What the tests of pushing look at: a push, what a bucket holds after it, and in which order it came there."""

from pathlib import Path
from typing import Any

import fsspec
from counting_server import CountingServer

from spam.schemas.store_config import PushConfig
from spam.sharing.push_report import PushReport
from spam.sharing.pushing import push
from spam.store import StoredSection, open_store

ADDRESS = "s3://cohorts/team/small.zarr"


def shared(store: Path, to: Path | str, **options: Any) -> PushReport:
    return push(PushConfig(store=store, to=to, **options))


def held(address: str = ADDRESS) -> dict[str, bytes]:
    """Every object below an address, by its path."""
    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    root = address.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def writes(server: CountingServer) -> list[tuple[str, str]]:
    """Method and path within the store of every request that changed something, in order."""
    return [
        (each.method, each.path.removeprefix("/cohorts/team/small.zarr/"))
        for each in server.requests
        if each.method in ("PUT", "POST", "DELETE")
    ]


def section(store: Path) -> StoredSection:
    return open_store(store, is_read_only=False).section("C2")
