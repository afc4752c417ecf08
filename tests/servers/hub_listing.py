"""What the Hub's server says of the files of a commit, in the Hub's own words."""

import base64
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from hub_access import HubError
from hub_repository import DATE, Entry, HubRepository, pointer


def commit_of(repository: HubRepository, revision: str) -> str:
    """Commit that a revision names."""
    commit = repository.resolve(revision)
    if commit is None:
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


def listed(repository: HubRepository, commit: str) -> set[str]:
    """Paths of all files of a commit and of the folders above them."""
    files = repository.entries(commit)
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
    return (files.keys() | folders) - {"."}


def described(repository: HubRepository, commit: str, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """A file or folder as in a listing; the last commit too, if `expand` is asked for."""
    entry = repository.entries(commit).get(path)
    if entry is None:
        said: dict[str, Any] = {"type": "directory", "oid": commit, "size": 0, "path": path}
    else:
        said = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.is_large:
            size = len(pointer(entry.sha256, entry.size))
            said["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": size}
    if asked.get("expand", "").lower() == "true":
        said["lastCommit"] = {"id": commit, "title": "a commit", "date": DATE}
    return said


def upload_mode(file: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Any]:
    """How a file is to be sent, and what is there under its name: by that the client leaves out what has not changed."""
    sample = base64.b64decode(file["sample"])
    told: dict[str, Any] = {"path": file["path"], "shouldIgnore": False}
    told["uploadMode"] = "regular" if is_text(sample) else "lfs"
    if (entry := entries.get(file["path"])) is not None:
        told["oid"] = entry.sha256 if entry.is_large else entry.oid
    return told


def is_text(sample: bytes) -> bool:
    """Whether the first bytes of a file are ASCII without NUL; UTF-8 might be cut within a character."""
    return sample.isascii() and b"\0" not in sample
