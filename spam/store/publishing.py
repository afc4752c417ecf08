"""Stores on the Hugging Face Hub, in object stores and in folders: `spam store push` and `spam store pull`."""

import base64
import contextlib
import dataclasses
import hashlib
import re
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # public, but not marked so

from spam.errors import StoreError
from spam.progress import SILENT, Advance, Progress
from spam.schemas.store_config import PullConfig, PushConfig, SelectConfig
from spam.schemas.store_format import QUALITY, FeatureMeta, FileEntry, feature_identity, quality_key

from .copying import (
    Part,
    Plan,
    apply_plans,
    chosen_parts,
    merge_plans,
    named,
    parts_of,
    planned_files,
    require_no_conflicts,
    select,
)
from .feature_store import Store, choose_sections, create_store, open_store, read_root
from .features import feature_names, quality_names, read_feature_meta, unfinished_names
from .layout import (
    IDENTITY,
    INDEX,
    LOCKS,
    META,
    PARTIAL,
    TABLES,
    TABLES_INDEX,
    feature_graph_key,
    inside,
)
from .places import FolderLocation, Location
from .remote import RemoteLocation, is_remote, remote_errors, remote_files, shown
from .section_index import SectionIndex, edited, file_entry, write_whole
from .sharing_terms import dataset_card, require_sharing_allowed, section_licence, sharing_objections
from .stored_section import StoredSection
from .writing import locked_section, root_index, write_root

_README = "README.md"
_HUB_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?")
_N_THREADS = 8  # transfers at a time
_CHANGED_MEANWHILE = 412  # status of a commit on top of another one than asked for


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """Result of `push` and `pull`.

    Attributes
    ----------
    store, to
        Source and destination.
    sections
        Sections of the source that are at the destination now.
    added
        Features and graphs that were transferred, ``section: features 'key'``.
    n_files, n_bytes
        Files that were transferred, and their size.
    replaced
        What differed at the destination and was replaced, and features that were removed because their section was.
    overridden
        Objections to sharing that were overridden.
    unfinished
        Unfinished features, which are not transferred.
    commit
        Commit on the Hub.
    """

    store: str
    to: str
    sections: tuple[str, ...]
    added: tuple[str, ...]
    n_files: int
    n_bytes: int
    replaced: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    commit: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """List what was transferred, replaced, overridden and left out."""
        lines = [f"overridden: {line}" for line in self.overridden]
        lines += [f"left out unfinished features {name}" for name in self.unfinished]
        lines += [f"replaced {line}" for line in self.replaced]
        lines += [f"added {line}" for line in self.added]
        lines.append(f"transferred {self.n_files} files, {self.n_bytes / 1e6:.1f} MB")
        at = "" if self.commit is None else f" (commit {self.commit})"
        return "\n".join([*lines, f"sections {', '.join(self.sections)} are at {self.to}{at}"])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
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
        there = set() if self.old is None else {*feature_names(self.old)} - {*quality_names(self.old)}
        return sorted(there - {*feature_names(self.index)})


def push(config: PushConfig, *, progress: Progress = SILENT) -> TransferReport:
    """Share a store on the Hub, in an object store or in a folder.

    Sections, features and graphs of others at the address stay. What is there and differs is replaced only with
    `overwrite`; a section that is replaced keeps the features of others if they are of the same spots and images. Files
    that are there with the same size and digest are not sent, so a killed push is resumed. On the Hub a push is one commit;
    elsewhere the index of a section comes after its files, so readers never see a part of a change. Data that is removed
    (`without_counts`, …) is removed from a temporary copy in ``TMPDIR``. What an earlier push sent stays in the history of
    a Hub repository.

    Raises
    ------
    StoreError
        If a licence forbids sharing; if content at the address differs (lists it; nothing is sent); if the store is damaged or
        empty; if the address cannot be reached or written to.
    """
    assert config.store is not None  # checked by PushConfig
    assert config.to is not None
    with tempfile.TemporaryDirectory(prefix="spam-push-") as folder:
        store = open_store(config.store)
        unfinished = [
            f"{name}/{key}" for name in store.section_names for key in store.section(name).unfinished_keys
        ]
        if config.without_counts or config.without_coordinates:
            redacted = SelectConfig(
                store=config.store,
                out=Path(folder) / "store",
                without_counts=config.without_counts,
                without_coordinates=config.without_coordinates,
            )
            select(redacted, progress=progress)
            store = open_store(Path(folder) / "store")
        sections = {name: store.section(name) for name in choose_sections(store, ())}
        for section in sections.values():
            if config.licence is not None and section_licence(section.meta) is None:
                section.index = edited(section.index, licence=config.licence)
                section.meta = section.index.meta
        metas = [section.meta for section in sections.values()]
        pushed = [section.feature_meta(key) for section in sections.values() for key in section.feature_keys]
        require_sharing_allowed(metas, pushed, has_the_right=config.i_have_the_right_to_share)
        place = _place(config, Path(folder) / "fetched")
        own = place.sections()
        plans = merge_plans(
            own.values(), [(section, parts_of(section.index)) for section in sections.values()]
        )
        if not config.overwrite:
            advice = "Push to another address, or replace them with --overwrite."
            require_no_conflicts(
                plans, f"{shown(str(config.to))!r} has something else under the same name", advice
            )
        changes = {name: _change(plans[name], section) for name, section in sections.items()}
        replaced = [named(plan.base, part) for plan in plans.values() for part in plan.conflicts]
        replaced += [f"{name}: features {key!r}" for name, change in changes.items() for key in change.lost]
        indexes = {name: section.index for name, section in own.items()}
        indexes |= {name: change.index for name, change in changes.items()}
        readme = _readme(str(config.to), place, indexes)
        with progress.task("pushing", sum(len(change.files) for change in changes.values())) as advance:
            sent = place.apply(store, changes, readme, advance)
    return TransferReport(
        store=str(config.store),
        to=shown(str(config.to)),
        sections=tuple(sections),
        added=tuple(named(section, part) for name, section in sections.items() for part in plans[name].added),
        n_files=len(sent),
        n_bytes=sum(entry.n_bytes for entry in sent),
        replaced=tuple(replaced),
        overridden=sharing_objections(metas, pushed),
        unfinished=tuple(unfinished),
        commit=place.commit,
    )


def _change(plan: Plan, section: StoredSection) -> _Change:
    """Find what the destination lacks of a section."""
    if plan.is_new:
        return _Change(index=section.index, old=None, interim=None)
    old = plan.base.index
    own, ours = parts_of(old), parts_of(section.index)
    if ("section", section.meta.name) in plan.conflicts:
        kept = [nodes for part, nodes in own.items() if part not in ours and _fits(section, old, part)]
        index = edited(section.index, other=old, add=sum(kept, ()))
        return _Change(index=index, old=old, interim=b"")
    # Replaced features take their graph and the quality of their tiles with them.
    keys = [key for kind, key in plan.conflicts if kind == "features"]
    behind: list[Part] = [("graph", feature_graph_key(key)) for key in keys]
    behind += [("features", quality_key(key)) for key in keys]
    dropped = [own[part] for part in dict.fromkeys((*plan.conflicts, *behind)) if part in own]
    remaining = edited(old, drop=sum(dropped, ()))
    added = [nodes for part, nodes in ours.items() if not set(nodes) <= set(remaining.nodes)]
    index = edited(remaining, other=section.index, add=sum(added, ()))
    return _Change(index=index, old=old, interim=remaining.data if dropped else None)


def _fits(section: StoredSection, old: SectionIndex, part: Part) -> bool:
    """Tell whether features (or their quality or graph) of others stay when the section is replaced.

    They do if they were computed from the same spots and images, and the section lacks these features itself.
    """
    key = part[1].removesuffix(f"_{QUALITY}")
    if part[0] == "graph":
        key = part[1].removeprefix(feature_graph_key(""))
    node = f"obsm/{key}"
    if section.meta.spots_sha256 is None or node in section.index.nodes or not old.attribute(node, META):
        return False
    meta = FeatureMeta.from_mapping(old.attribute(node, META))
    return bool(old.attribute(node, IDENTITY) == feature_identity(section.meta, meta))


def _readme(address: str, place: "_Place", indexes: Mapping[str, SectionIndex]) -> bytes:
    features = {
        name: [
            read_feature_meta(index, key, place.location)
            for key in feature_names(index)
            if key not in quality_names(index)
        ]
        for name, index in indexes.items()
    }
    metas = [indexes[name].meta for name in sorted(indexes)]
    return dataset_card(shown(address).rstrip("/"), metas, features).encode()


class _Place:
    """A folder or an object store that a store is pushed to, through fsspec.

    Attributes
    ----------
    location
        What is there.
    commit
        Commit that was made, on the Hub.
    """

    commit: str | None = None

    def __init__(self, address: str, cache: Path) -> None:
        self.address = address
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
            ours = {
                _README,
                LOCKS,
                f"{INDEX}{PARTIAL}",
                ".gitattributes",
            }  # the first may be of a killed push
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

    def apply(
        self,
        source: Store,
        changes: Mapping[str, _Change],
        readme: bytes,
        advance: Advance,
    ) -> list[FileEntry]:
        """Send sections, then root and README; return the files of sections that were sent."""
        if self.location.read_index("") is None:  # so that a killed push leaves a store
            self._put_root(())
        sent = []
        for name, change in changes.items():
            with self._locked(name):
                sent += self._send(source, change, advance)
        self._put_root([*changes])
        self.put(_README, readme)
        self.finish()
        return sent

    def _put_root(self, names: Sequence[str]) -> None:
        """Write the root with `names` and the sections that it names now: others may have pushed meanwhile."""
        if isinstance(self.location, FolderLocation):
            write_root(self.location.path)
            return
        listed = () if self.location.read_index("") is None else read_root(self.location)
        self.put(INDEX, root_index({*listed, *names}))
        self.put(f"{TABLES}/{INDEX}", TABLES_INDEX)

    def _locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from changing a section in a folder; object stores have no locks."""
        if isinstance(self.location, FolderLocation):
            return locked_section(self.location.path, name)
        return contextlib.nullcontext()

    def _send(self, source: Store, change: _Change, advance: Advance) -> list[FileEntry]:
        """Send the files of a section, then its index, and delete files that it does not name."""
        name = change.index.meta.name
        index, found = f"{name}/{INDEX}", self.found(name)
        kept: tuple[str, ...] = ()  # features that `spam embed` has begun in this folder
        if change.old is not None and change.interim != b"":
            kept = tuple(f"{name}/obsm/{key}/" for key in unfinished_names(self.location, change.old))
        if self.location.read_index(name) != (None if change.old is None else change.old.data):
            message = f"Section {name!r} at {shown(self.address)!r} was changed meanwhile. Push again."
            raise StoreError(message)
        if change.interim is not None:
            self.put(index, change.interim) if change.interim else self.delete(index)

        def send(path: str) -> FileEntry | None:
            where, entry = f"{name}/{path}", change.index.files[path]
            data = source.location.read(where, entry)
            is_there = self._has(found.get(where), data)
            if not is_there:
                self.put(where, data, _file(source.location, where))
            advance(note=name)
            return None if is_there else entry

        with ThreadPoolExecutor(_N_THREADS) as pool:
            sent = list(filter(None, pool.map(send, change.files)))
        if change.old is None or change.old.data != change.index.data:
            self.put(index, change.index.data)
        for path in found.keys() - {index, *(f"{name}/{path}" for path in change.index.files)}:
            if not path.startswith(kept):
                self.delete(path)
        return sent

    def _has(self, info: dict[str, Any] | None, data: bytes) -> bool:
        """Tell whether a file that no index names yet has arrived: by its size and MD5 of S3 or Google, or its bytes."""
        if info is None or info["size"] != len(data):
            return False
        if isinstance(self.location, FolderLocation):
            return bool(self.files.cat_file(info["name"]) == data)
        md5 = hashlib.md5(data, usedforsecurity=False)
        etag = str(info.get("ETag")).strip('"')
        return etag == md5.hexdigest() or info.get("md5Hash") == base64.b64encode(md5.digest()).decode()

    def put(self, path: str, data: bytes, file: Path | None = None) -> None:
        """Write a file in one step; `file` has the same bytes on disk."""
        if isinstance(self.location, FolderLocation):
            to = inside(self.location.path, path)
            to.parent.mkdir(parents=True, exist_ok=True)
            write_whole(to, data)
            return
        with remote_errors(self.address, f"writing {path!r}"):
            self.files.pipe_file(f"{self.root}/{path}", data)

    def delete(self, path: str) -> None:
        """Delete a file."""
        with remote_errors(self.address, f"deleting {path!r}"), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(f"{self.root}/{path}")

    def finish(self) -> None:
        """Make the changes visible where they are not yet."""


class _HubPlace(_Place):
    """A dataset of the Hugging Face Hub, or a folder in one, created if necessary: all changes are one commit.

    Large files are sent before the commit and known to the Hub by their digests, so a killed push is resumed.
    """

    def __init__(self, address: str, cache: Path, *, is_private: bool) -> None:
        parts = _HUB_ADDRESS.fullmatch(address.rstrip("/"))
        if parts is None:
            message = f"{shown(address)!r} is not a dataset of the Hub. Write hf://datasets/org/name."
            raise StoreError(message)
        self._repository, self._folder = parts[1], parts[3] or ""
        self._revision = urllib.parse.unquote(parts[2] or "main")
        self._api = HfApi()
        self._operations: dict[str, CommitOperationAdd | CommitOperationDelete] = {}
        with remote_errors(address, "opening the dataset"):
            self._parent = self._head(is_private=is_private)
        super().__init__(f"hf://datasets/{self._repository}@{self._parent}/{self._folder}".rstrip("/"), cache)
        self.address = address

    def _head(self, *, is_private: bool) -> str:
        """Find the last commit; create the repository if there is none."""
        try:
            return str(self._api.dataset_info(self._repository, revision=self._revision).sha)
        except RepositoryNotFoundError as error:
            if error.response is not None and error.response.status_code != 404:
                raise  # gated, or not logged in
        self._api.create_repo(self._repository, repo_type="dataset", private=is_private, exist_ok=True)
        return str(self._api.dataset_info(self._repository, revision=self._revision).sha)

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
                    commit_message="Push a feature store with spam",
                    repo_type="dataset",
                    revision=self._revision,
                    parent_commit=self._parent,
                )
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code == _CHANGED_MEANWHILE:
                message = f"{self._repository!r} was changed while this store was sent. Push again."
                raise StoreError(message) from cause
            raise
        self.commit = str(info.oid)


def _place(config: PushConfig, cache: Path) -> _Place:
    assert config.store is not None
    address = str(config.to)
    if address.startswith("hf://"):
        return _HubPlace(address, cache, is_private=config.private)
    if address.startswith(("http://", "https://")):
        message = f"{shown(address)!r} can only be read. Push to hf://datasets/org/name, s3://bucket/name.zarr or a folder."
        raise StoreError(message)
    path = Path(address.removeprefix("file://"))
    if not is_remote(address) and (path.is_file() or path.resolve() == config.store.resolve()):
        message = f"{path} is a file or the store itself. Push to another folder or address."
        raise StoreError(message)
    return _Place(address, cache)


def _file(location: Location, path: str) -> Path | None:
    return location.path / path if isinstance(location, FolderLocation) else None


class _Fetched(RemoteLocation):
    """A remote store of which files are fetched once, without the cache, and counted."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.fetched: list[FileEntry] = []

    def read(self, path: str, entry: FileEntry) -> bytes:
        """Fetch a file and compare it with its index entry."""
        data = self._fetch(path, entry.n_bytes)
        if data is None or file_entry(data) != entry:
            raise self.damaged(
                path, "it is missing" if data is None else "its bytes are not those of the index"
            )
        self.fetched.append(entry)
        return data


def pull(config: PullConfig, *, progress: Progress = SILENT) -> TransferReport:
    """Fetch a shared store, or some of its sections and features, into a folder.

    Sections, features and graphs that are in the folder already are not fetched again, and a killed run is resumed;
    features that were not asked for before can be added later. Every file is compared with its digest.

    Raises
    ------
    StoreError
        If the address cannot be read, sections or features do not exist, a file is damaged, or the folder has
        something else under the same name (lists it; nothing is written).
    """
    assert config.store is not None  # checked by PullConfig
    assert config.out is not None
    location = _Fetched(str(config.store)) if is_remote(config.store) else open_store(config.store).location
    source = Store(location, is_writable=False)
    sections = [source.section(name) for name in choose_sections(source, config.sections)]
    chosen = chosen_parts(sections, config.features)
    own = open_store(config.out, is_read_only=False) if (config.out / INDEX).is_file() else None
    plans = merge_plans(
        [] if own is None else [own.section(name) for name in own.section_names],
        [(section, chosen[section.meta.name]) for section in sections],
    )
    require_no_conflicts(
        plans, f"{config.out} has something else under the same name", "Pull into another folder."
    )
    files = planned_files(plans.values())
    with progress.task("pulling", len(files)) as advance:
        apply_plans(plans, own or create_store(config.out), advance)
    fetched = location.fetched if isinstance(location, _Fetched) else files
    return TransferReport(
        store=source.address,
        to=str(config.out),
        sections=tuple(section.meta.name for section in sections),
        added=tuple(named(plan.base, part) for plan in plans.values() for part in plan.added),
        n_files=len(fetched),
        n_bytes=sum(entry.n_bytes for entry in fetched),
    )
