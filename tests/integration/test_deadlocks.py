"""Deadlocks over several shards: found soon, ended with 40P01, also between two proxies, and nothing else is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from decided import keys_of_both_shards
from proxy.twophase.gid import GlobalId, uuid7
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy
    from tests.integration.conftest import Town

# Found after the timeout of a second and a look or two; the machine may be busy.
SOON_SECONDS = 6.0
WAITS = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()"""


@pytest.fixture(scope="module")
def other_proxy(_town_of_3: Town, start_module_proxy: StartProxy) -> ProxyProcess:
    from tests.integration.conftest import TABLES  # noqa: PLC0415 - beside the fixtures

    _town_of_3.spoiled = True  # whoever changes a definition afterwards would wait for this proxy, which is killed
    return start_module_proxy(_town_of_3.shards, TABLES)


class Party:
    """Some clients with transactions open, each in a thread of its own, so that one may wait."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.threads = ThreadPoolExecutor(16)
        self.clients: list[psycopg.Connection[Any]] = []

    def join(self, dsn: str) -> psycopg.Connection[Any]:
        client = psycopg.connect(dsn)
        client.prepare_threshold = None
        self.clients.append(client)
        return client

    def start(self, client: psycopg.Connection[Any], sql: str) -> Future[Any]:
        return self.threads.submit(client.execute, sql.encode())

    def until_waiting(self, count: int) -> None:
        eventually(lambda: sum(rows[0][0] for rows in self.town.everywhere(WAITS)) >= count, f"fewer than {count} wait")

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.threads.shutdown()


@pytest.fixture
def party(town: Town) -> Iterator[Party]:
    made = Party(town)
    try:
        yield made
    finally:
        made.close()


def update(key: int) -> str:
    return f"UPDATE notes SET n = n + 1 WHERE k = {key}"


def fill(town: Town) -> None:
    with psycopg.connect(town.dsn, autocommit=True) as client:
        for shard in range(3):
            for key in town.keys(shard, 3):
                client.execute("INSERT INTO notes VALUES (%s, 'x', 0)", (key,))


def deadlocked(futures: list[Future[Any]]) -> tuple[int, psycopg.errors.DeadlockDetected]:
    """Wait until one of these has failed, which must be by 40P01 and soon; return its number and the error."""
    begin = time.monotonic()
    failed: list[int] = []

    def one_has_failed() -> bool:
        failed[:] = [number for number, future in enumerate(futures) if future.done() and future.exception()]
        return bool(failed)

    eventually(one_has_failed, "the deadlock was not ended")
    assert time.monotonic() - begin < SOON_SECONDS
    (number,) = failed
    error = futures[number].exception()
    assert isinstance(error, psycopg.errors.DeadlockDetected), error
    return number, error


@pytest.mark.parametrize("through", ["one proxy", "two proxies"])
@pytest.mark.parametrize("swapped", [False, True], ids=["first joins first", "second joins first"])
def test_two_transactions_that_wait_for_each_other_on_two_shards(
    town: Town, party: Party, other_proxy: ProxyProcess, through: str, *, swapped: bool
) -> None:
    fill(town)
    a, b, _ = town.spread
    dsns = [town.dsn, other_proxy.dsn(town.dsn.rpartition("/")[2]) if through == "two proxies" else town.dsn]
    clients = [party.join(dsn) for dsn in dsns]
    for client, key in zip(clients, (a, b), strict=True):
        client.execute(update(key).encode())
    order = (1, 0) if swapped else (0, 1)
    futures: dict[int, Future[Any]] = {}
    for number in order:
        futures[number] = party.start(clients[number], update((b, a)[number]))
        party.until_waiting(len(futures))
    victim, error = deadlocked([futures[0], futures[1]])
    # The one that came to its second shard last is the younger one.
    assert victim == order[1]
    assert error.diag.message_primary == "deadlock detected"
    detail = error.diag.message_detail or ""
    assert len(detail.splitlines()) == 2, detail
    assert "s0" in detail
    assert "s1" in detail
    assert "ShareLock on transaction" in detail
    # Its locks are gone at once, as in Postgres, though its client has not said ROLLBACK yet.
    futures[1 - victim].result(SOON_SECONDS)
    clients[1 - victim].commit()
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        clients[victim].execute("SELECT 1")
    clients[victim].rollback()
    assert {n for _, n in town.stored("SELECT k, n FROM notes") if n} == {1}
    clients[victim].execute(update(a).encode())
    clients[victim].commit()


def test_a_ring_with_somebody_who_is_connected_to_a_shard_directly(town: Town, party: Party) -> None:
    """First holds on s0 and waits for the direct client on s1; that waits for last on s1; last for first on s0."""
    fill(town)
    a, b, _ = town.spread
    other = town.keys(1, 2)[1]
    first, direct, last = (party.join(dsn) for dsn in (town.dsn, town.shards[1], town.dsn))
    first.execute(update(a).encode())
    direct.execute(update(b).encode())
    last.execute(update(other).encode())
    futures = []
    for client, key in ((first, b), (direct, other), (last, a)):
        futures.append(party.start(client, update(key)))
        party.until_waiting(len(futures))
    victim, error = deadlocked(futures)
    assert victim == 2, "the youngest of those that use several shards"
    detail = error.diag.message_detail or ""
    assert len(detail.splitlines()) == 3
    assert "process" in detail
    futures[1].result(SOON_SECONDS)
    direct.rollback()
    futures[0].result(SOON_SECONDS)


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("through", ["one proxy", "two proxies"])
def test_an_advisory_lock_of_a_session_that_has_no_transaction_there(
    town: Town, party: Party, other_proxy: ProxyProcess, through: str, shard: int
) -> None:
    """It is on the home shard; the row that is waited for is there, too, or on another."""
    fill(town)
    key = town.spread[shard]
    dsns = [town.dsn, other_proxy.dsn(town.dsn.rpartition("/")[2]) if through == "two proxies" else town.dsn]
    keeper, other = (party.join(dsn) for dsn in dsns)
    keeper.autocommit = True
    keeper.execute("SELECT pg_advisory_lock(501)")
    other.execute(update(key).encode())
    futures = [party.start(other, "SELECT pg_advisory_xact_lock(501)")]
    party.until_waiting(1)
    futures.append(party.start(keeper, update(key)))
    victim, _ = deadlocked(futures)
    if victim == 0:
        other.rollback()
        futures[1].result(SOON_SECONDS)
    keeper.execute("SELECT pg_advisory_unlock(501)")
    if victim == 1:
        futures[0].result(SOON_SECONDS)
        other.rollback()
    keeper.close()


def test_who_waits_for_an_advisory_lock_of_somebody_idle_is_in_no_deadlock(town: Town, party: Party) -> None:
    fill(town)
    key = town.spread[1]
    keeper, other, third = (party.join(town.dsn) for _ in range(3))
    keeper.autocommit = True
    keeper.execute("SELECT pg_advisory_lock(501)")
    third.execute(update(key).encode())
    futures = [party.start(other, "SELECT pg_advisory_xact_lock(501)")]
    futures.append(party.start(keeper, update(key)))
    party.until_waiting(2)
    with pytest.raises(TimeoutError):
        futures[1].result(SOON_SECONDS / 2)
    third.rollback()
    futures[1].result(SOON_SECONDS)
    keeper.execute("SELECT pg_advisory_unlock(501)")
    futures[0].result(SOON_SECONDS)
    other.rollback()
    keeper.close()


def test_a_statement_over_all_shards_and_implicit_transactions(town: Town, party: Party) -> None:
    fill(town)
    _, b, c = town.spread
    client = party.join(town.dsn)
    client.execute(update(c).encode())
    alone = party.join(town.dsn)
    alone.autocommit = True
    everything = party.start(alone, "UPDATE notes SET n = n + 1")
    party.until_waiting(1)
    mine = party.start(client, update(b))
    victim, _ = deadlocked([everything, mine])
    (everything, mine)[1 - victim].result(SOON_SECONDS)
    client.rollback()
    assert alone.execute("SELECT count(*) FROM notes").fetchone() == (9,)


def test_back_to_a_savepoint_after_a_deadlock(town: Town, party: Party) -> None:
    fill(town)
    a, b, c = town.spread
    one, two = party.join(town.dsn), party.join(town.dsn)
    one.execute(update(a).encode())
    two.execute(update(c).encode())
    two.execute("SAVEPOINT s")
    two.execute(update(b).encode())
    futures = [party.start(one, update(b))]
    party.until_waiting(1)
    futures.append(party.start(two, update(a)))
    victim, _ = deadlocked(futures)
    if victim == 1:
        futures[0].result(SOON_SECONDS)  # what it holds since the savepoint has been let go
        two.execute("ROLLBACK TO s")
        one.commit()
        two.execute(update(a).encode())
        two.commit()
    else:
        one.rollback()
        futures[1].result(SOON_SECONDS)
        two.commit()


def test_table_locks(town: Town, party: Party) -> None:
    """A reader of two shards between two that lock tables there: queues count as well as holders."""
    fill(town)
    a, b, _ = town.spread
    one, two = party.join(town.dsn), party.join(town.dsn)
    one.execute(f"SELECT v FROM notes WHERE k = {a}".encode())
    two.execute(f"SELECT v FROM notes WHERE k = {b}".encode())
    first = party.start(one, "LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
    party.until_waiting(1)
    second = party.start(two, "LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
    victim, error = deadlocked([first, second])
    assert "AccessExclusiveLock on relation" in (error.diag.message_detail or "")
    (first, second)[1 - victim].result(SOON_SECONDS)
    for client in (one, two):
        client.rollback()


def test_long_chains_and_slow_statements_are_no_deadlocks(town: Town, party: Party) -> None:
    fill(town)
    a, b, c = town.spread
    head = party.join(town.dsn)
    head.execute(update(a).encode())
    head.execute(update(b).encode())
    futures = []
    for number in range(6):
        client = party.join(town.dsn)
        client.execute(update(town.keys(2, 3)[number % 3]).encode()) if number < 3 else None
        futures.append(party.start(client, update((a, b)[number % 2])))
        party.until_waiting(number + 1)
    sleeper = party.join(town.dsn)
    sleeper.execute(f"SELECT 1 FROM notes WHERE k = {c}".encode())
    slow = party.start(sleeper, f"SELECT pg_sleep(2.5) FROM notes WHERE k = {a}")
    slow.result(20)
    assert not any(future.done() for future in futures), "somebody was ended who only had to wait"
    head.commit()
    open_ones = dict(zip(futures, party.clients[1:7], strict=True))
    while open_ones:
        eventually(lambda: any(future.done() for future in open_ones), "nobody goes on")
        for future in [future for future in open_ones if future.done()]:
            future.result()
            open_ones.pop(future).commit()
    sleeper.rollback()


def test_who_commits_is_not_ended(town: Town, party: Party) -> None:
    """One is prepared on a shard and waits in step 1 on another for a row that somebody holds who waits for it."""
    fill(town)
    a, b, c = town.spread
    one, two = party.join(town.dsn), party.join(town.dsn)
    with psycopg.connect(town.dsn, autocommit=True) as client:
        client.execute("INSERT INTO parents VALUES (%s, 'p')", (c,))
    one.execute(update(a).encode())
    one.execute(update(b).encode())
    one.execute(f"INSERT INTO children VALUES ({c}, 1)".encode())  # its foreign key is looked at in COMMIT
    two.execute(f"DELETE FROM parents WHERE id = {c}".encode())
    committing = party.threads.submit(one.commit)
    prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
    eventually(lambda: sum(rows[0][0] for rows in town.everywhere(prepared)) >= 1, "nothing is prepared")
    party.until_waiting(1)
    on = next(shard for shard in (0, 1) if town.on_shard(shard, prepared)[0][0])
    waiting = party.start(two, update((a, b)[on]))
    victim, error = deadlocked([committing, waiting])
    assert victim == 1
    assert len((error.diag.message_detail or "").splitlines()) == 2
    committing.result(SOON_SECONDS)
    two.rollback()
    assert dict(town.stored("SELECT k, n FROM notes"))[a] == 1


@pytest.mark.parametrize("through", ["one proxy", "two proxies"])
def test_two_that_wait_for_each_other_in_their_commits(
    town: Town, party: Party, other_proxy: ProxyProcess, through: str
) -> None:
    """Foreign keys that are looked at in COMMIT: each needs a row that the other has deleted, on another shard."""
    a, _, c = town.spread
    dsns = [town.dsn, other_proxy.dsn(town.dsn.rpartition("/")[2]) if through == "two proxies" else town.dsn]
    clients = [party.join(dsn) for dsn in dsns]
    with psycopg.connect(town.dsn, autocommit=True) as client:
        client.execute("INSERT INTO parents VALUES (%s, 'p'), (%s, 'p')", (a, c))
    for client, gone, needed in zip(clients, (a, c), (c, a), strict=True):
        client.execute("DELETE FROM parents WHERE id = %s", (gone,))
        client.execute("INSERT INTO children VALUES (%s, 1)", (needed,))
    commits = [party.threads.submit(client.commit) for client in clients]
    victim, error = deadlocked(commits)
    assert error.diag.message_primary == "deadlock detected"
    detail = error.diag.message_detail or ""
    assert len(detail.splitlines()) == 2, detail
    commits[1 - victim].result(SOON_SECONDS)
    assert town.stored("SELECT id FROM parents") == [((a, c)[victim],)]
    assert town.stored("SELECT parent FROM children") == [((a, c)[victim],)]
    # Its links are others now, and the session lives on.
    clients[victim].execute("INSERT INTO children VALUES (%s, 2)", ((a, c)[victim],))
    clients[victim].commit()


# What makes the transaction one of several shards: writing on a second one; reading there; that, and its client has
# asked for its id, so that the commit leaves a record.
@pytest.mark.parametrize("second_shard", ["written", "read", "read, with an id"])
def test_a_commit_that_gives_way_lets_go_where_it_waits(town: Town, party: Party, second_shard: str) -> None:
    """Last waits on s2 for first, that on s0 for second, and that on s2 for what last's waiting backend has locked."""
    a, _, c = town.spread
    other = town.keys(2, 2)[1]
    with psycopg.connect(town.dsn, autocommit=True) as client:
        client.execute("INSERT INTO parents VALUES (%s, 'p'), (%s, 'p'), (%s, 'p')", (a, c, other))
    first, second, last = (party.join(town.dsn) for _ in range(3))
    for client, held, needed in ((first, c, a), (second, a, other), (last, other, c)):
        client.execute(f"SELECT FROM parents WHERE id = {held} FOR UPDATE".encode())
        client.execute(f"INSERT INTO children VALUES ({needed}, 1)".encode())
    key = town.keys(1)[0]
    last.execute((update(key) if second_shard == "written" else f"SELECT n FROM notes WHERE k = {key}").encode())
    if "id" in second_shard:
        ((gid,),) = last.execute("SHOW pgchorus.transaction_id").fetchall()
    commits = [party.threads.submit(client.commit) for client in (first, second, last)]
    victim, error = deadlocked(commits)
    assert victim == 2, "the youngest"
    assert error.diag.message_primary == "deadlock detected"
    assert len((error.diag.message_detail or "").splitlines()) == 3
    for commit in commits[:2]:
        commit.result(SOON_SECONDS)
    assert town.stored("SELECT parent FROM children") == [(key,) for key in sorted((a, other))]
    if "id" in second_shard:
        assert first.execute(f"SHOW pgchorus.transaction '{gid}'".encode()).fetchall()[0][0] != "committed"
    # Its links are sound, and the session lives on.
    last.execute("INSERT INTO children VALUES (%s, 2)", (c,))
    last.commit()


@pytest.mark.parametrize("through", ["one proxy", "two proxies"])
def test_who_came_to_wait_a_little_later_is_the_youngest_all_the_same(
    town: Town, party: Party, other_proxy: ProxyProcess, through: str
) -> None:
    """As above; last waits and is waited for by one backend, so that the ring is seen without knowing whose that is."""
    a, b, c = town.spread
    other = town.keys(2, 2)[1]
    fill(town)
    late = other_proxy.dsn(town.dsn.rpartition("/")[2]) if through == "two proxies" else town.dsn
    first, second, last = (party.join(dsn) for dsn in (town.dsn, town.dsn, late))
    for client, held, read in ((first, c, b), (second, a, b), (last, other, b)):
        client.execute(update(held).encode())
        client.execute(f"SELECT v FROM notes WHERE k = {read}".encode())
    futures = []
    for client, needed in ((first, a), (second, other), (last, c)):
        if client is last:
            time.sleep(0.2)  # a look comes in between: what it sees is that the two wait, and last does not
        futures.append(party.start(client, update(needed)))
        party.until_waiting(len(futures))
    victim, error = deadlocked(futures)
    assert victim == 2, f"the youngest: {error.diag.message_detail}"
    assert len((error.diag.message_detail or "").splitlines()) == 3
    futures[1].result(SOON_SECONDS)
    second.commit()
    futures[0].result(SOON_SECONDS)
    first.commit()
    last.rollback()


def test_who_waits_for_what_a_dead_proxy_has_prepared_wakes_recovery(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    shards = make_databases(2)
    limits = {"recovery": {"interval_s": 3600, "grace_s": 3600, "orphan_s": 0.1}}
    proxy = start_proxy(shards, {"pairs": {"key": "k"}}, limits=limits)
    keys = keys_of_both_shards()
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2])) as client:
        client.execute("CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)")
        client.execute(f"INSERT INTO pairs VALUES ({keys[0]}, 0), ({keys[1]}, 0)".encode())
        client.commit()
        gid = GlobalId("test", "s0", uuid7(time.time_ns() // 1_000_000, 99))
        with psycopg.connect(shards[1], autocommit=True) as direct:
            direct.execute("BEGIN")
            direct.execute("UPDATE pairs SET v = 7")
            direct.execute(f"PREPARE TRANSACTION '{gid.at('s1')}'".encode())
        client.execute(f"UPDATE pairs SET v = 1 WHERE k = {keys[0]}".encode())
        begin = time.monotonic()
        client.execute(f"UPDATE pairs SET v = v + 1 WHERE k = {keys[1]}".encode())
        assert time.monotonic() - begin < SOON_SECONDS
        assert client.execute("SELECT v FROM pairs ORDER BY v").fetchall() == [(1,), (1,)]
