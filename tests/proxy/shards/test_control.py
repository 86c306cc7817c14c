"""Control links: their settings, who holds them, and that no command of theirs is ever cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventually import eventually, until_gone, until_waiting
from proxy.errors import ProxyError
from proxy.shards.control import ControlLimits, ControlLinks, quote_identifier
from proxy.shards.errors import ShardError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.shards.endpoint import ShardEndpoint


@pytest.fixture
async def admin(endpoint: ShardEndpoint) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(endpoint.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def control(endpoint: ShardEndpoint) -> AsyncIterator[ControlLinks]:
    links = ControlLinks([endpoint], ControlLimits(per_shard=2, wait_timeout_s=0.2, lock_timeout_ms=300))
    yield links
    await links.close()


async def test_settings_are_explicit_whatever_the_database_defaults_to(
    control: ControlLinks, admin: asyncpg.Connection, endpoint: ShardEndpoint
) -> None:
    for setting in (
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "lock_timeout = '1h'",
        "statement_timeout = '1s'",
        "transaction_timeout = '1s'",
        "synchronous_commit = off",
        "search_path = nowhere",
    ):
        await admin.execute(f"ALTER DATABASE {endpoint.database} SET {setting}")
    async with control.connection(0) as connection:
        rows = await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE name IN ('default_transaction_isolation', 'lock_timeout',"
            " 'default_transaction_read_only', 'statement_timeout', 'transaction_timeout', 'synchronous_commit',"
            " 'search_path', 'idle_in_transaction_session_timeout')"
        )
        assert {row["name"]: row["setting"] for row in rows} == {
            "default_transaction_isolation": "read committed",
            "default_transaction_read_only": "off",
            "lock_timeout": "300",
            "statement_timeout": "0",
            "transaction_timeout": "0",
            "idle_in_transaction_session_timeout": "0",
            "synchronous_commit": "on",
            "search_path": "pg_catalog",
        }


async def test_a_stronger_durability_is_not_weakened(
    control: ControlLinks, admin: asyncpg.Connection, endpoint: ShardEndpoint
) -> None:
    await admin.execute(f"ALTER DATABASE {endpoint.database} SET synchronous_commit = remote_apply")
    async with control.connection(0) as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "remote_apply"


async def test_what_it_returns(control: ControlLinks) -> None:
    async with control.connection(0) as connection:
        assert await connection.execute("SELECT 1; CREATE TABLE public.t (a int)") == "CREATE TABLE"
        assert await connection.execute("INSERT INTO public.t VALUES (1), (2)") == "INSERT 0 2"
        rows = await connection.fetch("SELECT a, a + $1 AS b FROM public.t ORDER BY a", 10)
        assert [tuple(row) for row in rows] == [(1, 11), (2, 12)]
        assert dict(rows[0]) == {"a": 1, "b": 11}
        assert await connection.fetchval("SELECT count(*) FROM public.t") == 2
        assert await connection.fetchval("SELECT 1 WHERE false") is None


async def test_a_link_that_is_ended_between_two_messages_of_a_command_is_lost(
    control: ControlLinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy shuts down: asyncpg has parsed the statement, and finds no protocol to bind it by."""
    parse = asyncpg.Connection._get_statement

    async def parse_and_end(connection: asyncpg.Connection, *args: object, **more: object) -> object:
        statement = await parse(connection, *args, **more)
        connection.terminate()
        return statement

    async with control.connection(0) as connection:
        monkeypatch.setattr(asyncpg.Connection, "_get_statement", parse_and_end)
        with pytest.raises(ShardError) as lost:
            await connection.fetchval("SELECT $1::int", 1)
        assert lost.value.fields.sqlstate == "08006"


async def test_errors_keep_the_servers_fields(control: ControlLinks) -> None:
    async with control.connection(0) as connection:
        pid = connection.pid
        with pytest.raises(ShardError) as caught:
            await connection.execute(
                "DO $$ BEGIN RAISE 'no' USING ERRCODE = 'PGC01', HINT = 'why', DETAIL = 'so'; END $$"
            )
        fields = caught.value.fields
        assert (fields.sqlstate, fields.message, fields.hint, fields.detail) == ("PGC01", "no", "why", "so")
        assert fields.severity == "ERROR"
        assert not caught.value.lost
        with pytest.raises(ShardError) as caught:
            await connection.fetch("SELECT nothing")
        assert (caught.value.sqlstate, caught.value.fields.position) == ("42703", 8)
    async with control.connection(0) as again:
        assert again.pid == pid


async def test_lock_timeout_is_an_error_and_the_connection_goes_on(
    control: ControlLinks, admin: asyncpg.Connection
) -> None:
    await admin.execute("CREATE TABLE t (a int)")
    async with admin.transaction():
        await admin.execute("LOCK TABLE t")
        async with control.connection(0) as connection:
            with pytest.raises(ShardError, match="55P03"):
                await connection.execute("INSERT INTO public.t VALUES (1)")
            assert await connection.fetchval("SELECT 1") == 1


async def test_the_reserve_is_bounded_and_says_so(control: ControlLinks) -> None:
    async with control.connection(0), control.connection(0):
        with pytest.raises(ProxyError) as caught:
            async with control.connection(0):
                pass
        assert caught.value.sqlstate == "53300"
    async with control.connection(0) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_left_in_a_transaction_is_not_used_again(
    control: ControlLinks, admin: asyncpg.Connection
) -> None:
    async with control.connection(0) as connection:
        pid = connection.pid
        await connection.execute("BEGIN")
    async with control.connection(0) as connection:
        assert connection.pid != pid
    await until_gone(admin, pid)


async def test_being_cancelled_closes_the_socket_and_cancels_nothing(
    control: ControlLinks, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CancelRequest would turn a wait for a synchronous standby into a success: the command must run to its end."""
    await admin.execute("CREATE TABLE t (a int); CREATE TABLE gate (a int)")
    await admin.execute("BEGIN; LOCK TABLE gate")
    begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with control.connection(0) as connection:
            begun.set_result(connection.pid)
            await connection.execute("SET lock_timeout = 0")
            await connection.execute("INSERT INTO public.t VALUES (1); INSERT INTO public.gate VALUES (1)")

    task = asyncio.ensure_future(work())
    pid = await begun
    await until_waiting(admin, pid, "Lock")
    requests: list[object] = []
    monkeypatch.setattr(asyncpg.Connection, "_cancel_current_command", lambda *_: requests.append(1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not requests
    assert await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid) == 1
    await admin.execute("COMMIT")
    await until_gone(admin, pid)
    assert await admin.fetchval("SELECT count(*) FROM t") == 1
    async with control.connection(0) as connection:
        assert connection.pid != pid


async def test_who_gives_up_waiting_raises_a_doubt_and_no_alarm(
    control: ControlLinks, admin: asyncpg.Connection
) -> None:
    alarms: list[object] = []
    doubts: list[int] = []
    control.on_failure(lambda *told: alarms.append(told))
    control.on_doubt(doubts.append)

    async def work(begun: asyncio.Future[int]) -> None:
        async with control.connection(0) as connection:
            begun.set_result(connection.pid)
            await connection.execute("SELECT pg_sleep(60)")

    begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(work(begun))
    await until_waiting(admin, await begun)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task, 0.01)
    async with control.connection(0) as connection:  # a round trip: what the lost one had to say has been heard
        assert await connection.fetchval("SELECT 1") == 1
    assert (alarms, doubts) == ([], [0])
    await admin.fetchval("SELECT pg_terminate_backend($1)", begun.result())


async def test_a_lost_connection_says_so_and_the_next_one_is_new(
    control: ControlLinks, admin: asyncpg.Connection
) -> None:
    told: list[tuple[int, ShardError]] = []
    control.on_failure(lambda shard, error: told.append((shard, error)))
    async with control.connection(0) as connection:
        pid = connection.pid
        sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await until_waiting(admin, pid)
        await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises(ShardError) as caught:
            await sleeping
        assert (caught.value.sqlstate, caught.value.lost) == ("57P01", True)
        with pytest.raises(ShardError) as caught:
            await connection.execute("SELECT 1")
        assert caught.value.lost
    assert told[0][0] == 0
    assert told[0][1].sqlstate == "57P01"
    async with control.connection(0) as connection:
        assert connection.pid != pid


async def test_a_session_that_was_ended_while_it_held_something_is_no_outage(control: ControlLinks) -> None:
    """The fence's limit ends a session of a server that is quite well."""
    alarms: list[object] = []
    doubts: list[int] = []
    control.on_failure(lambda *told: alarms.append(told))
    control.on_doubt(doubts.append)
    async with control.connection(0) as connection:
        await connection.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 1")
        await eventually(connection._connection.is_closed)
        with pytest.raises(ShardError) as caught:
            await connection.execute("COMMIT")
        assert caught.value.lost
    assert (alarms, doubts) == ([], [0])


async def test_a_connection_killed_while_idle_is_not_lent(control: ControlLinks, admin: asyncpg.Connection) -> None:
    async with control.connection(0) as connection:
        pid = connection.pid
    await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    await asyncio.sleep(0)
    while True:
        async with control.connection(0) as connection:
            if connection.pid != pid:
                assert await connection.fetchval("SELECT 1") == 1
                break
        await asyncio.sleep(0.01)


async def test_commit_prepared_as_another_role(control: ControlLinks, admin: asyncpg.Connection) -> None:
    role = 'o"wner of 2pc'
    quoted = quote_identifier(role)
    await admin.execute(f"DROP ROLE IF EXISTS {quoted}; CREATE ROLE {quoted}; CREATE TABLE t (a int)")
    await admin.execute(f"GRANT ALL ON t TO {quoted}")
    try:
        await admin.execute(
            f"BEGIN; SET LOCAL ROLE {quoted}; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'shards test {id(admin)}'"
        )
        async with control.connection(0) as connection:
            tag = await connection.execute_as(role, f"COMMIT PREPARED 'shards test {id(admin)}'")
            assert tag == "COMMIT PREPARED"
            assert await connection.fetchval("SELECT current_user") == "postgres"
            with pytest.raises(ShardError, match="42704"):
                await connection.execute_as(role, "COMMIT PREPARED 'nothing'")
            assert await connection.fetchval("SELECT current_user") == "postgres"
            assert connection.usable
            with pytest.raises(ShardError, match="22023"):
                await connection.execute_as("no such role", "SELECT 1")
            assert await connection.fetchval("SELECT current_user") == "postgres"
            with pytest.raises(ShardError, match="42601"):
                await connection.execute_as(role, "BEGIN; selekt")
        assert await admin.fetchval("SELECT count(*) FROM t") == 1
    finally:
        await admin.execute(f"DROP TABLE t; DROP ROLE {quoted}")


async def test_idle_connections_are_closed(endpoint: ShardEndpoint, admin: asyncpg.Connection) -> None:
    control = ControlLinks([endpoint], ControlLimits(idle_lifetime_s=0.05))
    async with control.connection(0) as connection:
        pid = connection.pid
    await until_gone(admin, pid)
    await control.close()
