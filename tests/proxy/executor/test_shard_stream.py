"""Whoever has read all that came never waits for a link that is paused, however the answer comes and is taken."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from executor_kit import Client
from proxy.executor.shard_stream import ShardStream
from proxy.shards.link import ShardLink
from proxy.wire import backend
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import frame, walk

if TYPE_CHECKING:
    import asyncio

    from proxy.shards.receivers import FrameStream

QUERY = frame(b"Q", b"SELECT v FROM notes\0")
DESCRIPTION = backend.row_description([backend.Field(b"v", type_oid=25)])
HIGH_WATER_BYTES = 2_000
ROWS = 300


class Transport:
    """Only says whether anybody reads."""

    def __init__(self) -> None:
        self.reading = True
        self.pauses = 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False
        self.pauses += 1

    def resume_reading(self) -> None:
        self.reading = True


@pytest.fixture
async def transport() -> Transport:
    return Transport()


@pytest.fixture
async def link(transport: Transport) -> ShardLink:
    endpoint: Any = SimpleNamespace(index=0, name="s0")
    loan: Any = SimpleNamespace(transport=transport, parameters={}, pid=1)
    return ShardLink(endpoint, loan, "role", "town")


def answer(chance: random.Random) -> tuple[list[bytes], list[bytes]]:
    """Return rows, and the pieces in which a socket might give the answer that holds them."""
    rows = [backend.data_row([b"x" * chance.choice([0, 5, 90, 1_500])]) for _ in range(ROWS)]
    tag = backend.command_complete(b"SELECT %d" % ROWS)
    data = DESCRIPTION + b"".join(rows) + tag + backend.ready_for_query(b"I")
    pieces = []
    while data:
        size = chance.choice([1, 4, 70, 700, 5_000])
        pieces.append(data[:size])
        data = data[size:]
    return rows, pieces


@pytest.mark.parametrize("seed", range(8))
async def test_rows_of_a_shard_are_read_to_the_end(link: ShardLink, transport: Transport, seed: int) -> None:
    chance = random.Random(seed)
    rows, pieces = answer(chance)
    wake = SimpleNamespace(set=lambda: None)
    stream = ShardStream(link, wake, high_water_bytes=HIGH_WATER_BYTES, client=None)
    stream.over = False
    link.exchange(QUERY, stream)
    got = b""
    while not stream.exhausted:
        if transport.reading and pieces and chance.random() < 0.7:
            link.data_received(pieces.pop(0))
        elif stream.has_rows:
            got += stream.take_row() if chance.random() < 0.5 else stream.take(chance.choice([0, 1, 3]))[0]
        else:
            assert transport.reading, f"seed {seed}: it would stand still"
    assert got == b"".join(rows)
    assert transport.pauses > 1
    assert transport.reading


async def test_rows_that_nobody_wants_any_more_pause_nothing(link: ShardLink, transport: Transport) -> None:
    _, pieces = answer(random.Random(1))
    stream = ShardStream(link, SimpleNamespace(set=lambda: None), high_water_bytes=HIGH_WATER_BYTES, client=None)
    stream.over = False
    link.exchange(QUERY, stream)
    while transport.reading:
        link.data_received(pieces.pop(0))
    stream.discard()
    for piece in pieces:
        assert transport.reading
        link.data_received(piece)
    assert stream.exhausted


@pytest.mark.parametrize("seed", range(8))
async def test_rows_and_notices_hold_a_link_each_for_itself(link: ShardLink, transport: Transport, seed: int) -> None:
    """What one of them has paused the other does not set going: nothing comes while rows wait or nobody reads."""
    chance = random.Random(seed)
    notice = backend.notice_response(ErrorFields.make("NOTICE", "00000", "n"))
    rows, pieces = answer(chance)
    end = pieces.pop()
    client = Client()
    stream = ShardStream(link, SimpleNamespace(set=lambda: None), high_water_bytes=HIGH_WATER_BYTES, client=client)
    stream.over = False
    link.exchange(QUERY, stream)
    got, holds = b"", 0
    whole = b"".join(pieces)
    index, start = walk(whole, 0, len(whole))
    end = whole[start:] + end
    frames = [whole[frame_start:stop] for _, frame_start, stop in index]
    while not stream.exhausted:
        step = chance.random()
        if transport.reading and (frames or end):
            if frames:
                link.data_received(frames.pop(0) + (notice if chance.random() < 0.3 else b""))
            else:
                link.data_received(end)
                end = b""
        elif step < 0.5 and stream.has_rows:
            got += stream.take(0)[0]
        else:
            client.reads()
        if step > 0.7:
            client.gate.clear()
        if end and not transport.reading:
            holds += 1
            assert client.then or stream.queued_bytes > HIGH_WATER_BYTES // 2
    assert got == b"".join(rows)
    assert holds > 10
    assert transport.reading


@pytest.mark.parametrize("seed", range(8))
async def test_an_answer_that_is_pulled_is_read_to_the_end(link: ShardLink, transport: Transport, seed: int) -> None:
    chance = random.Random(seed)
    _, pieces = answer(chance)
    whole = b"".join(pieces)
    stream: FrameStream = link.stream(QUERY, 1, HIGH_WATER_BYTES)
    got = b""
    while not stream.over:
        if transport.reading and pieces and chance.random() < 0.7:
            link.data_received(pieces.pop(0))
        elif stream.queued_bytes:
            got += b"".join(frame(bytes((kind,)), body) for kind, body in await stream.next())
        else:
            assert transport.reading, f"seed {seed}: it would stand still"
    assert got == whole
    assert transport.pauses > 1
