"""Questions and answers between the supervisor and one worker: lines of JSON over a pair of sockets, both ways.

A line is a question ``{"ask": what, "id": n, "with": content}`` or the answer to one, ``{"to": n, "is": content}`` or
``{"to": n, "error": fields}``. An error that the other side made up for a client (ProxyError) arrives as one.

Decides how questions and answers find each other, and that nobody waits for a side that has gone. Leaves to others what
is asked (``proxy.supervisor``, ``proxy.worker``).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxy.errors import INTERNAL_ERROR, ProxyError
from proxy.tasks import spawn

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    Answerer = Callable[[str, Any], Awaitable[Any]]

log = structlog.get_logger("pgchorus.channel")

_LONGEST_LINE: Final = 1 << 28  # bytes: what SHOW says of many thousands of clients
_ERROR_PARTS: Final = ("sqlstate", "message", "severity", "detail", "hint")


class ChannelGoneError(ConnectionError):
    """The other side has ended."""


class Channel:
    """One end. ``answer`` is awaited for each question of the other side, several at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answerer) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.gone = False

    @classmethod
    async def over(cls, end: socket.socket, answer: Answerer) -> Channel:
        """Make the channel over one end of a pair; nothing is read before ``run``."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_LONGEST_LINE)
        return cls(reader, writer, answer)

    async def ask(self, what: str, content: object = None) -> Any:
        """Return the other side's answer; raises its ProxyError, or ChannelGoneError."""
        if self.gone:
            raise ChannelGoneError
        number = next(self._ids)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            self._send({"ask": what, "id": number, "with": content})
            return await answered
        finally:
            self._waiting.pop(number, None)

    async def run(self) -> None:
        """Handle what arrives until the other side ends."""
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except ConnectionError:
            pass  # the other side has died: as when it ends
        finally:
            self.close()

    def close(self) -> None:
        """Let nobody wait any more."""
        self.gone = True
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(ChannelGoneError())
        self._writer.close()

    def _send(self, message: dict[str, Any]) -> None:
        if not self.gone:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _take(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            spawn(self._reply(message), name=f"answer to {message['ask']}")
            return
        answered = self._waiting.pop(message["to"], None)
        if answered is None or answered.done():
            return  # whoever asked does not wait any more
        if "error" in message:
            answered.set_exception(ProxyError(**message["error"]))
        else:
            answered.set_result(message["is"])

    async def _reply(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"to": message["id"]}
        try:
            reply["is"] = await self._answer(message["ask"], message["with"])
        except ProxyError as error:
            reply["error"] = {part: getattr(error, part) for part in _ERROR_PARTS}
        except ChannelGoneError:
            reply["error"] = {"sqlstate": INTERNAL_ERROR, "message": "another process of the proxy has ended"}
        except Exception as error:
            log.exception("a question of another process failed", ask=message["ask"])
            reply["error"] = {"sqlstate": INTERNAL_ERROR, "message": f"{type(error).__name__}: {error}"}
        self._send(reply)
