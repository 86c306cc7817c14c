"""The usual pipeline of the extended protocol, read without cutting it into messages.

Drivers send a statement as Parse, Bind, Describe, Execute, Sync, or from Bind on when it is prepared, in one piece.
This file recognises exactly these, with the unnamed portal and no row limit; everything else is None and for
proxy.wire.frontend. What it accepts it has looked at whole: bytes which a decoder would refuse are not accepted.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from proxy.wire.frames import HEADER, HEADER_BYTES
from proxy.wire.frontend import Describe, Execute, Sync

_PARSE: Final = ord("P")
_BIND: Final = ord("B")
#: What stands behind Bind, and whether the portal is described.
_TAILS: Final = {
    Describe(b"P", b"").encode() + Execute(b"", 0).encode() + Sync().encode(): True,
    Execute(b"", 0).encode() + Sync().encode(): False,
}
_LONGEST_TAIL: Final = max(map(len, _TAILS))
_unpack_header: Final = HEADER.unpack_from
_unpack_count: Final = Struct(">H").unpack_from
_unpack_length: Final = Struct(">i").unpack_from


class Pipeline(NamedTuple):
    """Places in the bytes: where Bind begins (0: there is no Parse), its statement's name ends (a NUL), itself ends."""

    bind: int
    name_end: int
    bind_end: int
    described: bool


def read_pipeline(data: bytes) -> Pipeline | None:
    """Recognise ``[Parse] Bind [Describe] Execute Sync``; None for anything else."""
    bind = 0
    size = len(data)
    if data[0] == _PARSE:
        if size < HEADER_BYTES:
            return None
        bind = 1 + _unpack_header(data)[1]
    if size < bind + HEADER_BYTES + 2:
        return None
    kind, length = _unpack_header(data, bind)
    bind_end = bind + 1 + length
    if kind != _BIND or data[bind + HEADER_BYTES] or not 0 < size - bind_end <= _LONGEST_TAIL:
        return None
    described = _TAILS.get(data[bind_end:])
    if described is None:
        return None
    name_end = data.find(0, bind + HEADER_BYTES + 1, bind_end)
    return None if name_end < 0 else Pipeline(bind, name_end, bind_end, described)


class Value(NamedTuple):
    """One parameter of a Bind: its bytes (None: NULL) and their format. Without a parameter: NULL."""

    data: bytes | None
    format: int


def read_parameter(  # noqa: C901, PLR0911 - one walk, no calls, on purpose
    data: bytes, at: int, end: int, count: int, index: int
) -> Value | None:
    """Return parameter ``index`` (-1: none is wanted) of a Bind whose formats begin at ``at`` and that ends at ``end``.

    None when it is not well formed, or has not exactly ``count`` parameters.
    """
    if at + 4 > end:
        return None
    (formats,) = _unpack_count(data, at)
    formats_at = at + 2
    at = formats_at + 2 * formats
    if at + 2 > end or _unpack_count(data, at)[0] != count or formats not in {0, 1, count}:
        return None
    at += 2
    value: bytes | None = None
    for number in range(count):
        if at + 4 > end:
            return None
        (length,) = _unpack_length(data, at)
        at += 4
        if length >= 0:
            if at + length > end:
                return None
            if number == index:
                value = data[at : at + length]
            at += length
        elif length != -1:
            return None
    if at + 2 > end or at + 2 + 2 * _unpack_count(data, at)[0] != end:
        return None
    form = 0
    if formats and index >= 0:
        (form,) = _unpack_count(data, formats_at + (2 * index if formats == count else 0))
    return Value(value, form)
