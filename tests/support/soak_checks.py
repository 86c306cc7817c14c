"""The whole soak: clients of all kinds, what is killed meanwhile, and what must be true at the end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from history import Told, check
from ledger import prepared_on
from soak_workers import ACCOUNTS, START, Bank, Count, ListAppend, Notes, Snapshot, Transfer, Worker
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from history import Transaction
    from proxy.demo.embedded import EmbeddedServer

PROGRESS_SECONDS = 60.0
POLL_SECONDS = 0.02
AIMED = 0.5  # of the kills
AIMS = 30
STUCK_SECONDS = 0.03
LOG_ALARMS = ("Traceback", "[critical", '"critical"')


@dataclass
class Soak:
    """Clients against several proxies; ``servers`` are those that may be crashed, in the shards' order."""

    bank: Bank
    servers: Sequence[EmbeddedServer] = ()
    workers: list[Worker] = field(default_factory=list)
    pauses: Sequence[float] = (0.0, 0.5, 1.5)  # that a killed proxy stays away, chosen from by chance
    stalls: Sequence[float] = (0.3, 1.0, 3.0, 5.0)  # that a stopped proxy stays stopped
    in_doubt: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.bank.seed} faults")

    # --- the load ---------------------------------------------------------------------------------------------

    def start(self, transfers: int, counts: int, lists: int, snapshots: int) -> None:
        for kind, number in ((Transfer, transfers), (Count, counts), (ListAppend, lists), (Snapshot, snapshots)):
            self.workers += [kind(self.bank, each) for each in range(number)]
        self._began = time.monotonic()
        for worker in self.workers:
            worker.start()

    def until_progress(self, times: int = 1) -> None:
        """Wait until every client has got on: whatever was killed, nobody hangs."""
        goals = [(worker, worker.done + times) for worker in self.workers]
        deadline = time.monotonic() + PROGRESS_SECONDS
        while not all(worker.done >= goal for worker, goal in goals):
            self.raise_failures()
            behind = [worker.name for worker, goal in goals if worker.done < goal]
            assert time.monotonic() < deadline, f"no progress of {behind}: {self.notes().errors}"
            time.sleep(POLL_SECONDS)

    def raise_failures(self) -> None:
        for worker in self.workers:
            if worker.failure is not None:
                raise worker.failure

    def finish(self) -> None:
        """End the load; everything runs."""
        self.bank.stopping.set()
        for worker in self.workers:
            worker.join(PROGRESS_SECONDS)
            assert not worker.is_alive(), f"{worker.name} does not end"
        self.seconds = time.monotonic() - self._began
        self.raise_failures()

    # --- what goes wrong --------------------------------------------------------------------------------------

    def fault(self) -> str:
        """Do one thing that goes wrong, and mend it; return what it was."""
        kinds: list[tuple[Callable[[], str], int]] = [(self.kill_proxy, 5), (self.stall_proxy, 2)]
        if self.servers:
            kinds.append((self.crash_shard, 3))
        (kind,) = self.random.choices([one for one, _ in kinds], [weight for _, weight in kinds])
        self.done[kind.__name__.replace("_", " ")] += 1
        return kind()

    def kill_proxy(self) -> str:
        """Kill a proxy at any moment, or (as often) at one when something that it has prepared is not finished."""
        return self._kill(aimed=self.random.random() < AIMED)

    def kill_proxy_in_commit(self) -> str:
        """Kill a proxy at a moment when something that it has prepared is not finished."""
        return self._kill(aimed=True)

    def _kill(self, *, aimed: bool) -> str:
        proxy = self.random.choice(self.bank.proxies)
        pause = self.random.choice(self.pauses)
        for _ in range(AIMS if aimed else 1):
            os.kill(proxy.pid, signal.SIGCONT)
            time.sleep(self.random.random() / 50)
            os.kill(proxy.pid, signal.SIGSTOP)
            stuck = self._stuck()
            if stuck:
                break
        proxy.kill()
        self.in_doubt.append(len(stuck))
        time.sleep(pause)  # the other proxy is alone, and recovers
        proxy.start()
        return f"proxy {self.bank.proxies.index(proxy)} killed for {pause:g} s, {self.in_doubt[-1]} parts left prepared"

    def _stuck(self) -> set[str]:
        """Return what is prepared and stays so: what runs through the other proxies is done in the meantime."""
        first = set(prepared_on(self.bank.direct))
        time.sleep(STUCK_SECONDS if first else 0.0)
        return first & set(prepared_on(self.bank.direct)) if first else first

    def stall_proxy(self) -> str:
        """Stop a proxy for longer or shorter than the others leave what is undecided alone, and wake it up."""
        proxy = self.random.choice(self.bank.proxies)
        seconds = self.random.choice(self.stalls)
        os.kill(proxy.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(proxy.pid, signal.SIGCONT)
        return f"proxy {self.bank.proxies.index(proxy)} stopped for {seconds:g} s"

    def crash_shard(self) -> str:
        server = self.random.choice(self.servers)
        server.kill()
        server.start()
        return f"shard {server.name} crashed and came back"

    # --- the account ------------------------------------------------------------------------------------------

    def notes(self) -> Notes:
        whole = Notes()
        for worker in self.workers:
            whole.add(worker.notes)
        return whole

    @property
    def distributed(self) -> int:
        """Acknowledged commits that wrote on several shards."""
        return sum(worker.notes.distributed for worker in self.workers)

    @property
    def history(self) -> list[Transaction]:
        return [one for worker in self.workers if isinstance(worker, ListAppend) for one in worker.history]

    def stored(self, query: str) -> list[list[tuple[Any, ...]]]:
        """Ask every shard directly."""
        rows = []
        for dsn in self.bank.direct:
            with psycopg.connect(dsn, autocommit=True) as connection:
                rows.append(connection.execute(query.encode()).fetchall())
        return rows

    def check(self) -> list[str]:
        """Assert all that was promised, and return in words what was found."""
        eventually(lambda: not prepared_on(self.bank.direct), "something stays prepared")
        said = [self._check_accounts(), self._check_counters(), self._check_lists()]
        for proxy in self.bank.proxies:
            text = proxy.log.read_text()
            alarms = [line for line in text.splitlines() if any(word in line for word in LOG_ALARMS)]
            assert not alarms, f"the log of a proxy: {alarms[:5]}"
        outcomes = Counter(row[0] for rows in self.stored("SELECT outcome FROM pgchorus.decision") for row in rows)
        said.append(f"decision records: {outcomes['commit']} commit, {outcomes['abort']} abort; nothing is prepared")
        return said

    def _told(self, kind: type[Worker]) -> Notes:
        whole = Notes()
        for worker in self.workers:
            if isinstance(worker, kind):
                whole.add(worker.notes)
        return whole

    def _check_accounts(self) -> str:
        journal = [row for rows in self.stored("SELECT marker, giver, taker, amount FROM journal") for row in rows]
        told = self._told(Transfer)
        _compare("journal", Counter(row[0] for row in journal), told)
        wanted = dict.fromkeys(range(1, ACCOUNTS + 1), START)
        for _, giver, taker, amount in journal:
            wanted[giver] -= amount
            wanted[taker] += amount
        balances = dict(row for rows in self.stored("SELECT id, balance FROM accounts") for row in rows)
        assert balances == wanted, "balances are not what the journal says"
        return f"{len(journal)} transfers in the journal, {len(told.unknown)} of unknown outcome before that"

    def _check_counters(self) -> str:
        told = self._told(Count)
        by_shard = self.stored("SELECT k, n, marker FROM counted ORDER BY k, n")
        now = [dict(rows) for rows in self.stored("SELECT k, n FROM counters")]
        total = 0
        for keys in self.bank.places:
            orders = []
            for shard, key in enumerate(keys):
                rows = [row for row in by_shard[shard] if row[0] == key]
                assert [row[1] for row in rows] == list(range(1, now[shard][key] + 1)), f"counter {key} has gaps"
                orders.append([row[2] for row in rows])
            assert all(order == orders[0] for order in orders), f"shards disagree about the order of {keys}"
            total += len(orders[0])
        for rows in by_shard:
            _compare("counters", Counter(row[2] for row in rows), told)
        return f"{total} increments, in the same order on each of {len(by_shard)} shards"

    def _check_lists(self) -> str:
        history = self.history
        final = {key: list(map(int, v.split(","))) for rows in self.stored("SELECT k, v FROM lists") for key, v in rows}
        with psycopg.connect(self.bank.dsn(), autocommit=True) as client:
            through = {key: list(map(int, v.split(","))) for key, v in client.execute("SELECT k, v FROM lists")}
        assert through == final, "the proxy reads other lists than there are"
        anomalies = check(history, final)
        assert not anomalies, f"{len(anomalies)} anomalies: {[str(one) for one in anomalies[:5]]}"
        count = Counter((one.told, one.repeatable) for one in history)
        committed = count[Told.COMMITTED, False], count[Told.COMMITTED, True]
        reads = sum(1 for one in history for _ in one.reads)
        return (
            f"list-append: {committed[0]} transactions at READ COMMITTED and {committed[1]} at REPEATABLE READ"
            f"{'' if self.bank.repeatable_over_shards else ' (of one shard)'}, {reads} reads of {len(final)} lists,"
            " no anomaly"
        )


def _compare(where: str, markers: Counter[int], told: Notes) -> None:
    twice = [marker for marker, count in markers.items() if count > 1]
    assert not twice, f"{where}: there twice: {twice}"
    missing = told.acknowledged - markers.keys()
    assert not missing, f"{where}: acknowledged, and not there: {sorted(missing)}"
    ghosts = told.refused & markers.keys()
    assert not ghosts, f"{where}: refused, and there: {sorted(ghosts)}"
    strange = markers.keys() - told.acknowledged - told.unknown
    assert not strange, f"{where}: nobody knows of these: {sorted(strange)}"
