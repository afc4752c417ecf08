"""Where a store or a checkpoint is pushed to: a folder, an object store, or a repository of the Hugging Face Hub."""

import base64
import contextlib
import dataclasses
import hashlib
import random
import re
import secrets
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import fsspec
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # public, but not marked so

from spam.atomic import PARTIAL, replacing
from spam.errors import StoreError
from spam.progress import Advance
from spam.schemas.store_format import FileEntry

from .feature_store import Store, read_root
from .layout import INDEX, LOCKS, TABLES, TABLES_INDEX, inside
from .places import FolderLocation, Location
from .remote import RemoteLocation, is_remote, remote_errors, remote_files, shown
from .section_index import SectionIndex, file_entry, is_below
from .stored_section import StoredSection
from .writing import LOCK_WAIT_S, locked_section, root_index, write_root

README = "README.md"
Kind = Literal["dataset", "model"]
_HUB_ROOTS: dict[Kind, str] = {"dataset": "hf://datasets/", "model": "hf://(?!datasets/|spaces/)"}
_HUB_EXAMPLES: dict[Kind, str] = {"dataset": "hf://datasets/org/name", "model": "hf://org/name"}
_N_THREADS = 8  # transfers at a time
_CHANGED_MEANWHILE = 412  # status of a commit on top of another one than asked for
_CLAIM_LASTS = timedelta(hours=6)  # in an object store
_PAUSE_S = 1.0  # between two tries to claim


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What changes for one section at the destination.

    Attributes
    ----------
    index
        Its index afterwards.
    old
        Its index now, or None.
    interim
        Its index while files are replaced that it names now: None if there are none, empty if all may be replaced.
    """

    index: SectionIndex
    old: SectionIndex | None
    interim: bytes | None

    @property
    def files(self) -> dict[str, FileEntry]:
        """Files to send, by path within the section."""
        there = {} if self.old is None else self.old.files
        return {path: entry for path, entry in self.index.files.items() if there.get(path) != entry}

    @property
    def lost(self) -> list[str]:
        """Features that the section has now and will not have afterwards, sorted."""
        return [] if self.old is None else sorted({*self.old.feature_keys} - {*self.index.feature_keys})


class Destination:
    """A folder or an object store that is pushed to, through fsspec.

    Attributes
    ----------
    location
        What is there.
    commit
        Commit that was made, on the Hub.
    pinned
        Address of what was pushed; with the commit, on the Hub.
    """

    commit: str | None = None

    def __init__(self, address: str, cache: Path | None = None) -> None:
        self.address = self.pinned = address
        if is_remote(address):
            self.files, self.root = remote_files(address)
            self.location: Location = RemoteLocation(address, cache=cache)
        else:
            folder = Path(address.removeprefix("file://")).resolve()
            self.files, self.root = fsspec.filesystem("file"), str(folder)
            self.location = FolderLocation(folder)

    def sections(self) -> dict[str, StoredSection]:
        """Open the sections that are there.

        Raises
        ------
        StoreError
            If there is something else than a store.
        """
        if self.location.read_index("") is None:
            # All but the last may be of a killed push.
            ours = {README, LOCKS, f"{INDEX}{PARTIAL}", ".gitattributes"}
            others = {path.split("/")[0] for path in self.found("")} - ours
            if others:
                message = f"{shown(self.address)!r} is not empty and no store: it has {', '.join(sorted(others)[:5])}."
                raise StoreError(message)
            return {}
        store = Store(self.location, is_writable=False)
        # The root also names a section that a killed push was replacing, which has no index.
        names = [name for name in store.section_names if self.location.read_index(name) is not None]
        return {name: store.section(name) for name in names}

    def found(self, folder: str) -> dict[str, dict[str, Any]]:
        """List the files below a folder, by path within the store, with the details of fsspec."""
        self.files.invalidate_cache()
        with remote_errors(self.address, "listing files"), contextlib.suppress(FileNotFoundError):
            found = self.files.find(f"{self.root}/{folder}".rstrip("/"), detail=True)
            return {str(path).removeprefix(f"{self.root}/"): info for path, info in found.items()}
        return {}

    def apply(self, changes: Sequence[tuple[Location, Change]], advance: Advance) -> list[FileEntry]:
        """Send changes, each with where its files are, then the root; return the files of sections that were sent."""
        if self.location.read_index("") is None:  # so that a killed push leaves a store
            self._put_root(())
        sent = []
        names = [change.index.meta.name for _, change in changes]
        for name, (source, change) in zip(names, changes, strict=True):
            with self._locked(name):
                sent += self.send(source, change, advance)
        self._put_root(names)
        return sent

    def _put_root(self, names: Sequence[str]) -> None:
        """Write the root with `names` and the sections that it names now: others may have pushed meanwhile."""
        if isinstance(self.location, FolderLocation):
            write_root(self.location.path)
            return
        with self._locked(INDEX):
            listed = () if self.location.read_index("") is None else read_root(self.location)
            self.put(INDEX, root_index({*listed, *names}))
            self.put(f"{TABLES}/{INDEX}", TABLES_INDEX)

    def _locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from changing a section, or the root."""
        if isinstance(self.location, FolderLocation):
            return locked_section(self.location.path, name)
        return self._claimed(f"{LOCKS}/{name}")

    @contextlib.contextmanager
    def _claimed(self, folder: str) -> Iterator[None]:
        """Lock in an object store, which has no locks: a file in `folder` until the end of the ``with`` block.

        A push that sees another claim deletes its own and tries again later. So no two hold one, because object stores
        list everything that was written before. A killed push leaves its claim, which counts for six hours by the clock
        of the store.
        """
        until, own = time.monotonic() + LOCK_WAIT_S, f"{folder}/{secrets.token_hex(8)}"
        while True:
            try:
                self.put(own, b"")
                made = {}
                for path, info in self.found(folder).items():
                    # It may be deleted meanwhile.
                    with (
                        contextlib.suppress(FileNotFoundError),
                        remote_errors(self.address, "reading a claim"),
                    ):
                        made[path] = self.files.modified(info["name"])
                others = [path for path, at in made.items() if path != own and made[own] - at < _CLAIM_LASTS]
                if not others:
                    for path in made.keys() - {own}:
                        self.delete(path)
                    yield
            except BaseException:
                with contextlib.suppress(StoreError):
                    self.delete(own)
                raise
            self.delete(own)
            if not others:
                return
            if time.monotonic() > until:
                what, place = folder.removeprefix(f"{LOCKS}/"), shown(self.address).rstrip("/")
                message = (
                    f"{what!r} at {place!r} is being pushed by another process. Push again later; if that push was killed, "
                    f"delete {place}/{others[0]}."
                )
                raise StoreError(message)
            time.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # two that saw each other must not meet again

    def read(self, path: str) -> bytes:
        """Read a file; empty if there is none."""
        with contextlib.suppress(FileNotFoundError), remote_errors(self.address, f"reading {path!r}"):
            return bytes(self.files.cat_file(f"{self.root}/{path}"))
        return b""

    def _require_index(self, name: str, data: bytes | None) -> None:
        """Raise StoreError if the index of a section is not `data`."""
        if self.location.read_index(name) != data:
            message = (
                f"Section {name!r} at {shown(self.address)!r} was changed meanwhile. Run the command again."
            )
            raise StoreError(message)

    def send(self, source: Location, change: Change, advance: Advance) -> list[FileEntry]:
        """Send the files of a section that are not there, then its index; delete files of what it replaces.

        The caller holds the lock of the section. Each file of the source is compared with its digest. Files of others that
        no index names are kept, such as features that `spam embed` has begun, unless the whole section is new or replaced.
        """
        if change.old is not None and change.old.data == change.index.data:
            return []
        name = change.index.meta.name
        index, found, files = f"{name}/{INDEX}", self.found(name), change.files
        there = None if change.old is None else change.old.data
        self._require_index(name, there)
        if change.interim is not None:
            self.put(index, change.interim) if change.interim else self.delete(index)
            there = change.interim or None

        def send(path: str) -> FileEntry | None:
            where, entry = f"{name}/{path}", change.index.files[path]
            is_there = self._has(found.get(where), where, entry, source)
            if not is_there:
                self.put(where, source.read(where, entry), _file(source, where))
            advance(note=name)
            return None if is_there else entry

        with ThreadPoolExecutor(_N_THREADS) as pool:
            sent = list(filter(None, pool.map(send, files)))
        self._require_index(name, there)  # by a push after six hours
        outdated = {path.removeprefix(f"{name}/") for path in found} - {INDEX, *change.index.files}
        if change.old is not None and change.interim != b"":
            arrays = [path for path, node in change.index.nodes.items() if node["node_type"] == "array"]
            arrays = [path for path in arrays if change.index.below(path).keys() & files.keys()]
            outdated = {path for path in outdated if path in change.old.files or is_below(path, arrays)}
        for path in outdated:  # before the index: a killed push is repeated
            self.delete(f"{name}/{path}")
        self.put(index, change.index.data)
        return sent

    def _has(self, info: dict[str, Any] | None, path: str, entry: FileEntry, source: Location) -> bool:
        """Tell whether a file that no index names yet has arrived: by its size and MD5 of S3 or Google, or its bytes."""
        if info is None or info["size"] != entry.n_bytes:
            return False
        if isinstance(self.location, FolderLocation):
            return file_entry(Path(info["name"]).read_bytes()) == entry
        md5 = hashlib.md5(source.read(path, entry), usedforsecurity=False)
        etag = str(info.get("ETag")).strip('"')
        return etag == md5.hexdigest() or info.get("md5Hash") == base64.b64encode(md5.digest()).decode()

    def put(self, path: str, data: bytes, file: Path | None = None) -> None:
        """Write a file in one step; `file` has the same bytes on disk."""
        if isinstance(self.location, FolderLocation):
            to = inside(self.location.path, path)
            to.parent.mkdir(parents=True, exist_ok=True)
            with replacing(to, is_locked="/" in path) as partial:
                partial.write_bytes(data)
            return
        with remote_errors(self.address, f"writing {path!r}"):
            self.files.pipe_file(f"{self.root}/{path}", data)

    def delete(self, path: str) -> None:
        """Delete a file."""
        with remote_errors(self.address, f"deleting {path!r}"), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(f"{self.root}/{path}")

    def finish(self) -> None:
        """Make the changes visible where they are not yet."""


class _HubDestination(Destination):
    """A repository of the Hugging Face Hub, or a folder in one, created if necessary: all changes are one commit.

    Large files are sent before the commit and known to the Hub by their digests, so a killed push is resumed.
    """

    def __init__(self, address: str, cache: Path, kind: Kind, *, is_private: bool) -> None:
        form = rf"({_HUB_ROOTS[kind]})([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?"
        parts = re.fullmatch(form, address.rstrip("/"))
        if parts is None:
            message = f"{shown(address)!r} is not a {kind} of the Hub. Write {_HUB_EXAMPLES[kind]}."
            raise StoreError(message)
        self._kind = kind
        self._repository, self._folder = parts[2], parts[4] or ""
        self._revision = urllib.parse.unquote(parts[3] or "main")
        self._api = HfApi()
        self._operations: dict[str, CommitOperationAdd | CommitOperationDelete] = {}
        with remote_errors(address, "opening the repository"):
            self._parent = self._head(is_private=is_private)
        self._root = f"{parts[1]}{self._repository}"
        super().__init__(f"{self._root}@{self._parent}/{self._folder}".rstrip("/"), cache)
        self.address = address

    def _head(self, *, is_private: bool) -> str:
        """Find the last commit; create the repository if there is none."""
        kind: dict[str, Any] = {"repo_type": self._kind}
        try:
            return str(self._api.repo_info(self._repository, revision=self._revision, **kind).sha)
        except RepositoryNotFoundError as error:
            if error.response is not None and error.response.status_code != 404:
                raise  # gated, or not logged in
        self._api.create_repo(self._repository, private=is_private, exist_ok=True, **kind)
        return str(self._api.repo_info(self._repository, revision=self._revision, **kind).sha)

    def _locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Lock nothing: a commit on top of another one than was read is refused."""
        return contextlib.nullcontext()

    def _require_index(self, name: str, data: bytes | None) -> None:
        """Compare nothing, as for the same reason."""

    def put(self, path: str, data: bytes, file: Path | None = None) -> None:
        """Add a file to the commit."""
        where = f"{self._folder}/{path}".lstrip("/")
        self._operations[path] = CommitOperationAdd(where, data if file is None else str(file))

    def delete(self, path: str) -> None:
        """Delete a file in the commit."""
        self._operations[path] = CommitOperationDelete(f"{self._folder}/{path}".lstrip("/"))

    def finish(self) -> None:
        """Commit on top of the commit that was read.

        Raises
        ------
        StoreError
            If the Hub refuses, or another push came first.
        """
        disable_progress_bars()
        try:
            with remote_errors(self.address, "pushing"):
                info = self._api.create_commit(
                    self._repository,
                    self._operations.values(),
                    commit_message="Push with spam",
                    repo_type=self._kind,
                    revision=self._revision,
                    parent_commit=self._parent,
                )
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code == _CHANGED_MEANWHILE:
                message = f"{self._repository!r} was changed while this was sent. Push again."
                raise StoreError(message) from cause
            raise
        self.commit = str(info.oid)
        self.pinned = f"{self._root}@{self.commit}/{self._folder}".rstrip("/")


def destination(
    address: str, cache: Path, kind: Kind, *, source: Path, is_private: bool = True
) -> Destination:
    """Find where a push goes.

    Parameters
    ----------
    address
        Address or folder.
    cache
        Folder for files that are fetched from there.
    kind
        Repository of the Hub: a dataset for a store, a model for a checkpoint.
    source
        What is pushed.
    is_private
        Whether a new repository is private.

    Raises
    ------
    StoreError
        If the address cannot be written to, or is the source itself.
    """
    if address.startswith("hf://"):
        return _HubDestination(address, cache, kind, is_private=is_private)
    if address.startswith(("http://", "https://")):
        message = f"{shown(address)!r} can only be read. Push to {_HUB_EXAMPLES[kind]}, s3://bucket/name or a folder."
        raise StoreError(message)
    path = Path(address.removeprefix("file://"))
    if not is_remote(address) and (path.is_file() or path.resolve() == source.resolve()):
        message = f"{path} is a file or the source itself. Push to another folder or address."
        raise StoreError(message)
    return Destination(address, cache)


def _file(location: Location, path: str) -> Path | None:
    return location.path / path if isinstance(location, FolderLocation) else None
