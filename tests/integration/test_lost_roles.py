"""A session whose role is taken from it by others: what it runs is refused, and the ways out of the role are not.

One Postgres goes on with the role until it is reset. A link is another server process, which may not take it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, Twins, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

WHO = "select current_user, session_user, current_setting('is_superuser'), current_setting('work_mem')"
OUT_OF_ROLE = [
    "reset role",
    "set role none",
    "set role lost_other",
    "reset session authorization",
    "set session authorization default",
]
OUT_OF_USER = ["reset session authorization", "set session authorization default", "set session authorization postgres"]


@pytest.fixture(params=["simple", "extended"])
def ways(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def admin(any_town: Town, connect: Connect) -> Iterator[WireClient]:
    """Roles on all servers; the single Postgres is a database of home's."""
    client = connect(any_town.dsn)
    for text in (
        "create role lost_login login; create role lost_taken; create role lost_other; create role lost_foreign",
        "grant lost_taken, lost_other to lost_login",
    ):
        assert not sqlstates(client.query(text))
    yield client
    names = "lost_login, lost_taken, lost_other, lost_foreign"
    client.query(f"drop role if exists {names}; drop role if exists lost_gone")


def log_in(town: Town, connect: Connect, user: str) -> Twins:
    return Twins(connect(town.one, user=user), connect(town.dsn, user=user))


def others_use_its_links(town: Town, connect: Connect, user: str) -> None:
    other = connect(town.dsn, user=user)
    for key in {town.shard_of(key): key for key in range(1, 30)}.values():
        assert not sqlstates(other.query(f"select {key}"))
        other.query(f"select v from notes where k = {key}")
    other.close()


def taken(town: Town, connect: Connect, admin: WireClient) -> Twins:
    """Two sessions with a role that they would not get any more; the proxy's may run nothing with it."""
    both = log_in(town, connect, "lost_login")
    both.query("set work_mem = '7MB'")
    both.query("set role lost_taken")
    both.query(WHO)
    assert not sqlstates(admin.query("revoke lost_taken from lost_login"))
    others_use_its_links(town, connect, "lost_login")
    assert sqlstates(both.proxy.query("select 1")) == ["42501"]
    return both


def gone(town: Town, connect: Connect, admin: WireClient, text: str) -> Twins:
    assert not sqlstates(admin.query("create role lost_gone"))
    both = log_in(town, connect, "postgres")
    both.query(text)
    assert not sqlstates(admin.query("drop role lost_gone"))
    others_use_its_links(town, connect, "postgres")
    assert sqlstates(both.proxy.query("select 1")) == ["22023"]
    return both


def run(both: Twins, text: str, way: str) -> None:
    if way == "simple":
        both.query(text)
    else:
        both.same(parse(text), bind(), describe("P"), execute(), SYNC)


@pytest.mark.parametrize("text", OUT_OF_ROLE)
def test_out_of_a_role_that_was_revoked(
    any_town: Town, connect: Connect, admin: WireClient, text: str, ways: str
) -> None:
    both = taken(any_town, connect, admin)
    run(both, text, ways)
    both.query(WHO)
    others_use_its_links(any_town, connect, "lost_login")
    both.query(WHO)
    both.proxy.rows("select count(*) from pg_class")


def test_a_role_that_may_not_be_set_either(any_town: Town, connect: Connect, admin: WireClient) -> None:
    both = taken(any_town, connect, admin)
    assert sqlstates(both.query("set role lost_foreign")) == ["42501"]
    assert sqlstates(both.proxy.query(WHO)) == ["42501"]
    both.query("reset role")
    both.query(WHO)


def test_reset_all_keeps_the_role(any_town: Town, connect: Connect, admin: WireClient, ways: str) -> None:
    """So there are no rights of the login without a word."""
    both = taken(any_town, connect, admin)
    run(both, "reset all", ways)
    assert sqlstates(both.proxy.query(WHO)) == ["42501"]
    both.query("reset role")
    both.query(WHO)


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("text", OUT_OF_ROLE)
def test_out_of_it_in_a_block(any_town: Town, connect: Connect, admin: WireClient, text: str, end: str) -> None:
    both = taken(any_town, connect, admin)
    both.query("begin")
    both.query(text)
    both.query(WHO)
    both.query(end)
    if end == "commit":
        both.query(WHO)
    else:
        assert sqlstates(both.proxy.query(WHO)) == ["42501"]


@pytest.mark.parametrize("text", ["savepoint a", "reset all"])
def test_no_rights_of_the_login_by_way_of_a_block(
    any_town: Town, connect: Connect, admin: WireClient, text: str
) -> None:
    client = taken(any_town, connect, admin).proxy
    for first in ("begin", text, "reset role", "rollback to a", "reset all", WHO):
        trace = client.query(first)
        assert first == "begin" or not [entry for entry in trace if entry[0] == "row"]
    assert client.query("rollback")[-1] == ("ready", "I")
    assert sqlstates(client.query(WHO)) == ["42501"]


def test_a_block_that_does_not_leave_it(any_town: Town, connect: Connect, admin: WireClient) -> None:
    both = taken(any_town, connect, admin)
    both.query("begin")
    trace = both.proxy.query(WHO)
    assert (sqlstates(trace), trace[-1]) == (["42501"], ("ready", "E"))
    assert both.proxy.query("rollback") == [("tag", "ROLLBACK"), ("ready", "I")]


@pytest.mark.parametrize("text", OUT_OF_USER)
def test_out_of_a_session_authorization_that_is_gone(
    any_town: Town, connect: Connect, admin: WireClient, text: str, ways: str
) -> None:
    both = gone(any_town, connect, admin, "set session authorization lost_gone")
    run(both, text, ways)
    both.query(WHO)
    others_use_its_links(any_town, connect, "postgres")
    both.query(WHO)


@pytest.mark.parametrize("text", ["reset role", "set role none", "set role lost_other", *OUT_OF_USER])
def test_out_of_a_role_that_is_gone(any_town: Town, connect: Connect, admin: WireClient, text: str) -> None:
    both = gone(any_town, connect, admin, "set role lost_gone")
    both.query(text)
    both.query(WHO)


def test_out_of_a_role_with_a_link_that_is_kept(any_town: Town, connect: Connect, admin: WireClient) -> None:
    """There it has the role, as in one Postgres."""
    both = log_in(any_town, connect, "lost_login")
    both.query("set role lost_taken")
    both.query("listen x")
    assert not sqlstates(admin.query("revoke lost_taken from lost_login"))
    both.query("reset role")
    both.query(WHO)
