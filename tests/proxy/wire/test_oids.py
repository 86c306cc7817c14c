"""Where type OIDs stand in messages and in binary values, and that nothing but them is changed."""

from __future__ import annotations

from struct import pack

from proxy.wire import backend, frontend
from proxy.wire.backend import Field
from proxy.wire.oids import (
    ARRAY,
    MULTIRANGE,
    NO_TYPE,
    RANGE,
    ROW,
    UNKNOWN,
    TypeMap,
    column_oids,
    parameter_oids,
    parse_oids,
    patched,
    row_oids,
)

MOOD, MOODS, SPOT, SPOTS, SPAN, SPANS = 20001, 20002, 20003, 20004, 20005, 20006
TYPES = TypeMap(
    home={oid: oid + 10_000 for oid in range(MOOD, SPANS + 1)},
    shard={oid + 10_000: oid for oid in range(MOOD, SPANS + 1)},
    forms={
        MOODS: (ARRAY, MOOD),
        SPOT: (ROW, 0),
        SPOTS: (ARRAY, SPOT),
        SPAN: (RANGE, SPOT),
        SPANS: (MULTIRANGE, SPOT),
    },
)


def sized(value: bytes | None) -> bytes:
    return pack(">i", -1) if value is None else pack(">i", len(value)) + value


def array(oid: int, *values: bytes | None) -> bytes:
    return pack(">iiIii", 1, 0, oid, len(values), 1) + b"".join(map(sized, values))


def row(*fields: tuple[int, bytes | None]) -> bytes:
    return pack(">i", len(fields)) + b"".join(pack(">I", oid) + sized(value) for oid, value in fields)


def values(shift: int) -> dict[int, bytes]:
    """Return a value of each type, with OIDs that are higher by ``shift``."""
    mood, moods = MOOD + shift, array(MOOD + shift, b"sad", None, pack(">I", MOOD))
    spot = row((23, pack(">i", MOOD)), (mood, b"ok"), (MOODS + shift, moods), (mood, None))
    spots = array(SPOT + shift, spot, None, spot)
    span = b"\x02" + sized(spot) + sized(spot)
    return {
        23: pack(">i", MOOD),
        MOODS: moods,
        SPOT: spot,
        SPOTS: spots,
        2249: row((2249, spot), (SPOTS + shift, spots)),
        2287: array(2249, spot, spot),
        2277: array(mood, b"ok"),
        SPAN: span,
        SPANS: pack(">i", 3) + sized(span) + sized(b"\x01") + sized(b"\x08" + sized(spot)),
    }


def test_values_of_every_form() -> None:
    here, home = values(0), values(10_000)
    columns = tuple((oid, 1) for oid in here)
    forms = TYPES.forms_of(columns)
    assert forms is not None
    patches: list[tuple[int, int]] = []
    message = backend.data_row(list(here.values()))
    row_oids(TYPES, b"xyz" + message, 3, forms, patches)
    assert patched(b"xyz" + message, patches) == b"xyz" + backend.data_row(list(home.values()))


def test_text_is_not_looked_at() -> None:
    assert TYPES.forms_of(((SPOT, 0), (MOOD, 1), (23, 1))) is None


def test_messages() -> None:
    parse = frontend.Parse(b"name", b"select $1", (23, MOOD + 10_000, 0, 99_999)).encode()
    patches: list[tuple[int, int]] = []
    assert parse_oids(TYPES, parse, 0, len(parse), patches) == 99_999
    assert patched(parse, patches) == frontend.Parse(b"name", b"select $1", (23, MOOD, 0, NO_TYPE)).encode()

    patches = []
    described = backend.parameter_description((23, MOOD, 99_999))
    parameter_oids(TYPES, described, 0, patches)
    assert patched(described, patches) == backend.parameter_description((23, MOOD + 10_000, UNKNOWN))

    def columns(*oids: int) -> bytes:
        return backend.row_description([Field(b"n", MOOD, 1, oid, 4, -1, oid % 2) for oid in oids])

    patches = []
    found = column_oids(TYPES, columns(23, MOOD, SPOT), 0, len(columns(23, MOOD, SPOT)), patches)
    assert found == ((23, 1), (MOOD, 1), (SPOT, 1))
    assert patched(columns(23, MOOD, SPOT), patches) == columns(23, MOOD + 10_000, SPOT + 10_000)
