"""The usual pipeline of the extended protocol, read without cutting it into messages.

Drivers send a statement as Parse, Bind, Describe, Execute, Sync, or from Bind on when it is prepared, in one piece.
This file recognises exactly these, with the unnamed portal and no row limit; everything else is None and for
proxy.wire.frontend. What it accepts it has looked at whole: bytes which a decoder would refuse are not accepted.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.wire.frames import HEADER, HEADER_BYTES, LENGTH_BYTES
from proxy.wire.frontend import Describe, Execute, Sync

if TYPE_CHECKING:
    from collections.abc import Callable

_PARSE: Final = ord("P")
_BIND: Final = ord("B")
#: What stands behind Bind, and whether the portal is described.
_TAILS: Final = {
    Describe(b"P", b"").encode() + Execute(b"", 0).encode() + Sync().encode(): True,
    Execute(b"", 0).encode() + Sync().encode(): False,
}
TAIL_BYTES: Final = min(map(len, _TAILS))
DESCRIBED_TAIL_BYTES: Final = max(map(len, _TAILS))
_SHORT: Final = re.compile(rb"-?[0-9]{1,9}")
_LONGEST_SHORT: Final = 10
_LONGEST_BYTE: Final = 255
_unpack_header: Final = HEADER.unpack_from
_COUNT: Final = Struct(">H")
_LENGTH: Final = Struct(">i")
_unpack_count: Final = _COUNT.unpack_from
_unpack_length: Final = _LENGTH.unpack_from
_pack_count: Final = _COUNT.pack
_pack_length: Final = _LENGTH.pack


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
    if kind != _BIND or data[bind + HEADER_BYTES] or not 0 < size - bind_end <= DESCRIBED_TAIL_BYTES:
        return None
    described = _TAILS.get(data[bind_end:])
    if described is None:
        return None
    name_end = data.find(0, bind + HEADER_BYTES + 1, bind_end)
    return None if name_end < 0 else Pipeline(bind, name_end, bind_end, described)


class Shape:
    """Pipelines like one that was read, told by one expression: only short integers in text format may differ.

    ``match`` answers the text of parameter ``key``, or None if the pipeline is another or must be read. The expression
    says that everything but the integers is the same, byte for byte; the lengths before them are compared.
    """

    __slots__ = (
        "_bind",
        "_described",
        "_key",
        "_name_end",
        "_pattern",
        "_rest",
        "_sizes",
        "_tail",
        "body",
        "exact",
        "parts",
    )

    def __init__(self, data: bytes, cut: Pipeline, places: list[tuple[int, int]], key: int) -> None:
        pieces = [re.escape(data[: cut.bind]), b"B\0\0\0(.)"]
        at = cut.bind + HEADER_BYTES
        for number, (start, end) in enumerate(places):
            pieces.append(re.escape(data[at : start - 1]))
            pieces.append(b"(.)([1-9][0-9]{0,8})" if number == key else b"(.)(-?[0-9]{1,9})")
            at = end
        pieces.append(re.escape(data[at:]))
        self._pattern = re.compile(b"".join(pieces), re.DOTALL).fullmatch
        self._key = 2 * key + 2
        self._sizes = range(3, 2 * len(places) + 1, 2)
        self._rest = cut.bind + 1 + len(data) - cut.bind_end  # what the length of Bind does not count
        self.body = cut.name_end + 1  # where what is Bind's own begins, behind the statement's name
        self._bind, self._name_end, self._described = cut.bind, cut.name_end, cut.described
        self._tail = len(data) - cut.bind_end
        #: An expression that says the same by itself, for a pipeline whose only parameter is the key; its last group.
        self.exact = _exact(data, cut, *places[0]) if len(places) == 1 else None
        #: The same for compiled code (router.digits.BindShape).
        self.parts = _parts(data, cut, *places[0]) if len(places) == 1 else None

    def match(self, data: bytes) -> bytes | None:
        """Return the key's text."""
        found = self._pattern(data)
        if found is None:
            return None
        # The lengths are bytes: one is compared by number, and the Bind's is right if the whole message's is.
        groups = found.groups()
        if groups[0][0] != len(data) - self._rest or groups[1][0] != len(groups[2]):
            return None
        for at in self._sizes:
            if groups[at][0] != len(groups[at + 1]):
                return None
        return groups[self._key]

    def cut(self, data: bytes) -> Pipeline:
        """Return the places in a pipeline that has matched."""
        return Pipeline(self._bind, self._name_end, len(data) - self._tail, self._described)


def _exact(data: bytes, cut: Pipeline, start: int, end: int) -> Callable[[bytes], re.Match[bytes] | None]:
    """Return an expression with an alternative for each length of the key: the lengths before it are then constants."""
    before, behind = re.escape(data[cut.bind + HEADER_BYTES : start - 1]), re.escape(data[end:])
    rest = cut.bind_end - cut.bind - 1 - (end - start)
    alternatives = [
        re.escape(bytes([rest + digits])) + before + re.escape(bytes([digits])) + b"([1-9][0-9]{%d})" % (digits - 1)
        for digits in range(1, _LONGEST_SHORT)
    ]
    head = re.escape(data[: cut.bind]) + b"B\0\0\0"
    return re.compile(b"%b(?:%b)%b" % (head, b"|".join(alternatives), behind), re.DOTALL).fullmatch


def _parts(data: bytes, cut: Pipeline, start: int, end: int) -> tuple[bytes, int, bytes, bytes]:
    rest = cut.bind_end - cut.bind - 1 - (end - start)
    return data[: cut.bind], rest, data[cut.bind + HEADER_BYTES : start - 1], data[end:]


def shape_of(data: bytes, cut: Pipeline, count: int, key: int) -> Shape | None:
    """Return the shape of a pipeline with ``count`` parameters.

    None when not all of them are short integers in text, or Bind may be longer than a byte can say. ``read_parameter``
    must have accepted it.
    """
    at = cut.name_end + 1
    (formats,) = _unpack_count(data, at)
    if any(data[at + 2 : at + 2 + 2 * formats]):
        return None
    at += 2 + 2 * formats + 2
    places = []
    for _ in range(count):
        (length,) = _unpack_length(data, at)
        at += 4
        if length < 0 or _SHORT.fullmatch(data, at, at + length) is None:
            return None
        places.append((at, at + length))
        at += length
    if not places or cut.bind_end - cut.bind + _LONGEST_SHORT * count > _LONGEST_BYTE:
        return None
    return Shape(data, cut, places, key)


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


def add_parameters(data: bytes, cut: Pipeline, count: int, head: bytes, values: list[bytes]) -> bytes:
    """Return the pipeline from Bind on with more parameters, in binary format, behind its ``count`` own.

    ``head`` is the portal's and the statement's name. ``read_parameter`` must have accepted the Bind.
    """
    at = cut.name_end + 1
    (formats,) = _unpack_count(data, at)
    codes = data[at + 2 : at + 2 + 2 * formats]
    if formats != count:
        codes = (codes or b"\0\0") * count  # none: all are text; one: it is that of all
    at = start = at + 2 + 2 * formats + 2
    for _ in range(count):
        (length,) = _unpack_length(data, at)
        at += 4 + max(length, 0)
    total = _pack_count(count + len(values))
    added = b"".join([_pack_length(len(value)) + value for value in values])
    body = b"".join((head, total, codes, b"\0\1" * len(values), total, data[start:at], added, data[at : cut.bind_end]))
    return b"".join((HEADER.pack(_BIND, len(body) + LENGTH_BYTES), body, data[cut.bind_end :]))
