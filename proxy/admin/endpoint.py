"""The HTTP endpoint for machines: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for supervisors.

HTTP is the business of the standard library's threads; every answer is made on the event loop, so that nothing here
looks at what the loop is changing, and a loop that is stuck shows as one (503).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Final, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from prometheus_client import CollectorRegistry

ANSWER_S: Final = 5.0
_PLAIN: Final = "text/plain; charset=utf-8"


class State(Protocol):
    """What the two questions about health are answered from."""

    def not_ready(self) -> str:
        """Return why no client should be sent here now; nothing when one may be."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's word
        """Requests of machines are not worth a line each."""


class Endpoint:
    """The endpoint of one process. Made, started and closed on the event loop that answers."""

    def __init__(self, registry: CollectorRegistry, state: State) -> None:
        self._registry = registry
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._server: WSGIServer | None = None

    def start(self, host: str, port: int) -> None:
        """Listen; raises OSError when the port is taken."""
        self._server = make_server(host, port, self._answer, _Server, _Silent)
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
            status, kind, body = "503 Service Unavailable", _PLAIN, b"the event loop does not answer\n"
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    # --- on the loop ------------------------------------------------------------------------------------------------

    async def _make(self, environ: dict[str, Any]) -> tuple[str, str, bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return "405 Method Not Allowed", _PLAIN, b"GET only\n"
        if path == "/metrics":
            encode, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
            return "200 OK", kind, encode(self._registry)
        if path == "/healthz":
            return "200 OK", _PLAIN, b"ok\n"
        if path == "/readyz":
            why = self._state.not_ready()
            return ("503 Service Unavailable", _PLAIN, f"{why}\n".encode()) if why else ("200 OK", _PLAIN, b"ready\n")
        return "404 Not Found", _PLAIN, b"/metrics, /healthz, /readyz\n"
