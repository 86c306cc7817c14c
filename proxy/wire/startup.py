"""The untyped packets with which a connection begins.

Each is an int32 length that counts itself, an int32 code, and a rest. Decides what was asked and whether it is well
formed, with Postgres's limits and complaints (backend_startup.c); whether to speak TLS, which versions to speak and
whom to let in is the server's and the session's. Everything wrong here is fatal.

https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-FLOW-START-UP
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from proxy.wire.errors import FEATURE_NOT_SUPPORTED, ProtocolViolation, desynchronized
from proxy.wire.frames import AUTHENTICATION_BYTES, HEADER, HEADER_BYTES, LENGTH_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_STARTUP_PACKET_BYTES = 10_000  # Postgres's MAX_STARTUP_PACKET_LENGTH, length field not counted
MAX_CANCEL_SECRET_BYTES = 256  # the protocol's limit on a cancel key, since 3.2

MAJOR = 3
LATEST_MINOR = 2

_LENGTH = Struct(">i")
_CODE = Struct(">I")
_KEY = Struct(">Ii")
_SPECIAL_MAJOR = 1234
_CANCEL = _SPECIAL_MAJOR << 16 | 5678
_SSL = _SPECIAL_MAJOR << 16 | 5679
_GSSENC = _SPECIAL_MAJOR << 16 | 5680
_PASSWORD_MESSAGE = ord("p")
_TLS_HANDSHAKE = b"\x16"  # the record type of a ClientHello
_PROTOCOL_OPTION = "_pq_."
_EARLY_DETAIL = "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """May we speak TLS? Answer b"S" and begin it, or b"N"."""

    CODE: ClassVar[int] = _SSL

    def encode(self) -> bytes:
        """Return the whole packet."""
        return _packet(_CODE.pack(_SSL))


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """May we encrypt by GSSAPI? Answer b"G" and begin it, or b"N"."""

    CODE: ClassVar[int] = _GSSENC

    def encode(self) -> bytes:
        """Return the whole packet."""
        return _packet(_CODE.pack(_GSSENC))


@dataclass(frozen=True, slots=True, repr=False)
class CancelRequest:
    """Cancel what the connection (pid, secret) is doing; never answered. Its repr does not show the secret."""

    pid: int
    secret: bytes
    CODE: ClassVar[int] = _CANCEL

    def __repr__(self) -> str:
        return f"CancelRequest(pid={self.pid})"

    def encode(self) -> bytes:
        """Return the whole packet."""
        return _packet(_KEY.pack(_CANCEL, self.pid) + self.secret)


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Open a session: protocol version, and settings by name (``user``, ``database``, ``options``, ...).

    Names that begin with ``_pq_.`` ask for protocol extensions and stand apart in ``protocol_options``: a server that
    does not know one says so by NegotiateProtocolVersion and goes on. Of a name that comes twice the last value counts.
    Texts are UTF-8, with surrogate escapes for what is not.
    """

    major: int
    minor: int
    parameters: Mapping[str, str]
    protocol_options: Mapping[str, str] = field(default_factory=dict)
    CODE: ClassVar[int] = MAJOR << 16

    def encode(self) -> bytes:
        """Return the whole packet."""
        pairs = [*self.parameters.items(), *self.protocol_options.items()]
        text = "".join(f"{name}\0{value}\0" for name, value in pairs) + "\0"
        return _packet(_CODE.pack(self.major << 16 | self.minor) + text.encode("utf-8", "surrogateescape"))


StartupPacket = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


class StartupReader:
    """Cuts the first bytes of a connection into packets.

    Feed it, then call ``next()`` until it answers None. After a StartupMessage or a CancelRequest it is done; what
    follows belongs to a FrameReader: take it with ``rest()``, once ``proof()`` has given what the client owes.

    After an SSLRequest or GSSENCRequest answer it, then call ``next()`` again before anything else, the TLS handshake
    included: it raises if more bytes came together with the request, as Postgres does, because a client that waits for
    the answer cannot have sent them. Each of the two requests is accepted once; behind TLS make a new reader with
    ``encrypted=True``, which accepts neither.
    """

    __slots__ = ("_buffer", "_early", "_gss_refused", "_max_bytes", "_ssl_refused", "_start")

    def __init__(self, *, encrypted: bool = False, max_packet_bytes: int = MAX_STARTUP_PACKET_BYTES) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._early = ""  # the request behind which bytes came too early
        self._max_bytes = max_packet_bytes
        self._ssl_refused = encrypted
        self._gss_refused = encrypted

    @property
    def buffered_bytes(self) -> int:
        """How many bytes were fed and not yet returned."""
        return len(self._buffer) - self._start

    @property
    def looks_like_tls(self) -> bool:
        """Whether the connection begins as TLS does, without asking: no startup packet is that long."""
        return not self._start and self._buffer[:1] == _TLS_HANDSHAKE

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        self._buffer += data

    def next(self) -> StartupPacket | None:
        """Return the next packet, or None until more was fed."""
        if self._early:
            raise desynchronized(f"received unencrypted data after {self._early} request", detail=_EARLY_DETAIL)
        start = self._start
        available = len(self._buffer) - start
        if available < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, start)
        if not _LENGTH.size + _CODE.size <= length <= _LENGTH.size + self._max_bytes:
            raise desynchronized("invalid length of startup packet")
        if available < length:
            return None
        packet = self._decode(bytes(self._buffer[start + _LENGTH.size : start + length]))
        self._start = start + length
        if available > length:
            if isinstance(packet, SSLRequest):
                self._early = "SSL"
            elif isinstance(packet, GSSENCRequest):
                self._early = "GSSAPI encryption"
        return packet

    def proof(self, what: str) -> bytes | None:
        """Return the body of the PasswordMessage that comes next, or None until more was fed.

        Anything else is refused as soon as its first byte is there, and a length that cannot be with its header: who
        has proved nothing makes nobody hold more than AUTHENTICATION_BYTES. ``what`` is the message's name in errors.
        """
        if self.buffered_bytes and self._buffer[self._start] != _PASSWORD_MESSAGE:
            raise desynchronized(f"expected {what} response, got message type {self._buffer[self._start]}")
        if self.buffered_bytes < HEADER_BYTES:
            return None
        _, length = HEADER.unpack_from(self._buffer, self._start)
        if not LENGTH_BYTES <= length <= AUTHENTICATION_BYTES:
            raise desynchronized("invalid message length")
        start, stop = self._start + HEADER_BYTES, self._start + 1 + length
        if stop > len(self._buffer):
            return None
        self._start = stop
        return bytes(self._buffer[start:stop])

    def rest(self) -> bytes:
        """Take away everything that was fed and not yet returned."""
        left = bytes(self._buffer[self._start :])
        self._buffer = bytearray()
        self._start = 0
        return left

    def _decode(self, body: bytes) -> StartupPacket:
        (code,) = _CODE.unpack_from(body)
        if code == _SSL and not self._ssl_refused:
            self._ssl_refused = True
            return decode_packet(body)
        if code == _GSSENC and not self._gss_refused:
            self._gss_refused = True
            return decode_packet(body)
        if code in (_SSL, _GSSENC):
            raise unsupported_version(code >> 16, code & 0xFFFF)
        return decode_packet(body)


def decode_packet(body: bytes) -> StartupPacket:
    """Read one packet without its length field."""
    if len(body) < _CODE.size:
        raise desynchronized("invalid length of startup packet")
    (code,) = _CODE.unpack_from(body)
    if code == _CANCEL:
        secret = body[_KEY.size :]
        if not 0 < len(secret) <= MAX_CANCEL_SECRET_BYTES:
            raise desynchronized("invalid length of query cancel packet")
        return CancelRequest(_KEY.unpack_from(body)[1], secret)
    if code in (_SSL, _GSSENC):  # what follows the code is not looked at, as in Postgres
        return SSLRequest() if code == _SSL else GSSENCRequest()
    major, minor = code >> 16, code & 0xFFFF
    if major != MAJOR:
        raise unsupported_version(major, minor)
    return _decode_startup(major, minor, body)


def unsupported_version(major: int, minor: int) -> ProtocolViolation:
    """Make the answer to a protocol that is not spoken here."""
    return ProtocolViolation(
        FEATURE_NOT_SUPPORTED,
        f"unsupported frontend protocol {major}.{minor}: server supports {MAJOR}.0 to {MAJOR}.{LATEST_MINOR}",
        fatal=True,
    )


def _decode_startup(major: int, minor: int, body: bytes) -> StartupMessage:
    parameters: dict[str, str] = {}
    options: dict[str, str] = {}
    at = _CODE.size
    end = len(body)
    while at < end and body[at]:
        name_end = body.find(0, at)
        value_end = -1 if name_end < 0 else body.find(0, name_end + 1)
        if value_end < 0:
            at = end
            break
        name = body[at:name_end].decode("utf-8", "surrogateescape")
        value = body[name_end + 1 : value_end].decode("utf-8", "surrogateescape")
        (options if name.startswith(_PROTOCOL_OPTION) else parameters)[name] = value
        at = value_end + 1
    if at != end - 1:
        raise desynchronized("invalid startup packet layout: expected terminator as last byte")
    return StartupMessage(major, minor, parameters, options)


def _packet(body: bytes) -> bytes:
    return _LENGTH.pack(len(body) + _LENGTH.size) + body
