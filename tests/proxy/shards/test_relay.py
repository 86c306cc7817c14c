"""The relay alone, over a transport that only remembers: every way in which a socket may cut what a server says."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from proxy.shards.errors import ShardError
from proxy.shards.relay import FAILED, IDLE, IN_TRANSACTION, Relay
from proxy.shards.types import ShardTypes
from proxy.wire import backend, frontend
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import frame, walk
from proxy.wire.oids import ARRAY, TypeMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.shards.receiver import Chunk, Frame

QUERY = frame(b"Q", b"SELECT 1\0")
BEGIN = frame(b"Q", b"BEGIN\0")
SYNC = frame(b"S", b"")
ROW = backend.data_row([b"1"])
ANSWER = backend.row_description([backend.Field(b"a", type_oid=23)]) + ROW + backend.command_complete(b"SELECT 1")
READY_I, READY_T, READY_E = (backend.ready_for_query(status) for status in (b"I", b"T", b"E"))
DONE_BEGIN = backend.command_complete(b"BEGIN") + READY_T
NOTICE = backend.notice_response(ErrorFields.make("NOTICE", "00000", "look"))
ERROR = backend.error_response(ErrorFields.make("ERROR", "42704", "no such setting"))
FATAL = backend.error_response(ErrorFields.make("FATAL", "57P01", "terminating connection"))
PARAMETER = backend.parameter_status("TimeZone", "Europe/Berlin")
NOTIFICATION = backend.notification_response(7, b"channel", b"payload")


class Transport:
    """What the relay needs of a transport, remembered."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reading = True
        self.flow: list[str] = []
        self.aborted = 0
        self.closed = 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False
        self.flow.append("pause")

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True
        self.flow.append("resume")

    def abort(self) -> None:
        self.aborted += 1

    def close(self) -> None:
        self.closed += 1


class Taker:
    """A receiver that keeps everything and ends at the ``cycles``-th ReadyForQuery."""

    def __init__(self, link: Relay, cycles: int = 1) -> None:
        self.link = link
        self.cycles = cycles
        self.got = b""
        self.calls: list[list[int]] = []
        self.statuses: list[int] = []
        self.errors: list[ShardError] = []
        self.over = False

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        assert not self.over
        for kind, start, stop in index:
            assert chunk[start] == kind
            assert int.from_bytes(chunk[start + 1 : start + 5], "big") == stop - start - 1
            self.got += bytes(chunk[start:stop])
            self.cycles -= kind == backend.READY_FOR_QUERY
        assert backend.READY_FOR_QUERY not in [kind for kind, _, _ in index][:-1] or self.cycles >= 0
        self.calls.append([kind for kind, _, _ in index])
        self.statuses.append(self.link.status)
        self.over = self.cycles == 0
        return self.over

    def lost(self, error: ShardError, /) -> None:
        self.errors.append(error)


class RunTaker(Taker):
    """A receiver to which rows that stand together are one entry."""

    takes_runs = True

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        for kind, start, stop in index:
            found, rest = walk(chunk, start, stop)
            assert {one for one, _, _ in found} == {kind}
            assert rest == stop
            assert len(found) == 1 or kind in b"Dd"
            self.got += bytes(chunk[start:stop])
            self.cycles -= kind == backend.READY_FOR_QUERY
        self.calls.append([kind for kind, _, _ in index])
        return self.cycles == 0


@pytest.fixture
async def transport() -> Transport:
    return Transport()


@pytest.fixture
async def link(transport: Transport) -> Relay:
    wire: Any = transport
    return Relay(wire, 3, "s3", {})


def cuts(data: bytes, seed: int = 20261122) -> Iterator[list[bytes]]:
    """Whole, byte by byte, at every single place, and at random places."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    print("seed", seed)  # noqa: T201 - shown with a failure
    rng = random.Random(seed)
    for _ in range(50):
        at = sorted(rng.sample(range(1, len(data)), min(7, len(data) - 1)))
        yield [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def feed(link: Relay, pieces: list[bytes]) -> None:
    for piece in pieces:
        link.data_received(piece)


async def test_an_answer_reaches_the_receiver_byte_for_byte_however_it_is_cut(link: Relay) -> None:
    said = NOTICE + PARAMETER + ANSWER + ERROR + NOTIFICATION + READY_E
    for pieces in cuts(said):
        taker = Taker(link)
        link.exchange(QUERY, taker)
        feed(link, pieces)
        assert taker.got == said
        assert taker.over
        assert not link.busy
        assert link.status == FAILED
        assert not link.closed


async def test_the_end_of_an_exchange_is_the_last_frame_of_a_call(link: Relay) -> None:
    after = PARAMETER + NOTICE + NOTIFICATION
    for pieces in cuts(ANSWER + READY_I + after):
        heard: list[bytes] = []
        link.on_notification = heard.append
        taker = Taker(link)
        link.exchange(QUERY, taker)
        feed(link, pieces)
        assert taker.got == ANSWER + READY_I
        assert taker.calls[-1][-1] == backend.READY_FOR_QUERY
        assert [backend.decode_notification(body) for body in heard] == [(7, b"channel", b"payload")]
        assert link.parameters["TimeZone"] == "Europe/Berlin"
        assert not link.closed


async def test_an_exchange_of_several_cycles_goes_on_after_the_first_ready(link: Relay) -> None:
    said = ANSWER + READY_T + NOTICE + ANSWER + READY_I
    for pieces in cuts(said):
        taker = Taker(link, cycles=2)
        link.exchange(QUERY + QUERY, taker)
        feed(link, pieces)
        assert taker.got == said
        assert taker.over


async def test_status_is_up_to_date_when_the_receiver_sees_the_chunk(link: Relay) -> None:
    taker = Taker(link)
    link.exchange(BEGIN, taker)
    link.data_received(DONE_BEGIN)
    assert taker.statuses == [IN_TRANSACTION]


async def test_a_long_frame_is_walked_once_however_many_pieces_it_comes_in(link: Relay) -> None:
    row = backend.data_row([bytes(30 << 20)])
    said = ROW + row + ROW + backend.command_complete(b"SELECT 3") + READY_I
    taker = Taker(link)
    link.exchange(QUERY, taker)
    step = 1 << 16
    feed(link, [said[:step]])
    beginning = link._tail
    assert beginning is not None
    assert len(beginning._kept) == step - len(ROW)
    last = len(ROW + row) // step * step
    feed(link, [said[at : at + step] for at in range(step, last, step)])
    # The beginning was put aside once; nothing was looked at again until all was there.
    assert link._tail is beginning
    feed(link, [said[last:]])
    assert link._tail is None
    assert taker.over
    assert taker.got == said


async def test_a_prefix_goes_out_in_one_packet_and_its_answers_stay_here(link: Relay, transport: Transport) -> None:
    setting = frame(b"Q", b"SET TimeZone = 'Europe/Berlin'\0")
    swallowed = PARAMETER + backend.command_complete(b"SET") + READY_I + NOTICE + DONE_BEGIN
    for pieces in cuts(swallowed + ANSWER + READY_T):
        link.parameters.clear()
        transport.written.clear()
        link.prefix(setting)
        link.prefix(BEGIN)
        assert link.has_prefix
        taker = Taker(link)
        link.exchange(QUERY, taker)
        assert not link.has_prefix
        assert transport.written == [setting + BEGIN + QUERY]
        feed(link, pieces)
        assert taker.got == ANSWER + READY_T
        assert link.status == IN_TRANSACTION
        assert link.parameters == {"TimeZone": "Europe/Berlin"}
        assert not link.busy


async def test_a_prefix_answered_as_one_before_is_no_other_for_it(link: Relay) -> None:
    """Known answers are passed over in one piece; what is behind them, and what is new, is seen all the same."""
    looked = backend.command_complete(b"SAVEPOINT") + ANSWER + backend.command_complete(b"RELEASE") + READY_T
    for swallowed in (DONE_BEGIN, DONE_BEGIN, looked, DONE_BEGIN, looked, NOTICE + DONE_BEGIN, DONE_BEGIN):
        for pieces in cuts(swallowed + ANSWER + PARAMETER + READY_I):
            link.parameters.clear()
            link.prefix(BEGIN)
            taker = Taker(link)
            link.exchange(QUERY, taker)
            feed(link, pieces)
            assert taker.got == ANSWER + PARAMETER + READY_I
            assert (link.status, link.busy, link.parameters) == (IDLE, False, {"TimeZone": "Europe/Berlin"})


async def test_what_follows_a_known_answer_may_be_an_error_of_the_prefix(link: Relay) -> None:
    """Of two messages the second fails: neither its error nor the answers behind it get through."""
    for pieces in [[DONE_BEGIN + ANSWER + READY_T], *cuts(DONE_BEGIN + ERROR + READY_E + ERROR + READY_E)]:
        fails = ERROR in b"".join(pieces)
        link.prefix(BEGIN)
        if fails:
            link.prefix(frame(b"Q", b"SET x = 1\0"))
        taker = Taker(link)
        link.exchange(QUERY, taker)
        feed(link, pieces)
        assert taker.got == (b"" if fails else ANSWER + READY_T)
        assert [error.message for error in taker.errors] == ["no such setting"] * fails
        assert not link.busy
        link.prefix_failed = False


async def test_a_gate_opens_for_a_known_answer_too(link: Relay, transport: Transport) -> None:
    for gate in (False, True):
        link.prefix(BEGIN, gate=gate)
        taker = Taker(link)
        link.exchange(QUERY, taker)
        link.data_received(DONE_BEGIN)
        assert transport.written[-1] == (QUERY if gate else BEGIN + QUERY)
        link.data_received(ANSWER + READY_T)
        assert taker.got == ANSWER + READY_T


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(QUERY, ERROR + READY_E, id="query"),
        pytest.param(QUERY + QUERY, ERROR + READY_E + ERROR + READY_E, id="two queries"),
        pytest.param(frame(b"P", b"\0SELECT 1\0\0\0") + SYNC, ERROR + READY_E, id="pipeline"),
    ],
)
async def test_a_failed_prefix_is_told_once_all_is_answered(link: Relay, data: bytes, said: bytes) -> None:
    for pieces in cuts(ERROR + READY_E + said):
        link.prefix(BEGIN)
        taker = Taker(link)
        link.exchange(data, taker)
        for piece in pieces[:-1]:
            link.data_received(piece)
            assert not taker.errors
        link.data_received(pieces[-1])
        assert [error.message for error in taker.errors] == ["no such setting"]
        assert taker.errors[0].raw == ERROR
        assert not taker.errors[0].lost
        assert taker.got == b""
        assert not link.busy
        assert not link.closed


async def test_a_pipeline_without_sync_gets_one_when_its_prefix_has_failed(link: Relay, transport: Transport) -> None:
    flush = frame(b"P", b"\0SELECT 1\0\0\0") + frame(b"H", b"")
    link.prefix(BEGIN)
    taker = Taker(link)
    link.exchange(flush, taker)
    link.data_received(ERROR + READY_E + ERROR)
    assert transport.written == [BEGIN + flush, SYNC]
    link.write(SYNC)  # whoever drives the exchange does not know yet; a second Sync would make a ReadyForQuery too many
    assert transport.written == [BEGIN + flush, SYNC]
    link.data_received(READY_E)
    assert [error.sqlstate for error in taker.errors] == ["42704"]
    assert not link.busy


async def test_a_sync_written_before_the_prefix_failed_counts(link: Relay, transport: Transport) -> None:
    flush = frame(b"P", b"\0SELECT 1\0\0\0") + frame(b"H", b"")
    link.prefix(BEGIN)
    taker = Taker(link)
    link.exchange(flush, taker)
    link.write(SYNC)
    link.data_received(ERROR + READY_E + ERROR + READY_E)
    assert transport.written == [BEGIN + flush, SYNC]
    assert len(taker.errors) == 1
    assert not link.busy


# An open prefix: no Sync, so no ReadyForQuery of its own.
OPEN = frame(b"B", b"\0begin\0\0\0\0\0\0\0") + frame(b"E", b"\0\0\0\0\0")
DONE_OPEN = backend.bind_complete() + backend.command_complete(b"BEGIN")
LOOKED = backend.bind_complete() + ROW + backend.command_complete(b"SELECT 1")


async def test_an_open_prefix_is_answered_with_the_exchange(link: Relay, transport: Transport) -> None:
    """Whatever pieces come, and whatever was learned before: as many CommandComplete as there were Executes are its."""
    first = backend.close_complete() + backend.parse_complete() + DONE_OPEN
    for executes, swallowed in (
        (1, first),
        (1, DONE_OPEN),
        (2, DONE_OPEN + LOOKED),
        (1, NOTICE + DONE_OPEN),
        (1, DONE_OPEN),
    ):
        for pieces in cuts(swallowed + PARAMETER + ANSWER + READY_T):
            link.parameters.clear()
            transport.written.clear()
            link.prefix(OPEN * executes, executes=executes)
            taker = Taker(link)
            link.exchange(QUERY, taker)
            assert transport.written == [OPEN * executes + QUERY]
            feed(link, pieces)
            assert taker.got == PARAMETER + ANSWER + READY_T
            assert (link.status, link.busy, link.parameters) == (IN_TRANSACTION, False, {"TimeZone": "Europe/Berlin"})


async def test_an_answer_behind_a_known_open_prefix_comes_in_one_piece(link: Relay) -> None:
    for _ in range(2):
        link.prefix(OPEN, executes=1)
        whole = Whole(link)
        link.ask(QUERY, whole)
        link.data_received(DONE_OPEN + ANSWER + READY_T)
        assert whole.got == ANSWER + READY_T
    assert whole.whole_ones == 1
    assert link.status == IN_TRANSACTION


@pytest.mark.parametrize(
    ("data", "syncs", "said"),
    [
        pytest.param(QUERY, True, READY_E, id="query"),
        pytest.param(frame(b"P", b"\0SELECT 1\0\0\0") + SYNC, False, READY_E, id="pipeline"),
        pytest.param(frame(b"P", b"\0SELECT 1\0\0\0") + frame(b"H", b""), True, READY_E, id="pipeline that is flushed"),
        pytest.param(QUERY + SYNC + QUERY, False, READY_E + ERROR + READY_E, id="a query behind the sync"),
    ],
)
async def test_behind_a_failed_open_prefix_all_is_passed_over_to_a_sync(
    link: Relay, transport: Transport, data: bytes, *, syncs: bool, said: bytes
) -> None:
    for before in (b"", DONE_OPEN, backend.bind_complete()):
        for pieces in cuts(before + ERROR + said):
            transport.written.clear()
            link.prefix(OPEN + OPEN, executes=2)
            taker = Taker(link)
            link.exchange(data, taker)
            feed(link, pieces)
            assert transport.written == [OPEN + OPEN + data, *[SYNC] * syncs]
            assert [error.raw for error in taker.errors] == [ERROR]
            assert taker.got == b""
            assert (link.status, link.busy, link.closed, link.prefix_failed) == (FAILED, False, False, True)
            link.prefix_failed = False


async def test_an_open_prefix_stands_alone(link: Relay) -> None:
    link.prefix(OPEN, executes=1)
    with pytest.raises(RuntimeError, match="alone"):
        link.prefix(BEGIN)
    link.drop_prefix()
    link.prefix(BEGIN)
    with pytest.raises(RuntimeError, match="alone"):
        link.prefix(OPEN, executes=1)


@pytest.mark.parametrize(
    ("data", "answer_to_copy"),
    [(frame(b"Q", b"COPY t FROM STDIN\0"), b"f"), (frame(b"E", b"\0\0\0\0\0") + SYNC, b"fS")],
    ids=["simple", "extended"],
)
async def test_a_copy_that_began_behind_a_failed_prefix_is_failed(
    link: Relay, transport: Transport, data: bytes, answer_to_copy: bytes
) -> None:
    link.prefix(frame(b"Q", b"SET x = 1\0"))
    taker = Taker(link)
    link.exchange(data, taker)
    link.data_received(ERROR + READY_I + backend.copy_in_response(0, [0]))
    sent = transport.written[-1]
    assert sent[:1] == answer_to_copy[:1]
    assert sent.endswith(SYNC) == (answer_to_copy == b"fS")
    link.data_received(ERROR + READY_I)
    assert len(taker.errors) == 1
    assert not link.busy


async def test_a_gate_holds_the_exchange_back_until_the_prefix_has_succeeded(link: Relay, transport: Transport) -> None:
    link.prefix(BEGIN, gate=True)
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.write(SYNC)
    assert transport.written == [BEGIN]
    link.data_received(DONE_BEGIN)
    assert transport.written == [BEGIN, QUERY + SYNC]
    link.data_received(ANSWER + READY_T)
    assert taker.got == ANSWER + READY_T


async def test_a_gate_stays_shut_when_the_prefix_fails(link: Relay, transport: Transport) -> None:
    link.prefix(BEGIN, gate=True)
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.data_received(ERROR + READY_I)
    assert transport.written == [BEGIN]
    assert [error.sqlstate for error in taker.errors] == ["42704"]
    assert not link.busy
    again = Taker(link)
    link.exchange(QUERY, again)
    link.data_received(ANSWER + READY_I)
    assert again.got == ANSWER + READY_I


async def test_a_fatal_error_ends_the_link_in_the_servers_words(transport: Transport) -> None:
    for pieces in cuts(ANSWER + FATAL):
        wire: Any = transport
        dying = Relay(wire, 3, "s3", {})
        ends: list[ShardError] = []
        dying.on_lost = ends.append
        taker = Taker(dying)
        dying.exchange(QUERY, taker)
        feed(dying, pieces)
        dying.connection_lost(None)
        assert taker.got == ANSWER
        assert [(error.sqlstate, error.lost, error.raw) for error in taker.errors] == [("57P01", True, FATAL)]
        assert ends == taker.errors
        assert dying.closed
        assert not dying.left


async def test_a_fatal_error_behind_the_end_of_an_exchange_does_not_spoil_the_exchange(link: Relay) -> None:
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.data_received(ANSWER + READY_I + FATAL)
    assert taker.got == ANSWER + READY_I
    assert taker.over
    assert not taker.errors
    assert link.closed
    assert link.lost_error is not None
    assert link.lost_error.sqlstate == "57P01"


async def test_a_fatal_error_in_a_prefix(link: Relay) -> None:
    link.prefix(BEGIN)
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.data_received(FATAL)
    assert [(error.sqlstate, error.lost) for error in taker.errors] == [("57P01", True)]


@pytest.mark.parametrize("said", [ROW, READY_I, ERROR, backend.command_complete(b"X")], ids=["D", "Z", "E", "C"])
async def test_what_nobody_asked_for_closes_the_link(link: Relay, transport: Transport, said: bytes) -> None:
    link.data_received(said)
    assert link.closed
    assert transport.aborted == 1
    assert link.lost_error is not None
    assert link.lost_error.sqlstate == "08P01"


@pytest.mark.parametrize("header", [b"D\0\0\0\3", b"D\xff\xff\xff\xff", b"HTTP/"], ids=["short", "long", "not us"])
async def test_a_length_that_cannot_be_closes_the_link(link: Relay, header: bytes) -> None:
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.data_received(ROW + header)
    assert link.closed
    assert [error.sqlstate for error in taker.errors] == ["08P01"]
    link.data_received(READY_I)  # a transport may still deliver what it had read
    assert link.closed
    assert len(taker.errors) == 1


async def test_a_receiver_that_fails_closes_the_link_and_hears_of_it(
    link: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Taker):
        def frames(self, _chunk: Chunk, _index: list[Frame], /) -> bool:
            msg = "oh"
            raise ValueError(msg)

    broken = Broken(link)
    link.exchange(QUERY, broken)
    link.data_received(ANSWER + READY_I)
    assert link.closed
    assert [error.sqlstate for error in broken.errors] == ["XX000"]
    assert isinstance(broken.errors[0].__cause__, ValueError)
    assert "receiver" in caplog.text


async def test_the_next_exchange_may_begin_inside_the_last_call_of_this_one(link: Relay, transport: Transport) -> None:
    second = Taker(link)

    class Chains(Taker):
        def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
            over = super().frames(chunk, index)
            if over:
                assert not link.busy
                link.exchange(BEGIN, second)
            return over

    first = Chains(link)
    link.exchange(QUERY, first)
    assert link.busy
    link.data_received(ANSWER + READY_I)
    assert link.busy
    link.data_received(DONE_BEGIN)
    assert not link.busy
    assert first.got == ANSWER + READY_I
    assert second.got == DONE_BEGIN
    assert transport.written == [QUERY, BEGIN]


async def test_two_exchanges_at_once_are_a_mistake(link: Relay) -> None:
    link.exchange(QUERY, Taker(link))
    with pytest.raises(RuntimeError, match="under way"):
        link.exchange(QUERY, Taker(link))


async def test_an_exchange_on_a_closed_link_is_lost_in_the_next_round(link: Relay, transport: Transport) -> None:
    link.abort()
    taker = Taker(link)
    link.exchange(QUERY, taker)
    assert not taker.errors
    await asyncio.sleep(0)
    assert [(error.sqlstate, error.lost) for error in taker.errors] == [("08006", True)]
    assert transport.written == []
    link.write(QUERY)
    assert transport.written == []


async def test_reading_is_paused_once_and_resumed_at_the_end(link: Relay, transport: Transport) -> None:
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.pause_reading()
    link.pause_reading()
    link.data_received(ANSWER + READY_I)
    assert transport.flow == ["pause", "resume"]
    link.resume_reading()
    assert transport.flow == ["pause", "resume"]
    link.pause_reading()
    link.exchange(QUERY, Taker(link))
    assert transport.flow == ["pause", "resume", "pause", "resume"]


async def test_drain_waits_for_the_transport_and_ends_with_the_link(link: Relay) -> None:
    await link.drain()
    link.pause_writing()
    first = asyncio.ensure_future(link.drain())
    await asyncio.sleep(0)
    assert not first.done()
    link.resume_writing()
    await first
    link.pause_writing()
    second = asyncio.ensure_future(link.drain())
    await asyncio.sleep(0)
    link.connection_lost(ConnectionResetError("reset by peer"))
    for waiting in (second, link.drain()):
        with pytest.raises(ShardError) as caught:
            await waiting
        assert caught.value.sqlstate == "08006"
        assert caught.value.fields.detail == "reset by peer"


async def test_a_prefix_that_was_never_sent_can_be_dropped(link: Relay, transport: Transport) -> None:
    link.prefix(BEGIN, gate=True)
    link.drop_prefix()
    taker = Taker(link)
    link.exchange(QUERY, taker)
    assert transport.written == [QUERY]
    link.data_received(ANSWER + READY_I)
    assert taker.over
    assert link.status == IDLE


OWN, HOMES = 16_400, 16_500  # a type as the shard calls it, and home
ELSEWHERE = ShardTypes(TypeMap({OWN: HOMES}, {HOMES: OWN}, {}))


class Whole(Taker):
    """A receiver that takes plain answers in one piece."""

    def __init__(self, link: Relay) -> None:
        super().__init__(link)
        self.whole_ones = 0

    def whole(self, data: bytes, /) -> bool:
        self.got += data
        self.whole_ones += 1
        return True


def said(oid: int) -> bytes:
    return (
        backend.row_description([backend.Field(b"a", type_oid=23), backend.Field(b"mood", type_oid=oid)])
        + backend.data_row([b"1", b"ok"]) * 3
        + backend.command_complete(b"SELECT 3")
        + READY_I
    )


@pytest.mark.parametrize("prefixed", [False, True])
async def test_columns_are_translated_of_what_was_asked_without_types(link: Relay, *, prefixed: bool) -> None:
    link.types = ELSEWHERE
    for pieces in cuts(said(OWN)):
        whole = Whole(link)
        if prefixed:
            link.prefix(BEGIN)
        link.ask(QUERY, whole)
        feed(link, [DONE_BEGIN, *pieces] if prefixed else pieces)
        assert whole.got == said(HOMES)
        assert not whole.whole_ones
        assert not link.busy


async def test_an_answer_of_everybodys_types_stays_whole(link: Relay) -> None:
    link.types = ELSEWHERE
    for pieces in cuts(said(25)):
        whole = Whole(link)
        link.ask(QUERY, whole)
        feed(link, pieces)
        assert whole.got == said(25)
        assert whole.whole_ones or len(pieces) > 1


async def test_what_names_a_type_is_translated_on_its_way_out(link: Relay, transport: Transport) -> None:
    link.types = ELSEWHERE
    whole = Whole(link)
    link.ask(frontend.Parse(b"", b"SELECT $1", (HOMES,)).encode() + SYNC, whole, typeless=False)
    assert transport.written == [frontend.Parse(b"", b"SELECT $1", (OWN,)).encode() + SYNC]


async def test_what_was_known_of_the_unnamed_portal_is_forgotten_when_it_is_replaced(link: Relay) -> None:
    """Rows of another portal were read as those of the one before it."""
    moods = 16_401
    link.types = ShardTypes(TypeMap({OWN: HOMES}, {HOMES: OWN}, {moods: (ARRAY, OWN)}))
    bind = frontend.Bind(b"", b"s", (), (), (1,)).encode()
    execute = frontend.Execute(b"", 1).encode()
    link.exchange(bind + execute + SYNC, Taker(link))
    array = (1).to_bytes(4, "big") + bytes(4) + OWN.to_bytes(4, "big") + bytes(4) + (1).to_bytes(4, "big")
    link.data_received(backend.bind_complete() + backend.row_description([backend.Field(b"m", 0, 0, moods, format=1)]))
    link.data_received(backend.data_row([array]) + backend.portal_suspended() + READY_T)
    assert not link.busy
    link.ask(frontend.Bind(b"", b"other", (), (), (1,)).encode() + execute + SYNC, Whole(link))
    link.data_received(backend.bind_complete() + backend.data_row([array]) + backend.portal_suspended() + READY_T)
    taker = Taker(link)
    link.exchange(execute + SYNC, taker)
    link.data_received(backend.data_row([array]) + backend.portal_suspended() + READY_T)
    assert taker.got == backend.data_row([array]) + backend.portal_suspended() + READY_T


ROWS = b"".join(backend.data_row([b"%d" % number, b"x" * (number % 40)]) for number in range(120))
LARGE = ANSWER + NOTICE + ROWS + PARAMETER + ROW * 300 + backend.copy_data(b"D\0\0\0\4") * 300 + ERROR + READY_E


def a_few_cuts() -> Iterator[list[bytes]]:
    for size in (len(LARGE), 1, 977, 4096):
        yield [LARGE[at : at + size] for at in range(0, len(LARGE), size)]
    for at in range(len(LARGE) - 400, len(LARGE)):
        yield [LARGE[:at], LARGE[at:]]


@pytest.mark.parametrize("prefixed", [False, True])
async def test_rows_that_stand_together_are_one_entry_for_whom_that_is_enough(link: Relay, *, prefixed: bool) -> None:
    """Nothing else is different: parameters and errors are seen, and what a prefix is answered does not get through."""
    link.on_notification = lambda _body: None
    for pieces in a_few_cuts():
        link.parameters.clear()
        taker = RunTaker(link)
        if prefixed:
            link.prefix(BEGIN)
        link.exchange(QUERY, taker)
        feed(link, [DONE_BEGIN + pieces[0], *pieces[1:]] if prefixed else pieces)
        assert taker.got == LARGE
        assert (link.busy, link.closed, link.status) == (False, False, FAILED)
        assert link.parameters == {"TimeZone": "Europe/Berlin"}
        if len(pieces) == 1 and not prefixed:
            assert bytes(taker.calls[0]) == b"TDCNDSDdEZ"


async def test_others_have_an_entry_for_each_row(link: Relay) -> None:
    taker = Taker(link)
    link.exchange(QUERY, taker)
    link.data_received(LARGE)
    assert taker.got == LARGE
    assert bytes(taker.calls[0]).count(b"D") == 421


async def test_a_length_that_cannot_be_ends_the_link_among_rows_that_stand_together(link: Relay) -> None:
    taker = RunTaker(link)
    link.exchange(QUERY, taker)
    link.data_received(ROW * 1000 + b"D\0\0\0\3" + ROW * 1000)
    assert link.closed
    assert len(taker.errors) == 1


class WholeOrRuns(RunTaker, Whole):
    """Takes both."""


@pytest.mark.parametrize("whole", [False, True])
async def test_rows_that_stand_together_are_translated(link: Relay, *, whole: bool) -> None:
    """Also in the middle of a chunk, where the description of the columns is what tells that they must be."""
    moods, moods_at_home = 16_401, 16_501
    link.types = ShardTypes(TypeMap({OWN: HOMES, moods: moods_at_home}, {HOMES: OWN}, {moods: (ARRAY, OWN)}))

    def answer(moods: int, oid: int) -> bytes:
        array = (1).to_bytes(4, "big") + bytes(4) + oid.to_bytes(4, "big") + bytes(4) + (1).to_bytes(4, "big")
        described = backend.row_description([backend.Field(b"m", 0, 0, moods, format=1)])
        rows = backend.data_row([array]) * 100
        return ROW * 100 + described + rows + backend.command_complete(b"SELECT 100") + READY_I

    said = answer(moods, OWN)
    for pieces in ([said], [said[:3000], said[3000:]]):
        if whole:
            receiver: Any = WholeOrRuns(link)
            link.ask(QUERY, receiver)
        else:
            receiver = RunTaker(link)
            link.exchange(QUERY, receiver)
        feed(link, pieces)
        assert receiver.got == answer(moods_at_home, HOMES)
