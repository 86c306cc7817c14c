"""Messages from client to server: values, their bytes, and strict readers of their bodies.

Decides whether a body says what its type promises, with Postgres's own complaints where it does not, and reads past
what Postgres reads past. What a message means, and whether it may come now, is for state.py and the session. Strings
stay bytes: their encoding is the session's affair.

https://www.postgresql.org/docs/18/protocol-message-formats.html
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from proxy.wire.body import (
    INSUFFICIENT_DATA,
    INT32,
    INVALID_FORMAT,
    INVALID_STRING,
    NULL_LENGTH,
    UINT16,
    BodyReader,
)
from proxy.wire.errors import desynchronized, malformed
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STATEMENT = b"S"
PORTAL = b"P"


@dataclass(frozen=True, slots=True)
class Query:
    """A simple query: one text with any number of statements."""

    text: bytes
    TYPE: ClassVar[int] = ord("Q")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"Q", self.text + b"\0")


@dataclass(frozen=True, slots=True)
class Parse:
    """Prepare ``query`` under the name ``statement`` (b"" is the unnamed one); OID 0 leaves a parameter's type open."""

    statement: bytes
    query: bytes
    parameter_oids: tuple[int, ...] = ()
    TYPE: ClassVar[int] = ord("P")

    def encode(self) -> bytes:
        """Return the whole message."""
        oids = self.parameter_oids
        return frame(
            b"P", b"%b\0%b\0%b" % (self.statement, self.query, Struct(f">H{len(oids)}I").pack(len(oids), *oids))
        )


@dataclass(frozen=True, slots=True)
class Bind:
    """Make a portal of a prepared statement.

    Formats are 0 for text and 1 for binary: none of them means all text, one counts for all, otherwise one each. A
    parameter that is None is NULL.
    """

    portal: bytes
    statement: bytes
    parameter_formats: tuple[int, ...] = ()
    parameters: tuple[bytes | None, ...] = ()
    result_formats: tuple[int, ...] = ()
    TYPE: ClassVar[int] = ord("B")

    def encode(self) -> bytes:
        """Return the whole message."""
        parts = [self.portal, b"\0", self.statement, b"\0", pack_formats(self.parameter_formats)]
        parts.append(UINT16.pack(len(self.parameters)))
        for value in self.parameters:
            if value is None:
                parts.append(_NULL)
            else:
                parts.append(INT32.pack(len(value)))
                parts.append(value)
        parts.append(pack_formats(self.result_formats))
        return frame(b"B", b"".join(parts))


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask what a statement (kind b"S") or a portal (kind b"P") takes and gives."""

    kind: bytes
    name: bytes = b""
    TYPE: ClassVar[int] = ord("D")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"D", b"%b%b\0" % (self.kind, self.name))


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a portal for at most ``row_limit`` rows; zero or less is no limit."""

    portal: bytes = b""
    row_limit: int = 0
    TYPE: ClassVar[int] = ord("E")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"E", b"%b\0%b" % (self.portal, INT32.pack(self.row_limit)))


@dataclass(frozen=True, slots=True)
class Close:
    """Forget a statement (kind b"S") or a portal (kind b"P"); it need not exist."""

    kind: bytes
    name: bytes = b""
    TYPE: ClassVar[int] = ord("C")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"C", b"%b%b\0" % (self.kind, self.name))


@dataclass(frozen=True, slots=True)
class Flush:
    """Send out what is ready, without ending the pipeline."""

    TYPE: ClassVar[int] = ord("H")

    def encode(self) -> bytes:
        """Return the whole message."""
        return FLUSH


@dataclass(frozen=True, slots=True)
class Sync:
    """End the pipeline: close the implicit transaction, answer ReadyForQuery."""

    TYPE: ClassVar[int] = ord("S")

    def encode(self) -> bytes:
        """Return the whole message."""
        return SYNC


@dataclass(frozen=True, slots=True)
class CopyData:
    """A piece of a COPY stream; pieces need not end where lines end."""

    data: bytes
    TYPE: ClassVar[int] = ord("d")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"d", self.data)


@dataclass(frozen=True, slots=True)
class CopyDone:
    """The COPY stream is complete."""

    TYPE: ClassVar[int] = ord("c")

    def encode(self) -> bytes:
        """Return the whole message."""
        return COPY_DONE


@dataclass(frozen=True, slots=True)
class CopyFail:
    """The client gives the COPY up, and says why."""

    message: bytes
    TYPE: ClassVar[int] = ord("f")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"f", self.message + b"\0")


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The fast-path call of a function by OID; its body stays unread, since no plan can be made for it."""

    body: bytes
    TYPE: ClassVar[int] = ord("F")

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"F", self.body)


@dataclass(frozen=True, slots=True)
class Terminate:
    """The client is leaving."""

    TYPE: ClassVar[int] = ord("X")

    def encode(self) -> bytes:
        """Return the whole message."""
        return TERMINATE


@dataclass(frozen=True, slots=True, repr=False)
class PasswordMessage:
    """An answer to an authentication request: password, SASLInitialResponse, SASLResponse; scram.py reads it.

    Its repr does not show the body: that may be a password.
    """

    body: bytes
    TYPE: ClassVar[int] = ord("p")

    def __repr__(self) -> str:
        return f"PasswordMessage(<{len(self.body)} bytes>)"

    def encode(self) -> bytes:
        """Return the whole message."""
        return frame(b"p", self.body)


Message = (
    Query
    | Parse
    | Bind
    | Describe
    | Execute
    | Close
    | Flush
    | Sync
    | CopyData
    | CopyDone
    | CopyFail
    | FunctionCall
    | Terminate
    | PasswordMessage
)

FLUSH = frame(b"H", b"")
SYNC = frame(b"S", b"")
COPY_DONE = frame(b"c", b"")
TERMINATE = frame(b"X", b"")

_NULL = INT32.pack(NULL_LENGTH)
_KINDS = (STATEMENT, PORTAL)


def pack_formats(formats: Sequence[int]) -> bytes:
    """Build an int16 count and that many int16."""
    return Struct(f">H{len(formats)}h").pack(len(formats), *formats)


def _decode_query(body: bytes) -> Query:
    stop = body.find(0)
    if stop != len(body) - 1 or stop < 0:
        raise malformed(INVALID_STRING if stop < 0 else INVALID_FORMAT)
    return Query(body[:stop])


def _decode_parse(body: bytes) -> Parse:
    reader = BodyReader(body)
    message = Parse(reader.string(), reader.string(), reader.uint32s())
    reader.end()
    return message


def _decode_describe(body: bytes) -> Describe:
    return Describe(*_kind_and_name(body, "DESCRIBE"))


def _decode_close(body: bytes) -> Close:
    return Close(*_kind_and_name(body, "CLOSE"))


def _kind_and_name(body: bytes, command: str) -> tuple[bytes, bytes]:
    reader = BodyReader(body)
    kind = reader.byte()
    name = reader.string()
    reader.end()
    if kind not in b"SP":
        raise malformed(f"invalid {command} message subtype {kind}")
    return _KINDS[kind == ord("P")], name


def _decode_execute(body: bytes) -> Execute:
    reader = BodyReader(body)
    message = Execute(reader.string(), reader.int32())
    reader.end()
    return message


def _decode_copy_fail(body: bytes) -> CopyFail:
    return CopyFail(BodyReader(body).string())  # nor does Postgres look behind the text


def _empty(body: bytes) -> None:
    if body:
        raise malformed(INVALID_FORMAT)


def _decode_flush(body: bytes) -> Flush:
    _empty(body)
    return _FLUSH


def _decode_sync(body: bytes) -> Sync:
    _empty(body)
    return _SYNC


def _decode_copy_done(_: bytes) -> CopyDone:
    return _COPY_DONE  # Postgres does not look into this body, nor into Terminate's


def _decode_terminate(_: bytes) -> Terminate:
    return _TERMINATE


_FLUSH = Flush()
_SYNC = Sync()
_COPY_DONE = CopyDone()
_TERMINATE = Terminate()


def decode_bind(body: bytes) -> Bind:
    """Read a Bind body whole; ``bind.py`` has cheaper ways to look at a part of it."""
    first = body.find(0)
    second = body.find(0, first + 1)
    if first < 0 or second < 0:
        raise malformed(INVALID_STRING)
    parameter_formats, at = unpack_formats(body, second + 1)
    end = len(body)
    if at + 2 > end:
        raise malformed(INSUFFICIENT_DATA)
    (count,) = UINT16.unpack_from(body, at)
    at += 2
    check_format_count(len(parameter_formats), count)
    parameters: list[bytes | None] = []
    add = parameters.append
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
    result_formats, at = unpack_formats(body, at)
    if at != end:
        raise malformed(INVALID_FORMAT)
    return Bind(body[:first], body[first + 1 : second], parameter_formats, tuple(parameters), result_formats)


# Nearly every Bind has no format, one, or two of them: those need no new Struct.
_FORMATS = tuple(Struct(f">{count}h") for count in range(17))


def unpack_formats(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Read a count and that many format codes at offset ``at``; returns them and the offset behind."""
    end = len(body)
    if at + 2 > end:
        raise malformed(INSUFFICIENT_DATA)
    (count,) = UINT16.unpack_from(body, at)
    at += 2
    if not count:
        return (), at
    stop = at + 2 * count
    if stop > end:
        raise malformed(INSUFFICIENT_DATA)
    packed = _FORMATS[count] if count < len(_FORMATS) else Struct(f">{count}h")
    return packed.unpack_from(body, at), stop


def check_format_count(formats: int, parameters: int) -> None:
    """See that there is no format code, one, or one for each parameter."""
    if formats > 1 and formats != parameters:
        raise malformed(f"bind message has {formats} parameter formats but {parameters} parameters")


_DECODERS: Mapping[int, Callable[[bytes], Message]] = {
    Query.TYPE: _decode_query,
    Parse.TYPE: _decode_parse,
    Bind.TYPE: decode_bind,
    Describe.TYPE: _decode_describe,
    Execute.TYPE: _decode_execute,
    Close.TYPE: _decode_close,
    Flush.TYPE: _decode_flush,
    Sync.TYPE: _decode_sync,
    CopyData.TYPE: CopyData,
    CopyDone.TYPE: _decode_copy_done,
    CopyFail.TYPE: _decode_copy_fail,
    FunctionCall.TYPE: FunctionCall,
    Terminate.TYPE: _decode_terminate,
    PasswordMessage.TYPE: PasswordMessage,
}


def decode(type: int, body: bytes) -> Message:  # noqa: A002 - the protocol's word
    """Read one message as FrameReader cut it; raises ProtocolViolation."""
    decoder = _DECODERS.get(type)
    if decoder is None:
        raise desynchronized(f"invalid frontend message type {type}")
    return decoder(body)
