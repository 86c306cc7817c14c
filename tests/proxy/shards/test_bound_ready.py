"""Step 1 of a commit point as messages that are bound: on a real server they do what the text does, again and again."""

from __future__ import annotations

import asyncio
from itertools import count
from time import time_ns
from typing import TYPE_CHECKING

import pytest

from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink, open_link
from proxy.shards.relay import FAILED, IDLE, IN_TRANSACTION
from proxy.twophase.events import Limits
from proxy.twophase.gid import GlobalId, uuid7
from proxy.twophase.messages import ready_commit_point_sql

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.receivers import Answer

SERIAL = count(1)
SETTINGS = (
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "client_connection_check_interval",
    "synchronous_commit",
)
SHOWN = "SELECT " + ", ".join(f"pg_catalog.current_setting('{name}', true)" for name in SETTINGS)
OUR_LOCKS = """SELECT (classid::bigint << 32 | objid::bigint)::text, mode FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()"""


def new_gid() -> GlobalId:
    return GlobalId("test", "s0", uuid7(time_ns() // 1_000_000, next(SERIAL) << 40 | 0x3FF << 62))


@pytest.fixture
async def link(endpoint: ShardEndpoint) -> AsyncIterator[ShardLink]:
    opened = await open_link(endpoint, role="postgres", password=None)
    await opened.run("DROP TABLE IF EXISTS bound; CREATE TABLE bound (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    yield opened
    await opened.run("DROP TABLE bound")
    await opened.close()


async def posted(link: ShardLink, sql: str) -> Answer:
    told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def hear(answer: Answer | Exception) -> None:
        if isinstance(answer, Exception):
            told.set_exception(answer)
        else:
            told.set_result(answer)

    link.post(sql, hear)
    return await told


async def as_text(link: ShardLink, sql: str) -> Answer:
    return await link.run(str(sql))


WAYS = (as_text, posted, posted, posted)


async def begin(link: ShardLink, values: str = "(1)") -> bytes | None:
    answer = await link.run(f"BEGIN; INSERT INTO bound VALUES {values}; SELECT pg_current_xact_id()")
    return answer.rows[0][0]


async def readied(
    link: ShardLink, run: Callable[[ShardLink, str], Awaitable[Answer]], limits: Limits
) -> tuple[list[bytes | None], list[list[bytes | None]]]:
    """Return the answer's values but for the xid, and what is set then; see the lock and the xid."""
    gid, xid = new_gid(), await begin(link)
    answer = await run(link, ready_commit_point_sql(gid, limits))
    assert (answer.rows[0][0], answer.status, link.status) == (xid, IN_TRANSACTION, IN_TRANSACTION)
    locks = (await link.run(OUR_LOCKS)).rows
    assert locks == [[b"%d" % gid.lock_key, b"ShareLock"]]
    shown = (await link.run(SHOWN)).rows
    await link.run("ROLLBACK")
    assert (await link.run(OUR_LOCKS)).rows == []
    return answer.rows[0][1:], shown


@pytest.mark.parametrize("durability", ["on", "off", "remote_apply"])
async def test_it_does_what_the_text_does(link: ShardLink, durability: str) -> None:
    await link.run(f"SET synchronous_commit = {durability}; SET statement_timeout = '5min'")
    before = (await link.run(SHOWN)).rows
    for limits in (Limits(), Limits(commit_point_idle_ms=7_000)):  # another limit on a link that has it prepared
        found = [await readied(link, run, limits) for run in WAYS]
        assert found[1:] == found[:1] * 3
        assert found[0][1][0][1] == (b"1min" if limits == Limits() else b"7s")
        assert found[0][1][0][0] == b"0"
    assert (await link.run(SHOWN)).rows == before, "all of it was the transaction's own"
    assert {"pgchorus_ready_0", "pgchorus_ready_2"} <= link.statements.keys()


@pytest.mark.parametrize("before", [0, 2])
async def test_what_fails_in_it_may_be_tried_again(link: ShardLink, before: int) -> None:
    for _ in range(before):
        await readied(link, posted, Limits())
    for _ in range(2):
        await begin(link, "(1), (1)")  # looked at by SET CONSTRAINTS
        with pytest.raises(ShardError) as caught:
            await posted(link, ready_commit_point_sql(new_gid(), Limits()))
        assert (caught.value.sqlstate, link.status) == ("23505", FAILED)
        await link.run("ROLLBACK")
        await readied(link, posted, Limits())


async def test_the_lock_comes_before_the_constraints(link: ShardLink, endpoint: ShardEndpoint) -> None:
    """While they wait for somebody, recovery must see that the commit is alive."""
    other = await open_link(endpoint, role="postgres", password=None)
    try:
        for _ in range(2):
            await begin(other, "(7)")
            await begin(link, "(7)")
            gid = new_gid()
            waiting = asyncio.ensure_future(posted(link, ready_commit_point_sql(gid, Limits())))
            held = (
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
                f" AND pid = {link.pid} AND (classid::bigint << 32 | objid::bigint) = {gid.lock_key}"
                f" AND EXISTS (SELECT FROM pg_locks WHERE pid = {link.pid} AND NOT granted)"
            )
            while not (await other.run(held)).rows:
                assert not waiting.done()
            await other.run("ROLLBACK")
            assert (await waiting).status == IN_TRANSACTION
            await link.run("ROLLBACK")
    finally:
        await other.close()


async def test_outside_of_a_healthy_block_it_is_no_vote(link: ShardLink) -> None:
    for run in WAYS:
        assert (await run(link, ready_commit_point_sql(new_gid(), Limits()))).status == IDLE
        with pytest.raises(ShardError, match="division"):
            await link.run("BEGIN; SELECT 1/0")
        with pytest.raises(ShardError) as caught:
            await run(link, ready_commit_point_sql(new_gid(), Limits()))
        assert (caught.value.sqlstate, link.status) == ("25P02", FAILED)
        await link.run("ROLLBACK")
    assert (await link.run("SHOW statement_timeout")).rows == [[b"0"]]


def test_it_is_its_text_and_what_is_made_of_it_is_not_bound() -> None:
    gid = new_gid()
    ready = ready_commit_point_sql(gid, Limits())
    assert ready.values == ("60000", str(gid.lock_key))
    assert all(f"{value}" in ready for value in ready.values)
    for other in (ready + "; COMMIT", ready.replace("60000", "1"), str(ready)):
        assert type(other) is str
