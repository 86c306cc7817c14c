"""The loan of asyncpg's wire: the only file that touches asyncpg's private parts.

asyncpg opens connections for us (several hosts, target_session_attrs, TLS, authentication) and then gives its transport
away for good: ``borrow`` returns the transport of a connection that has just become ready, and asyncpg never speaks on
it again. A loan for life has no state in which both could speak, which is what goes wrong otherwise: a call of
asyncpg's hangs while its wire is lent, ``is_closed()`` lies about a link killed meanwhile, ``__del__`` raises on
uvloop.

What is private, and watched by tests/proxy/shards/test_lending.py, which fails first when asyncpg changes:
``Connection._transport``, ``._addr``, ``._params``, ``._aborted`` and ``connect_utils._cancel``. The version is bounded
in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final, cast

import asyncpg
from asyncpg import connect_utils

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.hosts import HostAddress

    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection  # generic in its stubs only

# Every parameter that PostgreSQL 14 to 18 report at start-up (GUC_REPORT); asyncpg keeps them but offers no list.
_REPORTED: Final = (
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "search_path",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
)

# A server that vanished without a FIN is noticed after idle + count * interval seconds, not after the kernel's two
# hours.
_KEEPALIVE_IDLE_S: Final = 30
_KEEPALIVE_INTERVAL_S: Final = 10
_KEEPALIVE_COUNT: Final = 3
_UNACKNOWLEDGED_MS: Final = 60_000


class ShardConnection(_Connection):
    """An asyncpg connection that can give its transport away."""

    __slots__ = ()

    def give_away(self) -> Loan:
        """Return the wire and what is needed beside it; this object is finished then and its finalizer does nothing."""
        private = cast("Any", self)
        protocol = private._protocol  # noqa: SLF001
        settings = protocol.get_settings()
        parameters = {name: getattr(settings, name) for name in _REPORTED if hasattr(settings, name)}
        loan = Loan(
            private._transport,  # noqa: SLF001
            protocol.backend_pid,
            protocol.backend_secret,
            parameters,
            private._addr,  # noqa: SLF001
            private._params,  # noqa: SLF001
        )
        # is_closed() is true from here, so that neither close() nor __del__ acts.
        private._aborted = True  # noqa: SLF001
        return loan


class Loan:
    """A ready server connection's transport, with its backend's pid, cancel key and reported parameters."""

    __slots__ = ("_address", "_connect_parameters", "_secret", "parameters", "pid", "transport")

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place
        self,
        transport: asyncio.Transport,
        pid: int,
        secret: int,
        parameters: dict[str, str],
        address: object,
        connect_parameters: object,
    ) -> None:
        self.transport = transport
        self.pid = pid
        self.parameters = parameters
        self._secret = secret
        self._address = address
        self._connect_parameters = connect_parameters

    async def cancel(self) -> None:
        """Send a CancelRequest to the same address, over TLS if the link is, and wait until the server has hung up.

        The server sends the signal before it hangs up. Not bounded: that is the caller's.
        """
        await cast("Any", connect_utils)._cancel(  # noqa: SLF001
            loop=asyncio.get_running_loop(),
            addr=self._address,
            params=self._connect_parameters,
            backend_pid=self.pid,
            backend_secret=self._secret,
        )


async def borrow(  # noqa: PLR0913 - as many as a login has parts
    endpoint: ShardEndpoint,
    *,
    role: str,
    password: str | None,
    database: str | None,
    connect_timeout_s: float,
    server_settings: Mapping[str, str] | None = None,
) -> Loan:
    """Log in by asyncpg and take the wire. Raises asyncpg's and the operating system's errors as they are."""
    connection = await asyncpg.connect(
        endpoint.dsn_for(role),
        **_where(endpoint.place.address),
        user=role,
        password=password,
        database=database,
        timeout=connect_timeout_s,
        statement_cache_size=0,
        connection_class=ShardConnection,
        server_settings=dict(server_settings) if server_settings else None,
    )
    loan = connection.give_away()
    guard_against_silence(loan.transport)
    return loan


async def connect(
    endpoint: ShardEndpoint, *, connect_timeout_s: float, server_settings: Mapping[str, str]
) -> ShardConnection:
    """Log in by asyncpg as the DSN says; the connection stays asyncpg's. Raises errors as they are."""
    connection = await asyncpg.connect(
        endpoint.dsn,
        **_where(endpoint.place.address),
        timeout=connect_timeout_s,
        statement_cache_size=0,
        connection_class=ShardConnection,
        server_settings=dict(server_settings),
    )
    guard_against_silence(cast("Any", connection)._transport)  # noqa: SLF001
    return connection


async def connect_to(endpoint: ShardEndpoint, address: HostAddress, *, connect_timeout_s: float) -> ShardConnection:
    """Log in to one of a shard's servers, whatever it is, with its own settings. Raises errors as they are."""
    connection = await asyncpg.connect(
        endpoint.dsn,
        **_where(address),
        timeout=connect_timeout_s,
        statement_cache_size=0,
        connection_class=ShardConnection,
        server_settings={"application_name": "pgchorus"},
    )
    guard_against_silence(cast("Any", connection)._transport)  # noqa: SLF001
    return connection


def _where(address: HostAddress | None) -> dict[str, Any]:
    """Return what leads to one server of a DSN; what it is has been asked, so asyncpg need not."""
    if address is None:
        return {}
    return {"host": address.host, "port": address.port, "target_session_attrs": "any"}


def guard_against_silence(transport: asyncio.Transport) -> None:
    """Have the kernel notice a peer that vanished without a FIN: by keepalives and by unacknowledged data."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
