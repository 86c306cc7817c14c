"""What a session sets stays with it: over statements, shards and links, and never goes to another client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import SYNC, ServerClosedError, Twins, bind, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]


def seen(town: Town, client: WireClient, expression: str) -> list[str | None]:
    """Evaluate an expression on each shard by a statement of that shard's."""
    return [client.rows(f"select {expression} from notes where k = {key}")[0][0] for key in town.spread]


@pytest.fixture
def narrow(narrow_town: Town, connect: Connect) -> Town:
    with_rows = connect(narrow_town.dsn)
    with_rows.query("insert into notes values " + ", ".join(f"({key}, 'x')" for key in narrow_town.spread))
    return narrow_town


# ---- settings ----


def test_settings_reach_every_shard(town: Town, connect: Connect) -> None:
    client, other = connect(town.dsn), connect(town.dsn)
    client.query("insert into notes values " + ", ".join(f"({key}, 'x')" for key in town.spread))
    client.query("set work_mem = '5MB'; set application_name = 'me'")
    assert seen(town, client, "current_setting('work_mem')") == ["5MB"] * 3
    assert seen(town, client, "current_setting('application_name')") == ["me"] * 3
    assert seen(town, other, "current_setting('work_mem')") == ["4MB"] * 3
    client.query("reset work_mem")
    assert seen(town, client, "current_setting('work_mem')") == ["4MB"] * 3
    client.query("select set_config('work_mem', '6MB', false)")
    assert seen(town, client, "current_setting('work_mem')") == ["6MB"] * 3
    client.query("reset all")
    assert seen(town, client, "current_setting('work_mem')") == ["4MB"] * 3
    assert seen(town, client, "current_setting('application_name')") == [""] * 3
    client.query("begin")
    assert seen(town, client, "current_setting('work_mem')")[:1] == ["4MB"]
    client.ask(parse("select set_config('work_mem', $1, false)"), bind(b"9MB"), execute(), SYNC)
    assert seen(town, client, "current_setting('work_mem')") == ["9MB"] * 3
    for refused in ("select set_config('standard_conforming_strings', $1, false)", "select set_config($1, 'x', false)"):
        assert sqlstates(connect(town.dsn).ask(parse(refused), SYNC)) == ["0A000"]
    client.query("savepoint s; select set_config('work_mem', '10MB', true)")
    assert seen(town, client, "current_setting('work_mem')") == ["10MB"] * 3
    client.query("rollback to s")
    assert seen(town, client, "current_setting('work_mem')") == ["9MB"] * 3
    client.query("commit")
    assert seen(town, client, "current_setting('work_mem')") == ["9MB"] * 3


def test_start_up_settings(town: Town, connect: Connect) -> None:
    client = connect(town.dsn, application_name="mine", options="-c work_mem=7MB --search_path=nowhere,public")
    client.query("insert into notes values " + ", ".join(f"({key}, 'x')" for key in town.spread))
    assert client.parameters["application_name"] == "mine"
    assert seen(town, client, "current_setting('work_mem')") == ["7MB"] * 3
    client.query("set work_mem = '8MB'; set search_path = public")
    client.query("reset work_mem")
    assert seen(town, client, "current_setting('work_mem')") == ["7MB"] * 3
    client.query("discard all")
    assert seen(town, client, "current_setting('search_path')") == ["nowhere,public"] * 3
    assert client.rows("show application_name") == [("mine",)]
    with pytest.raises(ServerClosedError) as closed:
        connect(town.dsn, options="-c nothing_of_that_name=1")
    assert closed.value.trace[-1][1]["C"] == "42704"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("standard_conforming_strings", "off"),
        ("standard_conforming_strings", "f"),
        ("transform_null_equals", "tr"),
        ("array_nulls", "off"),
        ("session_replication_role", "replica"),
    ],
)
def test_nobody_makes_shards_read_otherwise_than_the_router(
    town: Town, connect: Connect, name: str, value: str
) -> None:
    """``v <> '\\' AND k = 1 --'`` is one string with standard_conforming_strings off: only one shard would be asked."""
    client = connect(town.dsn)
    for text in (
        f"set {name} = '{value}'",
        f"select set_config('{name}', '{value}', false)",
        f"alter role postgres set {name} = '{value}'",
        f"alter database any_name set {name} = '{value}'",
    ):
        assert sqlstates(client.query(text)) == ["0A000"], text
    for startup in ({"options": f"-c {name}={value}"}, {name: value}):
        assert login_refused(town, connect, **startup) == "0A000"
    try:
        alter_databases(town, f"SET {name} = '{value}'")
        eventually(lambda: login_refused(town, connect) == "0A000", "the default is not noticed")
    finally:
        alter_databases(town, f"RESET {name}")
    eventually(lambda: login_refused(town, connect) == "", "the default is not forgotten")


def login_refused(town: Town, connect: Connect, **startup: str) -> str:
    """Return the SQLSTATE with which a login ends, '' if it does not."""
    try:
        connect(town.dsn, **startup).query("select 1")
    except ServerClosedError as closed:
        return str(closed.trace[-1][1]["C"])
    return ""


def alter_databases(town: Town, change: str) -> None:
    for dsn in reversed(town.shards):  # home last: it is watched
        with psycopg.connect(dsn, autocommit=True) as direct:
            direct.execute(f"ALTER DATABASE {dsn.rpartition('/')[2]} {change}".encode())


@pytest.mark.parametrize(
    "text",
    [
        "set datestyle = 'German, DMY'",
        "set timezone = 'Asia/Tokyo'; set intervalstyle = iso_8601",
        "set local work_mem = '5MB'",
        "set session characteristics as transaction isolation level repeatable read; show transaction_isolation",
        "set work_mem to default; show work_mem",
        "set work_mem = 'much'",
        "set nothing_of_that_name = 1",
        "set client_encoding = 'UTF8'",
        "set my.own = 'x'; show my.own",
        "show my.other",
        "show all_of_it",
        "set search_path = 'public', \"Mixed\", pg_temp; show search_path",
        "set extra_float_digits = 0; select 0.1::float8 + 0.2",
        "set escape_string_warning = off; set standard_conforming_strings = off; select 'a\\\\b'",
        "set bytea_output = escape; select '\\x00ff'::bytea",
        "begin; set timezone = 'Asia/Tokyo'; rollback",
        "begin; set local timezone = 'Asia/Tokyo'; commit; show timezone",
        "begin; set timezone = 'Asia/Tokyo'; savepoint s; set timezone = 'UTC'; rollback to s; commit; show timezone",
        "set session authorization default; set role none; reset role",
        "set role nobody_of_that_name",
        "select set_config('timezone', 'Asia/Tokyo', true), current_setting('timezone')",
        "set statement_timeout = '1min'; reset all; show statement_timeout",
        "set timezone = 'Asia/Tokyo'; discard all; show timezone",
        "discard plans; discard sequences; discard temp",
        "set xmloption = content; set seed = 0.5",
        "set names 'utf8'",
        "set time zone 'Europe/Oslo'; show time zone",
        "set time zone interval '+02:00' hour to minute; show timezone",
    ],
)
def test_settings_as_postgres_reports_them(twins: Twins, any_town: Town, text: str) -> None:
    for statement in text.split("; "):
        if "conforming" in statement and len(any_town.shards) > 1:
            assert sqlstates(twins.proxy.query(statement)) == ["0A000"]
            break
        twins.query(statement)


def test_nothing_leaks_to_the_next_client(narrow: Town, connect: Connect) -> None:
    """One link to each shard: whoever comes next gets the link that was used before."""
    for number in range(3):
        first = connect(narrow.dsn)
        first.query("set work_mem = '5MB'; set timezone = 'Asia/Tokyo'; set search_path = nowhere, public")
        assert seen(narrow, first, "current_setting('work_mem')") == ["5MB"] * 3
        if number == 1:
            first.query("begin; set local statement_timeout = '77s'; select 1 / 0")
        if number == 2:
            first.query("begin; set work_mem = '6MB'")
            seen(narrow, first, "1")
        first.query("rollback")
        second = connect(narrow.dsn)
        shown = (
            "concat_ws(' ', current_setting('work_mem'), current_setting('TimeZone'), current_setting('search_path'))"
        )
        default = seen(narrow, second, shown)[0]
        assert "5MB" not in str(default)
        assert seen(narrow, second, shown) == [default] * 3
        assert seen(narrow, second, "current_setting('statement_timeout')") == ["0"] * 3
        assert seen(narrow, first, "current_setting('work_mem')") == ["5MB"] * 3
        first.close()
        assert seen(narrow, second, shown) == [default] * 3


def test_custom_settings_leave_nothing_behind(narrow: Town, connect: Connect) -> None:
    first, second = connect(narrow.dsn), connect(narrow.dsn)
    first.query("set app.tenant = 'secret'")
    assert seen(narrow, first, "current_setting('app.tenant', true)") == ["secret"] * 3
    assert seen(narrow, second, "current_setting('app.tenant', true)") == [None] * 3
    assert seen(narrow, first, "current_setting('app.tenant', true)") == ["secret"] * 3
    first.query("begin")
    first.query("set local app.tenant = 'other'")
    assert seen(narrow, first, "current_setting('app.tenant', true)") == ["other"] * 3
    first.query("commit")
    assert seen(narrow, second, "current_setting('app.tenant', true)") == [None] * 3


def test_custom_settings_leave_nothing_behind_a_write(narrow: Town, connect: Connect) -> None:
    """Where there are functions a write may have set anything: what was there before is not forgotten by that."""
    first, second = connect(narrow.dsn), connect(narrow.dsn)
    first.query("create function of_a_trigger() returns int language sql return 1")
    first.query("set app.written = 'secret'")
    for key in narrow.spread:
        first.query(f"update notes set v = 'y' where k = {key}")
    assert seen(narrow, first, "current_setting('app.written', true)") == ["secret"] * 3
    for key in narrow.spread:
        first.query(f"update notes set v = 'z' where k = {key}")
    assert seen(narrow, second, "current_setting('app.written', true)") == [None] * 3
    first.query("drop function of_a_trigger()")


def test_what_a_function_sets_is_not_left_on_the_link(narrow: Town, connect: Connect) -> None:
    narrow.direct(
        "create or replace function sets() returns int language plpgsql as"
        " $$ begin perform set_config('work_mem', '9MB', false); return 1; end $$"
    )
    first = connect(narrow.dsn)
    first.query("create or replace function sets_too() returns int language plpgsql as $$ begin return 1; end $$")
    trace = first.query("select sets()")
    if not sqlstates(trace):
        assert connect(narrow.dsn).rows("show work_mem") == [("4MB",)]
    narrow.direct("drop function sets(); drop function if exists sets_too()")


@pytest.fixture
def role(narrow: Town) -> Iterator[str]:
    """A role that only the home shard's server has."""
    name = "only_" + narrow.shards[0].rpartition("/")[2]
    with psycopg.connect(narrow.shards[0], autocommit=True) as connection:
        connection.execute(f"create role {name}".encode())
        connection.execute(f"grant all on notes to {name}".encode())
        yield name
        connection.execute(f"drop owned by {name}".encode())
        connection.execute(f"drop role {name}".encode())


def test_no_statement_runs_with_more_rights_than_its_session_has(narrow: Town, connect: Connect, role: str) -> None:
    """The role does not exist on the other shards: what is to run as it there must not run as somebody else."""
    home, second, third = narrow.spread
    client = connect(narrow.dsn)
    client.query(f"set role {role}")
    assert client.rows(f"select current_user::text from notes where k = {home}") == [(role,)]
    for _ in range(2):
        assert sqlstates(client.query(f"update notes set v = 'as whom?' where k = {second}")) == ["22023"]
        assert sqlstates(client.query("update notes set v = 'as whom?'")) == ["22023"]
    client.query("begin")
    client.query(f"update notes set v = 'allowed' where k = {home}")
    assert sqlstates(client.query(f"update notes set v = 'as whom?' where k = {third}")) == ["22023"]
    client.query("rollback")
    assert {v for _, v in narrow.stored()} == {"x"}
    other = connect(narrow.dsn)
    assert seen(narrow, other, "current_user::text") == ["postgres"] * 3


# ---- what pins a link ----


def test_a_setting_of_a_commit_that_failed_is_left_on_no_link(narrow: Town, connect: Connect) -> None:
    """PREPARE TRANSACTION keeps SETs, and ROLLBACK PREPARED does not undo them: there is one link to each shard."""
    client, other = connect(narrow.dsn), connect(narrow.dsn)
    a, b, c = narrow.spread
    client.query("begin")
    client.query("set work_mem = '7MB'")
    client.query("select set_config('statement_timeout', '77s', false)")
    client.query(f"update notes set v = 'y' where k in ({a}, {b}, {c})")
    client.query(f"insert into children values ({b}, 1)")  # without its parent: PREPARE, or what goes before, fails
    assert sqlstates(client.query("commit")) == ["23503"]
    for one in (other, client):
        assert seen(narrow, one, "current_setting('work_mem')") == ["4MB"] * 3
        assert seen(narrow, one, "current_setting('statement_timeout')") == ["0"] * 3


def test_temporary_tables_are_private(town: Town, connect: Connect) -> None:
    first, second = connect(town.dsn), connect(town.dsn)
    first.query("create temporary table mine (k int8, v text)")
    first.query("insert into mine values (1, 'x'), (2, 'y')")
    assert first.rows("select count(*) from mine") == [("2",)]
    assert sqlstates(second.query("select count(*) from mine")) == ["42P01"]
    second.query("create temporary table mine (other int)")
    assert second.rows("select count(*) from mine") == [("0",)]
    first.query("begin")
    first.query("insert into mine values (3, 'z')")
    first.query("rollback")
    assert first.rows("select count(*) from mine") == [("2",)]
    first.query("begin")
    first.query("insert into mine values (3, 'z')")
    first.query(f"insert into notes values ({town.spread[1]}, 'b')")
    assert first.query("commit")[0] == ("tag", "COMMIT")
    assert first.rows("select count(*) from mine") == [("3",)]
    first.query("discard all")
    assert sqlstates(first.query("select count(*) from mine")) == ["42P01"]
    first.close()
    assert second.rows("select count(*) from mine") == [("0",)]


def test_notifications(town: Town, connect: Connect) -> None:
    listener, speaker = connect(town.dsn), connect(town.dsn)
    listener.query("listen news")
    speaker.query("notify news, 'one'")
    heard = listener.read("A")[-1][1]
    assert heard[4:] == b"news\0one\0"
    trace = listener.query("notify news, 'myself'")
    own = [entry for entry in trace if entry[0] == "notification"] or [listener.read("A")[-1]]
    assert own[0][1] == listener.key[0].to_bytes(4, "big") + b"news\0myself\0"
    speaker.query("begin; notify news, 'never'; rollback; notify news, 'last'")
    assert listener.read("A")[-1][1].endswith(b"last\0")
    listener.query("unlisten *")
    speaker.query("notify news, 'unheard'")
    assert not [entry for entry in listener.query("select 1") if entry[0] == "notification"]


def test_session_advisory_locks(town: Town, connect: Connect) -> None:
    first, second = connect(town.dsn), connect(town.dsn)
    first.query("select pg_advisory_lock(77)")
    assert second.rows("select pg_try_advisory_lock(77)") == [("f",)]
    assert first.rows("select pg_advisory_unlock(77)") == [("t",)]
    first.query("select pg_advisory_lock(77)")
    first.close()
    second.query("set lock_timeout = '10s'")
    assert not sqlstates(second.query("select pg_advisory_lock(77)"))


@pytest.mark.parametrize(
    "text",
    [
        "select pg_advisory_lock(78), 1 / (length(now()::text) - length(now()::text))",
        "do $$ begin perform pg_advisory_lock(78); raise 'no'; end $$",
        "do $$ begin execute 'select pg_advisory_lock(78)'; perform 1 / 0; end $$",
        "do $$ begin execute 'select pg_advisory_lock(78)'; end $$",
    ],
)
@pytest.mark.parametrize("block", ["", "begin", "begin; savepoint a", "begin; select count(*) from notes; savepoint a"])
def test_advisory_locks_outlive_what_fails(any_town: Town, connect: Connect, text: str, block: str) -> None:
    first, second = connect(any_town.dsn), connect(any_town.dsn)
    first.query(block)
    first.query(text)
    if "savepoint" in block:
        first.query("rollback to a")
        assert second.rows("select pg_try_advisory_lock(78)") == [("f",)]
    first.query("rollback")
    assert second.rows("select pg_try_advisory_lock(78)") == [("f",)]
    assert first.rows("select pg_advisory_unlock(78)") == [("t",)]
    first.ask(parse(text), bind(), execute(), SYNC)
    assert second.rows("select pg_try_advisory_lock(78)") == [("f",)]
    first.close()
    second.query("set lock_timeout = '10s'")
    assert not sqlstates(second.query("select pg_advisory_lock(78)"))


@pytest.mark.parametrize("text", ["create temp table tt (a int)", "listen x", "select pg_advisory_lock(80)"])
@pytest.mark.parametrize("where", ["narrow_town", "pair_town"])
def test_a_kept_link_whose_server_process_has_died_gives_its_place_back(
    request: pytest.FixtureRequest, connect: Connect, where: str, text: str
) -> None:
    """There are one, or two, for each shard."""
    town: Town = request.getfixturevalue(where)
    for _ in range(3):
        client = connect(town.dsn)
        client.query(text)
        ((pid,),) = client.rows("select pg_backend_pid()")
        town.on_shard(0, f"select pg_terminate_backend({pid})")
        eventually(lambda pid=pid: not town.on_shard(0, f"select from pg_stat_activity where pid = {pid}"))
        assert b"57P01" in client.frames(lambda kind: kind == ord("E"))[-1][1]
        assert client.socket.recv(1) == b""
        client.close()
    assert connect(town.dsn).rows("select 3") == [("3",)]


REPEATABLE = "set session characteristics as transaction isolation level repeatable read"
READ_ONLY = "set session characteristics as transaction read only"
DEFERRABLE = "set session characteristics as transaction deferrable"
MODES = (
    "select current_setting('transaction_isolation'), current_setting('transaction_read_only'), "
    "current_setting('default_transaction_isolation'), current_setting('default_transaction_read_only'), "
    "current_setting('default_transaction_deferrable')"
)


@pytest.mark.parametrize(
    "texts",
    [
        [REPEATABLE, READ_ONLY],
        [READ_ONLY, REPEATABLE],
        [REPEATABLE, READ_ONLY, DEFERRABLE],
        [f"{READ_ONLY}, isolation level repeatable read, deferrable", READ_ONLY.replace("only", "write")],
        [REPEATABLE, "reset default_transaction_isolation"],
        ["set default_transaction_isolation = 'repeatable read'", READ_ONLY, "set default_transaction_read_only = off"],
        [REPEATABLE, "begin", READ_ONLY, "rollback"],
        ["begin", REPEATABLE, READ_ONLY, "commit"],
        [REPEATABLE, READ_ONLY, "discard all"],
    ],
)
@pytest.mark.parametrize("where", ["narrow_town", "pair_town"])
def test_session_characteristics_add_up(
    request: pytest.FixtureRequest, connect: Connect, where: str, texts: list[str]
) -> None:
    """Each names some of the settings, and others use the link in between."""
    town: Town = request.getfixturevalue(where)
    twins, other = Twins(connect(town.one), connect(town.dsn)), connect(town.dsn)
    for text in texts:
        twins.query(text)
        if "begin" not in texts:
            other.query("set work_mem = '5MB'")
            other.query("select 1")
    for key in town.spread:
        other.query(f"select v from notes where k = {key}")
        twins.query(f"{MODES} from (values (1)) one left join notes on k = {key}")
    if "discard all" not in texts and READ_ONLY in texts and "rollback" not in texts:
        twins.query("insert into notes values (1)")


@pytest.mark.parametrize(
    "texts",
    [
        ["set datestyle = 'German'", "set datestyle = 'ymd'"],
        ["set datestyle = 'SQL'", "set datestyle = dmy", "set datestyle = mdy"],
        ["set datestyle = 'German'", "begin", "set datestyle = ymd", "commit"],
        ["set datestyle = 'German'", "begin", "set datestyle = ymd", "rollback"],
        ["set datestyle = 'German'", "begin", "set local datestyle = ymd", "commit"],
        ["set datestyle = 'German'", "select set_config('datestyle', 'ymd', false)"],
        ["set datestyle = 'German'", "set datestyle = ymd", "reset datestyle"],
    ],
)
@pytest.mark.parametrize("where", ["narrow_town", "pair_town"])
def test_date_style_has_two_parts(
    request: pytest.FixtureRequest, connect: Connect, where: str, texts: list[str]
) -> None:
    town: Town = request.getfixturevalue(where)
    twins, other = Twins(connect(town.one), connect(town.dsn)), connect(town.dsn)
    for text in texts:
        twins.query(text)
    for key in town.spread:
        other.query(f"select v from notes where k = {key}")
        twins.query(f"select '2020-03-04'::date + k::int * 0, current_setting('datestyle') from (values ({key})) v (k)")
        twins.query(f"select current_setting('datestyle') from (values (1)) one left join notes on k = {key}")


LOCKS = "pg_advisory_lock(79) is null"
# Definitions, and then what runs them: of tables that home has, and of what belongs to tables.
OUT_OF_SIGHT = [
    ("", f"copy (select {LOCKS}) to stdout"),
    ("", f"copy (insert into of_locks values (1) returning {LOCKS}) to stdout"),
    (f"create view locking as select {LOCKS} as l", "select * from locking"),
    (f"create view locking as select {LOCKS} as l", "copy (select * from locking) to stdout"),
    (f"create view locking as select {LOCKS} as l", "create table made as select * from locking"),
    ("create table more (i int, x bool default (pg_advisory_lock(79) is null))", "insert into more (i) values (1)"),
    ("create table more (i int check (pg_advisory_lock(79) is not null))", "insert into more values (1)"),
    (f"create view locking as select {LOCKS} as l", "explain analyze select * from locking"),
    (f"create view locking as select {LOCKS} as l", "begin; declare c cursor for select * from locking; fetch c; end"),
    (f"create view locking as select {LOCKS} as l", "prepare p as select * from locking; execute p"),
    ("", f"create table made as select {LOCKS} as l"),
    ("", f"create materialized view made as select {LOCKS} as l"),
    (f"create materialized view made as select {LOCKS} as l with no data", "refresh materialized view made"),
    ("insert into of_locks values (1)", "create index on of_locks (locked(i))"),
    ("insert into of_locks values (1)", f"alter table of_locks alter i type text using {LOCKS}"),
    ("insert into of_locks values (1)", f"alter table of_locks add check ({LOCKS} is not null)"),
    ("insert into of_locks values (1)", f"alter table of_locks add column x bool default ({LOCKS})"),
    ("create rule locks as on insert to of_locks do also select locked(1)", "insert into of_locks values (1)"),
]


@pytest.mark.parametrize(("given", "text"), OUT_OF_SIGHT)
def test_advisory_locks_are_the_sessions_wherever_they_are_taken(
    any_town: Town, connect: Connect, given: str, text: str
) -> None:
    first, second, last = connect(any_town.dsn), connect(any_town.dsn), connect(any_town.dsn)
    last.query(
        "create schema locks; create table locks.of_locks (i int); create function locks.locked(i int) returns int "
        "immutable language plpgsql as 'begin perform pg_advisory_lock(79); return i; end'"
    )
    try:
        for client in (first, last):
            client.query("set search_path = locks, public")
        if given:
            assert not sqlstates(last.query(given))
        assert not sqlstates(first.query(text))
        last.close()
        assert second.rows("select pg_try_advisory_lock(79)") == [("f",)]
        assert first.rows("select pg_advisory_unlock(79)") == [("t",)]
        assert not sqlstates(first.query("begin; select pg_advisory_lock(79)"))
        first.close()
        assert not sqlstates(second.query("select pg_advisory_lock(79)"))
        second.query("select pg_advisory_unlock(79)")
    finally:
        assert not sqlstates(second.query("drop schema locks cascade"))


def test_advisory_locks_of_what_fails_over_several_shards(town: Town, connect: Connect) -> None:
    first, second = connect(town.dsn), connect(town.dsn)
    first.query("select pg_advisory_lock(78), 1 / (length(now()::text) - length(now()::text))")
    assert second.rows("select pg_try_advisory_lock(78)") == [("f",)]
    assert first.rows("select pg_advisory_unlock(78)") == [("t",)]


def test_prepared_statements_follow_their_session(narrow: Town, connect: Connect) -> None:
    first, second = connect(narrow.dsn), connect(narrow.dsn)
    text = "select v, current_setting('work_mem') from notes where k = $1"
    first.ask(parse(text, "s"), SYNC)
    first.query("set work_mem = '5MB'")
    assert sqlstates(second.ask(bind(b"1", statement="s"), SYNC)) == ["26000"]
    second.ask(parse("select 'other', $1::text", "s"), SYNC)
    for key in (*narrow.spread, *narrow.spread):
        value = str(key).encode()
        assert first.ask(bind(value, statement="s"), execute(), SYNC)[1] == ("row", [b"x", b"5MB"])
        assert second.ask(bind(value, statement="s"), execute(), SYNC)[1] == ("row", [b"other", value])
    first.query("begin")
    for key in narrow.spread:
        assert first.ask(bind(str(key).encode(), statement="s"), execute(), SYNC)[1][0] == "row"
    first.query("rollback")


def test_literals_are_read_with_the_sessions_own_settings(narrow: Town, connect: Connect) -> None:
    """Postgres reads them at Parse: a statement prepared by one session must not serve another."""
    german, american = connect(narrow.dsn), connect(narrow.dsn)
    german.query("set datestyle = 'ISO, DMY'")
    american.query("set datestyle = 'ISO, MDY'")
    text = f"select '01/02/2020'::date from notes where k = {narrow.spread[1]}"
    for client, expected in ((german, b"2020-02-01"), (american, b"2020-01-02"), (german, b"2020-02-01")):
        client.ask(parse(text, "s"), SYNC)
        assert client.ask(bind(statement="s"), execute(), SYNC)[1] == ("row", [expected])
        client.query("deallocate all")


def test_more_statements_than_a_link_keeps(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    a = town.spread[0]
    client.query(f"insert into notes values ({a}, 'x')")
    for number in range(230):
        client.ask(parse(f"select v, {number} from notes where k = $1", f"s{number}"), SYNC)
    for number in (0, 229, 5, 100, 0):
        trace = client.ask(bind(str(a).encode(), statement=f"s{number}"), execute(), SYNC)
        assert trace[1] == ("row", [b"x", str(number).encode()])


# ---- clients that vanish ----


def settled(town: Town, client: WireClient) -> None:
    """All links are free again: with one link to each shard, another client can use them all."""
    assert client.rows("select count(*) from notes") == [("3",)]
    client.query("update notes set v = v")
    eventually(lambda: not town.busy())


SLEEPING = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


def test_in_the_middle_of_a_transaction(narrow: Town, connect: Connect) -> None:
    victim = connect(narrow.dsn)
    victim.query("begin")
    victim.query("update notes set v = 'lost'")
    victim.vanish()
    other = connect(narrow.dsn)
    settled(narrow, other)
    assert {v for _, v in narrow.stored()} == {"x"}


@pytest.mark.parametrize(
    "query", ["select pg_sleep(30)", "select v, pg_sleep(30) from notes", "begin; select pg_sleep(30)"]
)
def test_in_the_middle_of_a_query(narrow: Town, connect: Connect, query: str) -> None:
    victim = connect(narrow.dsn)
    victim.send(Query(query.encode()))
    eventually(lambda: any(narrow.everywhere(SLEEPING)))
    victim.vanish()
    settled(narrow, connect(narrow.dsn))
    eventually(lambda: not any(narrow.everywhere(SLEEPING)))


def test_while_waiting_for_a_lock(narrow: Town, connect: Connect) -> None:
    with psycopg.connect(narrow.shards[1]) as holder:
        holder.execute("update notes set v = v")
        victim = connect(narrow.dsn)
        victim.send(Query(b"update notes set v = 'lost'"))
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        eventually(lambda: any(narrow.everywhere(waiting)))
        victim.vanish()
        eventually(lambda: not any(narrow.everywhere(waiting)))
        holder.rollback()
    settled(narrow, connect(narrow.dsn))
    assert {v for _, v in narrow.stored()} == {"x"}


@pytest.mark.parametrize("table", ["notes", "plain", "kinds"])
@pytest.mark.parametrize("by", ["query", "execute", "block"])
def test_in_the_middle_of_copying_in(narrow: Town, connect: Connect, table: str, by: str) -> None:
    victim = connect(narrow.dsn)
    text = f"copy {table} (k, v) from stdin" if table == "notes" else f"copy {table} from stdin"
    if by == "block":
        victim.query("begin")
    victim.send(*((parse(text), bind(), execute(), SYNC) if by == "execute" else (Query(text.encode()),)))
    victim.read("G")
    victim.send(frame(b"d", b"".join(b"%d\tx\n" % key for key in range(1000, 1200))))
    victim.vanish()
    settled(narrow, connect(narrow.dsn))
    assert len(narrow.stored()) == 3


@pytest.mark.parametrize(
    "text",
    [
        "copy (select repeat('x', 1000) from generate_series(1, 300000)) to stdout",
        "select repeat('x', 1000) from generate_series(1, 300000)",
        "select repeat('x', 1000), g from notes, generate_series(1, 100000) g",
        "begin; declare c cursor for select repeat('x', 1000) from generate_series(1, 300000); fetch all from c",
    ],
)
def test_in_the_middle_of_a_long_answer(narrow: Town, connect: Connect, text: str) -> None:
    """The client does not read, so that the answer stands still; then it is gone."""
    victim = connect(narrow.dsn)
    victim.send(Query(text.encode()))
    victim.read("dD")
    victim.vanish()
    settled(narrow, connect(narrow.dsn))


LEFT = (
    "select count(*) from pg_listening_channels()",
    "select count(*) from pg_class where relpersistence = 't' and relnamespace = pg_my_temp_schema()",
    "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
)


@pytest.mark.parametrize(
    "text",
    [
        "copy (select repeat('x', 1000) from notes, generate_series(1, 300000)) to stdout",
        "select repeat('x', 1000), k from notes, generate_series(1, 100000) order by k",
        "select pg_sleep(30)",
    ],
)
@pytest.mark.parametrize("kept", ["listen x", "create temp table mine (i int)", "select pg_advisory_lock(7)"])
@pytest.mark.parametrize("by", ["query", "execute"])
def test_what_it_has_kept_goes_with_it(narrow: Town, connect: Connect, kept: str, text: str, by: str) -> None:
    victim = connect(narrow.dsn)
    victim.query(kept)
    victim.send(*((parse(text), bind(), execute(), SYNC) if by == "execute" else (Query(text.encode()),)))
    if "sleep" in text:
        eventually(lambda: any(narrow.everywhere(SLEEPING)))
    else:
        victim.read("dD")
    victim.vanish()
    other = connect(narrow.dsn)
    settled(narrow, other)
    for look in LEFT:
        assert other.rows(look) == [("0",)]


def test_politely_in_the_middle_of_a_transaction(narrow: Town, connect: Connect) -> None:
    for _ in range(5):
        victim = connect(narrow.dsn)
        victim.query("begin")
        victim.query("update notes set v = 'lost'")
        victim.query("create temporary table mine (k int)")
        victim.close()
    settled(narrow, connect(narrow.dsn))
    assert {v for _, v in narrow.stored()} == {"x"}


def test_a_function_that_changes_how_texts_are_read_is_taken_back(town: Town, connect: Connect) -> None:
    """Over several shards the router would find a key in what Postgres reads as one string."""
    client = connect(town.dsn)
    client.query(
        "create function reads_otherwise() returns text language plpgsql as "
        "$$begin return set_config('standard_conforming_' || 'strings', 'off', false); end$$"
    )
    assert sqlstates(client.query("select reads_otherwise()")) == ["0A000"]
    for one in (client, connect(town.dsn)):
        assert one.rows("show standard_conforming_strings") == [("on",)]
