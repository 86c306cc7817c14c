"""Step 2 of a commit as messages that are bound: on a real server they do what the text does, again and again."""

from __future__ import annotations

import asyncio
from itertools import count
from time import time_ns
from typing import TYPE_CHECKING

import pytest

from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink, open_link
from proxy.shards.relay import FAILED, IDLE
from proxy.twophase.gid import GlobalId, uuid7
from proxy.twophase.record import (
    BAD_PROOF,
    NOT_OUR_TRANSACTION,
    OTHER_EPOCH,
    READ_KEY,
    TOO_OLD,
    decide_sql,
    decision,
    install_sql,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.receivers import Answer
    from proxy.twophase.valued import Decision

SERIAL = count(1)
HOUR_MS = 3_600_000


def new_gid(ahead_ms: int = 0) -> GlobalId:
    return GlobalId("test", "s0", uuid7(time_ns() // 1_000_000 + ahead_ms, next(SERIAL)))


class Decider:
    """A link to a shard with schema pgchorus and a table, and its key."""

    def __init__(self, link: ShardLink, key: bytes) -> None:
        self.link = link
        self.key = key

    async def begin(self, isolation: str = "READ COMMITTED") -> int:
        answer = await self.link.run(
            f"BEGIN ISOLATION LEVEL {isolation}; INSERT INTO bound VALUES (1); SELECT pg_current_xact_id()"
        )
        return int(answer.rows[0][0] or b"")

    def text(self, gid: GlobalId, xid: int, *, epoch: int = 1, key: bytes = b"") -> Decision:
        return decision(gid, xid, [("s1", 4711), ("s-2.x", 12)], epoch, key or self.key)

    async def post(self, sql: str) -> Answer:
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def hear(answer: Answer | Exception) -> None:
            if isinstance(answer, Exception):
                told.set_exception(answer)
            else:
                told.set_result(answer)

        self.link.post(sql, hear)
        return await told

    async def record(self, gid: GlobalId) -> list[bytes | None] | None:
        """Return the record, and how many rows the table has."""
        answer = await self.link.run(
            "SELECT outcome, xid, participants, xids, epoch, (SELECT count(*) FROM bound)"
            f" FROM pgchorus.decision WHERE gid = '{gid}'"
        )
        return answer.rows[0] if answer.rows else None

    async def fails(self, sql: str) -> str:
        with pytest.raises(ShardError) as caught:
            await self.post(sql)
        status = self.link.status
        if status != IDLE:
            assert status == FAILED
            await self.link.run("ROLLBACK")
        assert (await self.link.run("SELECT count(*) FROM bound")).rows == [[b"0"]]
        return caught.value.sqlstate


@pytest.fixture
async def decider(endpoint: ShardEndpoint) -> AsyncIterator[Decider]:
    link = await open_link(endpoint, role="postgres", password=None)
    for sql in (*install_sql(), "CREATE TABLE bound (a int)"):
        await link.run(sql)
    ((key,),) = (await link.run(READ_KEY.replace("key", "encode(key, 'hex')", 1))).rows
    assert key is not None
    yield Decider(link, bytes.fromhex(key.decode()))
    await link.run("DROP TABLE bound; DROP SCHEMA pgchorus CASCADE")
    await link.close()


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
async def test_it_decides_as_the_text_does(decider: Decider, isolation: str) -> None:
    gid, xid = new_gid(), await decider.begin(isolation)
    by_text = await decider.link.run(decider.text(gid, xid))
    assert by_text.tags == (b"SELECT 1", b"COMMIT")
    record = await decider.record(gid)
    for rows in range(2, 9):  # the first prepares the statements, and from the sixth on the plan may be another
        gid, xid = new_gid(), await decider.begin(isolation)
        answer = await decider.post(decider.text(gid, xid))
        assert (answer.tags, answer.notices, answer.status) == (by_text.tags, (), IDLE)
        wanted = [b"commit", b"%d" % xid, b"{s1,s-2.x}", b"{4711,12}", b"1", b"%d" % rows]
        assert await decider.record(gid) == wanted
    assert record is not None
    assert (record[0], record[2:5]) == (wanted[0], wanted[2:5])
    assert {"pgchorus_decide", "pgchorus_commit"} <= decider.link.statements.keys()


@pytest.mark.parametrize("before", [0, 1])
async def test_what_decide_refuses_is_not_committed(decider: Decider, before: int) -> None:
    for _ in range(before):
        await decider.post(decider.text(new_gid(), await decider.begin()))
    await decider.link.run("DELETE FROM bound")
    gid = new_gid()
    assert await decider.fails(decider.text(gid, await decider.begin() + 1)) == NOT_OUR_TRANSACTION
    assert await decider.fails(decider.text(gid, await decider.begin(), key=b"k" * 32)) == BAD_PROOF
    assert await decider.fails(decider.text(gid, await decider.begin(), epoch=2)) == OTHER_EPOCH
    assert await decider.fails(decider.text(new_gid(2 * HOUR_MS), await decider.begin())) == TOO_OLD
    assert await decider.fails(decider.text(gid, 4711)) == NOT_OUR_TRANSACTION, "outside of a block"
    await decider.link.run(f"INSERT INTO pgchorus.decision (gid, outcome) VALUES ('{gid}', 'abort')")
    assert await decider.fails(decider.text(gid, await decider.begin())) == "23505"
    with pytest.raises(ShardError, match="division"):
        await decider.link.run("BEGIN; SELECT 1/0")
    assert await decider.fails(decider.text(new_gid(), 4711)) == "25P02"
    gid, xid = new_gid(), await decider.begin()
    await decider.post(decider.text(gid, xid))
    assert await decider.record(gid) is not None


async def test_what_commit_refuses_is_not_committed(decider: Decider) -> None:
    """A deferred constraint fails in COMMIT itself, behind a decision that has answered well."""
    await decider.link.run("CREATE TABLE IF NOT EXISTS one (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); TRUNCATE one")
    try:
        for _ in range(2):
            gid, xid = new_gid(), await decider.begin()
            await decider.link.run("INSERT INTO one VALUES (1), (1)")
            assert await decider.fails(decider.text(gid, xid)) == "23505"
            assert await decider.record(gid) is None
    finally:
        await decider.link.run("DROP TABLE one")


async def test_statements_that_the_server_has_lost_decide_nothing(decider: Decider) -> None:
    await decider.post(decider.text(new_gid(), await decider.begin()))
    for lost in ("pgchorus_decide", "pgchorus_commit"):
        await decider.link.run(f"DELETE FROM bound; DEALLOCATE {lost}")
        gid, xid = new_gid(), await decider.begin()
        assert await decider.fails(decider.text(gid, xid)) == "26000"
        assert await decider.record(gid) is None
        await decider.post(decider.text(gid, await decider.begin()))
        assert await decider.record(gid) is not None


def test_a_decision_is_its_text_and_what_is_made_of_it_is_not_bound() -> None:
    gid = new_gid()
    whole = decision(gid, 12, [("s1", 5), ("s2", 6)], 3, b"k" * 32)
    call = decide_sql(gid, 12, [("s1", 5), ("s2", 6)], 3, b"k" * 32)
    assert whole == f"{call}; COMMIT"
    assert whole.values[:5] == (str(gid), "12", "{s1,s2}", "{5,6}", "3")
    assert len(bytes.fromhex(whole.values[5])) == 32
    quoted = [f"'{value}'" for value in whole.values]
    quoted[4] = "3"
    assert call == f"SELECT pgchorus.decide({', '.join(quoted[:5])}, pg_catalog.decode({quoted[5]}, 'hex'))"
    for other in (call, whole + "; ", whole.replace("COMMIT", "ROLLBACK"), str(whole)):
        assert type(other) is str
