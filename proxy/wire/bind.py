"""Looks into a Bind body without building the message: names, formats, chosen parameters; and other names put on it.

The hot path of the extended protocol is a Bind that goes to one shard unchanged but for its names. It needs the values
of the sharding key's parameters and nothing else, so these functions walk the lengths and copy only what was asked for.
They check what they pass over (a length that lies is found) but not what lies behind: the shard that gets the body
checks the rest. Whoever decodes rows of parameters uses frontend.decode_bind.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812 - it is an exception
from typing import TYPE_CHECKING

from proxy.wire.body import INSUFFICIENT_DATA, INT16, INT32, INVALID_STRING, NULL_LENGTH, UINT16
from proxy.wire.errors import malformed
from proxy.wire.frames import HEADER, LENGTH_BYTES
from proxy.wire.frontend import check_format_count, unpack_formats

if TYPE_CHECKING:
    from collections.abc import Sequence

_BIND = ord("B")
_PARSE = ord("P")


def bind_names(body: bytes) -> tuple[bytes, bytes]:
    """Return (portal, statement) of a Bind body."""
    first = body.find(0)
    second = body.find(0, first + 1)
    if first < 0 or second < 0:
        raise malformed(INVALID_STRING)
    return body[:first], body[first + 1 : second]


def bind_parameter_count(body: bytes) -> int:
    """Return how many parameter values the Bind body says it has."""
    formats_at = _after_names(body)
    formats, at = unpack_formats(body, formats_at)
    count = _count(body, at)
    check_format_count(len(formats), count)
    return count


def bind_parameter(body: bytes, number: int) -> tuple[int, bytes | None]:
    """Return (format, value) of parameter ``$number``, counted from 1; the value is None for NULL.

    Raises IndexError when the body has fewer parameters: that the number fits the statement is the caller's to know.
    """
    at = body.find(0, body.find(0) + 1) + 1
    if not at:
        raise malformed(INVALID_STRING)
    try:  # struct sees to the end of the body: one guard for all lengths, and none of them costs a comparison
        (formats,) = UINT16.unpack_from(body, at)
        formats_at = at + 2
        at = formats_at + 2 * formats
        (count,) = UINT16.unpack_from(body, at)
        at += 2
        if formats > 1:
            check_format_count(formats, count)
            formats_at += 2 * (number - 1)
        if not 1 <= number <= count:
            raise IndexError(f"parameter ${number} asked of a Bind with {count}")
        unpack = INT32.unpack_from
        for _ in range(number - 1):
            (length,) = unpack(body, at)
            if length > 0:
                at += length
            elif length < NULL_LENGTH:
                raise malformed(INSUFFICIENT_DATA)
            at += 4
        (length,) = unpack(body, at)
        value_format: int = INT16.unpack_from(body, formats_at)[0] if formats else 0
    except StructError:
        raise malformed(INSUFFICIENT_DATA) from None
    if length == NULL_LENGTH:
        return value_format, None
    at += 4
    stop = at + length
    if length < 0 or stop > len(body):
        raise malformed(INSUFFICIENT_DATA)
    return value_format, body[at:stop]


def bind_parameters(body: bytes, numbers: Sequence[int]) -> list[tuple[int, bytes | None]]:
    """Return (format, value) for each of the parameters ``numbers`` (from 1, in any order), in one walk.

    Raises IndexError when the body has fewer parameters.
    """
    formats, at = unpack_formats(body, _after_names(body))
    count = _count(body, at)
    check_format_count(len(formats), count)
    if numbers and not 1 <= min(numbers) <= max(numbers) <= count:
        raise IndexError(f"parameters {numbers} asked of a Bind with {count}")
    spans, _ = _spans(body, at + 2, max(numbers, default=0))
    found: list[tuple[int, bytes | None]] = []
    for number in numbers:
        span = spans[number - 1]
        value_format = formats[number - 1] if len(formats) > 1 else (formats[0] if formats else 0)
        found.append((value_format, None if span is None else body[span[0] : span[1]]))
    return found


def bind_result_formats(body: bytes) -> tuple[int, ...]:
    """Return the result formats, walking over every parameter."""
    formats, at = unpack_formats(body, _after_names(body))
    count = _count(body, at)
    check_format_count(len(formats), count)
    _, at = _spans(body, at + 2, count)
    return unpack_formats(body, at)[0]


def rename_bind(body: bytes, portal: bytes, statement: bytes) -> bytes:
    """Return the whole Bind message (header included) of ``body`` under other names; the rest is copied unread."""
    rest = body[_after_names(body) :]
    return b"%b%b\0%b\0%b" % (
        HEADER.pack(_BIND, LENGTH_BYTES + len(portal) + len(statement) + 2 + len(rest)),
        portal,
        statement,
        rest,
    )


def rename_parse(body: bytes, statement: bytes) -> bytes:
    """Return the whole Parse message (header included) of ``body`` under another name; the rest is copied unread."""
    stop = body.find(0)
    if stop < 0:
        raise malformed(INVALID_STRING)
    rest = body[stop:]
    return b"%b%b%b" % (HEADER.pack(_PARSE, LENGTH_BYTES + len(statement) + len(rest)), statement, rest)


def _after_names(body: bytes) -> int:
    first = body.find(0)
    second = body.find(0, first + 1)
    if first < 0 or second < 0:
        raise malformed(INVALID_STRING)
    return second + 1


def _count(body: bytes, at: int) -> int:
    if at + 2 > len(body):
        raise malformed(INSUFFICIENT_DATA)
    count: int = UINT16.unpack_from(body, at)[0]
    return count


def _spans(body: bytes, at: int, count: int) -> tuple[list[tuple[int, int] | None], int]:
    """Find where the first ``count`` values begin and end (None for NULL), and the offset behind them."""
    spans: list[tuple[int, int] | None] = []
    unpack = INT32.unpack_from
    end = len(body)
    for _ in range(count):
        start = at + 4
        if start > end:
            raise malformed(INSUFFICIENT_DATA)
        (length,) = unpack(body, at)
        if length == NULL_LENGTH:
            at = start
            spans.append(None)
            continue
        at = start + length
        if length < 0 or at > end:
            raise malformed(INSUFFICIENT_DATA)
        spans.append((start, at))
    return spans, at
