"""Statements over three real shards: concatenated, added up, the same everywhere.

Errors and lost links in the middle.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from executor_kit import server_side
from proxy.errors import ProxyError
from proxy.executor.request import Fence, Limits, Request, send
from proxy.shards.errors import ShardError
from proxy.wire import backend
from router.errors import Refused
from router.plan import Concat, Execution, Same, SumTags, Task

if TYPE_CHECKING:
    from executor_kit import Shards
    from router.plan import Combine

ALL = (Task(0), Task(1), Task(2))


def over_all(combine: Combine, *, writes: bool = False) -> Execution:
    return Execution(ALL, combine, writes)


async def numbers(shards: Shards, rows: int = 5) -> None:
    """Make a table n with ``rows`` rows on each shard: k from 0, shard s."""
    for shard, link in shards.links.items():
        await link.run(
            f"CREATE TABLE n (k int, s int, filler text);"
            f" INSERT INTO n SELECT g, {shard}, repeat('x', 100) FROM generate_series(0, {rows - 1}) g"
        )


async def test_rows_of_all_shards_and_one_tag(shards: Shards) -> None:
    await numbers(shards)
    client = await shards.answer(over_all(Concat()), "SELECT k, s FROM n")
    assert sorted(client.rows()) == sorted([b"%d" % k, b"%d" % s] for k in range(5) for s in range(3))
    assert client.tags() == [b"SELECT 15"]
    assert client.kinds() == "TDC"
    assert shards.joined == [((0, 1, 2), False)]


async def test_parameters_and_formats_go_out_as_they_came(shards: Shards) -> None:
    await numbers(shards)
    request = Request(
        "SELECT k, s, $2 FROM n WHERE k = $1",
        parameter_oids=(23, 25),
        parameter_formats=(1, 0),
        parameters=((3).to_bytes(4), b"word"),
        result_formats=(1, 0, 0),
    )
    client = await shards.answer(over_all(Concat()), request)
    assert sorted(client.rows()) == [[b"\0\0\0\3", b"%d" % s, b"word"] for s in range(3)]
    described = backend.decode_row_description(client.frames()[0][1])
    assert [field.format for field in described] == [1, 0, 0]


async def test_statement_without_rows(shards: Shards) -> None:
    await numbers(shards)
    client = await shards.answer(over_all(SumTags(), writes=True), "UPDATE n SET k = k + 1 WHERE k < 3")
    assert client.kinds() == "C"
    assert client.tags() == [b"UPDATE 9"]
    client = await shards.answer(over_all(SumTags(), writes=True), "DELETE FROM n WHERE k = 1 RETURNING s")
    assert sorted(client.rows()) == [[b"0"], [b"1"], [b"2"]]
    assert client.tags() == [b"DELETE 3"]


async def test_split_insert_has_a_text_for_each_shard(shards: Shards) -> None:
    await numbers(shards, 0)
    tasks = tuple(Task(shard, f"INSERT INTO n (k, s) VALUES ({shard}, $1)") for shard in (2, 0))
    request = Request("INSERT", parameter_oids=(23,), parameters=(b"7",))
    client = await shards.answer(Execution(tasks, SumTags(), writes=True), request)
    assert client.tags() == [b"INSERT 0 2"]
    assert await shards.values("SELECT k * 10 + s FROM n") == [[b"7"], [], [b"27"]]
    assert shards.joined == [((2, 0), True)]


async def test_row_limits_and_suspension(shards: Shards) -> None:
    await numbers(shards)
    result = await shards.start(over_all(Concat()), "SELECT k FROM n")
    client = shards.client
    assert not await send(result, client, max_rows=6)
    assert not await send(result, client, max_rows=9)
    # As in Postgres, a limit that takes the last row suspends all the same.
    assert await send(result, client, max_rows=1)
    assert len(client.rows()) == 15
    assert client.kinds() == "DsDsC"
    assert client.tags() == [b"SELECT 0"]
    shards.check_idle()


async def test_a_parked_result_frees_its_links(shards: Shards) -> None:
    await numbers(shards, 400)
    result = await shards.start(over_all(Concat()), "SELECT * FROM n", limits=Limits(max_buffer_bytes=5000))
    assert not await send(result, shards.client, max_rows=10)
    await result.park()
    shards.check_idle()
    assert await shards.values("SELECT 1") == [[b"1"]] * 3
    assert await send(result, shards.client)
    assert len(shards.client.rows()) == 1200
    assert shards.client.tags() == [b"SELECT 1190"]


async def test_too_much_to_park_is_an_error(shards: Shards) -> None:
    await numbers(shards, 400)
    result = await shards.start(over_all(Concat()), "SELECT * FROM n", limits=Limits(max_parked_bytes=20_000))
    with pytest.raises(ProxyError) as raised:
        await send(result, shards.client, max_rows=10)
    assert shards.client.kinds() == "D"  # and no PortalSuspended
    assert raised.value.sqlstate == "53400"
    assert "merge.max_parked_bytes" in raised.value.hint
    shards.check_idle()


async def test_closing_early_drains_the_links(shards: Shards) -> None:
    await numbers(shards, 5000)
    result = await shards.start(over_all(Concat()), "SELECT * FROM n", limits=Limits(max_buffer_bytes=2000))
    assert (await result.next_rows(3)).rows == 3
    await result.close()
    await result.close()
    shards.check_idle()
    assert await shards.values("SELECT 1") == [[b"1"]] * 3


async def test_an_error_on_one_shard_ends_the_statement_on_all(shards: Shards) -> None:
    await numbers(shards)
    await shards.everywhere("BEGIN")
    with pytest.raises(ShardError) as raised:
        await shards.answer(over_all(Concat()), "SELECT 1 / (k + s - 6) FROM n")
    assert raised.value.sqlstate == "22012"
    assert raised.value.shard == 2
    assert raised.value.raw is not None
    shards.check_idle()
    assert [link.status for link in shards.links.values()] == [ord("T"), ord("T"), ord("E")]


async def test_an_error_after_rows_went_out(shards: Shards) -> None:
    await numbers(shards, 20_000)
    # Shard 1 fails near its end, when much of everything has been passed on.
    with pytest.raises(ShardError) as raised:
        await shards.answer(
            over_all(Concat()),
            "SELECT filler, 1 / (CASE WHEN s = 1 AND k = 19000 THEN 0 ELSE 1 END) FROM n",
            limits=Limits(max_buffer_bytes=10_000),
        )
    assert raised.value.sqlstate == "22012"
    assert "D" in shards.client.kinds()
    shards.check_idle()


async def test_the_others_are_cancelled_if_asked(shards: Shards) -> None:
    text = "SELECT CASE current_setting('test.fails') WHEN 'yes' THEN 1 / 0 ELSE length(pg_sleep(60)::text) END"
    for shard, link in shards.links.items():
        await link.run(f"SET test.fails = '{'yes' if shard == 1 else 'no'}'")
    async with asyncio.timeout(20):
        with pytest.raises(ShardError) as raised:
            await shards.answer(over_all(Concat()), text, cancel_others=True)
    assert raised.value.sqlstate == "22012"
    shards.check_idle()


async def test_a_link_lost_in_the_middle(shards: Shards) -> None:
    # More than all the buffers on the way hold.
    text = "SELECT repeat('x', 10000) FROM generate_series(1, 4000)"
    result = await shards.start(over_all(Concat()), text, limits=Limits(max_buffer_bytes=2000))
    assert (await result.next_rows(3)).rows == 3
    # An administrator ends one backend while it waits for us to read on.
    pid = shards.links[1].pid
    admin = await shards.another_link(1)
    await admin.run(f"SELECT pg_terminate_backend({pid})")
    await admin.close()
    with pytest.raises(ShardError) as raised:
        await send(result, shards.client)
    assert raised.value.lost
    assert raised.value.sqlstate in ("57P01", "08006")
    shards.check_idle()
    assert shards.links[1].closed
    assert not shards.links[0].closed


async def test_a_link_that_is_gone_already(shards: Shards) -> None:
    shards.links[2].abort()
    with pytest.raises(ShardError) as raised:
        await shards.answer(over_all(Concat()), "SELECT 1")
    assert raised.value.lost
    shards.check_idle()


async def test_different_columns_are_refused(shards: Shards) -> None:
    for shard, link in shards.links.items():
        await link.run(f"CREATE TABLE d (a {'text' if shard == 2 else 'int'})")
    with pytest.raises(Refused) as raised:
        await shards.answer(over_all(Concat()), "SELECT a FROM d")
    assert raised.value.sqlstate == "0A000"
    assert "s0 and s2" in raised.value.message
    shards.check_idle()


async def test_a_client_that_does_not_read_stops_the_shards(shards: Shards) -> None:
    await numbers(shards, 30_000)
    limits = Limits(max_buffer_bytes=50_000)
    result = await shards.start(over_all(Concat()), "SELECT * FROM n", limits=limits)
    shards.client.gate.clear()
    sending = asyncio.ensure_future(send(result, shards.client))
    before = -1
    while len(shards.client.written) != before:  # until nothing moves any more
        before = len(shards.client.written)
        for _ in range(50):
            await asyncio.sleep(0)
    assert before < 300_000
    streams = result._scatter.streams  # type: ignore[attr-defined]
    assert all(stream.queued_bytes < 400_000 for stream in streams)
    shards.client.gate.set()
    assert await sending
    assert shards.client.tags() == [b"SELECT 90000"]


async def test_a_sender_that_is_cancelled_closes_links_in_the_middle(shards: Shards) -> None:
    sending = asyncio.ensure_future(shards.answer(over_all(Concat()), "SELECT pg_sleep(60)"))
    watcher = await shards.another_link(2)
    await server_side(watcher, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')")
    await watcher.close()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert all(link.closed for link in shards.links.values())


# --- the same everywhere -----------------------------------------------------------------------------------------


async def test_same_passes_on_the_first_answer_and_its_notices(shards: Shards) -> None:
    client = await shards.answer(over_all(Same(), writes=True), "DROP TABLE IF EXISTS nothing_there")
    assert client.tags() == [b"DROP TABLE"]
    assert [notice.message for notice in client.notices()] == ['table "nothing_there" does not exist, skipping']
    await numbers(shards, 2)
    client = await shards.answer(over_all(Same(), writes=True), "UPDATE n SET k = k RETURNING s")
    assert client.rows() == [[b"0"], [b"0"]]
    assert client.tags() == [b"UPDATE 2"]


async def test_same_with_different_answers_is_an_error(shards: Shards) -> None:
    await numbers(shards, 2)
    with pytest.raises(ProxyError) as raised:
        await shards.answer(over_all(Same(), writes=True), "DELETE FROM n WHERE s = 1")
    assert raised.value.sqlstate == "XX000"
    assert "DELETE 0" in raised.value.detail
    assert "DELETE 2" in raised.value.detail
    shards.check_idle()


async def test_home_first_has_the_home_shard_to_itself(shards: Shards) -> None:
    tasks = (Task(1), Task(0), Task(2))
    await numbers(shards, 3)
    # Another session holds a row of the home shard: the others must not have been touched meanwhile.
    blocker = await shards.another_link(1)
    await blocker.run("BEGIN; UPDATE n SET k = k WHERE k = 1")
    await shards.everywhere("BEGIN")
    execution = Execution(tasks, Same(home_first=True), writes=True)
    running = asyncio.ensure_future(shards.answer(execution, "UPDATE n SET k = k + 1 RETURNING k"))
    watcher = await shards.another_link(1)
    await server_side(watcher, "EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    assert not shards.links[0].busy
    assert not shards.links[2].busy
    await blocker.run("COMMIT")
    client = await running
    assert sorted(client.rows()) == [[b"1"], [b"2"], [b"3"]]
    assert await shards.values("SELECT sum(k) FROM n") == [[b"6"]] * 3
    await blocker.close()
    await watcher.close()


async def test_home_first_stops_at_an_error_there(shards: Shards) -> None:
    await numbers(shards, 3)
    with pytest.raises(ShardError):
        await shards.answer(
            Execution(ALL, Same(home_first=True), writes=True), "UPDATE n SET k = 1 / (CASE s WHEN 0 THEN 0 ELSE 1 END)"
        )
    assert await shards.values("SELECT sum(k) FROM n") == [[b"3"]] * 3
    # An error on another shard is one as well.
    with pytest.raises(ShardError) as raised:
        await shards.answer(
            Execution(ALL, Same(home_first=True), writes=True), "UPDATE n SET k = 1 / (CASE s WHEN 2 THEN 0 ELSE 1 END)"
        )
    assert raised.value.shard == 2
    shards.check_idle()


async def test_texts_that_follow(shards: Shards) -> None:
    tasks = tuple(
        Task(shard, None, ("ALTER TABLE f ADD CHECK (a > 0)", f"INSERT INTO f VALUES ({shard + 1})"))
        for shard in range(3)
    )
    await shards.answer(Execution(tasks, Same(), writes=True), "CREATE TABLE f (a int)")
    assert await shards.values("SELECT a FROM f") == [[b"1"], [b"2"], [b"3"]]
    bad = (Task(0), Task(1, None, ("SELECT 1 / 0",)), Task(2, None, ("INSERT INTO f VALUES (9)",)))
    with pytest.raises(ShardError) as raised:
        await shards.answer(Execution(bad, Same(), writes=True), "TRUNCATE f")
    assert raised.value.shard == 1
    shards.check_idle()


# --- the fence ---------------------------------------------------------------------------------------------------


async def test_fence_surrounds_the_snapshots(shards: Shards) -> None:
    await numbers(shards, 2)
    writers = [await shards.another_link(shard) for shard in range(3)]

    async def change(sql: str) -> None:
        for writer in writers:
            await writer.run(sql)

    fence = Fence(lambda: change("INSERT INTO n VALUES (100, 0)"), lambda: change("INSERT INTO n VALUES (200, 0)"))
    # Written between Parse and Bind: seen. Written between Bind and Execute: not seen.
    client = await shards.answer(over_all(Concat()), "SELECT k FROM n WHERE k >= 100", fence=fence)
    assert client.rows() == [[b"100"]] * 3
    for writer in writers:
        await writer.close()


@pytest.mark.parametrize("when", ["before_bind", "barrier"])
async def test_nothing_is_executed_when_the_fence_is_lost(shards: Shards, when: str) -> None:
    await numbers(shards, 2)

    async def lost() -> None:
        raise ProxyError("55P03", "the fence was lost")

    with pytest.raises(ProxyError, match="fence was lost"):
        await shards.answer(over_all(SumTags()), "DELETE FROM n", fence=Fence(**{when: lost}))
    shards.check_idle(ord("I"))
    assert await shards.values("SELECT count(*) FROM n") == [[b"2"]] * 3


@pytest.mark.parametrize("text", ["SELECT nothing FROM nowhere", "SELECT 1 / $1::int"])
async def test_errors_inside_the_fence(shards: Shards, text: str) -> None:
    """One at Parse, one at Bind (the constant is folded there)."""

    async def nothing() -> None:
        pass

    with pytest.raises(ShardError):
        await shards.answer(
            over_all(Concat()), Request(text, parameters=(b"0",) if "$" in text else ()), fence=Fence(nothing, nothing)
        )
    shards.check_idle(ord("I"))
