"""Control links: plain asyncpg connections for what the proxy itself asks of shards.

Catalog, recovery, COMMIT PREPARED, the fence and deadlock probes run here, as the DSN's own role, on a reserve that no
client can use up. Their wire is never lent.

Rules, because a commit depends on them (proxy/twophase/README.md):

1. Isolation, lock_timeout and synchronous_commit are set explicitly when connecting, whatever the role or the server
   defaults to. ``synchronous_commit`` is raised to ``on`` and never lowered from ``remote_apply``.
2. No command has a timeout and none is ever cancelled: asyncpg would send a CancelRequest, which turns a wait for a
   synchronous standby into a "success". Whoever is cancelled while a command runs loses the connection; the server
   finishes or not. That says nothing about the shard, which may be busy or silent: it is asked before it counts as
   down (``on_doubt``).
3. A connection is used again only if it is outside of a transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from proxy.errors import SHARD_DOWN, TOO_MANY_CONNECTIONS, ProxyError
from proxy.shards import lending
from proxy.shards.errors import FOREIGN_ERRORS, ShardError, lost_link, not_let_in, standby, translate, unreachable
from proxy.shards.finder import Finder
from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    import asyncpg

    from proxy.shards.endpoint import ShardEndpoint

_log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S: Final = 5.0
_MIN_SWEEP_S: Final = 0.05
# In the start-up packet, so that RESET comes back to them. An empty search_path makes names that Postgres prints whole.
_SETTINGS: Final = {
    "application_name": "pgchorus",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "search_path": "pg_catalog",
}
# What depends on the server's own setting or version.
_PREPARE_SESSION: Final = (
    "SELECT pg_catalog.set_config('synchronous_commit', 'on', false)"
    " WHERE pg_catalog.current_setting('synchronous_commit') NOT IN ('on', 'remote_apply');"
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings"
    " WHERE name IN ('transaction_timeout', 'idle_session_timeout')"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """The reserve of each shard and its times (seconds, but for ``lock_timeout_ms``)."""

    per_shard: int = 4
    wait_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    idle_lifetime_s: float = 60.0
    lock_timeout_ms: int = 5000


class ControlConnection:
    """One control link, held by one task. Rows are asyncpg Records: tuples that also go by column name."""

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        endpoint: ShardEndpoint,
        on_failure: Callable[[ShardError], None],
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self.shard = endpoint.index
        self.name = endpoint.name
        self._connection = connection
        self._on_failure = on_failure
        self._on_doubt = on_doubt
        self._broken = False
        self._given_up = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether the next user may have it."""
        return not (self._broken or self._connection.is_closed() or self._connection.is_in_transaction())

    @property
    def pid(self) -> int:
        """The backend's process id."""
        return self._connection.get_server_pid()

    async def execute(self, sql: str) -> str:
        """Run a simple query (several statements allowed) and return its last tag. Raises ShardError."""
        return await self._call(self._connection.execute(sql))

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement and return its rows. Raises ShardError."""
        return await self._call(self._connection.fetch(sql, *args))

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Run one statement and return the first column of its first row, or None. Raises ShardError."""
        return await self._call(self._connection.fetchval(sql, *args))

    async def execute_as(self, role: str, sql: str) -> str:
        """Run ``sql`` as another role, in a message of its own, as COMMIT PREPARED demands. Raises ShardError."""
        await self.execute(f"SET ROLE {quote_identifier(role)}")
        try:
            return await self.execute(sql)
        finally:
            if not self._connection.is_closed():
                self._broken = True  # until the role is back
                await self.execute("RESET ROLE")
                self._broken = False

    async def copy_out(
        self, table: tuple[str, str], columns: Sequence[str], put: Callable[[bytes], Coroutine[Any, Any, None]]
    ) -> None:
        """Give a table's rows to ``put``, as COPY TO writes them. Raises ShardError."""
        schema, name = table
        await self._call(self._connection.copy_from_table(name, schema_name=schema, columns=columns, output=put))

    async def copy_in(self, table: tuple[str, str], columns: Sequence[str], rows: AsyncIterator[bytes]) -> None:
        """Write such rows into a table. Raises ShardError."""
        schema, name = table
        await self._call(self._connection.copy_to_table(name, schema_name=schema, columns=columns, source=rows))

    def give_up(self) -> None:
        """Close the socket now; whoever waits for an answer hears that the link is lost, which says nothing new."""
        self._given_up = True
        self.terminate()

    def terminate(self) -> None:
        """Close the socket now."""
        self._broken = True
        self._connection.terminate()

    async def close(self) -> None:
        """Take leave of the server."""
        try:
            await self._connection.close(timeout=_CLOSE_TIMEOUT_S)
        except FOREIGN_ERRORS as error:
            _log.info("control link to %s did not close in peace: %s", self.name, error)

    async def _call(self, command: Coroutine[Any, Any, T]) -> T:
        """Run a command so that being cancelled closes the socket instead of cancelling the command."""
        if self._connection.is_closed():
            # The server has ended this session while nothing was asked of it: a limit on a transaction that was held
            # (the fence's) says nothing about the server. Whether that is gone is seen by asking.
            command.close()
            self._broken = True
            self._on_doubt()
            raise lost_link(self.shard, self.name)
        task = spawn(self._outcome(command), f"control command on {self.name}")
        try:
            value, error = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._given_up = True
            self.terminate()
            self._on_doubt()
            raise
        if error is not None:
            raise error from error.__cause__
        return cast("T", value)

    async def _outcome(self, command: Coroutine[Any, Any, T]) -> tuple[T | None, ShardError | None]:
        try:
            return await command, None
        except FOREIGN_ERRORS as error:
            translated = translate(error, self.shard, self.name)
            if translated.lost:
                self.terminate()
                if not self._given_up:
                    self._on_failure(translated)
            translated.__cause__ = error
            return None, translated
        except AttributeError as error:
            # asyncpg forgets its protocol when it is terminated: a command between two messages stumbles over None.
            if not self._connection.is_closed():
                raise
            return None, lost_link(self.shard, self.name, error)

    def __repr__(self) -> str:
        return f"<control link to {self.name}>"


class _Reserve:
    """The control links of one shard."""

    def __init__(self, endpoint: ShardEndpoint, limits: ControlLimits) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self.closing = False
        self.on_failure: Callable[[ShardError], None] | None = None
        self.on_doubt: Callable[[], None] | None = None
        self.finder = Finder(endpoint, timeout_s=limits.connect_timeout_s) if endpoint.has_several else None
        if self.finder is not None:
            self.finder.on_move = self._moved
        self.on_move: Callable[[], None] | None = None
        self._places = asyncio.Semaphore(limits.per_shard)
        self._idle: deque[ControlConnection] = deque()
        self._lent: set[ControlConnection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def take(self) -> ControlConnection:
        try:
            async with asyncio.timeout(self.limits.wait_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            message = f'no free control connection to shard "{self.endpoint.name}"'
            detail = f"All {self.limits.per_shard} were in use for {self.limits.wait_timeout_s:g} s."
            raise ProxyError(TOO_MANY_CONNECTIONS, message, detail=detail) from None
        try:
            connection = self._idle_one() or await self.connect()
        except BaseException as error:
            self._places.release()
            if isinstance(error, ShardError):
                self._failed(error)
            raise
        self._lent.add(connection)
        return connection

    def _idle_one(self) -> ControlConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.terminate()
        return None

    def give_back(self, connection: ControlConnection) -> None:
        self._lent.discard(connection)
        if connection.usable and not self.closing:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.append(connection)
            if self._sweep_timer is None:
                self._sweep_timer = loop.call_later(self.limits.idle_lifetime_s, self._sweep)
        else:
            connection.terminate()
        self._places.release()

    async def close(self) -> None:
        self.closing = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        if self.finder is not None:
            self.finder.close()
        idle, self._idle = self._idle, deque()
        await asyncio.gather(*(connection.close() for connection in idle))

    def _moved(self) -> None:
        """Another server is the primary: nothing that was begun on the old one may go on there."""
        idle, self._idle = self._idle, deque()
        for connection in (*idle, *self._lent):
            connection.give_up()
        if self.on_move is not None:
            self.on_move()

    async def connect(self) -> ControlConnection:
        endpoint = self.endpoint
        if self.finder is not None and endpoint.place.address is None:
            await self.finder.find()
        moves = endpoint.place.moves
        settings = _SETTINGS | {"lock_timeout": f"{self.limits.lock_timeout_ms}ms"}
        try:
            raw = await lending.connect(
                endpoint, connect_timeout_s=self.limits.connect_timeout_s, server_settings=settings
            )
        except FOREIGN_ERRORS as error:
            raise not_let_in(translate(error, endpoint.index, endpoint.name, connecting=True), endpoint.name) from error
        connection = ControlConnection(raw, endpoint, self._failed, self._doubted)
        if getattr(raw.get_settings(), "in_hot_standby", "off") == "on":
            connection.terminate()
            raise standby(endpoint.index, endpoint.name)
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                await connection.execute(_PREPARE_SESSION)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, TimeoutError):
                raise unreachable(endpoint.index, endpoint.name, error) from error
            raise
        if moves != endpoint.place.moves:
            connection.terminate()
            raise unreachable(endpoint.index, endpoint.name)
        return connection

    def _failed(self, error: ShardError) -> None:
        if self.finder is not None and error.sqlstate in SHARD_DOWN:
            self.endpoint.place.address = None
        if self.on_failure is not None:
            self.on_failure(error)

    def _doubted(self) -> None:
        if self.on_doubt is not None:
            self.on_doubt()

    def _sweep(self) -> None:
        self._sweep_timer = None
        loop = asyncio.get_running_loop()
        while self._idle:
            wait = self._idle[0].idle_since + self.limits.idle_lifetime_s - loop.time()
            if wait > 0:
                self._sweep_timer = loop.call_later(max(wait, _MIN_SWEEP_S), self._sweep)
                return
            connection = self._idle.popleft()
            spawn(connection.close(), f"close {connection!r}")


class ControlLinks:
    """Control links to all shards of a database, at most ``per_shard`` at a time to each."""

    def __init__(self, endpoints: Sequence[ShardEndpoint], limits: ControlLimits | None = None) -> None:
        self._limits = limits or ControlLimits()
        self._reserves = tuple(_Reserve(endpoint, self._limits) for endpoint in endpoints)
        self._tell: dict[str, Callable[..., None]] = {}

    def add(self, endpoint: ShardEndpoint) -> None:
        """Have links to another shard, the last one."""
        reserve = _Reserve(endpoint, self._limits)
        for event, callback in self._tell.items():
            setattr(reserve, event, partial(callback, endpoint.index))
        self._reserves += (reserve,)

    def on_failure(self, callback: Callable[[int, ShardError], None]) -> None:
        """Have ``callback(shard, error)`` called when a connection is lost or cannot be made (but for probes)."""
        self._tell["on_failure"] = callback
        for shard, reserve in enumerate(self._reserves):
            reserve.on_failure = partial(callback, shard)

    def on_doubt(self, callback: Callable[[int], None]) -> None:
        """Have ``callback(shard)`` called when somebody has given up waiting for a command there."""
        self._tell["on_doubt"] = callback
        for shard, reserve in enumerate(self._reserves):
            reserve.on_doubt = partial(callback, shard)

    def on_move(self, callback: Callable[[int], None]) -> None:
        """Have ``callback(shard)`` called when another one of a shard's servers has become its primary."""
        self._tell["on_move"] = callback
        for shard, reserve in enumerate(self._reserves):
            reserve.on_move = partial(callback, shard)

    def doubt_place(self, shard: int) -> None:
        """A shard is down: before anybody connects there again, its primary is looked for."""
        if self._reserves[shard].finder is not None:
            self.endpoints[shard].place.address = None

    def finder(self, shard: int) -> Finder | None:
        """Return who looks for the primary of a shard of several servers."""
        return self._reserves[shard].finder

    def __len__(self) -> int:
        return len(self._reserves)

    @property
    def endpoints(self) -> tuple[ShardEndpoint, ...]:
        """The shards, by index."""
        return tuple(reserve.endpoint for reserve in self._reserves)

    @asynccontextmanager
    async def connection(self, shard: int) -> AsyncIterator[ControlConnection]:
        """Lend a connection. Raises ShardError (cannot connect) or ProxyError 53300 (none free in time).

        Left inside a transaction, or by a cancellation in mid-command, it is closed.
        """
        reserve = self._reserves[shard]
        connection = await reserve.take()
        try:
            yield connection
        finally:
            reserve.give_back(connection)

    async def probe(self, shard: int) -> None:
        """See that a shard answers, on a connection made for it. Raises ShardError."""
        reserve = self._reserves[shard]
        if reserve.finder is not None:
            await reserve.finder.find()
        connection = await reserve.connect()
        await connection.close()

    async def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back."""
        await asyncio.gather(*(reserve.close() for reserve in self._reserves))


def quote_identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'
