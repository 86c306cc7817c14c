"""Real shards for commit tests: links, control connections, schema; and links that can be made to misbehave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.shards.control import ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink, open_link
from proxy.tasks import spawn
from proxy.twophase import record
from proxy.twophase.coordinator import Coordinator
from proxy.twophase.gid import GlobalId, uuid7
from proxy.twophase.recovery import Recovery, RecoveryLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from proxy.shards.receivers import Answer
    from proxy.twophase.events import Limits

CLUSTER = "test"
AT_ONCE = RecoveryLimits(grace_s=0.0, orphan_s=0.0)


class TappedLink:
    """A shard link whose messages a test can watch, hold up or spoil."""

    def __init__(self, link: ShardLink) -> None:
        self.link = link
        self.sent: list[str] = []
        self.lie: int | None = None
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.after: Callable[[str], Awaitable[None]] | None = None

    @property
    def shard(self) -> int:
        return self.link.shard

    @property
    def name(self) -> str:
        return self.link.name

    @property
    def pid(self) -> int:
        return self.link.pid

    @property
    def closed(self) -> bool:
        return self.link.closed

    @property
    def status(self) -> int:
        return self.link.status if self.lie is None else self.lie

    async def run(self, sql: str) -> Answer:
        self.sent.append(sql)
        if self.before is not None:
            await self.before(sql)
        answer = await self.link.run(sql)
        if self.after is not None:
            await self.after(sql)
        return answer

    def post(self, sql: str, told: Callable[[Answer | Exception], None]) -> None:
        if self.before is None and self.after is None:
            self.sent.append(sql)
            self.link.post(sql, told)
        else:
            spawn(self._post(sql, told), "a message that a test may hold up")

    async def _post(self, sql: str, told: Callable[[Answer | Exception], None]) -> None:
        outcome: Answer | Exception
        try:
            outcome = await self.run(sql)
        except ShardError as error:
            outcome = error
        told(outcome)

    def abort(self) -> None:
        self.link.abort()

    def hold(self, word: str) -> Held:
        """Hold the messages that have ``word`` in them up, before the server gets them."""
        held = Held()

        async def wait(sql: str) -> None:
            if word in sql:
                held.reached.set()
                await held.go_on.wait()

        self.before = wait
        return held


@dataclass(slots=True)
class Held:
    """A message that is not sent before ``go_on``; ``reached``: it would have been."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class CommitCluster:
    """Shards s0, s1, ... with table ``t (k int primary key, v int)`` and what commits over them."""

    endpoints: list[ShardEndpoint]
    control: ControlLinks
    opened: list[ShardLink] = field(default_factory=list)

    @classmethod
    async def make(cls, dsns: Sequence[str]) -> CommitCluster:
        endpoints = [ShardEndpoint(f"s{index}", index, dsn) for index, dsn in enumerate(dsns)]
        cluster = cls(endpoints, ControlLinks(endpoints))
        for endpoint in endpoints:
            async with cluster.control.connection(endpoint.index) as connection:
                for sql in record.install_sql():
                    await connection.execute(sql)
                await connection.execute(
                    "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t ("
                    "k int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int NOT NULL); "
                    "GRANT ALL ON public.t TO PUBLIC; DELETE FROM pgchorus.decision"
                )
        return cluster

    @property
    def names(self) -> list[str]:
        return [endpoint.name for endpoint in self.endpoints]

    async def close(self) -> None:
        for link in self.opened:
            link.abort()
        # A prepared transaction keeps its locks, and its database from being dropped.
        for shard in range(len(self.endpoints)):
            for name in await self.prepared_at(shard):
                async with self.control.connection(shard) as connection:
                    await connection.execute(f"ROLLBACK PREPARED '{name}'")
        await self.control.close()

    async def link(self, shard: int, role: str = "postgres") -> TappedLink:
        link = await open_link(self.endpoints[shard], role=role, password=None)
        self.opened.append(link)
        return TappedLink(link)

    async def begin(self, sql: str | Sequence[str], role: str = "postgres") -> dict[int, TappedLink]:
        """Open a transaction on every shard and run a statement in it, one for all or one for each."""
        texts = [sql] * len(self.endpoints) if isinstance(sql, str) else sql
        links = {}
        for shard, text in enumerate(texts):
            link = links[shard] = await self.link(shard, role)
            await link.run(f"BEGIN; {text}")
            link.sent.clear()
        return links

    def coordinator(self, commit_point: int = 0, limits: Limits | None = None) -> Coordinator:
        """Make a coordinator that takes the n-th writer as commit point."""
        noise = iter(range(1 << 40, 1 << 41))

        def random_bits(bits: int) -> int:
            return commit_point if bits == 16 else next(noise) * 1_000_003

        return Coordinator(
            self.control, cluster=CLUSTER, names=self.names, limits=limits, random_bits=random_bits, epoch=1
        )

    def recovery(self, limits: RecoveryLimits = AT_ONCE) -> Recovery:
        return Recovery(self.control, cluster=CLUSTER, names=self.names, limits=limits)

    async def ask(self, shard: int, sql: str) -> list[tuple[object, ...]]:
        async with self.control.connection(shard) as connection:
            return [tuple(row) for row in await connection.fetch(sql)]

    async def values(self) -> list[list[tuple[object, ...]]]:
        """Return the table's rows on every shard."""
        return [await self.ask(shard, "SELECT k, v FROM public.t ORDER BY k") for shard in range(len(self.endpoints))]

    async def prepared(self) -> list[str]:
        """Return the names of everything prepared in these databases."""
        return [name for shard in range(len(self.endpoints)) for name in await self.prepared_at(shard)]

    async def prepared_at(self, shard: int) -> list[str]:
        sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        return [str(row[0]) for row in await self.ask(shard, sql)]

    async def decisions(self, shard: int) -> list[str]:
        return [str(row[0]) for row in await self.ask(shard, "SELECT outcome FROM pgchorus.decision")]

    async def until(self, shard: int, sql: str) -> None:
        """Wait until a query gives true (for instance that a backend waits for a lock)."""
        async with self.control.connection(shard) as connection, asyncio.timeout(20):
            while not await connection.fetchval(sql):  # noqa: ASYNC110 - a server does not tell us when
                await asyncio.sleep(0.01)


def make_gid(commit_point: str, serial: int, unix_ms: int, cluster: str = CLUSTER) -> GlobalId:
    return GlobalId(cluster, commit_point, uuid7(unix_ms, serial * 1_000_003))
