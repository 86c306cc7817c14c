"""From an accepted socket to a session: encryption requests, cancel requests, authentication, start-up parameters.

Decides who gets in. Left to others: which proof a client owes (proxy.access) and whether it holds
(proxy.authentication), TLS itself (proxy.tls), what the session does (proxy.session). A
client's role is the role on the shards: its first link is opened here, so that a shard's refusal reaches the client in
the shard's words.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy.access import Client, method_for
from proxy.authentication import authenticate
from proxy.config import CONSOLE_DATABASE
from proxy.config_values import MAX_IDENTIFIER_BYTES
from proxy.console.session import PARAMETERS, ConsoleSession
from proxy.encodings import by_name, served
from proxy.errors import ClientGone, ProxyError
from proxy.session.clocks import begin_with
from proxy.session.loop import serve_session
from proxy.session.own_settings import OWN_PREFIX
from proxy.session.roles import note_role
from proxy.session.session import Session
from proxy.session.telling import error_frame
from proxy.settings import NOT_SETTINGS, SessionSettings, boolean, parse_options
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.errors import WireFailure, desynchronized
from proxy.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage
from router.errors import Refused, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.authentication import Credentials
    from proxy.cancel import CancelKeys
    from proxy.config import Auth, Log
    from proxy.connection import ClientConnection
    from proxy.console.world import World
    from proxy.database import LogicalDatabase
    from proxy.tls import TlsServer

log = structlog.get_logger("pgchorus.login")

_NEWEST_MINOR = 2
_LEVELS = frozenset({"serializable", "repeatable read", "read committed", "read uncommitted"})
_PRINTABLE = range(0x20, 0x7F)
_FIRST_MINOR_WITH_LONG_KEYS = 2


class Door(Protocol):
    """What a login needs of the server."""

    auth: Auth
    keys: CancelKeys
    credentials: Credentials
    tls: TlsServer | None
    login_timeout_s: float
    log: Log

    @property
    def refusing(self) -> bool:
        """Whether nobody gets in any more."""

    def database(self, name: str) -> LogicalDatabase | None:
        """Return a logical database by name."""

    @property
    def world(self) -> World:
        """What the console shows."""

    def may_use_console(self, user: str) -> bool:
        """Whether a user may act at the console, and not only look; raises ProxyError if he may not even that."""

    def enter(self, session: Session | ConsoleSession) -> None:
        """Count a session in; raises ProxyError 53300 when there are too many."""

    def leave(self, session: Session | ConsoleSession) -> None:
        """Count it out."""

    async def cancel(self, pid: int, secret: bytes) -> None:
        """Cancel the session of a key, here or in another worker; nobody's if there is none."""


async def serve_client(connection: ClientConnection, door: Door) -> None:
    """Handle one connection from its first byte to its last."""
    try:
        entered = await _enter(connection, door)
        if entered is None:
            return
        session, pid = entered
        if door.log.connections:
            _say_who(connection, session)
        try:
            if isinstance(session, ConsoleSession):
                await session.serve()
            else:
                await serve_session(session)
        finally:
            door.keys.forget(pid)
            door.leave(session)
    except ClientGone:
        log.debug("client left before it logged in", client=connection.peer)
    except TimeoutError:
        log.info("login took too long", client=connection.peer)
        connection.write(_fatal(ProxyError("57014", "canceling authentication due to timeout")))
    except (ProxyError, ShardError, WireFailure) as error:
        log.info("login refused", client=connection.peer, error=str(error))
        connection.write(_fatal(error))
    finally:
        connection.close()


def _say_who(connection: ClientConnection, session: Session | ConsoleSession) -> None:
    console = isinstance(session, ConsoleSession)
    log.info(
        "client logged in",
        client=connection.peer,
        user=session.user if isinstance(session, ConsoleSession) else session.role,
        database=CONSOLE_DATABASE if isinstance(session, ConsoleSession) else session.database.logical.name,
        tls=connection.tls.version if connection.tls is not None else "",
        **({} if console else {"id": session.pid}),
    )


async def _enter(connection: ClientConnection, door: Door) -> tuple[Session | ConsoleSession, int] | None:
    """Do all that comes before the first ReadyForQuery, in the time that there is for it; None: it was a cancel."""
    async with asyncio.timeout(door.login_timeout_s):
        packet = await _first_packet(connection, door.tls)
        if isinstance(packet, CancelRequest):
            await door.cancel(packet.pid, packet.secret)
            return None
        return await _log_in(connection, door, packet)


def _fatal(error: Exception) -> bytes:
    """Before a session exists every error ends the connection, and says so."""
    if isinstance(error, ShardError):
        return backend.error_response(error.fields.replace(S="FATAL", V="FATAL"))
    if isinstance(error, ProxyError):
        return backend.error_response(error.fields().replace(S="FATAL", V="FATAL"))
    return error_frame(error)


async def _first_packet(connection: ClientConnection, tls: TlsServer | None) -> StartupMessage | CancelRequest:
    if tls is not None and await connection.begins_with_tls():
        tls.refresh()
        connection.start_tls(tls)
        await connection.begins_with_tls()  # the handshake is over when there is something to read
        if connection.tls is None or connection.tls.alpn is None:
            raise desynchronized("received direct SSL connection request without ALPN protocol negotiation extension")
    while True:
        packet = await connection.receive_startup()
        if isinstance(packet, SSLRequest) and tls is not None:
            connection.write(b"S")
            connection.expect_nothing_yet()
            tls.refresh()
            connection.start_tls(tls)
        elif isinstance(packet, SSLRequest | GSSENCRequest):
            connection.write(b"N")
        else:
            return packet


async def _log_in(
    connection: ClientConnection, door: Door, startup: StartupMessage
) -> tuple[Session | ConsoleSession, int]:
    """Authenticate, open the first link, and send everything up to the first ReadyForQuery."""
    user = stored_name(startup.parameters.get("user", ""))
    if not user:
        raise ProxyError("28000", "no PostgreSQL user name specified in startup packet")
    _check_replication(startup.parameters.get("replication", "false"))
    if startup.minor > _NEWEST_MINOR or startup.protocol_options:
        connection.write(
            backend.negotiate_protocol_version(min(startup.minor, _NEWEST_MINOR), [*startup.protocol_options])
        )
    if door.refusing:
        raise ProxyError("57P03", "the proxy is shutting down")
    name = stored_name(startup.parameters.get("database", "")) or user
    client = Client(connection.host, name, user, connection.tls is not None)
    method = method_for(client, door.auth.rules, door.auth.method)
    if method == "reject":
        raise ProxyError("28000", f"pgchorus rejects connection for {client}")
    await authenticate(connection, door.credentials, user, method)
    connection.start_frames()
    try:
        return await _begin(connection, door, startup, name, user)
    except (ProxyError, ShardError):
        connection.write(backend.authentication_ok())  # it was not that
        raise


def _check_replication(given: str) -> None:
    asked = boolean(given)
    if asked is None and given != "database":
        raise ProxyError(
            "22023",
            f'invalid value for parameter "replication": "{given}"',
            hint='Valid values are: "false", 0, "true", 1, "database".',
        )
    if asked is not False:
        raise ProxyError.of_refusal(refusal("replication"))


async def _begin(
    connection: ClientConnection, door: Door, startup: StartupMessage, name: str, user: str
) -> tuple[Session | ConsoleSession, int]:
    """Make the session of who has proved to be ``user``, and greet him."""
    session: Session | ConsoleSession
    if name == CONSOLE_DATABASE:
        parameters: Mapping[str, str] = PARAMETERS
        session = ConsoleSession(connection, door.world, user, may_act=door.may_use_console(user))
    else:
        session, parameters = await _start_session(connection, door, name, user, startup.parameters)
    door.enter(session)
    pid, secret = door.keys.register(session, long_key=startup.minor >= _FIRST_MINOR_WITH_LONG_KEYS)
    session.pid = pid
    greeting = [backend.authentication_ok()]
    greeting += [backend.parameter_status(name, value) for name, value in parameters.items()]
    greeting += [backend.backend_key_data(pid, secret), backend.ready_for_query(b"I")]
    connection.write(b"".join(greeting))
    return session, pid


def stored_name(given: str) -> str:
    """Cut a name as Postgres does before it looks at it: the shard does, so rules and certificates must go by that."""
    return given.encode("utf-8", "surrogateescape")[:MAX_IDENTIFIER_BYTES].decode("utf-8", "surrogateescape")


async def _start_session(
    connection: ClientConnection, door: Door, name: str, user: str, given: Mapping[str, str]
) -> tuple[Session, Mapping[str, str]]:
    """Open the first link, and return a session with the parameters that it begins with."""
    database = door.database(name)
    if database is None:
        raise ProxyError("3D000", f'database "{name}" does not exist')
    settings = startup_settings(given)
    if is_broken(user):
        raise ProxyError("28000", f'role "{user}" does not exist')  # a name that is no UTF-8, or a letter that was cut
    start = await database.start_role(user, settings)
    try:
        settings.encoding = served(start.parameters.get("client_encoding", "UTF8"), len(database.logical.shards))
    except Refused as error:
        raise ProxyError.of_refusal(error) from error
    session = Session(connection, database, user, settings, start.parameters)
    session.transaction.default_isolation = start.isolation
    note_role(session, start.acting, lasting=True)
    begin_with(session, start.timeouts)
    return session, start.parameters


def startup_settings(parameters: Mapping[str, str]) -> SessionSettings:
    """Make a session's base settings of the StartupMessage; raises ProxyError for options that are not understood."""
    settings = SessionSettings()
    for name, value in [*parse_options(parameters.get("options", "")), *parameters.items()]:
        if name in NOT_SETTINGS or _is_of_no_transaction(name.lower(), value):
            continue
        if name.lower().startswith(OWN_PREFIX):
            settings.own[name.lower().removeprefix(OWN_PREFIX)] = value.lower()
            continue
        if name.lower() == "client_encoding" and (encoding := by_name(value)) is not None:
            value = encoding.name  # noqa: PLW2901 - one spelling, so that equal settings are equal
        if name.lower() == "application_name":
            value = clean_ascii(value)  # noqa: PLW2901 - likewise
        settings.set_startup(name.lower(), value, again=True)
    return settings


def _is_of_no_transaction(name: str, value: str) -> bool:
    """Whether it is a setting of a transaction, which ends with the login. A shard tells what is no value for it."""
    if name == "transaction_isolation":
        return value.lower() in _LEVELS
    return name == "transaction_deferrable" and boolean(value) is not None


def is_broken(text: str) -> bool:
    """Whether a text came as bytes that are no UTF-8."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def clean_ascii(value: str) -> str:
    """Return what is no UTF-8 as Postgres keeps names of applications (pg_clean_ascii); others it cleans itself."""
    data = value.encode("utf-8", "surrogateescape")
    if not is_broken(value):
        return value
    return "".join(chr(byte) if byte in _PRINTABLE else f"\\x{byte:02x}" for byte in data)
