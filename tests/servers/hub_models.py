"""The endpoints of the Hugging Face Hub that give files of models, on loopback, each refusal in the Hub's own way."""

import hashlib
from pathlib import Path

from counting_server import CountingServer, Exchange
from hub_server import HubError
from werkzeug.utils import redirect, send_file
from werkzeug.wrappers import Request, Response

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".pth", ".pt")


class HubModels(CountingServer):
    """Serve ``<folder>/<organisation>/<name>/<file>`` as repositories of one commit.

    Attributes
    ----------
    token
        Token that was granted every repository; the one of `stranger_token` was granted none that is gated.
    gated
        Repositories that are gated.
    broken
        Repositories that answer with a status of their own: an error of the server, or that it is asked too often.
    is_portal
        Whether not the Hub answers, but a network's page that asks to log in.
    """

    token = "hf_granted"
    stranger_token = "hf_stranger"

    def __init__(self, folder: Path) -> None:
        super().__init__(Request.application(self._answer))
        self.folder = folder
        self.gated: set[str] = set()
        self.broken: dict[str, int] = {}
        self.is_portal = False
        self.revisions = {"main", COMMIT}

    @property
    def questions(self) -> list[Exchange]:
        """Requests for files of repositories so far: the client asks once for something else, about itself."""
        return [exchange for exchange in self.requests if "/resolve/" in exchange.path]

    @property
    def asked(self) -> list[str]:
        """Paths of `questions`."""
        return [exchange.path for exchange in self.questions]

    def _answer(self, request: Request) -> Response:
        try:
            return self._found(request)
        except HubError as error:
            return error.response

    def _found(self, request: Request) -> Response:
        if self.is_portal:
            return Response("<html>Please log in to this network.</html>", mimetype="text/html")
        if request.path.startswith("/cdn/"):
            if "Authorization" in request.headers:
                raise HubError(400, None, "Only one auth mechanism allowed")  # a token that leaks
            return send_file(self.folder / request.path.removeprefix("/cdn/"), request.environ)
        repository, _, rest = request.path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        self._check(request.headers.get("Authorization"), repository, revision)
        file = self.folder / repository / name
        if not file.is_file():
            raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if file.suffix not in LARGE:
            return Response(content, headers={"ETag": etag, "X-Repo-Commit": COMMIT})
        # Another name of the same port: the client must not take it for the Hub, nor send it the token.
        answer = redirect(f"http://localhost:{self.server.server_port}/cdn/{repository}/{name}")
        answer.headers.update(
            {"X-Linked-ETag": etag, "X-Linked-Size": str(len(content)), "X-Repo-Commit": COMMIT}
        )
        return answer

    def _check(self, sent: str | None, repository: str, revision: str) -> None:
        if sent not in (None, f"Bearer {self.token}", f"Bearer {self.stranger_token}"):
            raise HubError(401, None, "Invalid credentials in Authorization header")
        if repository in self.broken:
            raise HubError(self.broken[repository], None, "No answer")
        if not (self.folder / repository).is_dir():
            raise HubError(404 if sent else 401, "RepoNotFound", "Repository not found")
        if repository in self.gated and sent != f"Bearer {self.token}":
            raise HubError(403 if sent else 401, "GatedRepo", f"Access to model {repository} is restricted")
        if revision not in self.revisions:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
