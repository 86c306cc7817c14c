"""A wire between the proxy and its shards that does what networks do: cut, hold up, swallow, refuse, fall silent.

``Wires`` listens before each shard and passes bytes on. A ``Rule`` names a message to a shard by a pattern of its text
and what happens there. Everything runs in a thread of its own, so a test may block and may kill the proxy meanwhile.

A message that is held is in the network: it may still arrive after the proxy that sent it is dead.
"""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16
WAIT_SECONDS = 30.0
UNTYPED_AGAIN = (80877103, 80877104)  # SSLRequest, GSSENCRequest: another packet without a type follows
TEXT_MESSAGES = b"QPB"
QUERY, SYNC = b"Q", b"S"
OURS = re.compile(rb"PREPARE TRANSACTION|\0pgchorus_\w+\0")
READY = ord("Z")


class Fault(Enum):
    """What happens at a message."""

    CUT_MESSAGE = "the connection breaks before the shard gets it"
    CUT_ANSWER = "the shard has done it, then the connection breaks: nobody hears the answer"
    HOLD_MESSAGE = "it does not arrive until the test releases it"
    HOLD_ANSWER = "the shard has done it, its answer does not arrive until the test releases it"
    DELAY = "it arrives late"


class Mode(Enum):
    """What a wire does with connections as a whole."""

    OPEN = "all is well"
    REFUSE = "new connections are closed at once"
    SILENT = "nothing arrives any more, in either direction"


@dataclass(eq=False)
class Rule:
    """One fault. ``reached``: a message has come by, ``all_reached``: all have. ``answered``: the shard has done it."""

    pattern: re.Pattern[bytes]
    fault: Fault
    shards: Collection[int] | None
    times: int
    seconds: float
    loop: asyncio.AbstractEventLoop
    reached: threading.Event = field(default_factory=threading.Event)
    all_reached: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    messages: list[bytes] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    cutting: bool = False

    def wait(self) -> None:
        """Wait until the fault has been met: the message held or cut, or its answer in our hands."""
        answer = self.fault in {Fault.CUT_ANSWER, Fault.HOLD_ANSWER}
        assert (self.answered if answer else self.reached).wait(WAIT_SECONDS), f"{self.pattern!r} never came by"

    def wait_for_all(self) -> None:
        """Wait until as many messages as the rule is for have come by."""
        assert self.all_reached.wait(WAIT_SECONDS), f"{self.pattern!r} came by {len(self.at)} times only"

    def release(self) -> None:
        """Let go what is held, and whatever comes later."""
        self.times = 0
        self.loop.call_soon_threadsafe(self._open.set)

    def cut(self) -> None:
        """Break the connections that are held."""
        self.times = 0
        self.cutting = True
        self.loop.call_soon_threadsafe(self._open.set)

    async def opened(self) -> bool:
        """Wait for the test's word; return whether to go on."""
        await self._open.wait()
        return not self.cutting


class _Connection:
    """One connection of the proxy to a shard."""

    def __init__(self, wires: Wires, shard: int, ours: _Streams, theirs: _Streams) -> None:
        self.wires = wires
        self.shard = shard
        self.ours = ours
        self.theirs = theirs
        self.holding: Rule | None = None
        self.bound = False  # what is under way binds texts of a commit

    async def run(self) -> None:
        try:
            await asyncio.gather(self._forward(), self._back())
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        self.ours.writer.transport.abort()
        self.theirs.writer.transport.abort()

    def _note(self, message: bytes) -> None:
        """Note what asks the shard for an answer on a client's link; control connections bind statements as well."""
        self.bound = self.bound or OURS.search(message) is not None
        if message[:1] not in (QUERY, SYNC):
            return
        if self.wires.queries is not None and (self.bound or message[:1] == QUERY):
            self.wires.queries.append((self.shard, message))
        self.bound = False

    async def _forward(self) -> None:
        reader, writer = self.ours.reader, self.theirs.writer
        code = UNTYPED_AGAIN[0]
        while code in UNTYPED_AGAIN:
            head = await reader.readexactly(8)
            code = int.from_bytes(head[4:8], "big")
            writer.write(head + await reader.readexactly(int.from_bytes(head[:4], "big") - 8))
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(int.from_bytes(head[1:5], "big") - 4)
            await self.wires.speaking[self.shard].wait()
            self._note(message)
            rule = self.wires.match(self.shard, message) if head[0] in TEXT_MESSAGES else None
            if rule is not None:
                rule.at.append(self.shard)
                rule.messages.append(message)
                if rule.fault in {Fault.CUT_ANSWER, Fault.HOLD_ANSWER}:
                    self.holding = rule
                rule.reached.set()
                if not rule.times:
                    rule.all_reached.set()
                if rule.fault is Fault.CUT_MESSAGE or (rule.fault is Fault.HOLD_MESSAGE and not await rule.opened()):
                    self.cut()
                    return
                if rule.fault is Fault.DELAY:
                    await asyncio.sleep(rule.seconds)
            writer.write(message)
            await writer.drain()

    async def _back(self) -> None:
        reader, writer = self.theirs.reader, self.ours.writer
        while data := await reader.read(CHUNK_BYTES):
            rule = self.holding
            if rule is not None:
                # The link was idle, so this is the beginning of the answer.
                data += await self._rest_of_answer(data)
                rule.answered.set()
                self.holding = None
                if rule.fault is Fault.CUT_ANSWER or not await rule.opened():
                    self.cut()
                    return
            await self.wires.speaking[self.shard].wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _rest_of_answer(self, start: bytes) -> bytes:
        """Read until the frames end with ReadyForQuery."""
        data, position = bytearray(start), 0
        while True:
            while len(data) >= position + 5:
                end = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
                if len(data) < end:
                    break
                if data[position] == READY:
                    return bytes(data[len(start) :])
                position = end
            more = await self.theirs.reader.read(CHUNK_BYTES)
            if not more:
                raise ConnectionResetError
            data += more


@dataclass
class _Streams:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Wires:
    """Wires before shards; ``dsns`` lead through them, ``direct`` past them. A context manager."""

    def __init__(self, dsns: Sequence[str]) -> None:
        self.direct = list(dsns)
        self.dsns: list[str] = []
        self.modes = [Mode.OPEN] * len(dsns)
        self.speaking = [asyncio.Event() for _ in dsns]
        #: What asked shards for an answer (Query, Sync) since a test put a list here.
        self.queries: list[tuple[int, bytes]] | None = None
        self._rules: list[Rule] = []
        self._connections: list[set[_Connection]] = [set() for _ in dsns]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires")
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(WAIT_SECONDS)
        return self

    def __exit__(self, *_exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def rule(
        self,
        pattern: str,
        fault: Fault,
        *,
        shards: Collection[int] | None = None,
        times: int = 1,
        seconds: float = 0.0,
    ) -> Rule:
        """Add a fault for the next ``times`` messages that match, on any of ``shards`` (None: all)."""
        rule = Rule(re.compile(pattern.encode()), fault, shards, times, seconds, self._loop)
        self._rules.append(rule)
        return rule

    def match(self, shard: int, message: bytes) -> Rule | None:
        for rule in self._rules:
            if rule.times and (rule.shards is None or shard in rule.shards) and rule.pattern.search(message):
                rule.times -= 1
                return rule
        return None

    def cut(self, shard: int, mode: Mode = Mode.OPEN) -> None:
        """Break every connection to a shard; ``mode`` is for what comes after."""
        self._do(lambda: self._cut(shard, mode))

    def calm(self) -> None:
        """End all faults; what is held is cut."""

        def end() -> None:
            for rule in self._rules:
                rule.times = 0
                rule.cutting = True
                rule._open.set()
            self._rules.clear()
            for shard in range(len(self.direct)):
                self._set_mode(shard, Mode.OPEN)

        self._do(end)

    def set_mode(self, shard: int, mode: Mode) -> None:
        """Change what a wire does from now on."""
        self._do(lambda: self._set_mode(shard, mode))

    def _set_mode(self, shard: int, mode: Mode) -> None:
        self.modes[shard] = mode
        if mode is Mode.SILENT:
            self.speaking[shard].clear()
        else:
            self.speaking[shard].set()

    def _cut(self, shard: int, mode: Mode) -> None:
        self._set_mode(shard, mode)
        for connection in list(self._connections[shard]):
            connection.cut()

    def _do(self, what: Callable[[], None]) -> None:
        async def run() -> None:
            what()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(WAIT_SECONDS)

    async def _listen(self) -> None:
        for shard, dsn in enumerate(self.direct):
            self.speaking[shard].set()
            parts = urlsplit(dsn)
            assert parts.port is not None
            server = await asyncio.start_server(self._accept(shard, parts.port), HOST, 0)
            self._servers.append(server)
            port = server.sockets[0].getsockname()[1]
            login = f"{parts.username}@" if parts.username else ""
            self.dsns.append(urlunsplit(parts._replace(netloc=f"{login}{HOST}:{port}")))

    def _accept(self, shard: int, upstream_port: int) -> Callable[..., None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                theirs = await asyncio.open_connection(HOST, upstream_port)
            except OSError:
                writer.transport.abort()
                return
            connection = _Connection(self, shard, _Streams(reader, writer), _Streams(*theirs))
            self._connections[shard].add(connection)
            try:
                await connection.run()
            finally:
                self._connections[shard].discard(connection)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.modes[shard] is Mode.REFUSE:
                writer.transport.abort()
                return
            task = self._loop.create_task(serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _close(self) -> None:
        for rule in self._rules:
            rule.cutting = True
            rule._open.set()
        for server in self._servers:
            server.close()
        for connections in self._connections:
            for connection in list(connections):
                connection.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
