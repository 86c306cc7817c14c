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


@pytest.fixture
def people(town_of_1: Town) -> Iterator[Town]:
    """Functions that take the role, in both databases."""
    with psycopg.connect(town_of_1.one, autocommit=True) as one, psycopg.connect(town_of_1.dsn, autocommit=True) as two:
        for server in (one, two):
            for name, body in BODIES.items():
                text = f"create function {name}() returns int language plpgsql as $$ begin {body}; return 1; end $$"
                server.execute(text.encode())
        yield town_of_1
        for server in (one, two):
            for name in BODIES:
                server.execute(f"drop function {name}()".encode())


@pytest.fixture
def both(people: Town, connect: Connect) -> Twins:
    return Twins(connect(people.one), connect(people.dsn))


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
    ],
)
def test_the_session_acts_as_what_it_is_told(both: Twins, people: Town, connect: Connect, text: str) -> None:
    for statement in text.split("; ") if "$$" not in text else [text]:
        both.query(statement)
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
