"""Placements that are stored while proxies serve, on real servers, and what a link leaves behind that is lost then."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proxy.shards.control import ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.replacing import replace_placements
from proxy.shards.schema import PlacementMismatch, check, install
from router.change import difference
from router.cluster import Database, Reference, Sharded, TableName
from router.own_schema import guard_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from proxy.shards.control import ControlConnection

T, KINDS, LATER = (TableName("public", name) for name in ("t", "kinds", "later"))
THREE = Database("d", ("s0", "s1", "s2"), 0, {T: Sharded("k"), KINDS: Reference()})
FOUR = replace(THREE, shards=("s0", "s1", "s2", "s3"), spread=(0, 1, 2))
SCHEMA = "CREATE TABLE t (k int8 PRIMARY KEY); CREATE TABLE kinds (id int4 PRIMARY KEY, name text[])"


class LosesHome(ControlLinks):
    """Control links whose one to home is lost before the COMMIT of what it has written."""

    lose = True

    @asynccontextmanager
    async def connection(self, shard: int) -> AsyncIterator[ControlConnection]:
        async with super().connection(shard) as connection:
            if shard == 0:
                self._spoil(connection)
            yield connection

    def _spoil(self, connection: Any) -> None:
        execute = type(connection).execute

        async def spoiled(sql: str) -> str:
            if self.lose and sql == "COMMIT":
                connection.terminate()
            return str(await execute(connection, sql))

        connection.execute = spoiled


def endpoints(dsns: Sequence[str]) -> list[ShardEndpoint]:
    return [ShardEndpoint(f"s{n}", n, dsn) for n, dsn in enumerate(dsns)]


async def ask(control: ControlLinks, shard: int, query: str) -> Any:
    async with control.connection(shard) as connection:
        return await connection.fetchval(query)


@pytest.fixture
async def control(shard_databases: list[str]) -> AsyncIterator[LosesHome]:
    """Three shards with rows, and a fourth with their schema."""
    made = LosesHome(endpoints(shard_databases))
    made.lose = False
    try:
        await install(made, THREE, "test")
        for shard in range(4):
            async with made.connection(shard) as connection:
                await connection.execute(f"SET search_path = public; {SCHEMA}; RESET search_path")
                if shard < 3:
                    await connection.execute(guard_call(THREE, T, "k", shard))
                    await connection.execute("INSERT INTO public.kinds VALUES (1, '{a,b}'), (2, NULL)")
        await install(made, THREE, "test")
        made.lose = True
        yield made
    finally:
        await made.close()


async def reload(control: ControlLinks, after: Database) -> int:
    return await replace_placements(
        control, after, "test", difference(THREE, after).replaced, range(3, len(after.shards))
    )


@pytest.mark.parametrize("after", [FOUR, replace(THREE, placements={**THREE.placements, LATER: Sharded("k")})])
async def test_home_is_told_last_so_what_is_lost_before_is_done_again(control: LosesHome, after: Database) -> None:
    with pytest.raises(ShardError):
        await reload(control, after)
    assert await ask(control, 0, "SELECT epoch FROM pgchorus.epoch") == 1
    assert await ask(control, 1, "SELECT epoch FROM pgchorus.epoch") == 2, "it was lost too early to show anything"
    control.lose = False
    assert await reload(control, after) == 3
    assert await check(control, after, "test") == 3
    assert await reload(control, after) == 3, "nothing is left to be done"


async def test_a_start_with_the_old_file_takes_back_what_home_was_not_told(
    control: LosesHome, shard_databases: list[str]
) -> None:
    with pytest.raises(ShardError):
        await reload(control, FOUR)
    control.lose = False
    three = ControlLinks(endpoints(shard_databases[:3]))
    try:
        assert await install(three, THREE, "test") == 3, "kinds has rows, and they stay where they are"
        with pytest.raises(PlacementMismatch, match="which do not move") as caught:
            await install(control, FOUR, "test")
        assert "joins by RELOAD" in str(caught.value.hint)
        assert await check(three, THREE, "test") == 3
    finally:
        await three.close()
    assert await reload(control, FOUR) == 4


async def test_what_a_shard_gets_that_joins(control: LosesHome) -> None:
    """Copies, also of what is NULL or an array; no numbers of its own; and no row that belongs to others."""
    control.lose = False
    for shard in range(4):
        async with control.connection(shard) as connection:
            await connection.execute("CREATE SEQUENCE public.numbers MAXVALUE 9 CYCLE")
    await reload(control, FOUR)
    copy = "SELECT string_agg(k::text, ' ' ORDER BY id) FROM public.kinds k"
    assert await ask(control, 3, copy) == await ask(control, 0, copy) == '(1,"{a,b}") (2,)'
    with pytest.raises(ShardError) as caught:
        await ask(control, 3, "SELECT nextval('public.numbers')")
    assert caught.value.sqlstate == "2200H"
    for key in ("1", "2", "3", "4"):
        with pytest.raises(ShardError) as caught:
            await ask(control, 3, f"INSERT INTO public.t VALUES ({key}) RETURNING k")
        assert caught.value.sqlstate == "23514"
