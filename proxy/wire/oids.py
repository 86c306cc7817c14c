"""OIDs of types inside messages: where they stand, and what stands there instead for the other side.

An OID of a user-defined type means something on one server only. This file finds them in the messages of the protocol
and in binary values, and says what to write over them: always four bytes for four, so that nothing moves. What is whose
OID is read by proxy.shards.types; when messages are looked at is decided by proxy.shards.translating.

Values hold OIDs in three places: an array tells its element's type, a row the type of each field, and ranges may be of
such types. Postgres (since 14) does not insist on them in what it is sent, so parameters need no translation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Final

from proxy.wire.frames import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping


#: From here on OIDs are of what users have made.
FIRST_OWN_OID: Final = 16384
#: Told to a shard for a type that it does not have. No type has this OID, so the shard answers with an error.
NO_TYPE: Final = 0xFFFF_FFFF
#: Told to a client for a type that home does not have.
UNKNOWN: Final = 705
ARRAY, ROW, RANGE, MULTIRANGE = "a", "r", "g", "m"

_ANYARRAY, _RECORD, _RECORDS = 2277, 2249, 2287
_EMPTY, _NO_LOWER, _NO_UPPER = 0x01, 0x08 | 0x20, 0x10 | 0x40
_BUILTIN: Final = {_ANYARRAY: (ARRAY, 0), _RECORD: (ROW, 0), _RECORDS: (ARRAY, _RECORD)}
_FIELD_TAIL: Final = 18  # of a column in RowDescription, behind its name
_MANY_DESCRIPTIONS: Final = 1_000

_uint16 = Struct(">H").unpack_from
_int32 = Struct(">i").unpack_from
_uint32 = Struct(">I").unpack_from
_array_header = Struct(">iiI").unpack_from
_field_header = Struct(">Ii").unpack_from
_field_tail = Struct(">IhIhih").unpack_from

Buffer = bytes | bytearray | memoryview
Form = tuple[str, int]
Column = tuple[int, int]
"""(Type OID as the shard calls it, format)."""
Patches = list[tuple[int, int]]
"""(Where, the OID to write there)."""


@dataclass(frozen=True, slots=True)
class TypeMap:
    """How one shard's types are called at home, and the other way round.

    ``forms`` says, by the shard's OIDs, how binary values are made that may hold OIDs: (ARRAY | ROW | RANGE |
    MULTIRANGE, the OID of what it is made of). A type that is not there has none in its values.
    """

    home: Mapping[int, int]
    shard: Mapping[int, int]
    forms: Mapping[int, Form]
    _columns: dict[tuple[Column, ...], tuple[Form | None, ...] | None] = field(default_factory=dict, compare=False)
    _descriptions: dict[bytes, bool] = field(default_factory=dict, compare=False)

    def at_home(self, oid: int) -> int:
        """Return home's OID of a type of the shard."""
        return oid if oid < FIRST_OWN_OID else self.home.get(oid, UNKNOWN)

    def on_shard(self, oid: int) -> int:
        """Return the shard's OID of a type of home."""
        return oid if oid < FIRST_OWN_OID else self.shard.get(oid, NO_TYPE)

    def form(self, oid: int) -> Form | None:
        """Return how binary values of a type are made, if there may be OIDs in them."""
        return _BUILTIN.get(oid) if oid < FIRST_OWN_OID else self.forms.get(oid)

    def forms_of(self, columns: tuple[Column, ...]) -> tuple[Form | None, ...] | None:
        """Return the form of each column; None when there is nothing to look for in rows of these columns."""
        if columns not in self._columns:
            forms = tuple(self.form(oid) if code else None for oid, code in columns)
            if len(self._columns) >= _MANY_DESCRIPTIONS:
                self._columns.clear()
            self._columns[columns] = forms if any(forms) else None
        return self._columns[columns]

    def is_same(self, description: bytes) -> bool:
        """Whether a RowDescription and the rows behind it say nothing that is to be translated."""
        known = self._descriptions.get(description)
        if known is None:
            patches: Patches = []
            columns = column_oids(self, description, 0, len(description), patches)
            if len(self._descriptions) >= _MANY_DESCRIPTIONS:
                self._descriptions.clear()
            known = self._descriptions[description] = not patches and self.forms_of(columns) is None
        return known


def has_oids(oid: int) -> bool:
    """Whether a type is, or its binary values may hold, what servers call by OIDs of their own."""
    return oid >= FIRST_OWN_OID or oid in _BUILTIN


def patched(data: Buffer, patches: Patches) -> bytes:
    """Return the data with OIDs written over others."""
    out = bytearray(data)
    for at, oid in patches:
        out[at : at + 4] = oid.to_bytes(4, "big")
    return bytes(out)


def parse_oids(types: TypeMap, data: Buffer, start: int, stop: int, patches: Patches) -> int:
    """Look at the Parse message in ``data[start:stop]``; returns a type that the shard lacks, or 0."""
    body = bytes(data[start:stop])
    at = body.index(0, body.index(0, HEADER_BYTES) + 1) + 1
    missing = 0
    for number in range(_uint16(body, at)[0]):
        place = at + 2 + 4 * number
        oid = _uint32(body, place)[0]
        if oid >= FIRST_OWN_OID:
            found = types.on_shard(oid)
            if found != oid:
                patches.append((start + place, found))
            if found == NO_TYPE:
                missing = oid
    return missing


def parameter_oids(types: TypeMap, data: Buffer, start: int, patches: Patches) -> None:
    """Look at a ParameterDescription that begins at ``start``."""
    at = start + HEADER_BYTES
    for place in range(at + 2, at + 2 + 4 * _uint16(data, at)[0], 4):
        _to_home(types, data, place, patches)


def column_oids(types: TypeMap, data: Buffer, start: int, stop: int, patches: Patches) -> tuple[Column, ...]:
    """Look at the RowDescription in ``data[start:stop]``; returns its columns."""
    body = bytes(data[start:stop])
    at = HEADER_BYTES + 2
    columns = []
    for _ in range(_uint16(body, HEADER_BYTES)[0]):
        at = body.index(0, at) + 1
        _, _, oid, _, _, code = _field_tail(body, at)
        _to_home(types, body, at + 6, patches, start)
        columns.append((oid, code))
        at += _FIELD_TAIL
    return tuple(columns)


def row_oids(types: TypeMap, data: Buffer, start: int, forms: tuple[Form | None, ...], patches: Patches) -> None:
    """Look at the values of a DataRow that begins at ``start``."""
    at = start + HEADER_BYTES + 2
    for form in forms:
        at = _sized(types, data, at, form, patches)


def _to_home(types: TypeMap, data: Buffer, place: int, patches: Patches, offset: int = 0) -> None:
    oid = _uint32(data, place)[0]
    if oid >= FIRST_OWN_OID:
        found = types.at_home(oid)
        if found != oid:
            patches.append((offset + place, found))


def _sized(types: TypeMap, data: Buffer, at: int, form: Form | None, patches: Patches) -> int:
    """Look at a value behind its length; returns where it ends."""
    length = _int32(data, at)[0]
    at += 4
    if length < 0:
        return at
    if form is not None:
        _value(types, data, at, form, patches)
    return int(at + length)


def _value(types: TypeMap, data: Buffer, at: int, form: Form, patches: Patches) -> None:
    kind, part = form
    if kind == ARRAY:
        _array(types, data, at, patches)
    elif kind == ROW:
        (count,) = _int32(data, at)
        at += 4
        for _ in range(count):
            oid, _ = _field_header(data, at)
            _to_home(types, data, at, patches)
            at = _sized(types, data, at + 4, types.form(oid), patches)
    elif kind == RANGE:
        _range(types, data, at, types.form(part), patches)
    else:
        (count,) = _int32(data, at)
        at += 4
        for _ in range(count):
            at = _sized(types, data, at, (RANGE, part), patches)


def _array(types: TypeMap, data: Buffer, at: int, patches: Patches) -> None:
    dimensions, _, element = _array_header(data, at)
    _to_home(types, data, at + 8, patches)
    form = types.form(element)
    if form is None or not dimensions:
        return
    count = 1
    for number in range(dimensions):
        count *= _int32(data, at + 12 + 8 * number)[0]
    at += 12 + 8 * dimensions
    for _ in range(count):
        at = _sized(types, data, at, form, patches)


def _range(types: TypeMap, data: Buffer, at: int, form: Form | None, patches: Patches) -> None:
    flags = data[at]
    if form is None or flags & _EMPTY:
        return
    at += 1
    if not flags & _NO_LOWER:
        at = _sized(types, data, at, form, patches)
    if not flags & _NO_UPPER:
        _sized(types, data, at, form, patches)
