"""The endpoints of the Hugging Face Hub that huggingface_hub 2.4 calls for data sets, on loopback.

How a client is pointed at it:

- in this process: `HfApi(endpoint=server.url, token=server.token)`, `HfFileSystem(endpoint=..., token=...)` or
  `fsspec.filesystem("hf", endpoint=..., token=...)`, `snapshot_download(..., endpoint=...)`;
- in a child process: the variables of `server.environment` (`HF_ENDPOINT` is read once, when huggingface_hub is imported);
- without Xet, so that uploads are requests that are counted: `HF_HUB_DISABLE_XET=1` before the import, or in this process
  `monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)`, which is looked up at every call;
- with Xet, the client's default: better from a child process, since hf_xet's threads stay as long as the process does.

Large files are those whose first bytes are not text. They travel as on the Hub: sent by the LFS protocol or by Xet before
the commit, and read by a redirect to `/cdn/<owner>/<name>/<sha256>/<path>`, where they are counted. Unlike the Hub, this
server does not offer Xet for reading, so that whole files come by HTTP too.
"""

import hashlib
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import yaml
from counting_server import CountingServer
from hub_access import HubAccess, HubError
from hub_listing import commit_of, described, listed, upload_mode
from hub_repository import DATE, CommitError, HubRepository
from werkzeug.routing import Map, Rule
from werkzeug.utils import redirect, send_file
from werkzeug.wrappers import Request, Response

REPO = "/<owner>/<name>"
API = "/api/datasets" + REPO
RULES = {
    "whoami": ("GET", "/api/whoami-v2"),
    "create": ("POST", "/api/repos/create"),
    "validate": ("POST", "/api/validate-yaml"),
    "info": ("GET", API),
    "info_at": ("GET", f"{API}/revision/<path:revision>"),
    "refs": ("GET", f"{API}/refs"),
    "tree": ("GET", f"{API}/tree/<revision>"),
    "tree_below": ("GET", f"{API}/tree/<revision>/<path:path>"),
    "paths_info": ("POST", f"{API}/paths-info/<path:revision>"),
    "preupload": ("POST", f"{API}/preupload/<path:revision>"),
    "commit": ("POST", f"{API}/commit/<path:revision>"),
    "branch": ("POST", f"{API}/branch/<path:revision>"),
    "batch": ("POST", "/datasets/<owner>/<name>.git/info/lfs/objects/batch"),
    "xet": ("GET", f"{API}/xet-write-token/<path:revision>"),
    "upload": ("PUT", f"/lfs{REPO}/<sha256>"),
    "verify": ("POST", f"/lfs{REPO}/<sha256>/verify"),
    "read": ("GET", f"/datasets{REPO}/resolve/<revision>/<path:path>"),
    "cdn": ("GET", f"/cdn{REPO}/<sha256>/<path:path>"),
}


class HubServer(CountingServer):
    """Serve data sets kept below `folder`; `page_size` is the most entries of one page of a listing."""

    def __init__(self, folder: Path, *, page_size: int = 1000) -> None:
        super().__init__(Request.application(self._answer))
        self.folder = folder
        self.page_size = page_size
        self.access = HubAccess()
        self.repositories: dict[str, HubRepository] = {}
        self.rules = Map([Rule(path, methods=[verb], endpoint=name) for name, (verb, path) in RULES.items()])

    @property
    def token(self) -> str:
        """Token of one who may do everything."""
        return self.access.token

    @property
    def stranger_token(self) -> str:
        """Token of one who may read what is public, and write nothing."""
        return self.access.stranger_token

    @property
    def cdn_url(self) -> str:
        """The same port under another host name: the client must not take it for the Hub, nor send it the token."""
        return f"http://localhost:{self.server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a child process that is to use this server, as one who may do everything, without Xet."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1"}

    def repository(self, repo_id: str) -> HubRepository:
        return self.repositories[repo_id]

    def _answer(self, request: Request) -> Response:
        name, matched = self.rules.bind_to_environ(request.environ).match()
        found: dict[str, Any] = dict(matched)
        try:
            if "owner" in found:
                repo_id = f"{found.pop('owner')}/{found.pop('name')}"
                found["repository"] = self.access.check_read(request, self.repositories.get(repo_id), name)
            reply: Response = getattr(self, f"_{name}")(request, **found)
        except HubError as error:
            return error.response
        except CommitError as error:
            return HubError(error.status, None, str(error)).response
        return reply

    # Who, and what there is

    def _whoami(self, request: Request) -> Response:
        user = self.access.user(request)
        if user is None:
            raise HubError(401, None, "Invalid username or password.")
        return answer({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})

    def _create(self, request: Request) -> Response:
        self.access.check_write(request)
        asked = request.get_json()
        user = self.access.user(request)
        repo_id = f"{asked['organization'] or user}/{asked['name']}"
        url = f"{self.url}/datasets/{repo_id}"
        if repo_id in self.repositories:
            return answer({"error": "You already created this dataset repo", "url": url}, 409)
        is_private = asked.get("visibility") == "private"
        self.repositories[repo_id] = HubRepository(repo_id, self.folder / repo_id, is_private=is_private)
        return answer({"url": url, "name": repo_id})

    def _validate(self, request: Request) -> Response:
        """The head of a README: a warning if it is absent, an error if it is not a mapping in YAML."""
        head = re.match(r"---\n(.*?)\n---\n", request.get_json()["content"], re.DOTALL)
        if head is None:
            return answer(
                {"warnings": [{"message": "empty or missing yaml metadata in repo card"}], "errors": []}
            )
        try:
            fault = None if isinstance(yaml.safe_load(head[1]), dict) else "not a mapping"
        except yaml.YAMLError as error:
            fault = str(error)
        return answer(
            {"warnings": [], "errors": [{"message": fault}] if fault else []}, 400 if fault else 200
        )

    def _info(self, request: Request, repository: HubRepository) -> Response:
        return self._info_at(request, repository, "main")

    def _info_at(self, request: Request, repository: HubRepository, revision: str) -> Response:
        commit = commit_of(repository, revision)
        return answer(
            {
                "id": repository.repo_id,
                "author": repository.repo_id.partition("/")[0],
                "sha": commit,
                "createdAt": DATE,
                "lastModified": DATE,
                "private": repository.is_private,
                "gated": "manual" if repository.is_gated else False,
                "siblings": [{"rfilename": path} for path in repository.entries(commit)],
            }
        )

    def _refs(self, request: Request, repository: HubRepository) -> Response:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repository.branches.items()
        ]
        return answer({"branches": branches, "converts": [], "tags": []})

    def _branch(self, request: Request, repository: HubRepository, revision: str) -> Response:
        self.access.check_write(request)
        if revision in repository.branches:
            raise HubError(409, None, "Reference already exists")
        start = (request.get_json(silent=True) or {}).get("startingPoint", "main")
        repository.branches[revision] = commit_of(repository, start)
        return answer({})

    def _tree(self, request: Request, repository: HubRepository, revision: str) -> Response:
        return self._tree_below(request, repository, revision, "")

    def _tree_below(self, request: Request, repository: HubRepository, revision: str, path: str) -> Response:
        commit = commit_of(repository, revision)
        prefix = f"{path}/" if path else ""
        below = {name for name in listed(repository, commit) if name.startswith(prefix)}
        if not below:
            raise HubError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        if request.args.get("recursive") != "true":
            below = {name for name in below if "/" not in name.removeprefix(prefix)}
        start = int(request.args.get("cursor", 0))
        stop = start + self.page_size
        page = answer(
            [described(repository, commit, name, request.args) for name in sorted(below)[start:stop]]
        )
        if stop < len(below):
            query = urllib.parse.urlencode({**request.args, "cursor": stop})
            page.headers["Link"] = f'<{request.base_url}?{query}>; rel="next"'
        return page

    def _paths_info(self, request: Request, repository: HubRepository, revision: str) -> Response:
        commit = commit_of(repository, revision)
        paths = [path for path in request.form.getlist("paths") if path in listed(repository, commit)]
        return answer([described(repository, commit, path, request.form) for path in paths])

    # Writing: which way each file goes, the large ones, the commit

    def _preupload(self, request: Request, repository: HubRepository, revision: str) -> Response:
        self.access.check_write(request)
        entries = repository.entries(commit_of(repository, revision))
        return answer({"files": [upload_mode(file, entries) for file in request.get_json()["files"]]})

    def _batch(self, request: Request, repository: HubRepository) -> Response:
        self.access.check_write(request)
        objects = []
        for asked in request.get_json()["objects"]:
            told: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if not repository.content(asked["oid"]).exists():
                repository.awaited.add(asked["oid"])
                href = f"{self.url}/lfs/{repository.repo_id}/{asked['oid']}"
                told["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(told)
        return answer({"transfer": "basic", "objects": objects})

    def _upload(self, request: Request, repository: HubRepository, sha256: str) -> Response:
        """Like a signed address: no token, but only for what was asked for, and only with that content."""
        if sha256 not in repository.awaited:
            raise HubError(403, None, "The request signature we calculated does not match")
        content = request.get_data()
        if (found := hashlib.sha256(content).hexdigest()) != sha256:
            raise HubError(400, None, f"content has SHA-256 {found}, not {sha256}")
        repository.keep(content)
        return answer({})

    def _xet(self, request: Request, repository: HubRepository, revision: str) -> Response:
        self.access.check_write(request)
        return answer({"casUrl": repository.xet.url, "accessToken": "none", "exp": 2**40})

    def _verify(self, request: Request, repository: HubRepository, sha256: str) -> Response:
        self.access.check_write(request)
        content = repository.content(sha256)
        if not content.exists() or content.stat().st_size != request.get_json()["size"]:
            raise HubError(422, None, f"{sha256} did not arrive whole")
        return answer({})

    def _commit(self, request: Request, repository: HubRepository, revision: str) -> Response:
        self.access.check_write(request)
        if revision not in repository.branches:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = repository.commit(revision, request.get_data().split(b"\n"))
        where = f"{self.url}/datasets/{repository.repo_id}/commit/{commit}"
        return answer({"success": True, "commitOid": commit, "commitUrl": where})

    # Reading

    def _read(self, request: Request, repository: HubRepository, revision: str, path: str) -> Response:
        commit = commit_of(repository, revision)
        entry = repository.entries(commit).get(path)
        if entry is None:
            raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        if entry.is_large:
            reply = redirect(f"{self.cdn_url}/cdn/{repository.repo_id}/{entry.sha256}/{path}")
            reply.headers["X-Linked-ETag"] = f'"{entry.sha256}"'
            reply.headers["X-Linked-Size"] = str(entry.size)
        else:
            reply = send(repository.content(entry.sha256), request, etag=entry.oid)
        reply.headers["X-Repo-Commit"] = commit
        return reply

    def _cdn(self, request: Request, repository: HubRepository, sha256: str, path: str) -> Response:
        return send(repository.content(sha256), request, etag=sha256)


def answer(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")


def send(content: Path, request: Request, *, etag: str) -> Response:
    return send_file(
        content, request.environ, mimetype="application/octet-stream", conditional=True, etag=etag
    )
