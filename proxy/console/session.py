"""One person at the console: reads commands of the simple protocol, answers until the client leaves.

Decides who may do what: administrators everything, readers SHOW. Left to others: what a command does (``views``,
``actions``).
"""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog

from proxy.console.actions import ACTIONS, OF_ALL
from proxy.console.merged import is_merged, merged
from proxy.console.table import Table
from proxy.console.views import VIEWS
from proxy.errors import ClientGone, ProxyError
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.errors import ProtocolViolation
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from proxy.connection import ClientConnection
    from proxy.console.world import World

log = structlog.get_logger("pgchorus.console")

_QUERY, _TERMINATE, _SYNC = ord("Q"), ord("X"), ord("S")
_EXTENDED: Final = frozenset(b"PBDECF")
_WORD = re.compile(r'"((?:[^"]|"")*)"|([^\s;"]+)')
#: What clients are told of at log-in: psql will not show a table without knowing how it is encoded.
PARAMETERS: Final = {
    "server_version": f"{version('pgchorus')}/pgchorus",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}


class ConsoleSession:
    """A session of the console; ``user`` has proved who he is, and is one of the two kinds."""

    def __init__(self, connection: ClientConnection, world: World, user: str, *, may_act: bool) -> None:
        self.connection = connection
        self.user = user
        self.pid = 0  # in BackendKeyData
        self._world = world
        self._may_act = may_act
        self._running: asyncio.Task[bytes] | None = None
        self._skipping = False  # after an error in the extended protocol, until Sync

    def cancel(self) -> tuple[asyncio.Task[None], ...]:
        """Stop waiting for what runs (a PAUSE stays in force); no shard is to be told."""
        self._stop()
        return ()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def end(self) -> None:
        """The proxy stops."""
        fields = ErrorFields.make("FATAL", "57P01", "terminating connection due to administrator command")
        self.connection.write(backend.error_response(fields))
        self.connection.close()

    async def serve(self) -> None:
        """Answer commands until the client leaves."""
        self.connection.on_lost = self._stop
        try:
            while True:
                kind, body = await self.connection.receive()
                if kind == _TERMINATE:
                    return
                if kind == _QUERY:
                    await self._query(body.rstrip(b"\0").decode("utf-8", "replace"))
                elif kind == _SYNC:
                    self._skipping = False
                    self.connection.write(backend.ready_for_query(b"I"))
                elif kind in _EXTENDED and not self._skipping:
                    self._skipping = True
                    self._error(ProxyError("0A000", "the console knows the simple query protocol only"))
        except ClientGone:
            pass  # nobody is left to be told anything
        except ProtocolViolation as violation:
            fields = ErrorFields.make("FATAL", violation.sqlstate, violation.message, detail=violation.detail)
            self.connection.write(backend.error_response(fields))

    async def _query(self, text: str) -> None:
        commands = [words for one in text.split(";") if (words := read_words(one))]
        if not commands:
            self.connection.write(backend.empty_query_response())
        for words in commands:
            self._running = asyncio.ensure_future(self._answer(words))
            try:
                self.connection.write(await self._running)
            except asyncio.CancelledError:
                own = asyncio.current_task()
                if own is None or own.cancelling():
                    raise
                self._error(ProxyError("57014", "canceling statement due to user request"))
                break
            except (ProxyError, ShardError) as error:
                self._error(error)
                break
        self.connection.write(backend.ready_for_query(b"I"))
        await self.connection.drain()

    async def _answer(self, words: list[str]) -> bytes:
        command, *rest = words
        name = command.upper()
        if name == "SHOW":
            return (await self._show(rest)).frames()
        if name not in ACTIONS:
            raise ProxyError("42601", f'unknown command "{command}"', hint="SHOW HELP lists what there is.")
        if not self._may_act:
            raise ProxyError("42501", f"{name} is for administrators", hint="console.admins names them.")
        log.info("console", user=self.user, client=self.connection.peer, command=" ".join(words))
        family = self._world.family
        if family is None or name in OF_ALL:
            tag = await ACTIONS[name][1](self._world, rest)
        else:
            tag = await family.act(name, rest)
        return backend.command_complete(tag.encode())

    async def _show(self, words: list[str]) -> Table:
        view = words[0].upper() if words else "HELP"
        if view == "HELP":
            return _help()
        if view not in VIEWS or len(words) > 1:
            raise ProxyError("42704", f'there is nothing called "{" ".join(words)}" to show', hint="Try SHOW HELP.")
        family = self._world.family
        if family is None or not is_merged(view):
            return await VIEWS[view](self._world)
        return merged(view, await family.show(view))

    def _error(self, error: ProxyError | ShardError) -> None:
        fields = error.fields() if isinstance(error, ProxyError) else error.fields
        self.connection.write(backend.error_response(fields))


def read_words(text: str) -> list[str]:
    """Cut a command into words; one in double quotes keeps its blanks."""
    return [quoted.replace('""', '"') or plain for quoted, plain in _WORD.findall(text)]


def _help() -> Table:
    table = Table.of("command what")
    for name, view in sorted(VIEWS.items()):
        table.add(command=f"SHOW {name}", what=_first_line(view.__doc__))
    for form, action in ACTIONS.values():
        table.add(command=form, what=_first_line(action.__doc__).partition(": ")[2])
    return table


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().splitlines()[0]
