"""The server: listens, makes the databases ready, runs clients, drains.

Order of a start: shards are reached and their schema is checked, decided transactions left behind are finished,
catalogs are read, then the port opens. SIGTERM drains: transactions in flight end, new clients are refused (57P03);
SIGINT ends at once; SIGHUP reloads (proxy.reload).

A server is alone, or one of several workers (``family``): then it goes by its part of the limits, and what concerns all
of them (signals, systemd, the metrics' port) is the supervisor's business.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, cast

import structlog

from proxy import systemd
from proxy.admin.counts import Periods
from proxy.admin.endpoint import Endpoint
from proxy.admin.metrics import Metrics
from proxy.authentication import Credentials
from proxy.cancel import CancelKeys
from proxy.config import CONSOLE_DATABASE
from proxy.connection import ClientConnection
from proxy.console.session import ConsoleSession
from proxy.errors import ProxyError
from proxy.handover import Handover, Taken
from proxy.listening import LISTEN_BACKLOG, bound, sockets_for
from proxy.login import serve_client
from proxy.reload import reload
from proxy.rereading import Rereading
from proxy.runtime import open_database
from proxy.shards.errors import ShardError
from proxy.shards.pool import PoolLimits
from proxy.siblings.place import Place
from proxy.tasks import spawn
from proxy.tls import TlsServer
from proxy.tracing import Tracing
from proxy.turns import SWITCH_SECONDS
from proxy.twophase.points import pass_by

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from typing import Any

    from proxy.config import Config, Log
    from proxy.database import LogicalDatabase
    from proxy.limits import Limits
    from proxy.session.session import Session
    from proxy.siblings.family import Family
    from proxy.twophase.points import Checkpoint

log = structlog.get_logger("pgchorus.server")

LAG_PERIOD_S = 0.25
NONCE_BYTES = 32
PATIENCE_S = 3.0  # with clients that are idle, where another process serves already


class Server:
    """All that one process serves; ``config`` is that of the whole proxy."""

    def __init__(self, config: Config, checkpoint: Checkpoint = pass_by, family: Family | None = None) -> None:
        self.config = config
        self.family = family
        self._checkpoint = checkpoint
        self._place = Place() if family is None else family.place
        self.auth = config.auth
        self.keys = CancelKeys(self._place)
        self.credentials: Credentials  # once the databases are open
        self.login_timeout_s = config.limits.login_timeout_s
        self.tls = TlsServer(config.tls) if config.tls is not None else None
        self.log = config.log
        self.draining = False
        self._started_at = time.time()
        self.reloading = asyncio.Lock()
        self.metrics = Metrics(self, alone=family is None)
        self.periods = Periods(time.monotonic())
        self._databases: dict[str, LogicalDatabase] = {}
        self._sessions: set[Session] = set()
        self._consoles: set[ConsoleSession] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self._sockets: Sequence[Sequence[socket.socket]] = ()  # of each worker
        self._listeners: dict[int, list[asyncio.Server]] = {}  # by the number of the worker whose sockets they are
        self._stopping = asyncio.Event()
        self._at_once = False
        self._handed_on = False

    # --- the door (proxy.login.Door) --------------------------------------------------------------------------

    @property
    def refusing(self) -> bool:
        """Whether clients are turned away that are at the door; not when the next ones are let in elsewhere."""
        return self.draining and not self._handed_on

    def database(self, name: str) -> LogicalDatabase | None:
        """Return a logical database by name."""
        return self._databases.get(name)

    @property
    def world(self) -> Server:
        """What the console shows."""
        return self

    def may_use_console(self, user: str) -> bool:
        """Whether a user may act at the console; raises ProxyError if he may not even look."""
        console = self.config.console
        if user not in (*console.admins, *console.readers):
            raise ProxyError(
                "42501",
                f'permission denied for the console "{CONSOLE_DATABASE}"',
                hint="console.admins and console.readers name who may use it.",
            )
        return user in console.admins

    def enter(self, session: Session | ConsoleSession) -> None:
        """Count a session in. The console has room when nobody else has: then it is needed."""
        if isinstance(session, ConsoleSession):
            self._consoles.add(session)
            return
        self._sessions.add(session)
        if self._clients_in_all() > self.config.limits.clients_max:
            self.leave(session)
            raise ProxyError("53300", "sorry, too many clients already")

    def leave(self, session: Session | ConsoleSession) -> None:
        """Count it out."""
        if isinstance(session, ConsoleSession):
            self._consoles.discard(session)
        else:
            self._sessions.discard(session)
            self._clients_in_all()

    def _clients_in_all(self) -> int:
        here = len(self._sessions)
        return here if self.family is None else self.family.count_clients(here)

    async def cancel(self, pid: int, secret: bytes) -> None:
        """Cancel the session of a key, wherever it is."""
        owner = self.keys.owner(pid)
        if self.family is None or owner == self._place.number:
            await self.keys.cancel(pid, secret)
        elif owner <= self._place.count:
            await self.family.cancel(owner, pid, secret)

    # --- what the console asks (proxy.console.world.World) --------------------------------------------------------

    def databases(self) -> Mapping[str, LogicalDatabase]:
        """Return the databases that are served."""
        return self._databases

    def sessions(self) -> Collection[Session]:
        """Return the sessions of clients."""
        return tuple(self._sessions)

    @property
    def number(self) -> int:
        """Return which worker this is."""
        return self._place.number

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Return what is known of each worker."""
        if self.family is not None:
            return await self.family.workers()
        clients, pid = len(self._sessions), os.getpid()
        return [
            {"worker": 1, "pid": pid, "state": "serving", "clients": clients, "since": self._started_at, "restarts": 0}
        ]

    async def reload(self, *, again: bool = False) -> None:
        """Do what SIGHUP does; raises ProxyError when all stays as it was. Once begun, it is done to its end.

        ``again``: the log has been told already why it could not be done.
        """
        if self.family is not None:
            await self.family.reload(again=again)
        elif error := await asyncio.shield(spawn(reload(self, again=again), name="reload")):
            raise error

    def drain(self) -> None:
        """Do what SIGTERM does."""
        if self.family is None:
            self._stop(signal.SIGTERM)
        else:
            self.family.tell("drain")

    # --- what a reload renews (proxy.reload.Reloadable) ---------------------------------------------------------

    def use_passwords(self, passwords: Mapping[str, str]) -> None:
        """Log in to the shards with these from now on."""
        for database in self._databases.values():
            database.use_passwords(passwords)

    def use_limits(self, limits: Limits) -> None:
        """Go by the sizes of pools that these say; ``clients.max`` and ``drain`` are looked up when they are needed."""
        own = PoolLimits(**self._place.limits(limits).group("pool"))
        for database in self._databases.values():
            database.use_pool_limits(own)

    def use_log(self, log: Log) -> None:
        """Log what this says from now on; the level is set already."""
        self.log = log
        for database in self._databases.values():
            database.use_log(log)

    # --- what the metrics ask (proxy.admin.metrics.Sources) -----------------------------------------------------

    def client_count(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    def not_ready(self) -> str:
        """Return why no client should be sent here now (proxy.admin.endpoint.State)."""
        if self.draining:
            return "draining"
        if len(self._databases) < len(self.config.databases):
            return "starting"
        starting = [name for name, database in self._databases.items() if not database.has_catalog]
        if starting:
            return f"the catalog of {starting[0]} could not be read yet"
        misplaced = [name for name, database in self._databases.items() if database.misplaced]
        return f"the placements of {misplaced[0]} on its shards are not those of this proxy" if misplaced else ""

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[], None], taken: Taken) -> None:
        """Serve alone until a signal says stop, with the sockets that were taken over, if any were."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            await self._open(stack)
            config = self.config
            self._sockets = sockets = taken.for_workers(1) if taken.groups else sockets_for(config.listen)
            await self.listen(1)
            measured = None
            if config.metrics is not None:
                measured = taken.metrics or bound(config.metrics, shared=False)[0]
                endpoint = Endpoint(self.metrics.registry, self)
                endpoint.start(measured)
                stack.push_async_callback(endpoint.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop, number)
            loop.add_signal_handler(signal.SIGHUP, lambda: spawn(reload(self), name="reload"))
            on_ready()
            systemd.ready()
            stack.callback(spawn(systemd.say_alive_forever(), name="systemd's watchdog").cancel)
            taken.say_ready()
            if config.handover is not None:
                handover = Handover(config, sockets, measured, lambda: self.end(at_once=False, handed_on=True))
                handover.open(config.handover)
                stack.callback(handover.close)
            await self._stopping.wait()
            systemd.stopping()
            self._close_door()
            if self._handed_on and config.metrics is not None:
                await endpoint.close()
            await self._drain()

    async def run_as_worker(
        self, sockets: Sequence[Sequence[socket.socket]], before_listening: Callable[[], Awaitable[None]]
    ) -> None:
        """Serve as one of several until ``end``; ``sockets`` are those of all workers, made by the supervisor."""
        self._sockets = sockets
        async with AsyncExitStack() as stack:
            await self._open(stack)
            await before_listening()
            await self.listen(self._place.number)
            await self._stopping.wait()
            self._close_door()
            await self._drain()

    async def _nonce(self) -> bytes:
        """Return the nonce of the first database by name that can be asked for it; else one of this process alone."""
        for _, database in sorted(self._databases.items()):
            try:
                return await database.nonce()
            except (ShardError, ProxyError) as error:
                log.warning("salts of unknown users may be this process's own", error=str(error))
        return secrets.token_bytes(NONCE_BYTES)

    async def _open(self, stack: AsyncExitStack) -> None:
        own = replace(self.config, limits=self._place.limits(self.config.limits))
        tracing = None if own.tracing is None else Tracing(own.tracing)
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        for name, database in self.config.cluster.databases.items():
            served = self._databases[name] = await stack.enter_async_context(
                open_database(own, database, self.metrics, self._checkpoint, self.family)
            )
            served.tracing = tracing
            served.use_log(self.log)
            rereading = Rereading(served, self.reload)
            served.on_misplaced = rereading.begin
            stack.callback(rereading.end)
        self.credentials = await asyncio.to_thread(Credentials, self.config.auth.users, await self._nonce())
        stack.callback(self._close_door)
        beat = spawn(self._measure_lag(), name="event loop's lag")
        stack.callback(beat.cancel)
        sys.setswitchinterval(SWITCH_SECONDS)  # between the loop and the thread that plans long texts
        # What lives for the whole run is not worth looking at in every collection.
        gc.collect()
        gc.freeze()

    async def listen(self, worker: int) -> None:
        """Accept what comes to a worker's sockets: our own, or those of one that is away for a moment."""
        if worker not in self._listeners and not self.draining:
            loop = asyncio.get_running_loop()
            self._listeners[worker] = [
                # A listener that is closed closes its socket: the one that it came from stays, for the next.
                await loop.create_server(self._connection, sock=one.dup(), backlog=LISTEN_BACKLOG)
                for one in self._sockets[worker - 1]
            ]

    def unlisten(self, worker: int) -> None:
        """Leave what comes to a worker's sockets to whoever has them as well."""
        for listener in self._listeners.pop(worker, ()):
            listener.close()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))
            if self.periods.due(now := time.monotonic()):
                self.periods.turn(now, {name: database.totals() for name, database in self._databases.items()})

    def _connection(self) -> asyncio.Protocol:
        return cast("asyncio.Protocol", ClientConnection(self._accept, self.config.limits.message_max_bytes))

    def _accept(self, connection: ClientConnection) -> None:
        task = spawn(serve_client(connection, self), name=f"client {connection.peer}")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    def _close_door(self) -> None:
        """Let nobody in any more, and have whoever knocks be refused, unless another process has the same sockets."""
        for worker in list(self._listeners):
            self.unlisten(worker)
        for one in chain.from_iterable(self._sockets):
            one.close()

    # --- stopping ---------------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        self.end(at_once=number == signal.SIGINT or self._stopping.is_set())

    def end(self, *, at_once: bool, handed_on: bool = False) -> None:
        """Begin to end: let transactions in flight end, or not; ``handed_on``: others let clients in instead."""
        self._at_once = self._at_once or at_once
        self._handed_on = handed_on and not self._stopping.is_set()
        self.draining = True
        self._stopping.set()
        if self._at_once:
            for task in self._clients:
                task.cancel()

    async def _drain(self) -> None:
        """Let transactions in flight end, bounded by the configured time; idle clients are told to go."""
        now, limit_s = asyncio.get_running_loop().time, self.config.limits.drain_timeout_s
        deadline = now() + limit_s
        patience = now() + min(PATIENCE_S, limit_s / 2) if self._handed_on else 0.0
        while self._clients and not self._at_once:
            # Who came a moment ago, for a statement or two, goes by himself: not one of those is to fail for a restart.
            for session in list(self._sessions) if now() >= patience or not self._handed_on else ():
                session.shut_down_if_idle()
            if not self._sessions:
                # Whoever drains may want to watch it to its end.
                for console in list(self._consoles):
                    console.end()
            left = deadline - now()
            if left <= 0:
                break
            await asyncio.wait(self._clients, timeout=min(left, 0.1), return_when=asyncio.FIRST_COMPLETED)
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=self.config.limits.drain_timeout_s)


async def serve(
    config: Config, on_ready: Callable[[], None], checkpoint: Checkpoint = pass_by, taken: Taken | None = None
) -> None:
    """Serve ``config`` until SIGTERM or SIGINT; ``on_ready`` is called when the port accepts connections."""
    await Server(config, checkpoint).run(on_ready, taken or Taken())
