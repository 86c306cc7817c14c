"""The first packets: whole, byte by byte, followed by more, and wrong in all the ways that Postgres tells apart."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.errors import ProtocolViolation
from proxy.wire.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    StartupPacket,
    StartupReader,
    decode_packet,
)

DETERMINISTIC = settings(derandomize=True, deadline=None, print_blob=True)

words = st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
keys = words.filter(lambda name: name != "" and not name.startswith("_pq_."))
startups = st.builds(
    StartupMessage,
    st.just(3),
    st.integers(0, 0xFFFF),
    st.dictionaries(keys, words, max_size=5),
    st.dictionaries(words.map(lambda name: "_pq_." + name), words, max_size=3),
)
cancels = st.builds(CancelRequest, st.integers(-(2**31), 2**31 - 1), st.binary(min_size=1, max_size=256))
packets: st.SearchStrategy[StartupPacket] = st.one_of(
    startups, cancels, st.sampled_from([SSLRequest(), GSSENCRequest()])
)

LAYOUT = "invalid startup packet layout: expected terminator as last byte"
LENGTH = "invalid length of startup packet"


def packet(body: bytes) -> bytes:
    return pack(">i", len(body) + 4) + body


def read_one(data: bytes) -> StartupPacket | None:
    reader = StartupReader()
    reader.feed(data)
    return reader.next()


@DETERMINISTIC
@given(sent=packets)
def test_decode_undoes_encode(sent: StartupPacket) -> None:
    assert read_one(sent.encode()) == sent


@DETERMINISTIC
@given(sent=packets, after=st.binary(max_size=10))
def test_byte_by_byte_gives_the_same(sent: StartupPacket, after: bytes) -> None:
    data = sent.encode()
    reader = StartupReader()
    for at in range(len(data)):
        assert reader.next() is None
        reader.feed(data[at : at + 1])
    assert reader.next() == sent
    reader.feed(after)
    assert reader.buffered_bytes == len(after)
    assert reader.rest() == after


def test_a_connection_as_libpq_opens_it() -> None:
    start = StartupMessage(3, 2, {"user": "app", "database": "shop", "options": "-c x=1"})
    reader = StartupReader()
    reader.feed(SSLRequest().encode())
    assert reader.next() == SSLRequest()
    assert reader.next() is None
    reader.feed(GSSENCRequest().encode())
    assert reader.next() == GSSENCRequest()
    assert reader.next() is None
    reader.feed(start.encode() + b"p\0\0\0\x08abc\0")
    assert reader.next() == start
    assert reader.rest() == b"p\0\0\0\x08abc\0"


def test_known_bytes() -> None:
    assert SSLRequest().encode() == b"\0\0\0\x08\x04\xd2\x16\x2f"
    assert GSSENCRequest().encode() == b"\0\0\0\x08\x04\xd2\x16\x30"
    assert CancelRequest(1, b"abcd").encode() == b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\1abcd"
    assert StartupMessage(3, 0, {"user": "a"}).encode() == b"\0\0\0\x10\0\3\0\0user\0a\0\0"


@pytest.mark.parametrize(("request_", "name"), [(SSLRequest(), "SSL"), (GSSENCRequest(), "GSSAPI encryption")])
def test_bytes_behind_a_request_for_encryption_are_refused(request_: SSLRequest | GSSENCRequest, name: str) -> None:
    reader = StartupReader()
    reader.feed(request_.encode() + b"\0")
    assert reader.next() == request_
    for _ in range(2):
        with pytest.raises(ProtocolViolation, match=f"received unencrypted data after {name} request") as caught:
            reader.next()
        assert caught.value.fatal
        assert "man-in-the-middle" in caught.value.detail


@pytest.mark.parametrize(("request_", "minor"), [(SSLRequest(), 5679), (GSSENCRequest(), 5680)])
def test_a_request_for_encryption_comes_once(request_: SSLRequest | GSSENCRequest, minor: int) -> None:
    reader = StartupReader()
    reader.feed(request_.encode())
    assert reader.next() == request_
    reader.feed(request_.encode())
    encrypted = StartupReader(encrypted=True)
    encrypted.feed(request_.encode())
    for refusing in (reader, encrypted):
        with pytest.raises(ProtocolViolation, match=f"unsupported frontend protocol 1234.{minor}: ") as caught:
            refusing.next()
        assert (caught.value.sqlstate, caught.value.fatal) == ("0A000", True)


def test_what_postgres_does_not_look_at() -> None:
    assert read_one(packet(b"\x04\xd2\x16\x2fabcd")) == SSLRequest()


WRONG = [
    (pack(">i", 0), "08P01", LENGTH),
    (pack(">i", -1), "08P01", LENGTH),
    (pack(">i", 7), "08P01", LENGTH),
    (pack(">i", 10_005), "08P01", LENGTH),
    (b"GET / HTTP/1.1\r\n", "08P01", LENGTH),
    (packet(b"\0\2\0\0"), "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"),
    (packet(b"\0\4\0\0"), "0A000", "unsupported frontend protocol 4.0: server supports 3.0 to 3.2"),
    (packet(b"\0\3\0\0"), "08P01", LAYOUT),
    (packet(b"\0\3\0\0user"), "08P01", LAYOUT),
    (packet(b"\0\3\0\0user\0"), "08P01", LAYOUT),
    (packet(b"\0\3\0\0user\0postgres"), "08P01", LAYOUT),
    (packet(b"\0\3\0\0user\0postgres\0"), "08P01", LAYOUT),
    (packet(b"\0\3\0\0user\0postgres\0\0z"), "08P01", LAYOUT),
    (packet(b"\0\3\0\0user\0postgres\0\0\0"), "08P01", LAYOUT),
    (packet(b"\x04\xd2\x16\x2e"), "08P01", "invalid length of query cancel packet"),
    (packet(b"\x04\xd2\x16\x2e\0\0\0\1"), "08P01", "invalid length of query cancel packet"),
    (packet(b"\x04\xd2\x16\x2e\0\0\0\1" + bytes(257)), "08P01", "invalid length of query cancel packet"),
]


@pytest.mark.parametrize(("data", "sqlstate", "message"), WRONG)
def test_wrong_packets(data: bytes, sqlstate: str, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read_one(data)
    assert (caught.value.sqlstate, caught.value.message, caught.value.fatal) == (sqlstate, message, True)


def test_the_longest_packet() -> None:
    body = b"\0\3\0\0a\0" + b"x" * (10_000 - 8) + b"\0\0"
    assert read_one(packet(body)) == StartupMessage(3, 0, {"a": "x" * 9_992})
    with pytest.raises(ProtocolViolation, match=LENGTH):
        read_one(packet(body + b"x"))


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    assert read_one(packet(b"\0\3\0\0user\0a\0user\0b\0\0")) == StartupMessage(3, 0, {"user": "b"})


def test_a_cancel_secret_is_not_shown() -> None:
    assert repr(CancelRequest(7, b"sesame")) == "CancelRequest(pid=7)"


@DETERMINISTIC
@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_packet_or_need_more_or_a_violation(data: bytes) -> None:
    for body in (data, pack(">i", len(data) + 4) + data, packet(b"\0\3\0\0" + data)):
        try:
            found = read_one(body)
        except ProtocolViolation as violation:
            refused = violation
        else:
            assert found is not None or len(body) < 10_004
            continue
        assert refused.fatal


@DETERMINISTIC
@given(body=st.binary(max_size=3))
def test_a_body_without_a_code(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=LENGTH):
        decode_packet(body)
