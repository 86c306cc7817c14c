"""Messages from server to client: builders of whole messages, readers of bodies.

Builders trust their caller (a value that does not fit raises ``struct.error``); readers trust nobody and raise
ProtocolViolation. Names, tags and values stay bytes; the texts of errors and parameters are str (see fields.py).

https://www.postgresql.org/docs/18/protocol-message-formats.html
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from proxy.wire.body import (
    INSUFFICIENT_DATA,
    INT32,
    INVALID_FORMAT,
    INVALID_STRING,
    NULL_LENGTH,
    UINT16,
    BodyReader,
)
from proxy.wire.errors import malformed
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import frame
from proxy.wire.frontend import pack_formats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


__all__ = [
    "AUTHENTICATION",
    "BACKEND_KEY_DATA",
    "BIND_COMPLETE",
    "CLOSE_COMPLETE",
    "COMMAND_COMPLETE",
    "COPY_BOTH_RESPONSE",
    "COPY_DATA",
    "COPY_DONE",
    "COPY_IN_RESPONSE",
    "COPY_OUT_RESPONSE",
    "DATA_ROW",
    "EMPTY_QUERY_RESPONSE",
    "ERROR_RESPONSE",
    "FUNCTION_CALL_RESPONSE",
    "NEGOTIATE_PROTOCOL_VERSION",
    "NOTICE_RESPONSE",
    "NOTIFICATION_RESPONSE",
    "NO_DATA",
    "PARAMETER_DESCRIPTION",
    "PARAMETER_STATUS",
    "PARSE_COMPLETE",
    "PORTAL_SUSPENDED",
    "READY_FOR_QUERY",
    "ROW_DESCRIPTION",
    "CopyResponse",
    "ErrorFields",
    "Field",
    "authentication_cleartext_password",
    "authentication_md5_password",
    "authentication_ok",
    "authentication_sasl",
    "authentication_sasl_continue",
    "authentication_sasl_final",
    "backend_key_data",
    "bind_complete",
    "close_complete",
    "command_complete",
    "copy_data",
    "copy_done",
    "copy_in_response",
    "copy_out_response",
    "data_row",
    "decode_backend_key_data",
    "decode_command_tag",
    "decode_copy_response",
    "decode_data_row",
    "decode_error",
    "decode_notification",
    "decode_parameter_description",
    "decode_parameter_status",
    "decode_ready_for_query",
    "decode_row_description",
    "empty_query_response",
    "encode_fields",
    "error_response",
    "negotiate_protocol_version",
    "no_data",
    "notice_response",
    "notification_response",
    "parameter_description",
    "parameter_status",
    "parse_complete",
    "portal_suspended",
    "ready_for_query",
    "row_description",
]

# Type bytes of backend messages, as numbers: what a relay compares.
AUTHENTICATION: Final[int] = ord("R")
PARAMETER_STATUS: Final[int] = ord("S")
BACKEND_KEY_DATA: Final[int] = ord("K")
READY_FOR_QUERY: Final[int] = ord("Z")
COMMAND_COMPLETE: Final[int] = ord("C")
ROW_DESCRIPTION: Final[int] = ord("T")
DATA_ROW: Final[int] = ord("D")
ERROR_RESPONSE: Final[int] = ord("E")
NOTICE_RESPONSE: Final[int] = ord("N")
NOTIFICATION_RESPONSE: Final[int] = ord("A")
PARSE_COMPLETE: Final[int] = ord("1")
BIND_COMPLETE: Final[int] = ord("2")
CLOSE_COMPLETE: Final[int] = ord("3")
NO_DATA: Final[int] = ord("n")
EMPTY_QUERY_RESPONSE: Final[int] = ord("I")
PORTAL_SUSPENDED: Final[int] = ord("s")
PARAMETER_DESCRIPTION: Final[int] = ord("t")
COPY_IN_RESPONSE: Final[int] = ord("G")
COPY_OUT_RESPONSE: Final[int] = ord("H")
COPY_BOTH_RESPONSE: Final[int] = ord("W")
COPY_DATA: Final[int] = ord("d")
COPY_DONE: Final[int] = ord("c")
FUNCTION_CALL_RESPONSE: Final[int] = ord("V")
NEGOTIATE_PROTOCOL_VERSION: Final[int] = ord("v")

_MAJOR = 3
_FIELD = Struct(">IhIhih")
_NULL = INT32.pack(NULL_LENGTH)
_PARSE_COMPLETE = frame(b"1", b"")
_BIND_COMPLETE = frame(b"2", b"")
_CLOSE_COMPLETE = frame(b"3", b"")
_NO_DATA = frame(b"n", b"")
_EMPTY_QUERY_RESPONSE = frame(b"I", b"")
_PORTAL_SUSPENDED = frame(b"s", b"")
_COPY_DONE = frame(b"c", b"")
_READY = {status: frame(b"Z", status) for status in (b"I", b"T", b"E")}
_AUTHENTICATION_OK = frame(b"R", INT32.pack(0))
_CLEARTEXT_PASSWORD = frame(b"R", INT32.pack(3))
_MD5_PASSWORD = INT32.pack(5)
_SASL = INT32.pack(10)
_SASL_CONTINUE = INT32.pack(11)
_SASL_FINAL = INT32.pack(12)


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a result: RowDescription's view of it.

    ``table_oid`` and ``column`` are 0 unless it is a table's column. ``type_size`` is negative for variable width,
    ``type_modifier`` is -1 for none, ``format`` is 0 for text and 1 for binary (0 where it is not known yet).
    """

    name: bytes
    table_oid: int = 0
    column: int = 0
    type_oid: int = 0
    type_size: int = -1
    type_modifier: int = -1
    format: int = 0


@dataclass(frozen=True, slots=True)
class CopyResponse:
    """CopyInResponse, CopyOutResponse: the whole stream's format and each column's (0 text, 1 binary)."""

    format: int
    column_formats: tuple[int, ...]


# ---- builders ----


def authentication_ok() -> bytes:
    """Build AuthenticationOk."""
    return _AUTHENTICATION_OK


def authentication_cleartext_password() -> bytes:
    """Build AuthenticationCleartextPassword."""
    return _CLEARTEXT_PASSWORD


def authentication_md5_password(salt: bytes) -> bytes:
    """Build AuthenticationMD5Password with its four bytes of salt."""
    return frame(b"R", _MD5_PASSWORD + salt)


def authentication_sasl(mechanisms: Iterable[bytes]) -> bytes:
    """Build AuthenticationSASL: the mechanisms on offer, best first."""
    return frame(b"R", _SASL + b"".join(name + b"\0" for name in mechanisms) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """Build AuthenticationSASLContinue: a challenge."""
    return frame(b"R", _SASL_CONTINUE + data)


def authentication_sasl_final(data: bytes) -> bytes:
    """Build AuthenticationSASLFinal: the server's own proof."""
    return frame(b"R", _SASL_FINAL + data)


def parameter_status(name: str, value: str) -> bytes:
    """Build ParameterStatus."""
    return frame(b"S", _text(name) + b"\0" + _text(value) + b"\0")


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """Build BackendKeyData: 4 bytes of secret for protocol 3.0, up to 256 for 3.2."""
    return frame(b"K", INT32.pack(pid) + secret)


def ready_for_query(status: bytes) -> bytes:
    """Build ReadyForQuery with status b"I" (idle), b"T" (in a transaction) or b"E" (in a failed one)."""
    return _READY[status]


def command_complete(tag: bytes) -> bytes:
    """Build CommandComplete."""
    return frame(b"C", tag + b"\0")


def row_description(fields: Sequence[Field]) -> bytes:
    """Build RowDescription."""
    parts = [UINT16.pack(len(fields))]
    for field in fields:
        parts.append(field.name + b"\0")
        parts.append(
            _FIELD.pack(
                field.table_oid, field.column, field.type_oid, field.type_size, field.type_modifier, field.format
            )
        )
    return frame(b"T", b"".join(parts))


def data_row(values: Sequence[bytes | None]) -> bytes:
    """Build DataRow; None is NULL."""
    parts = [UINT16.pack(len(values))]
    pack = INT32.pack
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(pack(len(value)))
            parts.append(value)
    return frame(b"D", b"".join(parts))


def error_response(fields: ErrorFields) -> bytes:
    """Build ErrorResponse."""
    return frame(b"E", encode_fields(fields))


def notice_response(fields: ErrorFields) -> bytes:
    """Build NoticeResponse."""
    return frame(b"N", encode_fields(fields))


def notification_response(pid: int, channel: bytes, payload: bytes) -> bytes:
    """Build NotificationResponse."""
    return frame(b"A", b"%b%b\0%b\0" % (INT32.pack(pid), channel, payload))


def encode_fields(fields: ErrorFields) -> bytes:
    """Build the body of ErrorResponse and NoticeResponse. A NUL inside a text cannot be sent and is left out."""
    parts = [_text(code + text.replace("\0", "")) + b"\0" for code, text in fields.fields.items()]
    return b"".join(parts) + b"\0"


def parse_complete() -> bytes:
    """Build ParseComplete."""
    return _PARSE_COMPLETE


def bind_complete() -> bytes:
    """Build BindComplete."""
    return _BIND_COMPLETE


def close_complete() -> bytes:
    """Build CloseComplete."""
    return _CLOSE_COMPLETE


def no_data() -> bytes:
    """Build NoData: the statement gives no rows."""
    return _NO_DATA


def empty_query_response() -> bytes:
    """Build EmptyQueryResponse: what an empty text gets in place of CommandComplete."""
    return _EMPTY_QUERY_RESPONSE


def portal_suspended() -> bytes:
    """Build PortalSuspended: the row limit was reached."""
    return _PORTAL_SUSPENDED


def parameter_description(oids: Sequence[int]) -> bytes:
    """Build ParameterDescription."""
    return frame(b"t", Struct(f">H{len(oids)}I").pack(len(oids), *oids))


def copy_in_response(format: int, column_formats: Sequence[int]) -> bytes:  # noqa: A002 - the protocol's word
    """Build CopyInResponse."""
    return frame(b"G", bytes((format,)) + pack_formats(column_formats))


def copy_out_response(format: int, column_formats: Sequence[int]) -> bytes:  # noqa: A002 - the protocol's word
    """Build CopyOutResponse."""
    return frame(b"H", bytes((format,)) + pack_formats(column_formats))


def copy_data(data: bytes) -> bytes:
    """Build CopyData."""
    return frame(b"d", data)


def copy_done() -> bytes:
    """Build CopyDone."""
    return _COPY_DONE


def negotiate_protocol_version(minor: int, options: Sequence[str]) -> bytes:
    """Build NegotiateProtocolVersion: the newest 3.minor spoken here and the ``_pq_.`` options not understood.

    The number is the whole version, as Postgres sends and libpq expects it; the manual speaks of the minor version
    alone.
    """
    names = b"".join(_text(name) + b"\0" for name in options)
    return frame(b"v", INT32.pack(_MAJOR << 16 | minor) + INT32.pack(len(options)) + names)


# ---- readers ----


def decode_error(body: bytes) -> ErrorFields:
    """Read the body of ErrorResponse or NoticeResponse. Of a field that comes twice the last counts."""
    reader = BodyReader(body)
    fields: dict[str, str] = {}
    while code := reader.byte():
        fields[chr(code)] = reader.string().decode("utf-8", "surrogateescape")
    reader.end()
    return ErrorFields(fields)


def decode_row_description(body: bytes) -> tuple[Field, ...]:
    """Read the body of RowDescription."""
    end = len(body)
    if end < UINT16.size:
        raise malformed(INSUFFICIENT_DATA)
    (count,) = UINT16.unpack_from(body)
    at = UINT16.size
    fields = []
    for _ in range(count):
        stop = body.find(0, at)
        if stop < 0:
            raise malformed(INVALID_STRING)
        name = body[at:stop]
        at = stop + 1
        if at + _FIELD.size > end:
            raise malformed(INSUFFICIENT_DATA)
        fields.append(Field(name, *_FIELD.unpack_from(body, at)))
        at += _FIELD.size
    if at != end:
        raise malformed(INVALID_FORMAT)
    return tuple(fields)


def decode_data_row(body: bytes) -> list[bytes | None]:
    """Read the body of DataRow; NULL is None."""
    end = len(body)
    if end < UINT16.size:
        raise malformed(INSUFFICIENT_DATA)
    (count,) = UINT16.unpack_from(body)
    at = UINT16.size
    values: list[bytes | None] = []
    add = values.append
    unpack = INT32.unpack_from
    for _ in range(count):
        start = at + 4
        if start > end:
            raise malformed(INSUFFICIENT_DATA)
        (length,) = unpack(body, at)
        if length >= 0:
            at = start + length
            if at > end:
                raise malformed(INSUFFICIENT_DATA)
            add(body[start:at])
        elif length == NULL_LENGTH:
            at = start
            add(None)
        else:
            raise malformed(INSUFFICIENT_DATA)
    if at != end:
        raise malformed(INVALID_FORMAT)
    return values


def decode_parameter_description(body: bytes) -> tuple[int, ...]:
    """Read the body of ParameterDescription: one type OID for each parameter."""
    reader = BodyReader(body)
    oids = reader.uint32s()
    reader.end()
    return oids


def decode_command_tag(body: bytes) -> bytes:
    """Read the body of CommandComplete."""
    reader = BodyReader(body)
    tag = reader.string()
    reader.end()
    return tag


def decode_parameter_status(body: bytes) -> tuple[str, str]:
    """Read the body of ParameterStatus: (name, value)."""
    reader = BodyReader(body)
    name, value = reader.string(), reader.string()
    reader.end()
    return name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")


def decode_copy_response(body: bytes) -> CopyResponse:
    """Read the body of CopyInResponse, CopyOutResponse or CopyBothResponse."""
    reader = BodyReader(body)
    response = CopyResponse(reader.byte(), reader.int16s())
    reader.end()
    return response


def decode_notification(body: bytes) -> tuple[int, bytes, bytes]:
    """Read the body of NotificationResponse: (pid, channel, payload)."""
    reader = BodyReader(body)
    notification = reader.int32(), reader.string(), reader.string()
    reader.end()
    return notification


def decode_backend_key_data(body: bytes) -> tuple[int, bytes]:
    """Read the body of BackendKeyData: (pid, secret)."""
    reader = BodyReader(body)
    return reader.int32(), reader.rest()


def decode_ready_for_query(body: bytes) -> bytes:
    """Read the body of ReadyForQuery: b"I", b"T" or b"E"."""
    if body not in _READY:
        raise malformed(INVALID_FORMAT)
    return body


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
