"""A link to a shard breaks at each step of a commit: what the client is told is true, and nothing is left prepared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from fault_wire import Fault, Mode
from ledger import APPLY, DECIDE, MOVED, PREPARE, READY, check_after, eventually, move

if TYPE_CHECKING:
    from fault_wire import Wires
    from ledger import Ledger


@pytest.mark.parametrize(
    ("pattern", "fault", "committed"),
    [
        (PREPARE, Fault.CUT_MESSAGE, False),
        (PREPARE, Fault.CUT_ANSWER, False),
        (READY, Fault.CUT_MESSAGE, False),
        (READY, Fault.CUT_ANSWER, False),
        (DECIDE, Fault.CUT_MESSAGE, False),
        (DECIDE, Fault.CUT_ANSWER, True),
        (APPLY, Fault.CUT_MESSAGE, True),
        (APPLY, Fault.CUT_ANSWER, True),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else None,
)
def test_a_link_that_breaks_in_a_commit(
    ledger: Ledger, wires: Wires, pattern: str, fault: Fault, *, committed: bool
) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        change = move(client, ledger)
        rule = wires.rule(pattern, fault)
        if committed:
            client.commit()
            # Told COMMIT: everybody can see it now.
            assert ledger.prepared() == []
        else:
            with pytest.raises(psycopg.OperationalError) as caught:
                client.commit()
            assert caught.value.sqlstate is not None
            assert caught.value.sqlstate[:2] in {"08", "40"}, caught.value
        rule.wait()
        assert ledger.changed(before) == (change if committed else {})
        # The session lives on.
        assert client.execute("SELECT sum(balance) FROM acc").fetchone() == (ledger.total,)
    check_after(ledger)


@pytest.mark.parametrize(
    ("pattern", "fault", "committed"),
    [
        (READY, Fault.CUT_MESSAGE, False),
        (READY, Fault.CUT_ANSWER, False),
        (DECIDE, Fault.CUT_MESSAGE, False),
        (DECIDE, Fault.CUT_ANSWER, True),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else None,
)
def test_one_writer_whose_id_is_known_is_never_in_the_dark(
    ledger: Ledger, wires: Wires, pattern: str, fault: Fault, *, committed: bool
) -> None:
    """Without an id its link's loss in COMMIT would be 08007, as with one Postgres; with one there is a record."""
    before = ledger.stored()
    key = ledger.keys[1][0]
    with ledger.client() as client:
        client.execute("UPDATE acc SET balance = balance + 1 WHERE id = %s", (key,))
        (gid,) = client.execute("SHOW pgchorus.transaction_id").fetchone() or ("",)
        rule = wires.rule(pattern, fault, shards=[1])
        if committed:
            client.commit()
        else:
            with pytest.raises(psycopg.OperationalError) as caught:
                client.commit()
            assert (caught.value.sqlstate or "")[:2] in {"08", "40"}, caught.value
        rule.wait()
        assert ledger.changed(before) == ({key: 1} if committed else {})
        client.rollback()
        if pattern == DECIDE:
            answer = client.execute(f"SHOW pgchorus.transaction '{gid}'".encode()).fetchone()
            assert answer == ("committed" if committed else "aborted",)
        client.execute("UPDATE acc SET balance = %s WHERE id = %s", (before[key], key))
    check_after(ledger)


def test_all_participants_break_at_once_when_told_to_apply(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        change = move(client, ledger)
        wires.rule(APPLY, Fault.CUT_ANSWER, times=2)
        client.commit()
        assert ledger.changed(before) == change
    check_after(ledger)


def test_a_shard_that_cannot_be_reached_after_the_decision_is_named_and_catches_up(
    ledger: Ledger, wires: Wires
) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        notices: list[str] = []
        client.add_notice_handler(lambda notice: notices.append(f"{notice.severity}: {notice.message_primary}"))
        change = move(client, ledger)
        rule = wires.rule(APPLY, Fault.HOLD_MESSAGE)
        with ThreadPoolExecutor(1) as thread:
            commit = thread.submit(client.commit)
            rule.wait()
            (late,) = rule.at
            wires.cut(late, Mode.REFUSE)
            rule.cut()
            commit.result()
        (notice,) = notices
        assert notice.startswith("WARNING: transaction pgchorus:")
        assert f"shard s{late} does not show it yet" in notice
        assert len(ledger.prepared()) == 1
        # Nobody is shown the half of it: several shards cannot be read now, and the late one not at all.
        with pytest.raises(psycopg.OperationalError) as caught:
            client.execute("SELECT sum(balance) FROM acc")
        assert caught.value.sqlstate is not None
        assert caught.value.sqlstate[:2] == "08", caught.value
        client.rollback()
    wires.set_mode(late, Mode.OPEN)
    with ledger.client() as client:
        # The proxy serves the shard only when it has applied the decision there.
        key = ledger.keys[late][0]
        eventually(lambda: _readable(client, key), "the shard is not served again")
        assert client.execute("SELECT balance FROM acc WHERE id = %s", (key,)).fetchone() == (
            before[key] + change[key],
        )
    assert ledger.changed(before) == change
    check_after(ledger)


def _readable(client: psycopg.Connection, key: int) -> bool:
    try:
        client.execute("SELECT balance FROM acc WHERE id = %s", (key,))
    except psycopg.OperationalError:
        client.rollback()
        return False
    client.rollback()
    return True


@pytest.mark.parametrize("decided", [False, True], ids=["before it decided", "after it decided"])
def test_a_commit_point_that_cannot_be_asked_is_no_known_outcome(
    ledger: Ledger, wires: Wires, *, decided: bool
) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        change = move(client, ledger)
        rule = wires.rule(DECIDE, Fault.HOLD_ANSWER if decided else Fault.HOLD_MESSAGE)
        with ThreadPoolExecutor(1) as thread:
            commit = thread.submit(client.commit)
            rule.wait()
            (silent,) = rule.at
            wires.cut(silent, Mode.REFUSE)
            rule.cut()
            with pytest.raises(psycopg.OperationalError) as caught:
                commit.result()
        assert caught.value.sqlstate == "08007", caught.value
        assert "pgchorus:" in str(caught.value)
        assert len(ledger.prepared()) == 2
    wires.set_mode(silent, Mode.OPEN)
    ledger.until_nothing_is_prepared()
    assert ledger.changed(before) == (change if decided else {})
    check_after(ledger)


@pytest.mark.parametrize("pattern", [PREPARE, READY])
def test_a_network_that_falls_silent_in_step_1_ends_by_a_limit(ledger: Ledger, wires: Wires, pattern: str) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        move(client, ledger)
        rule = wires.rule(pattern, Fault.HOLD_ANSWER)
        with pytest.raises(psycopg.OperationalError):
            client.commit()
        assert rule.answered.is_set()
        assert ledger.changed(before) == {}
        rule.cut()
    check_after(ledger)


def test_one_writer_whose_commit_is_not_answered_is_no_known_outcome(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    key = ledger.keys[1][0]
    with ledger.client() as client:
        client.execute("UPDATE acc SET balance = balance + 1 WHERE id = %s", (key,))
        rule = wires.rule("COMMIT", Fault.CUT_ANSWER, shards=[1])
        with pytest.raises(psycopg.OperationalError) as caught:
            client.commit()
        rule.wait()
        assert caught.value.sqlstate == "08007", caught.value
    assert ledger.changed(before) == {key: 1}
    ledger.until_idle()
    with ledger.client() as client:
        client.execute("UPDATE acc SET balance = balance - 1 WHERE id = %s", (key,))


def test_a_link_that_breaks_before_commit_fails_the_transaction_and_no_other(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    with ledger.client() as client, ledger.client() as other:
        move(client, ledger)
        wires.cut(2)
        with pytest.raises(psycopg.OperationalError):
            client.commit()
        client.rollback()
        move(other, ledger)
        other.commit()
    assert sum(ledger.changed(before).values()) == 0
    assert ledger.changed(before)[ledger.keys[1][0]] == MOVED
    check_after(ledger)


def test_one_writer_whose_link_broke_before_commit_is_rolled_back_for_certain(ledger: Ledger, wires: Wires) -> None:
    before = ledger.stored()
    with ledger.client() as client:
        client.execute("UPDATE acc SET balance = balance + 1 WHERE id = %s", (ledger.keys[1][0],))
        wires.cut(1)
        ledger.until_idle()
        with pytest.raises(psycopg.OperationalError) as caught:
            client.commit()
        assert caught.value.sqlstate == "08006", caught.value
    assert ledger.changed(before) == {}
