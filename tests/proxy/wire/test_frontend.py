"""Client messages: round trips, and what each decoder says to a body that is not what it should be."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import FrameReader
from proxy.wire.frontend import (
    Bind,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    Message,
    Parse,
    PasswordMessage,
    Query,
    Sync,
    Terminate,
    decode,
)

DETERMINISTIC = settings(derandomize=True, deadline=None, print_blob=True)

names = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b""))
kinds = st.sampled_from([b"S", b"P"])
oids = st.lists(st.integers(0, 0xFFFF_FFFF), max_size=5).map(tuple)
formats = st.lists(st.integers(-0x8000, 0x7FFF), max_size=20).map(tuple)
values = st.lists(st.none() | st.binary(max_size=20), max_size=20).map(tuple)


@st.composite
def binds(draw: st.DrawFn) -> Bind:
    parameters = draw(values)
    count = draw(st.sampled_from([0, 1, len(parameters)]))
    codes = draw(st.lists(st.sampled_from([0, 1]), min_size=count, max_size=count).map(tuple))
    return Bind(draw(names), draw(names), codes, parameters, draw(formats))


all_messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Query, names),
    st.builds(Parse, names, names, oids),
    binds(),
    st.builds(Describe, kinds, names),
    st.builds(Execute, names, st.integers(-(2**31), 2**31 - 1)),
    st.builds(Close, kinds, names),
    st.sampled_from([Flush(), Sync(), CopyDone(), Terminate()]),
    st.builds(CopyData, st.binary(max_size=40)),
    st.builds(CopyFail, names),
    st.builds(FunctionCall, st.binary(max_size=40)),
    st.builds(PasswordMessage, st.binary(max_size=40)),
)


def body_of(message: Message) -> bytes:
    return message.encode()[5:]


@DETERMINISTIC
@given(message=all_messages)
def test_decode_undoes_encode(message: Message) -> None:
    data = message.encode()
    reader = FrameReader(1 << 20)
    reader.feed(data)
    framed = reader.next()
    assert framed is not None
    assert framed == (message.TYPE, data[5:])
    assert decode(*framed) == message
    assert reader.buffered_bytes == 0


@DETERMINISTIC
@given(sent=st.lists(all_messages, max_size=6))
def test_byte_by_byte_gives_the_same(sent: list[Message]) -> None:
    reader = FrameReader(1 << 20)
    got = []
    for byte in b"".join(message.encode() for message in sent):
        reader.feed(bytes((byte,)))
        while (framed := reader.next()) is not None:
            got.append(decode(*framed))
    assert got == sent


# One of each, for what is done to every one of them.
SAMPLES: list[Message] = [
    Query(b"select 1"),
    Parse(b"s", b"select $1", (23, 0)),
    Bind(b"p", b"s", (0, 1, 0), (b"1", None, b""), (1, 0)),
    Describe(b"S", b"s"),
    Describe(b"P", b""),
    Execute(b"p", 10),
    Close(b"P", b"p"),
    Close(b"S", b""),
    Flush(),
    Sync(),
]
# Postgres does not look behind what it needs of these (test_postgres.py shows it), so neither do we.
LENIENT: list[Message] = [CopyDone(), CopyFail(b"why"), Terminate()]


def test_known_bytes() -> None:
    assert Query(b"x").encode() == b"Q\0\0\0\6x\0"
    assert Parse(b"a", b"b", (23,)).encode() == b"P\0\0\0\x0ea\0b\0\0\1\0\0\0\x17"
    assert Bind(b"", b"s", (1,), (b"ab", None), (0, 1)).encode() == (
        b"B\0\0\0\x1d\0s\0\0\1\0\1\0\2\0\0\0\2ab\xff\xff\xff\xff\0\2\0\0\0\1"
    )
    assert Describe(b"S", b"n").encode() == b"D\0\0\0\7Sn\0"
    assert Execute(b"", 7).encode() == b"E\0\0\0\x09\0\0\0\0\7"
    assert Close(b"P", b"").encode() == b"C\0\0\0\6P\0"
    assert CopyFail(b"no").encode() == b"f\0\0\0\7no\0"
    empty = b"".join(message.encode() for message in (Flush(), Sync(), CopyDone(), Terminate()))
    assert empty == b"H\0\0\0\4S\0\0\0\4c\0\0\0\4X\0\0\0\4"


@pytest.mark.parametrize("message", SAMPLES, ids=repr)
def test_trailing_bytes_are_refused(message: Message) -> None:
    for tail in (b"\0", b"x", b"xyz"):
        with pytest.raises(ProtocolViolation, match="invalid message format") as caught:
            decode(message.TYPE, body_of(message) + tail)
        assert (caught.value.sqlstate, caught.value.fatal) == ("08P01", False)


@pytest.mark.parametrize("message", LENIENT, ids=repr)
def test_trailing_bytes_that_postgres_ignores(message: Message) -> None:
    assert decode(message.TYPE, body_of(message) + b"xyz") == message


@pytest.mark.parametrize("message", [*SAMPLES, CopyFail(b"why")], ids=repr)
def test_every_shorter_body_is_refused(message: Message) -> None:
    body = body_of(message)
    for length in range(len(body)):
        with pytest.raises(ProtocolViolation) as caught:
            decode(message.TYPE, body[:length])
        assert (caught.value.sqlstate, caught.value.fatal) == ("08P01", False)


@pytest.mark.parametrize("kind", [0, ord("z"), ord("R"), 200, 255])
def test_types_that_no_client_sends(kind: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"invalid frontend message type {kind}") as caught:
        decode(kind, b"")
    assert caught.value.fatal


def test_65535_parameters() -> None:
    message = Bind(b"", b"", (), (None,) * 65_535, (1,))
    assert decode(message.TYPE, body_of(message)) == message
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        decode(message.TYPE, b"\0\0\0\0" + pack(">H", 65_535) + b"\xff\xff\xff\xff" * 65_534 + b"\0\0")


def test_null_is_minus_one_and_empty_is_zero() -> None:
    assert decode(ord("B"), b"\0\0\0\0\0\2\xff\xff\xff\xff\0\0\0\0\0\0") == Bind(b"", b"", (), (None, b""), ())


def test_a_password_is_not_shown() -> None:
    assert "sesame" not in repr(PasswordMessage(b"open sesame\0"))


@DETERMINISTIC
@given(kind=st.sampled_from(sorted(b"QPBFdCDEHSXcfp")), body=st.binary(max_size=60))
def test_any_body_gives_a_message_or_a_violation(kind: int, body: bytes) -> None:
    outcome: Message | ProtocolViolation
    try:
        outcome = decode(kind, body)
    except ProtocolViolation as violation:
        outcome = violation
    if isinstance(outcome, ProtocolViolation):
        assert (outcome.sqlstate, outcome.fatal) == ("08P01", False)
    else:
        assert kind == outcome.TYPE
        assert kind in b"cfX" or outcome.encode()[5:] == body


@DETERMINISTIC
@given(message=all_messages, data=st.data())
def test_one_changed_byte_gives_a_message_or_a_violation(message: Message, data: st.DataObject) -> None:
    body = bytearray(body_of(message))
    if body:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = decode(message.TYPE, bytes(body))
    except ProtocolViolation:
        return
    if message.TYPE not in b"cfX":
        assert changed.encode()[5:] == bytes(body)


BAD_BINDS = [
    (b"", "invalid string in message"),
    (b"ab", "invalid string in message"),
    (b"ab\0", "invalid string in message"),
    (b"\0\0", "insufficient data left in message"),
    (b"\0\0\0", "insufficient data left in message"),
    (b"\0\0\0\0", "insufficient data left in message"),
    (b"\0\0\0\2\0\1", "insufficient data left in message"),
    (b"\0\0\0\0\0\1", "insufficient data left in message"),
    (b"\0\0\0\0\0\1" + pack(">i", 5) + b"abcd", "insufficient data left in message"),
    (b"\0\0\0\0\0\1" + pack(">i", -2), "insufficient data left in message"),
    (b"\0\0\0\0\0\1" + pack(">i", 2**31 - 1), "insufficient data left in message"),
    (b"\0\0\0\2\0\0\0\0\0\1" + pack(">i", -1), "bind message has 2 parameter formats but 1 parameters"),
]


@pytest.mark.parametrize(("body", "message"), BAD_BINDS)
def test_a_bind_that_lies_is_a_violation(body: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode(ord("B"), body)
    assert (caught.value.sqlstate, caught.value.message, caught.value.fatal) == ("08P01", message, False)
