"""What a client gives in its StartupMessage, beside one Postgres: what it has then, or why it does not get in."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from proxy.wire.startup import StartupMessage
from waiting import eventually
from wire_client import ServerClosedError, Twins, WireClient, sqlstates

if TYPE_CHECKING:
    from conftest import Town

BEGINS = """
    SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT granted AND relation = 'pg_db_role_setting'::regclass AND a.query LIKE '%default_transaction_isolation%'
"""
SHOWN = (
    "select current_user, session_user, current_setting('session_authorization'), current_setting('role'), "
    "current_setting('is_superuser'), current_setting('datestyle'), current_setting('work_mem'), "
    "current_setting('enable_seqscan'), current_setting('enable_mergejoin')"
)


@pytest.fixture
def alice(any_town: Town) -> str:
    """A role that exists everywhere, and postgres can become."""
    for dsn in (any_town.one, any_town.dsn):
        with psycopg.connect(dsn, autocommit=True) as client:
            client.execute(b"do $$ begin create role alice_of_start; exception when duplicate_object then end $$")
    return "alice_of_start"


def begun(dsn: str, startup: dict[str, str]) -> list[Any]:
    """How a session begins: what it is told and finds, and that again after RESET; or the fields of its error."""
    try:
        client = WireClient(dsn, **startup)
    except ServerClosedError as closed:
        (error,) = (entry[1] for entry in closed.trace if entry[0] == "error")
        return [{name: error.get(name) for name in "SCMDH"}]
    with closing(client):
        told = [client.parameters.get(name) for name in ("session_authorization", "is_superuser", "DateStyle")]
        found = client.rows(SHOWN)
        if "role" not in startup:  # a role is lost with it, which is one of the limits
            client.query("reset session authorization")
        client.query("reset all")
        return [told, found, client.rows(SHOWN)]


@pytest.mark.parametrize(
    "startup",
    [
        {"session_authorization": "{alice}"},
        {"session_authorization": "postgres"},
        {"session_authorization": "nobody_has_this"},
        {"session_authorization": ""},
        {"options": "-c session_authorization={alice}"},
        {"role": "{alice}", "session_authorization": "{alice}"},
        {"role": "{alice}"},
    ],
)
def test_session_authorization_is_looked_at_and_the_login_stays(
    any_town: Town, alice: str, startup: dict[str, str]
) -> None:
    given = {name: value.format(alice=alice) for name, value in startup.items()}
    assert begun(any_town.dsn, given) == begun(any_town.one, given)


@pytest.mark.parametrize(
    "options",
    [
        "-e",
        "-S 1000",
        "-S1000 -e",
        "-f s",
        "-fm -c work_mem=1MB",
        "-e --enable-seqscan=off",
        "bad",
        "-e bad",
        "-c",
        "-c x",
        "-cx",
        "--x",
        "-z",
        "-S",
        "-c work_mem=x",
        "--",
        "-- -e",
        "-bE -jn -T -C x -D x -r x -v 2 -S 1000",
        "-v",
        "-B 100",
        "-F",
        "-i",
        "-l",
        "-p 5",
        "-h x",
        "-k x",
        "-N 5",
        "-d 9",
        "-c transaction_isolation=serializable -c transaction_deferrable=on",
        "-c transaction_isolation=x",
        "-c datestyle=german -e",
        "-c datestyle=german -c datestyle=ymd -c work_mem=1MB -c Work_Mem=2MB",
        "-c enable_seqscan=3 -c enable_seqscan=1",
        "-c work_mem=1MB -c work_mem=x",
    ],
)
def test_switches_of_the_server(any_town: Town, options: str) -> None:
    given = {"options": options}
    assert begun(any_town.dsn, given) == begun(any_town.one, given)


def test_what_is_given_twice_is_looked_at_twice(any_town: Town) -> None:
    given = {"options": "-c work_mem=1MB -c datestyle=german", "work_mem": "2MB", "datestyle": "ymd"}
    assert begun(any_town.dsn, given) == begun(any_town.one, given)
    given = {"options": "-c enable_seqscan=3", "enable_seqscan": "off"}
    assert begun(any_town.dsn, given) == begun(any_town.one, given)


@pytest.mark.parametrize("level", ["0", "x", "-1", "1", "2", "3", "5", " 4"])
def test_the_level_of_messages_in_the_log(any_town: Town, level: str) -> None:
    found = []
    for dsn in (any_town.one, any_town.dsn):
        with closing(WireClient(dsn, options=f"-d {level}")) as client:
            names = (
                "'log_min_messages', 'log_statement', 'debug_print_parse', 'debug_print_plan', 'debug_print_rewritten'"
            )
            found.append(client.rows(f"select name, setting from pg_settings where name in ({names}) order by name"))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "startup",
    [
        {"replication": "of"},
        {"replication": "F"},
        {"replication": "n"},
        {"replication": "maybe"},
        {"replication": ""},
        {"replication": " off"},
        {"_pq_.z": "1", "_pq_.a": "2"},
        {"database": "nosuch"},
        {"user": "nosuch"},
        {"options": "x"},
        {"work_mem": "x"},
    ],
)
def test_all_that_is_said_before_the_first_statement(any_town: Town, startup: dict[str, str]) -> None:
    found = []
    for dsn in (any_town.one, any_town.dsn):
        with closing(WireClient(dsn, log_in=False)) as client:
            client.send(StartupMessage(3, 0, {**client.startup, **startup}).encode())
            try:
                trace = client.read()
            except ServerClosedError as closed:
                trace = closed.trace
            found.append([entry for entry in trace if entry[0] not in {"parameter", "key"}])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["plain", "caf\u00e9", "\udcff\udce9", "a\tb\x7f", "x" * 70, "\u00e9" * 40, " \\x "])
def test_the_name_of_the_application(any_town: Town, name: str) -> None:
    """As Postgres keeps it, whatever bytes it is made of."""
    found = []
    for dsn in (any_town.one, any_town.dsn):
        with closing(WireClient(dsn, application_name=name)) as client:
            found.append([client.parameters["application_name"], client.rows("show application_name")])
            client.query("set application_name = 'other'")
            client.query("reset application_name")
            found[-1].append(client.rows("select current_setting('application_name')"))
    assert found[0] == found[1]


def test_the_login_is_not_under_the_clients_own_timeout(any_town: Town) -> None:
    """Nothing that a server does for a login is; here it asks what sessions of the role begin with."""
    found = []
    with (
        closing(WireClient(any_town.dsn)) as first,
        psycopg.connect(any_town.shards[0]) as holder,
        psycopg.connect(any_town.shards[0], autocommit=True) as watch,
        ThreadPoolExecutor(1) as thread,
    ):
        first.query("select 1")  # there is a link
        holder.execute("lock table pg_db_role_setting")
        login = thread.submit(WireClient, any_town.dsn, statement_timeout="50ms", work_mem="3MB")
        try:
            eventually(lambda: watch.execute(BEGINS).fetchall(), "nobody asks")
            time.sleep(0.2)  # longer than the timeout: this is what is tested
        finally:
            holder.rollback()
        with closing(login.result()) as client:
            found = client.rows("select current_setting('statement_timeout'), current_setting('work_mem')")
            assert client.query("select pg_sleep(10)")[-2][1]["C"] == "57014"
    assert found == [("50ms", "3MB")]
    with pytest.raises(ServerClosedError) as refused:
        WireClient(any_town.dsn, statement_timeout="soon")
    assert refused.value.trace[-1][1]["C"] == "22023"


def test_the_login_is_not_under_the_roles_own_statement_timeout(any_town: Town) -> None:
    """As in Postgres it is for statements; what the proxy asks for a log-in waits for a lock for longer here."""
    role = "hasty_of_start"
    for dsn in (any_town.one, any_town.dsn):
        with psycopg.connect(dsn, autocommit=True) as client:
            client.execute(f"drop role if exists {role}".encode())
            client.execute(f"create role {role} login".encode())
            client.execute(f"alter role {role} set statement_timeout = '50ms'".encode())
    dsn = any_town.dsn.replace("//postgres@", f"//{role}@")
    assert dsn != any_town.dsn
    with closing(WireClient(dsn)) as first:  # so that there is a link of the role
        assert first.rows("select current_setting('statement_timeout')") == [("50ms",)]
    home = any_town.shards[0]
    with (
        psycopg.connect(home) as holder,
        psycopg.connect(home, autocommit=True) as watch,
        ThreadPoolExecutor(1) as thread,
    ):
        holder.execute("lock table pg_db_role_setting")
        login = thread.submit(WireClient, dsn, work_mem="3MB")
        try:
            eventually(lambda: watch.execute(BEGINS).fetchall(), "nobody asks")
            time.sleep(0.2)  # longer than the timeout: this is what is tested
        finally:
            holder.rollback()
        with closing(login.result()) as client:
            assert client.rows("select current_setting('statement_timeout')") == [("50ms",)]
            assert client.query("select pg_sleep(10)")[-2][1]["C"] == "57014"


GIVEN = {
    "application_name": "it's",
    "search_path": '"$user", public',
    "DateStyle": "German",
    "options": r"-c my.own=a\\\\b'c -c work_mem=5MB -c enable_seqscan=off",
}


def test_reset_takes_no_snapshot(any_town: Town) -> None:
    """An isolation level behind it does not come too late; and what the packet gave is there as it was given."""
    shown = Query(
        b"select current_setting('my.own'), current_setting('work_mem'), current_setting('search_path'),"
        b" current_setting('datestyle'), current_setting('enable_seqscan'), current_setting('application_name')"
    )
    clients = [WireClient(dsn, **GIVEN) for dsn in (any_town.one, any_town.dsn)]
    with closing(Twins(*clients)) as twins:
        before = twins.same(shown)
        for text in (
            "reset all; set transaction isolation level serializable; show transaction_isolation",
            "begin; reset all; reset my.own",
            "reset search_path; begin isolation level serializable",
            "rollback",
            "set work_mem = '7MB'; set my.own = 'x'; set search_path = nowhere",
            "reset my.own; reset work_mem; reset search_path; set transaction isolation level serializable",
        ):
            got = twins.query(text)
            assert not sqlstates([entry for entry in got if entry[0] == "error"]), got
        assert twins.same(shown) == before
