"""Boundaries of messages: whole, byte by byte, in any chunks, with lies in the header."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import LARGEST_MESSAGE_BYTES, SMALL_MESSAGE_BYTES, FrameReader, frame, run_end, walk

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT = 1 << 20
DETERMINISTIC = settings(derandomize=True, deadline=None, print_blob=True)
CLIENT_TYPES = b"QPBFdCDEHSXcfp"

messages = st.lists(st.tuples(st.sampled_from(sorted(CLIENT_TYPES)), st.binary(max_size=60)), max_size=12)


def encoded(wanted: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(frame(bytes((kind,)), body) for kind, body in wanted)


def drain(reader: FrameReader) -> list[tuple[int, bytes]]:
    found = []
    while (message := reader.next()) is not None:
        found.append(message)
    return found


def test_a_frame_is_type_length_and_body() -> None:
    assert frame(b"Q", b"abc") == b"Q\0\0\0\7abc"
    assert frame(b"S", b"") == b"S\0\0\0\4"


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 100_000])
def test_any_step_gives_the_same_messages(step: int) -> None:
    wanted = [(ord("Q"), b"select 1\0"), (ord("S"), b""), (ord("d"), bytes(range(256)) * 20), (ord("X"), b"")]
    data = encoded(wanted)
    reader = FrameReader(LIMIT)
    found = []
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        found += drain(reader)
    assert found == wanted
    assert reader.buffered_bytes == 0


def test_need_more_until_the_last_byte() -> None:
    data = frame(b"Q", b"select 1\0")
    reader = FrameReader(LIMIT)
    for at in range(len(data)):
        assert reader.next() is None
        assert reader.buffered_bytes == at
        reader.feed(data[at : at + 1])
    assert reader.next() == (ord("Q"), b"select 1\0")
    assert reader.next() is None


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_the_fed_object_may_change_afterwards(convert: type) -> None:
    source = bytearray(encoded([(ord("Q"), b"one\0"), (ord("Q"), b"two\0")]))
    reader = FrameReader(LIMIT)
    reader.feed(convert(source[:6]))
    reader.feed(convert(source[6:]))
    source[:] = bytes(len(source))
    assert [body for _, body in drain(reader)] == [b"one\0", b"two\0"]


def test_a_reused_receive_buffer_is_copied() -> None:
    buffer = bytearray(frame(b"Q", b"one\0"))
    reader = FrameReader(LIMIT)
    reader.feed(memoryview(buffer))
    buffer[:] = frame(b"Q", b"two\0")
    assert reader.next() == (ord("Q"), b"one\0")
    reader.feed(buffer)
    assert reader.next() == (ord("Q"), b"two\0")


def test_bodies_are_bytes_whatever_the_buffer() -> None:
    reader = FrameReader(LIMIT)
    data = encoded([(ord("Q"), b"a\0"), (ord("Q"), b"b\0")])
    reader.feed(data[:3])
    reader.feed(data[3:])
    assert [type(body) for _, body in drain(reader)] == [bytes, bytes]


def test_rest_hands_over_what_was_not_returned() -> None:
    reader = FrameReader(LIMIT)
    data = encoded([(ord("Q"), b"a\0"), (ord("S"), b"")])
    reader.feed(data + b"Q\0")
    assert reader.next() == (ord("Q"), b"a\0")
    assert reader.rest() == frame(b"S", b"") + b"Q\0"
    assert reader.buffered_bytes == 0
    assert reader.next() is None


def test_the_consumed_head_of_a_long_stream_is_dropped() -> None:
    reader = FrameReader(LIMIT)
    stream = frame(b"d", b"x" * 10_000) * 400
    largest = messages = 0
    for at in range(0, len(stream), 4099):  # nearly always ends in mid-message, so the buffer is never empty
        reader.feed(stream[at : at + 4099])
        messages += len(drain(reader))
        largest = max(largest, len(reader._buffer))
    assert messages == 400
    assert largest < 300_000


BAD_HEADERS = [
    (b"z", "invalid frontend message type 122"),
    (b"\0", "invalid frontend message type 0"),
    (b"z" + pack(">i", 4), "invalid frontend message type 122"),
    (b"Q" + pack(">i", 3), "invalid message length"),
    (b"Q" + pack(">i", 0), "invalid message length"),
    (b"Q" + pack(">i", -1), "invalid message length"),
    (b"Q" + pack(">i", LIMIT + 1), "invalid message length"),
    (b"S" + pack(">i", SMALL_MESSAGE_BYTES + 1), "invalid message length"),
    (b"p" + pack(">i", 65_536), "invalid message length"),
]


@pytest.mark.parametrize(("data", "message"), BAD_HEADERS)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_a_lying_header_is_fatal_at_once_and_for_good(data: bytes, message: str, byte_by_byte: bool) -> None:  # noqa: FBT001
    reader = FrameReader(LIMIT)
    reader.feed(frame(b"S", b""))
    assert reader.next() == (ord("S"), b"")
    for at in range(0, len(data), 1 if byte_by_byte else len(data)):
        reader.feed(data[at : at + (1 if byte_by_byte else len(data))])
    for _ in range(2):
        with pytest.raises(ProtocolViolation) as caught:
            reader.next()
        assert (caught.value.sqlstate, caught.value.message, caught.value.fatal) == ("08P01", message, True)
        reader.feed(b"more")


@pytest.mark.parametrize(("kind", "length"), [(b"Q", LIMIT), (b"S", SMALL_MESSAGE_BYTES), (b"p", 65_535)])
def test_the_limit_itself_is_allowed(kind: bytes, length: int) -> None:
    reader = FrameReader(LIMIT)
    reader.feed(kind + pack(">i", length) + bytes(length - 4))
    assert reader.next() == (kind[0], bytes(length - 4))


def test_no_limit_goes_beyond_the_protocols_own() -> None:
    reader = FrameReader(1 << 40)
    reader.feed(b"Q" + pack(">I", LARGEST_MESSAGE_BYTES + 1))
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        reader.next()


@DETERMINISTIC
@given(wanted=messages, data=st.data())
def test_chunks_do_not_matter(wanted: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = encoded(wanted)
    reader = FrameReader(LIMIT)
    found = []
    at = 0
    while at < len(stream):
        stop = data.draw(st.integers(at + 1, len(stream)))
        reader.feed(stream[at:stop])
        found += drain(reader)
        at = stop
    assert found == wanted


@DETERMINISTIC
@given(chunks=st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_give_messages_or_need_more_or_a_violation(chunks: list[bytes]) -> None:
    reader = FrameReader(30)
    returned = 0
    refused: ProtocolViolation | None
    try:
        for chunk in chunks:
            reader.feed(chunk)
            for kind, body in drain(reader):
                assert kind in CLIENT_TYPES
                returned += 5 + len(body)
    except ProtocolViolation as violation:
        refused = violation
    else:
        refused = None
    if refused is not None:
        assert refused.fatal
    else:
        assert returned + reader.buffered_bytes == sum(map(len, chunks))
        assert reader.buffered_bytes < 31


# ---- walk ----


@DETERMINISTIC
@given(
    wanted=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=12),
    before=st.binary(max_size=9),
    after=st.binary(max_size=4),
)
def test_walk_finds_what_was_framed(wanted: list[tuple[int, bytes]], before: bytes, after: bytes) -> None:
    stream = encoded(wanted)
    whole = before + stream + after
    for buffer in (whole, bytearray(whole), memoryview(whole)):
        found, rest = walk(buffer, len(before), len(whole))
        assert rest == len(before) + len(stream)
        assert [(kind, bytes(buffer[start + 5 : end])) for kind, start, end in found] == wanted


def test_walk_stops_before_each_incomplete_message() -> None:
    whole = encoded([(ord("D"), b"row"), (ord("C"), b"SELECT 1\0")])
    for end in range(len(whole) + 1):
        found, rest = walk(whole, 0, end)
        complete = (end >= 8) + (end >= len(whole))
        assert len(found) == complete
        assert rest == (0, 8, len(whole))[complete]


def test_walk_does_not_look_behind_its_end() -> None:
    whole = encoded([(ord("D"), b"row"), (ord("D"), b"row")])
    assert walk(whole, 8, 15) == ([], 8)
    assert walk(whole, 8, 16) == ([(ord("D"), 8, 16)], 16)


@pytest.mark.parametrize("length", [0, 3, 0x8000_0000, 0xFFFF_FFFF, LARGEST_MESSAGE_BYTES + 1])
def test_walk_refuses_impossible_lengths(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid message length") as caught:
        walk(b"D" + pack(">I", length) + b"xxxxxxx", 0, 12)
    assert caught.value.fatal


def test_walk_has_a_limit_of_the_callers() -> None:
    assert walk(b"D" + pack(">I", 100), 0, 5, 100) == ([], 0)
    with pytest.raises(ProtocolViolation):
        walk(b"D" + pack(">I", 101), 0, 5, 100)


@DETERMINISTIC
@given(data=st.binary(max_size=80))
def test_walk_never_loses_a_byte(data: bytes) -> None:
    try:
        found, rest = walk(data, 0, len(data))
    except ProtocolViolation:
        return
    at = 0
    for _, start, end in found:
        assert start == at
        assert end >= start + 5
        at = end
    assert rest == at <= len(data)


# Bodies that look like headers, of few lengths and of many, in runs that are long enough to be jumped over.
rows = st.lists(
    st.tuples(
        st.sampled_from([b"D", b"D", b"D", b"d", b"C"]),
        st.sampled_from([b"", b"D\0\0\0\4", b"\0\0\0\7D\0\0\0\4", b"x" * 11, b"D" * 300, b"\0" * 251, b"\0" * 252]),
        st.integers(1, 70),
    ),
    min_size=1,
    max_size=8,
)


@DETERMINISTIC
@given(wanted=rows, before=st.binary(max_size=3), missing=st.integers(0, 12), behind=st.binary(max_size=12))
def test_a_run_ends_where_walking_says_that_it_does(
    wanted: list[tuple[bytes, bytes, int]], before: bytes, missing: int, behind: bytes
) -> None:
    whole = b"".join(frame(kind, body) * count for kind, body, count in wanted)
    end = len(before) + max(len(whole) - missing, 0)
    data = before + whole + behind  # what lies behind the end may be anything, and is not there yet
    start = len(before)
    for kind, at, _ in (found := walk(data, start, end)[0]):
        others = (other for other, place, _ in found if place >= at)
        run = next((number for number, other in enumerate(others) if other != kind), None)
        rest = [entry for entry in found if entry[1] >= at]
        assert run_end(data, at, end) == (rest[-1] if run is None else rest[run - 1])[2]


@pytest.mark.parametrize("length", [0, 3, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("row", [b"D\0\0\0\7abc", b"D\0\0\0\7abcD\0\0\0\4"])
def test_a_run_ends_before_a_length_that_cannot_be(length: int, row: bytes) -> None:
    run = row * 40
    data = run + b"D" + pack(">I", length) + bytes(100)
    assert run_end(data, 0, len(data)) == len(run)
