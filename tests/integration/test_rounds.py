"""Rounds per COMMIT, counted at the wire: what is sent in parallel is all sent before anything is answered.

The wires hold every answer of a round until all of its messages have come by: were one of them sent only after
another's answer, the test would wait in vain.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from fault_wire import Fault, Wires
from ledger import APPLY, DECIDE, PREPARE, READY
from router.cluster import Database
from router.sharding import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

SHARDS = 4
PLAIN = "^Q....COMMIT\\x00$"
FENCED = r"pgchorus\.fence_commit\(.*COMMIT"
QUIET = {"recovery": {"interval_s": 3600}}  # nothing else is on the wires


class Stage:
    """Four shards behind wires, one row on each, and a client in a block."""

    def __init__(self, wires: Wires, dsn: str) -> None:
        self.wires = wires
        layout = Database("rounds", tuple(f"s{shard}" for shard in range(SHARDS)), 0)
        self.keys = {layout.shard_of_slot(slot_of("int8", key, layout.slots)): key for key in range(100)}
        self.client: psycopg.Connection[Any] = psycopg.connect(dsn)
        self.client.execute("CREATE TABLE rows (k int8 PRIMARY KEY, v int8 NOT NULL)")
        self.client.commit()
        values = ", ".join(f"({key}, 0)" for key in self.keys.values())
        self.client.execute(f"INSERT INTO rows VALUES {values}".encode())
        self.client.commit()

    def work(self, writers: int, readers: int) -> None:
        for shard in range(writers):
            self.client.execute("UPDATE rows SET v = v + 1 WHERE k = %s", (self.keys[shard],))
        for shard in range(writers, writers + readers):
            self.client.execute("SELECT v FROM rows WHERE k = %s", (self.keys[shard],))


@pytest.fixture(scope="module")
def stage(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Stage]:
    with Wires(make_module_databases(SHARDS, "rounds")) as wires:
        process = start_module_proxy(wires.dsns, {"rows": {"key": "k"}}, limits=QUIET)
        made = Stage(wires, process.dsn(wires.dsns[0].rpartition("/")[2]))
        # Once before: what is only done the first time (the key of the decision records) is no part of a commit.
        for _ in range(8):
            made.work(SHARDS, 0)
            made.client.commit()
        yield made
        made.client.close()


def rounds_of_commit(stage: Stage, expected: list[list[tuple[str, int]]]) -> None:
    """COMMIT takes exactly these rounds: in each, so many messages of each kind, none before the round is released."""
    rules = [[stage.wires.rule(pattern, Fault.HOLD_ANSWER, times=count) for pattern, count in one] for one in expected]
    stage.wires.queries = []
    with ThreadPoolExecutor(1) as thread:
        commit = thread.submit(stage.client.commit)
        try:
            for number, one in enumerate(rules):
                for rule in one:
                    rule.wait_for_all()
                # All of this round has been sent and nothing of it is answered: nothing of the next one may be there.
                assert not any(rule.at for later in rules[number + 1 :] for rule in later)
                assert not commit.done()
                for rule in one:
                    rule.release()
            commit.result()
        finally:
            stage.wires.calm()
    wanted = sum(count for one in expected for _, count in one)
    assert len(stage.wires.queries) == wanted, stage.wires.queries


@pytest.mark.parametrize("writers", [2, 4])
def test_three_rounds_however_many_writers(stage: Stage, writers: int) -> None:
    stage.work(writers, 0)
    rounds_of_commit(stage, [[(PREPARE, writers - 1), (READY, 1)], [(DECIDE, 1)], [(APPLY, writers - 1)]])


def test_readers_are_let_go_in_one_more_that_is_no_prepare(stage: Stage) -> None:
    stage.work(2, 2)
    rounds_of_commit(stage, [[(PREPARE, 1), (READY, 1)], [(DECIDE, 1)], [(APPLY, 1)], [(PLAIN, 2)]])


@pytest.mark.parametrize("readers", [0, 1])
def test_one_writer_is_one_round(stage: Stage, readers: int) -> None:
    stage.work(1, readers)
    # With readers the writer's COMMIT waits for fences, in the same message; the readers end after it.
    rounds_of_commit(stage, [[(FENCED, 1)], [(PLAIN, 1)]] if readers else [[(PLAIN, 1)]])


def test_no_writer_is_one_round(stage: Stage) -> None:
    stage.work(0, 3)
    rounds_of_commit(stage, [[(PLAIN, 3)]])
