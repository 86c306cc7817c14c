"""One client's socket: frames wait for whoever receives them, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from proxy.connection import INBOX_HIGH_WATER_BYTES, TURN_BYTES, ClientConnection
from proxy.errors import ClientGone
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import frame
from proxy.wire.frontend import Query, Sync

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE_SECONDS = 10


class Transport(asyncio.Transport):
    """Keeps what is written; nothing comes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = False
        self.closed = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(bytes(data) for data in list_of_data)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = "politely"

    def abort(self) -> None:
        self.closed = "at once"


@pytest.fixture
async def transport() -> Transport:
    return Transport()


@pytest.fixture
async def connection(transport: Transport) -> ClientConnection:
    made = ClientConnection(lambda _: None, 1 << 20)
    made.connection_made(transport)
    made.start_frames()
    return made


SYNC = Sync().encode()
QUERY = Query(b"select 1").encode()


async def test_frames_arrive_whole_and_in_order(connection: ClientConnection) -> None:
    data = QUERY + SYNC
    receiving = asyncio.ensure_future(connection.receive())
    for position in range(len(data)):
        connection.data_received(data[position : position + 1])
    assert await receiving == (ord("Q"), b"select 1\0")
    assert await connection.receive() == (ord("S"), b"")


async def test_who_is_cancelled_takes_nobody_along(connection: ClientConnection) -> None:
    """A COPY that ends by a shard's error stops receiving; the session receives at once, before the first is gone."""
    first = asyncio.ensure_future(connection.receive_many())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, connection.data_received, SYNC)
    first.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await connection.receive() == (ord("S"), b"")
    assert first.cancelled()


async def test_what_was_taken_too_early_comes_again(connection: ClientConnection) -> None:
    connection.data_received(QUERY + SYNC + QUERY)
    messages = await connection.receive_many()
    assert [kind for kind, _ in messages] == list(b"QSQ")
    connection.push_back(messages[1:])
    assert [(await connection.receive())[0] for _ in range(2)] == list(b"SQ")


async def test_much_is_received_a_part_at_a_time(connection: ClientConnection) -> None:
    """A COPY of many rows leaves turns of the loop to the others, and nothing is lost or counted twice."""
    sent = [b"%06d" % number + b"x" * 94 for number in range(3 * TURN_BYTES // 100)]
    connection.data_received(b"".join(frame(b"d", body) for body in sent))
    received: list[bytes] = []
    while len(received) < len(sent):
        part = await connection.receive_many()
        assert sum(len(body) for _, body in part) < TURN_BYTES + 105
        received += [body for _, body in part]
    assert received == sent
    assert connection._inbox_bytes == 0


async def test_reading_pauses_while_too_much_waits(connection: ClientConnection, transport: Transport) -> None:
    big = frame(b"d", b"x" * (1 << 16))
    sent = 0
    while not transport.paused:
        connection.data_received(big)
        sent += 1
        assert sent * len(big) < 2 * INBOX_HIGH_WATER_BYTES
    while transport.paused:
        await connection.receive()
        sent -= 1
    assert sent > 0, "it reads again before the inbox is empty"


async def test_frames_before_a_violation_are_handled_first(connection: ClientConnection) -> None:
    connection.data_received(SYNC + b"S\0\0\0\1")
    assert await connection.receive() == (ord("S"), b"")
    with pytest.raises(ProtocolViolation):
        await connection.receive()


async def test_a_client_that_leaves(connection: ClientConnection) -> None:
    lost = []
    connection.on_lost = lambda: lost.append(True)
    receiving = asyncio.ensure_future(connection.receive())
    await asyncio.sleep(0)
    connection.connection_lost(None)
    with pytest.raises(ClientGone):
        await receiving
    assert lost == [True]
    connection.write(b"into the void")
    with pytest.raises(ClientGone):
        await connection.drain()


async def test_writers_wait_for_a_client_that_does_not_read(connection: ClientConnection) -> None:
    connection.pause_writing()
    draining = asyncio.ensure_future(connection.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    connection.resume_writing()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await draining


async def test_what_is_written_goes_out_before_it_closes(connection: ClientConnection, transport: Transport) -> None:
    connection.write(b"one ")
    connection.write(b"two")
    connection.close()
    assert transport.written == b"one two"
    assert transport.closed == "politely"
