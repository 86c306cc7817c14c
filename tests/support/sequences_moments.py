"""Sequences about 'now' and 'today' in prepared statements of one server: they mean the moment of the Parse.

Two servers have two clocks, so what is asked is whether it is that moment: what was parsed in this transaction is
now(), what was parsed in one before it is earlier.
"""

from __future__ import annotations

from typing import Any

from sequences_again import run
from transcripts import q
from wire_client import SYNC, bind, describe, execute, parse

ASKED = (
    "select 'now'::timestamptz = now() as z, 'now'::timestamptz < now() as earlier, timestamp 'now' < now()::timestamp"
    " as local, 'now' as word, 'now'::text::timestamptz = now() as late, 'Now '::time < localtime as time,"
    " date 'tomorrow' - 'yesterday' as days, 'today 12:00'::timestamptz - 'today' as noon,"
    " '[today,tomorrow)'::daterange @> current_date as range, '{now}'::text[] as words"
)
AGAIN = (bind(statement="s"), execute(), SYNC)
FOUND = "select v < to_char('now'::timestamptz, 'YYYY') as less, id from plain where now() > 'now' order by id"
UPDATE = "update plain set v = (now() > 'now')::text where v <> 'now' returning id, v"

MOMENTS: dict[str, tuple[Any, ...]] = {
    "of a named statement": (parse(ASKED, "s"), describe("S", "s"), SYNC, *AGAIN, *AGAIN),
    "of a statement that runs at once, and again": (parse(ASKED, "s"), *AGAIN, *AGAIN),
    "of an unnamed statement": (parse(ASKED), SYNC, bind(), execute(), SYNC, bind(), execute(), SYNC),
    "of unnamed statements that run at once": (*run(ASKED), *run(ASKED), SYNC, *run(ASKED), SYNC),
    "in a block": (
        q("begin"),
        parse(ASKED, "s"),
        SYNC,
        *AGAIN,
        parse(ASKED),
        SYNC,
        bind(),
        execute(),
        SYNC,
        q("commit"),
        *AGAIN,
        q("begin"),
        *AGAIN,
        q("rollback"),
    ),
    "of a block that was taken back": (
        q("begin; savepoint a"),
        parse(ASKED, "s"),
        SYNC,
        q("rollback to a"),
        *AGAIN,
        q("rollback"),
        *AGAIN,
    ),
    "of PREPARE": (q("prepare s as " + ASKED), q("execute s"), q("begin"), q("execute s"), q("rollback"), *AGAIN),
    "with parameters": (
        parse("select $1 < 'now', $1::timestamptz > 'yesterday', $2 = 'now'", "s", (1184, 25)),
        SYNC,
        bind(b"2020-01-01", b"now", statement="s"),
        execute(),
        SYNC,
    ),
    "where a condition has it": (parse(FOUND, "s"), SYNC, *AGAIN, parse(UPDATE, "s2"), SYNC, *run(FOUND), SYNC),
    "in an update": (parse(UPDATE, "s"), SYNC, *AGAIN, *AGAIN),
    "when another time zone is set": (
        parse("select 'now'::timestamptz < now(), extract(hour from 'today'::timestamptz at time zone 'UTC')", "s"),
        SYNC,
        *AGAIN,
        q("set timezone = 'Asia/Tokyo'"),
        *AGAIN,
    ),
    "when another date style is set": (
        parse("select 'now'::timestamptz < now(), 'today'::date = current_date", "s"),
        SYNC,
        q("set datestyle = 'German, DMY'"),
        *AGAIN,
    ),
    "of a text that is wrong": (parse("select 'now and then'::timestamptz", "s"), SYNC, *AGAIN),
    "of a text that is wrong later": (parse("select 'now'::text::date, 'now and then'", "s"), *AGAIN, *AGAIN),
    "among statements": (*run("insert into plain values (7, 'x')"), parse(ASKED, "s"), *AGAIN, *AGAIN),
    "and an error behind it": (parse(ASKED, "s"), *run("select 1 / 0"), SYNC, *AGAIN),
}
