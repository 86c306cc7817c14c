"""The server: listens, makes the databases ready, runs clients, drains.

Order of a start: shards are reached and their schema is checked, decided transactions left behind are finished,
catalogs are read, then the port opens. SIGTERM drains: transactions in flight end, new clients are refused (57P03);
SIGINT ends at once; SIGHUP reloads (proxy.reload).
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from contextlib import AsyncExitStack
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
from proxy.login import serve_client
from proxy.reload import reload
from proxy.runtime import open_database
from proxy.tasks import spawn
from proxy.tls import TlsServer
from proxy.tracing import Tracing
from proxy.twophase.points import pass_by

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from proxy.config import Config, Log
    from proxy.database import LogicalDatabase
    from proxy.session.session import Session
    from proxy.twophase.points import Checkpoint

log = structlog.get_logger("pgchorus.server")

LISTEN_BACKLOG = 1024
LAG_PERIOD_S = 0.25


class Server:
    """All that one process serves."""

    def __init__(self, config: Config, checkpoint: Checkpoint = pass_by) -> None:
        self.config = config
        self._checkpoint = checkpoint
        self.auth = config.auth
        self.keys = CancelKeys()
        self.credentials = Credentials(config.cluster.name, config.auth.users)
        self.login_timeout_s = config.limits.login_timeout_s
        self.tls = TlsServer(config.tls) if config.tls is not None else None
        self.log = config.log
        self.draining = False
        self.started_at = time.time()
        self.reloading = asyncio.Lock()
        self.metrics = Metrics(self)
        self.periods = Periods(time.monotonic())
        self._databases: dict[str, LogicalDatabase] = {}
        self._sessions: set[Session] = set()
        self._consoles: set[ConsoleSession] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._at_once = False

    # --- the door (proxy.login.Door) --------------------------------------------------------------------------

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
        if len(self._sessions) >= self.config.limits.clients_max:
            raise ProxyError("53300", "sorry, too many clients already")
        self._sessions.add(session)

    def leave(self, session: Session | ConsoleSession) -> None:
        """Count it out."""
        if isinstance(session, ConsoleSession):
            self._consoles.discard(session)
        else:
            self._sessions.discard(session)

    # --- what the console asks (proxy.console.world.World) --------------------------------------------------------

    def databases(self) -> Mapping[str, LogicalDatabase]:
        """Return the databases that are served."""
        return self._databases

    def sessions(self) -> Collection[Session]:
        """Return the sessions of clients."""
        return tuple(self._sessions)

    def reload(self) -> None:
        """SIGHUP: read again who may log in, and the certificate."""
        spawn(reload(self), name="reload")

    def drain(self) -> None:
        """Do what SIGTERM does."""
        self._stop(signal.SIGTERM)

    # --- what a reload renews (proxy.reload.Reloadable) ---------------------------------------------------------

    def use_passwords(self, passwords: Mapping[str, str]) -> None:
        """Log in to the shards with these from now on."""
        for database in self._databases.values():
            database.use_passwords(passwords)

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
        return f"the catalog of {starting[0]} could not be read yet" if starting else ""

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until a signal says stop."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            tracing = None if self.config.tracing is None else Tracing(self.config.tracing)
            if tracing is not None:
                stack.push_async_callback(asyncio.to_thread, tracing.close)
            for name, database in self.config.cluster.databases.items():
                served = self._databases[name] = await stack.enter_async_context(
                    open_database(self.config, database, self.metrics, self._checkpoint)
                )
                served.tracing = tracing
                served.use_log(self.log)
            listeners = await self._listen()
            for listener in listeners:
                stack.push_async_callback(self._close_listener, listener)
            if self.config.metrics is not None:
                endpoint = Endpoint(self.metrics.registry, self)
                endpoint.start(self.config.metrics.host, self.config.metrics.port)
                stack.push_async_callback(endpoint.close)
            beat = spawn(self._measure_lag(), name="event loop's lag")
            stack.callback(beat.cancel)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop, number)
            loop.add_signal_handler(signal.SIGHUP, self.reload)
            # What lives for the whole run is not worth looking at in every collection.
            gc.collect()
            gc.freeze()
            on_ready()
            systemd.ready()
            await self._stopping.wait()
            systemd.stopping()
            for listener in listeners:
                listener.close()
            await self._drain()

    async def _listen(self) -> list[asyncio.Server]:
        """Listen where the configuration says, or on the sockets that systemd has passed."""
        loop = asyncio.get_running_loop()
        passed = systemd.listening_sockets()
        if passed:
            return [await loop.create_server(self._connection, sock=one, backlog=LISTEN_BACKLOG) for one in passed]
        listen = self.config.listen
        return [
            await loop.create_server(
                self._connection, listen.host, listen.port, backlog=LISTEN_BACKLOG, reuse_address=True
            )
        ]

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

    async def _close_listener(self, listener: asyncio.Server) -> None:
        listener.close()
        await listener.wait_closed()

    # --- stopping ---------------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        self._at_once = self._at_once or number == signal.SIGINT or self._stopping.is_set()
        self.draining = True
        self._stopping.set()
        if self._at_once:
            for task in self._clients:
                task.cancel()

    async def _drain(self) -> None:
        """Let transactions in flight end, bounded by the configured time; idle clients are told to go."""
        deadline = asyncio.get_running_loop().time() + self.config.limits.drain_timeout_s
        while self._clients and not self._at_once:
            for session in list(self._sessions):
                session.shut_down_if_idle()
            if not self._sessions:
                # Whoever drains may want to watch it to its end.
                for console in list(self._consoles):
                    console.end()
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait(self._clients, timeout=min(left, 0.1), return_when=asyncio.FIRST_COMPLETED)
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=self.config.limits.drain_timeout_s)


async def serve(config: Config, on_ready: Callable[[], None], checkpoint: Checkpoint = pass_by) -> None:
    """Serve ``config`` until SIGTERM or SIGINT; ``on_ready`` is called when the port accepts connections."""
    await Server(config, checkpoint).run(on_ready)
