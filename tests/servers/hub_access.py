"""Who may do what on the Hub's server, and how it says no."""

import json
from dataclasses import dataclass

from hub_repository import HubRepository
from werkzeug.wrappers import Request, Response

SIGNED = ("upload", "cdn")  # addresses that are themselves the permission; the client sends no token there


class HubError(Exception):
    """An answer that is a refusal; `code` is what the client turns into a class of error."""

    def __init__(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.response = Response(json.dumps({"error": message}), status, mimetype="application/json")
        self.response.headers.update(headers or {})
        self.response.headers["X-Error-Message"] = message
        if code:
            self.response.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class HubAccess:
    """Two users: the one of `token` may do everything, the one of `stranger_token` may read what is public."""

    token: str = "hf_owner"
    stranger_token: str = "hf_stranger"

    def user(self, request: Request) -> str | None:
        """Name of the user, none without a token; a token that nobody has is an error everywhere."""
        sent = request.headers.get("Authorization")
        users = {None: None, f"Bearer {self.token}": "owner", f"Bearer {self.stranger_token}": "stranger"}
        if sent not in users:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return users[sent]

    def check_write(self, request: Request) -> None:
        user = self.user(request)
        if user is None:
            raise HubError(401, None, "Invalid username or password.")
        if user != "owner":
            raise HubError(403, None, "You don't have the rights to write to this namespace")

    def check_read(self, request: Request, repository: HubRepository | None, endpoint: str) -> HubRepository:
        """The repository, if it is there and may be seen; one that may not be seen is as one that is not there."""
        if endpoint in SIGNED and "Authorization" in request.headers:
            raise HubError(
                400, None, "Only one auth mechanism allowed"
            )  # as S3; here it is a token that leaks
        user = None if endpoint in SIGNED else self.user(request)
        is_shown = endpoint in SIGNED or user == "owner"
        if repository is None or (repository.is_private and not is_shown):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if repository.is_gated and endpoint == "read" and not is_shown:
            raise HubError(
                403 if user else 401, "GatedRepo", f"Access to dataset {repository.repo_id} is restricted"
            )
        return repository
