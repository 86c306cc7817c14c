"""ALTER ROLE and ALTER DATABASE ... SET reach the sessions that begin afterwards, though pooled links are older."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from waiting import eventually
from wire_client import ServerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]


def defaults(town: Town, connect: Connect) -> list[str | None]:
    """What a new session begins with: what it is told, and what it finds on each shard."""
    client = connect(town.dsn)
    client.query(
        "insert into notes values " + ", ".join(f"({key}, 'x')" for key in town.spread) + " on conflict (k) do nothing"
    )
    shown = "select current_setting('work_mem') from notes where k = {}"
    return [client.parameters["IntervalStyle"], *(client.rows(shown.format(key))[0][0] for key in town.spread)]


@pytest.mark.parametrize("whose", ["role postgres in database {}", "database {}"])
def test_new_sessions_have_them(town: Town, connect: Connect, whose: str) -> None:
    older = connect(town.dsn)
    assert defaults(town, connect) == ["postgres", "4MB", "4MB", "4MB"]
    older.query("begin; select 1")
    named = [dsn.rpartition("/")[2] for dsn in town.shards]
    # The databases of the shards have different names here, so each is told on its own; home last: it is watched.
    for number, name in reversed(list(enumerate(named))):
        with psycopg.connect(town.shards[number], autocommit=True) as direct:
            direct.execute(f"alter {whose.format(name)} set work_mem = '9MB'".encode())
            direct.execute(f"alter {whose.format(name)} set intervalstyle = 'iso_8601'".encode())
    try:
        older.query("commit")
        eventually(lambda: defaults(town, connect) == ["iso_8601", "9MB", "9MB", "9MB"])
    finally:
        for number, name in enumerate(named):
            with psycopg.connect(town.shards[number], autocommit=True) as direct:
                direct.execute(f"alter {whose.format(name)} reset all".encode())
    eventually(lambda: defaults(town, connect) == ["postgres", "4MB", "4MB", "4MB"])


GATHERED = "select current_setting('work_mem'), current_user, (select count(*) from notes a join notes b on a.v = b.v)"


def test_gathered_statements_have_them(town: Town, connect: Connect) -> None:
    """They run on links of their own."""
    role = "gathers_" + town.dsn.rpartition("/")[2]
    admin = connect(town.dsn)

    def found() -> list[tuple[str | None, ...]]:
        client = connect(town.dsn, user=role)
        try:
            return client.rows(GATHERED)
        finally:
            client.close()

    def make() -> None:
        assert admin.rows(f"create role {role} login") == []
        assert admin.rows(f"grant select on notes to {role}") == []

    make()
    try:
        assert found() == [("4MB", role, "0")]
        assert admin.rows(f"alter role {role} set work_mem = '7MB'") == []
        assert found() == [("7MB", role, "0")]
        assert admin.rows(f"drop owned by {role}") == []
        assert admin.rows(f"drop role {role}") == []
        make()
        assert found() == [("4MB", role, "0")]
    finally:
        town.everywhere(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{role}'")
        admin.query(f"drop owned by {role}")
        admin.query(f"drop role {role}")


def test_a_client_encoding_of_the_role_or_the_database(town: Town, connect: Connect) -> None:
    """What the client asks for counts, then the role's in this database, the role's, and the database's."""
    name = town.dsn.rpartition("/")[2]
    role = f"speaks_{name}"
    found = "select chr(233), current_setting('client_encoding')"
    admin = connect(town.dsn)

    def spoken(**startup: str) -> tuple[str, list[bytes | None]]:
        client = connect(town.dsn, log_in=False, **{"user": role, **startup})
        if not startup:
            del client.startup["client_encoding"]
        client.log_in()
        values: list[bytes | None] = next(entry[1] for entry in client.query(found) if entry[0] == "row")
        client.close()
        return client.parameters["client_encoding"], values

    with psycopg.connect(town.shards[0], autocommit=True) as home:
        database = town.shards[0].rpartition("/")[2]
        assert admin.rows(f"create role {role} superuser login") == []
        try:
            assert spoken() == ("UTF8", ["é".encode(), b"UTF8"])
            for whose, encoding in (
                (f"database {database}", "LATIN9"),
                (f"role {role}", "WIN1252"),
                (f"role {role} in database {database}", "iso-8859-1"),
            ):
                home.execute(f"alter {whose} set client_encoding = '{encoding}'".encode())
                wanted = "LATIN1" if encoding == "iso-8859-1" else encoding
                eventually(lambda wanted=wanted: spoken() == (wanted, [b"\xe9", wanted.encode()]))  # type: ignore[misc]
            assert spoken(client_encoding="UTF8") == ("UTF8", ["é".encode(), b"UTF8"])
            assert spoken(options="-c client_encoding=UTF8")[0] == "UTF8"
        finally:
            home.execute(f"alter database {database} reset all".encode())
            town.everywhere(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{role}'")
            admin.query(f"drop role {role}")


def test_at_once_through_the_proxy(town: Town, connect: Connect) -> None:
    role = "begins_" + town.dsn.rpartition("/")[2]
    admin = connect(town.dsn)
    assert admin.rows(f"create role {role} superuser login") == []
    try:
        for size in ("7MB", "8MB"):
            client = connect(town.dsn, user=role)
            client.query("select 1")
            assert client.rows(f"alter role {role} set work_mem = '{size}'") == []
            assert connect(town.dsn, user=role).rows("show work_mem") == [(size,)]
            client.close()
    finally:
        town.everywhere(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{role}'")
        admin.query(f"drop role {role}")


@pytest.mark.parametrize("where", ["through the proxy", "on the shards"])
def test_a_role_that_is_no_more_what_it_was_has_no_use_of_its_old_links(
    town: Town, connect: Connect, where: str
) -> None:
    """One that may not log in any more is refused, and one that was made anew is not taken for the old one."""
    role = "leaves_" + town.dsn.rpartition("/")[2]
    admin = connect(town.dsn)

    def change(text: str) -> None:
        if where == "on the shards":
            for shard in town.shards:
                with psycopg.connect(shard, autocommit=True) as direct:
                    direct.execute(text.encode())
        else:
            assert admin.rows(text) == []

    def logs_in() -> str:
        client = connect(town.dsn, log_in=False, user=role)
        try:
            client.log_in()
            return str(client.query("select has_table_privilege('notes', 'select')::text || current_user"))
        except ServerClosedError as error:
            return str(error)
        finally:
            client.close()

    change(f"create role {role} login")
    try:
        eventually(lambda: f"false{role}" in logs_in())
        change(f"alter role {role} nologin")
        eventually(lambda: "is not permitted to log in" in logs_in())
        change(f"alter role {role} login")
        eventually(lambda: f"false{role}" in logs_in())
        change(f"drop role {role}")
        change(f"create role {role} login")
        eventually(lambda: f"false{role}" in logs_in())
    finally:
        town.everywhere(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{role}'")
        change(f"drop role {role}")


@pytest.mark.parametrize("where", ["through the proxy", "on the shards"])
@pytest.mark.parametrize("how", ["directly", "by a group"])
def test_a_role_that_may_not_connect_any_more_has_no_use_of_its_old_links(
    town: Town, connect: Connect, where: str, how: str
) -> None:
    name = town.dsn.rpartition("/")[2]
    role, group = f"comes_{name}", f"group_{name}"
    admin = connect(town.dsn)

    def change(*texts: str) -> None:
        for text in texts:
            if where == "on the shards":
                for shard in town.shards:
                    with psycopg.connect(shard, autocommit=True) as direct:
                        direct.execute(text.encode())
            else:
                assert admin.rows(text) == []

    def state() -> str:
        client = connect(town.dsn, log_in=False, user=role)
        try:
            client.log_in()
            return str(client.query("select current_user")[1])
        except ServerClosedError as error:
            return next(entry[1]["C"] for entry in error.trace if entry[0] == "error")
        finally:
            client.close()

    given, taken = {
        "directly": (f"grant connect on database {name} to {role}", f"revoke connect on database {name} from {role}"),
        "by a group": (f"grant {group} to {role}", f"revoke {group} from {role}"),
    }[how]
    change(f"create role {role} login", f"create role {group}", f"grant connect on database {name} to {group}")
    change(f"revoke connect on database {name} from public", given)
    try:
        for _ in range(2):
            eventually(lambda: role in state())
            change(taken)
            eventually(lambda: state() == "42501")
            change(given)
    finally:
        town.everywhere(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{role}'")
        change(f"grant connect on database {name} to public", f"revoke connect on database {name} from {role}, {group}")
        change(f"drop role {role}", f"drop role {group}")


def test_a_role_whose_time_ends_has_no_use_of_its_old_links(town: Town, connect: Connect) -> None:
    """The shards here ask for no password, so they do not mind; but they are asked, as they had not been."""
    role = "ends_" + town.dsn.rpartition("/")[2]
    admin = connect(town.dsn)

    def process() -> list[tuple[int]]:
        connect(town.dsn, user=role).close()
        return town.on_shard(0, f"select pid from pg_stat_activity where usename = '{role}'")

    assert admin.rows(f"create role {role} login") == []
    try:
        for until in ("infinity", "2001-01-01"):
            before = process()
            eventually(lambda before=before: process() == before)
            assert admin.rows(f"alter role {role} valid until '{until}'") == []
            eventually(lambda before=before: process() != before)
    finally:
        town.everywhere(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{role}'")
        admin.query(f"drop role {role}")
