"""A table of balances over three shards, its proxy, and what must be true of both whatever broke in between.

``Ledger.keys[shard]`` are ids that live on a shard. Looking at shards goes past the proxy and past any faulty wire.
"""

from __future__ import annotations

import time
from copy import copy
from typing import TYPE_CHECKING, Any

import psycopg

from router.cluster import Database
from router.sharding import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy_process import ProxyProcess

SLOTS = 4096
START = 1000
PER_SHARD = 4
PATIENCE_SECONDS = 60.0
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, 'pgchorus:')"
# The messages of a commit, as they can be told by on a wire.
PREPARE = "PREPARE TRANSACTION '"
READY = r"\0pgchorus_ready_0\0|pg_try_advisory_xact_lock_shared\(-?[0-9]"
DECIDE = r"\0pgchorus_decide\0|pgchorus\.decide\('"
APPLY = "COMMIT PREPARED '"
MOVED = 7
# Times that suit tests: recovery looks often and does not wait long for coordinators that are gone.
QUICK: Mapping[str, Any] = {
    "recovery": {"interval_s": 0.2, "orphan_s": 0.1, "grace_s": 1.0},
    "commit": {"prepare_timeout_s": 2.0, "undo_timeout_s": 2.0, "settle_timeout_s": 2.0, "apply_timeout_s": 2.0},
}


def eventually(holds: Callable[[], object], what: str) -> None:
    """Look again and again until something holds; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def prepared_on(dsns: Sequence[str]) -> list[str]:
    """Return the names of our prepared transactions in some databases."""
    found: list[str] = []
    for dsn in dsns:
        with psycopg.connect(dsn, autocommit=True) as connection:
            found += [str(row[0]) for row in connection.execute(PREPARED)]
    return found


class Ledger:
    """Table ``acc (id, balance)``, every balance at first START, behind a proxy that runs already."""

    def __init__(self, process: ProxyProcess, direct: Sequence[str]) -> None:
        self.process = process
        self.direct = list(direct)
        self.database = direct[0].rpartition("/")[2]
        layout = Database("ledger", tuple(f"s{shard}" for shard in range(len(direct))), 0)
        self.keys: list[list[int]] = [[] for _ in direct]
        for key in range(1, 1000):
            on = self.keys[layout.shard_of_slot(slot_of("int8", key, SLOTS))]
            if len(on) < PER_SHARD:
                on.append(key)
        with self.client(autocommit=True) as client:
            client.execute("CREATE TABLE acc (id int8 PRIMARY KEY, balance int8 NOT NULL)")
            rows = ", ".join(f"({key}, {START})" for keys in self.keys for key in keys)
            client.execute(f"INSERT INTO acc VALUES {rows}".encode())

    def through(self, process: ProxyProcess) -> Ledger:
        """Return the same ledger behind another proxy."""
        other = copy(self)
        other.process = process
        return other

    @property
    def total(self) -> int:
        """The sum of all balances, which transfers do not change."""
        return START * sum(len(keys) for keys in self.keys)

    @property
    def dsn(self) -> str:
        return self.process.dsn(self.database)

    def client(self, *, autocommit: bool = False) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.dsn, autocommit=autocommit)

    def on_shard(self, shard: int, query: str) -> list[tuple[Any, ...]]:
        """Ask a shard directly."""
        with psycopg.connect(self.direct[shard], autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def until_served(self) -> None:
        """Wait until the proxy reads all shards."""

        def reads() -> bool:
            try:
                with self.client() as client:
                    client.execute("SELECT sum(balance) FROM acc")
                    return True
            except psycopg.OperationalError:
                return False

        eventually(reads, "the proxy does not read all shards")

    def stored(self) -> dict[int, int]:
        """Return all balances by id, read from the shards themselves."""
        rows = [row for shard in range(len(self.direct)) for row in self.on_shard(shard, "SELECT id, balance FROM acc")]
        assert len(rows) == len(dict(rows)), "a row is on two shards"
        return dict(rows)

    def changed(self, before: Mapping[int, int]) -> dict[int, int]:
        """Return by how much balances differ from an earlier ``stored()``."""
        return {key: value - before[key] for key, value in self.stored().items() if value != before[key]}

    def prepared(self) -> list[str]:
        return prepared_on(self.direct)

    def until_nothing_is_prepared(self) -> None:
        eventually(lambda: not self.prepared(), "something stays prepared")

    def busy_backends(self) -> list[tuple[Any, ...]]:
        """Return backends of clients that are in a transaction, on any shard."""
        return [
            (shard, *row)
            for shard in range(len(self.direct))
            for row in self.on_shard(
                shard,
                "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND xact_start IS NOT NULL",
            )
        ]

    def until_idle(self) -> None:
        eventually(lambda: not self.busy_backends(), "a link stays in a transaction")


def move(client: psycopg.Connection[Any], ledger: Ledger) -> dict[int, int]:
    """Write on all three shards in the client's open transaction; return what a commit would change."""
    first, second, third = (keys[0] for keys in ledger.keys)
    change = {first: -2 * MOVED, second: MOVED, third: MOVED}
    for key, by in change.items():
        client.execute("UPDATE acc SET balance = balance + %s WHERE id = %s", (by, key))
    return change


def check_after(ledger: Ledger) -> None:
    """Whatever happened: nothing prepared, no transaction open, and the next one works."""
    ledger.until_nothing_is_prepared()
    ledger.until_idle()
    before = ledger.stored()
    with ledger.client() as client:
        change = move(client, ledger)
    assert ledger.changed(before) == change
    with ledger.client() as client:
        assert client.execute("SELECT sum(balance) FROM acc").fetchone() == (ledger.total,)
