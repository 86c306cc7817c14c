"""Which SELECTs find at most one row by its key, and read nothing but columns.

Postgres may keep one plan for all values of a prepared statement, where an unnamed one is planned for its own. What is
found here has one way to its row whatever the values are, calls no function, and is read alike after anybody's DDL
until Postgres itself parses it anew: so it may be run as a prepared statement without anybody seeing it
(proxy.session.known_binds). Whatever is not plainly so is False.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.catalog import effective_path
from router.errors import Refused, SyntaxFailure
from router.relation import NOTHING, RelationKind
from router.statement import parse
from router.tree import conjuncts, constant, strings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from router.catalog import Catalog
    from router.relation import Relation
    from router.tree import Node

_SELECT: Final = {"targetList", "fromClause", "whereClause", "limitOption", "op"}
_NAMED: Final = {"catalogname", "schemaname", "relname", "inh", "relpersistence", "alias", "location"}
_COMPARED: Final = {"kind", "name", "lexpr", "rexpr", "location"}
_TARGET: Final = {"name", "val", "location"}
#: Of these no other type's operator = means something else, should the column get another type meanwhile.
_KEYS: Final = frozenset({"int2", "int4", "int8"})
KEY_OIDS: Final = frozenset({20, 21, 23})
_OWN_SCHEMAS: Final = frozenset({"pg_catalog", "pg_temp"})


def finds_one_row(text: str, catalog: Catalog, search_path: Sequence[str]) -> bool:
    """Whether a statement is ``SELECT columns FROM table WHERE key = ... AND ...`` with all columns of a unique index.

    Parameters are taken for integers: the caller looks at their types.
    """
    try:
        parsed = parse(text)
    except (Refused, SyntaxFailure):
        return False
    if len(parsed) != 1 or parsed[0].kind != "SelectStmt":
        return False
    body = parsed[0].body
    tables = body.get("fromClause", [])
    if not body.keys() <= _SELECT or len(tables) != 1 or "RangeVar" not in tables[0]:
        return False
    named = tables[0]["RangeVar"]
    if not named.keys() <= _NAMED or "colnames" in named.get("alias", {}):
        return False
    relation = _found(named, catalog, search_path)
    if relation is None or not all(_is_column(target, relation) for target in body.get("targetList", [])):
        return False
    keys = [_key(condition, relation) for condition in conjuncts(body.get("whereClause"))]
    return "" not in keys and _is_unique(relation, keys)


def _found(named: Node, catalog: Catalog, search_path: Sequence[str]) -> Relation | None:
    """Return a table that no other can hide that is made later, and that holds all of its rows itself."""
    schema = named.get("schemaname")
    parts = (schema, named["relname"]) if schema else (named["relname"],)
    if "catalogname" in named:
        return None
    relation = catalog.resolve(parts, search_path)
    if relation is None or relation.kind is not RelationKind.TABLE or relation.name.schema in _OWN_SCHEMAS:
        return None
    if not schema:
        path = effective_path(search_path)
        first = next((name for name in path if name not in _OWN_SCHEMAS and name in catalog.schemas), None)
        if path[0] != "pg_catalog" or first != relation.name.schema:
            return None
    odd = relation.children or relation.row_security or relation.rules or relation.read_uses != NOTHING
    odd = odd or any(column.generated == "v" for column in relation.columns)
    return None if odd else relation


def _column(node: Node, relation: Relation, *, star: bool = False) -> str:
    """Return the column that a node names; '' for anything else."""
    reference = node.get("ColumnRef")
    names = strings(reference["fields"]) if reference is not None else ()
    if not 0 < len(names) <= 2:  # noqa: PLR2004 - the table's name, or its alias, may stand before it
        return ""
    return names[-1] if relation.column(names[-1]) is not None or (star and names[-1] == "*") else ""


def _is_column(node: Node, relation: Relation) -> bool:
    target = node.get("ResTarget", {})
    return target.keys() <= _TARGET and _column(target.get("val", {}), relation, star=True) != ""


def _key(condition: Node, relation: Relation) -> str:
    """Return the integer column that a condition compares with a parameter or an integer; '' for any other."""
    body = condition.get("A_Expr", {})
    if body.get("kind") != "AEXPR_OP" or not body.keys() <= _COMPARED or strings(body.get("name")) != ("=",):
        return ""
    left, right = body.get("lexpr", {}), body.get("rexpr", {})
    if "ColumnRef" not in left:
        left, right = right, left
    name = _column(left, relation)
    column = relation.column(name) if name else None
    literal = constant(right)
    given = "ParamRef" in right or (literal is not None and literal[0] == "integer")
    if column is None or not given or column.type_schema != "pg_catalog" or column.type_name not in _KEYS:
        return ""
    return name


def _is_unique(relation: Relation, keys: Collection[str]) -> bool:
    return any(
        index.columns and all(column.column in keys and column.default_opclass for column in index.columns)
        for index in relation.unique
        if not (index.exclusion or index.partial or index.deferrable)
    )
