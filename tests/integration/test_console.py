"""The console: a running proxy asked by psql and by bare clients."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from textual.widgets import Static

from decided import IDLE_RECOVERY
from programs import psql
from proxy.console.views import VIEWS
from proxy.top.screen import Table, Top
from proxy.top.source import Console as ConsoleSource
from proxy.twophase.gid import GlobalId, uuid7
from proxy.wire.frontend import Query
from tests.integration.conftest import TABLES, Town, made_town
from waiting import eventually
from wire_client import WireClient, connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeDatabases, StartProxy

WHO = {"admins": "postgres", "readers": "watcher"}


@pytest.fixture(scope="module")
def _watched(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Town]:
    yield from made_town(3, make_module_databases, start_module_proxy, console=WHO, limits=IDLE_RECOVERY)


@pytest.fixture
def town(_watched: Town) -> Iterator[Town]:
    _watched.empty()
    yield _watched
    eventually(lambda: not _watched.busy(), "something was left behind on the shards")


class Console:
    """A client of the console whose answers are dicts."""

    def __init__(self, client: psycopg.Connection[Any]) -> None:
        self._client = client

    def run(self, command: str) -> str | None:
        return self._client.execute(command.encode(), prepare=False).statusmessage

    def show(self, view: str) -> list[dict[str, Any]]:
        # The simple protocol: without parameters, through the cursor that binds at the client.
        with psycopg.ClientCursor(self._client) as cursor:
            cursor.execute(f"SHOW {view}".encode())
            assert cursor.description is not None
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.fixture
def console(town: Town) -> Iterator[Console]:
    with closing(console_client(town.process.dsn("pgchorus"))) as client:
        yield Console(client)


def console_client(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


def test_psql_shows_help(town: Town) -> None:
    said = psql(town.process.dsn("pgchorus"), "show help")
    listed = {line.partition("|")[0] for line in said.splitlines()}
    assert {f"SHOW {view}" for view in VIEWS} <= listed
    assert {"KILL id", "RECOVER", "RELOAD", "DRAIN"} <= listed


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_every_view_answers(console: Console, view: str) -> None:
    assert isinstance(console.show(view), list)


def test_databases_shards_and_tables(console: Console, town: Town) -> None:
    shards = console.show("shards")
    assert [row["shard"] for row in shards] == ["s0", "s1", "s2"]
    assert {row["state"] for row in shards} == {"up"}
    assert [row["home"] for row in shards] == [1, 0, 0]
    assert shards[0]["first_slot"] == 0
    assert shards[-1]["last_slot"] == 4095
    assert {row["port"] for row in shards} == {int(dsn.rpartition(":")[2].partition("/")[0]) for dsn in town.shards}
    placed = {row["name"]: (row["placement"], row["key"]) for row in console.show("tables")}
    assert placed.keys() == TABLES.keys()
    assert placed["notes"] == ("sharded", "k")
    assert placed["kinds"] == ("reference", None)


def test_clients_and_their_blocks(console: Console, town: Town) -> None:
    keys = town.spread
    with connected(town.dsn, application_name="the reader") as client:
        idle = next(row for row in console.show("clients") if row["application_name"] == "the reader")
        assert (idle["state"], idle["user"], idle["shards"]) == ("idle", "postgres", "")
        assert console.show("transactions") == []
        client.query("begin")
        client.query(f"insert into notes values ({keys[1]}, 'x')")
        client.query(f"insert into notes values ({keys[2]}, 'x')")
        (open_block,) = console.show("transactions")
        assert open_block["client"] == idle["id"]
        assert (open_block["state"], open_block["written"]) == ("idle in transaction", "s1,s2")
        lent = [row for row in console.show("servers") if row["client"] == idle["id"]]
        assert sorted(row["shard"] for row in lent) == ["s1", "s2"]
        assert {row["state"] for row in lent} == {"active"}
        in_use = {row["shard"]: row["sv_active"] for row in console.show("pools") if row["use"] == "clients"}
        assert (in_use["s1"], in_use["s2"]) == (1, 1)
        client.query("rollback")
        assert console.show("transactions") == []


def test_prepared_statements_of_clients(console: Console, town: Town) -> None:
    with psycopg.connect(town.dsn, autocommit=True) as client:
        client.execute("select v from notes where k = %s", [7], prepare=True)
        (row,) = console.show("prepared")
        assert row["query"] == "select v from notes where k = $1"


def difference(console: Console, before: dict[str, int]) -> dict[str, int]:
    (now,) = console.show("stats_totals")
    return {name: now[name] - before[name] for name in before if name != "database"}


@pytest.mark.parametrize("lane", [False, True], ids=["long road", "lane"])
def test_stats_count_queries_transactions_and_bytes(console: Console, town: Town, *, lane: bool) -> None:
    first, second, _ = town.spread
    with connected(town.dsn) as client:
        for number in range(3 if lane else 0):  # what has been planned twice gets a shortcut
            client.query(f"insert into notes values ({first}, 'x', {number})")
            client.query(f"delete from notes where k = {first}")
        before = console.show("stats_totals")[0]
        sent = client.query(f"insert into notes values ({first}, 'x', 7)")
        client.query("begin")
        client.query(f"insert into notes values ({second}, 'x', 8)")
        client.query("commit")
        came = difference(console, before)
        assert sent[0] == ("tag", "INSERT 0 1")
    assert (came["xact_count"], came["query_count"]) == (2, 4)
    assert 0 < came["query_time"] < 20e6
    assert came["xact_time"] > 0
    texts = (f"insert into notes values ({first}, 'x', 7)", "begin", "commit", "insert into notes values (N, 'x', 8)")
    assert came["bytes_received"] == sum(len(text) + 6 for text in texts)  # type, length, NUL
    assert came["bytes_sent"] == sum(len(tag) + 6 + 6 for tag in ("INSERT 0 1", "BEGIN", "INSERT 0 1", "COMMIT"))
    assert came["server_assignment_count"] == 2


def test_stats_have_the_columns_of_pgbouncer(console: Console) -> None:
    (row,) = console.show("stats")
    named = ["xact_count", "query_count", "received", "sent", "xact_time", "query_time", "wait_time"]
    assert {f"total_{name}" for name in named} <= row.keys()
    assert {f"avg_{name}" for name in named if name != "received"} | {"avg_recv"} <= row.keys()
    assert row.keys() - {"database"} == {name for name in row if name.startswith(("total_", "avg_"))}
    totals, averages = console.show("stats_totals")[0], console.show("stats_averages")[0]
    assert totals.keys() == averages.keys()


def test_statements_by_their_text_without_values(console: Console, town: Town) -> None:
    first, second, _ = town.spread
    assert console.run("RESET statements") == "RESET"
    with connected(town.dsn) as client:
        for key in (first, second, first):
            client.query(f"insert into notes values ({key}, 'secret', 1) on conflict do nothing")
        client.query("select k, v from notes order by k")
        client.query("insert into notes values (1, 'secret', -1)")
        client.query("begin; select 'secret'; commit")
    found = {row["statement"]: row for row in console.show("statements")}
    inserts = found["insert into notes values ($1, $2, $3) on conflict do nothing"]
    assert (inserts["calls"], inserts["rows"], inserts["errors"], inserts["shards"]) == (3, 2, 0, 3)
    assert inserts["tier"] == "one shard"
    assert 0 < inserts["mean"] <= inserts["longest"]
    merged = found["select k, v from notes order by k"]
    assert (merged["tier"], merged["calls"], merged["rows"], merged["shards"]) == ("merge", 1, 2, 3)
    assert found["insert into notes values ($1, $2, $3)"]["errors"] == 1
    assert {"begin", "select $1", "commit"} <= found.keys()
    assert "secret" not in str(found)
    assert console.run("RESET STATEMENTS") == "RESET"
    assert console.show("statements") == []


def test_prepared_statements_are_counted_on_both_roads(console: Console, town: Town) -> None:
    key = town.spread[0]
    console.run("RESET STATEMENTS")
    before = console.show("stats_totals")[0]
    with psycopg.connect(town.dsn, autocommit=True) as client:
        for _ in range(5):
            client.execute("select n, v from notes where k = %s", [key], prepare=True)
    (row,) = (one for one in console.show("statements") if one["statement"] == "select n, v from notes where k = $1")
    assert (row["calls"], row["tier"], row["errors"]) == (5, "one shard", 0)
    came = difference(console, before)
    assert (came["query_count"], came["bind_count"], came["client_parse_count"]) == (5, 5, 1)
    assert 1 <= came["server_parse_count"] <= 3


def test_shards_say_how_long_they_took(console: Console, town: Town) -> None:
    before = {row["shard"]: row["exchanges"] for row in console.show("stats_shards")}
    with connected(town.dsn) as client:
        client.query(f"select v from notes where k = {town.keys(1)[0]}")
    rows = {row["shard"]: row for row in console.show("stats_shards")}
    assert rows["s1"]["exchanges"] == before["s1"] + 1
    assert 0 < rows["s1"]["p50"] <= rows["s1"]["p99"] <= rows["s1"]["longest"]


async def test_top_shows_a_running_proxy(console: Console, town: Town) -> None:
    first, second, _ = town.spread
    console.run("RESET STATEMENTS")
    app = Top(ConsoleSource(town.process.dsn("pgchorus")), interval_s=3600)
    with connected(town.dsn) as client:
        async with app.run_test(size=(160, 50)) as pilot:
            await app.workers.wait_for_complete()
            client.query("begin")
            for key in (first, second):
                client.query(f"insert into notes values ({key}, 'secret')")
            await app.look()
            await pilot.pause()
            summary = str(app.query_one("#summary", Static).content)
            shown = {table.id: [table.get_row_at(at) for at in range(table.row_count)] for table in app.query(Table)}
        client.query("rollback")
    assert "transactions: 1 idle in transaction   in doubt: 0" in summary
    assert sorted(row[1].plain for row in shown["shards"]) == ["s0", "s1", "s2"]
    (block,) = shown["transactions"]
    assert [block[at].plain for at in (0, 3, 4, 5)] == ["idle in transaction", "s0,s1", "s0,s1", "read committed"]
    texts = {row[-1].plain: float(row[1].plain) for row in shown["statements"]}
    assert texts["insert into notes values ($1, $2)"] > 0  # calls a second


def test_locks_name_who_waits_and_for_whom(console: Console, town: Town, connect: Callable[..., WireClient]) -> None:
    key = town.keys(1)[0]
    holder, waiter = connect(town.dsn), connect(town.dsn)
    holder.query(f"insert into notes values ({key}, 'x')")
    holder.query("begin")
    holder.query(f"update notes set v = 'y' where k = {key}")
    waiter.send(Query(f"update notes set v = 'z' where k = {key}".encode()))
    eventually(lambda: bool(console.show("locks")), "nobody waits")
    (row,) = console.show("locks")
    ids = {client["id"] for client in console.show("clients") if client["state"] == "active"}
    assert row["client"] in ids
    assert (row["shard"], row["locktype"]) == ("s1", "transactionid")
    (blocker,) = (one for one in console.show("servers") if str(one["remote_pid"]) == row["blocked_by"])
    assert blocker["client"] == holder.key[0]
    holder.query("rollback")
    assert ("tag", "UPDATE 1") in waiter.read()


def test_what_is_prepared_is_in_doubt(console: Console, town: Town) -> None:
    """As a coordinator leaves it that died before it decided."""
    gid = GlobalId("test", "s0", uuid7(time.time_ns() // 1_000_000, 7))
    with psycopg.connect(town.shards[1], autocommit=True) as shard:
        for name in (gid.at("s1"), "somebody else's"):
            shard.execute(f"begin; lock notes in row share mode; prepare transaction $${name}$$".encode())
        try:
            (row,) = console.show("in_doubt")
        finally:
            for name in (gid.at("s1"), "somebody else's"):
                shard.execute(f"rollback prepared $${name}$$".encode())
    assert row["age_ms"] >= 0
    assert (row["shard"], row["gid"], row["commit_point"], row["decision"]) == ("s1", str(gid), "s0", "none")
    assert console.show("in_doubt") == []


def test_kill_ends_a_client_in_mid_statement(console: Console, town: Town, connect: Callable[..., WireClient]) -> None:
    victim = connect(town.dsn)
    victim.query("begin")
    victim.query(f"insert into notes values ({town.spread[0]}, 'x')")
    victim.send(Query(b"select pg_sleep(1000)"))
    eventually(
        lambda: any(row["id"] == victim.key[0] and row["state"] == "active" for row in console.show("clients")),
        "the victim does not run",
    )
    assert console.run(f"kill {victim.key[0]}") == "KILL"
    assert victim.read_to_end()[-1][1]["C"] == "57P01"
    eventually(lambda: not town.busy(), "its statement runs on")
    assert town.stored() == []
    with pytest.raises(psycopg.Error, match="there is no client"):
        console.run(f"kill {victim.key[0]}")


def test_kill_in_mid_commit_lets_the_client_know_how_it_went(
    console: Console, town: Town, connect: Callable[..., WireClient]
) -> None:
    first, second, _ = town.spread
    victim, killer = connect(town.dsn), connect(town.process.dsn("pgchorus"))
    victim.query("begin")
    for key in (first, second):
        victim.query(f"insert into notes values ({key}, 'x')")
    with ExitStack() as stack:
        for dsn in town.shards:
            # Whichever is the commit point: its decision waits.
            fence = stack.enter_context(psycopg.connect(dsn))
            fence.execute("lock table pgchorus.fence in share mode")
        victim.send(Query(b"commit"))
        eventually(lambda: bool(console.show("in_doubt")), "nothing is prepared")
        killer.send(Query(f"kill {victim.key[0]}".encode()))
        eventually(lambda: bool(console.show("locks")), "no decision waits")
    trace = victim.read_to_end()
    assert trace[:2] == [("tag", "COMMIT"), ("ready", "I")]
    assert trace[-1][1]["C"] == "57P01"
    assert killer.read()[0] == ("tag", "KILL")
    assert town.stored() == sorted([(first, "x"), (second, "x")])


def test_recover_and_reload(console: Console) -> None:
    assert console.run("recover") == "RECOVER"
    assert console.run("reload;") == "RELOAD"


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("frobnicate", "42601"),
        ("show frobs", "42704"),
        ("kill", "42601"),
        ("kill 1 2", "42601"),
        ("recover now", "42601"),
    ],
)
def test_what_it_does_not_know_is_an_error_and_the_session_goes_on(console: Console, command: str, state: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        console.run(command)
    assert error.value.sqlstate == state
    assert console.show("version")[0]["version"].startswith("pgchorus ")


def test_readers_look_and_do_not_act(town: Town) -> None:
    with closing(console_client(town.process.dsn("pgchorus", user="watcher"))) as client:
        assert Console(client).show("shards")
        for command in ("kill 1", "recover", "reload", "drain"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                Console(client).run(command)


def test_nobody_else_enters(town: Town) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for the console"):
        console_client(town.process.dsn("pgchorus", user="somebody"))


def test_the_extended_protocol_is_refused_once_until_sync(town: Town) -> None:
    with psycopg.connect(town.process.dsn("pgchorus"), autocommit=True) as client:
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute("show version", [], prepare=True)
        assert client.execute("show version").statusmessage == "SHOW"


def test_several_commands_in_one_message(town: Town) -> None:
    said = psql(town.process.dsn("pgchorus"), "show version; show tables")
    assert said.count("pgchorus ") == 1
    assert len(said.splitlines()) == 1 + len(TABLES)


def test_pause_waits_for_transactions_and_holds_the_next_ones(
    console: Console, town: Town, connect: Callable[..., WireClient]
) -> None:
    keys = town.spread
    open_block, late, other = connect(town.dsn), connect(town.dsn), connect(town.dsn)
    open_block.query("begin")
    open_block.query(f"insert into notes values ({keys[1]}, 'in a block')")
    with closing(WireClient(town.process.dsn("pgchorus"))) as pausing:
        pausing.send(Query(f"pause {town.dsn.rpartition('/')[2]} s1".encode()))
        eventually(lambda: [row["paused"] for row in console.show("databases")] == [0, 1, 0], "it is not paused")
        late.send(Query(f"insert into notes values ({keys[1]}, 'late')".encode()))
        assert ("tag", "INSERT 0 1") in other.query(f"insert into notes values ({keys[2]}, 'x')"), "another shard"
        assert ("tag", "INSERT 0 1") in open_block.query(f"insert into notes values ({keys[0]}, 'x')")
        open_block.query("rollback")
        assert pausing.read()[0] == ("tag", "PAUSE")
    assert town.on_shard(1, "select * from notes") == [], "the late one did not wait"
    assert console.run("resume") == "RESUME"
    assert ("tag", "INSERT 0 1") in late.read()


def test_a_paused_shard_is_not_reached_by_statements_over_several(
    console: Console, town: Town, connect: Callable[..., WireClient]
) -> None:
    database = town.dsn.rpartition("/")[2]
    reader, writer = connect(town.dsn), connect(town.dsn)
    writer.query(f"insert into notes values ({town.spread[0]}, 'x')")
    assert console.run(f"pause {database} s2") == "PAUSE"
    try:
        reader.send(Query(b"select count(*) from notes"))
        writer.send(Query(b"update notes set v = 'y'"))
        eventually(
            lambda: len([row for row in console.show("clients") if row["state"] == "active"]) == 2, "not both wait"
        )
        assert all(row["sv_active"] == 0 for row in console.show("pools"))
        reader.cancel()
        assert reader.read()[0][1]["C"] == "57014"
    finally:
        console.run("resume")
    assert ("tag", "UPDATE 1") in writer.read()


@contextmanager
def pause_that_waits(console: Console, town: Town, open_block: WireClient) -> Iterator[WireClient]:
    """A client whose PAUSE waits for a transaction, which commits at the end."""
    open_block.query("begin")
    open_block.query(f"insert into notes values ({town.spread[0]}, 'x')")
    with closing(WireClient(town.process.dsn("pgchorus"))) as pausing:
        pausing.send(Query(b"pause"))
        eventually(lambda: all(row["paused"] for row in console.show("databases")), "it is not paused")
        yield pausing
    assert ("tag", "COMMIT") in open_block.query("commit")


def test_resume_ends_a_pause_that_waits(console: Console, town: Town, connect: Callable[..., WireClient]) -> None:
    with pause_that_waits(console, town, connect(town.dsn)) as pausing:
        console.run("resume")
        assert pausing.read()[0][1]["M"] == "RESUME has ended the pause"


def test_a_pause_that_waits_can_be_cancelled(console: Console, town: Town, connect: Callable[..., WireClient]) -> None:
    with pause_that_waits(console, town, connect(town.dsn)) as pausing:
        pausing.cancel()
        trace = pausing.read()
        assert (trace[0][1]["C"], trace[-1]) == ("57014", ("ready", "I"))
        assert console.run("resume") == "RESUME"


@pytest.mark.parametrize(
    ("command", "state"), [("pause nowhere", "3D000"), ("pause {} s9", "42704"), ("pause {} s1 x", "42601")]
)
def test_pause_of_what_is_not_there(console: Console, town: Town, command: str, state: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        console.run(command.format(town.dsn.rpartition("/")[2]))
    assert error.value.sqlstate == state
    assert {row["paused"] for row in console.show("databases")} == {0}


def test_drain_ends_the_proxy_as_a_signal_does(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    process = start_proxy(make_databases(1, "town"), console=WHO)
    with closing(console_client(process.dsn("pgchorus"))) as client:
        assert Console(client).run("drain") == "DRAIN"
        assert process.wait() == 0
