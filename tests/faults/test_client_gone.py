"""A client that hangs up without a word while its COMMIT is under way: all or nothing, and links are given back."""

from __future__ import annotations

import random
import socket
import struct
from typing import TYPE_CHECKING

import psycopg
import pytest

from fault_wire import Fault
from ledger import APPLY, DECIDE, PREPARE, QUICK, READY, check_after, eventually

if TYPE_CHECKING:
    from conftest import StartProxy

    from fault_wire import Wires
    from ledger import Ledger

SEED = 20261122
CLIENTS = 60
POOL = 3  # links to each shard: one that is not given back is soon missed


class RawClient:
    """A client whose socket a test may break at any byte."""

    def __init__(self, ledger: Ledger) -> None:
        self._socket = socket.create_connection((ledger.process.host, ledger.process.port))
        self._file = self._socket.makefile("rb")
        parameters = b"user\0postgres\0database\0" + ledger.database.encode() + b"\0\0"
        self._socket.sendall(struct.pack(">II", len(parameters) + 8, 196608) + parameters)
        self.until_ready()

    def send(self, sql: str) -> None:
        body = sql.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack(">I", len(body) + 4) + body)

    def until_ready(self) -> None:
        """Read to ReadyForQuery; an error is one of the test's."""
        while True:
            kind, length = struct.unpack(">cI", self._file.read(5))
            body = self._file.read(length - 4)
            assert kind != b"E", body
            if kind == b"Z":
                return

    def run(self, sql: str) -> None:
        self.send(sql)
        self.until_ready()

    def write(self, ledger: Ledger, amount: int) -> dict[int, int]:
        """Move money over all three shards in a block that stays open; return what a commit would change."""
        change = {ledger.keys[0][0]: -2 * amount, ledger.keys[1][0]: amount, ledger.keys[2][0]: amount}
        self.run("BEGIN")
        for key, by in change.items():
            self.run(f"UPDATE acc SET balance = balance + {by} WHERE id = {key}")
        return change

    def abort(self) -> None:
        """Break the connection with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self._socket.close()


@pytest.fixture(scope="module")
def small(module_ledger: Ledger, module_wires: Wires, start_module_proxy: StartProxy) -> Ledger:
    """The ledger behind a proxy with small pools, which give up soon when they are empty."""
    limits = {**QUICK, "pool": {"size": POOL, "wait_timeout_s": 5}}
    return module_ledger.through(start_module_proxy(module_wires.dsns, {"acc": {"key": "id"}}, limits=limits))


@pytest.mark.parametrize("pattern", [PREPARE, READY, DECIDE, APPLY])
@pytest.mark.parametrize("fault", [Fault.HOLD_MESSAGE, Fault.HOLD_ANSWER], ids=lambda fault: fault.name)
def test_gone_at_each_step(small: Ledger, wires: Wires, pattern: str, fault: Fault) -> None:
    before = small.stored()
    client = RawClient(small)
    change = client.write(small, 7)
    rule = wires.rule(pattern, fault)
    client.send("COMMIT")
    rule.wait()
    client.abort()
    rule.release()
    # A COMMIT that was read is carried to its end, though nobody waits for it.
    eventually(lambda: small.changed(before) == change, "the commit did not go on")
    check_after(small)


def test_gone_at_any_moment(small: Ledger) -> None:
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it when the test fails
    choice = random.Random(SEED)
    before = small.stored()
    change: dict[int, int] = {}
    for _ in range(CLIENTS):
        client = RawClient(small)
        change = client.write(small, 1)
        client.send("COMMIT")
        if choice.random() < 0.5:  # sometimes it is far along, sometimes not even read
            small.on_shard(choice.randrange(3), f"SELECT pg_sleep({choice.random() / 100})")
        client.abort()
    small.until_nothing_is_prepared()
    small.until_idle()
    changed = small.changed(before)
    done = changed.get(small.keys[1][0], 0)
    print(f"{done} of {CLIENTS} were committed")  # noqa: T201 - figures for whoever looks
    assert changed == {key: by * done for key, by in change.items() if done}
    check_after(small)


def test_gone_in_the_middle_of_a_statement_or_a_block(small: Ledger) -> None:
    before = small.stored()
    for number in range(4 * POOL):
        client = RawClient(small)
        client.write(small, 1)
        if number % 2:
            client.send(f"SELECT pg_sleep(60) FROM acc WHERE id = {small.keys[number % 3][0]}")
            query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
            eventually(lambda shard=number % 3, sleeping=query: small.on_shard(shard, sleeping), "nobody sleeps")
        client.abort()
    small.until_idle()
    assert small.changed(before) == {}
    check_after(small)


def test_nobody_waits_for_a_row_that_a_client_who_left_had_locked(small: Ledger) -> None:
    client = RawClient(small)
    client.write(small, 1)
    client.abort()
    with psycopg.connect(small.dsn) as other:
        other.execute("SET lock_timeout = '10s'")
        other.execute("UPDATE acc SET balance = balance WHERE id = %s", (small.keys[0][0],))
        other.rollback()
    check_after(small)
