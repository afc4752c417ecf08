"""A WSGI application on a loopback port that the system chooses, with a record of every request.

The other servers of this folder are this one with their own application. Everything is counted before it leaves, so that
what a client has received is in the record when the client returns.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Response
from werkzeug.wsgi import ClosingIterator


@dataclass
class Exchange:
    """One request and its answer; sizes are those of the bodies, in bytes."""

    method: str
    path: str
    range: str | None
    status: int = 0
    received: int = 0
    sent: int = 0


class QuietHandler(WSGIRequestHandler):
    """Log errors, but not every request; a silent client ends after ten seconds, so that closing never hangs."""

    timeout = 10

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class PatientServer(ThreadedWSGIServer):
    """Closing waits for the answers under way, so that no thread outlives a test."""

    daemon_threads = False


class CountingServer:
    """Serve `app` from a thread while the context is open.

    Attributes
    ----------
    requests
        Every exchange, in the order of arrival.
    refuse
        Where set, it is asked with the method and path of each request first; a status that it returns is the answer.
        A test breaks a transfer with it.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        self.requests: list[Exchange] = []
        self.refuse: Callable[[str, str], int | None] | None = None

    def __enter__(self) -> Self:
        self.server = PatientServer("127.0.0.1", 0, self._count, QuietHandler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def bytes_sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(exchange.sent for exchange in self.requests)

    @property
    def bytes_received(self) -> int:
        """Bytes of all requests' bodies."""
        return sum(exchange.received for exchange in self.requests)

    @property
    def sent_by_path(self) -> Counter[str]:
        """Bytes of the answers' bodies for each path that was asked for."""
        sent: Counter[str] = Counter()
        for exchange in self.requests:
            sent[exchange.path] += exchange.sent
        return sent

    def forget(self) -> None:
        """Begin a new record."""
        self.requests = []

    def _count(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        exchange = Exchange(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"].encode("latin-1").decode(),  # as WSGI has it
            environ.get("HTTP_RANGE"),
            received=int(environ.get("CONTENT_LENGTH") or 0),
        )
        self.requests.append(exchange)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            exchange.status = int(status.split()[0])
            return start_response(status, headers, exc_info)

        refusal = self.refuse(exchange.method, exchange.path) if self.refuse else None
        app = self.app if refusal is None else Response("refused by the test\n", status=refusal)
        body = app(environ, start)

        def counted() -> Iterator[bytes]:
            for piece in body:
                exchange.sent += len(piece)
                yield piece

        return ClosingIterator(counted(), getattr(body, "close", lambda: None))
