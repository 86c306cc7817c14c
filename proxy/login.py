"""From an accepted socket to a session: encryption requests, cancel requests, authentication, start-up parameters.

Decides who gets in. Left to others: the cryptography (proxy.wire.scram), what the session does (proxy.session). A
client's role is the role on the shards: its first link is opened here, so that a shard's refusal reaches the client in
the shard's words.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy.connection import ClientGone
from proxy.errors import ProxyError
from proxy.session.loop import serve_session
from proxy.session.session import Session, error_frame
from proxy.settings import NOT_SETTINGS, SessionSettings, parse_options
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.errors import WireFailure
from proxy.wire.scram import ScramServer, Verifier, is_verifier, stable_salt
from proxy.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.cancel import CancelKeys
    from proxy.config import Auth
    from proxy.connection import ClientConnection
    from proxy.database import LogicalDatabase

log = structlog.get_logger("pgchorus.login")

_PASSWORD_MESSAGE = ord("p")
_NONCE_BYTES = 18
_NEWEST_MINOR = 2
_FIRST_MINOR_WITH_LONG_KEYS = 2


class Door(Protocol):
    """What a login needs of the server."""

    auth: Auth
    keys: CancelKeys
    scram_secret: bytes
    draining: bool

    def database(self, name: str) -> LogicalDatabase | None:
        """Return a logical database by name."""

    def enter(self, session: Session) -> None:
        """Count a session in; raises ProxyError 53300 when there are too many."""

    def leave(self, session: Session) -> None:
        """Count it out."""


async def serve_client(connection: ClientConnection, door: Door) -> None:
    """Handle one connection from its first byte to its last."""
    try:
        packet = await _first_packet(connection)
        if isinstance(packet, CancelRequest):
            door.keys.cancel(packet.pid, packet.secret)
            return
        connection.start_frames()
        session, pid = await _log_in(connection, door, packet)
        try:
            await serve_session(session)
        finally:
            door.keys.forget(pid)
            door.leave(session)
    except ClientGone:
        log.debug("client left before it logged in", client=connection.peer)
    except (ProxyError, ShardError, WireFailure) as error:
        log.info("login refused", client=connection.peer, error=str(error))
        connection.write(_fatal(error))
    finally:
        connection.close()


def _fatal(error: Exception) -> bytes:
    """Before a session exists every error ends the connection, and says so."""
    if isinstance(error, ShardError):
        return backend.error_response(error.fields.replace(S="FATAL", V="FATAL"))
    if isinstance(error, ProxyError):
        return backend.error_response(error.fields().replace(S="FATAL", V="FATAL"))
    return error_frame(error)


async def _first_packet(connection: ClientConnection) -> StartupMessage | CancelRequest:
    while True:
        packet = await connection.receive_startup()
        if isinstance(packet, SSLRequest | GSSENCRequest):
            connection.write(b"N")
            continue
        return packet


async def _log_in(connection: ClientConnection, door: Door, startup: StartupMessage) -> tuple[Session, int]:
    """Authenticate, open the first link, and send everything up to the first ReadyForQuery."""
    user = startup.parameters.get("user", "")
    if not user:
        raise ProxyError("28000", "no PostgreSQL user name specified in startup packet")
    if startup.parameters.get("replication", "false").lower() not in ("false", "off", "no", "0"):
        raise ProxyError("0A000", "replication connections are not supported through the proxy")
    if startup.minor > _NEWEST_MINOR or startup.protocol_options:
        connection.write(
            backend.negotiate_protocol_version(min(startup.minor, _NEWEST_MINOR), sorted(startup.protocol_options))
        )
    if door.draining:
        raise ProxyError("57P03", "the proxy is shutting down")
    await _authenticate(connection, door, user)
    name = startup.parameters.get("database") or user
    database = door.database(name)
    if database is None:
        raise ProxyError("3D000", f'database "{name}" does not exist')
    settings = startup_settings(startup.parameters)
    start = await database.start_role(user, settings)
    session = Session(connection, database, user, settings, start.parameters)
    session.transaction.default_isolation = start.isolation
    door.enter(session)
    pid, secret = door.keys.register(session, long_key=startup.minor >= _FIRST_MINOR_WITH_LONG_KEYS)
    session.pid = pid
    greeting = [backend.authentication_ok()]
    greeting += [backend.parameter_status(name, value) for name, value in start.parameters.items()]
    greeting += [backend.backend_key_data(pid, secret), backend.ready_for_query(b"I")]
    connection.write(b"".join(greeting))
    return session, pid


def startup_settings(parameters: Mapping[str, str]) -> SessionSettings:
    """Make a session's base settings of the StartupMessage; raises ProxyError for options that are not understood."""
    settings = SessionSettings()
    try:
        options = parse_options(parameters.get("options", ""))
    except ValueError as error:
        raise ProxyError("42601", f"invalid command-line argument for server process: {error}") from error
    for name, value in [*options, *parameters.items()]:
        if name in NOT_SETTINGS:
            continue
        if name.lower() == "client_encoding":
            if value.lower().strip("'").replace("-", "").replace("_", "") not in ("utf8", "unicode"):
                raise ProxyError("0A000", f"client_encoding {value} is not supported in this version; use UTF8")
            value = "UTF8"  # noqa: PLW2901 - the canonical spelling
        settings.set_startup(name.lower(), value)
    return settings


async def _authenticate(connection: ClientConnection, door: Door, user: str) -> None:
    if door.auth.method == "trust":
        return
    secret = door.auth.users.get(user)
    verifier = None
    if secret is not None:
        salt = stable_salt(door.scram_secret, user)
        verifier = Verifier.parse(secret) if is_verifier(secret) else Verifier.of_password(secret, salt)
    exchange = ScramServer(user, verifier, nonce=secrets.token_urlsafe(_NONCE_BYTES), secret=door.scram_secret)
    connection.write(exchange.begin())
    while not exchange.done:
        kind, body = await connection.receive()
        if kind != _PASSWORD_MESSAGE:
            raise ProxyError("08P01", f"expected SASL response, got message type {kind}")
        connection.write(exchange.respond(body))
