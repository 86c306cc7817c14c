"""Bytes that nearly are the protocol: the sequences of the transcripts, damaged; and what must hold of them.

Of `proxy.wire`: any bytes give messages, "need more" or a WireFailure, the same however they are cut. Of a session: the
connection ends, or it answers the next query; nobody else notices; the proxy's log has no exception.
"""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from struct import pack
from typing import TYPE_CHECKING, Any

from proxy.wire import backend
from proxy.wire.errors import WireFailure
from proxy.wire.frames import FrameReader, frame, walk
from proxy.wire.frontend import CopyFail, Query, Sync, decode, decode_bind
from proxy.wire.pipeline import read_parameter, read_pipeline
from proxy.wire.scram import ScramServer, Verifier
from proxy.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage, StartupReader
from proxy.wire.state import ProtocolState, State
from sequences import ALL
from transcripts import Wait
from wire_client import PATIENCE_SECONDS, ServerClosedError, WireClient

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

MESSAGE_BYTES = 1 << 16
_NUMBERS = (0, 1, 3, 4, 5, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_MARKER = b"still here"
_VERIFIER = Verifier(4096, b"0123456789abcdef", bytes(32), bytes(32))


def _encoded(part: Any) -> bytes:
    return part if isinstance(part, bytes) else part.encode()


# Short ones only: a message of 65,535 parameters would eat the time of a thousand others.
SEEDS = tuple(
    seed
    for sequence in ALL
    if len(seed := b"".join(_encoded(part) for part in sequence.parts if not isinstance(part, Wait))) < MESSAGE_BYTES
)
STARTUPS = tuple(
    packet.encode()
    for packet in (
        SSLRequest(),
        GSSENCRequest(),
        CancelRequest(7, b"1234"),
        StartupMessage(3, 0, {"user": "a", "database": "b", "options": "-c x=y"}),
        StartupMessage(3, 2, {"user": "a"}, {"_pq_.x": "1"}),
    )
)
REPLIES = (
    backend.row_description([backend.Field(b"a", 1, 2, 23, 4, -1, 0)] * 3),
    backend.data_row([b"x", None, b""]),
    backend.parameter_status("TimeZone", "UTC"),
    backend.parameter_description([23, 25]),
    backend.notification_response(1, b"a", b"b"),
    backend.command_complete(b"SELECT 1"),
    backend.copy_in_response(0, [0, 1]),
    backend.error_response(backend.ErrorFields.make("ERROR", "XX000", "m", detail="d", position=7)),
)
SASL = (
    b"SCRAM-SHA-256\0" + pack(">i", 21) + b"n,,n=,r=rOprNGfwEbeRW",
    b"n,,n=,r=rOprNGfwEbeRW",
    b"c=biws,r=rOprNGfwEbeRWnonce,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
)


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few things wrong: bits, numbers, pieces gone, doubled, strange."""
    made = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(made) + 1)
        what = chance.randrange(6)
        if what == 0 and made:
            made[at % len(made)] ^= 1 << chance.randrange(8)
        elif what == 1:
            made[at : at + 4] = pack(">I", chance.choice(_NUMBERS))
        elif what == 2:
            del made[at : at + chance.randrange(1, 9)]
        elif what == 3:
            made[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif what == 4:
            start = chance.randrange(len(made) + 1)
            made[at:at] = made[start : start + chance.randrange(1, 40)]
        else:
            made[at : at + 2] = pack(">H", chance.choice(_NUMBERS) & 0xFFFF)
    return bytes(made)


# ---- proxy.wire ----


def _messages(data: bytes, cuts: Sequence[int]) -> tuple[list[tuple[int, bytes]], str]:
    """Feed the reader in pieces; return what it gave and what it said in the end."""
    reader = FrameReader(MESSAGE_BYTES)
    found = []
    try:
        for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            reader.feed(data[start:end])
            while (message := reader.next()) is not None:
                found.append(message)
    except WireFailure as failure:
        return found, failure.message
    return found, f"{reader.buffered_bytes} bytes left"


def try_wire(chance: random.Random) -> None:
    """Throw one input at every reader; raises what none of them may raise."""
    data = damaged(chance, chance.choice(SEEDS))
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6)))
    whole = _messages(data, ())
    pieces = _messages(data, cuts)
    assert whole == pieces, (data, cuts)
    state = ProtocolState(State.READY)
    for kind, body in whole[0]:
        with suppress(WireFailure, LookupError):
            state.client(kind)
        with suppress(WireFailure):
            decode(kind, body).encode()
    with suppress(WireFailure):
        walk(data, 0, len(data), MESSAGE_BYTES)
    _try_pipeline(chance, data)
    _try_others(chance)


def _try_pipeline(chance: random.Random, data: bytes) -> None:
    """What the fast lane reads of a pipeline is what its Bind says."""
    cut = read_pipeline(data) if data else None
    if cut is None:
        return
    count = chance.randrange(4)
    index = chance.randrange(count) if count else -1
    value = read_parameter(data, cut.name_end + 1, cut.bind_end, count, index)
    if value is not None and index >= 0:
        assert decode_bind(data[cut.bind + 5 : cut.bind_end]).parameters[index] == value.data, data


def _try_others(chance: random.Random) -> None:
    reader = StartupReader()
    reader.feed(damaged(chance, chance.choice(STARTUPS)))
    with suppress(WireFailure):
        while reader.next() is not None:
            pass
    reply = damaged(chance, chance.choice(REPLIES))[5:]
    for read in (
        backend.decode_error,
        backend.decode_row_description,
        backend.decode_data_row,
        backend.decode_parameter_status,
        backend.decode_parameter_description,
        backend.decode_notification,
        backend.decode_command_tag,
        backend.decode_copy_response,
    ):
        with suppress(WireFailure):
            read(reply)
    exchange = ScramServer("app", _VERIFIER, nonce="nonce", secret=b"s", binding=chance.choice((b"", b"hash")))
    with suppress(WireFailure):
        for body in SASL[chance.choice((0, 0, 1)) :]:
            exchange.respond(damaged(chance, body))


# ---- a session ----


def framed(chance: random.Random, data: bytes) -> bytes:
    """Damage the bodies and leave the boundaries: the session has to answer what comes behind."""
    index, _ = walk(data, 0, len(data))
    parts = []
    for kind, start, end in index:
        body = data[start + 5 : end]
        parts.append(frame(bytes((kind,)), damaged(chance, body) if not chance.randrange(3) else body))
    return b"".join(parts)


def try_session(chance: random.Random, dsn: str) -> None:
    """Throw one input at a session; raises if it neither ends nor goes on."""
    keep_boundaries = bool(chance.randrange(2))
    seed = chance.choice(SEEDS)
    data = framed(chance, seed) if keep_boundaries else damaged(chance, seed)
    with closing(WireClient(dsn)) as client:
        try:
            # CopyFail ends a COPY that was begun; elsewhere it means nothing, as does a Sync too many.
            client.send(data, CopyFail(b"enough"), Sync(), Query(b"rollback"), Query(b"select '" + _MARKER + b"'"))
            if not keep_boundaries:
                client.socket.shutdown(socket.SHUT_WR)
                client.read_to_end()
                return
            while ("row", [_MARKER]) not in client.read():
                pass
        except ServerClosedError as closed:
            said = [entry for entry in closed.trace if entry[0] == "error" and entry[1]["S"] == "FATAL"]
            if not said and b"X\0\0\0\4" not in data:
                raise AssertionError((data, closed.trace)) from closed
        except (ConnectionResetError, BrokenPipeError):
            pass  # it has closed with bytes of ours unread
        except TimeoutError as late:
            raise AssertionError(f"no answer for {PATIENCE_SECONDS:g} s after {data!r}") from late
