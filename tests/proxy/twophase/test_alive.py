"""Recovery sees that a commit is alive, from its first prepared part on, however long its constraints wait."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from proxy.twophase.recovery import RecoveryLimits
from twophase_servers import CommitCluster, make_gid

if TYPE_CHECKING:
    from proxy.twophase.events import Outcome
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.recovery import Report
    from twophase_servers import TappedLink

INSERT = "INSERT INTO public.t VALUES (1, 1)"
EVERYWHERE = [[(1, 1)]] * 3
IMPATIENT = RecoveryLimits(grace_s=3600.0, orphan_s=0.0)  # looks at nothing but whether somebody could still decide


@pytest.mark.parametrize("commit_point", [0, 1, 2])
@pytest.mark.parametrize("waits", [0, 1, 2])
async def test_a_commit_whose_deferred_constraint_waits_is_left_alone(
    cluster: CommitCluster, waits: int, commit_point: int
) -> None:
    """Wherever it waits: at its commit point, or at a participant while the commit point has done its step 1."""
    stranger = await cluster.link(waits)
    await stranger.run("BEGIN; INSERT INTO public.t VALUES (1, 9)")  # is it a duplicate? whoever asks has to wait
    links = await cluster.begin(INSERT)
    commit = asyncio.create_task(cluster.coordinator(commit_point).commit(links, {0, 1, 2}))
    await cluster.until(
        waits,
        "SELECT wait_event_type = 'Lock' AND query LIKE '%SET CONSTRAINTS%' "
        f"FROM pg_stat_activity WHERE pid = {links[waits].pid}",
    )
    parts = sorted({0, 1, 2} - {waits, commit_point})
    for shard in parts:
        await cluster.until(shard, "SELECT count(*) = 1 FROM pg_prepared_xacts WHERE database = current_database()")
    if commit_point != waits:
        await cluster.until(
            commit_point,
            "SELECT state = 'idle in transaction' AND query LIKE '%transaction_timeout%' "
            f"FROM pg_stat_activity WHERE pid = {links[commit_point].pid}",
        )
    report = await cluster.recovery(IMPATIENT).run_once()
    assert (len(report.waiting), report.rolled_back) == (len(parts), [])
    assert not commit.done()
    await stranger.run("ROLLBACK")
    outcome = await commit
    assert (outcome.committed, outcome.error) == (True, None)
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []


@pytest.mark.parametrize("grace_s", [3600.0, 0.0])
async def test_a_commit_of_this_process_is_known_to_be_alive_before_it_has_its_lock(
    cluster: CommitCluster, grace_s: float
) -> None:
    """Its commit point gets the message late: a network stalls. Others would take the parts for orphans, we know."""
    coordinator = cluster.coordinator()
    links = await cluster.begin(INSERT)
    held = links[0].hold("SET CONSTRAINTS")
    commit = asyncio.create_task(coordinator.commit(links, {0, 1, 2}))
    await held.reached.wait()
    for shard in (1, 2):
        await cluster.until(shard, "SELECT count(*) = 1 FROM pg_prepared_xacts WHERE database = current_database()")
    recovery = cluster.recovery(RecoveryLimits(grace_s=grace_s, orphan_s=0.0))
    recovery.is_ours = coordinator.is_ours
    report = await recovery.run_once()
    held.go_on.set()
    outcome = await commit
    if grace_s:
        assert (len(report.waiting), report.rolled_back) == (2, [])
        assert outcome.committed
        assert await cluster.values() == EVERYWHERE
    else:
        assert len(report.rolled_back) == 2, "it has had its time"
        assert outcome.error is not None
        assert outcome.error.sqlstate == "40001"
        assert await cluster.values() == [[], [], []]
    assert await cluster.prepared() == []


@dataclass(slots=True)
class Forestalled:
    """A commit whose lock a stranger has taken; recovery runs when it wants to decide."""

    cluster: CommitCluster
    gid: GlobalId
    stranger: TappedLink
    reports: list[Report] = field(default_factory=list)

    @classmethod
    async def make(cls, cluster: CommitCluster) -> Forestalled:
        gid = make_gid("s0", 1, int(time.time() * 1000))
        stranger = await cluster.link(0)
        await stranger.run(f"BEGIN; SELECT pg_advisory_xact_lock({gid.lock_key})")
        return cls(cluster, gid, stranger)

    async def commit(self, *, let_go: bool) -> Outcome:
        """Commit on all shards; the stranger lets go of the lock before recovery looks, or after it all."""
        links = await self.cluster.begin(INSERT)

        async def recover(sql: str) -> None:
            if "decide" in sql:
                if let_go:
                    await self.stranger.run("ROLLBACK")
                self.reports.append(await self.cluster.recovery(IMPATIENT).run_once())

        links[0].before = recover
        return await self.cluster.coordinator().commit(links, {0, 1, 2}, gid=self.gid)


async def test_one_whose_lock_somebody_else_has_commits_all_the_same(cluster: CommitCluster) -> None:
    """Names are known to everybody, so anybody can take the lock: nothing waits for it, and the record decides."""
    tried = await Forestalled.make(cluster)
    assert (await tried.commit(let_go=False)).committed
    assert [len(report.waiting) for report in tried.reports] == [2], "the stranger's lock speaks for it, too"
    assert await cluster.values() == EVERYWHERE


async def test_one_whose_lock_somebody_else_has_had_is_given_up_and_nothing_of_it_stays(
    cluster: CommitCluster,
) -> None:
    tried = await Forestalled.make(cluster)
    outcome = await tried.commit(let_go=True)
    assert not outcome.committed
    assert outcome.error is not None
    assert outcome.error.sqlstate == "40001"
    assert [len(report.rolled_back) for report in tried.reports] == [2]
    assert await cluster.values() == [[], [], []]
    assert await cluster.prepared() == []
