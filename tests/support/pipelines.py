"""Sessions as nobody writes them, made from a seed: every kind of message and statement, in and out of order.

What `tests/transcripts/test_generated.py` lacks: SQL PREPARE and EXECUTE with errors and their positions, cursors and
portals under one name, COPY in the middle of a pipeline, formats, SET, savepoints, errors at Parse, at Bind, when a
statement runs and at COMMIT, portals of utility statements, and of transactions that are over.

A sequence never waits: it ends with what brings any session back to where it answers a query.
"""

from __future__ import annotations

from contextlib import closing
from struct import pack
from typing import TYPE_CHECKING, Any

from proxy.wire.frames import frame
from proxy.wire.frontend import Execute, Query
from transcripts import COPY_DONE, Sequence, data, fail, play, q
from wire_client import FLUSH, SYNC, WireClient, bind, close, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from tests.transcripts.conftest import Pair
    from wire_client import Entry, Trace

#: What statements of these make, and what they leave of the rows.
_LEFT = """
    SELECT ((SELECT count(*) FROM pg_class WHERE relname IN ('fresh', 'seen', 'plain_v'))
    + (SELECT count(*) FROM pg_attribute WHERE attrelid = 'plain'::regclass AND attname = 'w'))::int,
    (SELECT coalesce(sum(n * 7 + k + length(v)), 0) FROM notes)::int
"""
_WHOLE = 378
_CLEAN = """
    DROP TABLE IF EXISTS fresh; DROP VIEW IF EXISTS seen; DROP INDEX IF EXISTS plain_v;
    ALTER TABLE plain DROP COLUMN IF EXISTS w;
    TRUNCATE notes; INSERT INTO notes SELECT k, 'v' || k, k FROM generate_series(1, 9) k;
"""
_RAISED = "no 1"
STATEMENTS = ("", "", "s", "t", "nosuch")
PORTALS = ("", "", "p", "c", "nosuch")
BINDS = ("", "", "p", "p", "nosuch")

READS = (
    "select 1",
    "select id, v from plain order by id",
    "select v from notes where k = 3",
    "select k, n from notes order by k",
    "select k, 10 / (5 - n) from notes order by k",  # an error behind four rows
    "select noisy('x')",
    "table notes order by k",
    "values (1, 'a'), (2, null)",
    "",
    "-- nothing",
    "select 1::int8, 'é', null::bool, 1.5, '{1,2}'::int4[], now() is null",
    "select count(*) from wanting",
    "select set_config('application_name', 'x', false)",
    "select k from notes order by k for update",
    "explain (costs off) select v from notes where k = 3",
    "show timezone",
    "show application_name",
    "select current_setting('geqo')",
)
WRONG = (
    "selec",
    "select 'ü', 1 +",
    "select nosuch from plain",
    "select 'é', nosuch from notes where k = 3",
    "select * from nowhere",
    "select 1/0",
    "select 'x'::int4",
    "select 1; select 2",
    "select nosuch(1)",
    "select k, 1 / (n - n) from notes order by k",
    "set nosuch = 1",
    "set geqo = perhaps",
    "show nosuch",
    "select $2::int4",
    "select $1",
    "fetch 1 from nosuch",
    "close nosuch",
    "execute nosuch",
    "execute nosuch(1)",
    "deallocate nosuch",
    "drop table nowhere",
    "copy nowhere to stdout",
    "copy (select nosuch from plain) to stdout",
    "savepoint",
    "release nosuch",
    "rollback to nosuch",
    "insert into plain values (1, 'again')",
    "insert into plain values (1, 'x', 3)",
    "update notes set n = -1 where k = 4",
    "update notes set n = - n",
    "create table plain (id int4)",
    "prepare w as select 'ä', nosuch",
    "prepare w(nosuch) as select $1",
    "prepare w as selec",
    "declare w cursor for select nosuch from plain",
    "lock table nowhere",
    "vacuum nowhere",
    "listen",
    "do $$ begin raise 'no %', 1 using errcode = 'XX000'; end $$",
    "do $$ begin perform 1/0; end $$",
    "reindex table nowhere",
    "set transaction isolation level nosuch",
)
WRITES = (
    "insert into plain values (7, 'x')",
    "insert into plain values (8, 'y'), (9, 'z') returning id, v",
    "update notes set n = n + 1 where k = 4",
    "update notes set n = n + 1 returning k, n",
    "delete from plain where id = 7",
    "delete from plain where id = 7 returning *",
    "insert into wanting values (1, 77)",
    "insert into wanting values (2, 1)",
    "truncate wanting",
    "merge into plain using (values (1), (5)) m (id) on plain.id = m.id when matched then update set v = 'm'",
    "with w as (insert into plain values (6, 'w') returning id) select id from w",
)
TRANSACTIONS = (
    "begin",
    "begin",
    "start transaction read only",
    "begin read only",
    "commit",
    "commit",
    "rollback",
    "rollback",
    "end",
    "abort",
    "commit and chain",
    "rollback and chain",
    "savepoint a",
    "savepoint a",
    "savepoint b",
    "rollback to a",
    "rollback to a",
    "release a",
    "release b",
    "set transaction read only",
    "set constraints all immediate",
    "set constraints all deferred",
    "lock table plain",
)
SETTINGS = (
    "set timezone = 'Asia/Tokyo'",
    "set local timezone = 'Asia/Tokyo'",
    "set datestyle = 'German'",
    "set application_name = 'abc'",
    "set local application_name = 'def'",
    "reset timezone",
    "reset all",
    "discard all",
    "discard plans",
    "set geqo = off",
    "set search_path = public, pg_catalog",
    "set local search_path = pg_catalog",
    "reset search_path",
    "select set_config('timezone', 'UTC', true)",
    "set session characteristics as transaction read only",
    "set default_transaction_read_only = off",
    "set role pg_monitor",
    "reset role",
)
PREPARED = (
    "prepare x as select v from notes where k = 3",
    "prepare x(int4) as select 'é', 1 / $1",
    "prepare x(int4, text) as insert into plain values ($1, $2) returning id",
    "prepare x(int4) as update notes set n = n - $1",
    "prepare x as select k, 10 / (5 - n) from notes order by k",
    "prepare s as select 1",
    "execute x",
    "execute x",
    "execute x(1)",
    "execute x(0)",
    "execute x('1')",
    "execute x('a')",
    "execute x('é', 'a')",
    "execute x(1/0)",
    "execute x(7, 'x')",
    "execute x(nosuch)",
    "execute x((select 1))",
    "deallocate x",
    "deallocate s",
    "deallocate all",
    "explain (costs off) execute x",
)
CURSORS = (
    "declare c cursor for select id, v from plain order by id",
    "declare c cursor for select k, 10 / (5 - n) from notes order by k",
    "declare c scroll cursor for select k from notes order by k",
    "declare c cursor with hold for select k from notes order by k",
    "declare c binary cursor for select k, v from notes order by k",
    "declare p cursor for select 1",
    "fetch 1 from c",
    "fetch 2 from c",
    "fetch all from c",
    "fetch backward 1 from c",
    "fetch first from c",
    "move 1 in c",
    "move all in c",
    "close c",
    "close p",
    "close all",
    "update notes set n = 1 where current of c",
    "delete from plain where current of c",
)
COPIES_OUT = (
    "copy plain to stdout",
    "copy (select k, v from notes order by k) to stdout (format csv, header)",
    "copy (select 1::int4) to stdout (format binary)",
    "copy (select 10 / (5 - n) from notes order by k) to stdout",
)
COPIES_IN = (
    "copy plain from stdin",
    "copy plain from stdin (format csv)",
    "copy notes (k, v) from stdin",
    "copy wanting from stdin",
    "copy nowhere from stdin",
    "copy plain (nosuch) from stdin",
)
OTHERS = (
    "vacuum plain",
    "analyze plain",
    "create temp table made (a int4)",
    "create temp table made (a int4) on commit drop",
    "insert into made values (1)",
    "select * from made",
    "alter table made add b text",
    "drop table made",
    "drop table if exists made",
    "do $$ begin raise notice 'done'; end $$",
    "do $$ begin perform set_config('application_name', 'inside', false); end $$",
    "listen a",
    "unlisten *",
    "select pg_advisory_lock(7)",
    "select pg_advisory_unlock(7)",
    "select pg_advisory_xact_lock(7)",
    "comment on table plain is 'x'",
    "alter table plain add w int4",
    "alter table plain drop w",
    "create table fresh (a int4)",
    "drop table fresh",
    "create index concurrently plain_v on plain (v)",
    "drop index concurrently plain_v",
    "create view seen as select 1 as one",
    "drop view seen",
)
#: With parameters: the text, and a Bind's values for it, of which some are wrong.
BOUND: tuple[tuple[str, tuple[tuple[bytes | None, ...], ...]], ...] = (
    ("select $1::int4 + 1", ((b"1",), (b"x",), (None,), (), (b"1", b"2"))),
    ("select v from notes where k = $1", ((b"3",), (b" 4 ",), (b"three",), (None,))),
    ("select 1 / $1::int4", ((b"0",), (b"1",))),
    ("insert into plain values ($1, $2) returning *", ((b"5", b"v"), (b"1", b"again"), (b"z", b""), (b"5", None))),
    ("update notes set n = $1 where k = $2", ((b"5", b"4"), (b"-5", b"4"), (b"5", b""))),
    ("select $1::text, $2::text", ((b"a", b"\xc3\xa9"), (None, b"b"))),
    ("select k from notes where n > $1 order by k limit $2", ((b"2", b"3"), (b"2", b"-1"))),
)
BINARY = (
    ("select $1::int4 + 1, $2::text", ((pack(">i", 41), b"x"), (pack(">i", 1), None))),
    ("select v from notes where k = $1", ((pack(">q", 3),), (pack(">q", 77),))),
)
_KINDS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (6, READS),
    (4, WRONG),
    (4, WRITES),
    (6, TRANSACTIONS),
    (3, SETTINGS),
    (4, PREPARED),
    (5, CURSORS),
    (1, COPIES_OUT),
    (2, OTHERS),
)


def _text(chance: random.Random) -> str:
    (kind,) = chance.choices([texts for _, texts in _KINDS], [weight for weight, _ in _KINDS])
    return chance.choice(kind)


def _results(chance: random.Random) -> tuple[int, ...]:
    return chance.choice(((), (), (), (), (1,), (0, 1), (7,)))


def _limit(chance: random.Random) -> int:
    return chance.choice((0, 0, 0, 1, 2, -1))


def _simple(chance: random.Random) -> list[Any]:
    texts = [_text(chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    return [q("; ".join(texts))]


def _whole(chance: random.Random) -> list[Any]:
    """Parse, Bind, Describe and Execute of one statement, mostly under names that are free."""
    statement, portal = chance.choice(("", "", "", "s", "t")), chance.choice(("", "", "p", "c"))
    # Of a portal of SET or BEGIN, FETCH says other things than of none (docs/limits.md).
    made: list[Any] = [parse(chance.choice(READS) if portal == "c" else _text(chance), statement)]
    if chance.random() < 0.2:
        made.append(describe("S", statement))
    made.append(bind(statement=statement, portal=portal, results=_results(chance)))
    if chance.random() < 0.4:
        made.append(describe("P", portal))
    made += [execute(portal, _limit(chance)) for _ in range(chance.choice((1, 1, 1, 2)))]
    return made


def _with_values(chance: random.Random) -> list[Any]:
    binary = chance.random() < 0.3
    text, sets = chance.choice(BINARY if binary else BOUND)
    values = chance.choice(sets)
    formats = ((1, 0) if len(values) == 2 else (1,)) if binary else ()
    statement, portal = chance.choice(("", "s")), chance.choice(("", "p"))
    return [
        parse(text, statement),
        *([describe("S", statement)] if chance.random() < 0.3 else []),
        bind(*values, statement=statement, portal=portal, formats=formats, results=_results(chance)),
        execute(portal, _limit(chance)),
    ]


def _copied(chance: random.Random) -> list[Any]:
    """COPY from the client, by either protocol, with data that may be wrong, and other messages between."""
    text = chance.choice(COPIES_IN)
    begin = [q(text)] if chance.random() < 0.5 else [parse(text), bind(), execute()]
    rows = [data(chance.choice(("15\tx\n", "16\ty\n", "17,z\n", "x\ty\n", "1\t1\n", "18", "", "19\t\\N\n\\.\n")))]
    while chance.random() < 0.4:
        rows.append(chance.choice((data("25\tq\n"), FLUSH, SYNC)))
    ends = chance.choice((COPY_DONE, COPY_DONE, fail("enough")))
    # It must end before a message that is none of COPY's: that would end the connection.
    return [*begin, *rows, ends, SYNC]  # those among the data have ended nothing


def _odd(chance: random.Random) -> list[Any]:
    one: Callable[[], Any] = chance.choice(
        (
            lambda: parse(_text(chance), chance.choice(STATEMENTS)),
            lambda: bind(statement=chance.choice(STATEMENTS), portal=chance.choice(BINDS), results=_results(chance)),
            lambda: describe("S", chance.choice(STATEMENTS)),
            lambda: describe("P", chance.choice(PORTALS)),
            lambda: execute(chance.choice(PORTALS), _limit(chance)),
            lambda: close("S", chance.choice(STATEMENTS)),
            lambda: close("P", chance.choice(PORTALS)),
            lambda: FLUSH,
            lambda: chance.choice((COPY_DONE, data("5\tx\n"), fail("x"))),
            lambda: frame(b"F", pack(">IHHI", 1397, 1, 1, 1) + pack(">Ii", 4, -5) + pack(">H", 0)),
        )
    )
    return [one()]


def made(chance: random.Random, longest: int = 12) -> list[Any]:
    """Return the messages of up to so many units, each of one to a few."""
    parts: list[Any] = []
    for _ in range(chance.randrange(1, longest + 1)):
        (unit,) = chance.choices((_simple, _whole, _with_values, _copied, _odd), (5, 8, 3, 1, 6))
        parts += unit(chance)
        if chance.random() < 0.35:
            parts.append(SYNC)
        elif chance.random() < 0.1:
            parts.append(FLUSH)
    return parts


def synced(parts: Iterable[Any]) -> list[Any]:
    """Put Sync before each Query behind an Execute: Postgres itself loses track of its state there, and says XX000."""
    settled: list[Any] = []
    executed = False
    for part in parts:
        if isinstance(part, Query) and executed:
            settled.append(SYNC)
        executed = isinstance(part, Execute) or (executed and part is not SYNC and not isinstance(part, Query))
        settled.append(part)
    return settled


def difference_of(pair: Pair, parts: list[Any], *, piecemeal: bool) -> tuple[Trace, Trace] | None:
    """Play messages to both, and what brings a session back from wherever it is; return the answers if they differ."""
    sequence = Sequence("made", (*synced(parts), COPY_DONE, SYNC, q("rollback"), q("select 9"), q("table plain")))
    answers = []
    for dsn in (pair.direct, pair.through):
        _tidy(pair)
        answers.append([_comparable(entry) for entry in play(dsn, sequence, piecemeal=piecemeal)])
    expected, got = answers
    return None if expected == got or _is_lost(expected) else (expected, got)


def smallest(pair: Pair, parts: list[Any], *, piecemeal: bool) -> list[Any]:
    """Return as few of the messages as there can be, so that the answers still differ."""
    size = max(1, len(parts) // 2)
    while size:
        start, shorter = 0, False
        while start < len(parts):
            fewer = parts[:start] + parts[start + size :]
            if difference_of(pair, fewer, piecemeal=piecemeal):
                parts, shorter = fewer, True
            else:
                start += size
        if size > 1 or not shorter:
            size //= 2
    return parts


def _tidy(pair: Pair) -> None:
    """Make the tables what they were at first."""
    for connection, dsn in zip(pair.filled, (pair.direct, pair.through), strict=True):
        row = connection.execute(_LEFT.encode()).fetchone()
        if row != (0, _WHOLE):
            with closing(WireClient(dsn)) as client:  # what is changed behind a proxy's back it notices a moment later
                trace = client.query(_CLEAN)
                assert not sqlstates(trace), trace
    pair.fill()


def _comparable(entry: Entry) -> Entry:
    if entry[0] == "notification":
        return ("notification", entry[1][4:])  # without the process
    if entry[0] == "error" and entry[1]["C"] == "54001":
        entry[1].pop("H", None)  # the depth of a stack
    return entry


def _is_lost(trace: Trace) -> bool:
    """Whether Postgres has stumbled over itself: an EXECUTE of SAVEPOINT, a FETCH from the portal of a SET."""
    internal = [entry for entry in trace if entry[0] == "error" and entry[1]["C"] == "XX000"]
    return any(entry[1]["M"] != _RAISED for entry in internal) or any(
        entry[0] == "notice" and entry[1]["M"].startswith("skipping cleanup") for entry in trace
    )
