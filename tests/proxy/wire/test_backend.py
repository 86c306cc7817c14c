"""Server messages: round trips, known bytes, bodies that are not what they should be."""

from __future__ import annotations

import struct
from struct import pack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire import backend
from proxy.wire.backend import CopyResponse, ErrorFields, Field
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import walk

if TYPE_CHECKING:
    from collections.abc import Callable

DETERMINISTIC = settings(derandomize=True, deadline=None, print_blob=True)

without_nul = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b""))
# What a server in another encoding sends comes through as surrogate escapes.
texts = without_nul.map(lambda data: data.decode("utf-8", "surrogateescape"))
oids = st.integers(0, 2**32 - 1)
int16s = st.integers(-(2**15), 2**15 - 1)
int32s = st.integers(-(2**31), 2**31 - 1)
columns = st.builds(Field, without_nul, oids, int16s, oids, int16s, int32s, st.sampled_from([0, 1]))
codes = st.sampled_from("SVCMDHPpqWstcdnFLR")

DECODERS: dict[str, Callable[[bytes], object]] = {
    "error": backend.decode_error,
    "row_description": backend.decode_row_description,
    "data_row": backend.decode_data_row,
    "parameter_description": backend.decode_parameter_description,
    "command_tag": backend.decode_command_tag,
    "parameter_status": backend.decode_parameter_status,
    "copy_response": backend.decode_copy_response,
    "notification": backend.decode_notification,
    "ready_for_query": backend.decode_ready_for_query,
}

SAMPLES: list[tuple[str, bytes, object]] = [
    ("error", backend.error_response(ErrorFields({"S": "ERROR", "C": "42601", "M": "no"})), None),
    ("row_description", backend.row_description([Field(b"a", 1, 2, 23, 4, -1, 0), Field(b"b")]), None),
    ("data_row", backend.data_row([b"1", None, b""]), [b"1", None, b""]),
    ("parameter_description", backend.parameter_description([23, 25]), (23, 25)),
    ("command_tag", backend.command_complete(b"SELECT 1"), b"SELECT 1"),
    ("parameter_status", backend.parameter_status("TimeZone", "UTC"), ("TimeZone", "UTC")),
    ("copy_response", backend.copy_in_response(0, (0, 0)), CopyResponse(0, (0, 0))),
    ("copy_response", backend.copy_out_response(1, (1,)), CopyResponse(1, (1,))),
    ("notification", backend.notification_response(7, b"c", b"p"), (7, b"c", b"p")),
    ("ready_for_query", backend.ready_for_query(b"T"), b"T"),
]


def body_of(message: bytes) -> bytes:
    found, rest = walk(message, 0, len(message))
    assert (len(found), rest) == (1, len(message))
    return message[5:]


@pytest.mark.parametrize(("name", "message", "wanted"), SAMPLES)
def test_decode_undoes_encode(name: str, message: bytes, wanted: object) -> None:
    decoded = DECODERS[name](body_of(message))
    assert wanted is None or decoded == wanted


@pytest.mark.parametrize(("name", "message", "wanted"), SAMPLES)
def test_every_shorter_and_longer_body_is_refused(name: str, message: bytes, wanted: object) -> None:
    del wanted
    body = body_of(message)
    for bad in [body[:length] for length in range(len(body))] + [body + b"\0", body + b"x"]:
        with pytest.raises(ProtocolViolation) as caught:
            DECODERS[name](bad)
        assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize("name", DECODERS)
@DETERMINISTIC
@given(body=st.binary(max_size=60))
def test_any_body_gives_a_value_or_a_violation(name: str, body: bytes) -> None:
    try:
        DECODERS[name](body)
    except ProtocolViolation as violation:
        refused = violation
    else:
        return
    assert refused.sqlstate == "08P01"


@DETERMINISTIC
@given(fields=st.lists(columns, max_size=5))
def test_row_description(fields: list[Field]) -> None:
    assert backend.decode_row_description(body_of(backend.row_description(fields))) == tuple(fields)


@DETERMINISTIC
@given(values=st.lists(st.none() | st.binary(max_size=20), max_size=8))
def test_data_row(values: list[bytes | None]) -> None:
    assert backend.decode_data_row(body_of(backend.data_row(values))) == values


@DETERMINISTIC
@given(fields=st.dictionaries(codes, texts, max_size=8))
def test_error_fields(fields: dict[str, str]) -> None:
    wanted = ErrorFields(fields)
    for message in (backend.error_response(wanted), backend.notice_response(wanted)):
        decoded = backend.decode_error(body_of(message))
        assert decoded == wanted
        assert list(decoded.fields) == list(fields)


@DETERMINISTIC
@given(oids=st.lists(oids, max_size=8), name=texts, value=texts, tag=without_nul)
def test_small_messages(oids: list[int], name: str, value: str, tag: bytes) -> None:
    assert backend.decode_parameter_description(body_of(backend.parameter_description(oids))) == tuple(oids)
    assert backend.decode_parameter_status(body_of(backend.parameter_status(name, value))) == (name, value)
    assert backend.decode_command_tag(body_of(backend.command_complete(tag))) == tag


def test_known_bytes() -> None:
    assert backend.authentication_ok() == b"R\0\0\0\x08\0\0\0\0"
    assert backend.authentication_sasl([b"SCRAM-SHA-256"]) == b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
    assert backend.authentication_sasl_continue(b"r=x") == b"R\0\0\0\x0b\0\0\0\x0br=x"
    assert backend.authentication_sasl_final(b"v=x") == b"R\0\0\0\x0b\0\0\0\x0cv=x"
    assert backend.backend_key_data(1, b"abcd") == b"K\0\0\0\x0c\0\0\0\1abcd"
    assert [backend.ready_for_query(status) for status in (b"I", b"T", b"E")] == [
        b"Z\0\0\0\5I",
        b"Z\0\0\0\5T",
        b"Z\0\0\0\5E",
    ]
    assert backend.parse_complete() + backend.bind_complete() + backend.close_complete() == (
        b"1\0\0\0\x042\0\0\0\x043\0\0\0\4"
    )
    assert backend.no_data() + backend.empty_query_response() + backend.portal_suspended() == (
        b"n\0\0\0\4I\0\0\0\4s\0\0\0\4"
    )
    assert backend.copy_data(b"1\n") + backend.copy_done() == b"d\0\0\0\x061\nc\0\0\0\4"
    assert backend.decode_backend_key_data(b"\0\0\0\1abcd") == (1, b"abcd")
    # Both as PostgreSQL 18 sent them: to version 3.0 with two unknown options, and to version 3.9.
    assert backend.negotiate_protocol_version(0, ["_pq_.foo", "_pq_.bar"]) == (
        b"v\0\0\0\x1e\0\3\0\0\0\0\0\2_pq_.foo\0_pq_.bar\0"
    )
    assert backend.negotiate_protocol_version(2, []) == b"v\0\0\0\x0c\0\3\0\2\0\0\0\0"


def test_what_does_not_fit_is_not_sent() -> None:
    with pytest.raises(KeyError):
        backend.ready_for_query(b"X")
    with pytest.raises(struct.error):
        backend.data_row([None] * 65_536)
    with pytest.raises(struct.error):
        backend.row_description([Field(b"a", column=40_000)])


def test_counts_are_unsigned() -> None:
    assert len(backend.decode_data_row(body_of(backend.data_row([None] * 65_535)))) == 65_535
    assert len(backend.decode_row_description(body_of(backend.row_description([Field(b"")] * 40_000)))) == 40_000


@pytest.mark.parametrize("length", [-2, -(2**31), 2, 2**31 - 1])
def test_a_value_that_lies_about_its_length(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        backend.decode_data_row(b"\0\1" + pack(">i", length) + b"x")


def test_make_leaves_out_what_is_empty() -> None:
    assert dict(ErrorFields.make("ERROR", "0A000", "no").fields) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "0A000",
        "M": "no",
    }
    fields = ErrorFields.make("FATAL", "08P01", "m", detail="d", hint="h", position=0, where="w")
    assert [*fields.fields] == ["S", "V", "C", "M", "D", "H", "P", "W"]
    assert (fields.severity, fields.sqlstate, fields.message, fields.detail, fields.hint, fields.position) == (
        "FATAL",
        "08P01",
        "m",
        "d",
        "h",
        0,
    )
    assert str(fields) == "FATAL 08P01: m"


def test_fields_of_a_poor_server() -> None:
    fields = ErrorFields({"S": "FEHLER", "P": "x٣"})
    assert (fields.severity, fields.sqlstate, fields.position, fields.get("H", "-")) == ("FEHLER", "XX000", None, "-")


def test_fields_are_frozen() -> None:
    source = {"M": "a"}
    fields = ErrorFields(source)
    source["M"] = "b"
    assert fields.message == "a"
    with pytest.raises(TypeError):
        fields.fields["M"] = "c"  # type: ignore[index]
    changed = fields.replace(M="d", H="h")
    assert (changed.message, changed.hint, fields.message) == ("d", "h", "a")
    assert dict(changed.replace(H=None).fields) == {"M": "d"}


def test_a_nul_in_a_text_cannot_break_the_message() -> None:
    assert backend.decode_error(body_of(backend.error_response(ErrorFields({"M": "a\0b"})))).message == "ab"
