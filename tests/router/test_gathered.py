"""How a shard is asked for its parts of several loads, and where each load's columns stand in its rows."""

from __future__ import annotations

import pytest

from router.errors import Refused
from router.gathered import offsets, shard_text
from router.plan import ByKeys, Constant, EveryShard, Execution, Gather, GatherExecution, HomeShard, Load
from router.planner import Planner
from router.resolve import resolve
from router.sharding import slot_of
from shop import shop

CATALOG = shop(3)
ONE = Load(EveryShard(), "pgchorus_1", ("a", "b"), ("int4", "text"), ("int4", "text"), '"t"', '"t" AS "t"')
OTHER = Load(HomeShard(), "pgchorus_2", ("c",), ("int8",), ("int8",), '"u"', '"u" AS "u" WHERE true')


def gather(sql: str) -> Gather:
    (statement,) = Planner(CATALOG.database, CATALOG).plan(sql)
    assert isinstance(statement.plan, Gather), statement.plan
    return statement.plan


def test_one_load_comes_as_it_is() -> None:
    assert shard_text([ONE], [0]) == 'SELECT "t"."a", "t"."b" FROM "t" AS "t"'


def test_several_are_one_select_so_that_they_have_one_snapshot() -> None:
    assert shard_text([ONE, OTHER], [0, 1]) == (
        'SELECT 0::pg_catalog.int2, "t"."a", "t"."b", NULL::int8 FROM "t" AS "t" UNION ALL '
        'SELECT 1::pg_catalog.int2, NULL::int4, NULL::text, "u"."c" FROM "u" AS "u" WHERE true'
    )
    assert "UNION" not in shard_text([ONE, OTHER], [0])
    assert offsets([ONE, OTHER]) == [(0, 2, 1), (2, 1, 0)]


def test_shards_are_asked_for_what_they_have() -> None:
    found = resolve(Gather((ONE, OTHER), "select 1", "cross-shard"), CATALOG.database)
    assert isinstance(found, GatherExecution)
    assert [task.shard for task in found.tasks] == [0, 1, 2]
    assert [(task.text or "").count("UNION ALL") for task in found.tasks] == [1, 0, 0]


def test_where_one_shard_has_all_the_original_text_goes_there() -> None:
    plan = gather(
        "select * from customers c join orders o on o.id = c.id where c.id = 5 and o.customer_id = 5 or 1 = 0"
    )
    assert isinstance(resolve(plan, CATALOG.database), GatherExecution)
    shard = {key: CATALOG.database.shard_of_slot(slot_of("int8", key, 4096)) for key in range(1, 20)}
    first, second = [key for key in shard if shard[key] == shard[1]][:2]
    plan = gather(f"select id from customers where id in ({first}, {second}) union select id from countries limit 3")
    found = resolve(plan, CATALOG.database)
    assert isinstance(found, Execution)
    assert len(found.tasks) == 1
    assert found.tasks[0].text is None


def test_keys_are_those_of_all_places_where_a_table_is_read() -> None:
    plan = gather(
        "with t as (select * from orders) select * from t a, customers c where a.customer_id = 1 and c.id = 2"
    )
    assert {load.target for load in plan.loads} == {
        ByKeys("int8", (Constant(1),)),
        ByKeys("int8", (Constant(2),)),
    }
    plan = gather("with t as (select * from orders where customer_id = 3) select * from t a join t b using (id), "
                  "customers c where c.id = 2")  # fmt: skip
    assert {load.target for load in plan.loads} == {
        ByKeys("int8", (Constant(3),)),
        ByKeys("int8", (Constant(2),)),
    }


def test_too_many_columns() -> None:
    arms = " union all ".join(f"select * from orders where id = {number}" for number in range(200))
    with pytest.raises(Refused) as refused:
        gather(f"{arms} order by 1")
    assert refused.value.refusal == "too-complex"
