"""The contract with asyncpg's private parts: when asyncpg changes, this file fails first and says what changed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import ssl
import struct
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from asyncpg import connect_utils

from eventually import until_waiting
from proxy.demo.embedded import EmbeddedServer
from proxy.shards import lending
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.link import open_link
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def test_asyncpg_is_bounded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = [entry for entry in project["dependencies"] if entry.startswith("asyncpg")]
    assert "<" in bound, "the wire is lent through private attributes: an unknown asyncpg must not be installed"


def test_cancel_takes_what_we_give_it() -> None:
    parameters = inspect.signature(connect_utils._cancel).parameters
    assert set(parameters) == {"loop", "addr", "params", "backend_pid", "backend_secret"}
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values())


@pytest.fixture
async def connection(endpoint: ShardEndpoint) -> AsyncIterator[Any]:
    made: Any = await asyncpg.connect(endpoint.dsn, connection_class=lending.ShardConnection)
    transport = made._transport
    yield made
    transport.abort()  # uvloop's close() spins for ever on a transport that a failed test left open


async def test_a_connection_has_the_private_parts_that_are_lent(connection: Any) -> None:
    for name in ("_protocol", "_transport", "_addr", "_params", "_aborted"):
        assert hasattr(connection, name), name
    assert connection._protocol.backend_pid == connection.get_server_pid()
    assert isinstance(connection._protocol.backend_secret, int)
    assert callable(connection._transport.set_protocol)
    assert connection._aborted is False


async def test_a_finished_lender_thinks_itself_closed(connection: Any) -> None:
    loan = connection.give_away()
    assert connection.is_closed()
    await connection.close()
    connection.terminate()
    assert not loan.transport.is_closing()
    with pytest.raises(asyncpg.InterfaceError):
        await connection.execute("SELECT 1")
    connection.__del__()
    assert not loan.transport.is_closing()


async def test_every_parameter_that_the_server_reports_is_known(endpoint: ShardEndpoint) -> None:
    parts = urlsplit(endpoint.dsn)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = struct.pack(">I", 196608) + b"user\0postgres\0client_encoding\0UTF8\0database\0" + parts.path[1:].encode()
    writer.write(struct.pack(">I", len(body) + 6) + body + b"\0\0")
    reported: dict[str, str] = {}
    while (header := await reader.readexactly(5))[:1] != b"Z":
        message = await reader.readexactly(int.from_bytes(header[1:], "big") - 4)
        if header[:1] == b"S":
            name, value, _ = message.decode().split("\0")
            reported[name] = value
    writer.close()
    await writer.wait_closed()
    link = await open_link(endpoint, role="postgres", password=None)
    assert link.parameters == reported
    await link.close()


async def test_the_kernel_watches_the_peer(endpoint: ShardEndpoint) -> None:
    link = await open_link(endpoint, role="postgres", password=None)
    sock = link._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == lending._KEEPALIVE_IDLE_S
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    await link.close()


async def test_of_several_hosts_the_one_that_answers_is_taken(endpoint: ShardEndpoint) -> None:
    parts = urlsplit(endpoint.dsn)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        hosts = f"127.0.0.1:{unused.getsockname()[1]},127.0.0.1:{parts.port}"
        many = ShardEndpoint("s0", 0, f"postgres://postgres@{hosts}{parts.path}?target_session_attrs=primary")
        link = await open_link(many, role="postgres", password=None)
        assert (await link.run("SELECT 1")).rows == [[b"1"]]
        await link.cancel()
        await link.wash()
        await link.close()
        nowhere = ShardEndpoint("s0", 0, many.dsn.replace("primary", "standby"))
        with pytest.raises(ShardError) as caught:
            await open_link(nowhere, role="postgres", password=None)
        assert caught.value.sqlstate == "08001"


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that lets role app in by password only."""
    server = EmbeddedServer(tmp_path_factory.mktemp("guarded") / "data", durable=False)
    server.create()
    rules = "host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n"
    (server.directory / "pg_hba.conf").write_text(rules)
    with server:
        yield server


@pytest.fixture
async def guarded(guarded_server: EmbeddedServer) -> ShardEndpoint:
    connection = await asyncpg.connect(guarded_server.dsn())
    await connection.execute("DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN PASSWORD 'opens app'")
    await connection.close()
    return ShardEndpoint("s0", 0, guarded_server.dsn())


class TlsFront:
    """Speaks TLS as a Postgres server does and passes everything on to one: the embedded server has no TLS."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.safe_connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(HERE / "tls/server.crt", HERE / "tls/server.key")

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == struct.pack(">II", 8, 80877103)
        writer.write(b"S")
        await writer.start_tls(self._context)
        self.safe_connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.mark.parametrize(
    "options", ["sslmode=require", f"sslmode=verify-full&sslrootcert={HERE}/tls/server.crt", "sslmode=prefer"]
)
async def test_the_wire_of_a_tls_connection(
    guarded: ShardEndpoint, guarded_server: EmbeddedServer, options: str
) -> None:
    front = TlsFront(guarded_server.port)
    async with front as port:
        safe = ShardEndpoint("s0", 0, f"{guarded.dsn}?{options}".replace(str(guarded_server.port), str(port)))
        await everything_works(safe, guarded)
    assert front.safe_connections == 2  # the link, and the CancelRequest


async def everything_works(safe: ShardEndpoint, guarded: ShardEndpoint) -> None:
    link = await open_link(safe, role="app", password="opens app")
    assert link._transport.get_extra_info("ssl_object") is not None
    assert (await link.run("SELECT current_user")).rows == [[b"app"]]
    stream = link.stream(frame(b"Q", b"SELECT repeat('x', 1000) FROM generate_series(1, 20000)\0"))
    rows = 0
    while not stream.over:
        rows += sum(kind == ord("D") for kind, _ in await stream.next())
    assert rows == 20000
    assert (await link.run(f"SELECT length('{'x' * 5_000_000}')")).rows == [[b"5000000"]]

    running = asyncio.ensure_future(link.run("SELECT pg_sleep(60)"))
    admin = await asyncpg.connect(guarded.dsn)
    await until_waiting(admin, link.pid)
    await link.cancel()
    with pytest.raises(ShardError, match="57014"):
        await running
    assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", link.pid)
    await admin.close()
    with pytest.raises(ShardError) as caught:
        await link.run("SELECT 1")
    assert caught.value.lost
    await link.close()


async def test_a_wrong_password_is_told_in_the_servers_words(guarded: ShardEndpoint) -> None:
    with pytest.raises(ShardError) as caught:
        await open_link(guarded, role="app", password="opens nothing")
    assert (caught.value.sqlstate, caught.value.lost) == ("28P01", True)
    assert caught.value.message == 'password authentication failed for user "app"'


async def test_the_control_roles_password_is_not_offered_for_another_role(
    guarded: ShardEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    shared = guarded.dsn.replace("postgres@", "postgres:opens app@")
    with pytest.raises(ShardError) as caught:
        await open_link(ShardEndpoint("s0", 0, shared), role="app", password=None)
    assert caught.value.sqlstate == "28P01"
    own = guarded.dsn.replace("postgres@", "app:opens app@")
    link = await open_link(ShardEndpoint("s0", 0, own), role="app", password=None)
    assert (await link.run("SELECT current_user")).rows == [[b"app"]]
    await link.close()
