"""The HTTP endpoint for machines: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for supervisors.

HTTP is the business of the standard library's threads; every answer is made on the event loop, so that nothing here
looks at what the loop is changing, and a loop that is stuck shows as one (503).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError
from contextlib import suppress
from http import HTTPStatus
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry, Metric

ANSWER_S: Final = 5.0
MOST_REQUESTS: Final = 32  # at once
PLAIN: Final = "text/plain; charset=utf-8"


class Collects(Protocol):
    """Where metrics are read."""

    def collect(self) -> Iterable[Metric]:
        """Yield all."""


class Pages(Protocol):
    """What is shown, by one process or by several."""

    async def metrics(self) -> Collects:
        """Return where metrics are read."""

    async def unwell(self) -> str:
        """Return what does not answer; nothing when all is well."""

    async def unready(self) -> str:
        """Return why no client should be sent here now; nothing when one may be."""


class Answer(NamedTuple):
    """What goes back."""

    status: HTTPStatus
    kind: str  # Content-Type
    body: bytes


async def answer(pages: Pages, method: str, path: str, accept: str) -> Answer:
    """Answer one request."""
    if method not in ("GET", "HEAD"):
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, PLAIN, b"GET only\n")
    if path == "/metrics":
        try:
            encode, kind = choose_encoder(accept)
        except (ValueError, IndexError, TypeError):  # it reads versions as they come
            encode, kind = choose_encoder("")
        return Answer(HTTPStatus.OK, kind, encode(await pages.metrics()))
    if path in ("/healthz", "/readyz"):
        why, well = (await pages.unwell(), "ok") if path == "/healthz" else (await pages.unready(), "ready")
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK, PLAIN, f"{why or well}\n".encode())
    return Answer(HTTPStatus.NOT_FOUND, PLAIN, b"/metrics, /healthz, /readyz\n")


class State(Protocol):
    """What the two questions about health are answered from."""

    def not_ready(self) -> str:
        """Return why no client should be sent here now; nothing when one may be."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        super().__init__(address, handler, bind_and_activate=False)
        self._free = BoundedSemaphore(MOST_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a request a thread, or hang up where there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Silent(WSGIRequestHandler):
    timeout = ANSWER_S  # of a client that does not send or read

    def handle(self) -> None:
        """Answer one request; whoever has gone, or has not asked, is no news."""
        with suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's word
        """Requests of machines are not worth a line each."""


class Endpoint:
    """The endpoint of one process. Made, started and closed on the event loop that answers."""

    def __init__(self, registry: CollectorRegistry, state: State) -> None:
        self._registry = registry
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._server: WSGIServer | None = None

    def start(self, bound: socket.socket) -> None:
        """Listen on a socket that is bound."""
        self._server = server = _Server(bound.getsockname()[:2], _Silent)
        server.socket.close()
        server.socket = bound
        server.server_name, server.server_port = bound.getsockname()[:2]
        server.setup_environ()
        server.set_app(self._answer)
        server.server_activate()
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True).start()

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    # --- in a thread of the server --------------------------------------------------------------------------------

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        made = asyncio.run_coroutine_threadsafe(self._make(environ), self._loop)
        try:
            status, kind, body = made.result(ANSWER_S)
        except (TimeoutError, CancelledError):
            made.cancel()
            status, kind, body = HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, b"the event loop does not answer\n"
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    # --- on the loop ------------------------------------------------------------------------------------------------

    async def _make(self, environ: dict[str, Any]) -> Answer:
        path, accept = environ.get("PATH_INFO", ""), environ.get("HTTP_ACCEPT", "")
        return await answer(self, environ.get("REQUEST_METHOD", ""), path, accept)

    async def metrics(self) -> Collects:
        """Return the process's registry."""
        return self._registry

    async def unwell(self) -> str:
        """Who answers is well."""
        return ""

    async def unready(self) -> str:
        """Ask the server."""
        return self._state.not_ready()
