"""Values that are each server's own, where the function alone does not tell: settings, and the numbers of objects.

Decides, by one node of a statement, whether what it computes is another value on each shard. What names a server's
state by itself (``pg_backend_pid()``, ``to_regclass()``) is in the lists of :mod:`router.builtins`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from router.builtins import names
from router.effect import NO_EFFECT, Runs
from router.tree import constant, items, strings, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from router.effect import FunctionEffect
    from router.relation import Column, Relation
    from router.tree import Node

OBJECT_TYPES: Final = frozenset(
    {"regclass", "regtype", "regproc", "regprocedure", "regoper", "regoperator", "regnamespace", "regrole",
     "regcollation", "regconfig", "regdictionary", "regdatabase"}
)  # fmt: skip
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "name", "cstring", "json", "jsonb"})
#: They take an object, or a row of any types, for its name, or look it up, and give its number to nobody; all else may
#: count with it. Postgres prints what it has stored with the casts: ``to_tsvector('english'::regconfig, body)``.
_BY_NAME: Final = names(
    """
    format concat concat_ws quote_literal quote_nullable to_json to_jsonb pg_typeof count
    to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_headline json_to_tsvector
    jsonb_to_tsvector ts_lexize ts_debug unaccent tsvector_update_trigger
    nextval currval setval pg_get_serial_sequence satisfies_hash_partition format_type
    has_any_column_privilege has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege
    has_function_privilege has_language_privilege has_parameter_privilege has_schema_privilege
    has_sequence_privilege has_server_privilege has_table_privilege has_tablespace_privilege has_type_privilege
    pg_has_role row_security_active col_description obj_description shobj_description
    pg_collation_is_visible pg_function_is_visible pg_operator_is_visible pg_table_is_visible
    pg_ts_config_is_visible pg_ts_dict_is_visible pg_type_is_visible
    pg_column_is_updatable pg_relation_is_updatable pg_relation_is_publishable pg_index_has_property
    pg_index_column_has_property pg_indexes_size pg_relation_size pg_table_size pg_total_relation_size
    """
)

# Settings that a session may make, and every link of it gets (PostgreSQL 18: pg_settings.context is user or superuser),
# and what all shards that are written have in common. The others are each server's own.
_CLIENTS: Final = names(
    """
    allow_in_place_tablespaces allow_system_table_mods application_name array_nulls backend_flush_after
    backslash_quote backtrace_functions bytea_output check_function_bodies client_connection_check_interval
    client_encoding client_min_messages commit_delay commit_siblings compute_query_id constraint_exclusion
    cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost createrole_self_grant cursor_tuple_fraction datestyle
    deadlock_timeout debug_discard_caches debug_logical_replication_streaming debug_parallel_query
    debug_pretty_print debug_print_parse debug_print_plan debug_print_rewritten default_statistics_target
    default_table_access_method default_tablespace default_text_search_config default_toast_compression
    default_transaction_deferrable default_transaction_isolation default_transaction_read_only
    dynamic_library_path effective_cache_size effective_io_concurrency enable_async_append enable_bitmapscan
    enable_distinct_reordering enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin
    enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize
    enable_mergejoin enable_nestloop enable_parallel_append enable_parallel_hash enable_partition_pruning
    enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate
    enable_self_join_elimination enable_seqscan enable_sort enable_tidscan escape_string_warning event_triggers
    exit_on_error extension_control_path extra_float_digits file_copy_method from_collapse_limit geqo
    geqo_effort geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold
    gin_fuzzy_search_limit gin_pending_list_limit hash_mem_multiplier icu_validation_level
    idle_in_transaction_session_timeout idle_session_timeout ignore_checksum_failure in_hot_standby
    integer_datetimes intervalstyle io_combine_limit is_superuser jit jit_above_cost jit_dump_bitcode
    jit_expressions jit_inline_above_cost jit_optimize_above_cost jit_tuple_deforming join_collapse_limit
    lc_messages lc_monetary lc_numeric lc_time lo_compat_privileges local_preload_libraries lock_timeout
    log_duration log_error_verbosity log_executor_stats log_lock_failures log_lock_waits log_min_duration_sample
    log_min_duration_statement log_min_error_statement log_min_messages log_parameter_max_length
    log_parameter_max_length_on_error log_parser_stats log_planner_stats log_replication_commands log_statement
    log_statement_sample_rate log_statement_stats log_temp_files log_transaction_sample_rate
    logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem max_parallel_maintenance_workers
    max_parallel_workers max_parallel_workers_per_gather max_stack_depth md5_password_warnings
    min_parallel_index_scan_size min_parallel_table_scan_size output_plugin_libraries
    parallel_leader_participation parallel_setup_cost parallel_tuple_cost password_encryption plan_cache_mode
    quote_all_identifiers random_page_cost recursive_worktable_factor restrict_nonsystem_relation_kind
    row_security scram_iterations search_path seq_page_cost server_encoding server_version server_version_num
    session_preload_libraries session_replication_role standard_conforming_strings statement_timeout
    stats_fetch_consistency synchronize_seqscans synchronous_commit tcp_keepalives_count tcp_keepalives_idle
    tcp_keepalives_interval tcp_user_timeout temp_buffers temp_file_limit temp_tablespaces timezone
    timezone_abbreviations trace_notify trace_sort track_activities track_cost_delay_timing track_counts
    track_functions track_io_timing track_wal_io_timing transaction_deferrable transaction_isolation
    transaction_read_only transaction_timeout transform_null_equals update_process_title
    vacuum_buffer_usage_limit vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit
    vacuum_cost_page_miss vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age
    vacuum_max_eager_freeze_failure_rate vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age
    vacuum_multixact_freeze_table_age vacuum_truncate wal_compression wal_consistency_checking wal_init_zero
    wal_recycle wal_sender_timeout wal_skip_threshold work_mem xmlbinary xmloption zero_damaged_pages
    """
)
_TRANSACTIONS: Final = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})


_NUMBER: Final = "the number of an object is each server's own"
_EQUALITY: Final = frozenset({"=", "<>"})
_COMPARING: Final = frozenset({"AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_OP_ALL", "AEXPR_IN", "AEXPR_DISTINCT",
                               "AEXPR_NOT_DISTINCT", "AEXPR_NULLIF"})  # fmt: skip
_TO_TEXT: Final = "||"


def of_one_server(kind: str, body: Node) -> FunctionEffect:
    """Return the effect of a node of which only the home shard may tell the value; no effect for all others."""
    if kind == "FuncCall":
        reason = _call(strings(body.get("funcname"))[-1:], body.get("args", ()))
    elif kind == "A_Expr":
        reason = _NUMBER if _counts_with_object(body) else ""
    elif kind in {"CoalesceExpr", "MinMaxExpr"}:
        arguments = body.get("args", ())
        objects = sum(is_object(argument) for argument in arguments)
        reason = _NUMBER if objects and (kind == "MinMaxExpr" or not _alike(arguments)) else ""
    else:
        kept = strings(body["typeName"].get("names"))[-1:]
        number = kept and kept[0] not in _TEXTS and kept[0] not in OBJECT_TYPES and is_object(body["arg"])
        reason = _NUMBER if number else ""
    return replace(NO_EFFECT, runs=Runs.HOME, if_audited=Runs.HOME, reason=reason) if reason else NO_EFFECT


def _call(name: tuple[str, ...], arguments: Any) -> str:
    if name == ("current_setting",):
        setting = _setting(arguments)
        if setting is None or (setting not in _CLIENTS and "." not in setting):
            return "a setting may be each server's own"
        return ""
    by_name = not name or name[0] in _BY_NAME or name[0].startswith("pg_get_")
    if not by_name and any("FuncCall" not in argument and is_object(argument) for argument in arguments):
        return _NUMBER
    return ""


def _counts_with_object(body: Node) -> bool:
    """Whether an operator turns an object into its number: it is none of text, nor an equality among objects."""
    sides = [body.get("lexpr"), body.get("rexpr")]
    operands = [operand for side in sides if side is not None for operand in _elements(side)]
    if not any(is_object(operand) for operand in operands):
        return False
    symbol = strings(body.get("name"))[-1:]
    if symbol == (_TO_TEXT,):
        return False
    same = body.get("kind", "AEXPR_OP") in _COMPARING and symbol and symbol[0] in _EQUALITY
    return not (same and _alike(operands))


def stores_number(
    body: Node, nodes: Iterable[tuple[str, Node]], relation: Relation | None, sources: Sequence[Relation] = ()
) -> FunctionEffect:
    """Return the effect of a change of a sharded table whose columns take objects for their numbers.

    ``nodes``: all of its body. ``sources``: what the statement reads. What a subquery or WITH hands on may end up in
    any column.
    """
    read = [*sources, relation] if relation is not None else sources
    objects = frozenset(column.name for source in read for column in source.columns if holds_object(column))
    taken = any(_takes_number(relation, name, value, objects) for name, value in _assigned(body, relation, sources))
    if taken or any(is_object(value) or _names_one(value, objects) for value in _handed_on(body, nodes)):
        return replace(NO_EFFECT, runs=Runs.NOWHERE, if_audited=Runs.NOWHERE, reason=_NUMBER)
    return NO_EFFECT


def holds_object(column: Column) -> bool:
    """Whether a column holds objects of a server."""
    return column.type_name.removeprefix("_") in OBJECT_TYPES


def _names_one(value: Node, objects: frozenset[str]) -> bool:
    """Whether an expression has a column of such a name in it, whatever becomes of it there; all of a row has."""
    if not objects:
        return False
    columns = (strings(body["fields"])[-1:] for kind, body in walk(value) if kind == "ColumnRef")
    return any(column[0] == "*" or column[0] in objects for column in columns if column)


def keeps_name(column: Column) -> bool:
    """Whether a column keeps an object as what it is, or as its name."""
    return column.type_name.removeprefix("_") in OBJECT_TYPES | _TEXTS


def _takes_number(relation: Relation | None, name: str, value: Node, objects: frozenset[str]) -> bool:
    if relation is None or not (is_object(value) or _names_one(value, objects)):
        return False
    column = relation.column(name)
    return column is not None and not keeps_name(column)


def _assigned(body: Node, relation: Relation | None, sources: Sequence[Relation]) -> Iterator[tuple[str, Node]]:
    """Yield the columns that a statement writes by name, with the values."""
    clauses = [clause["MergeWhenClause"] for clause in body.get("mergeWhenClauses", ())]
    own = [column.name for column in relation.columns] if relation is not None else []
    targets = [*body.get("targetList", ()), *items(body.get("onConflictClause", {}).get("targetList"))]
    for clause in clauses:
        if "values" in clause:
            named = [target["ResTarget"]["name"] for target in clause.get("targetList", ())]
            yield from zip(named or own, clause["values"], strict=False)
        else:
            targets += clause.get("targetList", ())
    for target in targets:
        value: Node = target["ResTarget"].get("val", {})
        yield target["ResTarget"].get("name", ""), value.get("MultiAssignRef", {}).get("source", value)
    names = [column["ResTarget"]["name"] for column in body["cols"]] if "cols" in body else own
    for query in _arms(body):
        for row in query.get("valuesLists", ()):
            yield from zip(names, items(row), strict=False)
        selected = [target["ResTarget"].get("val", {}) for target in query.get("targetList", ())]
        alone = len(sources) == 1 and [*map(list, query.get("fromClause", ()))] == [["RangeVar"]]
        if alone and [_is_star(value) for value in selected] == [True]:
            selected = [{"ColumnRef": {"fields": [{"String": {"sval": each.name}}]}} for each in sources[0].columns]
        elif any(_is_star(value) for value in selected):  # which columns stand where is not known here
            selected = [value for value in selected if _is_star(value)] * len(names)
        yield from zip(names, selected, strict=False)


def _is_star(value: Node) -> bool:
    return strings(value.get("ColumnRef", {}).get("fields"))[-1:] == ("*",)


def _arms(body: Node) -> list[Node]:
    """Return the query of an INSERT, or the parts of its UNION."""
    found, todo = [], [body.get("selectStmt", {}).get("SelectStmt", {})]
    while todo:
        query = todo.pop()
        found.append(query)
        todo += [query[side] for side in ("larg", "rarg") if side in query]
    return found


def _handed_on(body: Node, nodes: Iterable[tuple[str, Node]]) -> Iterator[Node]:
    """Yield what queries inside a statement give to what is around them."""
    own = [id(query) for query in _arms(body)]
    for kind, query in nodes:
        if kind == "SelectStmt" and id(query) not in own:
            yield from (target["ResTarget"].get("val", {}) for target in query.get("targetList", ()))
            yield from (value for row in query.get("valuesLists", ()) for value in items(row))


def _elements(side: Node) -> list[Node]:
    """Return what is compared: the elements of a list or array, or the value itself."""
    if isinstance(side, list):
        return side
    while "TypeCast" in side and "A_ArrayExpr" in side["TypeCast"]["arg"]:
        side = side["TypeCast"]["arg"]
    if "List" in side:
        return items(side)
    if "A_ArrayExpr" in side:
        elements: list[Node] = side["A_ArrayExpr"].get("elements", [])
        return elements
    return [side]


def _alike(values: Sequence[Node]) -> bool:
    """Whether all values are objects, or become objects beside one: names as constants, and ``tableoid``."""
    for value in values:
        literal = constant(value)
        column = strings(value.get("ColumnRef", {}).get("fields"))[-1:]
        becomes = literal is not None and literal[0] in {"string", "null"}
        if not (is_object(value) or becomes or column == ("tableoid",)):
            return False
    return True


def _setting(arguments: Any) -> str | None:
    name = arguments[0] if arguments else {}
    while "TypeCast" in name:  # as Postgres prints what it has stored: current_setting('app.tenant'::text, true)
        name = name["TypeCast"]["arg"]
    literal = constant(name)
    return literal[1].lower() if literal is not None and isinstance(literal[1], str) else None


def is_object(node: Node) -> bool:
    """Whether a value is an object of a server, a number that is printed as a name; or a row or list with one."""
    if len(node) != 1:
        return False
    ((kind, body),) = node.items()
    if kind == "FuncCall":
        return strings(body.get("funcname"))[-1:] == ("pg_typeof",)
    if kind == "TypeCast":
        return names_object(body)
    return any(is_object(value) for value in _taken_from(kind, body))


def _taken_from(kind: str, body: Node) -> list[Node]:
    """Return the expressions one of which is the value of this one, or a part of it."""
    found: list[Node] = []
    if kind == "CaseExpr":
        found = [when["CaseWhen"].get("result", {}) for when in body.get("args", ())]
        found.append(body.get("defresult", {}))
    elif kind in {"CoalesceExpr", "MinMaxExpr", "RowExpr"}:
        found += body.get("args", ())
    elif kind == "A_ArrayExpr":
        found += body.get("elements", ())
    elif kind == "A_Indirection":
        found.append(body.get("arg", {}))
    elif kind == "A_Expr" and body.get("kind") == "AEXPR_NULLIF":
        found.append(body.get("lexpr", {}))
    elif kind == "SubLink" and body.get("subLinkType") in {"EXPR_SUBLINK", "ARRAY_SUBLINK"}:
        query = body.get("subselect", {}).get("SelectStmt", {})
        found += [target["ResTarget"].get("val", {}) for target in query.get("targetList", ())]
    return found


def names_object(cast: Node) -> bool:
    """Whether a TypeCast makes an object of a server."""
    return bool(OBJECT_TYPES.intersection(strings(cast["typeName"].get("names"))[-1:]))


def counts_objects(kind: str, body: Node) -> bool:
    """Whether a node of PL/pgSQL's tree holds an object's number, which any assignment may turn into one.

    A variable of such a type (in those for text search nobody looks for a number), and a diagnostic of that name.
    """
    if kind == "PLpgSQL_diag_item":
        return bool(body.get("kind") == "PG_ROUTINE_OID")
    if kind != "PLpgSQL_var" or "promise" in body:
        return False
    name = body.get("datatype", {}).get("PLpgSQL_type", {}).get("typname", "").lower().rpartition(".")[2]
    return name.strip("_").removesuffix("[]") in OBJECT_TYPES - {"regconfig", "regdictionary"} | {"oid"}


def of_one_link(name: str, arguments: Any) -> bool:
    """Whether a call tells of the link that it runs on: of its transaction, or its temporary schema."""
    if name == "current_setting":
        setting = _setting(arguments)
        return setting is None or setting in _TRANSACTIONS
    return name == "current_schemas" and (not arguments or constant(arguments[0]) != ("boolean", False))
