"""TPC-B over several shards while things are killed: the load, and the account of what must be true afterwards.

Two loads run side by side: pgbench itself, started again whenever its clients have died, and writers of our own, which
do the same transaction but leave a marker of their own in the history and note what they were told of each one.
"""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from ledger import PREPARED, eventually, prepared_on
from programs import environment, program, run_well
from router.cluster import Database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy_process import ProxyProcess

TABLES = {
    "pgbench_accounts": {"key": "aid"},
    "pgbench_branches": {"key": "bid"},
    "pgbench_tellers": {"key": "tid"},
    "pgbench_history": {"key": "aid"},
}
SLOTS = 4096
ACCOUNTS, TELLERS = 100_000, 10
MODES = ("simple", "extended", "prepared")
RETRY_SECONDS = 0.02
PROGRESS_SECONDS = 60.0
SUMS = (
    "SELECT sum(abalance) FROM pgbench_accounts",
    "SELECT sum(tbalance) FROM pgbench_tellers",
    "SELECT sum(bbalance) FROM pgbench_branches",
    "SELECT sum(delta) FROM pgbench_history",
)
# The slot by our expression must be the one that Postgres says, and one of this shard's.
MISPLACED = f"""SELECT count(*) FROM (SELECT {{key}} AS key,
        ((hashint8extended({{key}}, 8816678312871386365) & 4095) + 2275) & 4095 AS slot FROM {{table}})
    WHERE NOT (slot = ANY(%s) AND satisfies_hash_partition('hashed'::regclass, {SLOTS}, slot::int4, key::int8))"""


@dataclass
class Account:
    """What clients were told, by marker."""

    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # a definite error: it must not be there
    unknown: set[str] = field(default_factory=set)  # the connection to the proxy was lost in COMMIT, or 08007
    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)


class Writer(threading.Thread):
    """A client that does TPC-B and reconnects whenever it must."""

    def __init__(self, load: Load, number: int) -> None:
        super().__init__(name=f"writer {number}")
        self.load = load
        self.number = number
        self.account = Account()
        self.random = random.Random(f"{load.seed} writer {number}")
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            serial = 0
            while not self.load.stopping.is_set():
                try:
                    with psycopg.connect(self.load.dsn, autocommit=True) as client:
                        client.add_notice_handler(self._notice)
                        while not self.load.stopping.is_set() and not client.broken:
                            serial += 1
                            self._transaction(client, f"{self.number}-{serial}")
                except psycopg.OperationalError as error:
                    self._count("connecting", error)
                    self.load.stopping.wait(RETRY_SECONDS)
        except BaseException as error:  # noqa: BLE001 - the one who joins raises it
            self.failure = error

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self.account.warnings[f"{notice.sqlstate} {_kind(notice.message_primary or '')}"] += 1

    def _count(self, phase: str, error: psycopg.Error) -> None:
        words = "" if error.sqlstate is None else str(error).splitlines()[0]
        self.account.errors[f"{phase}: {error.sqlstate} {_kind(words)}"] += 1

    def _transaction(self, client: psycopg.Connection[Any], marker: str) -> None:
        scale = self.load.scale
        aid = self.random.randint(1, ACCOUNTS * scale)
        bid = self.random.randint(1, scale)
        tid = self.random.randint(1, TELLERS * scale)
        delta = self.random.choice((-1, 1)) * self.random.randint(1, 5000)
        try:
            client.execute("BEGIN")
            client.execute("UPDATE pgbench_accounts SET abalance = abalance + %s WHERE aid = %s", (delta, aid))
            client.execute("UPDATE pgbench_tellers SET tbalance = tbalance + %s WHERE tid = %s", (delta, tid))
            client.execute("UPDATE pgbench_branches SET bbalance = bbalance + %s WHERE bid = %s", (delta, bid))
            client.execute(
                "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler) VALUES (%s, %s, %s, %s, now(), %s)",
                (tid, bid, aid, delta, marker),
            )
        except psycopg.Error as error:
            self._count("before COMMIT", error)
            self.account.refused.add(marker)
            if not client.broken:
                client.execute("ROLLBACK")
            return
        try:
            done = client.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            self._count("in COMMIT", error)
            doubtful = client.broken or error.sqlstate in {None, "08007"}
            (self.account.unknown if doubtful else self.account.refused).add(marker)
            return
        (self.account.acknowledged if done == "COMMIT" else self.account.refused).add(marker)


class Bench(threading.Thread):
    """Unmodified pgbench, run after run, in each of its modes in turn."""

    def __init__(self, load: Load, clients: int) -> None:
        super().__init__(name="pgbench")
        self.load = load
        self.clients = clients
        self.counted = 0  # transactions that pgbench says it has done
        self.failed = 0  # by a serialization failure or a deadlock: pgbench goes on after these
        self.runs = 0
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.load.stopping.is_set():
                self._once(MODES[self.runs % len(MODES)])
        except BaseException as error:  # noqa: BLE001 - the one who joins raises it
            self.failure = error

    def _once(self, mode: str) -> None:
        options = ["-n", "-T", "3600", "-c", str(self.clients), "-j", "2", "-M", mode]
        with self._lock:
            if self.load.stopping.is_set():
                return
            self._process = subprocess.Popen(
                [program("pgbench"), *options, self.load.dsn],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
            )
        said, _ = self._process.communicate()
        found = re.search(r"number of transactions actually processed: (\d+)", said)
        if found is None:  # it did not get as far as its first transaction
            self.load.stopping.wait(RETRY_SECONDS)
            return
        self.runs += 1
        self.counted += int(found[1])
        failed = re.search(r"number of failed transactions: (\d+)", said)
        self.failed += int(failed[1]) if failed is not None else 0
        self.said += [line for line in said.splitlines() if "error" in line.lower()]

    def end(self) -> None:
        """Stop pgbench as Ctrl-C does not: it has no report then. Its clients die with the proxy instead."""
        with self._lock:
            self.load.stopping.set()


class Load:
    """Everything that runs against one proxy, and the checks. ``direct`` are the shards' own DSNs."""

    def __init__(self, process: ProxyProcess, direct: Sequence[str], *, seed: int, scale: int) -> None:
        self.process = process
        self.direct = list(direct)
        self.database = direct[0].rpartition("/")[2]
        self.seed = seed
        self.scale = scale
        self.stopping = threading.Event()
        self.random = random.Random(f"{seed} kills")
        self.writers: list[Writer] = []
        self.bench: Bench | None = None
        self.in_doubt: list[int] = []

    @property
    def dsn(self) -> str:
        return self.process.dsn(self.database)

    def fill(self) -> None:
        """Make pgbench's tables through the proxy."""
        run_well("pgbench", "-i", "-q", "-s", str(self.scale), self.dsn)

    def start(self, writers: int, pgbench_clients: int) -> None:
        self.writers = [Writer(self, number) for number in range(writers)]
        self.bench = Bench(self, pgbench_clients)
        for thread in (*self.writers, self.bench):
            thread.start()

    @property
    def acknowledged(self) -> int:
        return sum(len(writer.account.acknowledged) for writer in self.writers)

    def until_progress(self, transactions: int = 1) -> None:
        """Wait until each writer has had some more transactions acknowledged, and the bench runs."""
        goals = [(writer, len(writer.account.acknowledged) + transactions) for writer in self.writers]
        deadline = time.monotonic() + PROGRESS_SECONDS
        while not all(len(writer.account.acknowledged) >= goal for writer, goal in goals):
            dead = [thread for thread in self._threads if not thread.is_alive()]
            assert not dead, f"{dead[0].name} has ended: {dead[0].failure!r}"
            assert time.monotonic() < deadline, f"no progress: {self.report()}; {self.process.log_tail()}"
            time.sleep(RETRY_SECONDS)

    @property
    def _threads(self) -> list[Writer | Bench]:
        return [*self.writers, *([self.bench] if self.bench is not None else [])]

    def kill_proxy(self) -> None:
        """Kill the proxy in the middle of things, note what is in doubt, and start it again."""
        self.process.kill()
        self.in_doubt.append(len(prepared_on(self.direct)))
        self.process.start()

    def finish(self) -> None:
        """End the load (the proxy is killed a last time under pgbench, which knows no other end with a report)."""
        self.stopping.set()
        self.process.kill()
        self.in_doubt.append(len(prepared_on(self.direct)))
        for thread in self._threads:
            thread.join(PROGRESS_SECONDS)
            assert not thread.is_alive(), f"{thread.name} does not end"
            if thread.failure is not None:
                raise thread.failure
        self.process.start()

    # --- the account ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert all that was promised; the load has ended and a proxy runs."""
        eventually(lambda: not prepared_on(self.direct), f"something stays prepared: {PREPARED}")
        with psycopg.connect(self.dsn, autocommit=True) as client:
            sums = [client.execute(query.encode()).fetchone() for query in SUMS]
            rows = client.execute("SELECT trim(filler) FROM pgbench_history").fetchall()
        assert len(set(sums)) == 1, f"the four sums differ: {sums}"
        markers = Counter(row[0] for row in rows)
        unmarked = markers.pop(None, 0)
        twice = [marker for marker, count in markers.items() if count > 1]
        assert not twice, f"in the history twice: {twice}"
        told = self.told()
        missing = told.acknowledged - markers.keys()
        assert not missing, f"acknowledged, and not in the history: {sorted(missing)}"
        ghosts = told.refused & markers.keys()
        assert not ghosts, f"refused, and in the history: {sorted(ghosts)}"
        strange = markers.keys() - told.acknowledged - told.unknown
        assert not strange, f"nobody knows of these: {sorted(strange)}"
        if self.bench is not None:
            most = self.bench.counted + self.bench.clients * self.bench.runs
            assert self.bench.counted <= unmarked <= most, (
                f"pgbench counted {self.bench.counted} in {self.bench.runs} runs, the history has {unmarked}"
            )
        self._check_places()

    def told(self) -> Account:
        """Return the writers' accounts as one."""
        whole = Account()
        for writer in self.writers:
            whole.acknowledged |= writer.account.acknowledged
            whole.refused |= writer.account.refused
            whole.unknown |= writer.account.unknown
            whole.errors += writer.account.errors
            whole.warnings += writer.account.warnings
        return whole

    def _check_places(self) -> None:
        layout = Database("places", tuple(f"s{shard}" for shard in range(len(self.direct))), 0)
        for shard, dsn in enumerate(self.direct):
            slots = [slot for slot in range(SLOTS) if layout.shard_of_slot(slot) == shard]
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("CREATE TEMP TABLE hashed (key int8) PARTITION BY HASH (key)")
                for table, placement in TABLES.items():
                    query = MISPLACED.format(table=table, key=placement["key"])
                    row = connection.execute(query.encode(), (slots,)).fetchone()
                    assert row == (0,), f"rows of {table} on shard {shard} that belong elsewhere: {row}"

    def report(self) -> str:
        told = self.told()
        lines = [
            f"acknowledged {len(told.acknowledged)}, refused {len(told.refused)}, unknown {len(told.unknown)}",
            f"in doubt at each kill: {self.in_doubt}",
        ]
        if self.bench is not None:
            lines.append(f"pgbench: {self.bench.counted} in {self.bench.runs} runs, {self.bench.failed} failed")
            lines += [f"  {count} x {text}" for text, count in _kinds(self.bench.said)]
        lines += [f"  {count} x {text}" for text, count in told.errors.most_common()]
        lines += [f"  {count} x notice {text}" for text, count in told.warnings.most_common()]
        return "\n".join(lines)


def _kind(text: str) -> str:
    """Leave out of a message what is different each time."""
    return re.sub(r"pgchorus:\S+|[0-9]+", "...", text)


def _kinds(said: Sequence[str]) -> list[tuple[str, int]]:
    return Counter(map(_kind, said)).most_common()
