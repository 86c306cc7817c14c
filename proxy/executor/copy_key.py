"""Which shard a row of COPY FROM belongs to, by the key field as it stands in the data.

Pure. A field whose value is certain is hashed as :mod:`router.sharding` does. A form that Postgres reads besides the
canonical one (``' 12'``, ``+7``, ``0x1F``, ``1_000``, ``{uuid}``) is read generously: whenever Postgres accepts the
field, its value is the one found here; whether it is accepted is for Postgres to say. What cannot be any value of the
type goes to the first shard, whose server refuses it in its own words (and were it to accept it, the table's slot CHECK
would not).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from router.sharding import INTEGER_TYPES, PADDED, TEXT_TYPES, UnsureKey, decode_key, slot_of, stored_key
from router.sharding_many import integer_slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.plan import KeyValue

_TEXT = 0
_INTEGER = re.compile(
    rb"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F_]+)|0[oO]([0-7_]+)|0[bB]([01_]+)|([0-9_]+))[ \t\n\v\f\r]*\Z"
)
_BASES = (16, 8, 2, 10)
# So few digits that no range can be exceeded: the shortcut for plain integers needs no check of its own.
SAFE_DIGITS = {"int2": 4, "int4": 9, "int8": 18}


class KeyPlacer:
    """Places key fields. ``owners`` maps slots to positions in the list of shards.

    ``modifier`` is the type modifier (varchar's length), -1 for none. ``encoding`` is the Python codec of the data:
    text is hashed in UTF-8.
    """

    __slots__ = ("_encoding", "_modifier", "_owners", "_slots", "key_type")

    def __init__(self, key_type: str, owners: Sequence[int], modifier: int = -1, encoding: str = "utf-8") -> None:
        self._encoding = None if encoding.lower() in ("utf-8", "utf8", "utf_8", "ascii") else encoding
        self.key_type = key_type
        self._owners = owners
        self._slots = len(owners)
        self._modifier = modifier

    def place(self, data: bytes | None, wire_format: int) -> int:
        """Return the position of the shard for a key field, unescaped (None.

        NULL), in text (0) or binary (1) format.
        """
        if data is not None and self._encoding is not None and (self.key_type in TEXT_TYPES or self.key_type == PADDED):
            try:
                data = data.decode(self._encoding).encode()
            except UnicodeError:
                return 0
        try:
            value = decode_key(self.key_type, data, wire_format)
            value = stored_key(self.key_type, value, self._modifier)
        except UnsureKey:
            value = self._generous(data) if data is not None and wire_format == _TEXT else None
            if value is None:
                return 0
        return self._owners[slot_of(self.key_type, value, self._slots)]

    def place_integers(self, texts: Sequence[bytes]) -> list[int]:
        """Return the positions for canonical integers of at most SAFE_DIGITS digits: the fast road."""
        return list(map(self._owners.__getitem__, integer_slots(list(map(int, texts)), self._slots)))

    def _generous(self, data: bytes) -> KeyValue:
        key_type = self.key_type
        if key_type in INTEGER_TYPES:
            value = _generous_integer(data)
            try:
                return stored_key(key_type, value, self._modifier)
            except UnsureKey:
                return None
        if key_type == "uuid":
            digits = data.strip(b"{}").replace(b"-", b"")
            try:
                value_bytes = bytes.fromhex(digits.decode("ascii"))
            except ValueError:
                return None
            return value_bytes if len(digits) == 32 else None  # noqa: PLR2004 - hexadecimal digits of a uuid
        return None


def _generous_integer(data: bytes) -> int | None:
    match = _INTEGER.match(data)
    if match is None:
        return None
    for base, digits in zip(_BASES, match.groups()[1:], strict=True):
        if digits is not None:
            text = digits.replace(b"_", b"")
            if not text or len(text) > 64:  # noqa: PLR2004 - the longest int8 in any base; more is out of range or zeros
                return None
            value = int(text, base)
            return -value if match[1] == b"-" else value
    return None


def integer_key_pattern(key_type: str, column: int, delimiter: bytes) -> re.Pattern[bytes]:
    """Return what finds the key at the start of each line that has it in plain form (multi-line ``findall``)."""
    digits = SAFE_DIGITS[key_type] - 1
    one = re.escape(delimiter)
    before = b"(?:[^%b\n]*%b){%d}" % (one, one, column) if column else b""
    # The rest of the line is read as well: looking for the next line's start byte by byte takes five times as long.
    return re.compile(b"^%b(0|-?[1-9][0-9]{0,%d})(?=[%b\r\n])[^\n]*" % (before, digits, one), re.MULTILINE)
