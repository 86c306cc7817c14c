"""DDL: the shards that have (or shall have) the object.

Decides by kind of object: what is no relation goes to every shard; relations go where their placement says. What a
table's definition may say over several shards is :mod:`router.planner.tables`' concern. DDL goes out as it came.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from router.catalog import effective_path
from router.cluster import Home, Placement, Sharded, TableName
from router.own_schema import CATALOG_BUMP
from router.plan import Ddl, EveryShard, HomeShard, ShardByShard, Statement, Target
from router.planner import copies, creating, dependent, mixed, schemas, stored, tables
from router.planner.control import setting_values
from router.planner.names import Place
from router.planner.passthrough import is_temporary, no_block, tag_of
from router.tree import Node, items, name_parts, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from router.planner.context import Context
    from router.relation import Relation

_RELATIONS: Final = frozenset(
    {"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_INDEX", "OBJECT_SEQUENCE", "OBJECT_FOREIGN_TABLE"}
)
_HOME_KINDS: Final = frozenset({"OBJECT_FDW", "OBJECT_FOREIGN_SERVER", "OBJECT_LARGEOBJECT"})
_NO_RELATION: Final = "42P01"
_NEEDING: Final = frozenset(
    {"CompositeTypeStmt", "CreateRangeStmt", "DefineStmt", "CreateDomainStmt", "CreateOpClassStmt", "CreateCastStmt",
     "CreateTransformStmt"}
)  # fmt: skip
_MAY_BE_ABSENT: Final = {
    **dict.fromkeys(
        ("OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE", "OBJECT_OPERATOR", "OBJECT_CAST",
         "OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_DOMCONSTRAINT", "OBJECT_ATTRIBUTE", "OBJECT_OPCLASS",
         "OBJECT_OPFAMILY", "OBJECT_TRANSFORM"),
        dependent.UNDEFINED,
    ),
    "OBJECT_STATISTIC_EXT": ("get_statistics_object_oid",),  # 42704 may mean a role
}  # fmt: skip
_ON_RELATION: Final = frozenset(
    {"OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY", "OBJECT_TABCONSTRAINT", "OBJECT_COLUMN"}
)


def statement(context: Context, target: Target, **flags: str) -> Statement:
    """Make the plan of a DDL statement."""
    if no_block(context.parsed.kind, context.body):
        plan = ShardByShard(target, catalog_changes=True)
        return context.statement(plan, tag_of(context.parsed), transaction_block=False)
    return context.statement(Ddl(target), tag_of(context.parsed), **flags)


def everywhere(context: Context) -> Statement:
    """Objects that every shard has: types, functions, roles, extensions."""
    check_lasting(context)
    if context.parsed.kind in _NEEDING and context.many:
        return context.statement(dependent.where_it_can_be(), tag_of(context.parsed))
    if not _changes_rights(context):
        return statement(context, EveryShard())
    # No event trigger fires for roles, or says which GRANT is one that names depend on: other proxies must hear of it.
    home = context.database.home
    after = tuple((CATALOG_BUMP,) if shard == home else () for shard in range(len(context.database.shards)))
    return context.statement(Ddl(EveryShard(), after=after), tag_of(context.parsed))


def _changes_rights(context: Context) -> bool:
    """Whether a statement may change which schemas a role may use, and so in which it finds names."""
    body = context.body
    kind = {"GrantStmt": "objtype", "AlterOwnerStmt": "objectType", "RenameStmt": "renameType"}.get(context.parsed.kind)
    return context.parsed.kind in _RIGHTS or (kind is not None and body.get(kind) in _WITH_RIGHTS)


_RIGHTS: Final = frozenset(
    {"CreateRoleStmt", "AlterRoleStmt", "DropRoleStmt", "GrantRoleStmt", "DropOwnedStmt", "ReassignOwnedStmt"}
)
_WITH_RIGHTS: Final = frozenset({"OBJECT_SCHEMA", "OBJECT_DATABASE", "OBJECT_ROLE"})


def check_lasting(context: Context) -> None:
    """Refuse functions, types and the like in pg_temp: one shard could commit with them, and that is all."""
    for _, body in context.parsed.nodes:
        for value in body.values():
            names = items(value) if isinstance(value, list) or (isinstance(value, dict) and "List" in value) else ()
            if body.get("schemaname") == "pg_temp" or names[:1] == [{"String": {"sval": "pg_temp"}}]:
                raise context.refuse("temporary-object", name=tag_of(context.parsed))


def where_it_is(context: Context, kind: str, *, several: bool = False) -> Statement:
    """Statements about one object that is no relation: where there are such objects, or where this one is found.

    The home shard may be the only one that has what needs its tables, as :mod:`router.planner.dependent` says.
    """
    if kind in _HOME_KINDS:
        return at_home(context)
    absent = _MAY_BE_ABSENT.get(kind, ())
    if absent and not several:
        return context.statement(Ddl(EveryShard(), absent=absent), tag_of(context.parsed))
    return everywhere(context)


def alter_function(context: Context) -> Statement:
    """ALTER FUNCTION where the function is."""
    return where_it_is(context, "OBJECT_FUNCTION")


def alter_type(context: Context) -> Statement:
    """ALTER DOMAIN, TYPE, OPERATOR ... where it is: what only home has may not come into one that others have."""
    return context.statement(Ddl(EveryShard(), absent=_ALTERED[context.parsed.kind]), tag_of(context.parsed))


_ALTERED: Final = {
    "AlterDomainStmt": ("42704",),
    "AlterTypeStmt": ("42704",),
    "AlterOpFamilyStmt": ("42704",),
    "AlterOperatorStmt": ("42883",),
}


def alter_statistics(context: Context) -> Statement:
    """ALTER STATISTICS where their table is."""
    return where_it_is(context, "OBJECT_STATISTIC_EXT")


def _drop_where_found(context: Context) -> Statement:
    """DROP of objects that shards other than home may lack: there with IF EXISTS."""
    parsed, home, concurrent = context.parsed, context.database.home, bool(context.body.get("concurrent"))
    longer = concurrent or context.body.get("removeType") in {"OBJECT_OPCLASS", "OBJECT_OPFAMILY"}
    second = parsed.tokens[2 if longer else 1].end
    lenient = None
    if not context.body.get("missing_ok"):
        lenient = f"{parsed.text[:second]} IF EXISTS{parsed.text[second:]}"
    texts = tuple(None if shard == home else lenient for shard in range(len(context.database.shards)))
    if concurrent:
        plan = ShardByShard(EveryShard(), texts=texts, catalog_changes=True)
        return context.statement(plan, tag_of(parsed), transaction_block=False)
    return context.statement(Ddl(EveryShard(), texts=texts), tag_of(parsed))


def at_home(context: Context) -> Statement:
    """Objects of the home shard."""
    return statement(context, HomeShard())


def create_foreign_table(context: Context) -> Statement:
    """CREATE FOREIGN TABLE: on the home shard, where the servers are."""
    range_var = context.body["base"]["relation"]
    name = TableName(*tables.creation_name(context, range_var))
    if not isinstance(context.database.placement(name), Home):
        raise context.refuse("placed-name", range_var.get("location"), table=name)
    return at_home(context)


# --- where things are ------------------------------------------------------------------------------------------------


def locate(context: Context, parts: tuple[str, ...]) -> Target | None:
    """Return the shards that have a relation or index; None if nobody knows it (then any answer of Postgres is right).

    ALTER TABLE and its like take names of indexes as well.
    """
    relation = context.catalog.resolve(parts, context.search_path)
    if relation is None:
        index = _locate_index(context, parts)
        if index is not None:
            return index
        placement = configured(context, parts)
        return None if isinstance(placement, Home) else EveryShard()
    return where(context, relation)


def configured(context: Context, parts: tuple[str, ...]) -> Placement:
    """Return where the configuration places a name, Home if it does not."""
    schemas = parts[-2:-1] or context.search_path
    for schema in schemas:
        placement = context.database.placements.get(TableName(schema, parts[-1]))
        if placement is not None:
            return placement
    return Home()


def where(context: Context, relation: Relation) -> Target:
    """Return the shards that have a relation that the catalog knows."""
    if relation.name.schema == "pg_temp":
        return HomeShard()
    if relation.kind.value == "S":
        owner_ = relation.owned_by and context.catalog.relation(relation.owned_by.schema, relation.owned_by.name)
        return where(context, owner_) if owner_ else EveryShard()
    if relation.kind.value in {"v", "m"}:
        return _view(context, relation)
    placement = context.catalog.effective_placement(relation)
    return HomeShard() if isinstance(placement, Home) else EveryShard()


def _view(context: Context, relation: Relation) -> Target:
    """A view is where its tables are: everywhere if it reads placed tables only."""
    catalog = context.catalog
    if relation.kind.value == "m" or catalog.is_alone(relation.name):
        return HomeShard()
    reached = catalog.closure.follow(relation.read_uses).tables
    known = (found for name in reached if (found := catalog.relation(name.schema, name.name)) is not None)
    placed = any(found.is_table and not catalog.is_system(found.name) for found in known)
    return EveryShard() if placed else HomeShard()


def _locate_index(context: Context, parts: tuple[str, ...]) -> Target | None:
    """Find the table of an index by its name: it is in the same schema."""
    for schema in parts[-2:-1] or ("pg_temp", *effective_path(context.search_path)):
        for relation in context.catalog.relations:
            if relation.name.schema == schema and parts[-1] in relation.indexes:
                return where(context, relation)
    return None


def together(context: Context, targets: Iterable[Target | None]) -> Target:
    """Return the one target of several objects; refuses a mix. Unknown names follow the others."""
    known = {target for target in targets if target is not None}
    if len(known) > 1:
        raise context.refuse("mixed-tables")
    return known.pop() if known else HomeShard()


# --- statements that name relations ----------------------------------------------------------------------------------


def on_relation(context: Context) -> Statement:
    """Triggers, policies, rules, statistics: where their table is."""
    body = context.body
    range_var = body.get("relation") or body.get("table")
    if range_var is None:
        found = [item["RangeVar"] for item in body.get("relations", ()) if "RangeVar" in item]
        if not found:
            return where_it_is(context, body.get("objectType", ""))
        return statement(context, together(context, [_known(context, item) for item in found]))
    if context.parsed.kind == "CreateTrigStmt":
        dependent.check_trigger(context)
    return statement(context, _known(context, range_var) or HomeShard())


def _known(context: Context, range_var: Node) -> Target | None:
    return locate(context, name_parts(range_var))


def drop(context: Context) -> Statement:
    """DROP of anything: home first, which has all that depends on it and can name it in its error."""
    found = _drop(context)
    if not isinstance(found.plan, Ddl) or found.plan.target != EveryShard():
        return found
    return replace(found, plan=replace(found.plan, home_first=True))


def _drop(context: Context) -> Statement:
    body = context.body
    kind = body.get("removeType", "")
    objects = body.get("objects", ())
    if kind in _RELATIONS:
        names = [strings(items(entry)) for entry in objects]
        known = [context.catalog.resolve(name, context.search_path) for name in names]
        if kind == "OBJECT_VIEW" and all(view is not None and view.name.schema != "pg_temp" for view in known):
            return _drop_where_found(context)  # one that is home's now may have been everywhere before it was replaced
        targets = [locate(context, name) for name in names]
        if mixed.is_mixed(targets) and not body.get("concurrent"):
            return context.statement(Ddl(EveryShard(), texts=mixed.dropped(context, targets)), tag_of(context.parsed))
        target = together(context, targets)
        index = kind == "OBJECT_INDEX" and target == EveryShard()
        # CREATE INDEX CONCURRENTLY that failed has left it on some shards.
        return _drop_where_found(context) if index else statement(context, target)
    if kind in _MAY_BE_ABSENT:
        check_lasting(context)
        return _drop_where_found(context)
    if kind in _ON_RELATION:
        names = [strings(items(entry))[:-1] for entry in objects]
        return statement(context, together(context, [locate(context, name) for name in names]))
    return where_it_is(context, kind)


def comment(context: Context) -> Statement:
    """COMMENT and SECURITY LABEL."""
    body = context.body
    kind = body.get("objtype", "")
    if kind in _RELATIONS | _ON_RELATION:
        name = strings(items(body.get("object")))
        target = locate(context, name if kind in _RELATIONS else name[:-1])
        if target is None and kind == "OBJECT_COLUMN":  # of a composite type, or of a temporary table
            return context.statement(Ddl(EveryShard(), absent=(_NO_RELATION,)), tag_of(context.parsed))
        return statement(context, target or HomeShard())
    return where_it_is(context, kind)


def grant(context: Context) -> Statement:
    """GRANT and REVOKE."""
    body = context.body
    if body.get("targtype") != "ACL_TARGET_OBJECT" or body.get("objtype") not in {"OBJECT_TABLE", "OBJECT_SEQUENCE"}:
        named = body.get("targtype") == "ACL_TARGET_OBJECT"
        return where_it_is(context, body.get("objtype", "") if named else "", several=len(body.get("objects", ())) > 1)
    found = [_known(context, item["RangeVar"]) for item in body.get("objects", ()) if "RangeVar" in item]
    if mixed.is_mixed(found):
        return context.statement(Ddl(EveryShard(), texts=mixed.granted(context, found)), tag_of(context.parsed))
    return statement(context, together(context, found))


def _may_be_temporary(context: Context, parts: tuple[str, ...], relation: Relation | None) -> bool:
    """Whether a name may be that of a temporary relation: outside of the block that made it no catalog has it."""
    if relation is not None:
        return relation.name.schema == "pg_temp"
    return locate(context, parts) is None


def rename(context: Context) -> Statement:
    """ALTER ... RENAME: a placed table, and a key, keep their names."""
    body = context.body
    kind, range_var = body.get("renameType", ""), body.get("relation")
    if kind == "OBJECT_SCHEMA":
        _check_schema_free(context, body.get("subname", ""))
        return everywhere(context)
    if kind == "OBJECT_DATABASE":
        raise context.refuse("unknown-statement", name="ALTER DATABASE ... RENAME")
    if range_var is None or kind == "OBJECT_ATTRIBUTE":
        return where_it_is(context, kind)
    parts = name_parts(range_var)
    relation = context.catalog.resolve(parts, context.search_path)
    if kind in _RELATIONS and _may_be_temporary(context, parts, relation):
        tables.check_temporary(context, range_var, body["newname"])
    if kind in {"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_FOREIGN_TABLE", "OBJECT_SEQUENCE"}:
        _check_movable(context, relation, range_var)
        _check_name_free(context, (*parts[:-1], body["newname"]), relation)
    elif kind == "OBJECT_COLUMN" and relation is not None:
        placement = context.catalog.effective_placement(relation)
        if isinstance(placement, Sharded) and placement.key == body.get("subname"):
            raise context.refuse("key-change", range_var.get("location"), key=placement.key, table=relation.name)
    elif kind == "OBJECT_TABCONSTRAINT" and body.get("subname") == tables.SLOT_CONSTRAINT:
        raise context.refuse("slot-check", range_var.get("location"))
    return statement(context, locate(context, parts) or HomeShard())


def set_schema(context: Context) -> Statement:
    """ALTER ... SET SCHEMA."""
    body = context.body
    range_var = body.get("relation")
    if range_var is None:
        return where_it_is(context, body.get("objectType", ""))
    relation = context.catalog.resolve(name_parts(range_var), context.search_path)
    _check_movable(context, relation, range_var)
    _check_name_free(context, (body["newschema"], range_var["relname"]), relation)
    return statement(context, _known(context, range_var) or HomeShard())


def _check_movable(context: Context, relation: Relation | None, range_var: Node) -> None:
    if relation is not None and relation.name in context.database.placements:
        raise context.refuse("placed-name", range_var.get("location"), table=relation.name)


def _check_name_free(context: Context, parts: tuple[str, ...], relation: Relation | None) -> None:
    """Refuse a new name that the configuration has placed: the rows would not be there."""
    schema = parts[-2] if len(parts) > 1 else relation.name.schema if relation is not None else ""
    if not isinstance(context.database.placement(TableName(schema, parts[-1])), Home):
        raise context.refuse("placed-name", table=".".join(parts))
    if relation is None and any(table.name == parts[-1] for table in context.database.placements):
        raise context.refuse("placed-name", table=parts[-1])  # a temporary table, which would hide the placed one


def _check_schema_free(context: Context, schema: str) -> None:
    for table in context.database.placements:
        if table.schema == schema:
            raise context.refuse("placed-name", table=table)


def refuse(context: Context) -> Statement:
    """What no shard may do alone and all may not do together."""
    raise context.refuse("unknown-statement", name=tag_of(context.parsed))


def create_schema(context: Context) -> Statement:
    """CREATE SCHEMA."""
    return schemas.create(context) if context.body.get("schemaElts") else everywhere(context)


# --- queries in DDL --------------------------------------------------------------------------------------------------


def view(context: Context) -> Statement:
    """CREATE VIEW where its tables are."""
    places = creating.reads_with_views(context, context.body["query"])
    if Place.HOME in places and Place.SHARDED in places:
        raise context.refuse("mixed-tables")
    made = context.body["view"]
    if is_temporary(made):
        if context.many and places & {Place.SHARDED, Place.REFERENCE}:
            raise context.refuse("mixed-tables")
        tables.check_temporary(context, context.body["view"])
        return statement(context, HomeShard(), pins="temporary view", must_commit="temporary view")
    if not places or Place.HOME in places:
        return statement(context, HomeShard())
    if Place.SHARDED in places or not context.many:
        return statement(context, EveryShard())
    return context.statement(dependent.where_it_can_be(), tag_of(context.parsed))


def default_setting(context: Context) -> Statement:
    """ALTER ROLE and DATABASE ... SET: what sessions begin with, which must not be what they may not SET."""
    setting = context.body["setstmt"]
    context.check_setting(setting.get("name", "").lower(), setting_values(setting), setting.get("location"))
    return everywhere(context)


def reindex(context: Context) -> Statement:
    """REINDEX and CLUSTER, shard by shard."""
    body = context.body
    target: Target | None = EveryShard()
    if "relation" in body:
        target = locate(context, name_parts(body["relation"]))
    block = not no_block(context.parsed.kind, body)
    return context.statement(ShardByShard(target or HomeShard()), tag_of(context.parsed), transaction_block=block)


def create_sequence(context: Context) -> Statement:
    """CREATE SEQUENCE on every shard (the home shard's is the one that counts), but an owned one where its table is."""
    sequence = context.body["sequence"]
    if is_temporary(sequence):
        tables.check_temporary(context, sequence)
        return statement(context, HomeShard(), pins="temporary sequence", must_commit="temporary sequence")
    if _owner(context) == HomeShard():
        return statement(context, HomeShard())
    return context.statement(Ddl(EveryShard(), after=copies.spent_sequence(context, sequence)), "CREATE SEQUENCE")


def alter_sequence(context: Context) -> Statement:
    """ALTER SEQUENCE where it is; one that a table of the home shard takes over goes from the others, or comes back."""
    sequence = context.body["sequence"]
    target = _known(context, sequence) or HomeShard()
    if isinstance(target, HomeShard):
        known = context.catalog.resolve(name_parts(sequence), context.search_path)
        if known is None or known.name.schema == "pg_temp" or not _names_owner(context) or _owner(context) == target:
            return statement(context, target)
        plan = copies.respent(context, sequence, f"CREATE SEQUENCE {copies.quoted(*copies.range_name(sequence))}")
        return context.statement(plan, "ALTER SEQUENCE")
    if _owner(context) == HomeShard():
        return context.statement(copies.given_away(context, sequence), "ALTER SEQUENCE")
    # A spent one is at the end of its range: a smaller range would not do for it.
    unspent = f"ALTER SEQUENCE IF EXISTS {copies.quoted(*copies.range_name(sequence))} RESTART"
    return context.statement(copies.respent(context, sequence, unspent), "ALTER SEQUENCE")


def _names_owner(context: Context) -> bool:
    return any(option["DefElem"]["defname"] == "owned_by" for option in context.body.get("options", ()))


def _owner(context: Context) -> Target | None:
    """Return where the table is that OWNED BY names; None for none."""
    for option in context.body.get("options", ()):
        if option["DefElem"]["defname"] == "owned_by":
            table = strings(items(option["DefElem"].get("arg")))[:-1]
            return locate(context, table) or HomeShard() if table else None
    return None


_EVERYWHERE: Final = [
    "CreateEnumStmt",
    "AlterEnumStmt",
    "CompositeTypeStmt",
    "CreateRangeStmt",
    "DefineStmt",
    "CreateDomainStmt",
    "CreateExtensionStmt",
    "AlterExtensionStmt",
    "AlterExtensionContentsStmt",
    "CreateRoleStmt",
    "AlterRoleStmt",
    "DropRoleStmt",
    "GrantRoleStmt",
    "CreateOpClassStmt",
    "CreateOpFamilyStmt",
    "CreateCastStmt",
    "CreateConversionStmt",
    "CreateTransformStmt",
    "CreatePLangStmt",
    "AlterTSDictionaryStmt",
    "AlterTSConfigurationStmt",
    "AlterCollationStmt",
    "CreateAmStmt",
    "AlterDefaultPrivilegesStmt",
    "DropOwnedStmt",
    "ReassignOwnedStmt",
]
_AT_HOME: Final = [
    "CreateFdwStmt",
    "AlterFdwStmt",
    "CreateForeignServerStmt",
    "AlterForeignServerStmt",
    "CreateUserMappingStmt",
    "AlterUserMappingStmt",
    "DropUserMappingStmt",
    "ImportForeignSchemaStmt",
]
_REFUSED: Final = [
    "CreatedbStmt",
    "DropdbStmt",
    "AlterDatabaseStmt",
    "AlterDatabaseRefreshCollStmt",
    "CreateTableSpaceStmt",
    "DropTableSpaceStmt",
    "AlterTableSpaceOptionsStmt",
    "AlterTableMoveAllStmt",
    "AlterSystemStmt",
    "CreateEventTrigStmt",
    "AlterEventTrigStmt",
    "CreatePublicationStmt",
    "AlterPublicationStmt",
    "CreateSubscriptionStmt",
    "AlterSubscriptionStmt",
    "DropSubscriptionStmt",
]
_ON_TABLES: Final = [
    "RuleStmt",
    "CreateTrigStmt",
    "CreatePolicyStmt",
    "AlterPolicyStmt",
    "CreateStatsStmt",
    "AlterOwnerStmt",
    "AlterObjectDependsStmt",
]

PLANNERS: Final[dict[str, Callable[[Context], Statement]]] = {
    **dict.fromkeys(_EVERYWHERE, everywhere),
    **dict.fromkeys(_AT_HOME, at_home),
    **dict.fromkeys(_REFUSED, refuse),
    **dict.fromkeys(_ON_TABLES, on_relation),
    **dict.fromkeys(_ALTERED, alter_type),
    "AlterStatsStmt": alter_statistics,
    "AlterRoleSetStmt": default_setting,
    "AlterDatabaseSetStmt": default_setting,
    "CreateSchemaStmt": create_schema,
    "CreateStmt": tables.create,
    "CreateForeignTableStmt": create_foreign_table,
    "AlterTableStmt": tables.alter,
    "IndexStmt": tables.index,
    "CreateFunctionStmt": dependent.create_function,
    "AlterFunctionStmt": alter_function,
    "CreateSeqStmt": create_sequence,
    "AlterSeqStmt": alter_sequence,
    "DropStmt": drop,
    "CommentStmt": comment,
    "SecLabelStmt": comment,
    "GrantStmt": grant,
    "RenameStmt": rename,
    "AlterObjectSchemaStmt": set_schema,
    "ViewStmt": view,
    "CreateTableAsStmt": creating.create_as,
    "RefreshMatViewStmt": stored.refresh,
    "ReindexStmt": reindex,
    "ClusterStmt": reindex,
}
