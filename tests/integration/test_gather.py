"""Statements whose rows are gathered: joins off the key and the like, as one Postgres answers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Twins, WireClient

PLAIN = "insert into plain values (1, 'note 1'), (2, 'note 22'), (3, null)"
KINDS = "insert into kinds values (0, 'zero'), (1, 'one'), (7, 'seven')"


@pytest.fixture
def filled(twins: Twins) -> Twins:
    values = ", ".join(f"({key}, 'note {key}', {key % 3})" for key in range(1, 31))
    for text in (f"insert into notes values {values}", PLAIN, KINDS, "insert into words values ('note 3', 3)"):
        twins.query(text)
    return twins


def tags(trace: list[tuple[Any, ...]]) -> list[str]:
    return [entry[1] for entry in trace if entry[0] == "tag"]


def test_joins_off_the_key_and_kin(filled: Twins) -> None:
    for text in (
        "select a.k, b.k from notes a join notes b on b.k = a.n order by 1, 2",
        "select (select max(k) from notes b where k > 3) from notes group by (select max(k) from notes b where k > 3)",
        "select n.k, p.id from notes n join plain p on p.v = n.v order by 1",
        "select n.k, p.id, k.name from notes n left join plain p using (v) left join kinds k on k.id = n.n order by 1",
        "select count(*) from notes, plain, kinds",
        "select count(*) + 1 as c from notes",
        "select n, count(distinct v), string_agg(v, ',' order by v) from notes group by n having n > 0 order by n",
        "select n, row_number() over (order by n desc, k) from notes order by 2",
        "with recursive t (k) as (select 1::int8 union all select n.k from notes n join t on n.k = t.k + 3) table t",
        "select k from notes union select n from words order by 1 desc",
        'select * from notes order by v collate "C" desc limit 3',
        "select k, (select max(w.n) from words w) from notes where v in (select word from words) order by 1",
        "select k from notes order by k % 5, k fetch first 2 rows with ties",
        "table plain, notes order by 1",
        "select public.notes.k from only public.notes, (values (1), (2)) as two (x) where notes.n = x order by 1",
        "select p.* from plain as p (a, b), notes where b = v order by a",
        "select grouping(n), n, sum(k) from notes group by rollup (n) order by 1, 2",
        "select k, v from notes group by k having sum(n) > (select 1) order by k",
        "select json_agg(row_to_json(p) order by id) from plain p, words",
        "select count(*) from notes where nope = 1",
    ):
        trace = filled.query(text)
        assert tags(trace) or "nope" in text or "table plain," in text, trace


@pytest.mark.parametrize("results", [(), (1,), (0, 1)])
def test_parameters_formats_and_descriptions(filled: Twins, results: tuple[int, ...]) -> None:
    text = "select a.k, b.v from notes a join plain b on b.v = a.v where a.k < $1 and b.id > $2 and $3::text is null"
    filled.same(parse(text, "s"), describe("S", "s"), SYNC)
    for low in (b"0", b"1", b"9"):
        filled.same(bind(b"30", low, None, statement="s", results=results), describe("P"), execute(), SYNC)


def test_row_limits_suspend_the_portal(filled: Twins) -> None:
    text = "select a.k from notes a join notes b on b.k = a.n order by 1"
    filled.same(parse(text), bind(portal="p"), execute("p", 3), FLUSH, until="s")
    filled.same(execute("p", 2), parse("select count(*) from notes"), bind(), execute(), FLUSH, until="C")
    filled.same(execute("p"), SYNC)


def test_a_block_sees_what_it_has_written(filled: Twins) -> None:
    for text in (
        "begin",
        "insert into notes values (100, 'new', 0), (101, 'new', 1)",
        "update plain set v = 'new' where id = 3",
        "insert into kinds values (100, 'hundred')",
        "select n.k, p.id, k.name from notes n join plain p on p.v = n.v left join kinds k on k.id = n.k order by 1",
        "rollback",
        "select n.k, p.id from notes n join plain p on p.v = n.v order by 1",
    ):
        filled.query(text)


def test_settings_of_the_session_and_of_the_block_hold(filled: Twins) -> None:
    for text in (
        "set datestyle = 'German, DMY'",
        "begin",
        "set local timezone = 'America/Lima'",
        "select count(*), '2024-02-01 12:00+00'::timestamptz, '01.02.2024'::date from notes a, plain b",
        "commit",
        "select count(*), '2024-02-01 12:00+00'::timestamptz at time zone 'utc' from notes a, plain b",
        "set default_transaction_read_only = on",
        "select count(*) from notes a, plain b",
        "set default_transaction_read_only = off",
    ):
        filled.query(text)


def test_the_clock_stands_still_in_a_block(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.query("insert into notes values (1), (2), (3)")
    client.query("begin")
    ((first,),) = client.rows("select now() from plain right join (select 1) x on true")
    rows = client.rows("select now(), current_timestamp, localtimestamp(0) is null, current_date = now()::date, x.now "
                       "from notes a, notes b, (select now()) x")  # fmt: skip
    assert len(rows) == 9
    assert {row[0] for row in rows} == {row[1] for row in rows} == {row[4] for row in rows} == {first}
    assert {row[2:4] for row in rows} == {("f", "t")}
    client.query("commit")


def test_too_much_is_refused(modest_town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(modest_town.dsn)
    client.query("insert into notes values " + ", ".join(f"({key}, repeat('x', 100), 1)" for key in range(300)))
    client.query("begin")
    trace = client.query("select count(*) from notes a join notes b on a.v < b.v")
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["53400"]
    client.query("rollback")
    assert client.rows("select count(*) from notes a join notes b on a.n = b.k where b.k = 1") == [("300",)]


def test_a_cancel_stops_what_runs_over_gathered_rows(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.query("insert into notes values (1), (2), (3)")
    client.send(Query(b"select pg_sleep(100) from notes a, notes b"))
    eventually(lambda: any("pg_sleep" in row[2] for row in town.busy()), "it does not run")
    client.cancel()
    assert [entry[1]["C"] for entry in client.read() if entry[0] == "error"] == ["57014"]
    assert client.rows("select count(*) from notes a, notes b") == [("9",)]


def test_a_client_that_vanishes_leaves_nothing(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.query("insert into notes values (1), (2), (3)")
    client.send(Query(b"select pg_sleep(100) from notes a, notes b"))
    eventually(lambda: any("pg_sleep" in row[2] for row in town.busy()), "it does not run")
    client.vanish()  # the fixture sees that nothing is left


def test_types_of_the_users_own_are_told_apart_by_name(any_town: Town, filled: Twins) -> None:
    for number, dsn in enumerate(any_town.shards):  # what is created then has another OID on each of them
        with psycopg.connect(dsn, autocommit=True) as admin:
            for _ in range(number):
                admin.execute("create type spare as enum ('x')")
                admin.execute("drop type spare")
    for text in (
        "create type mood as enum ('sad', 'ok')",
        "create domain grade as numeric(5, 2) check (value < 100)",
        "create table made (k int8 primary key, m mood, d grade)",
        "insert into made values (1, 'ok', 1.5), (2, 'sad', 2), (3, 'ok', null), (4, null, 1.50)",
        "select m, count(*), sum(d) from made group by m having count(*) > 0 order by m",
        "select a.k, b.m from made a join made b on b.d = a.d order by 1, 2",
        "select d, array_agg(m order by m), max(m) from made group by d having true order by d",
        "select m from made where m > 'sad'",
        "select k, m from made order by k",
        "drop table made",
        "drop domain grade",
        "drop type mood",
    ):
        filled.query(text)


def test_the_same_link_serves_the_next_statement(narrow_town: Town, connect: Callable[..., WireClient]) -> None:
    one, other = connect(narrow_town.dsn), connect(narrow_town.dsn, user="postgres")
    one.query("insert into notes values (1), (2), (3)")
    one.query("set search_path = pg_temp_nothing, public")
    for _ in range(3):
        for client in (one, other):
            assert client.rows("select count(*) from notes a, notes b") == [("9",)]


@pytest.fixture
def guest(town: Town) -> Iterator[str]:
    """A role that may read some columns, some rows, and one view."""
    role = f"guest_{town.dsn.rpartition('/')[2]}"
    for dsn in town.shards:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"create role {role} login".encode())
    with psycopg.connect(town.dsn, autocommit=True) as client:
        for text in (
            f"grant select (k, n) on notes to {role}",
            f"grant select on words, kinds to {role}",
            "alter table words enable row level security",
            f"create policy mine on words to {role} using (n < 3)",
            "create view open as select k, v from notes",
            "create view shut as select n from notes",
            f"grant select on open to {role}",
        ):
            client.execute(text.encode())
    yield role
    with psycopg.connect(town.dsn, autocommit=True) as client:
        for text in (
            "drop view open, shut",
            "drop policy mine on words",
            "alter table words disable row level security",
            f"revoke all on notes, words, kinds from {role}",
        ):
            client.execute(text.encode())
    for dsn in town.shards:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(b"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s", (role,))
            admin.execute(f"drop role {role}".encode())


def test_gathering_reads_what_the_role_may_read(town: Town, connect: Callable[..., WireClient], guest: str) -> None:
    owner = connect(town.dsn)
    owner.query("insert into notes values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)")
    owner.query("insert into words values ('one', 1), ('two', 2), ('three', 3), ('four', 4)")
    client = connect(town.dsn, user=guest)

    def state(text: str) -> str:
        return next((entry[1]["C"] for entry in client.query(text) if entry[0] == "error"), "")

    assert client.rows("select a.k, b.n from notes a join notes b on a.k = b.n order by 1") == [
        ("1", "1"), ("2", "2"), ("3", "3"),
    ]  # fmt: skip
    assert client.rows("select n, count(*) + 0 from words group by n having true order by n") == [
        ("1", "1"),
        ("2", "1"),
    ]
    assert state("select count(*) + 0 from notes where v = 'a'") == "42501"
    assert state("select a.v from notes a join notes b on a.k = b.n") == "42501"
    assert sorted(client.rows("select k from open")) == [("1",), ("2",), ("3",)]  # as it came
    assert state("select count(*) + 0 from open") == "42501"  # it may read the view, but its rows are another matter
    assert state("select count(*) + 0 from shut") == "42501"
    assert state("select n from shut") == "42501"


def test_what_shards_group_and_sort_is_finished_by_one(filled: Twins) -> None:
    for text in (
        "select n, count(*) + 1, string_agg(distinct v, ',') from notes group by n having sum(k) > 9 order by n",
        "select v || '!' as w, count(*) from notes group by w order by w desc limit 3 offset 1",
        "select max(v), min(v), count(distinct n), sum(k) * 2, bool_and(n > 0) or false from notes",
        "select count(*) + 0, sum(n), avg(n) from notes where k > 1000",
        'select v from notes order by v collate "C" limit 3',
        "select v, k from notes order by upper(v), k limit 2 offset 5",
        "select v from notes order by length(v), v fetch first 1 row with ties",
        "select distinct v from notes order by v desc limit 2",
    ):  # fmt: skip
        filled.query(text)
    text = "select v from notes where k < $1 order by upper(v) limit $2 offset $3"
    filled.same(parse(text, "s"), describe("S", "s"), SYNC)
    for limit, offset in ((b"3", b"1"), (None, b"2"), (b"3", None), (None, None), (b"9223372036854775807", b"7")):
        filled.same(bind(b"20", limit, offset, statement="s"), execute(), SYNC)
    text = "select n % $1 as r, count(*) from notes group by 1 having count(*) > $2 order by 1"
    filled.same(parse(text, oids=(23, 20)), bind(b"2", b"3"), describe("P"), execute(), SYNC)


def test_copy_of_a_query_that_is_gathered(filled: Twins) -> None:
    for text in (
        "copy (select v, k from notes order by v desc limit 3) to stdout",
        "copy (select n, count(*) from notes group by n order by n) to stdout with (format csv, header)",
        "copy (select a.k, p.id from notes a join plain p using (v) order by 1) to stdout (format binary)",
        "copy (select nope from notes order by k) to stdout",
        "select count(*) from notes",
    ):
        filled.query(text)
    filled.same(parse("copy (select k from notes order by v limit 2) to stdout"), bind(), execute(), SYNC)
