"""SET ROLE where no message says so - in a function, a trigger, DO - over one shard: the session has the role then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from wire_client import SYNC, Twins, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

ROLE = "pg_monitor"
WHO = "select current_user, session_user, current_setting('role'), current_setting('is_superuser')"
BODIES = {
    "sets_role": f"set role {ROLE}",
    "sets_none": "set role none",
    "resets_role": "reset role",
    "sets_local": f"set local role {ROLE}",
    "sets_config": f"perform set_config('role', '{ROLE}', false)",
    "sets_dynamically": f"execute 'set role {ROLE}'",
    "sets_user": f"set session authorization {ROLE}",
    "sets_local_user": f"set local session authorization {ROLE}",
}
DEFERRED = [
    text
    for name, body in (("later", f"set role {ROLE}"), ("later_settings", "set work_mem = '7MB'; set datestyle = 'SQL'"))
    for text in (
        f"create table {name} (i int); grant all on {name} to public",
        f"create function {name}() returns trigger language plpgsql as $$ begin {body}; return null; end $$",
        f"create constraint trigger z after insert on {name} initially deferred for each row execute function {name}()",
    )
]
SETTINGS = "select current_setting('work_mem'), current_setting('timezone'), current_setting('datestyle')"


@pytest.fixture(scope="module")
def _people(_town_of_1: Town) -> Iterator[None]:
    """Functions that take the role, in both databases."""
    town = _town_of_1
    with psycopg.connect(town.one, autocommit=True) as one, psycopg.connect(town.dsn, autocommit=True) as two:
        for server in (one, two):
            for name, body in BODIES.items():
                text = f"create function {name}() returns int language plpgsql as $$ begin {body}; return 1; end $$"
                server.execute(text.encode())
            for text in DEFERRED:
                server.execute(text.encode())
        yield
        for server in (one, two):
            server.execute("drop table if exists later, later_settings; drop function later(), later_settings()")
            for name in BODIES:
                server.execute(f"drop function {name}()".encode())


@pytest.fixture
def people(_people: None, town_of_1: Town) -> Town:
    return town_of_1


@pytest.fixture
def both(people: Town, connect: Connect) -> Twins:
    return Twins(connect(people.one), connect(people.dsn))


def run(both: Twins, text: str, way: str, then: str) -> None:
    """Run statements, each in a message of its own or all in one, or in one pipeline, with a look in between."""
    texts = text.split("; ") if "$$" not in text else [text]
    if way == "message":
        both.query("; ".join([*texts, then]))
    elif way == "pipeline":
        both.same(*(message for one in (*texts, then) for message in (parse(one), bind(), execute())), SYNC)
    else:
        for one in texts:
            both.query(one)


@pytest.mark.parametrize(
    "text",
    [
        "do $$ begin set role pg_monitor; end $$",
        "select sets_role()",
        "select sets_config()",
        "select sets_dynamically()",
        "select sets_local()",
        "select sets_user()",
        "begin; select sets_role(); commit",
        "begin; select sets_role(); select 1; commit",
        "begin; select sets_role(); rollback",
        "begin; savepoint s; select sets_role(); rollback to s; commit",
        "begin; select sets_local(); commit",
        "select sets_role(); reset all",
        "select sets_role(); reset role",
        "select sets_role(); set role none",
        "select sets_role(); discard all",
        "select sets_role(); reset session authorization",
        "select sets_role(); set session authorization default",
        "select sets_role(); select sets_none()",
        "select sets_role(); select resets_role()",
        "set role pg_monitor; select sets_none()",
        "set role pg_monitor; select resets_role()",
        "set role pg_monitor; select sets_role(); reset role",
        "set role pg_monitor; begin; select sets_none(); rollback",
        "select sets_user(); select sets_none(); reset session authorization",
        "set session authorization pg_monitor; select sets_none()",
        "select sets_role(); select sets_user()",
        "begin; set role pg_monitor; set session authorization default; commit",
        "begin; set role pg_monitor; reset session authorization; rollback",
        "begin; select sets_local(); savepoint s; select sets_none(); rollback to s; commit",
        "begin; set local role pg_monitor; select sets_local(); commit",
        "begin; select sets_role(); commit and chain; select 1; commit",
        "begin; reset all; select sets_role(); commit and chain; select 1; commit",
        "begin; set timezone = 'Asia/Tokyo'; select sets_role(); commit and chain; select 1; rollback",
        "begin; insert into later values (1); commit",
        "begin; insert into later values (1); commit and chain; commit",
        "insert into later values (1)",
    ],
)
@pytest.mark.parametrize("way", ["messages", "message", "pipeline"])
def test_the_session_acts_as_what_it_is_told(both: Twins, people: Town, connect: Connect, text: str, way: str) -> None:
    run(both, text, way, WHO)
    for _ in range(2):
        both.query(WHO)
        both.query("create table made_by_whom (a int); drop table if exists made_by_whom")
        both.query("alter table plain alter v set statistics 7")
    assert connect(people.dsn).rows("select current_user, current_setting('role')") == [("postgres", "none")]
    both.query("reset role")
    both.query(WHO)
    both.query("reset session authorization")
    both.query(WHO)


def test_in_the_extended_protocol(both: Twins) -> None:
    both.same(parse("select sets_role()"), bind(), execute(), SYNC)
    both.same(parse(WHO), bind(), execute(), SYNC)
    both.same(parse("reset all"), bind(), execute(), SYNC)
    both.same(parse(WHO), bind(), execute(), SYNC)
    both.same(parse("reset role"), bind(), execute(), SYNC)
    both.same(parse(WHO), bind(), execute(), SYNC)


def test_a_role_to_begin_with(people: Town, connect: Connect) -> None:
    """RESET goes back to it, and to have none is another thing."""
    both = Twins(connect(people.one, options=f"-c role={ROLE}"), connect(people.dsn, options=f"-c role={ROLE}"))
    for text in ("select sets_none()", WHO, "reset role", WHO, "select sets_role()", "reset role", WHO):
        both.query(text)
    both.close()


@pytest.mark.parametrize(
    "text",
    [
        "begin; reset all; select sets_memory(); commit and chain; select 1; commit",
        "begin; set timezone = 'Asia/Tokyo'; select sets_memory(); commit",
        "begin; set work_mem = '2MB'; select sets_memory(); commit and chain; set local work_mem = '3MB'; commit",
        "begin; insert into later_settings values (1); commit",
        "begin; insert into later_settings values (1); commit and chain; show work_mem; rollback",
    ],
)
@pytest.mark.parametrize("way", ["messages", "message", "pipeline"])
def test_settings_of_blocks(both: Twins, text: str, way: str) -> None:
    body = "begin set work_mem = '7MB'; return 1; end"
    both.query(f"create or replace function sets_memory() returns int language plpgsql as $$ {body} $$")
    run(both, text, way, SETTINGS)
    for _ in range(2):
        both.query(SETTINGS)
        both.query("create table made_by_whom (a int); drop table if exists made_by_whom")
    both.query("drop function sets_memory()")
