"""What executor tests need.

Links to real shards without a transaction behind them, a client that records, results read whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.executor import execute
from proxy.executor.request import Environment, Request, send
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.link import ShardLink, open_link
from proxy.wire import backend
from proxy.wire.frames import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.executor.request import ResultStream
    from proxy.wire.fields import ErrorFields
    from router.plan import Executable

HEADER_BYTES = 5
IDLE, IN_BLOCK, FAILED = b"ITE"


class Client:
    """Records what is written; what it sends is scripted.

    ``gate`` holds ``drain`` back, as a client that does not read does.
    """

    def __init__(self) -> None:
        self.written = bytearray()
        self.inbox: deque[list[tuple[int, bytes]]] = deque()
        self.arrived = asyncio.Event()
        self.pushed_back: list[tuple[int, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.wrote = asyncio.Event()
        self.then: list[Callable[[], None]] = []

    def write(self, data: bytes) -> None:
        self.written += data
        self.wrote.set()

    async def drain(self) -> None:
        await self.gate.wait()

    @property
    def writable(self) -> bool:
        return self.gate.is_set()

    def when_writable(self, then: Callable[[], None]) -> None:
        self.then.append(then)

    def reads(self) -> None:
        """Read again."""
        self.gate.set()
        then, self.then = self.then, []
        for call in then:
            call()

    def says(self, *messages: tuple[bytes, bytes]) -> None:
        """Let messages arrive together: (type, body) each."""
        self.inbox.append([(kind[0], body) for kind, body in messages])
        self.arrived.set()

    async def receive_many(self) -> list[tuple[int, bytes]]:
        while not self.inbox:
            self.arrived.clear()
            await self.arrived.wait()
        return self.inbox.popleft()

    def push_back(self, messages: Sequence[tuple[int, bytes]]) -> None:
        self.pushed_back = list(messages)

    def frames(self) -> list[tuple[str, bytes]]:
        """Return what was written as (type letter, body)."""
        index, rest = walk(bytes(self.written), 0, len(self.written))
        assert rest == len(self.written), "an incomplete message was written"
        return [(chr(kind), bytes(self.written[start + HEADER_BYTES : stop])) for kind, start, stop in index]

    def kinds(self) -> str:
        """Return the types of what was written, runs of rows and data as one letter."""
        letters = "".join(kind for kind, _ in self.frames())
        for letter in "Dd":
            while letter * 2 in letters:
                letters = letters.replace(letter * 2, letter)
        return letters

    def rows(self) -> list[list[bytes | None]]:
        return [backend.decode_data_row(body) for kind, body in self.frames() if kind == "D"]

    def tags(self) -> list[bytes]:
        return [backend.decode_command_tag(body) for kind, body in self.frames() if kind == "C"]

    def notices(self) -> list[ErrorFields]:
        return [backend.decode_error(body) for kind, body in self.frames() if kind == "N"]


@dataclass
class Shards:
    """Real links, one for each shard; ``links`` of the executor, and the environment around it."""

    links: dict[int, ShardLink]
    endpoints: list[ShardEndpoint]
    client: Client = field(default_factory=Client)
    joined: list[tuple[tuple[int, ...], bool]] = field(default_factory=list)

    async def join(self, shards: Sequence[int], *, writes: bool) -> Mapping[int, ShardLink]:
        self.joined.append((tuple(shards), writes))
        return {shard: self.links[shard] for shard in shards}

    async def another_link(self, shard: int) -> ShardLink:
        """Open a link that has nothing to do with the statement; the test closes it."""
        return await open_link(self.endpoints[shard], role="postgres", password=None)

    def environment(self, **more: object) -> Environment:
        return Environment(client=self.client, **more)  # type: ignore[arg-type]

    async def start(self, executable: Executable, request: Request | str, **more: object) -> ResultStream:
        request = Request(request) if isinstance(request, str) else request
        return await execute(executable, request, self, self.environment(**more))

    async def answer(self, executable: Executable, request: Request | str, **more: object) -> Client:
        """Run a statement to its end with a client of its own that reads everything."""
        self.client = Client() if not self.client.inbox else self.client
        result = await self.start(executable, request, **more)
        if result.row_description is not None:
            self.client.write(backend.row_description(result.row_description))
        assert await send(result, self.client)
        self.check_idle()
        return self.client

    def check_idle(self, status: int | None = None) -> None:
        """Every link that still lives is between exchanges."""
        for link in self.links.values():
            assert link.closed or not link.busy
            assert status is None or link.closed or link.status == status

    async def everywhere(self, sql: str) -> None:
        for link in self.links.values():
            await link.run(sql)

    async def values(self, sql: str) -> list[list[bytes | None]]:
        """Return the first column of an SQL on each shard."""
        return [[row[0] for row in (await link.run(sql)).rows] for link in self.links.values()]


async def open_shards(dsns: Sequence[str]) -> Shards:
    endpoints = [ShardEndpoint(f"s{number}", number, dsn) for number, dsn in enumerate(dsns)]
    links = await asyncio.gather(*(open_link(endpoint, role="postgres", password=None) for endpoint in endpoints))
    return Shards(dict(enumerate(links)), endpoints)


async def server_side(link: ShardLink, condition: str) -> None:
    """Wait, on the server, until an SQL condition holds."""
    await link.run(
        f"DO $wait$ BEGIN WHILE NOT ({condition}) LOOP"
        " PERFORM pg_stat_clear_snapshot(), pg_sleep(0.002); END LOOP; END $wait$"
    )


async def close_shards(shards: Shards) -> None:
    await asyncio.gather(*(link.close() for link in shards.links.values()))
