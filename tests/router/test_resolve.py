from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.arrays import array_elements
from router.errors import Refused
from router.plan import (
    Aggregate,
    AnyShard,
    ByKeys,
    Concat,
    Constant,
    Ddl,
    EveryShard,
    Execution,
    HomeShard,
    InOrder,
    Ordered,
    Parameter,
    Plan,
    Same,
    Scatter,
    ShardByShard,
    Single,
    SplitInsert,
    Task,
)
from router.plan_control import Setting as SettingKind
from router.plan_control import SettingControl
from router.plan_copy import CopyFormat, CopyIn, CopyInExecution, CopyOut, CopyOutExecution
from router.planner import Planner
from router.resolve import KeyParameter, UnresolvedKey, resolve
from router.sharding import slot_of
from shop import shop

if TYPE_CHECKING:
    import uuid

CATALOG = shop()
DATABASE = CATALOG.database
INT4, INT8, TEXT, VARCHAR, UUID, NUMERIC = 23, 20, 25, 1043, 2950, 1700


def shard_of(key_type: str, value: int | str | bytes | None) -> int:
    return DATABASE.shard_of_slot(slot_of(key_type, value, DATABASE.slots))


def run(plan: Plan, *parameters: KeyParameter) -> Execution:
    found = resolve(plan, DATABASE, parameters)
    assert isinstance(found, Execution)
    return found


def planned(sql: str, *parameters: KeyParameter) -> Execution:
    (statement,) = Planner(DATABASE, CATALOG).plan(sql)
    return run(statement.plan, *parameters)


def binary_array(element: int, *values: bytes | None, dimensions: tuple[int, ...] | None = None) -> bytes:
    lengths = (len(values),) if dimensions is None else dimensions
    header = struct.pack(">iiI", len(lengths), 0, element) + b"".join(struct.pack(">ii", n, 1) for n in lengths)
    return header + b"".join(struct.pack(">i", -1 if v is None else len(v)) + (v or b"") for v in values)


INT8S, TEXTS, EVERYWHERE = 1016, 1009, {0, 1, 2}


@pytest.mark.parametrize(
    ("keys", "array"),
    [
        ([1], KeyParameter(b"{1}", 0, INT8S)),
        ([1, 3], KeyParameter(b"{1,NULL,3}", 0, 0)),
        ([1, 3], KeyParameter(b'{ 1 ,\t"3"}', 0, 0)),
        ([], KeyParameter(b"{}", 0, INT8S)),
        ([], KeyParameter(None, 0, INT8S)),
        ([1, 3], KeyParameter(binary_array(INT8, struct.pack(">q", 1), None, struct.pack(">q", 3)), 1, INT8S)),
        ([1], KeyParameter(binary_array(INT4, *[struct.pack(">i", 1)] * 4, dimensions=(2, 2)), 1, 1007)),
        ([], KeyParameter(binary_array(INT8, dimensions=()), 1, INT8S)),
    ],
)
def test_an_array_of_keys_goes_where_they_are(keys: list[int], array: KeyParameter) -> None:
    found = planned("select * from customers where id = any($1)", array)
    expected = {shard_of("int8", key) for key in keys} or {DATABASE.home}
    assert expected != EVERYWHERE
    assert {task.shard for task in found.tasks} == expected


@pytest.mark.parametrize(
    "array",
    [
        KeyParameter(b"[1:1]={1}", 0, INT8S),
        KeyParameter(b"{{1},{1}}", 0, INT8S),
        KeyParameter(b"{0x1}", 0, INT8S),
        KeyParameter(b"{1", 0, INT8S),
        KeyParameter(b"{1}x", 0, INT8S),
        KeyParameter(b"{1,}", 0, INT8S),
        KeyParameter(b"{" + b",".join([b"1"] * 10_001) + b"}", 0, INT8S),
        KeyParameter(binary_array(INT8, struct.pack(">q", 1))[:-1], 1, INT8S),
        KeyParameter(binary_array(TEXT, b"1"), 1, INT8S),
        KeyParameter(binary_array(INT8, struct.pack(">q", 1), dimensions=(1 << 30,)), 1, INT8S),
        KeyParameter(b"", 1, INT8S),
        KeyParameter(b"{1}", 7, INT8S),
    ],
)
def test_an_array_that_is_not_read_here_goes_everywhere(array: KeyParameter) -> None:
    found = planned("select * from customers where id = any($1)", array)
    assert {task.shard for task in found.tasks} == EVERYWHERE


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=3))
def test_quoted_elements_are_read_as_they_were_meant(words: list[str]) -> None:
    quoted = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words]
    data = ("{" + ",".join(quoted) + "}").encode()
    assert [element for _, element in array_elements(data, 0, TEXTS, "text")] == [word.encode() for word in words]
    binary = binary_array(TEXT, *(word.encode() for word in words))
    assert [element for _, element in array_elements(binary, 1, TEXTS, "text")] == [word.encode() for word in words]


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_literal_and_both_formats_of_a_parameter_find_the_same_shard(key: int) -> None:
    expected = (Task(shard_of("int8", key)),)
    assert planned(f"select * from customers where id = {key}").tasks == expected
    assert planned(f"select * from customers where id = '{key}'").tasks == expected
    text = KeyParameter(str(key).encode(), 0, INT8)
    binary = KeyParameter(struct.pack(">q", key), 1, INT8)
    for parameter in (text, binary, KeyParameter(text.data, 0, 0)):
        assert planned("select * from customers where id = $1", parameter).tasks == expected
    assert planned(f"insert into customers (id) values ({key})").tasks == expected


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30))
def test_text_keys_go_by_their_bytes(key: str) -> None:
    expected = (Task(shard_of("text", key)),)
    quoted = key.replace("'", "''")
    assert planned(f"select * from docs where slug = '{quoted}'").tasks == expected
    for form, oid in ((0, TEXT), (1, TEXT), (0, VARCHAR), (1, VARCHAR), (0, 0)):
        assert planned("select * from docs where slug = $1", KeyParameter(key.encode(), form, oid)).tasks == expected
    if not key.endswith(" "):  # a char(n) that is compared with a text is a text without its blanks
        padded = KeyParameter(key.encode() + b"  ", 1, 1042)
        assert planned("select * from docs where slug = $1", padded).tasks == expected


@given(st.uuids())
def test_uuid_keys_in_both_formats(key: uuid.UUID) -> None:
    expected = (Task(shard_of("uuid", key.bytes)),)
    assert planned(f"select * from events where id = '{key}'").tasks == expected
    assert planned("select * from events where id = $1", KeyParameter(key.bytes, 1, UUID)).tasks == expected
    assert planned("select * from events where id = $1", KeyParameter(str(key).encode(), 0, UUID)).tasks == expected


def test_a_smaller_integer_type_is_read_by_its_own_width() -> None:
    parameter = KeyParameter(struct.pack(">i", -7), 1, INT4)
    assert planned("select * from customers where id = $1", parameter).tasks == (Task(shard_of("int8", -7)),)


def test_null_keys_belong_to_slot_zero() -> None:
    assert planned("insert into customers (id) values ($1)", KeyParameter(None, 0, INT8)).tasks == (Task(0),)
    assert planned("insert into customers (name) values ('x')").tasks == (Task(0),)


@pytest.mark.parametrize(
    "parameter",
    [
        KeyParameter(b" 5", 0, INT8),
        KeyParameter(b"0x10", 0, INT8),
        KeyParameter(b"1_0", 0, 0),
        KeyParameter(b"5", 0, TEXT),
        KeyParameter(b"\0\0\0\5", 1, NUMERIC),
        KeyParameter(b"\0\5", 1, INT8),
        KeyParameter(b"99999999999999999999", 0, INT8),
        KeyParameter(b"\xff", 0, INT8),
    ],
)
def test_what_only_postgres_can_read_is_not_guessed(parameter: KeyParameter) -> None:
    with pytest.raises(UnresolvedKey) as caught:
        planned("select * from customers where id = $1", parameter)
    assert caught.value.parameter == 1
    assert "5" not in str(caught.value).replace("int8", "").replace("type 25", "")


def test_keys_are_looked_at_until_every_shard_is_found() -> None:
    asked: list[int] = []

    def parameter(number: int) -> KeyParameter:
        asked.append(number)
        return KeyParameter(str(number).encode(), 0, 23)

    plan = Scatter(ByKeys("int4", tuple(map(Parameter, range(1, 10_001)))), Concat(), writes=False)
    found = resolve(plan, shop(3).database, parameter)
    assert isinstance(found, Execution)
    assert {task.shard for task in found.tasks} == {0, 1, 2}
    assert asked == list(range(1, len(asked) + 1))
    assert len(asked) < 50


def test_a_parameter_that_was_not_bound() -> None:
    with pytest.raises(UnresolvedKey):
        planned("select * from customers where id = $1")


def test_parameters_may_come_by_a_function() -> None:
    plan = Single(ByKeys("int8", (Parameter(2),)), writes=False)
    found = resolve(plan, DATABASE, lambda number: KeyParameter(str(number).encode(), 0, 0))
    assert isinstance(found, Execution)
    assert found.tasks == (Task(shard_of("int8", 2)),)


def keys_on_distinct_shards() -> list[int]:
    found: dict[int, int] = {}
    for key in range(100):
        found.setdefault(shard_of("int8", key), key)
    return [found[shard] for shard in sorted(found)]


def test_split_rows_keep_their_order_within_a_shard() -> None:
    one, two, _ = keys_on_distinct_shards()
    plan = SplitInsert("int8", "h ", ("(a)", "(b)", "(c)"), " t", (Constant(two), Constant(one), Constant(two)))
    assert run(plan) == Execution((Task(0, "h (b) t"), Task(1, "h (a), (c) t")), InOrder((1, 0, 1)), writes=True)


def test_split_rows_of_one_shard_go_as_they_came() -> None:
    plan = SplitInsert("int8", "h ", ("(a)", "(b)"), "", (Constant(1), Constant(1)))
    assert run(plan).tasks == (Task(shard_of("int8", 1)),)


def test_a_scatter_that_ends_on_one_shard_is_relayed() -> None:
    merged = Scatter(
        ByKeys("int8", (Constant(1), Constant(1))), Ordered((), 1, Constant(3)), writes=False, text="rewritten"
    )
    assert run(merged) == Execution((Task(shard_of("int8", 1)),), Concat(), writes=False)


def test_no_key_at_all_is_answered_by_one_shard() -> None:
    aggregate = Aggregate((), (), 0)
    assert run(Scatter(ByKeys("int8", ()), aggregate, writes=False, text="x")).tasks == (Task(0),)


def test_the_same_statement_runs_on_all_copies_even_if_there_is_one() -> None:
    found = run(Scatter(HomeShard(), Same(home_first=True), writes=True))
    assert found.combine == Same(home_first=True)


def test_limits_come_from_the_text_or_from_parameters() -> None:
    plan = Scatter(EveryShard(), Ordered((), 1, Parameter(1), Parameter(2)), writes=False, text="x")
    found = run(plan, KeyParameter(b"5", 0, 0), KeyParameter(struct.pack(">q", 7), 1, INT8))
    assert (found.limit, found.offset) == (5, 7)
    found = run(plan, KeyParameter(None, 0, 0), KeyParameter(None, 0, 0))
    assert (found.limit, found.offset) == (None, 0)


@pytest.mark.parametrize(("limit", "offset", "sqlstate"), [(-1, 0, "2201W"), (5, -1, "2201X"), (-5, 7, "2201W")])
def test_negative_limits_are_postgres_errors(limit: int, offset: int, sqlstate: str) -> None:
    plan = Scatter(EveryShard(), Ordered((), 1, Constant(limit), Constant(offset)), writes=False, text="x")
    with pytest.raises(Refused) as caught:
        run(plan)
    assert caught.value.sqlstate == sqlstate


def test_a_limit_that_is_no_number_is_postgres_business() -> None:
    plan = Scatter(EveryShard(), Ordered((), 1, Parameter(1)), writes=False, text="x")
    with pytest.raises(UnresolvedKey):
        run(plan, KeyParameter(b"1e3", 0, NUMERIC))


def test_single_needs_a_single_shard() -> None:
    one, two, _ = keys_on_distinct_shards()
    with pytest.raises(UnresolvedKey):
        run(Single(ByKeys("int8", (Constant(one), Constant(two))), writes=False))


def test_the_other_plans() -> None:
    assert run(Single(AnyShard(), writes=False)).tasks == (Task(0),)
    ddl = Ddl(EveryShard(), after=(("a",), ("b",), ("c",)))
    assert run(ddl).tasks == (Task(0, after=("a",)), Task(1, after=("b",)), Task(2, after=("c",)))
    assert run(ShardByShard(EveryShard())).tasks == (Task(0), Task(1), Task(2))
    copy_in = CopyIn(EveryShard(), CopyFormat(), "int8", 0, 2)
    found = resolve(copy_in, DATABASE)
    assert isinstance(found, CopyInExecution)
    assert found.slot_owners == tuple(DATABASE.shard_of_slot(slot) for slot in range(DATABASE.slots))
    assert resolve(CopyOut(HomeShard(), CopyFormat()), DATABASE) == CopyOutExecution(
        (0,), CopyOut(HomeShard(), CopyFormat())
    )
    with pytest.raises(TypeError):
        resolve(SettingControl(SettingKind.SHOW, "x"), DATABASE)
