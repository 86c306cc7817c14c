"""Settings with a dot in their name: made up by whoever sets them, NULL before, '' for ever after in that session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.wire.frontend import Query
from wire_client import SYNC, Twins, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

WAYS = [
    "set app.x = 'v'",
    "set local app.x = 'v'",
    "reset app.x",
    "select set_config('app.x', 'v', true)",
    "select set_config('app.x', 'v', false)",
    "begin; set local app.x = 'v'; commit",
    "begin; set local app.x = 'v'; rollback",
    "begin; set app.x = 'v'; rollback",
    "begin; select set_config('app.x', 'v', true); commit",
    "begin; savepoint s; set app.x = 'v'; rollback to s; commit",
    "begin; savepoint s; set app.x = 'v'; rollback to s; rollback",
    "set app.x = 'v'; reset app.x",
    "set app.x = 'v'; reset all",
    "set app.x = 'v'; discard all",
    "set app.x to default",
    "set app.x = 'v'; begin; set local app.x = 'w'; commit",
    "begin; set app.x = 'v'; select 1 / 0; rollback",
    "select case when 1 = 2 then set_config('app.x', 'v', false) end",
    "select set_config('app.x', v, false) from (values ('v'), ('w')) t (v)",
    "select set_config('app.x', null, false)",
]
SHOWN = "select current_setting('app.x', true), current_setting('app.y', true)"


@pytest.mark.parametrize("way", WAYS)
def test_what_the_session_sees_afterwards(twins: Twins, any_town: Town, connect: Connect, way: str) -> None:
    """In the session as Postgres has it; in the sessions of others, which get the same links, nothing ever was."""
    for statement in way.split("; "):
        twins.query(statement)
    for _ in range(2):
        twins.query(SHOWN)
        assert connect(any_town.dsn).rows(SHOWN) == [(None, None)]


@pytest.mark.parametrize("way", WAYS)
def test_on_the_links_of_every_shard(narrow_town: Town, connect: Connect, way: str) -> None:
    """One link to each shard."""
    one, other = connect(narrow_town.dsn), connect(narrow_town.dsn)
    one.query("insert into notes values " + ", ".join(f"({key}, 'x')" for key in narrow_town.spread))
    everywhere = [f"{SHOWN} from notes where k = {key}" for key in narrow_town.spread]
    for statement in way.split("; "):
        if statement in ("commit", "rollback"):
            for query in everywhere:
                one.query(query)
        one.query(statement)
    for query in everywhere:
        assert other.rows(query) == [(None, None)]
    after = one.rows(everywhere[0])
    assert [one.rows(query) for query in everywhere] == [after] * 3


def test_in_the_extended_protocol(twins: Twins, any_town: Town, connect: Connect) -> None:
    for text in ("set local app.x = 'v'", "select set_config('app.x', 'v', true)", "set app.x = 'v'"):
        twins.same(parse(text), bind(), execute(), SYNC)
        twins.query(SHOWN)
        assert connect(any_town.dsn).rows(SHOWN) == [(None, None)]


MAKERS = {
    "a function": ("select makes()", "perform set_config('app.x', 'v', false)"),
    "a function that computes": ("select makes()", "perform set_config('app' || '.x', 'v', true)"),
    "dynamic SQL": ("select makes()", "execute 'set app.x = 1'"),
    "a trigger": ("insert into plain values (1, 'x')", "set local app.x = 'v'"),
    "an expression": ("select set_config('app' || '.x', 'v', false)", "perform 1"),
    "DO": ("do $$ begin perform set_config('app.x', 'v', true); end $$", "perform 1"),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("shards", ["narrow_town", "pair_town"])
def test_what_functions_set_is_not_left_on_a_link(
    request: pytest.FixtureRequest, connect: Connect, maker: str, shards: str
) -> None:
    """Over several shards it is refused where nobody can see through; where it is not, no other client sees it."""
    town: Town = request.getfixturevalue(shards)
    text, body = MAKERS[maker]
    first = connect(town.dsn)
    assert not failed(
        first.query(f"create function makes() returns int language plpgsql as $$ begin {body}; return 1; end $$")
    )
    if maker == "a trigger":
        first.query(f"create function sets() returns trigger language plpgsql as $$ begin {body}; return new; end $$")
        first.query("create trigger sets before insert on plain for each row execute function sets()")
    try:
        pid = first.rows("select pg_backend_pid()")
        refused = failed(first.query(text))
        second = connect(town.dsn)
        for _ in range(2):
            assert second.rows(SHOWN) == [(None, None)]
        if not refused:
            assert (pid,) not in second.rows("select pg_backend_pid()")
    finally:
        first.query("drop trigger if exists sets on plain")
        first.query("drop function if exists sets(); drop function makes()")
    assert not refused or (shards == "narrow_town" and maker in ("dynamic SQL", "an expression", "DO"))


@pytest.mark.parametrize("shards", ["narrow_town", "pair_town"])
@pytest.mark.parametrize(
    "text",
    [
        "do $$ begin set app.x = 'v'; raise exception 'no'; end $$",
        "do $$ begin set app.x = 'v'; set work_mem = '9MB'; raise exception 'no'; end $$",
        "do $$ begin execute 'set app.x = 1'; perform 1 / 0; end $$",
        "begin; do $$ begin set app.x = 'v'; raise exception 'no'; end $$; rollback",
        "select fails()",
        "begin; select fails(); rollback",
        "select count(*), fails() from plain",
    ],
)
def test_what_fails_is_not_left_on_a_link(
    request: pytest.FixtureRequest, connect: Connect, text: str, shards: str
) -> None:
    town: Town = request.getfixturevalue(shards)
    first = connect(town.dsn)
    first.rows(
        "create function fails() returns int language plpgsql as $$ begin set app.x = 'v'; raise exception 'no'; end $$"
    )
    try:
        for query in text.split("; ", 1) if text.startswith("begin") else [text]:
            first.query(query)
        first.query("rollback")
        second = connect(town.dsn)
        for _ in range(2):
            assert second.rows(SHOWN) == [(None, None)]
    finally:
        connect(town.dsn).rows("drop function fails()")


WORK_MEM_AND_X = "select current_setting('work_mem'), current_setting('app.x', true)"
OUT_OF_SIGHT = [
    "select makes('{0}')",
    "values (makes('{0}')) order by 1",
    "begin; select makes('{0}'); select 1; commit",
    "begin; select makes('{0}'); rollback",
    "begin; savepoint s; select makes('{0}'); rollback to s; commit",
    "prepare p as select makes('{0}'); execute p; deallocate p",
    "prepare p as select set_config('work_mem', '{0}', false); execute p; deallocate p",
    "create table made as select set_config('work_mem', '{0}', false); drop table made",
    "select makes('{0}') into made; drop table made",
    "begin; declare c cursor for select makes('{0}'); fetch c; commit",
    "select set_config('work' || '_mem', '{0}', false)",
    "do 'begin execute $e$set work_mem to \"{0}\"$e$;end'",
    "call makes_too('{0}')",
    "insert into plain values (1, '{0}')",
    "set work_mem to '{0}'; select unmakes(), 'and back'",
    "select count(makes('{0}')); set work_mem = '3MB'; reset all",
    "select makes_local('{0}')",
]
FUNCTIONS = (
    (
        "create function makes(text) returns text language plpgsql as "
        "'begin perform set_config(''app.x'', $1, false); return set_config(''work_mem'', $1, false); end'"
    ),
    (
        "create function makes_local(text) returns text language plpgsql as "
        "'begin return set_config(''work_mem'', $1, true); end'"
    ),
    "create function unmakes() returns int language plpgsql as 'begin reset work_mem; return 1; end'",
    "create procedure makes_too(text) language sql as 'select makes($1)'",
    "create function makes_for() returns trigger language plpgsql as 'begin perform makes(new.v); return new; end'",
    "create trigger makes before insert on plain for each row execute function makes_for()",
)


def test_what_is_set_out_of_sight_stays_with_the_session(pair_town: Town, connect: Connect) -> None:
    """Over one shard, by a function, a trigger, DO, an expression: for this session, on whatever link, and no other."""
    maker = Twins(connect(pair_town.one), connect(pair_town.dsn))
    try:
        for function in FUNCTIONS:
            maker.query(function)
        for number, texts in enumerate(OUT_OF_SIGHT):
            twins = Twins(connect(pair_town.one), connect(pair_town.dsn))
            for text in texts.format(f"{1200 + number}kB").split("; "):
                assert not failed(twins.query(text)), text
            for _ in range(2):
                twins.query("select current_setting('work_mem'), current_setting('app.x', true) = '' is not false")
                twins.query("update plain set v = v")
                twins.query("show work_mem")
                shown = connect(pair_town.dsn).rows(
                    "select current_setting('work_mem'), current_setting('app.x', true)"
                )
                assert shown == [("4MB", None)], texts
            twins.close()
    finally:
        maker.query("drop trigger if exists makes on plain")
        for name in ("function makes_for()", "procedure makes_too", "function unmakes, makes_local, makes"):
            maker.query(f"drop {name}")


def failed(trace: list[tuple[object, ...]]) -> bool:
    return any(entry[0] == "error" for entry in trace)


CONNECTIONS = "select count(*) from dblink_get_connections() c where 'secret' = any (c)"
LET_IN = "select '978-0-393-04002-4'::isbn13"
# Extension, what a session does, what it finds afterwards, what others find; whether one of several shards may do it.
KEPT: dict[str, tuple[str, str, str, object, object, bool]] = {
    "dblink": ("dblink", "select dblink_connect('secret', '{dsn}')", CONNECTIONS, [("1",)], [("0",)], True),
    "isn": ("isn", "select isn_weak(true)", LET_IN, [("978-0-393-04002-9!",)], "22P02", False),
    "pg_trgm": ("pg_trgm", "select set_limit(0.9)", "select show_limit()", [("0.9",)], [("0.3",)], False),
}


@pytest.mark.parametrize("what", KEPT)
@pytest.mark.parametrize("shards", ["narrow_town", "pair_town"])
def test_what_functions_in_c_keep_is_of_one_session(
    request: pytest.FixtureRequest, connect: Connect, what: str, shards: str
) -> None:
    """Their link stays with the session, and is closed behind it; DO's is closed at once."""
    town: Town = request.getfixturevalue(shards)
    extension, text, look, own, others, spread = KEPT[what]
    first, second = connect(town.dsn), connect(town.dsn)
    first.rows(f"create extension {extension}")
    try:
        if shards == "narrow_town" and not spread:
            assert [entry[1]["C"] for entry in first.query(text) if entry[0] == "error"] == ["0A000"]
            return
        made = text.format(dsn=town.shards[0])
        first.rows(made)
        assert [first.rows(look) for _ in range(2)] == [own] * 2
        first.close()
        assert answer(second, look) == others
        second.query("discard all")
        second.rows(f"do $$ begin {made.replace('select', 'perform')}; end $$")
        assert answer(connect(town.dsn), look) == others
    finally:
        second.query("discard all")
        second.query(f"drop extension {extension} cascade")


@pytest.mark.parametrize("shards", ["narrow_town", "pair_town"])
def test_a_setting_that_an_extension_defines_may_be_taken_back(
    request: pytest.FixtureRequest, connect: Connect, shards: str
) -> None:
    """As pgvector's manual has it: SET LOCAL for one query. '' is no value of it, even if the library comes later."""
    town: Town = request.getfixturevalue(shards)
    first, second = connect(town.dsn), connect(town.dsn)
    first.rows("create extension vector")
    try:
        assert second.rows("select '[1,2]'::vector") == [("[1,2]",)]  # its link has the library
        for way in ("begin; set local hnsw.ef_search = 100; commit", "set hnsw.ef_search = 90; discard all"):
            for statement in way.split("; "):
                first.rows(statement)
            for client in (first, second, first):
                trace = client.query("select '[1]'::vector, current_setting('hnsw.ef_search', true)")
                assert [entry[1] for entry in trace if entry[0] == "row"] == [[b"[1]", b"40"]], trace
                assert not [entry for entry in trace if entry[0] in {"notice", "error"}], trace
    finally:
        second.query("discard all")
        second.query("drop extension vector cascade")


def test_equality_is_postgress_own_beside_pgvectors(connect: Connect, pair_town: Town) -> None:
    """Its operators take its own types, and its casts lead from one of them to another."""
    client = connect(pair_town.dsn)
    client.rows("create extension vector")
    try:
        plan = client.rows("explain (route) select * from notes where k = 7")
        assert "one shard" in str(plan[0][0])
    finally:
        client.query("drop extension vector cascade")


def answer(client: WireClient, text: str) -> object:
    """Return the rows of a query, or the SQLSTATE of its error."""
    trace = client.query(text)
    errors = [entry[1]["C"] for entry in trace if entry[0] == "error"]
    rows = [entry[1] for entry in trace if entry[0] == "row"]
    return errors[0] if errors else [tuple(value.decode() for value in row) for row in rows]


@pytest.mark.parametrize("made", ["set app.x = 'v'", "options"])
@pytest.mark.parametrize(
    "then", ["select sets()", "alter table nowhere add v int", "select sets(); select set_config('app.x', 'w', true)"]
)
def test_what_a_session_has_made_is_nobody_elses_behind_a_wash(
    any_town: Town, connect: Connect, made: str, then: str
) -> None:
    """DISCARD ALL leaves it empty, not NULL."""
    first = connect(any_town.dsn)
    first.query(
        "create or replace function sets() returns int language plpgsql as"
        " $$ begin perform set_config('work_mem', '7MB', false); return 1; end $$"
    )
    first.close()
    client = connect(any_town.dsn, **({"options": "-c app.x=v"} if made == "options" else {}))
    if made != "options":
        client.query(made)
    client.query(then)
    client.close()
    for _ in range(2):
        assert connect(any_town.dsn).rows(SHOWN) == [(None, None)]
    connect(any_town.dsn).query("drop function sets()")


SET_CONFIG = "select set_config('app.x', 'y', true)"


@pytest.mark.parametrize(
    "messages",
    [
        [parse(SET_CONFIG), bind(results=(7,)), execute("", 1), SYNC],
        [parse(SET_CONFIG), bind(), execute("", 1), Query(b"begin read only")],
        [parse(SET_CONFIG), bind(), execute("", 1), SYNC],
        [parse(SET_CONFIG), bind(), execute(), parse("select 1/0"), bind(), execute(), SYNC],
        [parse("set app.x = 'y'"), bind(), execute(), parse("select 1/0"), bind(), execute(), SYNC],
        [Query(f"{SET_CONFIG}; select 1/0".encode())],
    ],
)
def test_what_nobody_has_noted_is_not_left_on_a_link(any_town: Town, connect: Connect, messages: list[Any]) -> None:
    """The portal rests behind its row, or what comes next fails: the setting is there all the same."""
    client = connect(any_town.dsn)
    client.ask(*messages)
    client.close()
    for _ in range(2):
        assert connect(any_town.dsn).rows(SHOWN) == [(None, None)]
