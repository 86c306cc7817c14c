"""What another coordinator does with what one left behind, on real shards."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from proxy.shards.control import ControlLinks
from proxy.shards.errors import ShardError
from proxy.twophase import record
from proxy.twophase.events import Limits, Plan, Step
from proxy.twophase.messages import prepare_sql, ready_sql
from proxy.twophase.recovery import Recovery, RecoveryLimits, Status
from twophase_servers import AT_ONCE, CLUSTER, CommitCluster, TappedLink, make_gid

if TYPE_CHECKING:
    from proxy.twophase.gid import GlobalId

INSERT = "INSERT INTO public.t VALUES (1, 1)"
EVERYWHERE = [[(1, 1)]] * 3
NOWHERE: list[list[object]] = [[], [], []]
PATIENT = RecoveryLimits(grace_s=3600.0, orphan_s=3600.0)


class Steps:
    """A commit done by hand, message by message, so that it can stop anywhere. The commit point is s0."""

    def __init__(self, cluster: CommitCluster, links: dict[int, TappedLink], gid: GlobalId, key: bytes) -> None:
        self.cluster = cluster
        self.links = links
        self.gid = gid
        self.xids: dict[Step | int, int] = {}
        self.plan = Plan(
            gid, 0, (1, 2), (), dict(enumerate(cluster.names)), dict.fromkeys(links, ord("T")), key, 1, Limits()
        )

    @classmethod
    async def begin(cls, cluster: CommitCluster, sql: str = INSERT, serial: int = 1) -> Steps:
        links = await cluster.begin(sql)
        async with cluster.control.connection(0) as connection:
            key = await connection.fetchval(record.READ_KEY)
        return cls(cluster, links, make_gid("s0", serial, int(time.time() * 1000)), key)

    async def one(self) -> Steps:
        for shard in (1, 2):
            answer = await self.links[shard].run(prepare_sql(self.plan, shard))
            self.xids[shard] = record.parse_xid(answer.rows[0][0])
        answer = await self.links[0].run(ready_sql(self.plan))
        self.xids[0] = record.parse_xid(answer.rows[0][0])
        return self

    async def two(self) -> Steps:
        parts = [("s1", self.xids[1]), ("s2", self.xids[2])]
        call = record.decide_sql(self.gid, self.xids[0], parts, 1, self.plan.key)
        assert (await self.links[0].run(f"{call}; COMMIT")).tags == (b"SELECT 1", b"COMMIT")
        return self

    async def three(self, shard: int) -> Steps:
        await self.links[shard].run(f"COMMIT PREPARED '{self.gid.at(f's{shard}')}'")
        return self

    async def crash(self) -> None:
        """The proxy is gone: its sockets are closed. Returns when the commit point has noticed."""
        pid = self.links[0].pid
        for link in self.links.values():
            link.abort()
        await self.cluster.until(0, f"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})")


async def test_a_crash_after_step_one_is_rolled_back(cluster: CommitCluster) -> None:
    steps = await (await Steps.begin(cluster)).one()
    await steps.crash()
    assert len(await cluster.prepared()) == 2
    report = await cluster.recovery().run_once()
    assert sorted(report.rolled_back) == [steps.gid.at("s1"), steps.gid.at("s2")]
    assert report.quiet
    assert await cluster.prepared() == []
    assert await cluster.values() == NOWHERE
    assert await cluster.decisions(0) == ["abort"]
    again = await cluster.recovery().run_once()
    assert (again.committed, again.rolled_back, again.quiet) == ([], [], True)


async def test_a_crash_after_step_two_is_committed(cluster: CommitCluster) -> None:
    steps = await (await (await Steps.begin(cluster)).one()).two()
    await steps.crash()
    assert len(await cluster.prepared()) == 2
    report = await cluster.recovery(PATIENT).run_once()  # decided: no time has to pass
    assert sorted(report.committed) == [steps.gid.at("s1"), steps.gid.at("s2")]
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []


async def test_a_crash_within_step_three_is_committed(cluster: CommitCluster) -> None:
    steps = await (await (await (await Steps.begin(cluster)).one()).two()).three(1)
    await steps.crash()
    assert await cluster.prepared() == [steps.gid.at("s2")]
    report = await cluster.recovery(PATIENT).run_once()
    assert report.committed == [steps.gid.at("s2")]
    assert await cluster.values() == EVERYWHERE


async def test_a_record_stays_when_all_have_finished(cluster: CommitCluster) -> None:
    """Somebody may still ask: a coordinator that settles late, or a standby that had not heard of COMMIT PREPARED."""
    steps = await (await (await (await (await Steps.begin(cluster)).one()).two()).three(1)).three(2)
    await steps.crash()
    recovery = cluster.recovery()
    assert (await recovery.run_once()).committed == []
    await recovery.purge()
    assert await cluster.decisions(0) == ["commit"]
    assert (await recovery.status(str(steps.gid))).value == "committed"


async def test_a_decision_after_an_abort_record_fails(cluster: CommitCluster) -> None:
    steps = await (await Steps.begin(cluster)).one()
    report = await cluster.recovery().run_once()
    assert len(report.rolled_back) == 2
    with pytest.raises(ShardError) as caught:
        await steps.two()
    assert (caught.value.sqlstate, caught.value.fields.get("s")) == ("23505", "pgchorus")
    await steps.crash()
    assert await cluster.values() == NOWHERE


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_late_decision_fails_at_every_isolation_level(cluster: CommitCluster, isolation: str) -> None:
    steps = await Steps.begin(cluster, f"SET TRANSACTION ISOLATION LEVEL {isolation}; {INSERT}")
    await steps.one()
    assert len((await cluster.recovery().run_once()).rolled_back) == 2
    with pytest.raises(ShardError) as caught:
        await steps.two()
    assert caught.value.sqlstate == "23505"
    await steps.crash()


async def test_an_abort_record_waits_for_a_decision_in_flight(cluster: CommitCluster) -> None:
    steps = await (await Steps.begin(cluster)).one()
    parts = [("s1", steps.xids[1]), ("s2", steps.xids[2])]
    call = record.decide_sql(steps.gid, steps.xids[0], parts, 1, steps.plan.key)
    await steps.links[0].run(call)  # the record is written, its transaction still open
    recover = asyncio.create_task(cluster.recovery().run_once())
    await cluster.until(
        0,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid' "
        "AND datname = current_database() AND query LIKE '%abandon%')",
    )
    await steps.links[0].run("COMMIT")
    report = await recover
    assert len(report.committed) == 2
    assert await cluster.values() == EVERYWHERE


async def test_a_decision_that_stays_in_flight_is_left_alone(cluster: CommitCluster) -> None:
    steps = await (await Steps.begin(cluster)).one()
    parts = [("s1", steps.xids[1]), ("s2", steps.xids[2])]
    await steps.links[0].run(record.decide_sql(steps.gid, steps.xids[0], parts, 1, steps.plan.key))
    report = await cluster.recovery().run_once()
    assert sorted(report.waiting) == [steps.gid.at("s1"), steps.gid.at("s2")]
    await steps.links[0].run("COMMIT")
    assert len((await cluster.recovery().run_once()).committed) == 2


async def test_the_young_and_undecided_get_time_while_their_commit_point_lives(cluster: CommitCluster) -> None:
    steps = await (await Steps.begin(cluster)).one()
    lively = RecoveryLimits(grace_s=3600.0, orphan_s=0.0)
    report = await cluster.recovery(lively).run_once()
    assert len(report.waiting) == 2
    assert await cluster.decisions(0) == []
    await steps.crash()
    report = await cluster.recovery(lively).run_once()  # nobody can decide any more: at once
    assert len(report.rolled_back) == 2
    assert await cluster.values() == NOWHERE


async def test_a_crash_while_a_constraint_waits_at_the_commit_point_is_rolled_back_before_that_wait_ends(
    cluster: CommitCluster,
) -> None:
    """A backend that waits for a lock does not read from its socket, nor see by itself that its proxy has died."""
    stranger = await cluster.link(0)
    await stranger.run("BEGIN; INSERT INTO public.t VALUES (1, 9)")
    steps = await Steps.begin(cluster)
    first = asyncio.create_task(steps.one())
    waiting = f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {steps.links[0].pid}"
    await cluster.until(0, waiting)
    alive = await cluster.recovery(RecoveryLimits(grace_s=3600.0, orphan_s=0.0)).run_once()
    assert len(alive.waiting) == 2
    await steps.crash()
    with pytest.raises(ShardError):
        await first
    report = await cluster.recovery(RecoveryLimits(grace_s=3600.0, orphan_s=0.0)).run_once()
    assert len(report.rolled_back) == 2
    assert stranger.status == ord("T"), "he has not moved"
    await stranger.run("ROLLBACK")
    assert await cluster.values() == NOWHERE


async def test_a_crash_while_a_constraint_waits_at_a_participant_lets_its_locks_go_before_that_wait_ends(
    cluster: CommitCluster,
) -> None:
    """It has nothing prepared yet that recovery could find, and holds what its transaction has locked."""
    stranger = await cluster.link(1)
    await stranger.run("BEGIN; INSERT INTO public.t VALUES (1, 9)")
    steps = await Steps.begin(cluster, "INSERT INTO public.t VALUES (1, 1); SELECT pg_advisory_xact_lock(7)")
    first = asyncio.create_task(steps.one())
    pid = steps.links[1].pid
    await cluster.until(1, f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}")
    await steps.crash()
    with pytest.raises(ShardError):
        await first
    await cluster.until(1, f"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})")
    assert await cluster.ask(1, "SELECT pg_try_advisory_xact_lock(7)") == [(True,)]
    assert stranger.status == ord("T"), "he has not moved"
    await stranger.run("ROLLBACK")
    assert await cluster.values() == NOWHERE
    assert await cluster.prepared() == []


async def test_two_recoverers_at_once(cluster: CommitCluster) -> None:
    for serial in range(1, 7):
        steps = await (await Steps.begin(cluster, f"INSERT INTO public.t VALUES ({serial}, {serial})", serial)).one()
        if serial % 2:
            await steps.two()
        await steps.crash()
    assert len(await cluster.prepared()) == 12
    others = ControlLinks(cluster.endpoints)
    try:
        second = Recovery(others, cluster=CLUSTER, names=cluster.names, limits=AT_ONCE)
        reports = await asyncio.gather(cluster.recovery().run_once(), second.run_once())
    finally:
        await others.close()
    assert [report.problems for report in reports] == [{}, {}]
    assert await cluster.prepared() == []
    assert await cluster.values() == [[(1, 1), (3, 3), (5, 5)]] * 3


async def test_what_is_not_ours_is_not_touched(cluster: CommitCluster) -> None:
    now = int(time.time() * 1000)
    ours_elsewhere = make_gid("s0", 99, now).at("s2")  # named for another shard than the one it is on
    foreign = ["foo", make_gid("s0", 98, now, cluster="other").at("s1"), f"pgchorus:{CLUSTER}:s0:nonsense:s1"]
    for serial, name in enumerate([*foreign, ours_elsewhere]):
        link = await cluster.link(1)
        await link.run(f"BEGIN; INSERT INTO public.t VALUES ({serial}, 0); PREPARE TRANSACTION '{name}'")
    report = await cluster.recovery().run_once()
    assert report.quiet
    assert await cluster.prepared() == sorted([*foreign, ours_elsewhere])


async def test_a_record_that_does_not_know_a_part_is_an_alarm(cluster: CommitCluster) -> None:
    steps = await (await (await Steps.begin(cluster)).one()).two()
    await steps.crash()
    name = steps.gid.at("s1")
    async with cluster.control.connection(1) as connection:
        await connection.execute(f"ROLLBACK PREPARED '{name}'")
    link = await cluster.link(1)
    await link.run(f"BEGIN; INSERT INTO public.t VALUES (66, 6); PREPARE TRANSACTION '{name}'")
    report = await cluster.recovery().run_once()
    assert list(report.problems) == [name]
    assert report.committed == [steps.gid.at("s2")]
    assert await cluster.prepared() == [name]


async def test_an_unknown_commit_point_is_reported(cluster: CommitCluster) -> None:
    name = make_gid("gone", 1, int(time.time() * 1000)).at("s1")
    link = await cluster.link(1)
    await link.run(f"BEGIN; {INSERT}; PREPARE TRANSACTION '{name}'")
    report = await cluster.recovery().run_once()
    assert list(report.problems) == [name]
    assert await cluster.prepared() == [name]


async def test_a_gid_older_than_the_records_is_for_a_person(cluster: CommitCluster) -> None:
    gid = make_gid("s0", 1, int(time.time() * 1000) - 90_000_000)
    link = await cluster.link(1)
    await link.run(f"BEGIN; {INSERT}; PREPARE TRANSACTION '{gid.at('s1')}'")
    report = await cluster.recovery().run_once()
    assert list(report.problems) == [str(gid)]
    assert report.waiting == [gid.at("s1")]
    assert await cluster.decisions(0) == []
    assert await cluster.prepared() == [gid.at("s1")]


async def test_a_shard_that_is_down_is_skipped_and_named(cluster: CommitCluster) -> None:
    steps = await (await (await Steps.begin(cluster)).one()).two()
    await steps.crash()
    endpoints = [*cluster.endpoints[:2], type(cluster.endpoints[2])("s2", 2, "postgres://postgres@127.0.0.1:1/x")]
    control = ControlLinks(endpoints)
    try:
        report = await Recovery(control, cluster=CLUSTER, names=cluster.names, limits=AT_ONCE).run_once()
    finally:
        await control.close()
    assert list(report.unreachable) == ["s2"]
    assert report.committed == [steps.gid.at("s1")]


async def test_many_at_once(cluster: CommitCluster) -> None:
    count = 20
    for number in range(count):
        sql = f"INSERT INTO public.t VALUES ({number}, {number})"
        steps = await (await Steps.begin(cluster, sql, number + 1)).one()
        if number % 2:
            await steps.two()
        await steps.crash()
    reports = await asyncio.gather(cluster.recovery().run_once(), cluster.recovery().run_once())
    assert await cluster.prepared() == []
    assert not any(report.problems or report.unreachable for report in reports)
    rows = [(number, number) for number in range(1, count, 2)]
    assert await cluster.values() == [rows] * 3


async def test_a_decision_that_hangs_keeps_nothing_else_waiting(cluster: CommitCluster) -> None:
    """It holds its record, not yet committed, so that whoever offers an abort for it waits; the oldest comes first."""
    hanging = await (await Steps.begin(cluster, "INSERT INTO public.t VALUES (1, 1)", 1)).one()
    parts = [("s1", hanging.xids[1]), ("s2", hanging.xids[2])]
    await hanging.links[0].run(record.decide_sql(hanging.gid, hanging.xids[0], parts, 1, hanging.plan.key))
    other = await (await Steps.begin(cluster, "INSERT INTO public.t VALUES (2, 2)", 2)).one()
    await other.crash()
    recovery = cluster.recovery(RecoveryLimits(grace_s=0.0, orphan_s=0.0, shard_timeout_s=3.0))
    first = await recovery.run_once()
    assert sorted(first.waiting)[:2] == [hanging.gid.at("s1"), hanging.gid.at("s2")]
    second = await recovery.run_once()
    assert sorted(first.rolled_back + second.rolled_back) == [other.gid.at("s1"), other.gid.at("s2")]
    await hanging.links[0].run("COMMIT")
    assert len((await recovery.run_once()).committed) == 2


async def test_status_of_a_transaction(cluster: CommitCluster) -> None:
    done = await (await (await Steps.begin(cluster)).one()).two()
    assert await cluster.recovery().status(str(done.gid)) is Status.COMMITTED
    await done.crash()
    await cluster.recovery().run_once()
    open_one = await (await Steps.begin(cluster, "INSERT INTO public.t VALUES (2, 2)", 2)).one()
    assert await cluster.recovery(PATIENT).status(str(open_one.gid)) is Status.IN_DOUBT
    assert await cluster.recovery().status(str(open_one.gid)) is Status.IN_DOUBT, "somebody can still decide"
    await open_one.crash()
    await cluster.until(0, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted)")
    assert await cluster.recovery(PATIENT).status(str(open_one.gid)) is Status.IN_DOUBT
    assert await cluster.recovery().status(str(open_one.gid)) is Status.ABORTED
    for text in ("nonsense", str(make_gid("s0", 1, 0, cluster="other")), str(make_gid("s9", 1, 0))):
        with pytest.raises(ValueError, match="not a transaction"):
            await cluster.recovery().status(text)


async def test_it_runs_at_once_and_when_woken(cluster: CommitCluster) -> None:
    steps = await (await (await Steps.begin(cluster)).one()).two()
    await steps.crash()
    recovery = cluster.recovery(RecoveryLimits(grace_s=0.0, orphan_s=0.0, interval_s=3600.0))
    forever = asyncio.create_task(recovery.run_forever())
    nothing = "SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())"
    await cluster.until(1, nothing)
    await cluster.until(2, nothing)
    more = await (await (await Steps.begin(cluster, "INSERT INTO public.t VALUES (2, 2)", 2)).one()).two()
    await more.crash()
    assert len(await cluster.prepared()) == 2
    recovery.wake([1])
    await cluster.until(1, nothing)
    recovery.wake()
    await cluster.until(2, nothing)
    forever.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forever
    assert await cluster.values() == [[(1, 1), (2, 2)]] * 3


async def age(cluster: CommitCluster, interval: str) -> None:
    await cluster.ask(0, f"UPDATE pgchorus.decision SET at = at - interval '{interval}' RETURNING 1")


async def test_old_records_are_dropped_in_bulk(cluster: CommitCluster) -> None:
    decided = await (await (await Steps.begin(cluster)).one()).two()
    await decided.crash()
    await cluster.recovery().run_once()
    await age(cluster, "24 hours 30 minutes")
    assert await cluster.recovery().purge() == 0
    await age(cluster, "1 hour")
    assert await cluster.recovery().purge() == 1
    assert await cluster.decisions(0) == []


async def test_an_abort_record_outlives_whoever_could_still_decide(cluster: CommitCluster) -> None:
    steps = await (await Steps.begin(cluster)).one()
    assert len((await cluster.recovery().run_once()).rolled_back) == 2
    # However old the record seems by the clock: the decider is alive, and its xid is below the record's.
    await age(cluster, "2 days")
    assert await cluster.recovery().purge() == 0
    with pytest.raises(ShardError):
        await steps.two()
    await steps.crash()
    assert await cluster.recovery().purge() == 1


# The record's functions


@pytest.fixture
async def stranger(cluster: CommitCluster) -> TappedLink:
    async with cluster.control.connection(0) as connection:
        await connection.execute(
            "DO $$ BEGIN CREATE ROLE twophase_stranger LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
        )
    return await cluster.link(0, "twophase_stranger")


async def test_nobody_forges_a_decision(cluster: CommitCluster, stranger: TappedLink) -> None:
    victim = await (await Steps.begin(cluster)).one()
    for key in (b"", b"guess"):
        await stranger.run("BEGIN; CREATE TEMP TABLE x ()")
        own_xid = record.parse_xid((await stranger.run("SELECT pg_current_xact_id()")).rows[0][0])
        parts = [("s1", victim.xids[1]), ("s2", victim.xids[2])]
        with pytest.raises(ShardError) as caught:
            await stranger.run(record.decide_sql(victim.gid, own_xid, parts, 1, key))
        assert caught.value.sqlstate == record.BAD_PROOF
        await stranger.run("ROLLBACK")
    await victim.two()
    assert await cluster.decisions(0) == ["commit"]


async def test_a_copied_decision_is_of_no_use(cluster: CommitCluster, stranger: TappedLink) -> None:
    victim = await (await Steps.begin(cluster)).one()
    parts = [("s1", victim.xids[1]), ("s2", victim.xids[2])]
    copied = record.decide_sql(victim.gid, victim.xids[0], parts, 1, victim.plan.key)
    for preparation in ("SELECT 1", "CREATE TEMP TABLE x ()"):
        await stranger.run(f"BEGIN; {preparation}")
        with pytest.raises(ShardError) as caught:
            await stranger.run(copied)
        assert caught.value.sqlstate == record.NOT_OUR_TRANSACTION
        await stranger.run("ROLLBACK")
    with pytest.raises(ShardError) as caught:
        await stranger.run(copied + "; COMMIT")  # outside a block
    assert caught.value.sqlstate == record.NOT_OUR_TRANSACTION


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT key FROM pgchorus.secret",
        "SELECT * FROM pgchorus.decision",
        "INSERT INTO pgchorus.decision (gid, outcome) VALUES ('x', 'commit')",
        "DELETE FROM pgchorus.decision",
        "BEGIN; LOCK TABLE pgchorus.fence IN SHARE MODE",
        "BEGIN; LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE",
        "SELECT pgchorus.abandon('x', '1 day')",
        "SELECT pgchorus.purge('0 s', 1)",
        "UPDATE pgchorus.epoch SET epoch = 2",
        "CREATE TABLE pgchorus.mine ()",
    ],
)
async def test_others_have_no_rights_on_the_record(stranger: TappedLink, sql: str) -> None:
    with pytest.raises(ShardError) as caught:
        await stranger.run(sql)
    assert caught.value.sqlstate == "42501"


async def test_the_fence_cannot_be_held_through_the_functions(stranger: TappedLink) -> None:
    await stranger.run("BEGIN")
    with pytest.raises(ShardError) as caught:
        await stranger.run(record.fence_commit_sql(stranger.pid, 1, b"guess"))
    assert caught.value.sqlstate == record.BAD_PROOF


async def test_a_gid_from_the_future_cannot_decide(cluster: CommitCluster) -> None:
    steps = await Steps.begin(cluster)
    steps.gid = make_gid("s0", 1, int(time.time() * 1000) + 7_200_000)
    await steps.one()
    with pytest.raises(ShardError) as caught:
        await steps.two()
    assert caught.value.sqlstate == record.TOO_OLD


async def test_installing_again_keeps_key_and_records(cluster: CommitCluster) -> None:
    await (await (await Steps.begin(cluster)).one()).two()
    before = await cluster.ask(0, "SELECT key FROM pgchorus.secret")
    async with cluster.control.connection(0) as connection:
        for sql in record.install_sql():
            await connection.execute(sql)
    assert await cluster.ask(0, "SELECT key FROM pgchorus.secret") == before
    assert len(before[0][0]) == 32  # type: ignore[arg-type]
    assert await cluster.decisions(0) == ["commit"]
