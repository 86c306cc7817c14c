"""CREATE TABLE, ALTER TABLE, CREATE INDEX: what a table's definition may say over several shards.

Decides where a table lives and refuses what no shard could enforce: uniqueness without the key, foreign keys to rows
elsewhere. A sharded table gets a CHECK of its own on each shard: its rows' slots belong to that shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router import sharding
from router.cluster import Home, Placement, Reference, Sharded, TableName
from router.keys import family
from router.own_schema import told
from router.plan import Ddl, EveryShard, HomeShard, ShardByShard, Statement, Target
from router.planner import added_values, copies, partitioning
from router.planner.passthrough import is_temporary, tag_of
from router.tree import Node, items, name_parts, strings

if TYPE_CHECKING:
    from router.planner.context import Context

SLOT_CONSTRAINT: Final = "pgchorus_slot"
_SERIAL: Final = {
    "serial": "int4",
    "serial4": "int4",
    "bigserial": "int8",
    "serial8": "int8",
    "smallserial": "int2",
    "serial2": "int2",
}
_KEEPS: Final = frozenset("acr")  # NO ACTION, CASCADE, RESTRICT: no action of these sets a key
_COLLATIONS: Final = frozenset({"C", "POSIX", "default", "ucs_basic", "pg_c_utf8", "unicode", "pg_unicode_fast"})


class Definition:
    """A table as far as a statement and the catalog tell: its name, placement, and the types of its columns."""

    def __init__(self, name: TableName, placement: Placement, types: dict[str, str], primary: tuple[str, ...]) -> None:
        self.name = name
        self.placement = placement
        self.types = types
        self.primary = primary


# --- CREATE TABLE ----------------------------------------------------------------------------------------------------


def create(context: Context) -> Statement:
    """CREATE TABLE."""
    body, range_var = context.body, context.body["relation"]
    if is_temporary(range_var):
        check_temporary(context, range_var)
        after = _without_slots(context, range_var)
        return _ddl(context, HomeShard(), after=after, pins="temporary table", must_commit="temporary table")
    name = TableName(*creation_name(context, range_var))
    parents = [item["RangeVar"] for item in body.get("inhRelations", ())]
    placement = _placement_of_new(context, name, parents, range_var)
    definition = Definition(name, placement, _types(context, body), _primary(body))
    _check_columns(context, body, definition)
    if isinstance(placement, Home):
        return _ddl(context, HomeShard(), after=_without_slots(context, range_var))
    partitioning.check(context, name)
    after = _without_slots(context, range_var)
    if isinstance(placement, Sharded):
        after = slot_checks(context, definition, range_var) if not parents else ()
    if _has_sequences(body):
        after = copies.spent_sequences(context, [name], after)
    return _ddl(context, EveryShard(), after=after)


_LIKE_CONSTRAINTS: Final = 1 << 2  # CREATE_TABLE_LIKE_CONSTRAINTS


def _without_slots(context: Context, range_var: Node) -> tuple[tuple[str, ...], ...]:
    """Return what takes the CHECK of slots from a table that is not sharded, and made LIKE one that is."""
    for element in context.body.get("tableElts", ()):
        like = element.get("TableLikeClause", {})
        relation = context.relation(like["relation"]) if like.get("options", 0) & _LIKE_CONSTRAINTS else None
        if relation is not None and any(name == SLOT_CONSTRAINT for name, _ in relation.checks):
            table = copies.quoted(*copies.range_name(range_var))
            text = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {SLOT_CONSTRAINT}"
            return ((text,),) * len(context.database.shards)
    return ()


def _has_sequences(body: Node) -> bool:
    for element in body.get("tableElts", ()):
        column = element.get("ColumnDef", {})
        names = strings(column.get("typeName", {}).get("names"))
        kinds = {item["Constraint"].get("contype") for item in column.get("constraints", ())}
        if "TableLikeClause" in element or "CONSTR_IDENTITY" in kinds or (names and names[-1] in _SERIAL):
            return True
    return False


def _ddl(context: Context, target: Target, *, after: tuple[tuple[str, ...], ...] = (), **flags: str) -> Statement:
    return context.statement(Ddl(target, after=after), tag_of(context.parsed), **flags)


def creation_name(context: Context, range_var: Node) -> tuple[str, str]:
    """Return schema and name of what a statement creates."""
    schema = range_var.get("schemaname")
    if schema is None:
        known = [name for name in context.search_path if name in context.catalog.schemas]
        schema = known[0] if known else (context.search_path or ("public",))[0]
    return schema, range_var["relname"]


def check_temporary(context: Context, range_var: Node, new_name: str = "") -> None:
    """Refuse a temporary relation (or its new name) that hides a lasting one, wherever that is.

    Routes of the name would mean the wrong table, and what is read at home for other shards is read by its whole name.
    """
    hidden = context.catalog.hidden_by(new_name or range_var["relname"])
    if hidden is not None:
        raise context.refuse("temporary-hides", range_var.get("location"), table=hidden)


def _placement_of_new(context: Context, name: TableName, parents: list[Node], range_var: Node) -> Placement:
    placement = context.database.placement(name)
    for parent in parents:
        above = context.placement(context.relation(parent), parent.get("location"))
        if isinstance(placement, Home) or parent is parents[0]:
            if name in context.database.placements and above != placement:
                raise context.refuse("parent-placement", parent.get("location"), table=name)
            placement = above
        elif above != placement:
            raise context.refuse("parent-placement", parent.get("location"), table=name)
    if "ofTypename" in context.body and isinstance(placement, Sharded):
        raise context.refuse("table-of-type", range_var.get("location"))
    return placement


def _types(context: Context, body: Node) -> dict[str, str]:
    """Return the types of a new table's columns: written, copied by LIKE, or inherited."""
    found: dict[str, str] = {}
    sources = [
        element["TableLikeClause"]["relation"] for element in body.get("tableElts", ()) if "TableLikeClause" in element
    ]
    sources += [item["RangeVar"] for item in body.get("inhRelations", ())]
    for range_var in sources:
        relation = context.relation(range_var)
        found.update({c.name: c.type_name for c in relation.columns} if relation is not None else {})
    for element in body.get("tableElts", ()):
        column = element.get("ColumnDef")
        if column is not None and "typeName" in column:
            found[column["colname"]] = type_name(column["typeName"])
    return found


def type_name(node: Node) -> str:
    """Return the name of a type of pg_catalog, '' for all that may be another."""
    names = strings(node.get("names"))
    if node.get("arrayBounds") or node.get("pct_type") or (len(names) > 1 and names[0] != "pg_catalog"):
        return ""
    return _SERIAL.get(names[-1], names[-1]) if names else ""


def _primary(body: Node) -> tuple[str, ...]:
    for element in body.get("tableElts", ()):
        constraint = element.get("Constraint", {})
        if constraint.get("contype") == "CONSTR_PRIMARY":
            return strings(constraint.get("keys"))
        column = element.get("ColumnDef", {})
        if any(item["Constraint"].get("contype") == "CONSTR_PRIMARY" for item in column.get("constraints", ())):
            return (column["colname"],)
    return ()


def _check_columns(context: Context, body: Node, definition: Definition) -> None:
    placement = definition.placement
    if isinstance(placement, Sharded):
        if placement.key not in definition.types:
            raise context.refuse(
                "key-missing", body["relation"].get("location"), key=placement.key, table=definition.name
            )
        if definition.types[placement.key] not in sharding.KEY_TYPES:
            raise context.refuse("key-type", body["relation"].get("location"), key=placement.key, table=definition.name)
    for element in body.get("tableElts", ()):
        if "ColumnDef" in element:
            check_column(context, element["ColumnDef"], definition)
        elif "Constraint" in element:
            check_constraint(context, element["Constraint"], definition)
        elif "TableLikeClause" in element and isinstance(placement, Sharded):
            _check_like(context, element["TableLikeClause"], placement, definition)


def _check_like(context: Context, body: Node, placement: Sharded, definition: Definition) -> None:
    """LIKE may copy unique indexes (INCLUDING INDEXES): each must contain the key."""
    relation = context.relation(body["relation"])
    for index_ in relation.unique if relation is not None and body.get("options") else ():
        if not any(column.column == placement.key for column in index_.columns):
            raise context.refuse("unique", body["relation"].get("location"), key=placement.key, table=definition.name)


def check_column(context: Context, column: Node, definition: Definition) -> None:
    """Check one column definition of CREATE TABLE or ADD COLUMN."""
    placement, name = definition.placement, column["colname"]
    key = isinstance(placement, Sharded) and placement.key == name
    collation = strings(column.get("collClause", {}).get("collname"))
    if (
        key
        and collation
        and (collation[-1] not in _COLLATIONS or (len(collation) > 1 and collation[0] != "pg_catalog"))
    ):
        raise context.refuse("key-type", column.get("location"), key=name, table=definition.name)
    if not isinstance(placement, Home):
        read_by = type_name(column.get("typeName", {}))
        added_values.check_words(context, read_by, added_values.default_of(column), definition.name, column["location"])
    for item in column.get("constraints", ()):
        constraint = item["Constraint"]
        if key and constraint.get("contype") == "CONSTR_GENERATED":
            raise context.refuse("key-type", column.get("location"), key=name, table=definition.name)
        check_constraint(context, constraint, definition, column=name)


def check_constraint(context: Context, body: Node, definition: Definition, column: str = "") -> None:
    """Refuse a constraint that no shard could enforce. ``column``: where it is written behind a column."""
    kind, placement, at = body.get("contype"), definition.placement, body.get("location")
    if kind == "CONSTR_FOREIGN":
        _check_foreign_key(context, body, definition, column)
    if not isinstance(placement, Sharded):
        return
    if kind in {"CONSTR_PRIMARY", "CONSTR_UNIQUE"}:
        if "indexname" in body:
            _check_index_by_name(context, body["indexname"], definition, placement, at)
            return
        columns = (column,) if column else strings(body.get("keys"))
        if placement.key not in columns:
            raise context.refuse("unique", at, key=placement.key, table=definition.name)
    elif kind == "CONSTR_EXCLUSION":
        for item in body.get("exclusions", ()):
            element, operator = items(item)
            plain = element["IndexElem"]
            plain_key = plain.get("name") == placement.key and "opclass" not in plain and "collation" not in plain
            if plain_key and context.reader.is_equality(items(operator)):
                return
        raise context.refuse("unique", at, key=placement.key, table=definition.name)


def _check_index_by_name(
    context: Context, name: str, definition: Definition, placement: Sharded, at: int | None
) -> None:
    relation = context.catalog.relation(definition.name.schema, definition.name.name)
    for found in relation.unique if relation is not None else ():
        if found.name == name and any(column.column == placement.key for column in found.columns):
            return
    raise context.refuse("unique", at, key=placement.key, table=definition.name)


def _check_foreign_key(context: Context, body: Node, definition: Definition, column: str) -> None:
    """Refuse a foreign key whose rows are on other shards."""
    placement, at = definition.placement, body.get("location")
    target_var = body["pktable"]
    columns = (column,) if column else strings(body.get("fk_attrs"))
    parts = name_parts(target_var)
    if parts[-1] == definition.name.name and parts[:-1] in {(), (definition.name.schema,)}:
        target, types, primary = placement, definition.types, definition.primary
    else:
        relation = context.relation(target_var)
        target = context.placement(relation, target_var.get("location"))
        types = {c.name: c.type_name for c in relation.columns} if relation is not None else {}
        primary = relation.primary_key if relation is not None else ()
    if isinstance(target, Reference) or (isinstance(placement, Home) and isinstance(target, Home)):
        return
    if isinstance(placement, Sharded) and isinstance(target, Sharded):
        pairs = set(zip(columns, strings(body.get("pk_attrs")) or primary, strict=False))
        same = family(definition.types.get(placement.key, "")) == family(types.get(target.key, "")) is not None
        if (placement.key, target.key) in pairs and same:
            kept = {body.get("fk_upd_action", "a"), body.get("fk_del_action", "a")} <= _KEEPS
            only = strings(body.get("fk_del_set_cols"))
            if kept or (only and placement.key not in only and body.get("fk_upd_action", "a") in _KEEPS):
                return
    raise context.refuse("foreign-key", at, table=definition.name, target=".".join(parts))


def slot_checks(context: Context, definition: Definition, range_var: Node) -> tuple[tuple[str, ...], ...]:
    """Return, by shard, the CHECK that a row's slot is one of the shard's."""
    placement = definition.placement
    if not isinstance(placement, Sharded):
        return ()
    known = context.catalog.relation(definition.name.schema, definition.name.name)
    if known is not None and any(name == SLOT_CONSTRAINT for name, _ in known.checks):
        return ()  # IF NOT EXISTS: it is there already
    table = copies.quoted(*copies.range_name(range_var))
    return slot_texts(context, table, definition.types[placement.key], placement.key)


def slot_texts(context: Context, table: str, key_type: str, key: str) -> tuple[tuple[str, ...], ...]:
    """Return, by shard, what gives a table its CHECK."""
    database, texts = context.database, []
    for shard in range(len(database.shards)):
        first, last = database.slot_range(shard)
        check = told(sharding.slot_check(key_type, copies.quoted(key), database.slots, first, last))
        drop = f"DROP CONSTRAINT IF EXISTS {SLOT_CONSTRAINT}"  # what IF NOT EXISTS has left as it was
        texts.append((f"ALTER TABLE {table} {drop}, ADD CONSTRAINT {SLOT_CONSTRAINT} CHECK ({check})",))
    return tuple(texts)


# --- ALTER TABLE -----------------------------------------------------------------------------------------------------

_PLAIN: Final = frozenset(
    [
        "AT_AddColumn",
        "AT_ColumnDefault",
        "AT_CookedColumnDefault",
        "AT_DropNotNull",
        "AT_SetNotNull",
        "AT_SetExpression",
        "AT_DropExpression",
        "AT_SetStatistics",
        "AT_SetOptions",
        "AT_ResetOptions",
        "AT_SetStorage",
        "AT_SetCompression",
        "AT_DropColumn",
        "AT_AddConstraint",
        "AT_AddIndexConstraint",
        "AT_AlterConstraint",
        "AT_ValidateConstraint",
        "AT_DropConstraint",
        "AT_AlterColumnType",
        "AT_AlterColumnGenericOptions",
        "AT_ChangeOwner",
        "AT_ClusterOn",
        "AT_DropCluster",
        "AT_SetLogged",
        "AT_SetUnLogged",
        "AT_SetAccessMethod",
        "AT_SetTableSpace",
        "AT_SetRelOptions",
        "AT_ResetRelOptions",
        "AT_ReplaceRelOptions",
        "AT_EnableTrig",
        "AT_EnableAlwaysTrig",
        "AT_EnableReplicaTrig",
        "AT_DisableTrig",
        "AT_EnableTrigAll",
        "AT_DisableTrigAll",
        "AT_EnableTrigUser",
        "AT_DisableTrigUser",
        "AT_ReplicaIdentity",
        "AT_EnableRowSecurity",
        "AT_DisableRowSecurity",
        "AT_ForceRowSecurity",
        "AT_NoForceRowSecurity",
        "AT_AddIdentity",
        "AT_SetIdentity",
        "AT_DropIdentity",
        "AT_AttachPartition",
    ]
)


_SEQUENCES: Final = frozenset({"AT_AddColumn", "AT_AddIdentity", "AT_SetIdentity"})


def alter(context: Context) -> Statement:
    """ALTER TABLE (and INDEX, VIEW, SEQUENCE in its form)."""
    from router.planner.ddl import locate  # noqa: PLC0415 - ddl lists this planner

    body, range_var = context.body, context.body["relation"]
    parts = name_parts(range_var)
    kind = body.get("objtype")
    if kind == "OBJECT_TYPE":
        return context.statement(Ddl(EveryShard(), absent=("42P01",)), tag_of(context.parsed))
    target = locate(context, parts) or HomeShard()
    relation = context.catalog.resolve(parts, context.search_path)
    if relation is None or not relation.is_table:
        return _ddl(context, target)
    placement = context.placement(relation, range_var.get("location"))
    types = {column.name: column.type_name for column in relation.columns}
    definition = Definition(relation.name, placement, types, relation.primary_key)
    concurrent = False
    for item in body.get("cmds", ()):
        command = item["AlterTableCmd"]
        concurrent = concurrent or bool(command.get("def", {}).get("PartitionCmd", {}).get("concurrent"))
        _check_command(context, command, definition, range_var)
    if concurrent:
        return context.statement(ShardByShard(target, catalog_changes=True), "ALTER TABLE", transaction_block=False)
    if isinstance(target, HomeShard):
        return _ddl(context, target)
    attached = copies.attached(context, definition.placement)
    if attached is not None:
        return context.statement(attached, tag_of(context.parsed))
    commands = [item["AlterTableCmd"] for item in body.get("cmds", ())]
    makes = any(command.get("subtype") in _SEQUENCES for command in commands)
    after = copies.spent_sequences(context, [relation.name]) if makes else ()
    before = copies.unspent_identities(
        context, range_var, [command["name"] for command in commands if command.get("subtype") == "AT_SetIdentity"]
    )
    plan = Ddl(target, after=after, before=before)
    return context.statement(added_values.at_one_moment(context, plan, commands), tag_of(context.parsed))


def _check_command(context: Context, command: Node, definition: Definition, range_var: Node) -> None:
    kind, placement, at = command.get("subtype", "AT_AddColumn"), definition.placement, range_var.get("location")
    detail = command.get("def", {})
    if "Constraint" in detail:
        check_constraint(context, detail["Constraint"], definition)
    if kind == "AT_AddColumn" and "ColumnDef" in detail:
        added = detail["ColumnDef"]
        definition.types[added["colname"]] = type_name(added.get("typeName", {}))
        check_column(context, added, definition)
        added_values.check_column(context, added, definition.name, placement)
    computed = detail if kind == "AT_SetExpression" else detail.get("ColumnDef", {}).get("raw_default")
    if kind in {"AT_AlterColumnType", "AT_SetExpression"} and not isinstance(placement, Home):
        added_values.check_computed(context, computed, definition.name, placement, at)
    if kind in {"AT_AttachPartition", "AT_AddInherit"}:
        _check_attach(context, detail, kind, definition, at)
        return
    if not isinstance(placement, Home):
        _check_placed(context, command, definition, at)


def _check_placed(context: Context, command: Node, definition: Definition, at: int | None) -> None:
    """Refuse what shards cannot do, each by itself, to a table that all of them have."""
    kind, placement, name = command.get("subtype", "AT_AddColumn"), definition.placement, command.get("name", "")
    if kind in partitioning.DETACHES:
        partitioning.check_detach(context, command, placement, at)
        return
    if kind == "AT_ColumnDefault":
        types = definition.types
        added_values.check_words(context, types.get(name, ""), command.get("def", {}), definition.name, at)
    if kind not in _PLAIN:
        raise context.refuse("alter-table", at, command=kind.removeprefix("AT_"), table=definition.name)
    key = placement.key if isinstance(placement, Sharded) else None
    if key is not None and name == key and kind in {"AT_DropColumn", "AT_AlterColumnType", "AT_SetExpression"}:
        raise context.refuse("key-change", at, key=key, table=definition.name)
    if kind in {"AT_DropConstraint", "AT_AlterConstraint"} and name == SLOT_CONSTRAINT:
        raise context.refuse("slot-check", at)


def _check_attach(context: Context, detail: Node, kind: str, definition: Definition, at: int | None) -> None:
    """A child lives where its parent lives: ATTACH PARTITION names the child, INHERIT the parent."""
    other_var = detail.get("PartitionCmd", {}).get("name") if kind == "AT_AttachPartition" else detail.get("RangeVar")
    if other_var is None:
        raise context.refuse("alter-table", at, command=kind.removeprefix("AT_"), table=definition.name)
    other_var = other_var.get("RangeVar", other_var)
    other = context.placement(context.relation(other_var), other_var.get("location"))
    if copies.can_attach(context, kind, other_var, definition.placement):
        return
    if other != definition.placement:
        raise context.refuse("parent-placement", at, table=definition.name)


# --- CREATE INDEX ----------------------------------------------------------------------------------------------------


def index(context: Context) -> Statement:
    """CREATE INDEX where its table is; a unique one contains the key."""
    from router.planner.ddl import where  # noqa: PLC0415 - ddl lists this planner

    body, range_var = context.body, context.body["relation"]
    relation = context.relation(range_var)
    placement = context.placement(relation, range_var.get("location"))
    if body.get("unique") and isinstance(placement, Sharded):
        elements = [item["IndexElem"] for item in body.get("indexParams", ())]
        if not any(e.get("name") == placement.key and "opclass" not in e and "collation" not in e for e in elements):
            raise context.refuse(
                "unique", range_var.get("location"), key=placement.key, table=relation.name if relation else ""
            )
    target = HomeShard() if relation is None else where(context, relation)
    if body.get("concurrent"):
        return context.statement(ShardByShard(target, catalog_changes=True), "CREATE INDEX", transaction_block=False)
    return _ddl(context, target)
