"""Two workers before real servers: what is asked of one is done by all; one that dies takes its own clients only."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from calling import CALLERS, Caller
from proxy.wire.frontend import Query
from proxy.wire.startup import StartupMessage
from tests.integration.conftest import Town, made_town
from waiting import eventually
from wire_client import ServerClosedError, WireClient, send_cancel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

WORKERS = 2
CLIENTS_MAX = 40
RELOADED = "users, rules and certificate reloaded"
NOT_RELOADED = "not reloaded, all stays as it was"


@pytest.fixture(scope="module")
def _two(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Town]:
    limits = {"clients": {"max": CLIENTS_MAX}, "pool": {"size": 7, "extra": 3}, "drain": {"timeout_s": 10}}
    more: dict[str, Any] = {"workers": WORKERS, "console": {"admins": "postgres"}, "limits": limits}
    yield from made_town(3, make_module_databases, start_module_proxy, counted=True, **more)


@pytest.fixture
def town(_two: Town) -> Iterator[Town]:
    _two.empty()
    yield _two
    eventually(lambda: not _two.busy(), "something was left behind on the shards")


def worker_of(client: WireClient) -> int:
    return client.key[0] % WORKERS + 1


class Crowd:
    """At least two clients of each worker."""

    def __init__(self, clients: list[WireClient]) -> None:
        self.clients = clients

    def of(self, worker: int) -> list[WireClient]:
        return [client for client in self.clients if worker_of(client) == worker]


@contextmanager
def crowd(dsn: str) -> Iterator[Crowd]:
    with ExitStack() as stack:
        found = Crowd([])
        while min(len(found.of(worker)) for worker in (1, 2)) < 2:
            assert len(found.clients) < CLIENTS_MAX - 5, "one worker gets everybody"
            found.clients.append(stack.enter_context(closing(WireClient(dsn))))
        yield found


def show(town: Town, view: str) -> list[dict[str, Any]]:
    with psycopg.connect(town.process.dsn("pgchorus"), autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
        cursor = console.execute(f"show {view}".encode())
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def console_at(town: Town, worker: int) -> Iterator[psycopg.ClientCursor[Any]]:
    """A console of this worker."""
    while True:
        with psycopg.connect(
            town.process.dsn("pgchorus"), autocommit=True, cursor_factory=psycopg.ClientCursor
        ) as connection:
            if connection.info.backend_pid % WORKERS + 1 == worker:
                yield connection.cursor()
                return


def command(town: Town, text: str) -> str | None:
    with psycopg.connect(town.process.dsn("pgchorus"), autocommit=True) as console:
        return console.execute(text.encode(), prepare=False).statusmessage


def pids(town: Town) -> dict[int, int]:
    return {row["worker"]: row["pid"] for row in show(town, "workers")}


def metric(town: Town, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{town.metrics_port}/metrics") as page:
        return sum(
            float(found) for found in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page.read().decode(), re.MULTILINE)
        )


def answers(town: Town, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{town.metrics_port}{path}") as page:
        return str(page.read().decode())


def test_two_processes_serve_one_port_and_say_so(town: Town) -> None:
    rows = show(town, "workers")
    assert [(row["worker"], row["state"], row["restarts"]) for row in rows] == [(1, "serving", 0), (2, "serving", 0)]
    assert len({row["pid"] for row in rows} | {town.process.pid}) == 3
    with crowd(town.dsn) as clients:
        counted = {row["worker"]: row["clients"] for row in show(town, "workers")}
        assert counted == {worker: len(clients.of(worker)) for worker in (1, 2)}
        first, second, third = town.spread
        for client in (clients.of(1)[0], clients.of(2)[0]):
            client.query(f"begin; insert into notes values ({first}, 'x'), ({second}, 'y'), ({third}, 'z'); rollback")
        assert metric(town, "pgchorus_clients") == len(clients.clients)
    assert (answers(town, "/healthz"), answers(town, "/readyz")) == ("ok\n", "ready\n")


def sleepers(town: Town) -> int:
    return sum(state == "active" and "pg_sleep" in query for _, state, query in town.busy())


@pytest.mark.parametrize("minor", [0, 2])
def test_a_cancel_finds_its_session_in_whichever_worker_it_arrives(town: Town, minor: int) -> None:
    """Of a dozen cancels some arrive at the other worker: none may be lost, and none hits anybody else."""
    with closing(WireClient(town.dsn)) as bystander:
        bystander.query("begin")
        bystander.send(Query(b"select pg_sleep(60)"))
        for _ in range(12):
            with closing(WireClient(town.dsn, log_in=False)) as client:
                client.send(StartupMessage(3, minor, client.startup).encode())
                client.read()
                assert len(client.key[1]) == (32 if minor else 4)
                client.send(Query(b"select pg_sleep(60)"))
                eventually(lambda: sleepers(town) == 2, "it does not sleep")
                send_cancel(client.address, client.key[0], bytes(len(client.key[1])))
                send_cancel(client.address, client.key[0] ^ 1, client.key[1])
                send_cancel(client.address, *client.key)
                assert client.read()[-2][1]["C"] == "57014"
                assert ("tag", "SELECT 1") in client.query("select 1")
        assert sleepers(town) == 1
        bystander.cancel()
        bystander.read()


def test_the_console_shows_and_ends_the_clients_of_all(town: Town) -> None:
    with crowd(town.dsn) as clients:
        shown = {row["id"]: row["worker"] for row in show(town, "clients")}
        assert shown == {client.key[0]: worker_of(client) for client in clients.clients}
        for worker in (1, 2):
            clients.of(worker)[0].query(f"begin; insert into notes values ({town.spread[worker]}, 'x')")
        assert {row["worker"] for row in show(town, "transactions")} == {1, 2}
        in_use = [row["sv_active"] for row in show(town, "pools") if row["shard"] == "s1" and row["use"] == "clients"]
        assert sum(in_use) == 1
        sizes = {row["pool_size"] for row in show(town, "databases")}
        assert sizes == {7}
        for worker in (1, 2):
            victim = clients.of(worker)[0]
            assert command(town, f"kill {victim.key[0]}") == "KILL"
            assert victim.read_to_end()[-1][1]["C"] == "57P01"
            assert ("tag", "SELECT 1") in clients.of(worker)[1].query("select 1")
        with pytest.raises(psycopg.Error, match="there is no client"):
            command(town, "kill 1")
        assert command(town, "recover") == "RECOVER"
        assert len(show(town, "shards")) == 3


def test_pause_is_everywhere_until_resume(town: Town) -> None:
    with crowd(town.dsn) as clients:
        assert command(town, "pause") == "PAUSE"
        try:
            waiting = [clients.of(1)[0], clients.of(2)[0]]
            for client in waiting:
                client.send(Query(f"insert into notes values ({town.spread[worker_of(client)]}, 'x')".encode()))
            eventually(lambda: len([r for r in show(town, "clients") if r["state"] == "active"]) == 2, "not both wait")
            assert town.stored() == []
        finally:
            assert command(town, "resume") == "RESUME"
        for client in waiting:
            assert ("tag", "INSERT 0 1") in client.read()
    with pytest.raises(psycopg.Error, match="does not exist"):
        command(town, "pause nowhere")


def test_limits_are_the_whole_proxys(town: Town) -> None:
    with ExitStack() as stack:
        for _ in range(CLIENTS_MAX):
            stack.enter_context(closing(WireClient(town.dsn)))
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            psycopg.connect(town.dsn)
    eventually(lambda: not show(town, "clients"))
    WireClient(town.dsn).close()


def test_a_worker_that_dies_takes_only_its_own_clients(town: Town) -> None:
    first, second, _ = town.spread
    with crowd(town.dsn) as clients, Caller(town.dsn) as caller:
        clients.of(1)[0].query("select 1/0")
        metric(town, "pgchorus_errors_total")
        stays, lost = clients.of(2)[0], clients.of(1)[0]
        stays.query("begin")
        stays.query(f"insert into notes values ({first}, 'x'), ({second}, 'y')")
        database = town.dsn.rpartition("/")[2]
        assert command(town, f"pause {database} s2") == "PAUSE"
        before = pids(town)
        errors = metric(town, "pgchorus_errors_total")
        assert errors > 0
        os.kill(before[1], signal.SIGKILL)
        with pytest.raises((ServerClosedError, ConnectionError)):
            lost.query("select 1")
        caller.more()
        eventually(lambda: [row["state"] for row in show(town, "workers")] == ["serving", "serving"], "it is not back")
        assert [row["restarts"] for row in show(town, "workers")] == [1, 0]
        assert {row["paused"] for row in show(town, "databases") if row["shard"] == "s2"} == {1}, "the new one knows"
        assert command(town, "resume") == "RESUME"
        assert pids(town)[2] == before[2]
        assert pids(town)[1] != before[1]
        assert ("tag", "COMMIT") in stays.query("commit")
        assert metric(town, "pgchorus_errors_total") >= errors, "a sum fell"
        assert metric(town, "pgchorus_worker_restarts_total") == 1
        caller.more()
    # Each of the callers may have been this worker's client when it died, and none was afterwards.
    assert len(caller.errors) <= CALLERS, caller.errors
    assert town.stored() == sorted([(first, "x"), (second, "y")])


def test_a_worker_that_is_told_to_leave_is_replaced_and_nobody_is_refused(town: Town) -> None:
    with crowd(town.dsn) as clients, Caller(town.dsn) as caller:
        busy = clients.of(2)[0]
        busy.query("begin")
        busy.query(f"insert into notes values ({town.spread[0]}, 'x')")
        before = pids(town)[2]
        os.kill(before, signal.SIGTERM)
        eventually(lambda: [row["state"] for row in show(town, "workers")] == ["serving", "draining"], "it stays")
        caller.more()
        assert ("tag", "COMMIT") in busy.query("commit")
        eventually(lambda: pids(town)[2] not in (None, before), "nobody takes its place")
        eventually(lambda: [row["state"] for row in show(town, "workers")] == ["serving", "serving"], "it is not back")
        caller.more()
    assert caller.errors == []


def reload_with(town: Town, hang_s: float) -> None:
    document = json.loads(town.process.config.read_text())
    document["limits"]["worker"] = {"hang_s": hang_s}
    town.process.config.write_text(json.dumps(document))
    done = town.process.log.read_text().count(RELOADED)
    assert command(town, "reload") == "RELOAD"
    eventually(lambda: town.process.log.read_text().count(RELOADED) == done + 1, "it is not reloaded")


def states(town: Town) -> list[str]:
    return [row["state"] for row in show(town, "workers")]


def test_nobody_waits_for_a_worker_that_stands_still(town: Town) -> None:
    """Nor loses anything by it, if it goes on in time; while it stands others accept what comes to it."""
    reload_with(town, 0)
    stopped = pids(town)[2]
    first, second, _ = town.spread
    with crowd(town.dsn) as clients:
        stays = clients.of(2)[0]
        stays.query("begin")
        stays.query(f"insert into notes values ({first}, 'x'), ({second}, 'y')")
        with console_at(town, 1) as console:
            os.kill(stopped, signal.SIGSTOP)
            try:
                # Asked before anybody can know.
                renewed = town.process.log.read_text().count(NOT_RELOADED)
                with pytest.raises(psycopg.Error, match="worker 2 does not answer"):
                    console.execute("reload")
                assert town.process.log.read_text().count(NOT_RELOADED) == renewed + 1
                rows = console.execute("show workers").fetchall()
                assert [row[2] for row in rows] == ["serving", "silent"]
                for text in ("pause", "show clients", "recover", f"kill {stays.key[0]}", "resume"):
                    with pytest.raises(psycopg.Error, match="worker 2 does not answer"):
                        console.execute(text.encode())
                assert metric(town, "pgchorus_workers") == 1
                with Caller(town.dsn) as caller:
                    caller.more()
                assert caller.errors == []
            finally:
                os.kill(stopped, signal.SIGCONT)
        eventually(lambda: states(town) == ["serving", "serving"], "it is not back")
        assert pids(town)[2] == stopped
        # What it was asked meanwhile it has done in the order in which it came: KILL ended the client.
        assert stays.read_to_end()[-1][1]["C"] == "57P01"
        assert ("tag", "SELECT 1") in clients.of(2)[1].query("select 1")
    assert town.stored() == []


def test_a_worker_that_stands_still_for_too_long_is_replaced(town: Town) -> None:
    reload_with(town, 6)
    stopped, restarts = pids(town)[1], metric(town, "pgchorus_worker_restarts_total")
    os.kill(stopped, signal.SIGSTOP)
    eventually(lambda: metric(town, "pgchorus_worker_restarts_total") == restarts + 1, "it stands there for ever")
    eventually(lambda: states(town) == ["serving", "serving"], "nobody takes its place")
    assert stopped not in pids(town).values()
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)
    reload_with(town, 0)


def test_workers_whose_supervisor_is_killed_drain_and_end(town: Town) -> None:
    """The last of this module: the proxy is gone afterwards."""
    workers = [os.pidfd_open(pid) for pid in pids(town).values()]
    with closing(WireClient(town.dsn)) as busy, closing(WireClient(town.dsn)) as idle:
        busy.query("begin")
        busy.query(f"insert into notes values ({town.spread[0]}, 'x')")
        os.kill(town.process.pid, signal.SIGKILL)
        assert idle.read_to_end()[-1][1]["C"] == "57P01"
        assert ("tag", "COMMIT") in busy.query("commit")
    assert town.process.wait() == -signal.SIGKILL  # it returns when nobody has its output any more
    for worker in workers:
        assert select.select([worker], [], [], 20)[0], "a worker stays"
        os.close(worker)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(town.dsn)
