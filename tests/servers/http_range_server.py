"""A plain web server of a folder: ranges, sizes and validators, but no listing, like most static hosts."""

from pathlib import Path

from counting_server import CountingServer
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.security import safe_join
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response


class HttpRangeServer(CountingServer):
    """Serve the files below `folder`: GET and HEAD, one range a request (206, 416), 404 for folders and the unknown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(Request.application(self._answer))

    def _answer(self, request: Request) -> Response | HTTPException:
        if request.method not in ("GET", "HEAD"):
            return MethodNotAllowed(["GET", "HEAD"])
        file = safe_join(str(self.folder), request.path.removeprefix("/"))
        if file is None or not Path(file).is_file():
            return NotFound(request.path)
        # A type that is given keeps the server from guessing a Content-Encoding by the name.
        return send_file(Path(file), request.environ, mimetype="application/octet-stream", conditional=True)
