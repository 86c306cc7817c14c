"""What hides in the schema: planned, refused before it runs, or found out by the audit; never a part of the rows.

`FREE` is tried at home and turns out to touch what lives there. `CAUGHT` is tried, too, and would have seen one shard's
part: it is an error, and nothing of it stays. `REFUSED` is not tried, because no audit could tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from wire_client import SYNC, Twins, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Trace, WireClient

SCHEMA = Path(__file__).with_name("hidden_schema.sql")
ROWS = "insert into notes values (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), (6, 'f')"
COUNT = "select count(*) from notes"


@pytest.fixture(scope="module")
def _made(_town_of_3: Town) -> Iterator[None]:
    with psycopg.connect(_town_of_3.dsn, autocommit=True) as connection:
        for statement in SCHEMA.read_text().split(";\n"):
            connection.execute(statement.encode())
        yield
        connection.execute("drop schema hid cascade")


@pytest.fixture
def client(_made: None, town: Town, connect: Callable[..., WireClient]) -> WireClient:
    found = connect(town.dsn)
    found.rows("truncate hid.log, hid.quiet, hid.loud, hid.watched, hid.domains, hid.derived, hid.preset")
    found.rows(ROWS)
    found.rows("insert into kinds values (1, 'x')")
    found.rows("insert into hid.log (v) values ('first')")
    return found


def state(trace: Trace) -> str:
    return next((entry[1]["C"] for entry in trace if entry[0] == "error"), "")


def message(trace: Trace) -> str:
    return next((entry[1]["M"] for entry in trace if entry[0] == "error"), "")


def everything(town: Town) -> list[object]:
    return [*town.everywhere("select * from notes order by k"), town.on_shard(0, "select v from hid.log order by id"),
            *town.everywhere("select * from kinds order by id")]  # fmt: skip


FREE = [
    ("select hid.ask('select count(*) from hid.log')", "1"),
    ("select hid.ask('select count(*) from kinds')", "1"),
    ("select hid.ask('select 7')", "7"),
    ("select hid.steady('select count(*) from hid.log')", "1"),
    ("select hid.swallow('select count(*) from hid.log')", "1"),
    ("select v from hid.log where hid.ask('select 1') = 1", "first"),
    ("select n from hid.seen_well", "1"),
    ("select 'hid.log' operator(hid.===) 'hid.log'", "t"),
    ("select ('hid.log'::text)::hid.pair", "(hid.log)"),
    ("select 'hid.log'::hid.checked", "hid.log"),
    ("insert into hid.derived values ('hid.log') returning b", "t"),
    ("insert into hid.domains values ('hid.log') returning v", "hid.log"),
    ("insert into hid.preset_well (v) values ('x') returning n", "1"),
    ("insert into hid.quiet values ('x') returning v", "x"),
    ("select now() = now() and hid.ask('select 1') = 1", "t"),
]
CAUGHT = [
    f"select hid.ask('{COUNT}')",
    f"select hid.steady('{COUNT}')",
    f"select hid.swallow('{COUNT}')",
    f"select v, hid.ask('{COUNT}') from hid.log",
    "select hid.swallow('insert into notes values (70, ''x'')')",  # on another shard: the CHECK's error is caught
    "select hid.run('insert into notes values (77, ''x'')')",
    "select hid.run('update notes set v = ''x''')",
    "select hid.run('delete from notes')",
    "select hid.run('truncate notes')",
    "select hid.run('lock table notes')",
    "select hid.run('insert into kinds values (7)')",
    "select hid.run('create table hid.more (x int)')",
    "select hid.run('do $d$ begin perform 1 from notes; end $d$')",
    "call hid.does('delete from notes')",
    "insert into hid.loud values ('x')",
    "insert into hid.quiet values ('rule')",
    "insert into hid.domains values ('notes')",
    "insert into hid.derived values ('notes')",
    "insert into hid.preset (v) values ('x')",
    "select 'notes' operator(hid.===) 'notes'",
    "select ('notes'::text)::hid.pair",
    "select 'notes'::hid.checked",
    "select n from hid.seen",
    "do $$ begin update notes set v = 'x'; end $$",
    "select hid.run('create temp table notes (k int8, v text)')",  # it would hide the sharded one from all that comes
    "do $$ begin create temp table notes (k int8, v text); end $$",
    "do $$ begin create temp view plain as select 1 as id; end $$",
    "do $$ begin create temp table mine (id int); alter table mine rename to plain; end $$",
    "do $$ declare n int; begin select count(*) into n from notes; insert into hid.log (v) values (n); end $$",
    "do $$ begin create type hid.later as enum ('a'); end $$",
    "do $$ begin insert into kinds values (7, 'x'); end $$",
]
REFUSED = [
    "insert into hid.late values ('x')",
    "call hid.ends('delete from notes')",
    "select hid.counting()",
    f"select k, hid.ask('{COUNT}') from notes",
    f"select hid.ask('{COUNT}') from notes where k = 1",
    f"insert into notes values (80, hid.ask('{COUNT}')::text)",
    f"insert into notes values (hid.ask('{COUNT}'), 'x')",
    f"update notes set v = hid.ask('{COUNT}')::text where k = 1",
    "insert into kinds values (hid.ask('select 3'), 'x')",
    "copy (select hid.ask('select count(*) from notes')) to stdout",
    "declare c cursor for select hid.ask('select count(*) from notes')",
    "explain analyze select hid.ask('select count(*) from notes')",
    "explain select hid.steady('select count(*) from notes')",
    "create table hid.copied as select hid.ask('select count(*) from notes') as n",
    "insert into hid.log (v) select hid.ask('select count(*) from notes')::text from notes",
]


def test_what_touches_the_home_shard_only_runs(client: WireClient) -> None:
    for text, expected in FREE:
        client.rows("truncate hid.log restart identity")
        client.rows("insert into hid.log (v) values ('first')")
        _runs(client, text, expected)


def _runs(client: WireClient, text: str, expected: str) -> None:
    assert client.rows(text) == [(expected,)]
    client.send(parse(text), bind(), execute(), SYNC)
    trace = client.read()
    assert state(trace) == "", trace
    client.rows("begin")
    assert client.rows(text) == [(expected,)] or "preset_well" in text, text
    client.rows("commit")


def test_what_touches_more_is_an_error_and_leaves_nothing(client: WireClient, town: Town) -> None:
    for text in CAUGHT:
        _is_caught(client, town, text)


def _is_caught(client: WireClient, town: Town, text: str) -> None:
    before = everything(town)
    simple = client.query(text)
    assert state(simple) == "0A000", simple
    client.send(parse(text), bind(), execute(), SYNC)
    extended = client.read()
    assert (state(extended), message(extended)) == (state(simple), message(simple))
    client.rows("begin")
    client.rows("select count(*) from notes where k = 1")  # its locks are there before
    for key in range(1, 4):
        client.rows(f"update notes set v = 'mine' where k = {key}")
    client.rows("savepoint s")
    assert state(client.query(text)) == state(simple), text
    assert state(client.query("select 1")) == "25P02"
    client.rows("rollback to savepoint s")
    assert client.rows("select count(*) from notes where v = 'mine'") == [("3",)]
    client.rows("rollback")
    assert everything(town) == before, text


def test_what_no_audit_could_tell_does_not_run(client: WireClient, town: Town) -> None:
    before = everything(town)
    for text in REFUSED:
        client.rows("begin")
        assert state(client.query(text)) == "0A000", text
        client.rows("rollback")
        assert text.startswith("declare") or state(client.query(text)) == "0A000", text
    assert everything(town) == before


def test_a_trigger_with_dynamic_sql_on_a_sharded_table_is_refused(client: WireClient, town: Town) -> None:
    client.rows(
        "create trigger hidden before insert on notes for each row execute function "
        "hid.noting('insert into hid.log (v) values (1)')"
    )
    before = everything(town)
    for key in range(100, 106):
        assert state(client.query(f"insert into notes values ({key}, 'x')")) == "0A000"
    assert everything(town) == before
    client.rows("drop trigger hidden on notes")


def test_a_trigger_that_fires_once_for_a_statement_needs_one_shard(client: WireClient, town: Town) -> None:
    """Each shard would fire it for its part of the rows: here, six are too many, and none of three shards has six."""
    client.rows(
        "create function few() returns trigger language plpgsql as $$ begin if (select count(*) from fresh) > 4 then "
        "raise exception 'too many'; end if; return null; end $$"
    )
    fresh = "referencing new table as fresh for each statement execute function few()"
    client.rows(f"create trigger few_in after insert on notes {fresh}")
    client.rows(f"create trigger few_up after update on notes {fresh}")
    client.rows("create trigger few_out before truncate on notes for each statement execute function few()")
    before = everything(town)
    try:
        for text in (
            "insert into notes values " + ", ".join(f"({key}, 'x')" for key in range(100, 106)),
            "insert into notes select k + 100, v from notes",
            "update notes set v = 'x'",
            "update notes set v = 'x' where v = 'none'",
            "merge into notes t using notes s on t.k = s.k when matched then update set v = 'x'",
            "insert into notes values (1, 'x'), (2, 'x'), (3, 'x') on conflict (k) do update set v = 'x'",
            "truncate notes",
        ):
            assert message(client.query(text)).startswith("trigger few_"), text
            trace = client.ask(parse(text), bind(), execute(), SYNC)
            assert message(trace).startswith("trigger few_"), text
        assert message(client.query("copy notes from stdin")).startswith("trigger few_in")
        assert everything(town) == before
        client.rows("insert into notes values (7, 'g')")
        client.rows("update notes set v = 'h' where k = 7")
        client.rows("delete from notes where v in ('a', 'h')")
        assert client.rows("select count(*) from notes") == [("5",)]
        client.rows("create table made (k int8, v text) partition by list (v)")
        client.rows("create table made_x partition of made for values in ('x')")
        client.rows("create trigger few_x before truncate on made_x for each statement execute function few()")
        assert message(client.query("truncate made")).startswith("trigger few_x")
    finally:
        client.rows("drop table if exists made")
        client.rows("drop function few cascade")


def test_policies_with_dynamic_sql(client: WireClient, town: Town, connect: Callable[..., WireClient]) -> None:
    client.rows("create role hid_reader login")
    try:
        client.rows("alter table hid.watched enable row level security")
        client.rows("grant usage on schema hid to hid_reader")
        client.rows("grant select on all tables in schema hid to hid_reader")
        client.rows("grant select on notes to hid_reader")
        client.rows("insert into hid.watched values ('hid.log')")
        reader = connect(town.dsn, user="hid_reader")
        assert reader.rows("select v from hid.watched") == [("hid.log",)]
        client.rows("insert into hid.watched values ('notes')")
        assert state(reader.query("select v from hid.watched")) == "0A000"
        reader.close()
    finally:
        client.rows("drop owned by hid_reader")
        client.rows("drop role hid_reader")


def test_temporary_tables_of_dynamic_sql_stay_with_the_session(client: WireClient) -> None:
    client.rows("select hid.run('create temp table mine as select 1 as x')")
    assert client.rows("select x from mine") == [("1",)]
    client.rows("begin")
    for key in range(1, 4):
        client.rows(f"update notes set v = 'mine' where k = {key}")
    client.rows("do $$ begin insert into mine values (2); end $$")
    client.rows("commit")
    assert client.rows("select count(*) from mine") == [("2",)]
    assert client.rows("select count(*) from notes where v = 'mine'") == [("3",)]


def test_settings_of_dynamic_sql_are_followed(client: WireClient) -> None:
    client.rows("select hid.run('set search_path = hid, public')")
    assert client.rows("show search_path") == [("hid, public",)]
    assert client.rows("select count(*) from log") == [("1",)]


def test_a_copy_that_the_statement_reads_is_not_written_either(client: WireClient, town: Town) -> None:
    before = everything(town)
    write = "update kinds set name = ''y'' where id = 1"
    client.rows("create table hid.linked (kind int references kinds)")
    client.rows(f"create trigger t after insert on hid.linked for each row execute function hid.noting('{write}')")
    try:
        for text in (
            f"select hid.ask('{write} returning id') from kinds where id = 1",
            "insert into hid.linked values (1)",
            "insert into hid.linked select id from kinds",
        ):
            said = message(client.query(text))
            assert said.startswith("what this statement runs has changed one copy"), said
            assert everything(town) == before
    finally:
        client.rows("drop table hid.linked")


def test_advisory_locks_of_dynamic_sql_stay(client: WireClient, town: Town, connect: Callable[..., WireClient]) -> None:
    other = connect(town.dsn)
    client.rows("do $$ begin perform pg_advisory_lock(77); end $$")
    assert other.rows("select pg_try_advisory_lock(77)") == [("f",)]
    assert client.rows("select pg_advisory_unlock(77)") == [("t",)]
    assert other.rows("select pg_try_advisory_lock(77)") == [("t",)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("set statement_timeout = ''300ms''", "settings"),
        ("set role pg_monitor", "the role"),
        ("prepare hid_p as select 1", "prepared statements"),
        ("declare hid_c cursor with hold for select 1", "held cursors"),
    ],
)
def test_what_would_be_gone_with_the_statement_is_refused(client: WireClient, text: str, what: str) -> None:
    for around in (("", ""), ("begin", "rollback")):
        client.query(around[0])
        assert f"has changed {what} of the session" in message(client.query(f"select hid.run('{text}')"))
        client.query(around[1])
        assert client.rows("select count(*) from pg_prepared_statements where from_sql") == [("0",)]
    assert client.rows("select current_user, current_setting('statement_timeout')") == [("postgres", "0")]


def test_what_comes_after_a_truncate_cannot_be_told(client: WireClient) -> None:
    client.rows("begin")
    client.rows("truncate notes")
    trace = client.query("select hid.ask('select 1')")
    assert "nobody could tell" in message(trace)
    client.rows("rollback")


def test_a_portal_that_is_not_read_to_its_end_is_audited(client: WireClient, town: Town) -> None:
    text = "select hid.run('update notes set v = ''x''') from generate_series(1, 3)"
    before = everything(town)
    client.send(parse(text), bind(), execute(limit=1), SYNC)
    assert state(client.read()) == "0A000"
    assert everything(town) == before


def test_the_route_says_so(client: WireClient) -> None:
    shown = [str(row[0]) for row in client.rows("explain (route) select hid.ask('select 1')")]
    assert any("udit" in line for line in shown), shown


COUNTING_TYPES = (
    "create function counted() returns bigint language sql stable as 'select count(*) from notes'",
    "create domain fewer as int8 check (value > counted())",
    "create type holder as (d fewer)",
    "create type outer_holder as (h holder, n int)",
    "create type span as range (subtype = fewer)",
    "create table held (id int, h holder)",
    "create function lets() returns int language plpgsql as $$declare h holder; begin h := row(4); return 1; end$$",
    "create function gives() returns holder language plpgsql as $$begin return row(4); end$$",
    "create function checks(t text) returns boolean language sql as $$select pg_input_is_valid('4', t)$$",
)
MAKES_ONE = (
    "select 4::fewer",
    "select row(4)::holder",
    "select '(4)'::holder",
    "select '(4)'::text::holder",
    "select row(row(4), 1)::outer_holder",
    "select row(1, row(4))::held",
    """select '{"(4)"}'::holder[]""",
    """select '{"(4)"}'::_holder""",
    "select '[4,4]'::span",
    "select span(4, 4)",
    "select '{[4,4]}'::span_multirange",
    """select * from jsonb_populate_record(null::holder, '{"d": 4}')""",
    """select * from json_populate_recordset(null::holder, '[{"d": 4}]')""",
    """select jsonb_populate_record(h, '{"d": 4}') from held""",
    """select * from jsonb_to_record('{"h": {"d": 4}}') as r(h holder)""",
    """select * from json_table('{"d": 4}', '$' columns (d fewer path '$.d'))""",
    """select json_value('{"d": 4}', '$.d' returning fewer)""",
    "select pg_input_is_valid('4', 'fewer')",
    "select pg_input_is_valid('(4)', 'public.holder[]')",
    "select message from pg_input_error_info('4', 'fewer')",
    "select pg_input_is_valid('4', t) from (values ('fewer')) v(t)",
    "select lets()",
    "select gives()",
    "select checks('fewer')",
    "insert into held values (2, row(4))",
    "update held set h.d = 4",
    "prepare made(fewer) as select $1",
    "prepare counted_on(fewer) as select k from notes where k = 1; execute counted_on(4)",
)
#: The same names where nothing is counted.
MAKES_NONE = (
    "select 'fewer', pg_input_is_valid('4', 'int4'), pg_input_is_valid('x', 'pg_catalog.int8')",
    "select (h).d from held",
    "select said() from notes where k = 1",
    "insert into notes values (17, said())",
)


def test_what_the_domain_in_a_type_counts_is_not_a_part(client: WireClient) -> None:
    """There are six notes, and fewer on each shard."""
    kept = (
        "create domain en as text check (counted() > 0)",
        "create function said() returns text language plpgsql as $$begin if true then return 'fewer'; end if; end$$",
    )
    try:
        for text in (*COUNTING_TYPES, *kept):
            client.rows(text)
        answers = {text: state(client.query(text)) for text in (*MAKES_ONE, *MAKES_NONE)}
        assert {text: found for text, found in answers.items() if found != ("0A000" if text in MAKES_ONE else "")} == {}
    finally:
        client.query("drop table held; drop function lets, gives, checks, said; drop domain en")
        client.query("drop type outer_holder, holder, span; drop domain fewer; drop function counted")


ENDS_ITSELF = "do $$ begin insert into plain values (1, 'x'); commit; insert into plain values (2); rollback; end $$"


def test_do_that_ends_its_transaction(town: Town, connect: Callable[..., WireClient]) -> None:
    """In a block it fails as in Postgres; outside of any it is refused, by DO and by what that calls."""
    client = connect(town.dsn)
    twins = Twins(connect(town.one), client)
    for text in (f"begin; {ENDS_ITSELF}", f"select 1; {ENDS_ITSELF}"):
        assert state(twins.query(text)) == "2D000"
        twins.query("rollback")
    client.rows("create procedure ends_it(v text) language plpgsql as $$ begin execute v; commit; end $$")
    for text in (ENDS_ITSELF, "do $$ begin rollback; end $$", "do $$ begin call ends_it('select 1'); end $$"):
        assert state(client.query(text)) == "0A000"
        client.send(parse(text), bind(), execute(), SYNC)
        assert state(client.read()) == "0A000"
    client.rows("drop procedure ends_it")
    assert client.rows("select * from plain") == []
    assert not state(twins.query("do $$ begin if false then commit; end if; end $$"))
