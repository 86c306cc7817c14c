"""Writes through views of a sharded table, beside one Postgres: sequences, rights, policies, and views that change.

What single statements answer is in tests/differential/statements/writes/views.sql.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Trace, Twins, WireClient

SERIAL = (
    "create table made (k bigserial primary key, v text default 'none', n int4 generated always as identity, m int4)"
)


@pytest.fixture
def made(twins: Twins) -> Iterator[Twins]:
    twins.query(SERIAL)
    yield twins
    twins.query("rollback")
    twins.query("drop table made cascade")


@pytest.fixture
def plain(twins: Twins) -> Iterator[Twins]:
    twins.query("create table made (k int8 primary key, v text default 'none', m int4)")
    yield twins
    twins.query("rollback")
    twins.query("drop table made cascade")


def state(trace: Trace) -> str:
    return next((entry[1]["C"] for entry in trace if entry[0] == "error"), "")


def detail(trace: Trace) -> str:
    return next((entry[1].get("D", "") for entry in trace if entry[0] == "error"), "")


def test_columns_from_sequences_come_from_home(made: Twins) -> None:
    made.query("create view shown as select n as number, v as value, k as key from made")
    for text in (
        "insert into shown (value) values ('a'), ('b'), ('c') returning *",
        "insert into shown values (default, 'd'), (default, default) returning key, number",
        "insert into shown default values returning *",
        "insert into shown (key, value) values (100, 'own'), (default, 'next') returning *",
        "insert into shown (key, number) values (1, 1)",
        "insert into shown (key, number) overriding system value values (200, 1) returning number",
        "insert into shown (key, number) overriding user value values (201, 1) returning number",
        "insert into shown (value) select 'selected' returning key",
        "insert into shown (value) values ('z') on conflict (key) do nothing returning key",
        "insert into shown (value, key) values ('x', nextval('made_k_seq')) returning key",
        "select * from shown order by 1, 3",
        "select * from made order by k",
        "select nextval('made_k_seq')",
    ):
        made.query(text)


def test_the_extended_protocol(made: Twins) -> None:
    made.query("create view shown as select n as number, v as value, k as key from made")
    insert = parse("insert into shown (value) values ($1), ($2) returning key, number", "s")
    made.same(insert, describe("S", "s"), SYNC)
    for _ in range(3):
        made.same(bind(b"a", b"b", statement="s", results=(1, 0)), describe("P"), execute(), SYNC)
    made.same(parse("update shown set value = $2 where key = $1 returning *", "u"), describe("S", "u"), SYNC)
    for key in (b"1", b"4", b"5", b"99"):
        made.same(bind(key, b"new", statement="u"), describe("P"), execute(), SYNC)
    made.same(parse("delete from shown where key = any($1)", "d"), bind(b"{1,2,5}", statement="d"), execute(), SYNC)
    made.query("select * from made order by k")


def test_many_rows(plain: Twins) -> None:
    plain.query("create view shown as select m, v, k from made")
    rows = ", ".join(f"({number}, 'row number {number} has a text of its own', {number * 7})" for number in range(200))
    plain.query(f"insert into shown values {rows}")
    plain.query("select * from made order by k")


@pytest.mark.parametrize(
    "query",
    [
        "select k, v from made",  # n takes its numbers from a sequence
        "select k, v, n from made where v <> (select max(v) from notes)",
        "select k, v, n from made where n > (select count(*) from plain)",
        "select k, v, n, currval('made_k_seq') from made",
        "select k, v, n, ctid from made",
    ],
)
def test_what_no_shard_may_fill_in_or_see_is_refused(
    town: Town, connect: Callable[..., WireClient], query: str
) -> None:
    client = connect(town.dsn)
    client.rows(SERIAL)
    try:
        if state(client.query(f"create view shown as {query}")):
            return
        trace = client.query("insert into shown (k, v) values (5, 'x')")
        assert (state(trace), bool(detail(trace))) == ("0A000", True), trace
        assert town.stored("select k from made") == []
    finally:
        client.rows("drop table made cascade")


def test_triggers_of_the_table_fire(plain: Twins) -> None:
    for text in (
        "create view shown as select m, v as value, k as key from made where v <> 'hidden' with check option",
        "create function loud() returns trigger language plpgsql as $$ begin new.v := upper(new.v); return new; end $$",
        "create trigger loud before insert or update on made for each row execute function loud()",
        "insert into shown (key, value) values (1, 'a'), (2, 'b'), (3, 'c') returning *",
        "update shown set value = 'hidden' where key = 2 returning *",
        "update shown set value = value || '!'",
        "select * from made order by k",
        "create function once() returns trigger language plpgsql as $$ begin raise notice 'o'; return null; end $$",
        "create trigger once after update on made for each statement execute function once()",
        "update shown set value = 'c' where key = 2 returning *",
        "drop trigger once on made",
        "drop function loud() cascade",
        "drop function once()",
        "select * from made order by k",
    ):
        plain.query(text)


def test_a_statement_trigger_of_the_table_keeps_the_statement_on_one_shard(
    town: Town, connect: Callable[..., WireClient]
) -> None:
    client = connect(town.dsn)
    client.rows("create view shown as select k as key, v from notes")
    client.rows("create function once() returns trigger language plpgsql as $$ begin return null; end $$")
    client.rows("create trigger once after update on notes for each statement execute function once()")
    try:
        client.rows("insert into shown values (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
        assert state(client.query("update shown set v = 'x' where key = 2")) == ""
        assert state(client.query("update shown set v = 'y'")) == "0A000"
        assert town.stored() == [(1, "a"), (2, "x"), (3, "c"), (4, "d")]
    finally:
        client.rows("drop view shown")
        client.rows("drop function once() cascade")


def test_a_view_that_changes_in_a_transaction_and_beside_it(plain: Twins) -> None:
    for text in (
        "create view shown as select m, v, k from made",
        "insert into shown values (1, 'a', 2), (2, 'b', 1), (3, 'c', 4), (4, 'd', 3)",
        *["update shown set v = v || '!' where k = 2 returning *"] * 4,
        "begin",
        "create or replace view shown as select m, v, k from made where m > 1",
        "update shown set v = v || '?' where k = 2 returning *",
        "update shown set v = v || '?' where k = 1 returning *",
        "rollback",
        "update shown set v = v || '!' where k = 2 returning *",
        "begin",
        "drop view shown",
        "create view shown as select m as k, v, k as m from made",
        "update shown set v = v || '/' where k = 2 returning *",
        "update shown set v = v || '/' where m = 2 returning *",
        "insert into shown values (7, 'swapped', 8) returning *",
        "commit",
        *["update shown set v = v || '!' where k = 2 returning *"] * 3,
        *["update shown set v = v || '!' where m = 2 returning *"] * 3,
        "insert into shown values (9, 'swapped', 10) returning *",
        "select * from made order by k",
    ):
        plain.query(text)


def test_a_prepared_statement_after_its_view_has_changed(plain: Twins) -> None:
    plain.query("create view shown as select m, v, k from made")
    plain.query("insert into shown values (1, 'a', 2), (2, 'b', 1), (3, 'c', 4), (4, 'd', 3)")
    plain.same(parse("update shown set v = v || '!' where k = $1", "s"), SYNC)
    for _ in range(3):
        plain.same(bind(b"2", statement="s"), execute(), SYNC)
    plain.query("drop view shown")
    plain.query("create view shown as select m as k, v, k::int8 as m from made")
    plain.query("prepare p (int8) as update shown set v = v || '?' where m = $1 returning *")
    plain.query("execute p (2)")
    plain.same(parse("update shown set v = v || '.' where k = $1", "t"), bind(b"2", statement="t"), execute(), SYNC)
    plain.query("select * from made order by k")


def test_another_session_sees_the_view_that_there_is(town: Town) -> None:
    with (
        closing(psycopg.connect(town.dsn, autocommit=True)) as one,
        closing(psycopg.connect(town.dsn, autocommit=True)) as other,
    ):
        one.execute("create view shown as select k, v, n from notes")
        try:
            one.execute(
                "insert into shown values (1, 'a', 2), (2, 'b', 1), (3, 'c', 4), (4, 'd', 3), (5, 'e', 6), (6, 'f', 5)"
            )
            for _ in range(4):
                assert other.execute("update shown set v = 'x' where k = 2").rowcount == 1
            one.execute("drop view shown")
            one.execute("create view shown as select n as k, v, k as n from notes")
            for key in range(1, 7):
                assert other.execute(f"update shown set v = 'y{key}' where k = {key}".encode()).rowcount == 1
            assert town.stored() == [(1, "y2"), (2, "y1"), (3, "y4"), (4, "y3"), (5, "y6"), (6, "y5")]
        finally:
            one.execute("drop view shown")


INSTEAD = """
create function instead() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger instead instead of update on shown for each row execute function instead()
"""


@pytest.mark.parametrize("rule", [INSTEAD, "create rule quiet as on update to shown do also notify rang"])
def test_rules_and_instead_of_triggers_are_refused(town: Town, connect: Callable[..., WireClient], rule: str) -> None:
    client = connect(town.dsn)
    client.rows("create view shown as select k, v from notes")
    client.rows("create view above as select k, v from shown")
    client.rows("insert into above values (1, 'a'), (2, 'b'), (3, 'c')")
    client.rows("update above set v = 'x' where k = 1")
    try:
        for command in rule.split(";\n"):
            client.rows(command)
        for view in ("shown", "above"):
            for condition in ("", " where k = 1"):
                trace = client.query(f"update {view} set v = 'y'{condition}")
                assert (state(trace), "triggers or rules" in detail(trace)) == ("0A000", True), trace
        assert town.stored() == [(1, "x"), (2, "b"), (3, "c")]
    finally:
        client.rows("drop view shown cascade")
        client.query("drop function instead()")


@pytest.fixture
def guest(town: Town) -> Iterator[str]:
    """A role that has no rights on the table notes."""
    role = f"guest_{town.dsn.rpartition('/')[2]}"
    for dsn in town.shards:  # the single Postgres is a database of home's server
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"create role {role} login".encode())
    yield role
    for dsn in (*town.shards, town.one):
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"drop owned by {role}".encode())
    for dsn in town.shards:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(b"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s", (role,))
            admin.execute(f"drop role {role}".encode())


def both(town: Town, *texts: str) -> None:
    for dsn in (town.dsn, town.one):
        with psycopg.connect(dsn, autocommit=True) as connection:
            for text in texts:
                connection.execute(text.encode())


ASKED = [
    "update {} set v = v || '!' where k = 1 returning *",
    "update {} set v = v || '?' where k = 5 returning k, v",
    "update {} set v = 'mine' where n < 3",
    "update {} set n = 0 where k = 2",
    "update {} set n = 90 where k = 2",
    "delete from {} where k = 3",
    "delete from {} where n > 4",
    "insert into {} (k, v) values (11, 'a')",
    "insert into {} (k, v) values (12, 'b'), (13, 'c'), (14, 'd')",
    "insert into {} (k, v, n) values (21, 'a', 1), (22, 'b', 2)",
    "insert into {} (k, v, n) values (31, 'a', 70)",
    "insert into {} (k, v) values (1, 'again') on conflict (k) do update set v = excluded.v",
    "insert into {} (k, v) select k + 50, v from {}",
    "insert into {} (k, v) select 99, 'x'",
    "update {} set v = (select max(v) from {}) where n = 1",
    "update {} w set v = o.v from {} o where o.k = w.n",
    "update notes set v = 'not mine' where k = 1",
    "select v from notes where k = 1",
]


@pytest.mark.parametrize(
    ("rights", "options"),
    [
        ("select, insert, update, delete", ""),
        ("select, insert, update, delete", "with (security_invoker)"),
        ("select, insert", "with (security_barrier)"),
        ("insert (k, v), select (k, v), update (v)", ""),
        ("select, update (v, n), delete", "with (security_invoker, security_barrier)"),
    ],
)
def test_rights_and_policies(
    town: Town, connect: Callable[..., WireClient], guest: str, rights: str, options: str
) -> None:
    """With the rights of the view's owner on the table, or those of the client where the view says so."""
    both(
        town,
        f"create view shown {options} as select k, v, n from notes where n is null or n < 50 with check option",
        f"grant {rights} on shown to {guest}",
        "insert into notes select g, 'row ' || g, g from generate_series(1, 9) g",
    )
    try:
        for policy in (
            "",
            f"grant select, insert, update, delete on notes to {guest}",
            "alter table notes enable row level security",
            f"create policy few on notes to {guest} using (k < 6 or n is null) with check (v <> 'mine')",
        ):
            if policy:
                both(town, policy)
            one, proxy = connect(town.one, user=guest), connect(town.dsn, user=guest)
            for text in ASKED:
                for client in (one, proxy):
                    client.query("begin")
                asked = text.format(*["shown"] * 3)
                expected, got = one.query(asked), proxy.query(asked)
                assert sorted(map(str, bare(got))) == sorted(map(str, bare(expected))), (policy, text)
                looks = [dsn.query("rollback") for dsn in (one, proxy)]
                assert looks[0] == looks[1]
    finally:
        both(
            town,
            "drop view shown",
            "drop policy if exists few on notes",
            "alter table notes disable row level security",
            f"revoke all on notes from {guest}",
        )


def bare(trace: Trace) -> Trace:
    """Return a trace with nothing of an error but its SQLSTATE: which of several rows is told of is not fixed."""
    return [("error", entry[1]["C"]) if entry[0] == "error" else entry for entry in trace]


COPIED = [
    "insert into lights values ('red', 1), ('green', 2), ('blue', 3) returning *",
    "insert into lights (number, label) values (4, 'dark'), (5, null)",
    "insert into codes (id, name, shade) values (9, 'black', 'dark')",
    "update lights set label = upper(label) where number < 3 returning *",
    "update lights set label = 'not seen' where number = 9",
    "update lights set number = 8 where number = 5 returning number",
    "insert into lights (number, label) values (1, 'again') on conflict (number) do update set label = excluded.label",
    "insert into lights (number, label) values (9, 'again') on conflict (number) do update set label = excluded.label",
    "insert into lights (number, label) values (1, 'no') on conflict do nothing",
    "insert into lights (number, label) select n + 20, 'row ' || n from generate_series(1, 3) n",
    "insert into lights (number, label) select id + 100, label from lights join codes on id = number",
    "update above set label = label || '!' where number = 2",
    "delete from above where label like 'row%' returning number",
    "delete from lights where number = (select min(number) from lights)",
    "delete from lights where number = 9",
]


def test_views_of_copies_are_written_alike(twins: Twins, any_town: Town) -> None:
    twins.query("create table codes (id int4 primary key, name text, shade text default 'light', n int4 default 7)")
    try:
        twins.query("create view lights as select name as label, id as number from codes where shade <> 'dark'")
        twins.query("create view above as select number, label from lights where label is not null")
        for text in COPIED:
            twins.query(text)
            twins.query("select * from codes order by id")
            copies = any_town.everywhere("select * from codes order by id")
            assert all(copy == copies[0] for copy in copies), text
        for text in COPIED:
            twins.same(parse(text), bind(), execute(), SYNC)
            copies = any_town.everywhere("select * from codes order by id")
            assert all(copy == copies[0] for copy in copies), text
    finally:
        twins.query("drop table codes cascade")


@pytest.mark.parametrize(
    "query",
    [
        "select id, name from codes",  # n is a moment that each copy would have for itself
        "select id, name, n from codes where n > now()",
        "select id, name, n from codes where name in (select v from plain)",
        "select id, name, n from codes where name in (select name from kinds)",
        "select id, name, n from codes where random() > 0.5",
    ],
)
def test_views_of_copies_that_could_differ_are_refused(
    town: Town, connect: Callable[..., WireClient], query: str
) -> None:
    client = connect(town.dsn)
    client.rows("create table codes (id int4 primary key, name text, n timestamptz default now())")
    try:
        if not state(client.query(f"create view shown as {query}")):
            assert state(client.query("insert into shown (id, name) values (1, 'a')")) == "0A000"
        assert town.everywhere("select count(*) from codes") == [[(0,)]] * 3
    finally:
        client.rows("drop table codes cascade")


def test_rows_are_locked_through_views(town: Town, connect: Callable[..., WireClient]) -> None:
    one, other = connect(town.dsn), connect(town.dsn)
    one.rows("create view shown as select v, k as key, n from notes where n > 0")
    one.rows("insert into notes select g, 'row', g - 1 from generate_series(1, 6) g")
    try:
        one.rows("begin")
        assert one.rows("select key from shown where key = 2 for update") == [("2",)]
        assert sorted(one.rows("select key from shown where n > 3 for update")) == [("5",), ("6",)]
        assert other.rows("select k from notes order by k for update skip locked") == [("1",), ("3",), ("4",)]
        assert other.rows("select key from shown order by key limit 2 for update skip locked") == [("3",), ("4",)]
        assert state(other.query("select * from shown where key = 2 for update nowait")) == "55P03"
        one.rows("rollback")
        assert state(other.query("select * from shown where key = 2 for update nowait")) == ""
    finally:
        one.rows("drop view shown")


def test_a_view_without_the_key_is_written_on_all_shards(plain: Twins) -> None:
    for text in (
        "create view shown as select v as value, m from made",
        "insert into made values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4)",
        "update shown set value = value || '!' where m > 1",
        "update shown set value = 'x' where m = 2 returning *",
        "update shown set k = 5",
        "delete from shown where m = 3 returning *",
        "insert into shown values ('y', 5)",
        "select * from made order by k",
    ):
        plain.query(text)
