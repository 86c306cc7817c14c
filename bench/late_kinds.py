"""What large statements clients send: each kind's messages, new with each round."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from proxy.wire.frontend import Bind, CopyData, CopyDone, Execute, Parse, Query, Sync

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: Final = ("item", "large", "many")
MANY_ROWS: Final = 1_000_000
LARGE_ROWS: Final = 6
MIB: Final = 1 << 20
SCHEMA: Final = (
    "CREATE TABLE item (k int8, a int4, b int4, name text, price numeric, at timestamptz)",
    "CREATE TABLE large (k int8, filler text, bin bytea)",
    "CREATE TABLE many (k int8, g int4, v int4)",
    f"INSERT INTO large SELECT k, repeat('x', {10 * MIB}) FROM generate_series(1, {LARGE_ROWS}) k",
    f"INSERT INTO many SELECT k, k % 100003, k % 7 FROM generate_series(1, {MANY_ROWS}) k",
    "CREATE INDEX ON many (k)",
    "CREATE INDEX ON item (k)",
    "ANALYZE",
)
COLUMNS: Final = 6
MOST_PARAMETERS: Final = 65_535
BYTES_OF_COPY: Final = 1 << 16
_INT4: Final = Struct(">I").pack


@dataclass(frozen=True, slots=True)
class Kind:
    """Messages by the number of a round, and how many ReadyForQuery answer them.

    ``before`` are simple queries that go before, ``times``: the messages are sent so often, and the last is measured.
    ``refused``: the answer may be an error (54001, too deep).
    """

    messages: Callable[[int], list[bytes]]
    answers: int = 1
    before: tuple[str, ...] = ()
    times: int = 1
    refused: bool = False


def query(text: str) -> list[bytes]:
    """Return a simple query."""
    return [Query(text.encode()).encode()]


def bound(text: str, values: list[bytes], *, binary: bool = False) -> list[bytes]:
    """Return a statement with parameters as drivers send it: Parse, Bind, Execute, Sync."""
    return [
        Parse(b"", text.encode()).encode()
        + Bind(b"", b"", (1,) if binary else (), tuple(values)).encode()
        + Execute().encode()
        + Sync().encode()
    ]


def rows(count: int, number: int, row: str = "({k}, {k}, 7, 'a name', 12.5, '2026-01-01 12:00')") -> str:
    """Return rows of VALUES."""
    return ", ".join([row.format(k=k) for k in range(number, number + count)])


def inserted(count: int) -> Callable[[int], list[bytes]]:
    """INSERT of so many rows of literals."""
    return lambda number: query(f"INSERT INTO item VALUES {rows(count, number)}")


def called(count: int) -> Callable[[int], list[bytes]]:
    """INSERT of so many rows with a function's call in each."""
    row = "({k}, {k}, 7, lower('A Name'), 12.5, now())"
    return lambda number: query(f"INSERT INTO item VALUES {rows(count, number, row)}")


def numbered(count: int, row: str = "(${}, ${}, ${}, ${}, ${}, ${})") -> str:
    """Return INSERT of so many rows of parameters."""
    width = row.count("{}")
    made = ", ".join([row.format(*range(at * width + 1, at * width + width + 1)) for at in range(count)])
    return f"INSERT INTO item VALUES {made}"


CAST_ROW: Final = "(${}::int8, ${}::int4, ${}::int4, ${}::text, ${}::numeric, ${}::timestamptz)"


def values_of(count: int, number: int) -> list[bytes]:
    """Return the parameters of so many rows."""
    found = []
    for k in range(number, number + count):
        found += [b"%d" % k, b"%d" % k, b"7", b"a name", b"12.5", b"2026-01-01 12:00"]
    return found


def parametrised(count: int, row: str = "(${}, ${}, ${}, ${}, ${}, ${})") -> Callable[[int], list[bytes]]:
    """INSERT of so many rows of parameters; the text differs by a comment."""
    return lambda number: bound(f"{numbered(count, row)} -- {number}", values_of(count, number))


def listed(count: int) -> Callable[[int], list[bytes]]:
    """IN of so many keys."""
    return lambda number: query(f"SELECT * FROM item WHERE k IN ({', '.join(map(str, range(number, number + count)))})")


def listed_bound(count: int) -> Callable[[int], list[bytes]]:
    """IN of so many parameters."""
    wanted = ", ".join([f"${at}" for at in range(1, count + 1)])
    return lambda number: bound(
        f"SELECT * FROM item WHERE k IN ({wanted}) -- {number}", [b"%d" % k for k in range(number, number + count)]
    )


def listed_array(count: int) -> Callable[[int], list[bytes]]:
    """= ANY of an array of so many keys."""
    return lambda number: bound(
        f"SELECT * FROM item WHERE k = ANY($1::int8[]) -- {number}",
        [b"{%b}" % b",".join([b"%d" % k for k in range(number, number + count)])],
    )


def cased(count: int, arm: str = "WHEN k = {k} THEN {k}") -> Callable[[int], list[bytes]]:
    """UPDATE by a CASE of so many arms, as mappers write their bulk updates."""

    def messages(number: int) -> list[bytes]:
        keys = range(number, number + count)
        arms = " ".join([arm.format(k=k) for k in keys])
        return query(f"UPDATE item SET a = CASE {arms} ELSE 0 END WHERE k IN ({', '.join(map(str, keys))})")

    return messages


def several(count: int, statement: str, around: tuple[str, str] = ("", "")) -> Callable[[int], list[bytes]]:
    """So many statements in one message."""
    return lambda number: query(
        around[0] + "; ".join([statement.format(k=k) for k in range(number, number + count)]) + around[1]
    )


def pipelined(count: int) -> Callable[[int], list[bytes]]:
    """So many statements bound and executed in one go, and one Sync."""
    parse = Parse(b"s", b"UPDATE item SET a = $2 WHERE k = $1").encode()

    def messages(number: int) -> list[bytes]:
        runs = [
            Bind(b"", b"s", (), (b"%d" % k, b"7")).encode() + Execute().encode() for k in range(number, number + count)
        ]
        return [parse + b"".join(runs) + Sync().encode()]

    return messages


def long_text(mib: int) -> Callable[[int], list[bytes]]:
    """A literal of so many MiB of text."""
    return lambda number: query(f"INSERT INTO large VALUES ({number + 1000}, '{'x' * (mib * MIB)}')")


def long_bytea(mib: int) -> Callable[[int], list[bytes]]:
    """A literal of so many MiB of text that says bytes in hexadecimal."""
    literal = "5c" * (mib * MIB // 2)
    return lambda number: query(f"INSERT INTO large (k, bin) VALUES ({number + 1000}, '\\x{literal}')")


def long_bound(mib: int, *, binary: bool) -> Callable[[int], list[bytes]]:
    """A parameter of so many MiB."""

    def messages(number: int) -> list[bytes]:
        key = (number + 1000).to_bytes(8, "big") if binary else b"%d" % (number + 1000)
        value = b"\x01\xfe" * (mib * MIB // 2) if binary else b"x" * (mib * MIB)
        text = f"INSERT INTO large (k, {'bin' if binary else 'filler'}) VALUES ($1, $2)"
        return bound(text, [key, value], binary=binary)

    return messages


def copied(count: int, size: int) -> Callable[[int], list[bytes]]:
    """COPY of so many rows of so many bytes, in messages of 64 KiB as psql sends them."""

    def messages(number: int) -> list[bytes]:
        filler = b"x" * size
        data = b"".join([b"%d\t%b\n" % (k + 1000, filler) for k in range(number, number + count)])
        pieces = [data[at : at + BYTES_OF_COPY] for at in range(0, len(data), BYTES_OF_COPY)]
        return [
            Query(b"COPY large (k, filler) FROM STDIN").encode(),
            *[CopyData(piece).encode() for piece in pieces],
            CopyDone().encode(),
        ]

    return messages


def asked(text: str) -> Callable[[int], list[bytes]]:
    """One question."""
    return lambda number: query(f"{text} -- {number}")


def summed(count: int) -> Callable[[int], list[bytes]]:
    """A sum of so many columns."""
    return asked(f"SELECT {'+'.join(['k'] * count)} FROM item WHERE k = 1")


def either(count: int) -> Callable[[int], list[bytes]]:
    """OR of so many keys."""
    return asked(f"SELECT * FROM item WHERE {' OR '.join([f'k = {k}' for k in range(count)])}")


def again(count: int) -> Callable[[int], list[bytes]]:
    """INSERT of so many rows of parameters, by a text that is always the same."""
    return lambda number: bound(numbered(count), values_of(count, number))


def _clear(table: str) -> tuple[str, ...]:
    return (f"DELETE FROM {table} WHERE k >= 1000",) if table == "large" else (f"TRUNCATE {table}",)


_ITEM, _LARGE = _clear("item"), _clear("large")
_UPDATE: Final = "UPDATE item SET a = {k} WHERE k = {k}"
_INSERT: Final = "INSERT INTO item (k, name) VALUES ({k}, 'x')"

KINDS: Final[dict[str, Kind]] = {
    "nothing": Kind(asked("SELECT 1")),
    **{f"INSERT of {n:,} rows": Kind(inserted(n), 1, _ITEM) for n in (1_000, 10_000)},
    **{f"INSERT of {n:,} rows with calls": Kind(called(n), 1, _ITEM) for n in (1_000, 10_000)},
    **{f"INSERT of {n:,} rows, bound": Kind(parametrised(n), 1, _ITEM) for n in (1_000, 10_000)},
    **{f"INSERT of {n:,} rows, bound, with casts": Kind(parametrised(n, CAST_ROW), 1, _ITEM) for n in (1_000, 10_000)},
    **{f"INSERT of {n:,} rows, bound, again": Kind(again(n), 1, _ITEM, 3) for n in (1_000, 10_000)},
    **{f"IN of {n:,} keys": Kind(listed(n)) for n in (1_000, 10_000)},
    **{f"IN of {n:,} keys, bound": Kind(listed_bound(n)) for n in (5_000, 20_000, MOST_PARAMETERS)},
    **{f"= ANY of {n:,} keys": Kind(listed_array(n)) for n in (10_000, 100_000)},
    **{f"UPDATE by CASE of {n:,} arms": Kind(cased(n)) for n in (1_000, 10_000)},
    "UPDATE by CASE of 1,000 arms with casts": Kind(cased(1_000, "WHEN k = {k}::int8 THEN '{k}'::int4")),
    "1,000 parentheses": Kind(asked(f"SELECT k FROM item WHERE k = {'(' * 1000}1{')' * 1000}"), refused=True),
    **{f"a sum of {n:,}": Kind(summed(n), refused=True) for n in (500, 5_000)},
    **{f"OR of {n:,}": Kind(either(n), refused=True) for n in (1_000, 10_000)},
    **{f"{n:,} UPDATEs in a message": Kind(several(n, _UPDATE)) for n in (1_000, 10_000)},
    **{f"{n:,} INSERTs in a message": Kind(several(n, _INSERT), 1, _ITEM) for n in (1_000, 10_000)},
    **{
        f"{n:,} UPDATEs of one shard in a message": Kind(several(n, "UPDATE item SET a = {k} WHERE k = 5"))
        for n in (1_000, 10_000)
    },
    "1,000 UPDATEs between BEGIN and COMMIT in a message": Kind(several(1_000, _UPDATE, ("BEGIN; ", "; COMMIT"))),
    **{f"{n:,} UPDATEs bound, one Sync": Kind(pipelined(n)) for n in (1_000, 10_000)},
    **{f"a literal of {n} MiB, text": Kind(long_text(n), 1, _LARGE) for n in (1, 10, 50)},
    **{f"a literal of {n} MiB, bytea": Kind(long_bytea(n), 1, _LARGE) for n in (1, 10, 50)},
    **{f"a parameter of {n} MiB, text": Kind(long_bound(n, binary=False), 1, _LARGE) for n in (1, 10, 50)},
    **{f"a parameter of {n} MiB, binary": Kind(long_bound(n, binary=True), 1, _LARGE) for n in (1, 10, 50)},
    "COPY of 4 rows of 1 MiB": Kind(copied(4, MIB), 1, _LARGE),
    "COPY of 4 rows of 10 MiB": Kind(copied(4, 10 * MIB), 1, _LARGE),
    "COPY of 100,000 rows": Kind(copied(100_000, 40), 1, _LARGE),
    "6 rows of 10 MiB of two shards": Kind(asked("SELECT k, filler FROM large WHERE k < 1000")),
    "6 rows of 10 MiB of two shards, in order": Kind(asked("SELECT k, filler FROM large WHERE k < 1000 ORDER BY k")),
    "1,000,000 rows of two shards": Kind(asked("SELECT k, g FROM many")),
    "1,000,000 rows of two shards, in order": Kind(asked("SELECT k, g FROM many ORDER BY k")),
    "COPY of 1,000,000 rows out": Kind(asked("COPY many TO STDOUT")),
    "count and sum": Kind(asked("SELECT count(*), sum(v) FROM many")),
    "7 groups": Kind(asked("SELECT v, count(*), avg(g) FROM many GROUP BY v")),
    "10,000 groups": Kind(asked("SELECT g % 10000, count(*), sum(v) FROM many GROUP BY 1")),
    "100,003 groups": Kind(asked("SELECT g, count(*), sum(v) FROM many GROUP BY g")),
    "100,003 groups, in order": Kind(asked("SELECT g, count(*), sum(v) FROM many GROUP BY g ORDER BY 2, 1")),
    "DISTINCT of 100,003": Kind(asked("SELECT DISTINCT g FROM many")),
}
