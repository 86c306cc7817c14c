"""What clients send: a sequence for each corner of the protocol, and one for each message in each state.

Written by hand: what drivers do and what they should not. Made: `in_every_state`, from the state table's own rows.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any

from proxy.wire.frames import frame
from proxy.wire.state import CLIENT, State
from sequences_again import AGAIN, BEHIND_A_BIND
from sequences_extended import EXTENDED
from sequences_found import FOUND, FOUND_OVER_ONE
from sequences_late import AT_RUN, LATE, PORTALS, TAKEN_BACK
from sequences_left import LEFT
from sequences_moments import MOMENTS
from sequences_own import OWN_VIEWS
from sequences_portals import NAMED, UNREADABLE
from sequences_simple import SIMPLE
from transcripts import COPY_DONE, PLAIN, SHOW, Sequence, Wait, data, fail, q
from wire_client import FLUSH, SYNC, bind, close, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

COPY: dict[str, tuple[Any, ...]] = {
    "in": (q("copy plain from stdin"), data("5\tx\n6\t\\N\n"), COPY_DONE, PLAIN),
    "in, cut anywhere": (
        q("copy plain from stdin"),
        data("5"),
        data("\tx\n6"),
        data(""),
        data("\ty\n"),
        COPY_DONE,
        PLAIN,
    ),
    "in, waiting": (q("copy plain from stdin"), Wait("G"), data("5\tx\n"), COPY_DONE, Wait("Z"), PLAIN),
    "in, csv": (q("copy plain from stdin (format csv, header)"), data('id,v\n5,"a ""b"""\n6,\n'), COPY_DONE, PLAIN),
    "in, given up": (q("copy plain from stdin"), data("5\tx\n"), fail("no more"), PLAIN),
    "in, wrong": (q("copy plain from stdin"), data("5\tx\nsix\ty\n"), data("7\tz\n"), COPY_DONE, PLAIN),
    "in, too few columns": (q("copy plain from stdin"), data("5\n"), COPY_DONE, PLAIN),
    "in, the end marked": (q("copy plain from stdin"), data("5\tx\n\\.\n"), COPY_DONE, PLAIN),
    "in, nothing": (q("copy plain from stdin"), COPY_DONE, PLAIN),
    "in, a constraint": (q("copy notes from stdin"), data("77\tx\t-1\n"), COPY_DONE, SHOW),
    "in by key": (q("copy notes (k, v) from stdin"), data("77\tx\n78\ty\n"), COPY_DONE, SHOW),
    "in, in a block": (q("begin"), q("copy plain from stdin"), data("5\tx\n"), COPY_DONE, q("rollback"), PLAIN),
    "in, among others": (
        q("insert into plain values (9, 'z'); copy plain from stdin; select 1"),
        data("5\tx\n"),
        COPY_DONE,
        PLAIN,
    ),
    "in twice": (
        q("copy plain from stdin; copy plain from stdin"),
        data("5\tx\n"),
        COPY_DONE,
        data("6\tx\n"),
        COPY_DONE,
        PLAIN,
    ),
    "in, with flush and sync": (q("copy plain from stdin"), FLUSH, data("5\tx\n"), SYNC, COPY_DONE, PLAIN),
    "to an unknown table": (q("copy nowhere from stdin"), data("5\tx\n"), COPY_DONE, q("select 1")),
    "out": (
        q("copy plain to stdout"),
        q("copy (select 1, null, 'x') to stdout"),
        q("copy plain to stdout (format csv, header)"),
    ),
    "out, binary": (q("copy (select 1::int4) to stdout (format binary)"),),
    "out, an error": (q("copy (select 1/(2-g) from generate_series(1, 3) g) to stdout"), q("select 1")),
    "out by protocol": (parse("copy plain to stdout"), describe("S"), bind(), describe("P"), execute(), SYNC),
    "in by protocol": (
        parse("copy plain from stdin"),
        bind(),
        execute(),
        Wait("G"),
        data("5\tx\n"),
        COPY_DONE,
        SYNC,
        PLAIN,
    ),
    "in by protocol, at once": (
        parse("copy plain from stdin"),
        bind(),
        execute(),
        SYNC,
        data("5\tx\n"),
        COPY_DONE,
        SYNC,
        PLAIN,
    ),
    "in by protocol, given up": (
        parse("copy plain from stdin"),
        bind(),
        execute(),
        data("5\tx\n"),
        fail("no"),
        SYNC,
        PLAIN,
    ),
    "in by protocol, wrong": (
        parse("copy plain from stdin"),
        bind(),
        execute(),
        data("x\tx\n"),
        COPY_DONE,
        SYNC,
        PLAIN,
    ),
    "data outside": (data("5\tx\n"), COPY_DONE, fail("x"), q("select 1"), SYNC),
}

# Bodies that lie, in a session that goes on.
BROKEN: dict[str, tuple[Any, ...]] = {
    "a query without its end": (frame(b"Q", b"select 1"), q("select 2")),
    "a query with two ends": (frame(b"Q", b"select 1\0select 2\0"), q("select 2")),
    "an empty query message": (frame(b"Q", b""), q("select 2")),
    "a query that is not UTF-8": (frame(b"Q", b"select '\xff'\0"), q("select 2")),
    "a parse cut short": (frame(b"P", b"s"), SYNC, q("select 2")),
    "a parse that is not UTF-8": (frame(b"P", b"\0select '\xc3('\0\0\0"), SYNC, q("select 2")),
    "a bind cut short": (parse("select 1"), frame(b"B", b"\0\0\0"), SYNC, q("select 2")),
    "a bind with a lying length": (
        parse("select $1::text"),
        frame(b"B", b"\0\0" + pack(">HHI", 0, 1, 100) + b"x\0\0"),
        SYNC,
        q("select 2"),
    ),
    "a bind with a negative length": (
        parse("select $1::text"),
        frame(b"B", b"\0\0" + pack(">HHi", 0, 1, -7) + b"\0\0"),
        SYNC,
        q("select 2"),
    ),
    "a text parameter that is not UTF-8": (parse("select $1::text"), bind(b"\xff"), execute(), SYNC, q("select 2")),
    "a text parameter with a NUL": (parse("select $1::text"), bind(b"a\0b"), execute(), SYNC, q("select 2")),
    "describe of an unknown kind": (frame(b"D", b"X\0"), SYNC, q("select 2")),
    "close of an unknown kind": (frame(b"C", b"X\0"), SYNC, q("select 2")),
    "an execute cut short": (frame(b"E", b"\0\0"), SYNC, q("select 2")),
    "a sync with a body": (frame(b"S", b"more"), q("select 2")),
    "a flush with a body": (frame(b"H", b"more"), SYNC, q("select 2")),
}

FATAL: dict[str, tuple[Any, ...]] = {
    "an unknown type": (b"z\0\0\0\4",),
    "an unknown type behind an answer": (q("select 1"), Wait(), b"z\0\0\0\4"),
    "a password in the middle": (q("select 1"), Wait(), frame(b"p", b"secret\0")),
}


# Where the proxy speaks for itself it knows less: what was being read.
_IGNORING = {
    "broken: a bind with a lying length": "W",
    "broken: a bind with a negative length": "W",
}


def by_hand() -> Iterator[Sequence]:
    topics = {
        "simple": SIMPLE,
        "extended": EXTENDED | AGAIN | BEHIND_A_BIND,
        "late": LATE | TAKEN_BACK | AT_RUN | PORTALS,
        "own": OWN_VIEWS,
        "copy": COPY,
        "broken": BROKEN,
        "found": FOUND,
        "unreadable name": UNREADABLE,
    }
    for topic, sequences in topics.items():
        for name, parts in sequences.items():
            full = f"{topic}: {name}"
            yield Sequence(full, parts, ignoring=_IGNORING.get(full, ""))
    for name, parts in FATAL.items():
        yield Sequence(f"fatal: {name}", parts, fatal=True)


# ---- each message in each state ----

_WAYS: dict[str, tuple[State, tuple[Any, ...]]] = {
    "idle": (State.READY, ()),
    "in a block": (State.READY, (q("begin"), Wait())),
    "in a failed block": (State.READY, (q("begin; select 1/0"), Wait())),
    "in a pipeline": (
        State.PIPELINE,
        (parse("select id from plain order by id", "s"), bind(statement="s", portal="p"), FLUSH, Wait("2")),
    ),
    "while skipping": (State.SKIPPING, (parse("select 1", "s"), parse("selec"), FLUSH, Wait("E"))),
    "in COPY": (State.COPY_IN, (q("copy plain from stdin"), Wait("G"))),
    "in COPY by protocol": (
        State.PIPELINE_COPY_IN,
        (parse("copy plain from stdin"), bind(), execute(), FLUSH, Wait("G")),
    ),
}
_MESSAGES: dict[str, Any] = {
    "Query": q("select 7"),
    "Query BEGIN": q("begin"),
    "Parse": parse("select 8", "t"),
    "Bind": bind(statement="s"),
    "Describe statement": describe("S", "s"),
    "Describe portal": describe("P", "p"),
    "Execute": execute("p"),
    "Close statement": close("S", "s"),
    "Close portal": close("P", "p"),
    "Flush": FLUSH,
    "Sync": SYNC,
    "FunctionCall": frame(b"F", pack(">IHHI", 1397, 1, 1, 1) + pack(">Ii", 1, 0)),
    "CopyData": data("5\tx\n"),
    "CopyDone": COPY_DONE,
    "CopyFail": fail("enough"),
    "PasswordMessage": frame(b"p", b"x\0"),
    "an unknown message": b"y\0\0\0\4",
}


def in_every_state() -> Iterator[Sequence]:
    for state, (where, way) in _WAYS.items():
        for name, message in _MESSAGES.items():
            kind = (message if isinstance(message, bytes) else message.encode())[0]
            legal = kind in CLIENT[where]
            copying = where in (State.COPY_IN, State.PIPELINE_COPY_IN)
            end = (COPY_DONE,) if copying and kind not in b"cf" else ()
            after = (*end, SYNC, q("select 9"), q("rollback"), PLAIN) if legal else ()
            yield Sequence(f"{state}: {name}", (*way, message, *after), fatal=not legal, ignoring="" if legal else "W")


ALL = [*by_hand(), *in_every_state()]
#: For one shard alone: over several the words are read when a statement runs, and some is refused.
OVER_ONE = [
    *(Sequence(f"moment {name}", parts) for name, parts in MOMENTS.items()),
    *(Sequence(f"found: {name}", parts) for name, parts in FOUND_OVER_ONE.items()),
    *(Sequence(f"portals: {name}", parts) for name, parts in NAMED.items()),
    *(Sequence(f"left: {name}", parts) for name, parts in LEFT.items()),
]
