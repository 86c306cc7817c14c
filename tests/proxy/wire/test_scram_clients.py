"""Real clients log in to ScramServer: libpq (psycopg) and asyncpg, with a right and a wrong password."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest

from proxy.session.telling import error_frame
from proxy.wire import backend
from proxy.wire.errors import WireFailure
from proxy.wire.frames import FrameReader
from proxy.wire.scram import ScramServer, Verifier
from proxy.wire.startup import SSLRequest, StartupMessage, StartupReader

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 20
USERS = {"app": Verifier.of_password("pässword", b"0123456789abcdef")}


def serve_one(listener: socket.socket, outcome: list[bool]) -> None:
    connection, _ = listener.accept()
    connection.settimeout(PATIENCE_SECONDS)
    with closing(connection):
        starting = StartupReader()
        while not isinstance(packet := starting.next(), StartupMessage):
            if isinstance(packet, SSLRequest):
                connection.sendall(b"N")
                continue
            starting.feed(connection.recv(65_536))
        user = packet.parameters["user"]
        nonce = secrets.token_urlsafe(18)
        exchange = ScramServer(user, USERS.get(user), nonce=nonce, secret=b"secret")
        connection.sendall(exchange.begin())
        reader = FrameReader(65_535)
        reader.feed(starting.rest())
        while not exchange.done:
            while (message := reader.next()) is None:
                reader.feed(connection.recv(65_536))
            try:
                connection.sendall(exchange.respond(message[1]))
            except WireFailure as failure:
                connection.sendall(error_frame(failure))
                outcome.append(False)
                return
        connection.sendall(
            backend.authentication_ok()
            + backend.parameter_status("client_encoding", "UTF8")
            + backend.parameter_status("server_version", "18.6")
            + backend.backend_key_data(1, b"abcd")
            + backend.ready_for_query(b"I")
        )
        outcome.append(True)
        connection.recv(65_536)  # Terminate, at which a server closes


@contextmanager
def server() -> Iterator[tuple[int, list[bool]]]:
    """Serve one login on a free port; gives the port and a list that gets whether it succeeded."""
    outcome: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        thread = threading.Thread(target=serve_one, args=(listener, outcome))
        thread.start()
        try:
            yield listener.getsockname()[1], outcome
        finally:
            thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


LOGINS = [("app", "pässword", True), ("app", "password", False), ("ghost", "pässword", False)]


@pytest.mark.parametrize(("user", "password", "right"), LOGINS)
@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_libpq(user: str, password: str, right: bool, sslmode: str) -> None:  # noqa: FBT001
    with server() as (port, outcome):
        where = {"host": "127.0.0.1", "port": port, "user": user, "dbname": "d", "sslmode": sslmode}
        if right:
            psycopg.connect(**where, password=password, gssencmode="disable", require_auth="scram-sha-256").close()  # type: ignore[arg-type]
        else:
            with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{user}"'):
                psycopg.connect(**where, password=password, gssencmode="disable")  # type: ignore[arg-type]
    assert outcome == [right]


@pytest.mark.parametrize(("user", "password", "right"), LOGINS)
async def test_asyncpg(user: str, password: str, right: bool) -> None:  # noqa: FBT001
    with server() as (port, outcome):
        connecting = asyncpg.connect(host="127.0.0.1", port=port, user=user, password=password, database="d", ssl=False)
        if right:
            await (await connecting).close()
        else:
            with pytest.raises(asyncpg.InvalidPasswordError, match=f'authentication failed for user "{user}"'):
                await connecting
    assert outcome == [right]
