"""A reader of several shards that waits behind DDL does not hold the fence: commits and other readers go on.

The fence's own limits are far beyond the test's patience here, so that a reader that does hold it shows: a commit over
several shards would stand behind it until the test gives up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from decided import keys_of_both_shards
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from tests.conftest import MakeDatabases, StartProxy
    from wire_client import WireClient

SOON_SECONDS = 10.0
NEVER = {"fence": {"bind_s": 60, "hold_ms": 60_000, "lock_ms": 60_000}}
TABLES = {"pairs": {"key": "k"}, "parts": {"key": "k"}}
# One partition more than the one that is locked: Parse takes the parent's lock, Bind those of the partitions.
SCHEMA = (
    "CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)",
    "CREATE TABLE parts (k int, day int, v int NOT NULL, PRIMARY KEY (k, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
)
WAITS = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()"""
Client = psycopg.Connection[Any]


class Place:
    """Two shards and the proxy; ``shards`` are connections around it."""

    def __init__(self, dsn: str, shards: list[Client], stack: ExitStack) -> None:
        self.dsn = dsn
        self.shards = shards
        self.keys = keys_of_both_shards()
        self._stack = stack
        self._threads = stack.enter_context(ThreadPoolExecutor(4))

    def client(self) -> Client:
        client: Client = self._stack.enter_context(closing(psycopg.connect(self.dsn, autocommit=True)))
        client.execute("SET statement_timeout = '30s'")
        return client

    def start(self, work: Callable[[], Any]) -> Any:
        return self._threads.submit(work)

    def until_waiting(self) -> None:
        eventually(lambda: sum(_one(shard, WAITS) for shard in self.shards), "the reader does not wait")

    def commit(self, client: Client, times: int) -> None:
        """Commit on both shards, so many times, each soon."""
        for _ in range(times):
            done = self.start(lambda: client.execute("UPDATE pairs SET v = v + 1"))
            done.result(SOON_SECONDS)


@pytest.fixture
def place(make_databases: MakeDatabases, start_proxy: StartProxy) -> Iterator[Place]:
    databases = make_databases(2)
    dsn = start_proxy(databases, TABLES, limits=NEVER).dsn(databases[0].rpartition("/")[2])
    with ExitStack() as stack:
        shards = [stack.enter_context(closing(psycopg.connect(one, autocommit=True))) for one in databases]
        made = Place(dsn, shards, stack)
        client = made.client()
        for statement in SCHEMA:
            client.execute(statement.encode())
        for table in ("pairs (k, v)", "parts (k, day, v)"):
            values = ", ".join(f"({key}, 0)" if "day" not in table else f"({key}, 1, 7)" for key in made.keys)
            client.execute(f"INSERT INTO {table} VALUES {values}".encode())
        yield made


def select(client: Client) -> list[Any]:
    return client.execute("SELECT sum(v) FROM parts").fetchall()


def gathered(client: Client) -> list[Any]:
    return client.execute("SELECT sum(v) FROM (SELECT v, row_number() OVER (ORDER BY v) FROM parts) AS x").fetchall()


def copied(client: Client) -> list[Any]:
    with client.transaction():
        client.execute("SELECT 1 FROM pairs WHERE k = 1")
        with client.cursor().copy("COPY parts_1 TO STDOUT") as copy:
            return [(sum(int(row[2]) for row in copy.rows()),)]


def cursor(client: Client) -> list[Any]:
    with client.transaction():
        client.execute("DECLARE c CURSOR FOR SELECT v FROM parts")
        return [(sum(row[0] for row in client.execute("FETCH ALL FROM c").fetchall()),)]


@pytest.mark.parametrize("read", [select, gathered, copied, cursor])
def test_commits_and_readers_go_on_while_one_waits(place: Place, read: Callable[[Client], list[Any]]) -> None:
    blocker, reader, other = place.shards[1], place.client(), place.client()
    blocker.execute("BEGIN")
    blocker.execute("LOCK TABLE parts_1 IN ACCESS EXCLUSIVE MODE")
    reading = place.start(lambda: read(reader))
    place.until_waiting()
    place.commit(other, 5)
    for count in (1, 2, 3):
        rows = place.start(lambda: other.execute("SELECT sum(v) FROM pairs").fetchall()).result(SOON_SECONDS)
        assert rows == [(10,)], count
    assert not reading.done()
    blocker.execute("UPDATE parts_1 SET v = 8")
    blocker.execute("COMMIT")
    assert reading.result(SOON_SECONDS) == [(15,)]


@pytest.mark.parametrize("what", ["(SELECT told(v), v FROM parts WHERE day = 1)", "parts_1 (k, v)"])
def test_a_copy_that_waits_runs_once(place: Place, what: str) -> None:
    """What it has read must not be read again: the client would hear its notices twice, and pay twice."""
    blocker, reader, other = place.shards[1], place.client(), place.client()
    other.execute(
        "CREATE FUNCTION told(v int) RETURNS int STABLE LANGUAGE plpgsql AS "
        "$$BEGIN RAISE NOTICE 'read %', v; RETURN v; END$$"
    )
    heard: list[str | None] = []
    reader.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    blocker.execute("BEGIN")
    blocker.execute("LOCK TABLE parts_1 IN ACCESS EXCLUSIVE MODE")

    def read() -> int:
        with reader.transaction():
            reader.execute("SELECT 1 FROM pairs WHERE k = 1")
            with reader.cursor().copy(f"COPY {what} TO STDOUT".encode()) as copy:
                return sum(int(row[1]) for row in copy.rows())

    reading = place.start(read)
    place.until_waiting()
    place.commit(other, 2)
    blocker.execute("UPDATE parts_1 SET v = 8")
    blocker.execute("COMMIT")
    assert reading.result(SOON_SECONDS) == 15
    assert sorted(heard) == (["read 7", "read 8"] if "told" in what else [])


def test_ddl_whose_own_commit_waits_for_the_fence(place: Place) -> None:
    """The reader waits for the partition, and DDL over both shards that has it would wait for the reader's fence."""
    ddl, reader = place.client(), place.client()
    with ddl.transaction():
        ddl.execute("TRUNCATE parts_1")
        reading = place.start(lambda: select(reader))
        place.until_waiting()
    assert reading.result(SOON_SECONDS) == [(None,)]


def test_what_was_bound_without_the_fence_is_not_what_is_read(place: Place) -> None:
    """On the shard that does not wait the first snapshot is from before a commit, on the other from after it."""
    blocker, reader, other = place.shards[1], place.client(), place.client()
    blocker.execute("BEGIN")
    blocker.execute("LOCK TABLE parts_1 IN ACCESS EXCLUSIVE MODE")
    text = "SELECT sum(pairs.v) FROM pairs JOIN parts USING (k)"
    reading = place.start(lambda: reader.execute(text.encode()).fetchall())
    place.until_waiting()
    place.commit(other, 3)
    blocker.execute("COMMIT")
    assert reading.result(SOON_SECONDS) == [(6,)]


@pytest.mark.parametrize("change", ["ADD COLUMN more int", "DROP COLUMN v"])
def test_columns_that_somebody_else_changes_meanwhile(place: Place, change: str) -> None:
    """Not through this proxy. The formats that a shard then has too many of, or too few, are not the client's.

    Once the proxy has noticed, it says what one Postgres says: the statement was prepared when the columns were others.
    """
    reader = place.client()
    reader.prepare_threshold = 0
    text = "SELECT * FROM pairs ORDER BY k"
    assert len(reader.execute(text).fetchall()) == len(place.keys)
    for shard in place.shards:
        shard.execute("BEGIN")
        shard.execute(f"ALTER TABLE pairs {change}".encode())
    reading = place.start(lambda: reader.execute(text))
    place.until_waiting()
    for shard in place.shards:
        shard.execute("COMMIT")
    with pytest.raises((psycopg.errors.SerializationFailure, psycopg.errors.FeatureNotSupported)):
        reading.result(SOON_SECONDS)


def _one(shard: Client, sql: str) -> int:
    row = shard.execute(sql.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    "holds", ["truncate notes", "alter table notes add column more int", "lock table plain in access exclusive mode"]
)
def test_definitions_do_not_wait_for_tables_that_they_do_not_name(
    town: Town, connect: Callable[..., WireClient], holds: str
) -> None:
    """To print an expression Postgres locks its table; whoever read all definitions waited for whoever held one."""
    holder, other = connect(town.dsn), connect(town.dsn)
    other.rows("set lock_timeout = '5s'")
    holder.rows("begin")
    holder.rows(holds)
    for text in (
        "create table beside (a int primary key)",
        "comment on table beside is 'made while another table is held'",
        "create temp table mine (a int)",
        "create index concurrently beside_a on beside (a)",
        "alter table kinds add column more int default 5",
        "alter table kinds drop column more",
        "drop table beside",
    ):
        other.rows(text)
    other.rows("begin")
    other.rows("create table beside (a int check (a > 0))")
    other.rows("insert into beside values (1)")
    other.rows("rollback")
    holder.rows("rollback")
