"""Links to a real server: what comes out of them is what the server said, however much of it."""

from __future__ import annotations

import asyncio
import gc
import struct
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventually import until_waiting
from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink, open_link
from proxy.shards.relay import FAILED, IDLE, IN_TRANSACTION
from proxy.wire import backend
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.receiver import Chunk, Frame

MEGABYTE = 1 << 20
SYNC = frame(b"S", b"")


def query(sql: str) -> bytes:
    return frame(b"Q", sql.encode() + b"\0")


def extended(sql: str, result_format: int = 0) -> bytes:
    """Build Parse, Bind, Describe, Execute, Sync."""
    return (
        frame(b"P", b"\0" + sql.encode() + b"\0\0\0")
        + frame(b"B", b"\0\0\0\0\0\0\0\1" + result_format.to_bytes(2, "big"))
        + frame(b"D", b"P\0")
        + frame(b"E", b"\0\0\0\0\0")
        + SYNC
    )


class Bytes:
    """A receiver that keeps the answer as it came."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        self.got += chunk[index[0][1] : index[-1][2]]
        if index[-1][0] != backend.READY_FOR_QUERY:
            return False
        self.done.set_result(None)
        return True

    def lost(self, error: ShardError, /) -> None:
        self.done.set_exception(error)


@pytest.fixture
async def link(endpoint: ShardEndpoint) -> AsyncIterator[ShardLink]:
    opened = await open_link(endpoint, role="postgres", password=None)
    yield opened
    await opened.close()
    gc.collect()  # a finalizer of asyncpg's that acts would be heard here


async def raw_answers(dsn: str, messages: list[bytes]) -> list[bytes]:
    """Ask the server over a plain socket, and return its answers byte for byte."""
    parts = urlsplit(dsn)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = struct.pack(">I", 196608) + b"user\0postgres\0database\0" + parts.path[1:].encode() + b"\0\0"
    writer.write(struct.pack(">I", len(body) + 4) + body)

    async def until_ready() -> bytes:
        got = b""
        while True:
            header = await reader.readexactly(5)
            got += header + await reader.readexactly(int.from_bytes(header[1:], "big") - 4)
            if header[:1] == b"Z":
                return got

    await until_ready()
    answers = []
    for message in messages:
        writer.write(message)
        answers.append(await until_ready())
    writer.close()
    await writer.wait_closed()
    return answers


async def test_answers_are_byte_for_byte_what_the_server_says(link: ShardLink, endpoint: ShardEndpoint) -> None:
    messages = [
        query("SELECT 1 AS a, NULL, 'x''y', 1.50::numeric; SELECT 2; "),
        query(""),
        query("DO $$ BEGIN RAISE NOTICE 'look %', 1 USING HINT = 'there'; END $$"),
        query("SELECT 1/0"),
        query("SET TimeZone = 'Europe/Berlin'"),
        query("SELECT repeat('x', g) FROM generate_series(1, 3000) g"),
        query("COPY (SELECT g, repeat('y', 50) FROM generate_series(1, 5000) g) TO STDOUT"),
        query("BEGIN"),
        query("selekt 1"),
        query("SELECT 1"),
        query("ROLLBACK"),
        extended("SELECT g, g::text, '{1,2}'::int[], now() - now() FROM generate_series(1, 100) g", 1),
        extended("SELECT 1/0"),
        extended("CREATE TEMP TABLE t (a int)"),
        query("LISTEN here; NOTIFY here, 'to myself'"),
    ]
    expected = await raw_answers(endpoint.dsn, messages)
    own_pid = link.pid.to_bytes(4, "big")
    for message, said in zip(messages, expected, strict=True):
        receiver = Bytes()
        link.exchange(message, receiver)
        await receiver.done
        if b"to myself" in said:  # holds the backend's own pid
            at = said.index(b"here\0to myself") - 4
            said = said[:at] + own_pid + said[at + 4 :]  # noqa: PLW2901
        assert bytes(receiver.got) == said
        assert link.status == said[-1]
    assert link.parameters["TimeZone"] == "Europe/Berlin"


async def test_what_a_link_knows_at_first(link: ShardLink, endpoint: ShardEndpoint) -> None:
    assert (link.shard, link.name, link.role, link.database) == (0, "s0", "postgres", endpoint.database)
    assert (link.status, link.closed, link.dirty, link.settings) == (IDLE, False, False, None)
    assert not link.statements
    assert link.parameters["server_version"].startswith("18")
    assert link.parameters["client_encoding"] == "UTF8"
    answer = await link.run("SELECT pg_backend_pid()")
    assert answer.rows == [[str(link.pid).encode()]]


async def test_run_collects_tags_rows_fields_and_notices(link: ShardLink) -> None:
    answer = await link.run(
        "CREATE TEMP TABLE t (a int, b text); INSERT INTO t VALUES (1, NULL), (2, 'zwei');"
        "SELECT a, b FROM t ORDER BY a; DROP TABLE IF EXISTS missing"
    )
    assert answer.tags == (b"CREATE TABLE", b"INSERT 0 2", b"SELECT 2", b"DROP TABLE")
    assert answer.rows == [[b"1", None], [b"2", b"zwei"]]
    assert [field.name for field in answer.fields] == [b"a", b"b"]
    assert [notice.message for notice in answer.notices] == ['table "missing" does not exist, skipping']
    assert answer.status == IDLE


async def test_run_raises_what_the_server_said_and_the_link_goes_on(link: ShardLink) -> None:
    await link.run("BEGIN")
    with pytest.raises(ShardError) as caught:
        await link.run("SELECT * FROM nowhere")
    error = caught.value
    assert (error.sqlstate, error.shard, error.lost) == ("42P01", 0, False)
    assert error.fields.position == 15
    assert error.raw is not None
    assert backend.decode_error(error.raw[5:]) == error.fields
    assert link.status == FAILED
    assert (await link.run("COMMIT")).tags == (b"ROLLBACK",)
    assert link.status == IDLE


async def test_run_cannot_copy_in_and_says_so(link: ShardLink) -> None:
    await link.run("CREATE TEMP TABLE t (a int)")
    with pytest.raises(ShardError) as caught:
        await link.run("COPY t FROM STDIN")
    assert caught.value.sqlstate == "57014"
    assert (await link.run("SELECT count(*) FROM t")).rows == [[b"0"]]


async def test_collect_returns_errors_among_the_frames(link: ShardLink) -> None:
    frames = await link.collect(extended("SELECT 1/0") + extended("SELECT 5"), cycles=2)
    kinds = bytes(kind for kind, _ in frames)
    assert kinds == b"1EZ12TDCZ"  # the planner divides already
    assert backend.decode_data_row(frames[-3][1]) == [b"5"]


async def test_a_prefix_begins_the_transaction_of_the_exchange(link: ShardLink) -> None:
    link.prefix(query("SET TimeZone = 'Asia/Tokyo'"))
    link.prefix(query("BEGIN; SELECT 'swallowed'"))
    answer = await link.run("SHOW TimeZone")
    assert answer.rows == [[b"Asia/Tokyo"]]
    assert answer.tags == (b"SHOW",)
    assert link.status == IN_TRANSACTION
    assert link.parameters["TimeZone"] == "Asia/Tokyo"
    await link.run("ROLLBACK")


async def test_a_failed_prefix_is_raised_and_leaves_a_usable_link(link: ShardLink) -> None:
    for send in (
        lambda: link.run("SELECT 1"),
        lambda: link.collect(extended("SELECT 1")),
        lambda: link.stream(query("SELECT 1")).next(),
    ):
        link.prefix(query("BEGIN; SET nonsense = 1"))
        with pytest.raises(ShardError, match="nonsense") as caught:
            await send()
        assert not caught.value.lost
        assert link.status == FAILED
        assert (await link.run("ROLLBACK")).tags == (b"ROLLBACK",)


async def test_a_failed_prefix_before_a_pipeline_that_ends_in_flush(link: ShardLink) -> None:
    link.prefix(query("BEGIN; SET nonsense = 1"))
    stream = link.stream(frame(b"P", b"\0SELECT 1\0\0\0") + frame(b"H", b""))
    with pytest.raises(ShardError, match="nonsense"):
        await stream.next()
    assert (await link.run("ROLLBACK")).tags == (b"ROLLBACK",)


async def test_a_gate_keeps_a_failed_prefix_from_letting_the_statement_run(link: ShardLink) -> None:
    await link.run("CREATE TEMP TABLE t (a int)")
    link.prefix(query("SET nonsense = 1"), gate=True)
    with pytest.raises(ShardError, match="nonsense"):
        await link.run("INSERT INTO t VALUES (1)")
    assert (await link.run("SELECT count(*) FROM t")).rows == [[b"0"]]
    link.prefix(query("SET work_mem = '7MB'"), gate=True)
    assert (await link.run("SHOW work_mem")).rows == [[b"7MB"]]


async def test_without_a_gate_the_statement_has_run_behind_a_failed_prefix(link: ShardLink) -> None:
    """Not wanted, but so: why ``gate`` exists. A change here is a change of prefix()'s documentation."""
    await link.run("CREATE TEMP TABLE t (a int)")
    link.prefix(query("SET nonsense = 1"))
    with pytest.raises(ShardError, match="nonsense"):
        await link.run("INSERT INTO t VALUES (1)")
    assert (await link.run("SELECT count(*) FROM t")).rows == [[b"1"]]


async def test_an_open_prefix_that_fails_keeps_what_follows_from_running(link: ShardLink) -> None:
    """As a server does it: the statement is not run, in either protocol, and the link is at ReadyForQuery again."""
    await link.run("CREATE TEMP TABLE t (a int)")
    bound = frame(b"B", b"\0\0" + bytes(6)) + frame(b"E", bytes(5))
    begin, divide = (
        frame(b"P", b"\0" + text + b"\0\0\0") + bound for text in (b"BEGIN", b"SELECT 1/(random()::int*0)")
    )
    insert = "INSERT INTO t VALUES (1)"
    for send in (lambda: link.run(insert), lambda: link.collect(extended(insert))):
        link.prefix(begin + divide, executes=2)
        with pytest.raises(ShardError, match="division by zero"):
            await send()
        assert link.status == FAILED
        await link.run("ROLLBACK")
        link.prefix(begin, executes=1)
        await send()
        assert link.status == IN_TRANSACTION
        assert (await link.run("SELECT count(*) FROM t")).rows == [[b"1"]]
        await link.run("ROLLBACK")


async def test_a_copy_that_begins_behind_a_failed_prefix_copies_nothing(link: ShardLink) -> None:
    await link.run("CREATE TEMP TABLE t (a int)")
    for data in (query("COPY t FROM STDIN"), extended("COPY t FROM STDIN")):
        link.prefix(query("SET nonsense = 1"))
        with pytest.raises(ShardError, match="nonsense"):
            await link.collect(data)
        assert (await link.run("SELECT count(*) FROM t")).rows == [[b"0"]]


async def test_a_row_of_30_megabytes_comes_whole(link: ShardLink) -> None:
    frames = await link.collect(query(f"SELECT repeat('x', {30 * MEGABYTE}), 'after'; SELECT 2"))
    assert bytes(kind for kind, _ in frames) == b"TDCTDCZ"
    assert backend.decode_data_row(frames[1][1]) == [b"x" * (30 * MEGABYTE), b"after"]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_stream_of_rows_is_read_with_flat_memory(link: ShardLink) -> None:
    high_water, rows = MEGABYTE, 200_000
    stream = link.stream(query(f"SELECT repeat('x', 1000) FROM generate_series(1, {rows})"), 1, high_water)
    batch = await stream.next()
    before = resident_bytes()
    seen = most = 0
    while True:
        seen += sum(kind == backend.DATA_ROW for kind, _ in batch)
        most = max(most, stream.queued_bytes)
        if stream.over:
            break
        batch = await stream.next()
    assert seen == rows
    assert most <= high_water + 512 * 1024  # one chunk above the mark at most
    assert resident_bytes() - before < 64 * MEGABYTE  # of the 200 that went by
    assert (await link.run("SELECT 1")).rows == [[b"1"]]


async def test_a_stream_that_nobody_reads_makes_the_server_wait(link: ShardLink, endpoint: ShardEndpoint) -> None:
    stream = link.stream(query("SELECT repeat('x', 100000) FROM generate_series(1, 2000)"), 1, MEGABYTE)
    watcher = await asyncpg.connect(endpoint.dsn)
    await until_waiting(watcher, link.pid, "ClientWrite")
    assert MEGABYTE < stream.queued_bytes <= MEGABYTE + 512 * 1024
    await watcher.close()
    await stream.discard()
    assert stream.over
    with pytest.raises(RuntimeError, match="over"):
        await stream.next()
    assert (await link.run("SELECT 1")).rows == [[b"1"]]


async def test_cancelling_next_loses_nothing(link: ShardLink) -> None:
    stream = link.stream(query("SELECT pg_sleep(0.2), 7"))
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    frames: list[tuple[int, bytes]] = []
    while not stream.over:
        frames += await stream.next()
    assert [backend.decode_data_row(body)[1] for kind, body in frames if kind == backend.DATA_ROW] == [b"7"]


async def test_copying_in_waits_for_the_server_with_flat_memory(link: ShardLink) -> None:
    await link.run("CREATE TEMP TABLE t (a text)")
    receiver = Bytes()
    link.exchange(query("COPY t FROM STDIN"), receiver)
    line = frame(b"d", b"x" * MEGABYTE + b"\n")
    most = 0
    for _ in range(100):
        link.write(line)
        most = max(most, link._transport.get_write_buffer_size())
        await link.drain()
    link.write(frame(b"c", b""))
    await receiver.done
    assert b"COPY 100\0" in receiver.got
    assert most < 3 * MEGABYTE
    assert (await link.run("SELECT sum(length(a)) FROM t")).rows == [[b"%d" % (100 * MEGABYTE)]]


async def test_a_statement_of_30_megabytes_goes_out_whole(link: ShardLink) -> None:
    answer = await link.run(f"SELECT length('{'x' * (30 * MEGABYTE)}')")
    assert answer.rows == [[b"%d" % (30 * MEGABYTE)]]


async def test_cancel_ends_the_statement_and_the_link_goes_on(link: ShardLink, endpoint: ShardEndpoint) -> None:
    running = asyncio.ensure_future(link.run("SELECT pg_sleep(60)"))
    watcher = await asyncpg.connect(endpoint.dsn)
    await until_waiting(watcher, link.pid)
    await watcher.close()
    await link.cancel()
    with pytest.raises(ShardError) as caught:
        await running
    assert (caught.value.sqlstate, caught.value.lost) == ("57014", False)
    assert link.cancelled
    await link.wash()
    assert not link.cancelled
    assert (await link.run("SELECT 1")).rows == [[b"1"]]


async def test_a_cancel_that_comes_late_hits_nobody(link: ShardLink) -> None:
    for _ in range(20):
        await asyncio.gather(link.run("SELECT 1"), link.cancel(), return_exceptions=True)
        await link.wash()
        assert (await link.run("SELECT 2")).rows == [[b"2"]]


async def test_wash_brings_a_dirty_link_back(link: ShardLink) -> None:
    await link.run("SET work_mem = '9MB'; PREPARE p AS SELECT 1; CREATE TEMP TABLE t (a int); SET ROLE pg_monitor")
    link.statements["p"] = object()
    link.settings = object()
    link.dirty = True
    link.prefix(query("BEGIN"))
    await link.wash()
    assert not link.has_prefix
    assert (link.dirty, link.settings, len(link.statements)) == (False, None, 0)
    answer = await link.run(
        "SELECT current_setting('work_mem') = '9MB', (SELECT count(*) FROM pg_prepared_statements),"
        " to_regclass('t') IS NULL, current_user"
    )
    assert answer.rows == [[b"f", b"0", b"t", b"postgres"]]


async def test_notifications_between_exchanges_are_heard(link: ShardLink, endpoint: ShardEndpoint) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    link.on_notification = heard.set_result
    await link.run("LISTEN here")
    other = await asyncpg.connect(endpoint.dsn)
    await other.execute("NOTIFY here, 'from afar'")
    pid, channel, payload = backend.decode_notification(await heard)
    assert (pid, channel, payload) == (other.get_server_pid(), b"here", b"from afar")
    await other.close()
    assert not link.closed
