"""Links that end: killed while lent, killed while idle, abandoned by their user, closed in peace."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventually import until_gone, until_waiting
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink, open_link
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def admin(endpoint: ShardEndpoint) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(endpoint.dsn)
    yield connection
    await connection.close()
    gc.collect()


@pytest.fixture
async def link(endpoint: ShardEndpoint) -> AsyncIterator[ShardLink]:
    opened = await open_link(endpoint, role="postgres", password=None)
    yield opened
    await opened.close()


class Holding:
    """A transport on which nothing goes out."""

    def __init__(self, transport: asyncio.Transport, held: list[bytes]) -> None:
        self._transport = transport
        self.write = held.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def kill(admin: asyncpg.Connection, link: ShardLink) -> None:
    assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", link.pid)


async def ended(link: ShardLink) -> list[ShardError]:
    """Collect what ``on_lost`` is told."""
    told: list[ShardError] = []
    link.on_lost = told.append
    return told


async def test_killed_in_the_middle_of_a_statement(admin: asyncpg.Connection, link: ShardLink) -> None:
    told = await ended(link)
    running = asyncio.ensure_future(link.run("SELECT pg_sleep(60)"))
    await until_waiting(admin, link.pid)
    await kill(admin, link)
    with pytest.raises(ShardError) as caught:
        await running
    error = caught.value
    assert (error.sqlstate, error.fields.severity, error.lost) == ("57P01", "FATAL", True)
    assert error.raw is not None
    assert error.raw[:1] == b"E"
    assert link.closed
    assert not link.left
    assert told == [error]


async def test_killed_while_lent_between_statements_is_noticed_at_once(
    admin: asyncpg.Connection, link: ShardLink
) -> None:
    await link.run("BEGIN")
    noticed: asyncio.Future[ShardError] = asyncio.get_running_loop().create_future()
    link.on_lost = noticed.set_result
    await kill(admin, link)
    error = await noticed
    assert link.closed
    assert error.sqlstate == "57P01"
    with pytest.raises(ShardError) as caught:
        await link.run("SELECT 1")
    assert caught.value is error
    with pytest.raises(ShardError):
        await link.drain()
    link.write(frame(b"S", b""))
    link.pause_reading()
    link.resume_reading()
    link.abort()
    await link.close()
    await link.cancel()


async def test_killed_in_the_middle_of_a_stream_gives_first_what_had_come(
    admin: asyncpg.Connection, link: ShardLink
) -> None:
    stream = link.stream(frame(b"Q", b"SELECT 1; SELECT pg_sleep(60)\0"))
    await until_waiting(admin, link.pid)
    await kill(admin, link)
    assert [kind for kind, _ in await stream.next()][:3] == [ord("T"), ord("D"), ord("C")]
    with pytest.raises(ShardError, match="57P01"):
        await stream.discard()
    with pytest.raises(ShardError, match="57P01"):
        await stream.next()


async def test_killed_while_waiting_to_write(admin: asyncpg.Connection, link: ShardLink) -> None:
    """The server sleeps and reads nothing, so our writes pile up until the transport says stop."""
    stream = link.stream(frame(b"Q", b"SELECT pg_sleep(60)\0"))
    await until_waiting(admin, link.pid)
    while link._drain.is_open:
        link.write(frame(b"Q", b"SELECT 1 -- " + b"x" * (1 << 20) + b"\0"))
    draining = asyncio.ensure_future(link.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    await kill(admin, link)
    with pytest.raises(ShardError) as caught:
        await draining
    assert caught.value.lost
    with pytest.raises(ShardError):
        await stream.discard()


@pytest.mark.parametrize("how", ["run", "collect"])
async def test_being_cancelled_closes_the_link(admin: asyncpg.Connection, link: ShardLink, how: str) -> None:
    sql = "SELECT pg_sleep(60)"
    call = link.run(sql) if how == "run" else link.collect(frame(b"Q", sql.encode() + b"\0"))
    task = asyncio.ensure_future(call)
    await until_waiting(admin, link.pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert link.closed
    assert link.left
    # The server does not look at its socket while it sleeps.
    assert await admin.fetchval("SELECT pg_cancel_backend($1)", link.pid)
    await until_gone(admin, link.pid)


@pytest.mark.parametrize(
    "sql", ["SELECT pg_sleep(60)", "COPY t FROM STDIN", "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)"]
)
async def test_interrupt_stops_the_statement_however_soon_it_comes(
    admin: asyncpg.Connection, link: ShardLink, sql: str
) -> None:
    await link.run("CREATE TEMP TABLE t (a text)")
    stream = link.stream(frame(b"Q", sql.encode() + b"\0"), 1, 1000)
    if "repeat" in sql:
        await until_waiting(admin, link.pid, "ClientWrite")
    await link.interrupt()
    with pytest.raises(ShardError) as caught:
        await stream.discard()
    assert caught.value.lost
    await link.close()
    await until_gone(admin, link.pid)


async def test_a_cancel_that_overtakes_its_statement_is_repeated(
    admin: asyncpg.Connection, link: ShardLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bytes] = []
    transport, cancel = link._transport, link._loan.cancel
    cancels = 0

    class Overtakes:
        async def cancel(self) -> None:
            nonlocal cancels
            cancels += 1
            await cancel()
            while held:
                transport.write(held.pop(0))

    monkeypatch.setattr(link, "_transport", Holding(transport, held))
    monkeypatch.setattr(link, "_loan", Overtakes())
    link.stream(frame(b"Q", b"SELECT pg_sleep(60)\0"))
    await link.interrupt()
    assert cancels > 1
    monkeypatch.undo()
    await link.close()
    await until_gone(admin, link.pid)


async def test_close_says_goodbye(admin: asyncpg.Connection, link: ShardLink) -> None:
    told = await ended(link)
    await link.close()
    assert link.closed
    assert link.left
    assert len(told) == 1
    await until_gone(admin, link.pid)
    await link.close()
    assert len(told) == 1


async def test_abort_tells_the_one_who_waits(link: ShardLink) -> None:
    told = await ended(link)
    running = asyncio.ensure_future(link.run("SELECT pg_sleep(0.2)"))
    await asyncio.sleep(0)
    link.abort()
    link.abort()
    with pytest.raises(ShardError) as caught:
        await running
    assert (caught.value.sqlstate, caught.value.lost) == ("08006", True)
    assert told == [caught.value]


async def test_a_forgotten_link_does_no_harm(endpoint: ShardEndpoint, admin: asyncpg.Connection) -> None:
    """asyncpg's finalizer would raise or warn here if it still thought the connection its own."""
    link = await open_link(endpoint, role="postgres", password=None)
    pid = link.pid
    link.abort()
    del link
    gc.collect()
    await until_gone(admin, pid)


async def test_refusals_at_log_in_keep_the_servers_fields(endpoint: ShardEndpoint) -> None:
    with pytest.raises(ShardError) as caught:
        await open_link(endpoint, role="postgres", password=None, database="no such database")
    assert (caught.value.sqlstate, caught.value.fields.severity, caught.value.lost) == ("3D000", "FATAL", True)
    assert caught.value.message == 'database "no such database" does not exist'
    with pytest.raises(ShardError) as caught:
        await open_link(endpoint, role="nobody at all", password=None)
    assert caught.value.sqlstate == "28000"


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = ShardEndpoint("s9", 9, f"postgres://postgres@127.0.0.1:{unused.getsockname()[1]}/postgres")
        with pytest.raises(ShardError) as caught:
            await open_link(dead, role="postgres", password=None)
    assert (caught.value.sqlstate, caught.value.shard, caught.value.lost) == ("08001", 9, True)
    assert 'shard "s9"' in caught.value.message


async def test_a_server_that_accepts_and_says_nothing() -> None:
    release = asyncio.Event()

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    silent = ShardEndpoint("s9", 9, f"postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
    with pytest.raises(ShardError) as caught:
        await open_link(silent, role="postgres", password=None, connect_timeout_s=0.2)
    assert (caught.value.sqlstate, caught.value.fields.detail) == ("08001", "timed out")
    release.set()
    server.close()
    await server.wait_closed()
