"""Row locks over several shards: taken on the rows that are returned and on no others, as in one Postgres."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from tests.integration.conftest import Town

Client = psycopg.Connection[Any]
LOCKED = "55P03"
WAITS = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()"""


class Clients:
    """Clients of the one Postgres and of the proxy, in blocks of their own."""

    def __init__(self, town: Town, stack: ExitStack) -> None:
        self.town = town
        self.stack = stack
        self.threads = stack.enter_context(ThreadPoolExecutor(8))

    def join(self, dsn: str, *, autocommit: bool = False) -> Client:
        client = psycopg.connect(dsn, autocommit=autocommit)
        client.prepare_threshold = None
        self.stack.callback(client.close)
        return client

    def start(self, client: Client, sql: str) -> Future[list[Any]]:
        return self.threads.submit(rows, client, sql)

    def both(self) -> tuple[str, str]:
        return self.town.one, self.town.dsn

    def until_waiting(self, dsn: str) -> None:
        if dsn == self.town.one:
            with psycopg.connect(dsn, autocommit=True) as looking:
                eventually(lambda: looking.execute(WAITS).fetchone() != (0,), "nobody waits")
        else:
            eventually(lambda: any(found[0][0] for found in self.town.everywhere(WAITS)), "nobody waits")


@pytest.fixture
def clients(town: Town) -> Iterator[Clients]:
    with ExitStack() as stack:
        made = Clients(town, stack)
        for dsn in made.both():
            with psycopg.connect(dsn, autocommit=True) as client:
                client.execute("INSERT INTO notes SELECT n, 'v' || n, 0 FROM generate_series(1, 12) n")
                client.execute("INSERT INTO parents SELECT n, 'p' || n FROM generate_series(1, 12) n")
                client.execute("INSERT INTO kinds SELECT n, 'k' || n FROM generate_series(1, 4) n")
        yield made


def rows(client: Client, sql: str) -> list[Any]:
    return client.execute(sql.encode()).fetchall()


def locked(prober: Client, table: str, key: str, count: int) -> list[int]:
    """Return the rows of a table that somebody else has locked."""
    found = []
    for number in range(1, count + 1):
        try:
            prober.execute(f"SELECT 1 FROM {table} WHERE {key} = {number} FOR UPDATE NOWAIT".encode())
        except psycopg.errors.LockNotAvailable:
            found.append(number)
    return found


@pytest.mark.parametrize(
    "sql",
    [
        "select k from notes where n = 0 and k < 2 for update",
        "select k from notes order by k desc for no key update",
        "select k from notes where k > 3 order by k for share",
        "select k from notes order by k limit 3 for update",
        "select k, v from notes order by k desc, v limit 4 offset 2 for no key update",
        "select k from notes for update limit 0",
        "select k from notes order by k offset 9 for share nowait",
        "select k from notes order by n, k for update skip locked fetch first 5 rows only",
        "select v from notes where k > 2 order by k limit 1 for update skip locked",
        "select v as k from notes order by k limit 6 for update skip locked",
        "select k from notes order by v limit 2 for key share",
        "select n.k from notes n join parents p on p.id = n.k where p.name > 'p3' order by n.k for update of n",
        "select n.k from notes n join parents p on p.id = n.k order by n.k limit 2 for share of p for update of n",
        "select n.k, d.name from notes n join kinds d on d.id = n.k order by n.k for share",
        "select n.k, d.name from notes n left join kinds d on d.id = n.k order by n.k limit 5 for update of n",
        "select k from notes order by k limit null for update",
        "select k from notes order by k limit 100 for update skip locked",
        "select k from notes where false order by k limit 2 for update",
        "with q as (select k from notes order by k limit 3 for update) select k from q",
        "with q as (select * from notes order by k limit 2 for update) select max(q.v) from notes join q using (k)",
        "select q.k + 1 from (select k, v from notes order by k desc limit 2 for update) q where q.v <> 'v12'",
        "select k from notes where k in (select k from notes order by n, k limit 3 for share) order by k",
        "with q as materialized (select * from notes where k > 9 for update) select count(*), max(v) from q",
    ],
)
def test_the_rows_that_are_returned_are_locked_and_no_others(clients: Clients, sql: str) -> None:
    answers = []
    for dsn in clients.both():
        locker, prober = clients.join(dsn), clients.join(dsn, autocommit=True)
        found = rows(locker, sql)
        answers.append((found, locked(prober, "notes", "k", 12), locked(prober, "parents", "id", 12)))
        locker.rollback()
        answers[-1] += (locked(prober, "notes", "k", 12),)
    assert answers[1] == answers[0]
    assert answers[1][3] == []


@pytest.mark.parametrize("tail", ["for update", "for update skip locked", "for share nowait", "offset 2 for update"])
def test_without_an_order_what_is_returned_is_locked(clients: Clients, tail: str) -> None:
    dsn = clients.town.dsn
    locker, prober = clients.join(dsn), clients.join(dsn, autocommit=True)
    found = [k for (k,) in rows(locker, f"select k from notes limit 5 {tail}")]
    held = locked(prober, "notes", "k", 12)
    assert len(found) == 5
    assert set(found) <= set(held)
    assert len(held) == (7 if "offset" in tail else 5)
    locker.rollback()


@pytest.mark.parametrize("limit", [1, 2, 5, 20])
@pytest.mark.parametrize("held", ["(1, 2)", "(1, 4, 5, 9)", "(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)"])
def test_locked_rows_are_passed_over(clients: Clients, held: str, limit: int) -> None:
    answers = []
    for dsn in clients.both():
        first, second, prober = clients.join(dsn), clients.join(dsn), clients.join(dsn, autocommit=True)
        rows(first, f"select k from notes where k in {held} for update")
        found = rows(second, f"select k, v from notes order by k limit {limit} for update skip locked")
        answers.append((found, locked(prober, "notes", "k", 12)))
        first.rollback()
        second.rollback()
    assert answers[1] == answers[0]


@pytest.mark.parametrize("held", [1, 2, 3])
def test_nowait_fails_for_rows_that_are_wanted_alone(clients: Clients, held: int) -> None:
    answers = []
    for dsn in clients.both():
        first, second = clients.join(dsn), clients.join(dsn)
        rows(first, f"select k from notes where k = {held} for update")
        try:
            answers.append(str(rows(second, "select k from notes order by k limit 2 for update nowait")))
        except psycopg.Error as error:
            answers.append(str(error.sqlstate))
        second.rollback()
        first.rollback()
    assert answers[1] == answers[0]


@pytest.mark.parametrize(
    "change",
    ["update notes set n = 1 where k = 1", "delete from notes where k = 1", "update notes set v = 'new' where k = 1",
     "select 1"],
)  # fmt: skip
def test_who_waited_gets_the_first_rows_as_they_are_then(clients: Clients, change: str) -> None:
    answers = []
    for dsn in clients.both():
        first, second, prober = clients.join(dsn), clients.join(dsn), clients.join(dsn, autocommit=True)
        rows(first, "select k from notes where k = 1 for update")
        waiting = clients.start(second, "select k, v from notes where n = 0 order by k limit 2 for update")
        clients.until_waiting(dsn)
        first.execute(change.encode())
        first.commit()
        found = waiting.result(20)
        answers.append(found)
        held = locked(prober, "notes", "k", 12)
        # Postgres keeps the lock of a row that it waited for and then found to be none of those that are wanted.
        assert {k for k, _ in found} <= set(held) <= {1, *(k for k, _ in found)}
        second.rollback()
    assert answers[1] == answers[0]


@pytest.mark.parametrize(
    "change",
    ["update notes set v = 'new' where k = 1", "update notes set n = 7 where k = 1", "delete from notes where k = 1"],
)
@pytest.mark.parametrize(
    "write",
    [
        """merge into notes t using (values ('v1', 101), ('none', 102)) s (v, k) on s.v = t.v
           when matched then update set n = t.n + 100 when not matched then insert (k, v, n) values (s.k, s.v, 1)""",
        "update notes a set n = a.n + b.k from notes b where b.v = 'v' || a.k + 1 and a.v = 'v1'",
        "delete from notes a where exists (select 1 from notes b where b.v = 'v' || a.k + 1 and a.v = 'v1')",
    ],
)
def test_who_joins_off_the_key_and_waits_looks_again_at_the_row_alone(
    clients: Clients, write: str, change: str
) -> None:
    found = []
    for dsn in clients.both():
        first, second = clients.join(dsn), clients.join(dsn)
        first.execute(change.encode())
        waiting = clients.threads.submit(lambda client: client.execute(write.encode()).rowcount, second)
        clients.until_waiting(dsn)
        first.commit()
        count = waiting.result(20)
        found.append((count, rows(second, "select * from notes order by k")))
        second.rollback()
    assert found[1] == found[0]


def test_a_reference_table_that_is_locked_keeps_writers_away_whichever_shard_they_write(clients: Clients) -> None:
    for dsn in clients.both():
        locker, writer = clients.join(dsn), clients.join(dsn)
        assert locker.execute("select * from kinds where id = %s for update", (1,)).fetchall() == [(1, "k1")]
        for change in ("update kinds set name = 'x' where id = 1", "delete from kinds where id = 1"):
            writer.execute("set lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                writer.execute(change.encode())
            writer.rollback()
        locker.rollback()
    for key in clients.town.spread:  # a shared lock on any copy
        locker, writer = clients.join(clients.town.dsn), clients.join(clients.town.dsn)
        locker.execute("insert into notes values (%s, 'x', 0) on conflict do nothing", (key,))
        rows(locker, f"select d.id from kinds d, notes n where n.k = {key} and d.id = 1 for share of d")
        writer.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            writer.execute("update kinds set name = 'y' where id = 1")
        writer.rollback()
        locker.rollback()


@pytest.mark.parametrize("strong", ["update", "no key update"])
@pytest.mark.parametrize("weak", ["share", "key share"])
def test_row_locks_of_a_reference_table_meet_on_every_copy(clients: Clients, strong: str, weak: str) -> None:
    """As on one Postgres: the lock that a join takes, or a foreign key's check, is on the copy of the row's shard."""
    answers = []
    for dsn in clients.both():
        one, other = clients.join(dsn), clients.join(dsn)
        found: list[object] = []
        for key in clients.town.spread:
            exclusive = f"select name from kinds where id in (1, 3) order by id for {strong}"
            shared = f"select d.id from kinds d, notes n where n.k = {key} and d.id = 3 for {weak} of d"
            one.execute("insert into notes values (%s, 'x', 0) on conflict do nothing", (key,))
            one.commit()
            for first, second in ((exclusive, shared), (shared, exclusive), (exclusive, exclusive)):
                found.append(rows(one, first))
                try:
                    found.append(rows(other, f"{second} nowait"))
                except psycopg.errors.LockNotAvailable:
                    found.append(LOCKED)
                other.rollback()
                one.rollback()
            rows(one, shared)
            found.append(rows(other, f"{exclusive} skip locked"))
            other.rollback()
            one.rollback()
        answers.append(found)
    assert answers[1] == answers[0]


def test_lockers_of_reference_rows_in_one_order_do_not_deadlock(clients: Clients) -> None:
    dsn, keys = clients.town.dsn, clients.town.spread
    with psycopg.connect(dsn, autocommit=True) as client:
        for key in keys:
            client.execute("insert into notes values (%s, 'x', 0) on conflict do nothing", (key,))

    def work(number: int) -> None:
        with psycopg.connect(dsn) as worker:
            shared = f"select d.id from kinds d, notes n where n.k = {keys[number % 3]} order by d.id for share of d"
            for _ in range(6):
                rows(worker, shared if number % 2 else "select * from kinds order by id for update")
                if number % 2 == 0:
                    worker.execute("update kinds set name = name || '.' where id = 2")
                worker.commit()

    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(work, range(WORKERS)))
    with psycopg.connect(dsn) as client:
        assert rows(client, "select name from kinds where id = 2") == [("k2" + "." * 6 * (WORKERS // 2),)]


FIRST = "select k from notes where n = 0 order by k limit 1 for update skip locked"
LAST = "select k from notes order by v, k desc limit 4 for update skip locked"
QUEUES = {
    "two statements": (FIRST, "update notes set n = 1 where k = {}"),
    "one statement": (f"update notes set n = 1 where k = ({FIRST}) returning k", ""),
    "with": (f"with q as ({FIRST}) update notes set n = 1 from q where notes.k = q.k returning notes.k", ""),
    "several": (f"delete from notes where k in ({LAST}) returning k", ""),
    "array": (f"delete from notes where k = any(array({LAST})) returning k", ""),
    "with, read": (f"with q as ({FIRST}) select k from q", "update notes set n = 1 where k = {}"),
    "any": ("select k from notes where n = 0 limit 3 for update skip locked", "update notes set n = 1 where k = {}"),
}
JOBS, WORKERS = 150, 6


@pytest.mark.parametrize("name", QUEUES)
def test_no_job_is_given_to_two_workers(clients: Clients, name: str) -> None:
    take, done = QUEUES[name]
    dsn = clients.town.dsn
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute(f"INSERT INTO notes SELECT n, 'v' || n, 0 FROM generate_series(13, {JOBS}) n".encode())

    def work(_: int) -> list[int]:
        with psycopg.connect(dsn) as worker:
            worker.prepare_threshold = None
            taken: list[int] = []
            while jobs := [k for (k,) in rows(worker, take)]:
                for job in jobs if done else ():
                    worker.execute(done.format(job).encode())
                worker.commit()
                taken += jobs
            return taken

    with ThreadPoolExecutor(WORKERS) as threads:
        shares = list(threads.map(work, range(WORKERS)))
    given = Counter(job for share in shares for job in share)
    assert [job for job, count in given.items() if count > 1] == []
    assert sorted(given) == list(range(1, JOBS + 1))
    assert sum(1 for share in shares if share) > 1


def test_two_workers_with_two_jobs_get_one_each(clients: Clients) -> None:
    dsn = clients.town.dsn
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("delete from notes where k > 2")
    first, second, third = (clients.join(dsn) for _ in range(3))
    take = "select k from notes order by k limit 1 for update skip locked"
    assert (rows(first, take), rows(second, take), rows(third, take)) == ([(1,)], [(2,)], [])
    first.rollback()
    assert rows(third, take) == [(1,)]
    for client in (first, second, third):
        client.rollback()


KEEPS_OUT = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1885826162 and granted"


@pytest.mark.parametrize("how", ["ends", "fails", "is cancelled", "is left"])
def test_what_keeps_others_out_goes_with_the_statement(clients: Clients, how: str) -> None:
    """Not with its transaction, nor with its link: the next one would wait for a client that thinks."""
    town = clients.town
    take = "select k from notes order by k limit 1 for update skip locked"
    worker = clients.join(town.dsn)
    worker.execute("select 1")
    if how == "ends":
        assert rows(worker, take) == [(1,)]
    elif how == "fails":
        with pytest.raises(psycopg.errors.DivisionByZero):
            rows(worker, take.replace("select k", "select k, 1 / n"))
    else:
        blocker = clients.join(town.shards[2])  # home, where the lock is, is the first
        blocker.execute("lock table notes in access exclusive mode")
        slow = clients.start(worker, take)
        eventually(lambda: any(found[0][0] for found in town.everywhere(KEEPS_OUT)), "it keeps nobody out")
        if how == "is cancelled":
            worker.cancel_safe()
        else:
            os.close(worker.fileno())
            blocker.rollback()  # as in one Postgres the statement goes on, and ends when it can
        with pytest.raises(psycopg.Error):
            slow.result(20)
    eventually(lambda: not any(found[0][0] for found in town.everywhere(KEEPS_OUT)), "others are kept out still")
    if how != "is left":
        worker.rollback()


def test_after_an_error_nobody_is_kept_out(clients: Clients) -> None:
    dsn = clients.town.dsn
    first, second = clients.join(dsn), clients.join(dsn, autocommit=True)
    with pytest.raises(psycopg.errors.DivisionByZero):
        rows(first, "select k, 1 / n from notes order by k limit 1 for update skip locked")
    take = "select k from notes order by k limit 1 for update skip locked"
    second.execute("set statement_timeout = '5s'")
    assert rows(second, take) == [(1,)]
    first.rollback()
    assert rows(first, take) == [(1,)]
    first.rollback()
