"""Which columns of its tables a statement can name.

Decides by names alone, and rather too many: a name without a table counts for every table that has such a column, so
that every name means over copies of these columns what it meant over the tables themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.tree import Node, strings, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from router.relation import Relation

_PAIR = 2


class Wanted:
    """The columns that a statement names. ``aliases``: the names under which it reads tables."""

    def __init__(self, nodes: Iterable[tuple[str, Node]], aliases: set[str]) -> None:
        self._names: set[str] = set()
        self._of: dict[str, set[str]] = {}
        self._whole: set[str] = set()  # aliases of which all columns count
        self._starred: set[int] = set()  # tables (by the id of their node) that a bare * shows, or a join's row
        self._natural = False
        self._groups: list[set[str]] = []
        self._rows: set[str] = set()  # names that may stand for whole rows
        joins: list[Node] = []
        others: set[str] = set()
        references: list[tuple[str, ...]] = []
        for kind, body in nodes:
            if kind == "ColumnRef":
                references.append(strings(body["fields"]))
            elif kind == "JoinExpr":
                self._natural = self._natural or bool(body.get("isNatural"))
                self._names.update(strings(body.get("usingClause")))
                others.update(item["aliasname"] for item in (body.get("alias"), body.get("join_using_alias")) if item)
                if "alias" in body:
                    joins.append(body)
            elif kind in {"RangeSubselect", "RangeFunction", "RangeTableFunc", "JsonTable"} and "alias" in body:
                others.add(body["alias"]["aliasname"])
            elif kind == "CommonTableExpr":
                others.add(body["ctename"])
            elif kind == "SelectStmt":
                self._select(body)
        for reference in references:
            self._reference(reference, aliases, others)
        self._join_rows(joins)

    def _reference(self, fields: tuple[str, ...], aliases: set[str], others: set[str]) -> None:
        if len(fields) == 1:
            self._names.add(fields[0])
            self._whole.add(fields[0])  # if it is a table's, its whole row is meant
            self._rows.add(fields[0])
            return
        alias = fields[-2]
        if fields[-1] == "*":
            self._whole.add(alias)
            self._rows.add(alias)
            return
        self._of.setdefault(alias, set()).add(fields[-1])
        if alias in others or alias not in aliases:
            self._names.add(fields[-1])
            self._whole.add(alias)
        if len(fields) > _PAIR:
            self._names.add(fields[-1])

    def _join_rows(self, joins: Iterable[Node]) -> None:
        """Of a join whose row is meant, or whose columns are named by their places, every column counts."""
        for body in joins:
            alias = body["alias"]
            if alias["aliasname"] in self._rows or "colnames" in alias:
                self._starred.update(id(item) for item in tables([{"JoinExpr": body}]))

    def _select(self, body: Node) -> None:
        if body.get("groupClause"):
            fields = (strings(item["fields"]) for kind, item in walk(body["groupClause"]) if kind == "ColumnRef")
            self._groups.append({names[-1] for names in fields})
        stars = (
            strings(target.get("ResTarget", {}).get("val", {}).get("ColumnRef", {}).get("fields"))
            for target in body.get("targetList", ())
        )
        if ("*",) in stars:
            self._starred.update(id(item) for item in tables(body.get("fromClause", [])))

    def columns(self, body: Node, relation: Relation) -> tuple[str, ...]:
        """Return the columns of a table that count where ``body`` names it."""
        alias = body.get("alias", {})
        name = alias.get("aliasname", body["relname"])
        whole = self._natural or name in self._whole or id(body) in self._starred or "colnames" in alias
        of_it = self._of.get(name, set())
        # A name behind a table's that is none of its columns is a function of its whole row.
        whole = whole or not of_it.issubset({column.name for column in relation.columns})
        named = self._names | of_it
        return tuple(column.name for column in relation.columns if whole or column.name in named)

    @property
    def rows(self) -> frozenset[str]:
        """Names that may stand for whole rows."""
        return frozenset(self._rows)

    def groups_by(self, key: Sequence[str]) -> bool:
        """Whether a GROUP BY names all columns of a key: columns that depend on it may stand beside it then."""
        return any(names.issuperset(key) for names in self._groups)


def tables(items: list[Node]) -> list[Node]:
    """Return the RangeVars of a FROM clause that are not inside subqueries."""
    found: list[Node] = []
    pending = list(items)
    while pending:
        item = pending.pop()
        if "RangeVar" in item:
            found.append(item["RangeVar"])
        elif "JoinExpr" in item:
            pending += [item["JoinExpr"]["larg"], item["JoinExpr"]["rarg"]]
        elif "RangeTableSample" in item:
            pending.append(item["RangeTableSample"]["relation"])
    return found
