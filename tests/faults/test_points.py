"""The real proxy at named points of a commit: killed, stopped for too long, a shard crashed under it, its wires cut.

Each test first shows what the fault left behind, then that the end is the right one: all or nothing, the client was
told the truth, nothing stays prepared. ``make test`` takes the fault that matters most at each point; ``make faults``
takes all.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from crash_points import Points
from fault_wire import Fault
from ledger import APPLY, DECIDE, MOVED, PREPARE, QUICK, Ledger, check_after, eventually, move
from proxy.twophase.points import Point
from proxy_process import write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from fault_wire import Wires
    from proxy.demo.embedded import EmbeddedServer
    from tests.conftest import StartProxy

TABLES: dict[str, Any] = {"acc": {"key": "id"}}
# A commit point that hears nothing for so long rolls back by itself, and a fence is let go.
LIMITS = {
    **QUICK,
    "commit": {**QUICK["commit"], "commit_point_idle_ms": 1500},
    "fence": {"hold_ms": 700},
}
LONG = pytest.mark.long


@pytest.fixture(scope="module")
def points() -> Iterator[Points]:
    with Points() as made:
        yield made


@pytest.fixture(scope="module")
def watched(module_wires: Wires, points: Points, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger whose proxy can be stopped at points, and whose wires can be cut."""
    config = tmp_path_factory.mktemp("points") / "pgchorus.yaml"
    database = module_wires.direct[0].rpartition("/")[2]
    process = points.process(write_config(config, {database: module_wires.dsns}, TABLES, limits=LIMITS))
    process.start()
    try:
        yield Ledger(process, module_wires.direct)
        assert not process.died, process.log_tail()
    finally:
        process.close()


@pytest.fixture
def stage(watched: Ledger, points: Points, wires: Wires) -> Iterator[Ledger]:
    assert wires
    if not watched.process.running:
        watched.process.start()
    watched.until_served()
    watched.until_nothing_is_prepared()
    yield watched
    points.disarm()


@pytest.fixture
def other(watched: Ledger, start_proxy: StartProxy) -> Ledger:
    """The same ledger through a second proxy, which is never stopped and reaches the shards past the wires."""
    return watched.through(start_proxy(watched.direct, TABLES, limits=LIMITS))


# --- commits ------------------------------------------------------------------------------------------------------


def with_a_reader(client: psycopg.Connection[Any], ledger: Ledger) -> dict[int, int]:
    first, second, third = (keys[0] for keys in ledger.keys)
    client.execute("UPDATE acc SET balance = balance - %s WHERE id = %s", (MOVED, first))
    client.execute("UPDATE acc SET balance = balance + %s WHERE id = %s", (MOVED, second))
    client.execute("SELECT balance FROM acc WHERE id = %s", (third,))
    return {first: -MOVED, second: MOVED}


def one_writer(client: psycopg.Connection[Any], ledger: Ledger) -> dict[int, int]:
    first, second = ledger.keys[0][:2]
    client.execute("UPDATE acc SET balance = balance - %s WHERE id = %s", (MOVED, first))
    client.execute("UPDATE acc SET balance = balance + %s WHERE id = %s", (MOVED, second))
    client.execute("SELECT balance FROM acc WHERE id = %s", (ledger.keys[1][0],))
    return {first: -MOVED, second: MOVED}


@dataclass(frozen=True)
class Spot:
    """A point, what leads there, and what must be seen there: how many parts are prepared, and whether it is decided.

    ``spoiled``: a message whose wire is cut to lead there.
    """

    point: Point
    prepared: tuple[int, ...]
    decided: bool
    work: Callable[[psycopg.Connection[Any], Ledger], dict[int, int]] = move
    spoiled: tuple[str, Fault] | None = None
    times: int = 1

    def __str__(self) -> str:
        return f"{self.point.value}{', decided' if self.decided else ''}"


UNDONE = (PREPARE, Fault.CUT_MESSAGE)
SPOTS = [
    Spot(Point.BEFORE_PREPARE, (0,), decided=False),
    Spot(Point.BEFORE_READY, (0, 1, 2), decided=False),  # all of step 1 is sent in one turn
    Spot(Point.AFTER_PREPARE, (1, 2), decided=False),
    Spot(Point.AFTER_READY, (0, 1, 2), decided=False),
    Spot(Point.BEFORE_DECIDE, (2,), decided=False),
    Spot(Point.AFTER_DECIDE, (2,), decided=True),
    Spot(Point.BEFORE_APPLY, (2,), decided=True),
    Spot(Point.AFTER_APPLY, (0, 1), decided=True),
    Spot(Point.BEFORE_READERS, (0,), decided=True, work=with_a_reader),
    Spot(Point.AFTER_READERS, (0,), decided=True, work=with_a_reader),
    Spot(Point.TELLING, (0,), decided=True),
    Spot(Point.BEFORE_UNDO, (1,), decided=False, spoiled=UNDONE),
    Spot(Point.AFTER_UNDO, (0,), decided=False, spoiled=UNDONE),
    Spot(Point.BEFORE_ROLLBACK, (0, 1), decided=False, spoiled=UNDONE),
    Spot(Point.AFTER_ROLLBACK, (0, 1), decided=False, spoiled=UNDONE),
    Spot(Point.SETTLING, (2,), decided=True, spoiled=(DECIDE, Fault.CUT_ANSWER)),
    Spot(Point.SETTLING, (2,), decided=False, spoiled=(DECIDE, Fault.CUT_MESSAGE)),
    Spot(Point.SETTLED, (2,), decided=True, spoiled=(DECIDE, Fault.CUT_ANSWER)),
    Spot(Point.SETTLED, (2,), decided=False, spoiled=(DECIDE, Fault.CUT_MESSAGE)),
    Spot(Point.ELSEWHERE, (1, 2), decided=True, spoiled=(APPLY, Fault.CUT_MESSAGE)),
    Spot(Point.PLAINLY, (0,), decided=False, work=one_writer),
    Spot(Point.PLAINLY_DONE, (0,), decided=True, work=one_writer),
]
RECOVERY_POINTS = [Point.LISTED, Point.ABANDONING, Point.ABANDONED, Point.FINISHING, Point.FINISHED]
FENCE_POINTS = [Point.FENCE_LOCKED, Point.FENCE_SETTLED, Point.FENCE_BOUND]
DECISIVE = {Point.AFTER_PREPARE, Point.BEFORE_DECIDE, Point.AFTER_DECIDE, Point.AFTER_APPLY}


def test_every_point_is_visited_by_a_test() -> None:
    assert {spot.point for spot in SPOTS}.union(RECOVERY_POINTS, FENCE_POINTS) == set(Point)


def everyday(*which: Point) -> list[Any]:
    """Return all spots; those that are not among ``which`` only for make faults."""
    return [pytest.param(spot, marks=() if spot.point in which else LONG, id=str(spot)) for spot in SPOTS]


@dataclass
class Stopped:
    """A commit whose proxy stands still at a spot."""

    commit: Future[Any]
    before: dict[int, int]
    change: dict[int, int]
    commit_point: int | None  # where it can be told


@contextmanager
def killed_on_failure(stage: Ledger) -> Iterator[None]:
    """Let nobody wait for a proxy that stands still when the test has failed."""
    try:
        yield
    except BaseException:
        if stage.process.running:
            stage.process.kill()
        raise


@contextmanager
def stopped_at(stage: Ledger, points: Points, wires: Wires, spot: Spot) -> Iterator[Stopped]:
    """Have a client commit and the proxy stop; check what the shards hold then."""
    before = stage.stored()
    with stage.client() as client, ThreadPoolExecutor(1) as thread, killed_on_failure(stage):
        change = spot.work(client, stage)
        if spot.spoiled is not None:
            wires.rule(*spot.spoiled)
        points.arm(spot.point, spot.times)
        commit = thread.submit(client.commit)
        points.wait(spot.point)
        prepared = stage.prepared()
        assert len(prepared) in spot.prepared
        if len(prepared) == 2:
            # What can be seen past the proxy is the commit point's part, if it is decided, and nothing else.
            assert len(stage.changed(before)) == int(spot.decided)
        names = {name.split(":")[2] for name in prepared}
        yield Stopped(commit, before, change, int(names.pop()[1:]) if names else None)


def check_truth(stage: Ledger, stopped: Stopped, *, committed: bool | None) -> None:
    """All or nothing, what the client was told is true, nothing stays; ``committed``: None where both may be."""
    error = stopped.commit.exception()
    stage.until_nothing_is_prepared()
    changed = stage.changed(stopped.before)
    assert changed in ({}, stopped.change)
    if committed is not None:
        assert bool(changed) == committed
    if error is None:
        assert changed == stopped.change
    else:
        assert isinstance(error, psycopg.Error)
        if error.sqlstate not in (None, "08007"):
            assert changed == {}, error


@pytest.mark.parametrize("spot", everyday(*DECISIVE))
def test_killed(stage: Ledger, points: Points, wires: Wires, spot: Spot) -> None:
    with stopped_at(stage, points, wires, spot) as stopped:
        stage.process.kill()
        assert stopped.commit.exception() is not None  # nobody was told anything
    wires.calm()
    stage.process.start()
    if spot.decided:
        # What is decided is finished before the first client is served.
        assert stage.prepared() == []
    check_truth(stage, stopped, committed=spot.decided)
    check_after(stage)


STALLS = [
    spot for spot in SPOTS if spot.prepared != (0,) and spot.spoiled is None and spot.point is not Point.BEFORE_READY
]
STALLS += [spot for spot in SPOTS if spot.point in {Point.SETTLING, Point.SETTLED, Point.ELSEWHERE}]


@pytest.mark.parametrize(
    "spot",
    [pytest.param(s, marks=() if s.point is Point.BEFORE_DECIDE else LONG, id=str(s)) for s in STALLS],
)
def test_stopped_for_longer_than_anybody_waits(
    stage: Ledger, other: Ledger, points: Points, wires: Wires, spot: Spot
) -> None:
    other.process.kill()  # its port is its own, and it finishes nothing yet
    with stopped_at(stage, points, wires, spot) as stopped:
        os.kill(stage.process.pid, signal.SIGSTOP)
        try:
            points.go()
            other.process.start()
            # The other proxy finishes it, and the commit point does not wait for ever.
            other.until_nothing_is_prepared()
            eventually(lambda: not writing(other), "the commit point's transaction stays open")
            assert other.changed(stopped.before) == (stopped.change if spot.decided else {})
            check_after_quietly(other)
        finally:
            os.kill(stage.process.pid, signal.SIGCONT)
        error = stopped.commit.exception()
        assert (error is None) == spot.decided, error
    changed = stage.changed(stopped.before)
    assert changed == (_sum(stopped.change, stopped.change) if spot.decided else stopped.change)
    check_after(stage)


def writing(ledger: Ledger) -> list[Any]:
    """Return the transactions that have written and are open in some backend."""
    query = (
        "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
    )
    return [row for shard in range(len(ledger.direct)) for row in ledger.on_shard(shard, query)]


def check_after_quietly(ledger: Ledger) -> None:
    """Another client moves the same rows meanwhile."""
    with ledger.client() as client:
        move(client, ledger)


def _sum(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {key: one[key] + other[key] for key in one}


@pytest.mark.parametrize("victim", ["commit point", "participant"])
@pytest.mark.parametrize("spot", everyday(Point.BEFORE_DECIDE))
def test_a_shard_crashes(  # noqa: PLR0913 - fixtures
    stage: Ledger, points: Points, wires: Wires, servers: list[EmbeddedServer], *, spot: Spot, victim: str
) -> None:
    with stopped_at(stage, points, wires, spot) as stopped:
        shard = stopped.commit_point or 0
        if victim == "participant":
            shard = (shard + 1) % len(stage.direct)
        servers[shard].kill()
        servers[shard].start()
        points.go()
        committed: bool | None = True if spot.decided else None
        if spot.point is Point.BEFORE_PREPARE:
            committed = False  # its transaction was open there
        elif spot.point is Point.BEFORE_READY:
            committed = None  # it had been told to prepare, or not yet
        elif spot.point is Point.BEFORE_DECIDE:
            committed = victim == "participant"  # what is prepared survives
        elif spot.spoiled is not None and not spot.decided:
            committed = False
        check_truth(stage, stopped, committed=committed)
    stage.until_served()
    check_after(stage)


@pytest.mark.parametrize("spot", everyday(Point.BEFORE_DECIDE, Point.AFTER_DECIDE))
def test_all_wires_are_cut(stage: Ledger, points: Points, wires: Wires, spot: Spot) -> None:
    with stopped_at(stage, points, wires, spot) as stopped:
        for shard in range(len(stage.direct)):
            wires.cut(shard)
        points.go()
        check_truth(stage, stopped, committed=spot.decided)
    stage.until_served()
    check_after(stage)


# --- recovery -----------------------------------------------------------------------------------------------------

LEFT = [(point, False) for point in RECOVERY_POINTS]
LEFT += [(point, True) for point in RECOVERY_POINTS if point not in {Point.ABANDONING, Point.ABANDONED}]


@contextmanager
def recovering(stage: Ledger, points: Points, wires: Wires, point: Point, *, decided: bool) -> Iterator[Stopped]:
    """Kill a proxy in a commit, start it again, and have its recovery stand still at a point."""
    spot = next(s for s in SPOTS if s.point is (Point.AFTER_DECIDE if decided else Point.BEFORE_DECIDE))
    with stopped_at(stage, points, wires, spot) as stopped:
        stage.process.kill()
    points.arm(point)
    with ThreadPoolExecutor(1) as thread, killed_on_failure(stage):
        start = thread.submit(stage.process.start)
        points.wait(point)
        if point is not Point.FINISHED:
            assert len(stage.prepared()) == 2
        yield stopped
        if stage.process.running:
            points.go()
            start.result()
        else:
            start.exception()  # it may have been ready before


@pytest.mark.parametrize(
    ("point", "decided"),
    [pytest.param(p, d, marks=() if (p, d) == (Point.ABANDONED, False) else LONG) for p, d in LEFT],
)
def test_killed_in_recovery(stage: Ledger, points: Points, wires: Wires, point: Point, *, decided: bool) -> None:
    with recovering(stage, points, wires, point, decided=decided) as stopped:
        stage.process.kill()
    stage.process.start()
    check_truth(stage, stopped, committed=decided)
    check_after(stage)


@pytest.mark.parametrize(
    ("point", "decided"),
    [pytest.param(p, d, marks=() if (p, d) == (Point.LISTED, False) else LONG) for p, d in LEFT],
)
def test_a_recovery_that_stalls_finds_that_another_proxy_has_finished(  # noqa: PLR0913 - fixtures
    stage: Ledger, points: Points, wires: Wires, other: Ledger, point: Point, *, decided: bool
) -> None:
    other.process.kill()  # its port is its own, and it finishes nothing yet
    with recovering(stage, points, wires, point, decided=decided) as stopped:
        other.process.start()
        check_truth(other, stopped, committed=decided)
    assert stage.changed(stopped.before) == (stopped.change if decided else {})
    check_after(stage)


@LONG
@pytest.mark.parametrize(("point", "decided"), LEFT)
def test_a_shard_crashes_in_recovery(  # noqa: PLR0913 - fixtures
    stage: Ledger, points: Points, wires: Wires, servers: list[EmbeddedServer], point: Point, *, decided: bool
) -> None:
    with recovering(stage, points, wires, point, decided=decided) as stopped:
        for shard in range(2):
            servers[shard].kill()
            servers[shard].start()
    check_truth(stage, stopped, committed=decided)
    stage.until_served()
    check_after(stage)


# --- the fence ----------------------------------------------------------------------------------------------------

FENCED = (
    """SELECT count(*) FROM pg_locks WHERE relation = 'pgchorus.fence'::regclass AND mode = 'ShareLock' AND granted"""
)


def fenced(ledger: Ledger) -> int:
    """Return on how many shards a fence is held."""
    return sum(ledger.on_shard(shard, FENCED)[0][0] for shard in range(len(ledger.direct)))


@contextmanager
def reading(stage: Ledger, points: Points, point: Point) -> Iterator[Future[Any]]:
    """Have a client read all shards, and the proxy stand still with the fence in its hands."""
    with stage.client(autocommit=True) as client, ThreadPoolExecutor(1) as thread, killed_on_failure(stage):
        points.arm(point)
        read = thread.submit(lambda: client.execute("SELECT sum(balance) FROM acc").fetchone())
        points.wait(point)
        assert fenced(stage) == len(stage.direct)
        yield read


@LONG
@pytest.mark.parametrize("point", FENCE_POINTS)
def test_killed_with_the_fence(stage: Ledger, other: Ledger, points: Points, point: Point) -> None:
    with reading(stage, points, point) as read:
        stage.process.kill()
        assert read.exception() is not None
        check_after(other)  # commits go on
    assert fenced(stage) == 0


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p is Point.FENCE_SETTLED else LONG) for p in FENCE_POINTS]
)
def test_a_fence_that_was_held_for_too_long_is_no_fence(
    stage: Ledger, other: Ledger, points: Points, point: Point
) -> None:
    with reading(stage, points, point) as read:
        eventually(lambda: fenced(stage) == 0, "the shards do not let the fence go")
        with other.client() as client:
            move(client, other)
        points.go()
        assert read.result() == (stage.total,)
    check_after(stage)
