"""Partitions over several shards: PARTITION BY HASH, and DETACH PARTITION.

Decides whether the hash of a partition's key is a server's own: that of an enum, or of an object, is made of a number
that each server gives anew. Rows would be found all the same, but not by the name of their partition: every server must
put a row into the partition of the same name.

Decides whether a partition may become a table by itself. It is placed as its parent while it is one; afterwards only
the configuration can say where its rows are, to every process and after every start. So it has to say so before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Sharded
from router.server_values import OBJECT_TYPES
from router.tree import strings, walk

if TYPE_CHECKING:
    from router.cluster import Placement, TableName
    from router.planner.context import Context
    from router.relation import Relation
    from router.tree import Node

DETACHES: Final = frozenset({"AT_DetachPartition", "AT_DetachPartitionFinalize"})
_FIRST_OWN: Final = 16384
_BY_VALUE: Final = "b"  # pg_type.typtype: a type of an extension, say


def check(context: Context, table: TableName) -> None:
    """Refuse CREATE TABLE ... PARTITION BY HASH by what each server hashes in its own way."""
    spec = context.body.get("partspec", {})
    if spec.get("strategy") != "PARTITION_STRATEGY_HASH":
        return
    own = _own_columns(context)
    for part in spec.get("partParams", ()):
        element = part["PartitionElem"]
        named = {element.get("name", "")}
        named |= {strings(body.get("fields"))[-1] for kind, body in walk(element.get("expr")) if kind == "ColumnRef"}
        casts = any(kind == "TypeName" and _own_type(context, body) for kind, body in walk(element.get("expr")))
        found = sorted(named & own)
        if found or casts:
            name = found[0] if found else "its key"
            raise context.refuse("partition-hash", element.get("location"), table=table, column=name)


def _own_columns(context: Context) -> set[str]:
    """Return the columns of a new table, written, copied by LIKE, or inherited, whose hashes are a server's own."""
    found: set[str] = set()
    above = [item["RangeVar"] for item in context.body.get("inhRelations", ())]
    for element in context.body.get("tableElts", ()):
        column = element.get("ColumnDef", {})
        if "typeName" in column and _own_type(context, column["typeName"]):
            found.add(column["colname"])
        if "TableLikeClause" in element:
            above.append(element["TableLikeClause"]["relation"])
    for range_var in above:
        found |= _own_in(context, context.relation(range_var))
    return found


def _own_in(context: Context, relation: Relation | None) -> set[str]:
    columns = relation.columns if relation is not None else ()
    return {c.name for c in columns if _named(context, c.type_name, c.type_schema != "pg_catalog")}


def _own_type(context: Context, node: Node) -> bool:
    names = strings(node.get("names"))
    return bool(names) and _named(context, names[-1], names[:-1] != ("pg_catalog",))


def _named(context: Context, name: str, may_be_own: bool) -> bool:  # noqa: FBT001 - of a name
    """Whether the hash of values of a type may be another on each server; of several of a name, that of any."""
    name = name.removeprefix("_")
    if name in OBJECT_TYPES:
        return True
    found = [kind for kind in context.catalog.types if kind.name == name] if may_be_own else []
    return any(
        kind.kind != _BY_VALUE and not (kind.kind == "d" and 0 < kind.base_type_oid < _FIRST_OWN) for kind in found
    )


# --- DETACH ----------------------------------------------------------------------------------------------------------


def check_detach(context: Context, command: Node, parent: Placement, at: int | None) -> None:
    """Refuse a DETACH after which nobody could say where the rows are, or that is not done on all shards at once."""
    detail = command.get("def", {}).get("PartitionCmd", {})
    if command.get("subtype") != "AT_DetachPartition" or detail.get("concurrent"):
        raise context.refuse("detach-concurrently", at)
    child = context.relation(detail["name"])
    if child is None or context.database.placements.get(child.name) == parent:
        return  # what is not there, Postgres says
    how = f"{{key: {parent.key}}}" if isinstance(parent, Sharded) else "reference"
    raise context.refuse("detach", detail["name"].get("location"), child=child.name, how=how)
