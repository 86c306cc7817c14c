"""Sessions as nobody writes them, made from a seed: every kind of message and statement, in and out of order.

What `tests/transcripts/test_generated.py` lacks: SQL PREPARE and EXECUTE with errors and their positions, cursors and
portals under one name, COPY in the middle of a pipeline, formats, SET, savepoints, errors at Parse, at Bind, when a
statement runs and at COMMIT, portals of utility statements, and of transactions that are over.

A sequence never waits: it ends with what brings any session back to where it answers a query.
"""

from __future__ import annotations

from contextlib import closing
from itertools import chain
from struct import pack
from typing import TYPE_CHECKING, Any

from pipeline_scenes import SCENES
from pipeline_statements import (
    BINARY,
    BOUND,
    COPIES_IN,
    COPIES_OUT,
    CURSORS,
    OTHERS,
    PREPARED,
    READS,
    SETTINGS,
    TRANSACTIONS,
    WRITES,
    WRONG,
)
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
    + (SELECT count(*) FROM pg_attribute WHERE attrelid = 'plain'::regclass AND attname IN ('w', 'other'))
    + (SELECT count(*) FROM pg_type WHERE typname = 'mood'))::int,
    (SELECT coalesce(sum(n * 7 + k + length(v)), 0) FROM notes)::int
"""
_WHOLE = 378
_CLEAN = """
    DROP TABLE IF EXISTS fresh; DROP TYPE IF EXISTS mood; DROP VIEW IF EXISTS seen; DROP INDEX IF EXISTS plain_v;
    ALTER TABLE plain DROP COLUMN IF EXISTS w;
    DO $$ BEGIN ALTER TABLE plain RENAME other TO v; EXCEPTION WHEN undefined_column THEN NULL; END $$;
    TRUNCATE notes; INSERT INTO notes SELECT k, 'v' || k, k FROM generate_series(1, 9) k;
"""
_RAISED = "no 1"
STATEMENTS = ("", "", "s", "t", "nosuch")
PORTALS = ("", "", "p", "c", "nosuch")
BINDS = ("", "", "p", "p", "nosuch")

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
    # Those among the data have ended nothing; and the unnamed statement is not to be executed once more.
    return [(*begin, *rows, ends, SYNC, close("S"))]


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


def _scene(chance: random.Random) -> list[Any]:
    """One of the scenes, mostly without some of its messages, with others between."""
    parts: list[Any] = []
    for part in chance.choice(SCENES):
        if chance.random() < 0.12:
            continue
        if chance.random() < 0.1:
            parts += chance.choice((_odd, _simple, _whole))(chance)
        if chance.random() < 0.3:
            parts.append(SYNC)
        parts.append(part)
    return parts


def made(chance: random.Random, longest: int = 12) -> list[Any]:
    """Return the messages of up to so many units, each of one to a few."""
    parts: list[Any] = []
    for _ in range(chance.randrange(1, longest + 1)):
        (unit,) = chance.choices((_simple, _whole, _with_values, _copied, _odd, _scene), (5, 8, 3, 1, 6, 1))
        parts += unit(chance)
        if chance.random() < 0.35:
            parts.append(SYNC)
        elif chance.random() < 0.1:
            parts.append(FLUSH)
    return parts


def flat(parts: Iterable[Any]) -> list[Any]:
    """Return the messages one behind the other: those that stay together are tuples."""
    return list(chain.from_iterable(part if isinstance(part, tuple) else (part,) for part in parts))


def synced(parts: Iterable[Any]) -> list[Any]:
    """Put Sync before each Query behind an Execute: Postgres itself loses track of its state there, and says XX000.

    And a Close of the unnamed portal behind each Query: where that has failed in a block, PostgreSQL 18 executes the
    portal out of memory that it has freed, and may crash.
    """
    settled: list[Any] = []
    executed = left = False
    for part in flat(parts):
        if isinstance(part, Query) and executed:
            settled.append(SYNC)
        if left and not isinstance(part, bytes) and part not in (SYNC, FLUSH):
            settled.append(close("P"))
            left = False
        executed = isinstance(part, Execute) or (executed and part is not SYNC and not isinstance(part, Query))
        left = left or isinstance(part, Query)
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
    return None if expected == got else (expected, got)


def smallest(pair: Pair, parts: list[Any], *, piecemeal: bool) -> list[Any]:
    """Return as few of the messages as there can be, so that the answers still differ."""
    size = max(1, len(parts) // 2)
    while size:
        start, shorter = 0, False
        while start < len(parts):
            fewer = parts[:start] + parts[start + size :]
            found = difference_of(pair, fewer, piecemeal=piecemeal)
            if found is not None and not is_lost(*found):
                parts, shorter = fewer, True
            else:
                start += size
        if size > 1 or not shorter:
            size //= 2
    return parts


def without(parts: list[Any], fewest: list[Any]) -> list[Any]:
    """Return the messages without the last of the fewest that is no Sync or Flush: with it goes the difference."""
    last = next((part for part in reversed(fewest) if part not in (SYNC, FLUSH)), None)
    return [] if last is None else [part for part in parts if part is not last]


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


def is_lost(expected: Trace, got: Trace) -> bool:
    """Whether Postgres had stumbled over itself when answers began to differ, or did so there.

    As it does in an EXECUTE of SAVEPOINT, and in a FETCH from the portal of a SET.
    """
    for number, entry in enumerate(expected):
        if entry[0] == "error" and entry[1]["C"] == "XX000" and entry[1]["M"] != _RAISED:
            return True
        if entry[0] == "notice" and entry[1]["M"].startswith("skipping cleanup"):
            return True
        if entry != (got[number] if number < len(got) else None):
            return False
    return False
