"""The elements of an array of keys, as it came in Bind.

Decides which arrays are read here: those of the key types, in text or binary format. NULL elements match no key and are
left out; nesting does not matter to ANY, and binary arrays of any dimensions are read. What is unusual is left to
Postgres (UnsureKey): bounds, nesting in text, more than ``MAX_ELEMENTS``. Leaves to :mod:`router.sharding` what an
element means.

https://www.postgresql.org/docs/18/arrays.html#ARRAYS-IO
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from router.sharding import ARRAY_TYPE_OIDS, KEY_TYPE_OIDS, UNKNOWN_OID, UnsureKey

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ELEMENTS: Final = 10_000
"""Longer arrays go to every shard: reading them would keep the loop for longer than the other shards are worth."""

_UNTYPED: Final = frozenset({0, UNKNOWN_OID})
_HEADER: Final = struct.Struct(">iiI")  # dimensions, flags, type of the elements
_DIMENSION: Final = struct.Struct(">ii")  # length, lower bound
_LENGTH: Final = struct.Struct(">i")
_MAX_DIMENSIONS: Final = 6
# Blanks around an element do not count, unless it is quoted; \x0b and \x0c are blanks for Postgres as well.
_ELEMENT: Final = re.compile(
    rb'[ \t\n\r\v\f]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",\\{}\s]+))[ \t\n\r\v\f]*(?P<end>[,}])', re.DOTALL
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


def array_elements(data: bytes, format: int, oid: int, key_type: str) -> Iterator[tuple[str, bytes]]:  # noqa: A002
    """Yield each element with the type that it was sent as. ``oid`` is the array's type, 0 for ``key_type``'s.

    Raises UnsureKey when Postgres must decide.
    """
    if format == 0:
        sent = key_type if oid in _UNTYPED else ARRAY_TYPE_OIDS.get(oid, "")
        return ((sent, element) for element in _of_text(data, key_type))
    return _of_binary(data, key_type)


def _of_text(data: bytes, key_type: str) -> Iterator[bytes]:
    if data == b"{}":
        return
    if not data.startswith(b"{"):
        raise UnsureKey(key_type, "not a plain array")
    at, count = 1, 0
    while at < len(data):
        found = _ELEMENT.match(data, at)
        count += 1
        if found is None or count > MAX_ELEMENTS:
            raise UnsureKey(key_type, "not a plain array" if found is None else "a long array")
        quoted, plain = found["quoted"], found["plain"]
        if quoted is not None:
            yield _ESCAPED.sub(rb"\1", quoted)
        elif plain.lower() != b"null":
            yield plain
        at = found.end()
        if found["end"] == b"}":
            break
    if at != len(data) or not data.endswith(b"}"):
        raise UnsureKey(key_type, "not a plain array")


def _of_binary(data: bytes, key_type: str) -> Iterator[tuple[str, bytes]]:
    try:
        dimensions, _, element_oid = _HEADER.unpack_from(data)
        at, count = _HEADER.size, 1 if dimensions else 0
        if not 0 <= dimensions <= _MAX_DIMENSIONS:
            raise UnsureKey(key_type, "not an array")
        for _ in range(dimensions):
            count *= _DIMENSION.unpack_from(data, at)[0]
            at += _DIMENSION.size
        if not 0 <= count <= MAX_ELEMENTS:
            raise UnsureKey(key_type, "a long array")
        sent = KEY_TYPE_OIDS.get(element_oid, "")
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            if length >= 0:
                yield sent, data[at : at + length]
                at += length
    except struct.error as error:
        raise UnsureKey(key_type, "a cut array") from error
