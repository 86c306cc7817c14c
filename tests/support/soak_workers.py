"""Clients of the soak: transfers, counters, lists, and readers of snapshots, each noting what it was told.

All go through one of several proxies, another one whenever their connection is lost. What must be true of their notes
is ``soak_checks``'s.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from history import Append, Read, Told, Transaction
from router.cluster import Database
from router.sharding import slot_of
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy_process import ProxyProcess

TABLES: dict[str, Any] = {
    "accounts": {"key": "id"},
    "journal": {"key": "marker"},
    "counters": {"key": "k"},
    "counted": {"key": "k"},
    "lists": {"key": "k"},
}
SCHEMA = (
    "CREATE TABLE accounts (id int8 PRIMARY KEY, balance int8 NOT NULL)",
    "CREATE TABLE journal (marker int8 PRIMARY KEY, giver int8 NOT NULL, taker int8 NOT NULL, amount int8 NOT NULL)",
    "CREATE TABLE counters (k int8 PRIMARY KEY, place int4 NOT NULL, n int8 NOT NULL)",
    "CREATE TABLE counted (k int8, n int8, marker int8 NOT NULL, PRIMARY KEY (k, n))",
    "CREATE TABLE lists (k int8 PRIMARY KEY, v text NOT NULL)",
)
SLOTS = 4096
ACCOUNTS, START = 400, 1000
PLACES = 6  # independent counters, each of one row on every shard
WINDOW, APPENDS_PER_LIST = 8, 30
APPENDS = 0.6  # of the statements on lists; the others read
RETRY_SECONDS = 0.05
READ_PAUSE_SECONDS = 0.2
REPEATABLE_TRANSFERS, REPEATABLE_LISTS = 0.1, 0.4  # shares; each takes a fence, which holds all commits back
APPEND = "INSERT INTO lists (k, v) VALUES (%s, %s) ON CONFLICT (k) DO UPDATE SET v = lists.v || ',' || excluded.v"
REPEATABLE = " ISOLATION LEVEL REPEATABLE READ"


class BrokenPromiseError(AssertionError):
    """A client saw what must not be."""


@dataclass
class Bank:
    """What all clients share. ``direct`` are the shards' own DSNs, ``seed`` makes every choice of every client."""

    proxies: Sequence[ProxyProcess]
    direct: Sequence[str]
    seed: int
    repeatable_over_shards: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    appends: int = 0
    places: list[list[int]] = field(default_factory=list)  # keys of each place's counters, by shard

    def __post_init__(self) -> None:
        self.database = self.direct[0].rpartition("/")[2]
        self._layout = Database("soak", tuple(f"s{shard}" for shard in range(len(self.direct))), 0)
        keys: list[list[int]] = [[] for _ in self.direct]
        for key in range(1, 10_000):
            keys[self.shard_of(key)].append(key)
        self.places = [[on[place] for on in keys] for place in range(PLACES)]

    def shard_of(self, key: int) -> int:
        return self._layout.shard_of_slot(slot_of("int8", key, SLOTS))

    def dsn(self, choice: random.Random | None = None) -> str:
        """Return where to connect: to any of the proxies, the first one without a choice."""
        proxy = self.proxies[0] if choice is None else choice.choice(self.proxies)
        return proxy.dsn(self.database)

    def fill(self) -> None:
        """Make the tables and their first rows, and find out what transactions can do."""
        with psycopg.connect(self.dsn(), autocommit=True) as client:
            for statement in SCHEMA:
                client.execute(statement.encode())
            rows = ", ".join(f"({number}, {START})" for number in range(1, ACCOUNTS + 1))
            client.execute(f"INSERT INTO accounts VALUES {rows}".encode())
            rows = ", ".join(f"({key}, {place}, 0)" for place, keys in enumerate(self.places) for key in keys)
            client.execute(f"INSERT INTO counters VALUES {rows}".encode())
            client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            try:
                client.execute("SELECT sum(balance) FROM accounts")
                self.repeatable_over_shards = True
            except psycopg.errors.FeatureNotSupported:
                self.repeatable_over_shards = False
            client.execute("ROLLBACK")
        for proxy in self.proxies:
            eventually(lambda proxy=proxy: self._knows_tables(proxy), "a proxy has not noticed the tables")

    def _knows_tables(self, proxy: ProxyProcess) -> bool:
        with psycopg.connect(proxy.dsn(self.database), autocommit=True) as client:
            try:
                return all(client.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for table in TABLES)
            except psycopg.errors.UndefinedTable:
                return False


@dataclass
class Notes:
    """What one client was told, by marker."""

    acknowledged: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    distributed: int = 0
    snapshots: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def add(self, other: Notes) -> None:
        self.acknowledged |= other.acknowledged
        self.refused |= other.refused
        self.unknown |= other.unknown
        self.distributed += other.distributed
        self.snapshots += other.snapshots
        self.errors += other.errors
        self.warnings += other.warnings


class Worker(threading.Thread):
    """A client that reconnects whenever it must, through any proxy. Subclasses say what ``once`` does."""

    def __init__(self, bank: Bank, number: int) -> None:
        super().__init__(name=f"{type(self).__name__.lower()} {number}", daemon=True)
        self.bank = bank
        self.number = number
        self.random = random.Random(f"{bank.seed} {self.name}")
        self.notes = Notes()
        self.failure: BaseException | None = None
        self.done = 0  # acknowledged transactions, or snapshots
        self._serial = 0
        self._warned = False

    def run(self) -> None:
        try:
            while not self.bank.stopping.is_set():
                try:
                    with psycopg.connect(self.bank.dsn(self.random), autocommit=True) as client:
                        client.add_notice_handler(self._notice)
                        client.execute("SET lock_timeout = '2s'")
                        while not self.bank.stopping.is_set() and not client.broken:
                            self.once(client)
                except psycopg.OperationalError as error:
                    self.count("connecting", error)
                    self.bank.stopping.wait(RETRY_SECONDS)
        except BaseException as error:  # noqa: BLE001 - the one who joins raises it
            self.failure = error
            self.bank.stopping.set()

    def once(self, client: psycopg.Connection[Any]) -> None:
        raise NotImplementedError

    def marker(self) -> int:
        self._serial += 1
        return ((hash_of(self.name) % 1000) << 32) + self._serial

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self._warned = True
        self.notes.warnings[f"{notice.sqlstate} {kind_of(notice.message_primary or '')}"] += 1

    def count(self, phase: str, error: psycopg.Error) -> None:
        words = "connection lost" if error.sqlstate is None else kind_of(str(error).splitlines()[0])
        self.notes.errors[f"{phase}: {error.sqlstate} {words}"] += 1

    def transaction(
        self, client: psycopg.Connection[Any], work: Callable[[], set[int]], modes: str = ""
    ) -> tuple[Told, float | None]:
        """Run a transaction; ``work`` returns the shards that it wrote to. Return what came of it, and when."""
        self._warned = False
        try:
            client.execute(f"BEGIN{modes}".encode())
            written = work()
        except psycopg.Error as error:
            self.count("before COMMIT", error)
            if not client.broken:
                client.execute("ROLLBACK")
            return Told.ABORTED, None
        try:
            status = client.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            self.count("in COMMIT", error)
            doubtful = client.broken or error.sqlstate in {None, "08007"}
            return (Told.UNKNOWN if doubtful else Told.ABORTED), None
        if status != "COMMIT":
            return Told.ABORTED, None
        self.done += 1
        self.notes.distributed += len(written) > 1
        return Told.COMMITTED, None if self._warned else time.monotonic()

    def note(self, marker: int, told: Told) -> None:
        notes = self.notes
        {Told.COMMITTED: notes.acknowledged, Told.ABORTED: notes.refused, Told.UNKNOWN: notes.unknown}[told].add(marker)


class Transfer(Worker):
    """Moves money between accounts on different shards, and leaves a row in the journal."""

    def once(self, client: psycopg.Connection[Any]) -> None:
        bank, choice, marker = self.bank, self.random, self.marker()
        giver = taker = choice.randint(1, ACCOUNTS)
        while bank.shard_of(giver) == bank.shard_of(taker):
            taker = choice.randint(1, ACCOUNTS)
        amount = choice.randint(1, 50)

        def work() -> set[int]:
            client.execute("UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, giver))
            client.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, taker))
            client.execute("INSERT INTO journal VALUES (%s, %s, %s, %s)", (marker, giver, taker, amount))
            return {bank.shard_of(giver), bank.shard_of(taker)}

        modes = REPEATABLE if bank.repeatable_over_shards and choice.random() < REPEATABLE_TRANSFERS else ""
        told, _ = self.transaction(client, work, modes)
        self.note(marker, told)


class Count(Worker):
    """Adds one to a counter on each shard, and writes on each shard which transaction did."""

    def once(self, client: psycopg.Connection[Any]) -> None:
        marker = self.marker()
        keys = self.bank.places[self.random.randrange(PLACES)]

        def work() -> set[int]:
            rows: list[int] = []
            for key in keys:  # in one order, so that transactions queue and do not deadlock
                row = client.execute("UPDATE counters SET n = n + 1 WHERE k = %s RETURNING n", (key,)).fetchone()
                assert row is not None
                rows += (key, row[0], marker)
            values = ", ".join(["(%s, %s, %s)"] * len(keys))
            client.execute(f"INSERT INTO counted VALUES {values}".encode(), rows)
            return set(range(len(keys)))

        told, _ = self.transaction(client, work)
        self.note(marker, told)


class ListAppend(Worker):
    """Appends to lists and reads them, at READ COMMITTED or REPEATABLE READ; the history is for the checker."""

    def __init__(self, bank: Bank, number: int) -> None:
        super().__init__(bank, number)
        self.history: list[Transaction] = []
        self._value = number * 10_000_000

    def _keys(self, *, one_shard: bool) -> list[int]:
        first = 1 + WINDOW * (self.bank.appends // (WINDOW * APPENDS_PER_LIST))
        # The window is wider by a shard's worth, so that one shard has several lists as well.
        keys = list(range(first, first + WINDOW))
        if one_shard:
            shard = self.bank.shard_of(self.random.choice(keys))
            keys = [key for key in keys if self.bank.shard_of(key) == shard]
        return keys

    def once(self, client: psycopg.Connection[Any]) -> None:
        choice = self.random
        repeatable = choice.random() < REPEATABLE_LISTS
        keys = self._keys(one_shard=repeatable and not self.bank.repeatable_over_shards)
        operations: list[Append | Read] = []

        def work() -> set[int]:
            written = set()
            for statement in range(choice.randint(2, 4)):
                if choice.random() < APPENDS:
                    key = choice.choice(keys)
                    self._value += 1
                    operations.append(Append(key, self._value))
                    written.add(self.bank.shard_of(key))
                    client.execute(APPEND, (key, str(self._value)))
                else:
                    wanted = choice.sample(keys, min(len(keys), choice.choice((1, 1, 2, 3))))
                    operations.extend(self._read(client, wanted, statement))
            return written

        began = time.monotonic()
        told, ended = self.transaction(client, work, REPEATABLE if repeatable else "")
        self.bank.appends += sum(isinstance(one, Append) for one in operations)  # about: threads may lose some
        name = f"{self.number}-{len(self.history)}"
        self.history.append(Transaction(name, tuple(operations), told, repeatable, ended, began))

    def _read(self, client: psycopg.Connection[Any], keys: list[int], statement: int) -> list[Read]:
        began = time.monotonic()
        if len(keys) == 1:
            rows = client.execute("SELECT k, v FROM lists WHERE k = %s", keys).fetchall()
        else:
            places = ", ".join(["%s"] * len(keys))
            rows = client.execute(f"SELECT k, v FROM lists WHERE k IN ({places})".encode(), keys).fetchall()
        found = {key: tuple(map(int, text.split(","))) for key, text in rows}
        return [Read(key, found.get(key, ()), statement, began) for key in keys]


class Snapshot(Worker):
    """Reads sums and counters over all shards: they are the same in every snapshot."""

    def once(self, client: psycopg.Connection[Any]) -> None:
        repeatable = self.bank.repeatable_over_shards and self.random.random() < 0.5
        try:
            if repeatable:
                with client.transaction():
                    client.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    first = self._look(client)
                    if self._look(client) != first:
                        raise BrokenPromiseError(f"two reads of one snapshot differ: {first}")
            else:
                self._look(client)
            self.done += 1
            self.notes.snapshots += 1
        except psycopg.Error as error:
            self.count("reading", error)
        self.bank.stopping.wait(READ_PAUSE_SECONDS)

    def _look(self, client: psycopg.Connection[Any]) -> dict[int, set[int]]:
        row = client.execute("SELECT sum(balance), count(*) FROM accounts").fetchone()
        if row is None or (int(row[0]), row[1]) != (ACCOUNTS * START, ACCOUNTS):
            raise BrokenPromiseError(f"a snapshot has {row}, not {ACCOUNTS * START} in {ACCOUNTS} accounts")
        counters: dict[int, set[int]] = {}
        for place, n in client.execute("SELECT place, n FROM counters").fetchall():
            counters.setdefault(place, set()).add(n)
        if any(len(values) != 1 for values in counters.values()):
            raise BrokenPromiseError(f"a snapshot has counters that differ between shards: {counters}")
        return counters


def kind_of(text: str) -> str:
    """Leave out of a message what is different each time."""
    return re.sub(r"pgchorus:\S+|\b[0-9]+\b", "...", text)


def hash_of(name: str) -> int:
    """A number for a worker's name, the same in every run."""
    kind, _, number = name.partition(" ")
    return ("transfer", "count", "listappend", "snapshot").index(kind) * 100 + int(number)
