"""Which slot a key belongs to: Postgres's own hash partitioning, so that Postgres can check every row.

Decides the slot of a key value, which forms of a value Python may read itself, and the SQL that computes the same slot.
Leaves to others: which shard owns a slot (:mod:`router.cluster`), and which value a statement means (the planner).

The hash is Bob Jenkins's lookup3 as in Postgres's ``src/common/hashfn.c``, with the seed that hash partitioning uses
(``HASH_PARTITION_SEED``, ``src/include/catalog/partition.h``); a single column's hash is then combined with zero, which
adds a constant (``hash_combine64``). Slots are a power of two, so only the low bits matter and the 64-bit modulus of
``satisfies_hash_partition`` becomes a mask. NULL is slot 0. The low 32 bits of the extended hash are lookup3's ``c``.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_extensions import i64

    from router.plan import KeyValue

HASH_PARTITION_SEED: Final = 8816678312871386365
COMBINE_WITH_ZERO: Final = 5305509591434766563  # 0x49a0f4dd15e5a8e3, what hash_combine64(0, h) adds to h
MAX_SLOTS: Final = 1 << 16

INTEGER_TYPES: Final = frozenset({"int2", "int4", "int8"})
TEXT_TYPES: Final = frozenset({"text", "varchar"})
PADDED: Final = "bpchar"  # char(n): blanks at the end count neither for its equality nor for its hash
KEY_TYPES: Final = INTEGER_TYPES | TEXT_TYPES | {"uuid", PADDED}

KEY_TYPE_OIDS: Final = {21: "int2", 23: "int4", 20: "int8", 25: "text", 1042: PADDED, 1043: "varchar", 2950: "uuid"}
"""Type OIDs of the key types. Everything else (oid 26, float8, numeric, domains) is no key type."""

ARRAY_TYPE_OIDS: Final = {
    1005: "int2",
    1007: "int4",
    1016: "int8",
    1009: "text",
    1014: PADDED,
    1015: "varchar",
    2951: "uuid",
}
"""Type OIDs of arrays of the key types, and the types of their elements."""

UNKNOWN_OID: Final = 705

_HASH_FUNCTION: Final = {
    "int2": "hashint2extended",
    "int4": "hashint4extended",
    "int8": "hashint8extended",
    "text": "hashtextextended",
    "varchar": "hashtextextended",
    "bpchar": "hashbpcharextended",
    "uuid": "uuid_hash_extended",
}
_RANGE: Final = {"int2": 1 << 15, "int4": 1 << 31, "int8": 1 << 63}
_BINARY_INTEGER: Final = {"int2": struct.Struct(">h"), "int4": struct.Struct(">i"), "int8": struct.Struct(">q")}
_CANONICAL_INTEGER: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,18})\Z")
_CANONICAL_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z")
_UUID_BYTES: Final = 16
_BINARY: Final = 1
MASK: Final = 0xFFFFFFFF
_WORDS_PER_ROUND: Final = 3
_ROUND_BYTES: Final = 12


class UnsureKey(Exception):  # noqa: N818 - named for what the reader is
    """Only Postgres can say which key value this is (or that it is none): ask a shard, or refuse.

    ``key_type`` is the type the value should have. The value itself is not kept: keys are user data and must not reach
    logs.
    """

    def __init__(self, key_type: str, reason: str) -> None:
        super().__init__(f"{key_type}: {reason}")
        self.key_type = key_type
        self.reason = reason


# --- lookup3 -----------------------------------------------------------------------------------------------------


def _rotate(x: int, k: int) -> int:
    return ((x << k) | (x >> (32 - k))) & MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """One round of lookup3 on three 32-bit words."""
    a = ((a - c) & MASK) ^ (((c << 4) | (c >> 28)) & MASK)
    c = (c + b) & MASK
    b = ((b - a) & MASK) ^ (((a << 6) | (a >> 26)) & MASK)
    a = (a + c) & MASK
    c = ((c - b) & MASK) ^ (((b << 8) | (b >> 24)) & MASK)
    b = (b + a) & MASK
    a = ((a - c) & MASK) ^ (((c << 16) | (c >> 16)) & MASK)
    c = (c + b) & MASK
    b = ((b - a) & MASK) ^ (((a << 19) | (a >> 13)) & MASK)
    a = (a + c) & MASK
    c = ((c - b) & MASK) ^ (((b << 4) | (b >> 28)) & MASK)
    b = (b + a) & MASK
    return a, b, c


def _final_low(a: int, b: int, c: int) -> int:
    """Finish lookup3 and return ``c``, the low half of the extended hash; bits above 32 are left uncleared."""
    c = ((c ^ b) - _rotate(b, 14)) & MASK
    a = ((a ^ c) - (((c << 11) | (c >> 21)) & MASK)) & MASK
    b = ((b ^ a) - (((a << 25) | (a >> 7)) & MASK)) & MASK
    c = ((c ^ b) - (((b << 16) | (b >> 16)) & MASK)) & MASK
    a = ((a ^ c) - (((c << 4) | (c >> 28)) & MASK)) & MASK
    b = ((b ^ a) - (((a << 14) | (a >> 18)) & MASK)) & MASK
    return (c ^ b) - ((b << 24) & MASK | (b >> 8))


def _seeded(length: int) -> tuple[int, int, int]:
    """Return the state of ``hash_bytes_extended`` for ``length`` bytes after the partition seed was mixed in."""
    start = (0x9E3779B9 + length + 3923095) & MASK
    return _mix((start + (HASH_PARTITION_SEED >> 32)) & MASK, (start + HASH_PARTITION_SEED) & MASK, start)


# ``_seeded(4)``, and what the first step of the finish makes of it: that step does not see the key of an integer, which
# only enters ``a``. Written out for the compiler's sake; tests/router/test_sharding.py computes them again.
INT_A: Final = 0xE933553E
INT_B: Final = 0xC5DA07A8
INT_C1: Final = 0xB63D60CF  # ((c ^ b) - rotate(b, 14)) mod 2^32
INT_R1: Final = 0xEB067DB1  # rotate(INT_C1, 11)
COMBINED_LOW: Final = COMBINE_WITH_ZERO & (MAX_SLOTS - 1)
_SEEDED: Final = tuple(_seeded(length) for length in range(65))
_UNPACK_WORDS: Final = tuple(struct.Struct(f"<{3 * rounds}I").unpack for rounds in range(1, 7))


def integer_slot(value: int, slots: int) -> int:
    """Return the slot of an int2, int4 or int8 (their hashes agree).

    What is above 32 bits is cut off where it would be seen: rotations may leave it, and the last step needs 24 bits. 64
    steps of the interpreter instead of 107; in native integers when compiled, a tenth of a microsecond instead of one.
    """
    if not 0 <= value <= 0x7FFFFFFF:  # noqa: PLR2004 - hashint8extended folds the upper half in
        value = folded(value)
    low: i64 = value
    a: i64 = (((INT_A + low) ^ INT_C1) - INT_R1) & MASK
    b: i64 = ((INT_B ^ a) - ((a << 25) | (a >> 7))) & MASK
    c: i64 = ((INT_C1 ^ b) - ((b << 16) | (b >> 16))) & MASK
    a = ((a ^ c) - ((c << 4) | (c >> 28))) & MASK
    b = (b ^ a) - ((a << 14) | (a >> 18))
    last: i64 = slots - 1
    return ((c ^ b) - (b >> 8) + COMBINED_LOW) & last


def folded(value: int) -> int:
    """Return the 32 bits that are hashed of an integer that is not among them as it is."""
    low = value & MASK
    if not -0x80000000 <= value <= 0x7FFFFFFF:  # noqa: PLR2004 - as in hashint8extended
        high = (value >> 32) & MASK
        low ^= high if value >= 0 else high ^ MASK
    return low


def bytes_slot(data: bytes, slots: int) -> int:
    """Return the slot of a value that Postgres hashes by its bytes: text in UTF-8, uuid."""
    length = len(data)
    a, b, c = _SEEDED[length] if length <= 64 else _seeded(length)  # noqa: PLR2004 - the table's size
    rounds, tail = divmod(length, _ROUND_BYTES)
    if rounds:
        if rounds <= len(_UNPACK_WORDS):
            words = _UNPACK_WORDS[rounds - 1](data[: rounds * _ROUND_BYTES])
        else:
            words = struct.unpack_from(f"<{rounds * _WORDS_PER_ROUND}I", data)
        for at in range(0, rounds * _WORDS_PER_ROUND, _WORDS_PER_ROUND):
            a, b, c = _mix((a + words[at]) & MASK, (b + words[at + 1]) & MASK, (c + words[at + 2]) & MASK)
    if tail:
        rest = int.from_bytes(data[-tail:], "little")
        a = (a + (rest & MASK)) & MASK
        b = (b + (rest >> 32 & MASK)) & MASK
        c = (c + (rest >> 64 << 8)) & MASK  # the lowest byte of c belongs to the length
    return (_final_low(a, b, c) + COMBINE_WITH_ZERO) & (slots - 1)


def slot_of(key_type: str, value: KeyValue, slots: int) -> int:
    """Return the slot (0 to ``slots`` - 1) of a key value; ``slots`` is a power of two. NULL is slot 0.

    Integers are ``int``, text, varchar and char(n) ``str`` (or the bytes of their UTF-8), uuid 16 ``bytes``.
    Raises UnsureKey for a value that the type cannot have.
    """
    if value is None:
        return 0
    if key_type == PADDED and not isinstance(value, int):
        key_type, value = "text", value.rstrip(" ") if isinstance(value, str) else value.rstrip(b" ")
    if type(value) is int:
        if key_type in INTEGER_TYPES:
            return integer_slot(value, slots)
    elif type(value) is str:
        if key_type in TEXT_TYPES:
            try:
                return bytes_slot(value.encode(), slots)
            except UnicodeEncodeError as error:
                raise UnsureKey(key_type, "not valid Unicode") from error
    elif type(value) is bytes and (key_type in TEXT_TYPES or (key_type == "uuid" and len(value) == _UUID_BYTES)):
        return bytes_slot(value, slots)
    raise UnsureKey(key_type, f"a {type(value).__name__} is no value of this key type")


def hash_family(key_type: str) -> str:
    """Return what two key types must share to hash equal values alike: int, text...; '' for no key type."""
    if key_type in INTEGER_TYPES:
        return "int"
    return "text" if key_type in TEXT_TYPES else key_type if key_type in KEY_TYPES else ""


# --- reading values ----------------------------------------------------------------------------------------------


def parse_key_text(key_type: str, text: str) -> KeyValue:
    """Read a value's text form, if it is canonical: Postgres accepts more (``' 12 '``, ``0x10``, ``{uuid}``).

    Raises UnsureKey for all other forms; Postgres then decides what they mean, or that they are errors.
    """
    if key_type in TEXT_TYPES or key_type == PADDED:
        if "\x00" in text:
            raise UnsureKey(key_type, "a NUL character")
        return text
    if key_type in INTEGER_TYPES:
        if _CANONICAL_INTEGER.match(text) is None:
            raise UnsureKey(key_type, "not in canonical form")
        value = int(text)
        if not -_RANGE[key_type] <= value < _RANGE[key_type]:
            raise UnsureKey(key_type, "out of range")
        return value
    if key_type == "uuid":
        if _CANONICAL_UUID.match(text) is None:
            raise UnsureKey(key_type, "not in canonical form")
        return bytes.fromhex(text.replace("-", ""))
    raise UnsureKey(key_type, "no key type")


def decode_key(key_type: str, data: bytes | None, format: int) -> KeyValue:  # noqa: A002 - the protocol's word
    """Read a value from the wire: format 0 is text, 1 binary; ``None`` is NULL.

    ``key_type`` is the type that the value was *sent* as, which may be another integer or text type than the key
    column's. Text is UTF-8. Raises UnsureKey when Postgres must decide.
    """
    if data is None:
        return None
    if format == _BINARY:
        reader = _BINARY_INTEGER.get(key_type)
        if reader is not None:
            if len(data) != reader.size:
                raise UnsureKey(key_type, "wrong length of a binary value")
            value: int = reader.unpack(data)[0]
            return value
        if key_type == "uuid":
            if len(data) != _UUID_BYTES:
                raise UnsureKey(key_type, "wrong length of a binary value")
            return bytes(data)
    elif format != 0:
        raise UnsureKey(key_type, "unknown format")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UnsureKey(key_type, "not valid UTF-8") from error
    return parse_key_text(key_type, text)


def stored_key(key_type: str, value: KeyValue, type_modifier: int) -> KeyValue:
    """Return what an INSERT or COPY of ``value`` stores in a key column of this type modifier (-1: none).

    ``varchar(n)`` and ``char(n)`` silently drop blanks beyond n characters on assignment (and error on anything else),
    so the stored key differs from the sent one. A comparison (``k = 'abc  '``) does no such thing: do not use this for
    predicates. Raises UnsureKey where Postgres will raise an error of its own.
    """
    if key_type in {"varchar", PADDED} and type_modifier >= 4 and isinstance(value, str):  # noqa: PLR2004 - VARHDRSZ
        limit = type_modifier - 4
        if len(value) > limit:
            if value[limit:].strip(" "):
                raise UnsureKey(key_type, "value too long")
            return value[:limit]
    if key_type in INTEGER_TYPES and isinstance(value, int) and not -_RANGE[key_type] <= value < _RANGE[key_type]:
        raise UnsureKey(key_type, "out of range")
    return value


def assigned_key(key_type: str, value: KeyValue, type_modifier: int) -> KeyValue:
    """Return what is stored; the value itself where Postgres has an error for it, on whichever shard it goes to."""
    try:
        return stored_key(key_type, value, type_modifier)
    except UnsureKey:
        return value


# --- the same in SQL ---------------------------------------------------------------------------------------------


def slot_expression(key_type: str, column_sql: str, slots: int) -> str:
    """Return SQL (int8) for the slot of ``column_sql``; NULL is slot 0.

    Everything is schema-qualified: a user's operator ``&`` earlier in the search path must not change where rows live.
    Only immutable built-ins: usable in CHECK constraints, indexes and row filters of publications.
    """
    mask, add = f"{slots - 1}::pg_catalog.int8", f"{COMBINE_WITH_ZERO & (slots - 1)}::pg_catalog.int8"
    hashed = f"pg_catalog.{_HASH_FUNCTION[key_type]}({column_sql}, {HASH_PARTITION_SEED}::pg_catalog.int8)"
    moved = f"((({hashed}) OPERATOR(pg_catalog.&) {mask}) OPERATOR(pg_catalog.+) {add})"
    return f"coalesce(({moved} OPERATOR(pg_catalog.&) {mask}), 0)"


def slot_check(key_type: str, column_sql: str, slots: int, first: int, last: int) -> str:
    """Return the SQL condition that a row's slot is one of ``first`` to ``last`` (inclusive).

    One comparison, so that a row is hashed once: slots below ``first`` wrap around and come out above its width.
    ``last`` before ``first``: no row. That has numbers of its own, by which such CHECKs are compared.
    """
    slot = slot_expression(key_type, column_sql, slots)
    if last < first:
        return f"({slot} OPERATOR(pg_catalog.>=) {slots}::pg_catalog.int8)"
    moved = f"({slot} OPERATOR(pg_catalog.-) {first}::pg_catalog.int8)"
    wrapped = f"({moved} OPERATOR(pg_catalog.&) {slots - 1}::pg_catalog.int8)"
    return f"({wrapped} OPERATOR(pg_catalog.<=) {last - first}::pg_catalog.int8)"
