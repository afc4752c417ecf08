"""One data set of the Hub as the server keeps it: contents by their SHA-256 on disk, commits as tables of entries."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_xet import XetStorage

DATE = "2026-01-01T00:00:00.000Z"  # of every commit; nothing here depends on when
GIT_ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"  # the Hub's first commit


class CommitError(Exception):
    """A commit that the Hub would refuse; `status` is its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Entry:
    """A file of one commit; `oid` is git's, of the content or, for a large file, of the pointer to it."""

    sha256: str
    oid: str
    size: int
    is_large: bool


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """Content of the file that git keeps in the place of a large one."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class HubRepository:
    """A data set: its branches, its commits and, below `folder`, the contents."""

    def __init__(self, repo_id: str, folder: Path, *, is_private: bool = False) -> None:
        self.repo_id = repo_id
        self.folder = folder / "contents"
        self.xet = XetStorage(folder / "xet")
        self.is_private = is_private
        self.is_gated = False
        self.awaited: set[str] = set()  # large contents that a client was told to send
        self.commits: dict[str, dict[str, Entry]] = {}
        self.branches: dict[str, str] = {}
        self.lock = threading.Lock()
        self.folder.mkdir(parents=True)
        self._record("main", {".gitattributes": self._regular(GIT_ATTRIBUTES)}, "initial commit")

    def resolve(self, revision: str) -> str | None:
        """Commit of a branch or, if it is one, of a commit's own name."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def entries(self, revision: str = "main") -> dict[str, Entry]:
        return self.commits[self.branches.get(revision, revision)]

    def files(self, revision: str = "main") -> dict[str, Path]:
        """Where the content of each file of a revision lies on disk."""
        return {path: self.content(entry.sha256) for path, entry in self.entries(revision).items()}

    def content(self, sha256: str) -> Path:
        return self.folder / sha256

    def keep(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        # A client sends equal files at the same time.
        partial = self.content(f"{sha256}.{threading.get_ident()}")
        partial.write_bytes(content)
        partial.replace(self.content(sha256))
        return sha256

    def commit(self, branch: str, lines: Iterable[bytes]) -> str:
        """Apply a commit as the client sends it (one JSON object a line); all of it or nothing."""
        with self.lock:
            header: dict[str, Any] = {}
            entries = dict(self.entries(branch))
            items = [json.loads(line) for line in lines if line]
            oids = {item["value"]["oid"] for item in items if item["key"] == "lfsFile"}
            self.xet.fetch({oid: self.content(oid) for oid in oids if not self.content(oid).exists()})
            for item in items:
                value = item["value"]
                match item["key"]:
                    case "header":
                        header = value
                    case "file":
                        entries[value["path"]] = self._regular(base64.b64decode(value["content"]))
                    case "lfsFile":
                        entries[value["path"]] = self._large(value["oid"])
                    case "deletedFile":
                        if entries.pop(value["path"], None) is None:
                            raise CommitError(404, f"A file with this name doesn't exist: {value['path']}")
                    case "deletedFolder":
                        prefix = value["path"].rstrip("/") + "/"
                        entries = {
                            path: kept for path, kept in entries.items() if not path.startswith(prefix)
                        }
            if header.get("parentCommit", self.branches[branch]) != self.branches[branch]:
                raise CommitError(412, "A commit has happened since. Please refresh and try again.")
            return self._record(branch, entries, header["summary"])

    def _regular(self, content: bytes) -> Entry:
        return Entry(self.keep(content), git_oid(content), len(content), is_large=False)

    def _large(self, sha256: str) -> Entry:
        if not self.content(sha256).exists():
            raise CommitError(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = self.content(sha256).stat().st_size
        return Entry(sha256, git_oid(pointer(sha256, size)), size, is_large=True)

    def _record(self, branch: str, entries: dict[str, Entry], summary: str) -> str:
        tree = {path: entry.oid for path, entry in sorted(entries.items())}
        named = json.dumps([self.branches.get(branch), tree, summary])
        commit = hashlib.sha1(named.encode()).hexdigest()
        self.commits[commit] = dict(sorted(entries.items()))
        self.branches[branch] = commit
        return commit
