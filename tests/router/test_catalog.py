"""The closure of placements and effects, on catalogs written by hand."""

from __future__ import annotations

import pytest

from router.builtins import Builtin
from router.catalog import (
    Cast,
    Catalog,
    Column,
    EffectKind,
    ForeignKey,
    Function,
    FunctionName,
    Index,
    IndexColumn,
    Operator,
    Relation,
    RelationKind,
    Rule,
    Runs,
    Trigger,
    Unplaceable,
    UserType,
    Uses,
)
from router.cluster import Database, Home, Placement, Reference, Sharded, TableName, Vouch

PATH = ("public",)


def table(name: str) -> TableName:
    return TableName("public", name)


def function(name: str) -> FunctionName:
    return FunctionName("public", name)


def reads(*names: str) -> Uses:
    return Uses(reads=frozenset(table(name) for name in names))


def writes(*names: str) -> Uses:
    return Uses(writes=frozenset(table(name) for name in names))


def calls(*names: str) -> Uses:
    return Uses(functions=frozenset(function(name) for name in names))


def builtin(name: str) -> Uses:
    return Uses(functions=frozenset({FunctionName("pg_catalog", name)}))


KEY = Column("k", "int8")
ORDERS = Relation(table("orders"), columns=(KEY, Column("v", "text")))
ITEMS = Relation(table("items"), columns=(KEY, Column("n", "int4")))
COUNTRIES = Relation(table("countries"), columns=(Column("code", "text"),))
NOTES = Relation(table("notes"), columns=(Column("id", "int4"),))
PLACEMENTS: dict[TableName, Placement] = {
    table("orders"): Sharded("k"),
    table("items"): Sharded("k"),
    table("countries"): Reference(),
}


def catalog(  # noqa: PLR0913 - as many as a catalog has parts
    *relations: Relation,
    functions: tuple[Function, ...] = (),
    placements: dict[TableName, Placement] | None = None,
    vouched: dict[str, Vouch] | None = None,
    shards: int = 3,
    operators: tuple[Operator, ...] = (),
    casts: tuple[Cast, ...] = (),
    types: tuple[UserType, ...] = (),
) -> Catalog:
    names = {relation.name for relation in relations}
    defaults = tuple(one for one in (ORDERS, ITEMS, COUNTRIES, NOTES) if one.name not in names)
    database = Database(
        "db", tuple(f"s{n}" for n in range(shards)), 0, {**PLACEMENTS, **(placements or {})}, vouched or {}
    )
    return Catalog(database, (*defaults, *relations), functions, operators, casts, types)


def reason(answer: Placement | Unplaceable | None) -> str:
    assert isinstance(answer, Unplaceable)
    return answer.reason


# --- C1: what is not named in the configuration ------------------------------------------------------------------


def test_c1_a_plain_table_that_nobody_placed_is_home() -> None:
    assert catalog().effective_placement(NOTES) == Home()
    assert catalog().effective_placement(table("unheard_of")) == Home()


def test_c1_a_partition_goes_with_its_parent() -> None:
    child = Relation(table("orders_2024"), columns=(KEY,), parents=(table("orders"),), partition=True)
    grandchild = Relation(table("orders_2024_1"), columns=(KEY,), parents=(child.name,), partition=True)
    made = catalog(child, grandchild)
    assert made.effective_placement(child) == made.effective_placement(grandchild) == Sharded("k")


def test_c1_an_inheritance_child_placed_otherwise_makes_the_family_unplaceable() -> None:
    parent = Relation(table("parent"), columns=(KEY,), children=(table("child"),))
    child = Relation(table("child"), columns=(KEY,), parents=(parent.name,))
    made = catalog(parent, child, placements={child.name: Sharded("k")})
    assert "otherwise" in reason(made.effective_placement(parent))
    assert "otherwise" in reason(made.effective_placement(child))


def test_c1_two_parents_of_different_placement() -> None:
    child = Relation(table("both"), columns=(KEY,), parents=(table("notes"), table("orders")))
    assert "otherwise" in reason(catalog(child).effective_placement(child))


def test_c1_a_view_over_a_sharded_table_is_not_home() -> None:
    view = Relation(table("v"), RelationKind.VIEW, read_uses=reads("orders"))
    above = Relation(table("vv"), RelationKind.VIEW, read_uses=reads("v", "notes"))
    made = catalog(view, above)
    assert "public.orders" in reason(made.effective_placement(view))
    assert "public.orders" in reason(made.effective_placement(above))


def test_c1_a_materialized_view_has_rows_of_its_own_at_home() -> None:
    stored = Relation(table("stored"), RelationKind.MATERIALIZED, read_uses=reads("orders"))
    above = Relation(table("above"), RelationKind.VIEW, read_uses=reads("stored", "notes"))
    made = catalog(stored, above)
    assert made.effective_placement(stored) == made.effective_placement(above) == Home()
    assert made.access_problem(stored, write=False) is None


def test_c1_a_view_over_a_partition_of_a_sharded_table_is_not_home() -> None:
    child = Relation(table("orders_2024"), columns=(KEY,), parents=(table("orders"),), partition=True)
    view = Relation(table("v"), RelationKind.VIEW, read_uses=reads("orders_2024"))
    assert "orders_2024" in reason(catalog(child, view).effective_placement(view))


def test_c1_a_view_over_home_and_reference_tables_is_read_at_home() -> None:
    view = Relation(table("v"), RelationKind.VIEW, read_uses=reads("notes", "countries"))
    made = catalog(view)
    assert made.effective_placement(view) == Home()
    assert made.access_problem(view, write=False) is None


def test_c1_writing_a_reference_table_through_a_view_would_reach_one_copy() -> None:
    view = Relation(table("v"), RelationKind.VIEW, read_uses=reads("countries"))
    assert "public.countries" in reason(catalog(view).access_problem(view, write=True))


def test_c1_a_view_that_calls_a_function_over_a_sharded_table() -> None:
    view = Relation(table("v"), RelationKind.VIEW, read_uses=calls("total"))
    made = catalog(view, functions=(Function(function("total"), reads("orders")),))
    assert "public.orders" in reason(made.effective_placement(view))


def test_c1_views_that_reach_themselves_end() -> None:
    view = Relation(table("v"), RelationKind.VIEW, read_uses=reads("v") | calls("loop"))
    made = catalog(view, functions=(Function(function("loop"), calls("loop") | reads("v")),))
    assert made.effective_placement(view) == Home()


def test_c1_a_rule_that_writes_a_sharded_table() -> None:
    ruled = Relation(table("ruled"), rules=(Rule("r", "insert", uses=writes("orders")),))
    made = catalog(ruled)
    assert "public.orders" in reason(made.access_problem(ruled, write=True))
    assert made.access_problem(ruled, write=False) is None


def test_the_configuration_may_place_tables_only() -> None:
    view = Relation(table("v"), RelationKind.VIEW)
    made = catalog(view, placements={table("v"): Reference()})
    assert "not a table" in reason(made.effective_placement(view))


@pytest.mark.parametrize(
    ("column", "word"),
    [
        (Column("other", "int8"), "no column"),
        (Column("k", "numeric"), "numeric"),
        (Column("k", "bytea"), "bytea"),
        (Column("k", "bpchar", deterministic=False), "nondeterministic"),
        (Column("k", "mine", type_schema="public"), "mine"),
        (Column("k", "int8", type_schema="public"), "int8"),
        (Column("k", "text", deterministic=False), "nondeterministic"),
        (Column("k", "int8", generated="s"), "generated"),
    ],
)
def test_what_cannot_be_a_sharding_key(column: Column, word: str) -> None:
    assert word in reason(catalog(Relation(table("orders"), columns=(column,))).effective_placement(table("orders")))


# --- C2: functions, triggers, defaults, policies, casts, operators -----------------------------------------------


def test_c2_a_function_that_reads_a_sharded_table_through_another() -> None:
    made = catalog(
        functions=(Function(function("outer"), calls("inner")), Function(function("inner"), reads("orders")))
    )
    effect = made.function_effect(("outer",), PATH)
    assert effect.kind is EffectKind.TOUCHES
    assert effect.runs is Runs.NOWHERE
    assert effect.reaches_sharded == {table("orders")}
    assert not effect.writes


def test_c2_a_function_that_writes_a_home_table_with_a_trigger_on_a_sharded_one() -> None:
    noted = Relation(table("notes"), triggers=(Trigger("t", frozenset({"insert"}), uses=calls("audit")),))
    functions = (Function(function("f"), writes("notes")), Function(function("audit"), writes("orders")))
    effect = catalog(noted, functions=functions).function_effect(("f",), PATH)
    assert effect.runs is Runs.NOWHERE
    assert effect.reaches_sharded == {table("orders")}


@pytest.mark.parametrize(
    ("uses", "kind", "runs", "writing"),
    [
        (Uses(), EffectKind.CLOSED, Runs.ANYWHERE, False),
        (reads("countries"), EffectKind.TOUCHES, Runs.ANYWHERE, False),
        (reads("notes"), EffectKind.TOUCHES, Runs.HOME, False),
        (writes("notes"), EffectKind.TOUCHES, Runs.HOME, True),
        (writes("countries"), EffectKind.TOUCHES, Runs.NOWHERE, True),
        (Uses(unknown="runs dynamic SQL"), EffectKind.UNKNOWN, Runs.NOWHERE, True),
        (builtin("random"), EffectKind.CLOSED, Runs.ANYWHERE, False),
        (builtin("nextval"), EffectKind.CLOSED, Runs.HOME, True),
        (builtin("query_to_xml"), EffectKind.UNKNOWN, Runs.NOWHERE, False),
        (
            reads("pg_class") | Uses(reads=frozenset({TableName("pg_catalog", "pg_class")})),
            EffectKind.CLOSED,
            Runs.HOME,
            False,
        ),
    ],
)
def test_c2_where_a_function_may_run(uses: Uses, kind: EffectKind, runs: Runs, *, writing: bool) -> None:
    uses = Uses(frozenset(t for t in uses.reads if t != table("pg_class")), uses.writes, uses.functions, uses.unknown)
    effect = catalog(functions=(Function(function("f"), uses),)).function_effect(("f",), PATH)
    assert (effect.kind, effect.runs, effect.writes) == (kind, runs, writing)
    assert effect.volatile


@pytest.mark.parametrize(
    ("vouch", "runs"), [(Vouch.PURE, Runs.ANYWHERE), (Vouch.HOME, Runs.HOME), (Vouch.LOCAL, Runs.LOCAL)]
)
@pytest.mark.parametrize("name", ["f", "public.f"])
def test_c2_the_configuration_vouches(vouch: Vouch, runs: Runs, name: str) -> None:
    functions = (Function(function("f"), Uses(unknown="is written in C")),)
    effect = catalog(functions=functions, vouched={name: vouch}).function_effect(("f",), PATH)
    assert effect.runs is runs
    assert effect.writes  # nobody said that it does not


def test_c2_a_vouch_without_schema_is_for_public_only() -> None:
    hidden = Function(FunctionName("other", "f"), Uses(unknown="is written in C"))
    effect = catalog(functions=(hidden,), vouched={"f": Vouch.PURE}).function_effect(("other", "f"), PATH)
    assert effect.runs is Runs.NOWHERE


def test_c2_vouched_functions_that_cannot_run_in_one_place() -> None:
    functions = (
        Function(function("both"), calls("here", "there")),
        Function(function("here"), Uses(unknown="x")),
        Function(function("there"), Uses(unknown="x")),
    )
    vouched = {"here": Vouch.HOME, "there": Vouch.LOCAL}
    assert catalog(functions=functions, vouched=vouched).function_effect(("both",), PATH).runs is Runs.NOWHERE


def test_c2_overloads_are_taken_together_unless_the_argument_count_tells() -> None:
    functions = (
        Function(function("f"), Uses(), arguments=(1, 1)),
        Function(function("f"), reads("orders"), arguments=(2, 3)),
    )
    made = catalog(functions=functions)
    assert made.function_effect(("f",), PATH).runs is Runs.NOWHERE
    assert made.function_effect(("f",), PATH, 1).runs is Runs.NOWHERE
    assert made.function_effect(("f",), PATH, 4).runs is Runs.ANYWHERE
    assert made.function_effect(("f",), PATH, 3).runs is Runs.NOWHERE


def test_c2_a_user_function_beside_a_built_in_one_of_that_name() -> None:
    made = catalog(functions=(Function(function("lower"), reads("orders")),))
    assert made.function_effect(("lower",), PATH).runs is Runs.NOWHERE
    assert made.function_effect(("lower",), ("elsewhere",)).runs is Runs.ANYWHERE
    assert made.function_effect(("pg_catalog", "lower"), PATH).runs is Runs.ANYWHERE


TRIGGERED = Trigger("t", frozenset({"insert"}), uses=calls("audit"))


@pytest.mark.parametrize(
    ("relation", "uses", "word"),
    [
        (ORDERS, writes("notes"), "home shard only"),
        (ORDERS, writes("items"), "sharded table public.items"),
        (ORDERS, reads("orders"), "sharded table public.orders"),
        (ORDERS, writes("countries"), "one copy"),
        (ORDERS, Uses(unknown="runs dynamic SQL"), "dynamic SQL"),
        (ORDERS, builtin("nextval"), "nextval"),
        (NOTES, writes("orders"), "sharded table public.orders"),
        (COUNTRIES, writes("notes"), "home shard only"),
        (COUNTRIES, builtin("random"), "another value on each copy"),
        (COUNTRIES, builtin("now"), "another value on each copy"),
    ],
)
def test_c2_triggers_that_reach_elsewhere(relation: Relation, uses: Uses, word: str) -> None:
    triggered = Relation(relation.name, columns=relation.columns, triggers=(TRIGGERED,))
    made = catalog(triggered, functions=(Function(function("audit"), uses),))
    assert word in reason(made.access_problem(triggered, write=True))
    assert made.access_problem(triggered, write=False) is None


@pytest.mark.parametrize(
    ("relation", "uses"),
    [
        (ORDERS, Uses()),
        (ORDERS, reads("countries")),
        (ORDERS, builtin("random")),
        (ORDERS, builtin("now")),
        (NOTES, writes("notes")),
        (NOTES, builtin("nextval")),
        (COUNTRIES, builtin("lower")),
    ],
)
def test_c2_triggers_that_stay_where_they_are(relation: Relation, uses: Uses) -> None:
    triggered = Relation(relation.name, columns=relation.columns, triggers=(TRIGGERED,))
    made = catalog(triggered, functions=(Function(function("audit"), uses),))
    assert made.access_problem(triggered, write=True) is None


def test_c2_one_shard_has_all_tables_beside_each_other() -> None:
    triggered = Relation(table("countries"), columns=COUNTRIES.columns, triggers=(TRIGGERED,))
    made = catalog(triggered, functions=(Function(function("audit"), writes("notes")),), shards=1)
    assert made.access_problem(triggered, write=True) is None


def test_c2_defaults_count_only_where_they_may_be_computed() -> None:
    sequence = table("orders_id_seq")
    number = Column("id", "int8", uses=Uses(reads=frozenset({sequence})) | builtin("nextval"), sequence=sequence)
    orders = Relation(table("orders"), columns=(KEY, number))
    made = catalog(orders, Relation(sequence, RelationKind.SEQUENCE))
    assert "orders_id_seq" in reason(made.access_problem(orders, write=True))
    assert "orders_id_seq" in reason(made.access_problem(orders, write=True, defaults={"id"}))
    assert made.access_problem(orders, write=True, defaults=()) is None


def test_c2_policies_and_checks() -> None:
    secured = Relation(table("notes"), row_security=True, read_uses=reads("orders"))
    checked = Relation(table("items"), columns=ITEMS.columns, write_uses=calls("known"))
    made = catalog(secured, checked, functions=(Function(function("known"), reads("orders")),))
    assert "public.orders" in reason(made.access_problem(secured, write=False))
    assert made.access_problem(checked, write=False) is None
    assert "public.orders" in reason(made.access_problem(checked, write=True))


def test_c2_what_a_cascade_sets_off() -> None:
    key = ForeignKey("f", ("k",), table("orders"), ("k",), on_delete="c")
    orders = Relation(table("orders"), columns=ORDERS.columns, referenced_by=((table("items"), key),))
    quiet = Relation(table("items"), columns=ITEMS.columns, foreign_keys=(key,))
    loud = Relation(table("items"), columns=ITEMS.columns, foreign_keys=(key,), triggers=(TRIGGERED,))
    functions = (Function(function("audit"), writes("notes")),)
    assert catalog(orders, quiet, functions=functions).access_problem(orders, write=True) is None
    assert "items sets off" in reason(catalog(orders, loud, functions=functions).access_problem(orders, write=True))


def test_a_cascade_reaches_a_table_by_its_own_key_and_computes_no_default_but_its_own() -> None:
    key = ForeignKey("f", ("owner",), table("orders"), ("k",), on_delete="c")
    orders = Relation(table("orders"), columns=ORDERS.columns, referenced_by=((table("items"), key),))
    columns = (Column("owner", "int8"), Column("n", "int4", default="nextval('s')", uses=builtin("nextval")))
    placements: dict[TableName, Placement] = {table("items"): Sharded("owner")}
    items = Relation(table("items"), columns=columns, foreign_keys=(key,))
    assert catalog(orders, items, placements=placements).access_problem(orders, write=True, defaults=()) is None
    setting = ForeignKey("f", ("owner", "n"), table("orders"), ("k", "v"), on_delete="d")
    orders = Relation(table("orders"), columns=ORDERS.columns, referenced_by=((table("items"), setting),))
    items = Relation(table("items"), columns=columns, foreign_keys=(setting,))
    made = catalog(orders, items, placements=placements)
    assert "items sets off" in reason(made.access_problem(orders, write=True, defaults=()))


def test_c2_operators_and_casts_run_functions() -> None:
    bad = Function(function("bad"), reads("orders"))
    made = catalog(functions=(bad,), operators=(Operator("public", "===", function=function("bad")),))
    assert made.operator_effect("===", PATH).runs is Runs.NOWHERE
    assert made.operator_effect("===", ("other",)).runs is Runs.ANYWHERE
    assert made.operator_effect("===", ("other",), schema="public").runs is Runs.NOWHERE
    explicit = catalog(functions=(bad,), casts=(Cast("int4", "mood", "e", function("bad")),))
    assert explicit.type_effect(("mood",), PATH).runs is Runs.NOWHERE
    assert explicit.access_problem(NOTES, write=False) is None
    implicit = catalog(functions=(bad,), casts=(Cast("int4", "mood", "i", function("bad")),))
    assert "implicit cast" in reason(implicit.access_problem(NOTES, write=False))


def test_c2_a_field_may_be_a_call() -> None:
    made = catalog(functions=(Function(function("computed"), reads("orders"), arguments=(1, 1), row_argument=True),))
    assert made.field_effect("computed").runs is Runs.NOWHERE
    assert made.field_effect("v").runs is Runs.ANYWHERE


def test_c2_a_domain_whose_check_reads_a_sharded_table() -> None:
    made = catalog(
        functions=(Function(function("known"), reads("orders")),),
        types=(UserType("public", "posint", 1, "d", 23, calls("known")),),
    )
    assert made.type_effect(("posint",), PATH).runs is Runs.NOWHERE
    assert made.function_effect(("posint",), PATH).runs is Runs.NOWHERE
    assert made.type_effect(("int4",), PATH).runs is Runs.ANYWHERE


@pytest.mark.parametrize(
    ("name", "arguments", "runs", "writing"),
    [
        ("lower", 1, Runs.ANYWHERE, False),
        ("now", 0, Runs.ANYWHERE, False),
        ("random", 0, Runs.ANYWHERE, False),
        ("ts_rewrite", 2, Runs.NOWHERE, False),
        ("ts_rewrite", 3, Runs.ANYWHERE, False),
        ("table_to_xml", 4, Runs.NOWHERE, False),
        ("ts_stat", 1, Runs.NOWHERE, False),
        ("pg_export_snapshot", 0, Runs.NOWHERE, True),
        ("nextval", 1, Runs.HOME, True),
        ("currval", 1, Runs.HOME, False),
        ("lo_create", 1, Runs.HOME, True),
        ("pg_notify", 2, Runs.HOME, True),
        ("txid_current", 0, Runs.HOME, True),
        ("pg_advisory_xact_lock", 1, Runs.HOME, True),
        ("pg_advisory_lock", 1, Runs.HOME, False),
        ("pg_relation_size", 1, Runs.HOME, False),
        ("current_setting", 1, Runs.ANYWHERE, False),
        ("set_config", 3, Runs.HOME, False),
    ],
)
def test_c2_built_ins_have_lists(name: str, arguments: int, runs: Runs, *, writing: bool) -> None:
    effect = Catalog.empty().function_effect((name,), PATH, arguments)
    assert (effect.runs, effect.writes) == (runs, writing)
    assert bool(effect.reason) == (runs is not Runs.ANYWHERE)


def test_built_ins_that_mark_the_link() -> None:
    empty = Catalog.empty()
    assert empty.function_effect(("pg_notify",), PATH).must_commit == "NOTIFY"
    assert empty.function_effect(("pg_advisory_lock",), PATH).pins
    assert not empty.function_effect(("pg_advisory_unlock",), PATH).pins
    assert empty.function_effect(("set_config",), PATH).sets
    assert empty.function_effect(("currval",), PATH).session_state
    assert empty.function_effect(("now",), PATH).clock
    assert empty.function_effect(("sum",), PATH).aggregate
    assert empty.function_effect(("row_number",), PATH).window
    assert empty.function_effect(("generate_series",), PATH).returns_set


# --- C8, C9: equality, and who can enforce it ----------------------------------------------------------------------


def test_c8_a_user_operator_anywhere_in_the_path_shadows_the_built_in_one() -> None:
    made = catalog(operators=(Operator("s", "="),))
    assert not made.operator_shadowed("=", ("public",))
    assert made.operator_shadowed("=", ("public", "s"))
    assert made.operator_shadowed("=", ("pg_catalog", "s"))
    assert not made.operator_shadowed("<", ("s",))
    assert made.operator_shadowed("=", ("public",), schema="s")
    assert not made.operator_shadowed("=", ("s",), schema="pg_catalog")


@pytest.mark.parametrize(
    ("columns", "enforceable"),
    [
        ((IndexColumn("k"),), True),
        ((IndexColumn("v"), IndexColumn("k")), True),
        ((IndexColumn("v"),), False),
        ((IndexColumn(None), IndexColumn("v")), False),
        ((IndexColumn("k", own_collation=False),), False),
        ((IndexColumn("k", default_opclass=False),), False),
        ((IndexColumn("k", equality=False), IndexColumn("v")), False),
    ],
)
def test_c9_unique_means_unique_by_the_routes_own_equality(
    columns: tuple[IndexColumn, ...], *, enforceable: bool
) -> None:
    index = Index("u", columns)
    assert (catalog().unique_problem(index, Sharded("k")) is None) == enforceable
    assert catalog().unique_problem(index, Reference()) is None
    assert catalog(shards=1).unique_problem(index, Sharded("k")) is None


TEXT_KEYED = Relation(table("texts"), columns=(Column("k", "text"),))


@pytest.mark.parametrize(
    ("owner", "target", "columns", "enforceable"),
    [
        ("items", "orders", ("k",), True),
        ("items", "orders", ("n",), False),
        ("items", "texts", ("k",), False),
        ("items", "countries", ("n",), True),
        ("items", "notes", ("n",), False),
        ("countries", "orders", ("code",), False),
        ("countries", "notes", ("code",), False),
        ("notes", "orders", ("id",), False),
        ("notes", "countries", ("id",), True),
        ("notes", "notes", ("id",), True),
    ],
)
def test_foreign_keys_that_a_shard_can_enforce(
    owner: str, target: str, columns: tuple[str, ...], *, enforceable: bool
) -> None:
    made = catalog(TEXT_KEYED, placements={table("texts"): Sharded("k")})
    referenced = {"orders": "k", "texts": "k", "countries": "code", "notes": "id"}[target]
    key = ForeignKey("f", columns, table(target), (referenced,))
    placement = made.effective_placement(table(owner))
    assert not isinstance(placement, Unplaceable)
    assert (made.foreign_key_problem(table(owner), placement, key) is None) == enforceable


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_resolve_along_the_search_path() -> None:
    other = Relation(TableName("other", "orders"))
    made = catalog(other)
    assert made.resolve(("orders",), ("public", "other")) == ORDERS
    assert made.resolve(("orders",), ("other", "public")) == other
    assert made.resolve(("other", "orders"), PATH) == other
    assert made.resolve(("db", "other", "orders"), PATH) == other
    assert made.resolve(("elsewhere", "other", "orders"), PATH) is None
    assert made.resolve(("nothing",), PATH) is None
    assert made.resolve(("nowhere", "orders"), PATH) is None


def test_pg_catalog_comes_first_unless_it_is_named() -> None:
    mine = Relation(table("pg_class"))
    made = catalog(mine)
    found = made.resolve(("pg_class",), PATH)
    assert found is not None
    assert found.name.schema == "pg_catalog"
    assert made.resolve(("pg_class",), ("public", "pg_catalog")) == mine


def test_temporary_relations_come_before_everything() -> None:
    temporary = Relation(TableName("pg_temp", "orders"))
    made = catalog().overlaid([temporary])
    assert made.resolve(("orders",), PATH) == temporary
    assert made.resolve(("public", "orders"), PATH) == ORDERS
    assert made.effective_placement(temporary) == Home()


def test_a_server_list_of_built_ins_is_believed() -> None:
    made = Catalog(
        builtin_functions={"lower": Builtin("i")}, system_relations=frozenset({TableName("pg_catalog", "pg_x")})
    )
    assert made.function_effect(("lower",), PATH).found
    assert not made.function_effect(("upper",), PATH).found
    assert made.relation("pg_catalog", "pg_x") is not None
    assert made.relation("pg_catalog", "pg_class") is None
