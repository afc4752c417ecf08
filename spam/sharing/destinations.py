"""Places that take the files of a store one by one: folders, and object stores. The Hub is in ``hub.py``."""

import abc
import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spam.errors import StoreError
from spam.progress import Advance
from spam.schemas.store_index import FileEntry
from spam.store.index import file_entry
from spam.store.layout import INDEX, STAGING
from spam.store.location import FilePart, FolderLocation, Location
from spam.store.lock import live_locks, locked
from spam.store.remote import RemoteLocation, remote_files
from spam.store.remote_faults import naming_address
from spam.store.sealing import sync, write_durably

from .changed_index import root_of
from .copying import checked_blocks
from .push_plan import PushPlan

__all__ = ["README", "Destination", "FolderDestination", "ObjectDestination", "Sent", "verified"]

README = "README.md"
_JOURNAL = f"{STAGING}/push.json"
_JOURNALLED = 1 << 20  # bytes; what is smaller is sent again as fast as it is looked up


class Sent:
    """What a push has done: files of sections and their bytes, and the commit that it made, where there are commits."""

    def __init__(self) -> None:
        self.n_files = self.n_bytes = self.n_deleted = 0
        self.commit: str | None = None

    def count(self, n_bytes: int) -> None:
        """Count one file that was sent."""
        self.n_files += 1
        self.n_bytes += n_bytes


@runtime_checkable  # for the run-time type checks of the tests
class Destination(Protocol):
    """Where a store is pushed to."""

    location: Location
    """What is there now."""

    def apply(self, plan: PushPlan, advance: Advance) -> Sent:
        """Do what has to be done; `advance` moves on by bytes."""


def verified(source: Location, name: str, entry: FileEntry) -> FilePart:
    """Find a file of the store that is pushed, after comparing all its bytes with its digest.

    Raises
    ------
    StoreError
        As `checked_blocks`.
    """
    for _ in checked_blocks(source, name, entry):
        pass
    part = source.part(name, entry)
    assert part is not None  # it was read
    return part


class _Files(abc.ABC):
    """The order in which files are sent one by one, so that no reader ever meets a mixture (docs/format.md, clause 2)."""

    location: Location

    def apply(self, plan: PushPlan, advance: Advance) -> Sent:
        """Do what has to be done, section by section; the root comes last, then what nobody needs any more goes."""
        sent = Sent()
        if self.location.read_index("") is None:
            self._require_empty()
            self._write(INDEX, root_of(()))
        for change in plan.sections:
            with self._held(change.name):
                if self.location.read_index(change.name) != change.there:
                    message = (
                        f"section {change.name!r} of {self.location.address!r} was changed by somebody else meanwhile; "
                        "push again: what was sent is kept, and is compared with what is there now"
                    )
                    raise StoreError(message)
                if change.interim is not None:
                    self._write(f"{change.name}/{INDEX}", change.interim)
                for path, entry in change.files.items():
                    name = f"{change.name}/{path}"
                    if not self._has(name, entry):
                        self._send(name, verified(plan.source, name, entry), entry)
                        sent.count(entry.n_bytes)
                    advance(entry.n_bytes, note=change.name)
                if not change.is_indexed:
                    self._write(f"{change.name}/{INDEX}", change.index.data)
                    sent.count(len(change.index.data))
        for name, content in ((INDEX, plan.root), (README, plan.readme)):
            if self._read(name) != content:
                self._write(name, content)
        self._forget()
        for change in plan.sections:
            with self._held(change.name):
                if self.location.read_index(change.name) != change.index.data:
                    continue  # somebody has added to it since: what is named now is theirs to tell
                orphans = sorted(self._names(change.name) - change.paths)
                self._delete(orphans)
                sent.n_deleted += len(orphans)
        return sent

    def _require_empty(self) -> None:
        strange = self._listed()
        if strange:
            message = (
                f"{self.location.address!r} is no store, and it is not empty: it holds {', '.join(sorted(strange)[:5])}; "
                "push to an address of its own"
            )
            raise StoreError(message)

    def _held(self, section: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    @abc.abstractmethod
    def _listed(self) -> set[str]:
        """List what lies at the address itself."""

    @abc.abstractmethod
    def _names(self, section: str) -> set[str]:
        """List all files of a section, by path within the store."""

    @abc.abstractmethod
    def _has(self, name: str, entry: FileEntry) -> bool:
        """Tell whether a file has arrived already."""

    @abc.abstractmethod
    def _read(self, name: str) -> bytes | None:
        """Read a small file; None if it is not there."""

    @abc.abstractmethod
    def _write(self, name: str, content: bytes) -> None:
        """Write a small file, in one step."""

    @abc.abstractmethod
    def _send(self, name: str, part: FilePart, entry: FileEntry) -> None:
        """Send a file."""

    @abc.abstractmethod
    def _delete(self, names: Iterable[str]) -> None:
        """Delete files."""

    def _forget(self) -> None:  # noqa: B027  a folder has nothing to forget
        """Put away what was needed to go on after being killed: the indexes name all files now."""


class FolderDestination(_Files):
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = FolderLocation(path)

    @contextlib.contextmanager
    def _held(self, section: str) -> Iterator[None]:
        with locked(self._path, section):
            if writers := live_locks(self._path, section):
                message = (
                    f"another process is writing {', '.join(map(repr, writers))} of store {str(self._path)!r}; wait for "
                    "it, and push again"
                )
                raise StoreError(message)
            yield

    def _listed(self) -> set[str]:
        return {path.name for path in self._path.iterdir()} - {STAGING} if self._path.exists() else set()

    def _names(self, section: str) -> set[str]:
        return {
            Path(folder, name).relative_to(self._path).as_posix()
            for folder, _, names in os.walk(self._path / section)
            for name in names
        }

    def _has(self, name: str, entry: FileEntry) -> bool:
        part = self.location.part(name, entry)
        return part is not None and file_entry(part.path) == entry

    def _read(self, name: str) -> bytes | None:
        path = self._path / name
        return path.read_bytes() if path.is_file() else None

    def _write(self, name: str, content: bytes) -> None:
        (self._path / name).parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path / name, content)

    def _send(self, name: str, part: FilePart, entry: FileEntry) -> None:
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.path.open("rb") as source, target.open("wb") as copy:
            while block := source.read(1 << 22):
                copy.write(block)
        sync(target)
        sync(target.parent)

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self._path / name).unlink()
            for folder in (self._path / name).parents:
                if folder == self._path or any(folder.iterdir()):
                    break
                folder.rmdir()


class ObjectDestination(_Files):
    """An address of fsspec (``s3://``, ``gs://``).

    Files that arrived whole, of which the index does not tell yet, are remembered at the address itself, so that a
    push that was killed goes on from any machine.
    """

    def __init__(self, address: str, *, cache: Path) -> None:
        self._address = address
        self._files, self._root = remote_files(address)
        self.location = RemoteLocation(address, cache=cache)
        self._arrived: dict[str, str] | None = None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _below(self, folder: str) -> set[str]:
        with naming_address(self._address, "listing what is there"):
            self._files.invalidate_cache()
            found: dict[str, Any] = self._files.find(folder, withdirs=False)
        return {str(path).removeprefix(f"{self._root}/") for path in found}

    def _listed(self) -> set[str]:
        return {name.split("/")[0] for name in self._below(self._root)} - {STAGING}

    def _names(self, section: str) -> set[str]:
        return self._below(self._at(section))

    def _has(self, name: str, entry: FileEntry) -> bool:
        return entry.n_bytes >= _JOURNALLED and self._journal().get(name) == entry.sha256

    def _read(self, name: str) -> bytes | None:
        with naming_address(self._address, f"reading {name!r}"):
            try:
                return bytes(self._files.cat_file(self._at(name)))
            except FileNotFoundError:
                return None

    def _write(self, name: str, content: bytes) -> None:
        with naming_address(self._address, f"writing {name!r}"):
            self._files.pipe_file(self._at(name), content)

    def _send(self, name: str, part: FilePart, entry: FileEntry) -> None:
        if self._journal().pop(name, None):  # another version of it, which is not there from now on
            self._write(_JOURNAL, json.dumps(self._journal()).encode())
        with naming_address(self._address, f"sending {name!r}"):
            self._files.put_file(str(part.path), self._at(name))
        if entry.n_bytes >= _JOURNALLED:
            self._journal()[name] = entry.sha256
            self._write(_JOURNAL, json.dumps(self._journal()).encode())

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            with naming_address(self._address, f"deleting {name!r}"), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._at(name))

    def _journal(self) -> dict[str, str]:
        """Give name and digest of the large files that have arrived."""
        if self._arrived is None:
            try:
                read = json.loads(self._read(_JOURNAL) or b"{}")
            except ValueError:
                read = {}
            self._arrived = read if isinstance(read, dict) else {}
        return self._arrived

    def _forget(self) -> None:
        if self._journal():
            self._delete([_JOURNAL])
