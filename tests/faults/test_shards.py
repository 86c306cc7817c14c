"""Shards that crash (immediate shutdown) and come back: decided first, then served; the others go on meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from fault_wire import Fault
from ledger import APPLY, DECIDE, PREPARE, QUICK, check_after, eventually, move
from outages import FAST_SECONDS, READ, WRITE, crashed, refused

if TYPE_CHECKING:
    from conftest import StartProxy

    from fault_wire import Wires
    from ledger import Ledger
    from proxy.demo.embedded import EmbeddedServer


def test_others_go_on_while_a_shard_is_down(ledger: Ledger, servers: list[EmbeddedServer]) -> None:
    before = ledger.stored()
    (first, _, third) = (keys[0] for keys in ledger.keys)
    with ledger.client(autocommit=True) as client, crashed(servers[2]):
        for _ in range(3):
            refused(client, READ, third)
        refused(client, WRITE, 1, third)
        assert client.execute(READ, (first,)).fetchone() == (before[first],)
        # Atomic over those that are there.
        with client.transaction():
            for keys, by in zip(ledger.keys[:2], (5, -5), strict=True):
                client.execute(WRITE, (by, keys[0]))
        # A read of several shards needs them all, unless the client chose otherwise.
        refused(client, "SELECT sum(balance) FROM acc")
        refused(client, "SELECT sum(balance) FROM acc WHERE id IN (%s, %s)", first, ledger.keys[1][0])
        client.execute("SET pgchorus.read_consistency = shard")
        both = "SELECT sum(balance) FROM acc WHERE id IN (%s, %s)"
        assert client.execute(both, (first, ledger.keys[1][0])).fetchone() == (
            before[first] + before[ledger.keys[1][0]],
        )
        refused(client, "SELECT sum(balance) FROM acc")
    ledger.until_served()
    assert ledger.changed(before) == {first: 5, ledger.keys[1][0]: -5}
    check_after(ledger)


@pytest.mark.parametrize("pattern", [PREPARE, DECIDE], ids=["in step 1", "in step 2"])
@pytest.mark.parametrize("fault", [Fault.HOLD_MESSAGE, Fault.HOLD_ANSWER], ids=["before", "after"])
def test_the_shard_that_a_commit_is_waiting_for_crashes(
    ledger: Ledger, wires: Wires, servers: list[EmbeddedServer], pattern: str, fault: Fault
) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        change = move(client, ledger)
        rule = wires.rule(pattern, fault)
        with ThreadPoolExecutor(1) as thread:
            commit = thread.submit(client.commit)
            rule.wait()
            with crashed(servers[rule.at[0]]):
                rule.release()
            error = commit.exception()
    ledger.until_nothing_is_prepared()
    changed = ledger.changed(before)
    if error is None:
        assert changed == change
    else:
        assert isinstance(error, psycopg.Error)
        assert changed == {} or (error.sqlstate == "08007" and changed == change), error
    # What the shard had done before it crashed is known to the proxy, or asked for. (The answer to PREPARE may have
    # come through.)
    if pattern == DECIDE or fault is Fault.HOLD_MESSAGE:
        assert bool(changed) == (pattern == DECIDE and fault is Fault.HOLD_ANSWER)
    ledger.until_served()
    check_after(ledger)


def test_a_shard_is_served_again_only_when_the_decision_is_applied(
    ledger: Ledger, wires: Wires, servers: list[EmbeddedServer]
) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        change = move(client, ledger)
        rule = wires.rule(APPLY, Fault.HOLD_MESSAGE)
        with ThreadPoolExecutor(1) as thread:
            commit = thread.submit(client.commit)
            rule.wait()
            (late,) = rule.at
            key = ledger.keys[late][0]
            with crashed(servers[late]):
                rule.cut()
                commit.result()
                assert len(ledger_prepared_elsewhere(ledger, late)) == 0
                # Nobody can apply it, again and again, for longer than one attempt of recovery lasts.
                spoiled = wires.rule(APPLY, Fault.CUT_MESSAGE, shards=[late], times=1_000_000)
            limit = time.monotonic() + 2 * FAST_SECONDS
            seen = []
            while time.monotonic() < limit:
                with suppress(psycopg.OperationalError):
                    seen += client.execute(READ, (key,)).fetchall()
                client.rollback()
            assert spoiled.reached.is_set()
            assert seen == []
            spoiled.release()
    with ledger.client(autocommit=True) as client:
        eventually(lambda: _answers(client, key), "the shard is not served again")
        assert client.execute(READ, (key,)).fetchone() == (before[key] + change[key],)
    assert ledger.changed(before) == change
    check_after(ledger)


def ledger_prepared_elsewhere(ledger: Ledger, late: int) -> list[str]:
    return [
        str(row[0])
        for shard in range(len(ledger.direct))
        if shard != late
        for row in ledger.on_shard(shard, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
    ]


def _answers(client: psycopg.Connection, key: int) -> bool:
    try:
        client.execute(READ, (key,))
    except psycopg.OperationalError:
        return False
    return True


def test_a_proxy_that_starts_serves_no_shard_before_decisions_are_applied_there(
    ledger: Ledger, wires: Wires, start_proxy: StartProxy
) -> None:
    """Another proxy has just decided, and what it decided cannot be applied for a while."""
    before = ledger.stored()
    client = ledger.client()
    change = move(client, ledger)
    rule = wires.rule(DECIDE, Fault.HOLD_ANSWER)
    with ThreadPoolExecutor(1) as thread:
        commit = thread.submit(client.commit)
        rule.wait()
        ledger.process.kill()
        commit.exception()
    client.close()
    rule.cut()
    spoiled = wires.rule(APPLY, Fault.CUT_MESSAGE, times=1_000_000)
    other = ledger.through(start_proxy(wires.dsns, {"acc": {"key": "id"}}, limits=dict(QUICK)))
    participants = [shard for shard in range(3) if shard not in rule.at]
    assert spoiled.reached.is_set()
    for shard in participants:
        with pytest.raises(psycopg.OperationalError), other.client() as reader:
            reader.execute(READ, (ledger.keys[shard][0],))
    spoiled.release()
    other.until_served()
    assert other.prepared() == []
    assert other.changed(before) == change
    check_after(other)


def test_a_backend_that_is_terminated_is_one_error_and_no_more(ledger: Ledger) -> None:
    key = ledger.keys[1][0]
    with ledger.client(autocommit=True) as client:
        with ThreadPoolExecutor(1) as thread:
            sleeping = thread.submit(client.execute, "SELECT pg_sleep(60) FROM acc WHERE id = %s", (key,))
            find = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
            eventually(lambda: ledger.on_shard(1, find), "nobody sleeps")
            ((pid,),) = ledger.on_shard(1, find)
            ledger.on_shard(1, f"SELECT pg_terminate_backend({pid})")
            error = sleeping.exception()
        assert isinstance(error, psycopg.OperationalError), error
        assert error.sqlstate == "57P01"
        assert error.diag.severity_nonlocalized == "ERROR"
        # In step with the protocol: the next statement has its own answer.
        assert client.execute("SELECT 42").fetchone() == (42,)
        eventually(lambda: _answers(client, key), "the shard is not served again")


def test_a_table_lock_that_is_lost_fails_the_commit(ledger: Ledger) -> None:
    """Others may have changed the table meanwhile, though what this transaction wrote is on another shard."""
    before = ledger.stored()
    with ledger.client() as client:
        client.execute("LOCK TABLE acc IN SHARE ROW EXCLUSIVE MODE")
        held = (
            "SELECT pid FROM pg_locks WHERE relation = 'acc'::regclass AND mode = 'ShareRowExclusiveLock' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        ((pid,),) = ledger.on_shard(1, held)
        ledger.on_shard(1, f"SELECT pg_terminate_backend({pid}, 10000)")
        client.execute("UPDATE acc SET balance = balance + 1 WHERE id = %s", (ledger.keys[2][0],))
        with pytest.raises(psycopg.Error):
            client.commit()
    assert ledger.changed(before) == {}
