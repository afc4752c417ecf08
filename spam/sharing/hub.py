"""Datasets of the Hugging Face Hub as a place to push a store to: one commit, of what changed."""

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are public, but not marked as such
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from spam.errors import StoreError
from spam.progress import Advance
from spam.schemas.store_index import FileEntry
from spam.store.layout import INDEX
from spam.store.location import Location
from spam.store.remote import RemoteLocation
from spam.store.remote_faults import naming_address, shown

from .destinations import README, Sent, verified
from .push_plan import PushPlan

__all__ = ["HubDestination"]

_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?")
_MOST_FILES = 100_000
_ABSENT, _CHANGED_MEANWHILE = 404, 412


class HubDestination:
    """A dataset of the Hub, or a folder in one; the repository is made if it is not there.

    All changes are one commit on top of the one that was looked at: a reader sees the store before or after it. Large
    files are sent before the commit and are known to the Hub by their digests, so a push that was killed goes on.

    Parameters
    ----------
    address
        ``hf://datasets/org/name``, also with ``@branch`` and a folder.
    cache
        Folder for the indexes that are fetched.
    is_private
        Whether a repository that is made is a private one.

    Raises
    ------
    StoreError
        If it is no such address, or the repository can be neither read nor made (says why).
    """

    def __init__(self, address: str, *, cache: Path, is_private: bool) -> None:
        self._address = address
        parts = _ADDRESS.fullmatch(address.rstrip("/"))
        if parts is None:
            message = (
                f"{shown(address)!r} is no dataset of the Hub; write the address as hf://datasets/org/name"
            )
            raise StoreError(message)
        self._repository, self._folder = parts[1], parts[3] or ""
        self._revision = urllib.parse.unquote(parts[2] or "main")
        self._api = HfApi()
        with naming_address(address, "opening the dataset"):
            self._parent = self._head(is_private=is_private)
        at = f"hf://datasets/{self._repository}@{self._parent}/{self._folder}"
        self.location: Location = RemoteLocation(at.rstrip("/"), cache=cache)

    def _head(self, *, is_private: bool) -> str:
        """Find the commit that is there, in a repository that is made if there is none."""
        try:
            return str(self._api.dataset_info(self._repository, revision=self._revision).sha)
        except RepositoryNotFoundError as error:
            if error.response is not None and error.response.status_code != _ABSENT:
                raise  # gated, or nobody is logged in
        self._api.create_repo(self._repository, repo_type="dataset", private=is_private, exist_ok=True)
        return str(self._api.dataset_info(self._repository, revision=self._revision).sha)

    def apply(self, plan: PushPlan, advance: Advance) -> Sent:
        """Send what changed and make one commit of it; none if nothing did.

        Raises
        ------
        StoreError
            If the Hub refuses (says why), somebody else pushed meanwhile, or the files are too many for the Hub.
        """
        sent = Sent()
        with naming_address(self._address, "pushing"), _no_bars():
            there = self._files()
            small = {INDEX: plan.root, README: plan.readme}
            small |= {f"{change.name}/{INDEX}": change.index.data for change in plan.sections}
            named = {name for change in plan.sections for name in change.paths} | small.keys()
            orphans = {
                name
                for name in there - named
                if any(name.startswith(f"{change.name}/") for change in plan.sections)
            }
            self._check_number((there | named) - orphans)
            operations: list[CommitOperationAdd | CommitOperationDelete] = []
            for change in plan.sections:
                added = [
                    self._addition(plan.source, f"{change.name}/{path}", entry)
                    for path, entry in change.files.items()
                ]
                self._api.preupload_lfs_files(
                    self._repository, added, repo_type="dataset", revision=self._revision
                )
                for entry in change.files.values():
                    sent.count(entry.n_bytes)
                if not change.is_indexed:
                    sent.count(len(change.index.data))
                advance(change.n_bytes, note=change.name)
                operations += added
            unchanged = {f"{change.name}/{INDEX}" for change in plan.sections if change.is_indexed}
            operations += [
                CommitOperationAdd(self._at(name), content)
                for name, content in small.items()
                if name not in unchanged
            ]
            operations += [CommitOperationDelete(self._at(name)) for name in sorted(orphans)]
            sent.n_deleted = len(orphans)
            sent.commit = self._commit(operations)
        return sent

    def _commit(self, operations: list[CommitOperationAdd | CommitOperationDelete]) -> str:
        try:
            commit = self._api.create_commit(
                self._repository,
                operations,
                commit_message="Push a feature store with spam",
                repo_type="dataset",
                revision=self._revision,
                parent_commit=self._parent,
            )
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != _CHANGED_MEANWHILE:
                raise
            message = (
                f"{shown(self._address)!r} was changed by somebody else while this store was sent; push again: what was sent "
                "is kept, and is compared with what is there now"
            )
            raise StoreError(message) from error
        return str(commit.oid)

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}".lstrip("/")

    def _files(self) -> set[str]:
        """List all files of the commit that was looked at, by path within the store."""
        tree = self._api.list_repo_tree(
            self._repository, repo_type="dataset", revision=self._parent, recursive=True
        )
        prefix = self._at("")
        return {
            entry.path.removeprefix(prefix)
            for entry in tree
            if isinstance(entry, RepoFile) and entry.path.startswith(prefix)
        }

    def _check_number(self, files: set[str]) -> None:
        if len(files) >= _MOST_FILES:
            message = (
                f"the store would have {len(files):,} files at {shown(self._address)!r}, and the Hub takes fewer than "
                f"{_MOST_FILES:,}; push some of its sections to another dataset: `spam store select … --sections …`, then "
                "push the copy"
            )
            raise StoreError(message)

    def _addition(self, source: Location, name: str, entry: FileEntry) -> CommitOperationAdd:
        return CommitOperationAdd(self._at(name), verified(source, name, entry).path)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the Hub's own progress bars from being drawn over ours."""
    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
