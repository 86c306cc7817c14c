"""Settings that functions make over several shards: every shard has them for the rest of the block, or none has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query
from wire_client import FLUSH, SYNC, Twins, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

PLPGSQL = "create function {}() returns int language plpgsql {} as $$ begin {}; return 1; end $$"
FUNCTIONS = {
    "zone": PLPGSQL.format("zone", "", "perform set_config('timezone', 'Asia/Tokyo', true)"),
    "digits": PLPGSQL.format("digits", "", "set local extra_float_digits = 0"),
    "escape": PLPGSQL.format("escape", "", "set local bytea_output = escape"),
    "tenant": "create function tenant() returns text language sql as $$ select set_config('app.tenant', '7', true) $$",
    "nested": PLPGSQL.format("nested", "", "perform tenant()"),
    "restored": PLPGSQL.format("restored", "set timezone = 'Asia/Tokyo'", "perform now()"),
    "undone": PLPGSQL.format("undone", "set extra_float_digits = 3", "set local extra_float_digits = 0"),
    "mended": PLPGSQL.format("mended", "", "set local timezone = 'UTC'; perform zone(); set local timezone = 'UTC'"),
    "harmless": PLPGSQL.format("harmless", "", "perform current_setting('timezone')"),
    "acts": PLPGSQL.format("acts", "", "set role pg_monitor"),
    "acts_nested": PLPGSQL.format("acts_nested", "", "perform acts()"),
    "acts_locally": PLPGSQL.format("acts_locally", "", "set local role pg_monitor"),
    "acts_by_name": PLPGSQL.format("acts_by_name", "", "perform set_config('role', 'pg_monitor', false)"),
    "is_another": PLPGSQL.format("is_another", "", "set session authorization pg_monitor"),
    "unnamed": PLPGSQL.format("unnamed", "", "perform set_config('app.' || 'other', '7', true)"),
    "over_unnamed": "create function over_unnamed() returns int language sql as 'select unnamed()'",
    "lasting": PLPGSQL.format("lasting", "", "set timezone = 'Asia/Tokyo'; set work_mem = '7MB'"),
    "dynamic": PLPGSQL.format("dynamic", "", "execute 'set role pg_monitor'"),
    "dynamic_tenant": PLPGSQL.format("dynamic_tenant", "", "execute $x$select set_config('app.tenant', '8', true)$x$"),
}
SHOWN = (
    "select k, '2020-01-01 00:00Z'::timestamptz::text, '\\x00ff'::bytea::text, (0.1::float8 + 0.2)::text,"
    " coalesce(current_setting('app.tenant', true), ''), current_user from notes order by k"
)


@pytest.fixture(scope="module")
def _functions(_town_of_3: Town) -> Iterator[None]:
    """The functions, in both databases."""
    town = _town_of_3
    with psycopg.connect(town.one, autocommit=True) as one, psycopg.connect(town.dsn, autocommit=True) as proxy:
        for server in (one, proxy):
            for text in FUNCTIONS.values():
                server.execute(text.encode())
        yield
        for server in (one, proxy):
            server.execute(("drop function " + ", ".join(f"{name}()" for name in FUNCTIONS)).encode())


@pytest.fixture
def made(_functions: None, town: Town, connect: Connect) -> Town:
    """A row on each shard."""
    for dsn in (town.one, town.dsn):
        connect(dsn).query("insert into notes values " + ", ".join(f"({key}, 'x')" for key in town.spread))
    return town


@pytest.fixture
def both(made: Town, connect: Connect) -> Twins:
    return Twins(connect(made.one), connect(made.dsn))


@pytest.mark.parametrize("name", ["zone", "digits", "escape", "tenant", "nested", "restored", "undone", "mended",
                                  "harmless"])  # fmt: skip
@pytest.mark.parametrize("way", ["extended", "savepoint", "alone", "pipeline"])
def test_every_shard_has_what_a_function_has_set(
    both: Twins, made: Town, connect: Connect, name: str, way: str
) -> None:
    call = f"select {name}()"
    if way == "pipeline":
        both.same(parse(call), bind(), execute(), parse(SHOWN), bind(), execute(), SYNC)
    elif way == "alone":
        both.query(call)
    else:
        both.query("begin")
        if way == "savepoint":
            both.query(SHOWN)
        if way == "savepoint":
            both.query("savepoint s")
        if way == "extended":
            both.same(parse(call), bind(), execute(), SYNC)
        else:
            both.query(call)
        both.query(SHOWN)
        if way == "savepoint":
            both.query("rollback to s")
            both.query(SHOWN)
        both.query("commit")
    both.query(SHOWN)
    for key in made.spread:
        both.query(SHOWN.replace("order by", f"where k = {key} order by"))
        other = connect(made.dsn).rows(f"select current_setting('app.tenant', true), now() from notes where k = {key}")
        assert other[0][0] is None


@pytest.mark.parametrize("name", ["acts", "acts_nested", "acts_locally", "acts_by_name", "is_another", "lasting"])
@pytest.mark.parametrize("extended", [False, True])
def test_outside_of_blocks_it_is_the_sessions(both: Twins, name: str, *, extended: bool) -> None:
    if extended:
        both.same(parse(f"select {name}()"), bind(), execute(), SYNC)
    else:
        both.query(f"select {name}()")
    for _ in range(2):
        both.query("select current_user, session_user, current_setting('timezone'), current_setting('work_mem')")
        both.query(SHOWN)
    both.query("begin")
    both.query(SHOWN)
    both.query("rollback")
    for text in ("reset session authorization", "reset role", "reset all", SHOWN):
        both.query(text)


@pytest.mark.parametrize("name", ["acts", "acts_nested", "acts_locally", "acts_by_name", "is_another", "dynamic"])
@pytest.mark.parametrize("extended", [False, True])
def test_nobody_acts_as_another_on_one_shard(made: Town, connect: Connect, name: str, *, extended: bool) -> None:
    client = connect(made.dsn)
    client.query("begin")
    if extended:
        trace = client.ask(parse(f"select {name}()"), bind(), execute(), SYNC)
    else:
        trace = client.query(f"select {name}()")
    assert sqlstates(trace) == ["0A000"]
    assert sqlstates(client.query(SHOWN)) == ["25P02"]
    client.query("rollback")
    assert client.parameters["is_superuser"] == "on"
    assert [row[-1] for row in client.rows(SHOWN)] == ["postgres"] * 3


@pytest.mark.parametrize("text", ["do $$ begin perform set_config('app.tenant', '9', true); end $$",
                                  "select dynamic_tenant()"])  # fmt: skip
def test_nobody_is_a_tenant_on_one_shard(made: Town, connect: Connect, text: str) -> None:
    client = connect(made.dsn)
    client.query("begin")
    assert sqlstates(client.query(text)) == ["0A000"]


@pytest.mark.parametrize(
    "text",
    [
        "declare c cursor for select zone()",
        "copy (select zone()) to stdout",
        "create table made_so as select zone()",
        "explain analyze select zone()",
    ],
)
def test_where_nobody_looks_it_is_refused(made: Town, connect: Connect, text: str) -> None:
    client = connect(made.dsn)
    client.query("begin")
    assert sqlstates(client.query(text)) == ["0A000"]


def test_what_shards_have_set_differently_is_refused(made: Town, connect: Connect) -> None:
    client = connect(made.dsn)
    client.query(
        "create function of_key(k int8) returns text language sql as"
        " $$ select set_config('app.tenant', k::text, true) $$"
    )
    client.query("begin")
    refused = client.query("select of_key(k) from notes")
    client.query("rollback")
    client.query("drop function of_key")
    assert sqlstates(refused) == ["0A000"]


def test_however_often_it_is_called(both: Twins, made: Town) -> None:
    both.same(parse("select tenant()", "again"), SYNC)
    both.query("prepare by_name as select tenant()")
    for _ in range(3):
        for call in ("select tenant()", "execute by_name", ""):
            both.query("begin")
            both.query(SHOWN)
            if call:
                both.query(call)
            else:
                both.same(bind(statement="again"), execute(), SYNC)
            both.query(SHOWN)
            for key in made.spread:
                both.query(SHOWN.replace("order by", f"where k = {key} order by"))
            both.query("commit")
            both.query(SHOWN)


def test_triggers(both: Twins, made: Town) -> None:
    """Of a table that one shard has, and of one whose rows are on all of them."""
    body = "set local app.tenant = 'of a trigger'"
    for text in (
        f"create function marks() returns trigger language plpgsql as $$ begin {body}; return new; end $$",
        "create trigger marks before insert on plain for each row execute function marks()",
        "create trigger marks before update on notes for each row execute function marks()",
    ):
        both.query(text)
    try:
        for text in (
            "insert into plain values (1, 'x')",
            "update notes set v = 'y'",
            f"update notes set v = 'z' where k = {made.spread[1]}",
        ):
            both.query(text)
            both.query(SHOWN)
            both.query("begin")
            both.query(text.replace("(1,", "(2,"))
            both.query(SHOWN)
            both.query("rollback")
            both.query(SHOWN)
    finally:
        both.query("drop function marks() cascade")


@pytest.mark.parametrize("name", ["unnamed", "over_unnamed"])
def test_what_has_no_name_is_not_set_in_a_block(both: Twins, made: Town, connect: Connect, name: str) -> None:
    both.query(f"select {name}()")
    client = connect(made.dsn)
    client.query("begin")
    assert sqlstates(client.query(f"select {name}()")) == ["0A000"]


STAYS = {
    "lasting": FUNCTIONS["lasting"],
    "masked": PLPGSQL.format("masked", "", "set work_mem = '7MB'; set local work_mem = '4MB'"),
    "custom": PLPGSQL.format("custom", "", "set app.tenant = '5'; set local app.tenant = '6'"),
    "reset": PLPGSQL.format("reset", "", "set work_mem = '8MB'; reset work_mem; set timezone = 'Asia/Tokyo'"),
    "isolates": PLPGSQL.format("isolates", "", "set default_transaction_isolation = 'repeatable read'"),
    "waits": PLPGSQL.format("waits", "", "set statement_timeout = '70s'; set lock_timeout = '7s'"),
}
LEFT = (
    "select current_setting('timezone'), current_setting('work_mem'), current_setting('app.tenant', true),"
    " current_setting('default_transaction_isolation'), current_setting('statement_timeout')"
)
WAYS = {  # {}: the call
    "alone": ("{}", LEFT, SHOWN),
    "block": ("begin", "{}", LEFT, SHOWN, "commit"),
    "rolled back": ("begin", "{}", LEFT, SHOWN, "rollback"),
    "set before": ("set work_mem = '5MB'", "begin", "{}", LEFT, SHOWN, "commit"),
    "chain": ("begin", "{}", LEFT, "commit and chain", LEFT, SHOWN, "commit"),
    "savepoint": ("begin", SHOWN, "savepoint s", "{}", LEFT, "rollback to s", LEFT, "commit"),
    "own": ("begin", "{}", "set work_mem = '9MB'", "set local timezone = 'UTC'", SHOWN, LEFT, "commit"),
}


@pytest.mark.parametrize("name", STAYS)
@pytest.mark.parametrize("way", [*WAYS, "pipeline"])
def test_what_lasts_is_the_sessions(both: Twins, made: Town, name: str, way: str) -> None:
    """Also when it was set in a block, and whatever shards the block has used."""
    both.query(STAYS[name].replace("create function", "create or replace function"))
    call = f"select {name}()"
    if way == "pipeline":
        both.same(parse(call), bind(), execute(), parse(SHOWN), bind(), execute(), SYNC)
    for text in WAYS.get(way, ()):
        both.query(text.format(call) if text == "{}" else text)
    for _ in range(2):
        both.query(LEFT)
        for key in made.spread:
            both.query(SHOWN.replace("order by", f"where k = {key} order by"))
            both.query(f"{LEFT} from notes where k = {key}")
    if name not in FUNCTIONS:
        both.query(f"drop function {name}()")


@pytest.mark.parametrize("way", ["alone", "in a block", "rolled back", "extended"])
def test_explain_calls_what_is_stable(both: Twins, way: str) -> None:
    """Postgres plans with what it returns, and keeps what it sets."""
    both.query(PLPGSQL.format("planned", "stable", "set work_mem = '7MB'; set timezone = 'Asia/Tokyo'"))
    both.query(PLPGSQL.format("not_planned", "", "set work_mem = '9MB'"))
    begin, end = {"in a block": ("begin", "commit"), "rolled back": ("begin", "rollback")}.get(way, ("", ""))
    both.query(begin)
    for text in ("explain (costs off) select 1 where planned() = 2", "explain (costs off) select not_planned()"):
        if way == "extended":
            both.same(parse(text), bind(), describe("P"), execute(), SYNC)
        else:
            both.query(text)
        both.query("show work_mem")
        both.query(SHOWN)
    both.query(end)
    both.query("show work_mem")
    both.query(SHOWN)
    both.query("drop function planned, not_planned")


def test_of_several_shards(both: Twins, made: Town) -> None:
    """A trigger of a sharded table, by a statement of its own over all of them."""
    body = "set work_mem = '7MB'; set local timezone = 'Asia/Tokyo'"
    for text in (
        f"create function stays() returns trigger language plpgsql as $$ begin {body}; return new; end $$",
        "create trigger stays before update on notes for each row execute function stays()",
    ):
        both.query(text)
    try:
        for extended in (False, True):
            both.query("reset work_mem")
            if extended:
                both.same(parse("update notes set v = 'y'"), bind(), execute(), SYNC)
            else:
                both.query("update notes set v = 'y'")
            for key in made.spread:
                both.query(f"{LEFT} from notes where k = {key}")
    finally:
        both.query("drop function stays() cascade")


@pytest.mark.parametrize("body", ["set role pg_monitor", "set work_mem = '7MB'; set local timezone = 'Asia/Tokyo'"])
@pytest.mark.parametrize("way", ["alone", "block", "rolled back", "chain"])
def test_deferred_triggers(both: Twins, made: Town, body: str, way: str) -> None:
    """They run with COMMIT, behind which nothing can be refused."""
    for text in (
        f"create function later() returns trigger language plpgsql as $$ begin {body}; return null; end $$",
        "create constraint trigger z after insert on plain initially deferred for each row execute function later()",
    ):
        both.query(text)
    try:
        for text in WAYS[way]:
            both.query("insert into plain values (8, 'x')" if text == "{}" else text)
        for _ in range(2):
            both.query(LEFT)
            both.query(SHOWN)
            for key in made.spread:
                both.query(SHOWN.replace("order by", f"where k = {key} order by"))
    finally:
        for text in ("rollback", "reset role", "reset all", "drop function later() cascade"):
            both.query(text)


def test_without_rights_to_everything(both: Twins, made: Town, connect: Connect) -> None:
    """A library that the statement itself has loaded brings settings, and those are not the statement's."""
    both.proxy.rows("create role modest login")  # the single Postgres is a database of home's server
    try:
        both.query("grant select on notes to modest")
        twins = Twins(connect(made.one, user="modest"), connect(made.dsn, user="modest"))
        for text in ("select zone()", "show timezone", "select lasting()", SHOWN, "begin", "select lasting()", SHOWN,
                     "commit", SHOWN, "discard all", SHOWN):  # fmt: skip
            twins.query(text)
        twins.close()
    finally:
        both.query("revoke all on notes from modest")
        both.proxy.rows("drop role modest")


WRITES = "insert into plain values (7, 'x'); "
LASTING = {
    "reads": WRITES + "set standard_conforming_strings = off",
    "replicates": WRITES + "set local session_replication_role = replica",
    "encodes": WRITES + "perform set_config('client_encoding', 'LATIN1', false)",
}


@pytest.mark.parametrize("name", LASTING)
@pytest.mark.parametrize("extended", [False, True])
def test_what_is_refused_is_not_done(made: Town, connect: Connect, name: str, *, extended: bool) -> None:
    client = connect(made.dsn)
    client.query(PLPGSQL.format("refused", "", LASTING[name]))
    try:
        if extended:
            trace = client.ask(parse("select refused()"), bind(), execute(), SYNC)
        else:
            trace = client.query("select refused()")
        assert sqlstates(trace) == ["0A000"]
        assert client.rows("select id from plain") == []
        assert client.rows("show standard_conforming_strings") == [("on",)]
    finally:
        client.query("drop function refused()")


@pytest.mark.parametrize("body", ["set work_mem = '7MB'", "set local timezone = 'Asia/Tokyo'", "set app.tenant = '7'"])
@pytest.mark.parametrize("way", ["simple", "extended", "block", "pipeline", "wrong"])
def test_copy_into_a_table_of_home(both: Twins, body: str, way: str) -> None:
    both.query("create table copied (i int check (i > 0))")
    both.query(
        f"create function on_copy() returns trigger language plpgsql as $$ begin {body}; return new; end $$;"
        "create trigger t before insert on copied for each row execute function on_copy()"
    )
    shown = "select k, current_setting('work_mem'), current_setting('timezone') from notes order by k"
    if way == "block":
        both.query("begin")
        both.query(shown)
    rows = frame(b"d", b"1\n2\n"), frame(b"d", b"-3\n" if way == "wrong" else b"3\n"), frame(b"c", b"")
    copy = "copy copied from stdin"
    if way in {"extended", "pipeline"}:
        first = (parse("insert into copied values (9)"), bind(), execute()) if way == "pipeline" else ()
        both.same(*first, parse(copy), bind(), describe("P"), execute(), FLUSH, until="G")
        both.same(*rows, SYNC)
    else:
        both.same(Query(copy.encode()), until="G")
        both.same(*rows)
    both.query(shown)
    if way == "block":
        both.query("commit")
        both.query(shown)
    both.query("select * from copied order by i")
    if way != "wrong":
        both.query("select current_setting('app.tenant', true)")
    both.query("drop table copied; drop function on_copy()")


def test_copy_with_a_trigger_that_nobody_sees_through(made: Town, connect: Connect) -> None:
    client = connect(made.dsn)
    client.query("create table copied (i int); create function on_copy() returns trigger language plpgsql as"
                 " $$ begin execute 'select 1'; return new; end $$;"
                 "create trigger t before insert on copied for each row execute function on_copy()")  # fmt: skip
    trace = client.ask(Query(b"copy copied from stdin"), frame(b"d", b"1\n"), frame(b"c", b""))
    assert sqlstates(trace) in ([], ["0A000"]), trace
    assert client.rows("select count(*) from copied") == [("0" if sqlstates(trace) else "1",)]
    client.query("drop table copied; drop function on_copy()")


def test_copy_that_takes_a_role(both: Twins) -> None:
    both.query("create table copied (i int check (acts() = 1)); grant all on copied to public")
    both.same(Query(b"copy copied from stdin"), until="G")
    both.same(frame(b"d", b"1\n"), frame(b"c", b""))
    both.query("select current_user")
    both.query("reset role")
    both.query("begin")
    both.proxy.ask(Query(b"copy copied from stdin"), frame(b"d", b"1\n"), frame(b"c", b""))
    assert both.proxy.status_of_last == "E"
    both.query("rollback")
    both.query("select current_user, count(*) from copied")
    both.query("drop table copied")


COPIED = [
    PLPGSQL.format("sets", "", "perform set_config('work_mem', '7MB', false)"),
    "create function fires() returns trigger language plpgsql as $$ begin perform sets(); return new; end $$",
    "create table copied (i int check (sets() = 1), d int default sets())",
    "create trigger t before insert on copied for each row execute function fires()",
    "insert into copied values (1), (2); reset work_mem",
]


def test_copy_to_runs_nothing_that_a_write_would(both: Twins) -> None:
    for text in COPIED:
        both.query(text)
    for text in ("copy copied to stdout", "copy copied (i) to stdout", "copy (select i from copied) to stdout"):
        both.query(text)
        both.same(parse(text), bind(), execute(), SYNC)
        both.query("show work_mem")
    for text in ("select sets() from copied", "insert into copied values (3) returning i"):
        assert sqlstates(both.proxy.query(f"copy ({text}) to stdout")) == ["0A000"]
    both.query("drop table copied; drop function sets, fires")


DOORS = {
    "truncate": "truncate doors",
    "default": "alter table doors add column more int default sets()",
    "check": "alter table doors add check (sets() = 1)",
    "validate": "alter table doors validate constraint later",
    "type": "alter table doors alter i type text using sets()::text",
    "constraints": "set constraints all immediate",
}


@pytest.mark.parametrize(
    "body", ["set timezone = 'Asia/Tokyo'", "set local timezone = 'Asia/Tokyo'", "set role pg_monitor"]
)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("way", ["block", "extended"])
def test_doors(both: Twins, door: str, body: str, way: str) -> None:
    """What else runs triggers, defaults and checks."""
    shown = "select k, current_setting('timezone'), current_user from notes order by k"
    for text in (
        f"create function sets() returns int language plpgsql as $$ begin {body}; return 1; end $$",
        f"create function fires() returns trigger language plpgsql as $$ begin {body}; return null; end $$",
        "create table doors (i int); insert into doors values (1); grant all on doors, notes to public",
        "create trigger t before truncate on doors for each statement execute function fires()",
        "create constraint trigger c after insert on doors initially deferred for each row execute function fires()",
        "alter table doors add constraint later check (sets() = 1) not valid" if door == "validate" else "select 1",
    ):
        both.query(text)
    deferred = door == "constraints"
    refused = "role" in body and (deferred or way == "block")
    if way == "block" or deferred:
        both.query("begin")
        both.query(shown)
        if deferred:
            both.query("insert into doors select 2 where true")
    client = both.proxy if refused else both
    if way == "extended":
        trace = (client.ask if refused else client.same)(parse(DOORS[door]), bind(), execute(), SYNC)
    else:
        trace = client.query(DOORS[door])
    assert sqlstates(trace) == (["0A000"] if refused else [])
    if refused:
        assert client.status_of_last == "E"
        both.query("rollback")
        both.query("reset role")
    else:
        for _ in range(2):
            both.query(shown)
        if way == "block" or deferred:
            both.query("commit")
            both.query(shown)
    both.query("reset role")
    both.query("drop table doors; drop function sets(), fires()")
