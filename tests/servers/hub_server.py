"""The endpoints of the Hugging Face Hub that huggingface_hub calls for data sets and models, on loopback and in memory.

Files whose first bytes are not text go through the LFS protocol, as on the Hub. `point_at_hub` in ``pointing.py`` points the
client of this process at it.
"""

import base64
import hashlib
import io
import json
from pathlib import PurePosixPath
from typing import Any

from counting_server import CountingServer
from werkzeug.routing import Map, Rule
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

API = "/api/<any(datasets, models):kind>/<owner>/<name>"
RULES = {
    "whoami": ("GET", "/api/whoami-v2"),
    "create": ("POST", "/api/repos/create"),
    "validate": ("POST", "/api/validate-yaml"),
    "info_of_main": ("GET", API),
    "info": ("GET", f"{API}/revision/<path:revision>"),
    "tree": ("GET", f"{API}/tree/<revision>"),
    "tree_below": ("GET", f"{API}/tree/<revision>/<path:path>"),
    "paths_info": ("POST", f"{API}/paths-info/<path:revision>"),
    "preupload": ("POST", f"{API}/preupload/<path:revision>"),
    "commit": ("POST", f"{API}/commit/<path:revision>"),
    "batch": ("POST", "{}/<owner>/<name>.git/info/lfs/objects/batch"),
    "upload": ("PUT", "/lfs/<owner>/<name>/<sha256>"),
    "read": ("GET", "{}/<owner>/<name>/resolve/<revision>/<path:path>"),
}
PLACES = {"datasets": "/datasets", "models": ""}  # of the pages of each kind


class HubError(Exception):
    """An answer that is a refusal; `code` decides the class of error in the client."""

    def __init__(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.response = Response(json.dumps({"error": message}), status, mimetype="application/json")
        self.response.headers.update({**(headers or {}), "X-Error-Message": message})
        if code:
            self.response.headers["X-Error-Code"] = code


class Repository:
    """A data set or model: commits as tables of contents, the last of them, and the large contents that arrived."""

    def __init__(self, *, is_private: bool, kind: str = "datasets") -> None:
        self.is_private, self.is_gated, self.kind = is_private, False, kind
        self.uploads: dict[str, bytes] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.head = ""
        self.record({".gitattributes": b"*.bin filter=lfs\n"})

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the last commit."""
        return self.commits[self.head]

    def record(self, files: dict[str, bytes]) -> None:
        text = json.dumps([self.head, {path: sha256(data) for path, data in sorted(files.items())}])
        self.head = hashlib.sha1(text.encode()).hexdigest()
        self.commits[self.head] = files


class HubServer(CountingServer):
    """Repositories with one branch, by ``owner/name``; `token` may do all, `stranger_token` may read what is public."""

    token = "hf_owner"
    stranger_token = "hf_stranger"

    def __init__(self) -> None:
        super().__init__(Request.application(self._answer))
        self.repositories: dict[str, Repository] = {}
        self.rules = Map(
            [
                Rule(
                    path.format(place),
                    methods=[verb],
                    endpoint=name,
                    defaults={"kind": kind} if "{}" in path else None,
                )
                for name, (verb, path) in RULES.items()
                for kind, place in (PLACES.items() if "{}" in path else [("", "")])
            ]
        )

    def _answer(self, request: Request) -> Response:
        name, matched = self.rules.bind_to_environ(request.environ).match()
        found: dict[str, Any] = dict(matched)
        try:
            if "owner" in found:
                repo_id, kind = f"{found.pop('owner')}/{found.pop('name')}", found.pop("kind", None)
                found["repository"] = self._shown(request, repo_id, name, kind)
            if request.method == "POST" and name not in ("validate", "paths_info"):
                self._check_write(request)
            reply = getattr(self, f"_{name}")(request, **found)
        except HubError as error:
            return error.response
        return (
            reply if isinstance(reply, Response) else Response(json.dumps(reply), mimetype="application/json")
        )

    def _user(self, request: Request) -> str | None:
        sent = request.headers.get("Authorization")
        users = {None: None, f"Bearer {self.token}": "owner", f"Bearer {self.stranger_token}": "stranger"}
        if sent not in users:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return users[sent]

    def _check_write(self, request: Request) -> None:
        if (user := self._user(request)) != "owner":
            raise HubError(403 if user else 401, None, "You don't have the rights to write to this namespace")

    def _shown(self, request: Request, repo_id: str, endpoint: str, kind: str | None) -> Repository:
        user = "owner" if endpoint == "upload" else self._user(request)  # an upload address is signed
        repository = self.repositories.get(repo_id)
        is_other = repository is not None and kind not in (None, repository.kind)
        if repository is None or is_other or (repository.is_private and user != "owner"):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if repository.is_gated and endpoint == "read" and user != "owner":
            raise HubError(403 if user else 401, "GatedRepo", f"Access to dataset {repo_id} is restricted")
        return repository

    def _whoami(self, request: Request) -> Any:
        return {"type": "user", "name": self._user(request), "orgs": [], "auth": {"type": "access_token"}}

    def _create(self, request: Request) -> Any:
        asked = request.get_json()
        repo_id = f"{asked['organization'] or 'owner'}/{asked['name']}"
        self.repositories[repo_id] = Repository(
            is_private=asked.get("visibility") == "private"
            or bool(asked.get("private")),  # new and old clients
            kind=f"{asked.get('type', 'model')}s",
        )
        return {"url": f"{self.url}/{asked.get('type', 'model')}s/{repo_id}", "name": repo_id}

    def _validate(self, request: Request) -> Any:
        return {"warnings": [], "errors": []}

    def _info_of_main(self, request: Request, repository: Repository) -> Any:
        return self._info(request, repository, "main")

    def _info(self, request: Request, repository: Repository, revision: str) -> Any:
        commit = commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        return {"id": "owner/name", "sha": commit, "private": repository.is_private, "siblings": siblings}

    def _tree(self, request: Request, repository: Repository, revision: str) -> Any:
        return self._tree_below(request, repository, revision, "")

    def _tree_below(self, request: Request, repository: Repository, revision: str, path: str) -> Any:
        files = repository.commits[commit_of(repository, revision)]
        prefix = f"{path}/" if path else ""
        below = {name for name in listed(files) if name.startswith(prefix)}
        if not below:
            raise HubError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        if request.args.get("recursive") != "true":
            below = {name for name in below if "/" not in name.removeprefix(prefix)}
        return [described(files, name) for name in sorted(below)]

    def _paths_info(self, request: Request, repository: Repository, revision: str) -> Any:
        files = repository.commits[commit_of(repository, revision)]
        return [described(files, path) for path in request.form.getlist("paths") if path in listed(files)]

    def _preupload(self, request: Request, repository: Repository, revision: str) -> Any:
        modes = []
        for file in request.get_json()["files"]:
            mode = "regular" if is_text(base64.b64decode(file["sample"])) else "lfs"
            modes.append({"path": file["path"], "shouldIgnore": False, "uploadMode": mode})
        return {"files": modes}

    def _batch(self, request: Request, repository: Repository) -> Any:
        objects = []
        for asked in request.get_json()["objects"]:
            objects.append({"oid": asked["oid"], "size": asked["size"]})
            if asked["oid"] not in repository.uploads:
                path = request.path.removeprefix("/datasets").partition(".git")[0]
                objects[-1]["actions"] = {"upload": {"href": f"{self.url}/lfs{path}/{asked['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def _upload(self, request: Request, repository: Repository, sha256: str) -> Any:
        content = request.get_data()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise HubError(400, None, f"content is not {sha256}")
        repository.uploads[sha256] = content
        return {}

    def _commit(self, request: Request, repository: Repository, revision: str) -> Any:
        """Apply a commit as the client sends it (one JSON object per line): all of it or nothing."""
        commit_of(repository, revision)
        files = dict(repository.files)
        for item in map(json.loads, filter(None, request.get_data().split(b"\n"))):
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", repository.head) != repository.head:
                raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = repository.uploads[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        repository.record(files)
        return {
            "success": True,
            "commitOid": repository.head,
            "commitUrl": f"{self.url}/datasets/org/name/commit/{repository.head}",
        }

    def _read(self, request: Request, repository: Repository, revision: str, path: str) -> Any:
        commit = commit_of(repository, revision)
        data = repository.commits[commit].get(path)
        if data is None:
            raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        options = {"mimetype": "application/octet-stream", "conditional": True, "etag": sha256(data)}
        reply = send_file(io.BytesIO(data), request.environ, **options)
        reply.headers["X-Repo-Commit"] = commit
        return reply


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_text(sample: bytes) -> bool:
    return sample.isascii() and b"\0" not in sample


def commit_of(repository: Repository, revision: str) -> str:
    if revision not in ("main", *repository.commits):
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return repository.head if revision == "main" else revision


def listed(files: dict[str, bytes]) -> set[str]:
    """Paths of all files and of the folders above them."""
    return {*files, *(str(folder) for path in files for folder in PurePosixPath(path).parents)} - {"."}


def described(files: dict[str, bytes], path: str) -> dict[str, Any]:
    if path not in files:
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
    data = files[path]
    entry = {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}
    if not is_text(data[:512]):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return entry
