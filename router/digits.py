"""Messages that differ in one integer only: reading it without an expression, for the compiled build.

An expression (router.shortcut, proxy.wire.pipeline) costs compiled code ten times what a look at the bytes does:
it makes a match, a group and a number of it. Interpreted, these loops would cost more than any expression; so whoever
has the choice asks ``NATIVE``. What is accepted here, the expressions accept as well, with the same key.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_extensions import i64

_MOST_DIGITS: Final = 9
_HEADER_BYTES: Final = 5
_ZERO: Final = 48
_QUERY: Final = 81
#: What stands in a Bind between its kind and what is the same in all: the length, of which the last byte varies.
_LENGTH: Final = b"B\0\0\0"


class KeyShape:
    """Messages that are the same but for their key."""

    __slots__ = ()

    def key(self, data: bytes) -> i64:
        """Return the key; -1: the message is another."""
        raise NotImplementedError


class QueryShape(KeyShape):
    """A Query with one integer of up to nine digits between two parts of its text, ``behind`` with its NUL.

    No longer than two bytes can say.
    """

    __slots__ = ("_before", "_begin", "_behind")

    def __init__(self, before: bytes, behind: bytes) -> None:
        self._before: bytes = before
        self._behind: bytes = behind
        self._begin: i64 = _HEADER_BYTES + len(before)

    def key(self, data: bytes) -> i64:
        """Return the key; -1: the message is another."""
        size: i64 = len(data)
        begin: i64 = self._begin
        if size <= begin + len(self._behind) or data[0] != _QUERY:
            return -1
        high: i64 = data[3]
        low: i64 = data[4]
        if data[1] != 0 or data[2] != 0 or (high << 8) + low + 1 != size:
            return -1
        if data[_HEADER_BYTES:begin] != self._before:
            return -1
        key: i64 = 0
        at: i64 = begin
        while at < size:
            digit: i64 = data[at] - _ZERO
            if digit < 0 or digit > 9:  # noqa: PLR2004 - the digits
                break
            if at == begin + _MOST_DIGITS:
                return -1
            key = key * 10 + digit
            at += 1
        if at == begin or data[at:] != self._behind:
            return -1
        return key


class BindShape(KeyShape):
    """A pipeline whose Bind has one parameter, an integer in text: what stands around its two lengths and itself.

    ``rest``: the length of the Bind message without the integer.
    """

    __slots__ = ("_before", "_behind", "_first", "_middle", "_rest")

    def __init__(self, before: bytes, rest: int, middle: bytes, behind: bytes) -> None:
        self._before: bytes = before + _LENGTH
        self._rest: i64 = rest
        self._middle: bytes = middle
        self._behind: bytes = behind
        self._first: i64 = len(self._before)

    def key(self, data: bytes) -> i64:
        """Return the integer, from 1 to 999999999 without a zero in front; -1: the pipeline is another."""
        size: i64 = len(data)
        first: i64 = self._first
        second: i64 = first + 1 + len(self._middle)
        at: i64 = second + 1
        if size <= at + len(self._behind):
            return -1
        digits: i64 = data[second]
        end: i64 = at + digits
        if digits < 1 or digits > _MOST_DIGITS or data[first] != self._rest + digits or end >= size:
            return -1
        if data[at] == _ZERO:
            return -1
        key: i64 = 0
        while at < end:
            digit: i64 = data[at] - _ZERO
            if digit < 0 or digit > 9:  # noqa: PLR2004 - the digits
                return -1
            key = key * 10 + digit
            at += 1
        if data[end:] != self._behind or data[:first] != self._before or data[first + 1 : second] != self._middle:
            return -1
        return key


#: Whether this is compiled.
NATIVE: Final = not hasattr(QueryShape.key, "__code__")
