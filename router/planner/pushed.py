"""Conditions that can be tried where a table's rows are, because they hold for every row that matters.

Decides which conjuncts of WHERE and ON concern one table alone and may be tried before anything is joined: those of
WHERE for tables that no outer join can make NULL, those of an inner join's ON likewise, those of an outer join's ON for
its nullable side. Conditions with subqueries, volatile functions, clocks or anything that is not written by
:mod:`router.printer` stay where they are. A condition that is tried twice is only tried for less rows the second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.effect import EffectKind, Runs
from router.planner.wanted import tables
from router.printer import expression
from router.tree import Node, conjuncts, strings, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router.planner.context import Context
    from router.relation import Relation

_FIRST_USER_OID: Final = 16384
_PAIR: Final = 2
_NEVER: Final = frozenset({"SubLink", "SQLValueFunction", "GroupingFunc", "CurrentOfExpr", "SetToDefault"})


def parameters_of(node: Node) -> set[int]:
    """Return the numbers of the parameters in an expression."""
    return {body.get("number", 0) for kind, body in walk(node) if kind == "ParamRef"}


def _cast_parameters(node: Node) -> set[int]:
    """Return the parameters whose type follows from a cast to one of pg_catalog's."""
    return {
        body["arg"]["ParamRef"].get("number", 0)
        for kind, body in walk(node)
        if kind == "TypeCast"
        and "ParamRef" in body["arg"]
        and strings(body["typeName"].get("names"))[0] == "pg_catalog"
    }


def known_parameters(context: Context, node: Node) -> tuple[int, ...] | None:
    """Return the parameters in a tree; None if one is not of a built-in type for certain, which every shard knows."""
    oids = context.reader.parameter_oids
    cast = _cast_parameters(node)
    numbers = parameters_of(node)
    for number in numbers:
        oid = oids[number - 1] if number <= len(oids) else 0
        if oid >= _FIRST_USER_OID or (not oid and number not in cast):
            return None
    return tuple(sorted(numbers))


class Pushed:
    """The conditions of a statement by the table (the id of its RangeVar) that they concern."""

    def __init__(self, context: Context, known: Mapping[int, Relation]) -> None:
        self._context = context
        self._known = known
        self._found: dict[int, list[Node]] = {}
        for kind, body in context.parsed.nodes:
            if kind == "SelectStmt" and "fromClause" in body:
                self._select(body)
        body = context.body
        sources = body.get("fromClause", body.get("usingClause", []))
        if context.parsed.kind in {"UpdateStmt", "DeleteStmt"} and sources:
            self._modify(body, sources)

    def conditions(self, body: Node) -> tuple[Node, ...]:
        """Return the conditions for one table."""
        return tuple(self._found.get(id(body), ()))

    def _select(self, body: Node) -> None:
        everything = _Level(body["fromClause"], self._known)
        reached: list[Node] = []
        for item in body["fromClause"]:
            reached += self._join(item, everything)
        self._place(body.get("whereClause"), reached, everything)

    def _modify(self, body: Node, sources: list[Node]) -> None:
        """Place the conditions of an UPDATE or DELETE: the target is one more table in sight."""
        everything = _Level([{"RangeVar": body["relation"]}, *sources], self._known)
        reached: list[Node] = []
        for item in sources:
            reached += self._join(item, everything)
        self._place(body.get("whereClause"), reached, everything)

    def _join(self, item: Node, level: _Level) -> list[Node]:
        """Place the conditions of a join tree; returns the tables whose rows nothing in it makes NULL."""
        join = item.get("JoinExpr")
        if join is None:
            return tables([item])
        left, right = self._join(join["larg"], level), self._join(join["rarg"], level)
        kind = join.get("jointype", "JOIN_INNER")
        if "alias" in join:
            return []  # its tables cannot be named outside, and what can be is not theirs alone
        concerned = {"JOIN_INNER": [*left, *right], "JOIN_LEFT": right, "JOIN_RIGHT": left}.get(kind, [])
        self._place(join.get("quals"), concerned, level)
        return {"JOIN_INNER": [*left, *right], "JOIN_LEFT": left, "JOIN_RIGHT": right}.get(kind, [])

    def _place(self, condition: Node | None, candidates: list[Node], level: _Level) -> None:
        for part in conjuncts(condition):
            table = level.only_table(part)
            if table is not None and any(table is item for item in candidates) and self._harmless(part):
                self._found.setdefault(id(table), []).append(part)

    def _harmless(self, node: Node) -> bool:
        context = self._context
        if any(kind in _NEVER for kind, _ in walk(node)):
            return False
        effect = context.effect(node)
        if effect.volatile or effect.clock or effect.aggregate or effect.window or effect.returns_set or effect.sets:
            return False
        if effect.runs is not Runs.ANYWHERE or effect.kind is not EffectKind.CLOSED:
            return False
        return known_parameters(context, node) is not None and expression(node) is not None


class _Level:
    """The names of one query level: which table a condition's columns belong to."""

    def __init__(self, items: list[Node], known: Mapping[int, Relation]) -> None:
        self._tables = tables(items)
        self._known = known
        # Only where every item is a known table can a name without a table be told.
        self._all_known = all(id(body) in known for body in self._tables) and _plain(items)

    def only_table(self, node: Node) -> Node | None:
        """Return the one table whose columns an expression names, None if there are others or none."""
        found: Node | None = None
        for kind, body in walk(node):
            if kind != "ColumnRef":
                continue
            table = self._owner(strings(body["fields"]))
            if table is None or (found is not None and table is not found):
                return None
            found = table
        return found

    def _owner(self, fields: tuple[str, ...]) -> Node | None:
        if fields[-1] == "*" or len(fields) > _PAIR:
            return None
        if len(fields) == _PAIR:
            owners = [body for body in self._tables if _alias(body) == fields[0]]
        elif self._all_known:
            owners = [body for body in self._tables if self._known[id(body)].column(fields[0]) is not None]
        else:
            return None
        if len(owners) != 1 or id(owners[0]) not in self._known or "colnames" in owners[0].get("alias", {}):
            return None
        return owners[0] if self._known[id(owners[0])].column(fields[-1]) is not None else None


def _alias(body: Node) -> str:
    name: str = body.get("alias", {}).get("aliasname", body["relname"])
    return name


def _plain(items: list[Node]) -> bool:
    """Whether a FROM clause is nothing but tables and joins of them without merged columns or aliases."""
    for item in items:
        join = item.get("JoinExpr")
        if join is not None:
            if "usingClause" in join or join.get("isNatural") or "alias" in join:
                return False
            if not _plain([join["larg"], join["rarg"]]):
                return False
            continue
        found = tables([item])
        if not found or "colnames" in found[0].get("alias", {}):
            return False
    return True
