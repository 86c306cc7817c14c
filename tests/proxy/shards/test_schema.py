"""The schema pgchorus on real servers: installing, refusing to differ, and the CHECK on slots."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventually import eventually
from proxy.shards.control import ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.schema import (
    PlacementMismatch,
    catalog_bump_sql,
    catalog_version,
    check,
    ensure_slot_checks,
    install,
    install_on,
)
from router.cluster import Database, Placement, Reference, Sharded, TableName
from router.own_schema import guard_call
from router.sharding import slot_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.conftest import MakeDatabases

SHARDS = 3
CLUSTER = "test"
WAITS = """
    SELECT pid FROM pg_locks WHERE NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def table(name: str) -> TableName:
    return TableName("public", name)


def database(
    placements: dict[TableName, Placement] | None = None, *, shards: int = SHARDS, slots: int = 4096
) -> Database:
    names = tuple(f"s{n}" for n in range(shards))
    return Database("d", names, 0, {table("t"): Sharded("k")} if placements is None else placements, slots=slots)


@asynccontextmanager
async def control_of(dsns: Sequence[str]) -> AsyncIterator[ControlLinks]:
    control = ControlLinks([ShardEndpoint(f"s{n}", n, dsn) for n, dsn in enumerate(dsns)])
    try:
        yield control
    finally:
        await control.close()


@pytest.fixture
def shard_databases(make_databases: MakeDatabases) -> list[str]:
    """As many as these tests use."""
    return make_databases(SHARDS)


@pytest.fixture
async def control(shard_databases: list[str]) -> AsyncIterator[ControlLinks]:
    async with control_of(shard_databases) as made:
        yield made


async def everywhere(control: ControlLinks, *statements: str) -> None:
    for shard in range(len(control)):
        await on(control, shard, *statements)


async def on(control: ControlLinks, shard: int, *statements: str) -> None:
    async with control.connection(shard) as connection:
        await connection.execute("SET search_path = public")
        for statement in statements:
            await connection.execute(statement)
        await connection.execute("RESET search_path")


async def value(control: ControlLinks, shard: int, query: str) -> object:
    async with control.connection(shard) as connection:
        return await connection.fetchval(query)


# --- install and check -----------------------------------------------------------------------------------------------


async def test_install_then_check_agree_on_the_epoch(control: ControlLinks) -> None:
    wanted = database({table("t"): Sharded("k"), table("r"): Reference()})
    with pytest.raises(PlacementMismatch, match="no pgchorus schema"):
        await check(control, wanted, CLUSTER)
    epoch = await install(control, wanted, CLUSTER)
    assert await check(control, wanted, CLUSTER) == epoch == 1
    for shard in range(SHARDS):
        async with control.connection(shard) as connection:
            rows = await connection.fetch("SELECT table_name, kind, key, slots FROM pgchorus.placement ORDER BY 1")
            assert [tuple(row) for row in rows] == [("r", "reference", None, None), ("t", "sharded", "k", 4096)]
            meta = await connection.fetch("SELECT cluster, shard, shard_index, shards, home FROM pgchorus.meta")
            assert [tuple(row) for row in meta] == [(CLUSTER, f"s{shard}", shard, ["s0", "s1", "s2"], "s0")]
            assert await connection.fetchval("SELECT epoch FROM pgchorus.epoch") == 1


async def test_install_again_changes_nothing(control: ControlLinks) -> None:
    await install(control, database(), CLUSTER)
    await everywhere(
        control,
        "CREATE TABLE t (k bigint PRIMARY KEY)",
        "INSERT INTO pgchorus.decision (gid, outcome) VALUES ('g', 'abort')",
    )
    assert await install(control, database(), CLUSTER) == 1
    assert await value(control, 1, "SELECT count(*) FROM pgchorus.decision") == 1


async def test_two_installations_at_once(shard_databases: list[str]) -> None:

    async with control_of(shard_databases) as one, control_of(shard_databases) as other:
        epochs = await asyncio.gather(install(one, database(), CLUSTER), install(other, database(), CLUSTER))
        assert epochs == [1, 1]
        assert await check(one, database(), CLUSTER) == 1


async def test_c11_a_new_placement_is_a_new_epoch(control: ControlLinks) -> None:
    await install(control, database(), CLUSTER)
    more = database({table("t"): Sharded("k"), table("new"): Sharded("k")})
    with pytest.raises(PlacementMismatch, match=r"public\.new is not placed"):
        await check(control, more, CLUSTER)
    assert await install(control, more, CLUSTER) == 2
    assert await check(control, more, CLUSTER) == 2
    with pytest.raises(PlacementMismatch, match=r"in the configuration not placed"):
        await check(control, database(), CLUSTER)


CHANGES = {
    "key": database({table("t"): Sharded("other")}),
    "kind": database({table("t"): Reference()}),
    "gone": database({}),
    "slots": database(slots=64),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_c11_rows_do_not_move_by_themselves(control: ControlLinks, change: str) -> None:
    await install(control, database(), CLUSTER)
    await everywhere(control, "CREATE TABLE t (k bigint PRIMARY KEY, other bigint)")
    await on(control, 2, "INSERT INTO t VALUES (1, 1)")
    with pytest.raises(PlacementMismatch, match=r"has rows on shard s2"):
        await install(control, CHANGES[change], CLUSTER)
    assert await check(control, database(), CLUSTER) == 1
    await on(control, 2, "TRUNCATE t")
    assert await install(control, CHANGES[change], CLUSTER) == 2
    assert await check(control, CHANGES[change], CLUSTER) == 2


async def test_c11_a_longer_list_of_shards_needs_empty_tables(shard_databases: list[str]) -> None:
    async with control_of(shard_databases[:2]) as two:
        await install(two, database(shards=2), CLUSTER)
        await everywhere(two, "CREATE TABLE t (k bigint PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    async with control_of(shard_databases) as three:
        await on(three, 2, "CREATE TABLE t (k bigint PRIMARY KEY)")
        with pytest.raises(PlacementMismatch, match="has rows"):
            await install(three, database(shards=3), CLUSTER)
        await everywhere(three, "TRUNCATE t")
        assert await install(three, database(shards=3), CLUSTER) == 2
    async with control_of(shard_databases[:2]) as two:
        with pytest.raises(PlacementMismatch, match="shards"):
            await check(two, database(shards=2), CLUSTER)


async def test_an_interrupted_installation_is_seen_and_finished(control: ControlLinks) -> None:
    await install(control, database(), CLUSTER)
    await on(control, 1, "UPDATE pgchorus.epoch SET epoch = 5", "DELETE FROM pgchorus.placement")
    with pytest.raises(PlacementMismatch, match="different epochs: s0 1, s1 5, s2 1"):
        await check(control, database(), CLUSTER)
    assert await install(control, database(), CLUSTER) == 6
    assert await check(control, database(), CLUSTER) == 6


async def test_another_clusters_shards_are_never_taken(control: ControlLinks) -> None:
    await install(control, database(), CLUSTER)
    for attempt in (check, install):
        with pytest.raises(PlacementMismatch, match="belongs to cluster test, not mine"):
            await attempt(control, database(), "mine")


async def test_mixed_up_dsns_are_seen(shard_databases: list[str]) -> None:
    async with control_of(shard_databases) as control:
        await install(control, database(), CLUSTER)
    swapped = [shard_databases[1], shard_databases[0], shard_databases[2]]
    async with control_of(swapped) as control:
        for attempt in (check, install):
            with pytest.raises(PlacementMismatch, match="shard s0 says that it is s1"):
                await attempt(control, database(), CLUSTER)


async def test_one_database_cannot_be_two_shards(shard_databases: list[str]) -> None:
    async with control_of([shard_databases[0], shard_databases[1], shard_databases[0]]) as control:
        with pytest.raises(PlacementMismatch, match="s0 and s2 are the same database"):
            await install(control, database(), CLUSTER)


@pytest.mark.parametrize(
    ("statements", "shards", "word"),
    [
        (["CREATE TABLE t (k bigint)"], [0], "missing on shard s1, s2"),
        (["CREATE TABLE t (k numeric)"], [0, 1, 2], "of type numeric"),
        (["CREATE TABLE t (other int)"], [0, 1, 2], "the key k of public.t is missing"),
        (["CREATE VIEW t AS SELECT 1 AS k"], [0, 1, 2], "not a table"),
    ],
)
async def test_tables_that_do_not_fit_their_placement(
    control: ControlLinks, statements: list[str], shards: list[int], word: str
) -> None:
    for shard in shards:
        await on(control, shard, *statements)
    with pytest.raises(PlacementMismatch) as caught:
        await install(control, database(), CLUSTER)
    assert word in str(caught.value)


async def test_key_types_that_differ_between_shards(control: ControlLinks) -> None:
    await everywhere(control, "CREATE TABLE t (k bigint)")
    await on(control, 1, "DROP TABLE t", "CREATE TABLE t (k text)")
    with pytest.raises(PlacementMismatch, match="not of one type"):
        await install(control, database(), CLUSTER)


async def test_quoted_names(control: ControlLinks) -> None:
    name = TableName("public", """we"ird' \\ %s""")
    await everywhere(control, """CREATE TABLE public."we""ird' \\ %s" ("k%""2" text PRIMARY KEY)""")
    wanted = database({name: Sharded('k%"2')})
    await install(control, wanted, CLUSTER)
    assert await check(control, wanted, CLUSTER) == 1
    await ensure_slot_checks(control, wanted)
    await ensure_slot_checks(control, wanted)
    assert await value(control, 0, "SELECT count(*) FROM pg_constraint WHERE conname = 'pgchorus_slot'") == 1


async def test_clients_cannot_write_what_is_kept(control: ControlLinks) -> None:
    await install(control, database(), CLUSTER)
    await on(control, 0, "DROP ROLE IF EXISTS catalog_client", "CREATE ROLE catalog_client")
    try:
        for statement in (
            "UPDATE pgchorus.meta SET slots = 1",
            "DELETE FROM pgchorus.placement",
            "UPDATE pgchorus.epoch SET epoch = 2",
            "DELETE FROM pgchorus.catalog_change",
        ):
            with pytest.raises(ShardError, match="permission denied"):
                await on(control, 0, f"SET ROLE catalog_client; {statement}")
    finally:
        await on(control, 0, "RESET ROLE; DROP ROLE catalog_client")


# --- the CHECK on slots -------------------------------------------------------------------------------------------


async def accepted(control: ControlLinks, shard: int, target: str, keys: Sequence[object]) -> list[object]:
    found = []
    for key in keys:
        text = "NULL" if key is None else f"'{key}'"
        try:
            await on(control, shard, f"INSERT INTO {target} (k) VALUES ({text})")
            found.append(key)
        except ShardError as error:
            assert error.fields.sqlstate == "23514"  # noqa: PT017 - which of the two is what is tested
    return found


@pytest.mark.parametrize(
    ("key_type", "keys"),
    [
        ("int", list(range(-10, 10))),
        ("bigint", [2**40 + n for n in range(10)]),
        ("smallint", list(range(12))),
        ("text", ["", *"abcdefghij", "é" * 40]),
        ("varchar(10)", list("klmnopq")),
        ("uuid", [f"00000000-0000-0000-0000-{n:012d}" for n in range(12)]),
    ],
)
async def test_c11_no_shard_takes_a_row_of_another(control: ControlLinks, key_type: str, keys: list[object]) -> None:
    wanted = database()
    await install(control, wanted, CLUSTER)
    kind = {"int": "int4", "bigint": "int8", "smallint": "int2", "varchar(10)": "varchar"}.get(key_type, key_type)
    for shard in range(SHARDS):
        await on(control, shard, f"CREATE TABLE t (k {key_type})", guard_call(wanted, table("t"), "k", shard))
    for shard in range(SHARDS):
        taken = await accepted(control, shard, "t", [*keys, None])
        values = {key: bytes.fromhex(str(key).replace("-", "")) if kind == "uuid" else key for key in keys}
        expected = [key for key in keys if wanted.shard_of_slot(slot_of(kind, values[key], 4096)) == shard]  # type: ignore[arg-type]
        assert taken == [*expected, *([None] if shard == 0 else [])]


async def test_partitions_and_children_inherit_the_check(control: ControlLinks) -> None:
    wanted = database()
    await install(control, wanted, CLUSTER)
    for shard in range(SHARDS):
        await on(
            control,
            shard,
            "CREATE TABLE t (k int, d int) PARTITION BY RANGE (d)",
            guard_call(wanted, table("t"), "k", shard),
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
            "ALTER TABLE t ALTER d SET DEFAULT 1",
            "ALTER TABLE t_1 ALTER d SET DEFAULT 1",
        )
    for target in ("t", "t_1"):
        everything = [await accepted(control, shard, target, range(20)) for shard in range(SHARDS)]
        assert sorted(key for keys in everything for key in keys) == list(range(20))  # type: ignore[type-var]
        assert min(len(keys) for keys in everything) > 0


async def test_a_partition_may_be_named_or_not_while_it_is_one(control: ControlLinks) -> None:
    """Its rows are where its parent's are, in any case; a table by itself has to keep its name."""
    above = database()
    named = database({table("t"): Sharded("k"), table("t_1"): Sharded("k")})
    await install(control, above, CLUSTER)
    for shard in range(SHARDS):
        await on(
            control,
            shard,
            "CREATE TABLE t (k int, d int) PARTITION BY RANGE (d)",
            guard_call(above, table("t"), "k", shard),
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        )
        for key in range(20):
            with suppress(ShardError):  # of another shard
                await on(control, shard, f"INSERT INTO t VALUES ({key}, 1)")
    for wanted in (named, above, named):
        await install(control, wanted, CLUSTER)
    for other in (Sharded("d"), Reference()):
        with pytest.raises(PlacementMismatch, match=r"t_1 has rows on shard"):
            await install(control, database({table("t"): Sharded("k"), table("t_1"): other}), CLUSTER)
    for shard in range(SHARDS):
        await on(control, shard, "ALTER TABLE t DETACH PARTITION t_1")
    await install(control, named, CLUSTER)
    with pytest.raises(PlacementMismatch, match=r"t_1 has rows on shard"):
        await install(control, above, CLUSTER)


async def test_existing_tables_get_their_check_once(control: ControlLinks) -> None:
    wanted = database({table("t"): Sharded("k"), table("gone"): Sharded("k"), table("r"): Reference()})
    await everywhere(control, "CREATE TABLE t (k text PRIMARY KEY)", "CREATE TABLE r (k int)")
    await install(control, wanted, CLUSTER)
    await ensure_slot_checks(control, wanted)
    query = "SELECT string_agg(oid::text || convalidated, ',') FROM pg_constraint WHERE conname = 'pgchorus_slot'"
    first = await value(control, 1, query)
    await ensure_slot_checks(control, wanted)
    assert await value(control, 1, query) == first
    assert str(first).endswith("true")
    assert await value(control, 1, "SELECT count(*) FROM pg_constraint WHERE conname = 'pgchorus_slot'") == 1


async def test_a_check_for_other_slots_is_renewed(control: ControlLinks) -> None:
    await everywhere(control, "CREATE TABLE t (k int)")
    await install(control, database(), CLUSTER)
    await ensure_slot_checks(control, database())
    before = await accepted(control, 1, "t", range(40))
    await everywhere(control, "TRUNCATE t")
    await install(control, database(slots=8), CLUSTER)
    await ensure_slot_checks(control, database(slots=8))
    after = await accepted(control, 1, "t", range(40))
    eight = database(slots=8)
    assert after == [key for key in range(40) if eight.shard_of_slot(slot_of("int4", key, 8)) == 1]
    assert after != before


async def test_misplaced_rows_are_counted_and_no_more_come(control: ControlLinks) -> None:
    wanted = database()
    await everywhere(control, "CREATE TABLE t (k int)")
    await install(control, wanted, CLUSTER)
    await on(control, 1, "INSERT INTO t SELECT generate_series(1, 100)")
    misplaced = sum(wanted.shard_of_slot(slot_of("int4", key, 4096)) != 1 for key in range(1, 101))
    with pytest.raises(
        PlacementMismatch, match=rf"^.*: {misplaced} rows of public\.t on shard s1 belong to other shards$"
    ):
        await ensure_slot_checks(control, wanted)
    strangers = [key for key in range(200, 230) if wanted.shard_of_slot(slot_of("int4", key, 4096)) != 1]
    assert await accepted(control, 1, "t", strangers) == []
    await on(control, 1, "TRUNCATE t")
    await ensure_slot_checks(control, wanted)


@pytest.mark.parametrize("column", ["k numeric", "k name", "other int", "k int GENERATED ALWAYS AS (1) STORED"])
async def test_a_table_that_cannot_be_sharded_is_refused_when_it_is_made(control: ControlLinks, column: str) -> None:
    wanted = database()
    await install(control, wanted, CLUSTER)
    statement = guard_call(wanted, table("t"), "k", 0)
    with pytest.raises(ShardError, match='cannot be sharded by "k"') as caught:
        await on(control, 0, f"BEGIN; CREATE TABLE t ({column}); {statement}; COMMIT")
    assert caught.value.fields.sqlstate == "0A000"


async def test_one_shard_needs_no_check(single_dsn: str) -> None:
    wanted = database(shards=1)
    async with control_of([single_dsn]) as control:
        await on(control, 0, "CREATE TABLE t (k int)")
        await install(control, wanted, CLUSTER)
        await ensure_slot_checks(control, wanted)
        assert await value(control, 0, "SELECT count(*) FROM pg_constraint WHERE conname = 'pgchorus_slot'") == 0


# --- versions of the catalog ---------------------------------------------------------------------------------------


async def test_the_version_follows_committed_ddl_only(shard_databases: list[str]) -> None:
    async with control_of(shard_databases) as control:
        await install(control, database(), CLUSTER)
        clients = [await asyncpg.connect(shard_databases[0]) for _ in range(2)]
        try:
            async with control.connection(0) as connection:
                assert await catalog_version(connection) == 0
                for client in clients:  # two at once: neither waits for the other
                    await client.execute(f"BEGIN; SET LOCAL lock_timeout = '1s'; {catalog_bump_sql()}")
                assert await catalog_version(connection) == 0
                await clients[0].execute("PREPARE TRANSACTION 'ddl'")
                await clients[1].execute("ROLLBACK")
                assert await catalog_version(connection) == 0
                await clients[0].execute("COMMIT PREPARED 'ddl'")
                assert await catalog_version(connection) == 1
        finally:
            for client in clients:
                await client.close()


@pytest.mark.parametrize(
    ("statement", "noticed"),
    [
        ("CREATE TABLE fresh (a int)", True),
        ("ALTER TABLE old ADD COLUMN b int", True),
        ("DROP TABLE old", True),
        ("CREATE VIEW v AS SELECT 1", True),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", True),
        ("CREATE INDEX ON old (a)", True),
        ("CREATE SCHEMA s", True),
        ("CREATE TEMP TABLE mine (a serial)", False),
        ("DROP TABLE pg_temp.scratch", False),
        ("GRANT SELECT ON old TO PUBLIC", False),
        ("COMMENT ON TABLE old IS 'x'", False),
        ("INSERT INTO old VALUES (1)", False),
        ("BEGIN; CREATE TABLE fresh (a int); ROLLBACK", False),
    ],
)
async def test_ddl_behind_the_proxies_back_is_noticed(
    make_databases: MakeDatabases, statement: str, *, noticed: bool
) -> None:
    """On the home shard, where the version is."""
    home = make_databases(1)
    client = await asyncpg.connect(home[0])
    try:
        await client.execute("CREATE TABLE old (a int)")
        async with control_of(home) as control:
            await install(control, database(shards=1), CLUSTER)
            await client.execute("CREATE TEMP TABLE scratch (a int)")
            async with control.connection(0) as connection:
                assert await catalog_version(connection) == 0
                await client.execute(statement)
                assert (await catalog_version(connection) > 0) == noticed
            await install(control, database(shards=1), CLUSTER)
            async with control.connection(0) as connection:
                assert (await catalog_version(connection) > 0) == noticed
    finally:
        await client.close()


async def test_any_role_can_announce_its_ddl(control: ControlLinks) -> None:
    await install(control, database(), CLUSTER)
    await on(control, 0, "DROP ROLE IF EXISTS catalog_ddl", "CREATE ROLE catalog_ddl")
    try:
        await on(control, 0, f"SET ROLE catalog_ddl; SET search_path = nowhere; {catalog_bump_sql()}")
    finally:
        await on(control, 0, "RESET ROLE; DROP ROLE catalog_ddl")
    async with control.connection(0) as connection:
        assert await catalog_version(connection) == 1


@pytest.mark.parametrize("ending", ["cancelled", "terminated"])
async def test_an_installation_that_is_broken_off_says_by_what(
    shard_databases: list[str], control: ControlLinks, ending: str
) -> None:
    """Nothing is asked of a link that is gone: what that says would come in place of the reason."""
    await install(control, database(), CLUSTER)
    holder = await asyncpg.connect(shard_databases[0])
    try:
        await holder.execute("BEGIN; LOCK TABLE pgchorus.placement IN ACCESS EXCLUSIVE MODE")
        installing = asyncio.ensure_future(install_on(control, 0))
        await eventually(lambda: holder.fetch(WAITS))
        (waiting,) = await holder.fetch(WAITS)
        if ending == "cancelled":
            installing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await installing
        else:
            await holder.execute("SELECT pg_terminate_backend($1)", waiting["pid"])
            with pytest.raises(ShardError) as caught:
                await installing
            assert caught.value.sqlstate == "57P01"
    finally:
        await holder.close()
