"""Reading the parse tree: plain dicts as libpg_query's JSON has them.

Decides only how a node is recognised and walked. A *wrapped* node is ``{"ColumnRef": {...}}``; where the grammar
allows one kind only, the JSON has the bare body, and :data:`BARE` says which kind a field holds. Zero, false and
empty are absent. What a node means is left to :mod:`router.keys` and the planners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

Node = dict[str, Any]

BARE: Final = {
    "relation": "RangeVar",
    "rel": "RangeVar",
    "sequence": "RangeVar",
    "view": "RangeVar",
    "table": "RangeVar",
    "indexRelation": "RangeVar",
    "pktable": "RangeVar",
    "typevar": "RangeVar",
    "typeName": "TypeName",
    "returnType": "TypeName",
    "domainname": "TypeName",
    "withClause": "WithClause",
    "ctes": "WithClause",
    "intoClause": "IntoClause",
    "into": "IntoClause",
    "onConflictClause": "OnConflictClause",
    "over": "WindowDef",
    "alias": "Alias",
    "funccall": "FuncCall",
    "argType": "TypeName",
    "ofTypename": "TypeName",
}


# Aggregates that have a grammar of their own, and are no FuncCall.
JSON_AGGREGATES: Final = frozenset({"JsonArrayAgg", "JsonObjectAgg"})


def unwrap(node: Node) -> tuple[str, Node]:
    """Split a wrapped node into its kind and body; an empty node is ``("", {})``."""
    for kind, body in node.items():
        return kind, body
    return "", {}


def is_wrapped(value: object) -> bool:
    """Tell a wrapped node from a bare body: one key, which is a node kind."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    key: str = next(iter(value))
    return key[:1].isupper() and isinstance(value[key], dict)


def walk(value: Any, field: str = "") -> Iterator[tuple[str, Node]]:  # noqa: C901 - the hottest loop of planning
    """Yield every node below (and including) ``value`` as kind and body; bare bodies by the field they stand in."""
    stack: list[tuple[Any, str]] = [(value, field)]
    pop, push = stack.pop, stack.append
    while stack:
        item, name = pop()
        if type(item) is list:
            for part in reversed(item):
                if type(part) is dict or type(part) is list:
                    push((part, ""))
            continue
        if type(item) is not dict:
            continue
        if len(item) == 1:
            (kind,) = item
            body = item[kind]
            if type(body) is dict and "A" <= kind[:1] <= "Z":
                yield kind, body
                item = body
                name = "-"
        if name in BARE:
            yield BARE[name], item
        elif name in _ARMS:
            yield "SelectStmt", item
        for key in reversed(item):
            part = item[key]
            if type(part) is dict or type(part) is list:
                push((part, key))


_ARMS: Final = frozenset({"larg", "rarg"})  # of a set operation; a join's are wrapped


def strings(names: list[Node] | None) -> tuple[str, ...]:
    """Return the text of a list of String nodes; other nodes (``*``) are given as ``*``."""
    return tuple(item["String"].get("sval", "") if "String" in item else "*" for item in names or ())


def name_parts(range_var: Node) -> tuple[str, ...]:
    """Return catalog, schema and name of a RangeVar, as many as were written."""
    if not range_var.get("schemaname"):
        return (range_var["relname"],)
    return tuple(range_var[key] for key in ("catalogname", "schemaname", "relname") if range_var.get(key))


def items(value: Any) -> list[Node]:
    """Return the nodes of a list field, of a wrapped List, or of nothing."""
    if value is None:
        return []
    if isinstance(value, dict):
        if "List" in value:
            found: list[Node] = value["List"].get("items", [])
            return found
        return [value]
    return list(value)


def constant(node: Node) -> tuple[str, Any] | None:  # noqa: PLR0911 - one line for each class
    """Return a literal as (class, value): integer, float (text), string, boolean, bits, null; None for all else."""
    body = node.get("A_Const")
    if body is None:
        return None
    if body.get("isnull"):
        return "null", None
    if "ival" in body:
        return "integer", body["ival"].get("ival", 0)
    if "fval" in body:
        return "float", body["fval"].get("fval", "")
    if "boolval" in body:
        return "boolean", body["boolval"].get("boolval", False)
    if "sval" in body:
        return "string", body["sval"].get("sval", "")
    return "bits", body.get("bsval", {}).get("bsval", "")


def same(left: Any, right: Any) -> bool:
    """Compare two trees and ignore where they stand in the text."""
    if isinstance(left, dict) and isinstance(right, dict):
        common = 0
        for key, item in left.items():
            if key not in _PLACES:
                if key not in right or not same(item, right[key]):
                    return False
                common += 1
        return common == sum(key not in _PLACES for key in right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    equal: bool = left == right
    return equal


_PLACES: Final = frozenset({"location", "stmt_location", "stmt_len", "rexpr_list_start", "rexpr_list_end",
                            "list_start", "list_end", "arg_location"})  # fmt: skip


def without_places(value: Any) -> Any:
    """Return a copy of a tree without byte offsets."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items() if key not in _PLACES}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    return value


def conjuncts(node: Node | None) -> list[Node]:
    """Split a condition at its top-level ANDs."""
    if node is None:
        return []
    body = node.get("BoolExpr")
    if body is not None and body.get("boolop") == "AND_EXPR":
        return [part for argument in body["args"] for part in conjuncts(argument)]
    return [node]
