"""The same endpoint for the supervisor of several workers, which must not have threads: it forks.

HTTP as far as Prometheus, probes and curl need it: one GET or HEAD for each connection, answered and closed.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from proxy.admin.endpoint import PLAIN, Answer, answer

if TYPE_CHECKING:
    import socket

    from proxy.admin.endpoint import Pages

_REQUEST_S: Final = 5.0
_REQUEST_BYTES: Final = 1 << 14


class PlainEndpoint:
    """The endpoint on an event loop alone. ``pages`` are what it shows."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None

    async def start(self, bound: socket.socket) -> None:
        """Listen on a socket that is bound."""
        self._server = await asyncio.start_server(self._serve, sock=bound, limit=_REQUEST_BYTES)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            method, found = await self._answer(head.decode("latin-1"))
            writer.write(_response(found, body=method != "HEAD"))
            async with asyncio.timeout(_REQUEST_S):
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError):
            pass  # whoever asked has gone, or has not asked
        finally:
            writer.close()

    async def _answer(self, head: str) -> tuple[str, Answer]:
        request, *lines = head.split("\r\n")
        words = request.split()
        if len(words) != 3:  # noqa: PLR2004 - method, target, version
            return "GET", Answer(HTTPStatus.BAD_REQUEST, PLAIN, b"this is no HTTP\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = words
        path = target.partition("?")[0]
        return method, await answer(self._pages, method, path, headers.get("accept", ""))


def _response(found: Answer, *, body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {found.status.value} {found.status.phrase}\r\nContent-Type: {found.kind}\r\n"
        f"Content-Length: {len(found.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (found.body if body else b"")
