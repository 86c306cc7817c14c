"""The proxy killed (SIGKILL) at each step of a commit, and a proxy started: all or nothing, and nothing stays prepared.

Each test first shows that the kill left something in doubt.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from fault_wire import Fault
from ledger import APPLY, DECIDE, PREPARE, QUICK, READY, check_after, eventually, move

if TYPE_CHECKING:
    from fault_wire import Rule, Wires
    from ledger import Ledger
    from tests.conftest import StartProxy

TABLES = {"acc": {"key": "id"}}
DECISIONS = "SELECT gid, outcome FROM pgchorus.decision"


def kill_at(ledger: Ledger, rule: Rule) -> dict[int, int]:
    """Have a client commit, kill the proxy when the rule's message is met; return what a commit would change."""
    client = ledger.client()
    try:
        change = move(client, ledger)
        with ThreadPoolExecutor(1) as thread:
            commit = thread.submit(client.commit)
            rule.wait()
            ledger.process.kill()
            with pytest.raises(psycopg.OperationalError):
                commit.result()
    finally:
        client.close()
    return change


def decisions(ledger: Ledger) -> dict[str, str]:
    return dict(row for shard in range(len(ledger.direct)) for row in ledger.on_shard(shard, DECISIONS))


@pytest.mark.parametrize(
    ("pattern", "fault", "in_doubt", "committed"),
    [
        # One participant has prepared, and maybe the other one, and the proxy does not know.
        (PREPARE, Fault.HOLD_ANSWER, (1, 2), False),
        # All participants have prepared or will have; the commit point has not spoken.
        (READY, Fault.HOLD_ANSWER, (0, 1, 2), False),
        # The decision was never sent.
        (DECIDE, Fault.HOLD_MESSAGE, (2,), False),
        # The decision stands, and nobody has heard of it.
        (DECIDE, Fault.HOLD_ANSWER, (2,), True),
        # The proxy knew; one participant or none has applied it.
        (APPLY, Fault.HOLD_MESSAGE, (1, 2), True),
        # One participant has applied it, the other one or not.
        (APPLY, Fault.HOLD_ANSWER, (0, 1), True),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else None,
)
def test_killed_in_a_commit(  # noqa: PLR0913 - the table above
    ledger: Ledger, wires: Wires, pattern: str, fault: Fault, in_doubt: tuple[int, ...], *, committed: bool
) -> None:
    before = ledger.stored()
    rule = wires.rule(pattern, fault)
    change = kill_at(ledger, rule)
    assert len(ledger.prepared()) in in_doubt
    if committed and in_doubt == (2,):
        partly = ledger.changed(before)
        assert len(partly) == 1  # the commit point's half can be seen, past the proxy
    rule.cut()
    ledger.process.start()
    if committed:
        # What is decided is finished before the first client is served.
        assert ledger.prepared() == []
        assert ledger.changed(before) == change
    ledger.until_nothing_is_prepared()
    assert ledger.changed(before) == (change if committed else {})
    check_after(ledger)


def test_a_decision_that_arrives_after_recovery_has_given_up_is_refused(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    rule = wires.rule(DECIDE, Fault.HOLD_MESSAGE)
    kill_at(ledger, rule)
    assert len(ledger.prepared()) == 2
    (commit_point,) = rule.at
    known = decisions(ledger)
    # The commit point's transaction is still open, so recovery waits for the grace time, and then records an abort.
    assert len(ledger.busy_backends()) == 1
    ledger.process.start()
    ledger.until_nothing_is_prepared()
    (fresh,) = decisions(ledger).items() - known.items()
    assert fresh[1] == "abort"
    assert fresh[0].encode() in rule.messages[0]
    # The network delivers the dead proxy's message after all.
    rule.release()
    eventually(lambda: not ledger.busy_backends(), "the late decision is not through")
    assert ledger.changed(before) == {}
    assert dict(ledger.on_shard(commit_point, DECISIONS))[fresh[0]] == "abort"
    check_after(ledger)


def test_a_prepare_that_arrives_after_the_proxy_is_dead_is_rolled_back(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    rule = wires.rule(PREPARE, Fault.HOLD_MESSAGE)
    kill_at(ledger, rule)
    ledger.process.start()
    ledger.until_nothing_is_prepared()
    rule.release()
    eventually(lambda: _has_ended(ledger, rule), "the late PREPARE did not come to an end")
    ledger.until_nothing_is_prepared()
    assert ledger.changed(before) == {}
    check_after(ledger)


def _has_ended(ledger: Ledger, rule: Rule) -> bool:
    """Whether the backend of the held message is out of its transaction (prepared or rolled back)."""
    (shard,) = rule.at
    return all(row[0] != shard for row in ledger.busy_backends())


def test_killed_while_it_recovers(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    rule = wires.rule(DECIDE, Fault.HOLD_ANSWER)
    change = kill_at(ledger, rule)
    rule.cut()
    again = wires.rule(APPLY, Fault.HOLD_MESSAGE)
    with ThreadPoolExecutor(1) as thread:
        start = thread.submit(ledger.process.start)
        again.wait()
        ledger.process.kill()
        with pytest.raises(AssertionError, match="before it was ready"):
            start.result()
    assert ledger.prepared()
    again.release()
    ledger.process.start()
    assert ledger.prepared() == []
    assert ledger.changed(before) == change
    check_after(ledger)


def newest_record(ledger: Ledger) -> str:
    found: list[tuple[Any, str]] = []
    for dsn in ledger.direct:
        with psycopg.connect(dsn, autocommit=True) as shard:
            found += shard.execute("SELECT at, gid FROM pgchorus.decision").fetchall()
    return max(found)[1]


@pytest.mark.parametrize("committed", [False, True], ids=["undecided", "decided"])
def test_another_proxy_finishes_what_a_killed_one_left(
    ledger: Ledger, wires: Wires, second: Ledger, *, committed: bool
) -> None:
    before = ledger.stored()
    rule = wires.rule(DECIDE, Fault.HOLD_ANSWER if committed else Fault.HOLD_MESSAGE)
    change = kill_at(ledger, rule)
    rule.cut()
    # The first proxy stays dead; the second one has been serving all the time.
    second.until_nothing_is_prepared()
    with second.client(autocommit=True) as asking:
        answer = asking.execute(f"SHOW pgchorus.transaction '{newest_record(second)}'".encode()).fetchone()
    assert answer == ("committed" if committed else "aborted",)
    assert second.changed(before) == (change if committed else {})
    check_after(second)


def test_a_read_through_another_proxy_never_sees_half_of_what_a_killed_one_decided(
    ledger: Ledger, wires: Wires, second: Ledger
) -> None:
    rule = wires.rule(DECIDE, Fault.HOLD_ANSWER)
    with second.client() as reader:
        kill_at(ledger, rule)
        assert reader.execute("SELECT sum(balance) FROM acc").fetchone() == (ledger.total,)
    rule.cut()
    check_after(second)


@pytest.fixture
def second(ledger: Ledger, start_proxy: StartProxy) -> Ledger:
    """The same ledger through another proxy, which reaches the shards past the wires."""
    return ledger.through(start_proxy(ledger.direct, TABLES, limits=dict(QUICK)))
