"""Names in a query: range table entries, what column references mean, the join tree.

Decides nothing about shards. A name that cannot be resolved for certain means nothing (None), and what it stands in
does not route. Built by :mod:`router.planner.scope`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from router.keys import ColumnId, Facts, family
from router.tree import Node, items, strings

if TYPE_CHECKING:
    from router.relation import Relation

_PAIR = 2
_TRIPLE = 3


class Place(Enum):
    """Where the rows of a range table entry are."""

    SHARDED = "sharded"
    REFERENCE = "reference"
    HOME = "home"
    FREE = "free"  # functions, VALUES: the same everywhere
    DERIVED = "derived"  # a subquery that is not merged into its parent
    RECURSIVE = "recursive"  # a recursive CTE's reference to itself


@dataclass(eq=False, slots=True)
class Source:
    """A range table entry. ``key`` and ``key_type`` of sharded tables; ``level`` of derived ones.

    ``columns`` of derived ones: (column outside, column inside) where it is plain.
    """

    index: int
    place: Place
    facts: Facts
    location: int | None
    relation: Relation | None = None
    key: ColumnId | None = None
    key_type: str = ""
    level: Level | None = None
    sampled: bool = False
    once: bool = False  # a function whose rows are made once, and would differ from shard to shard
    alias: str = ""
    columns: list[tuple[ColumnId, ColumnId]] = field(default_factory=list)


@dataclass(slots=True)
class Item:
    """A name in FROM and its columns in order. ``columns`` None: nobody knows. A column None: ambiguous, computed."""

    alias: str
    columns: dict[str, ColumnId | None] | None
    relation: Relation | None = None


@dataclass(slots=True)
class Names:
    """What column references mean: the items in sight, columns merged by USING, and the level outside."""

    visible: list[Item]
    merged: dict[str, ColumnId | None] = field(default_factory=dict)
    outer: Names | None = None

    def column(self, node: Node) -> ColumnId | None:
        """Return what a ColumnRef means, None if that is not certain."""
        if "ColumnRef" not in node:
            return None
        return self.lookup(strings(node["ColumnRef"].get("fields")))

    def lookup(self, parts: tuple[str, ...]) -> ColumnId | None:
        """Return what a dotted name means."""
        if "*" in parts:
            return None
        if len(parts) == 1:
            return self._unqualified(parts[0])
        if len(parts) == _PAIR:
            owners = [item for item in self.visible if item.alias == parts[0]]
        elif len(parts) == _TRIPLE:
            owners = [
                item
                for item in self.visible
                if item.relation is not None and (item.relation.name.schema, item.alias) == parts[:2]
            ]
        else:
            return None
        if not owners:
            return self.outer.lookup(parts) if self.outer is not None else None
        if len(owners) > 1 or owners[0].columns is None:
            return None
        return owners[0].columns.get(parts[-1])

    def owns(self, parts: tuple[str, ...]) -> bool | None:
        """Whether a dotted name means something of this level, not of one outside; None: that is not certain."""
        if len(parts) != 1:
            return any(item.alias == parts[-2] for item in self.visible)
        if parts[0] in self.merged or any(
            item.columns is not None and parts[0] in item.columns for item in self.visible
        ):
            return True
        if any(item.columns is None or item.alias == parts[0] for item in self.visible):
            return None
        return False

    def _unqualified(self, name: str) -> ColumnId | None:
        if name in self.merged:
            return self.merged[name]
        if any(item.columns is None for item in self.visible):
            return None
        owners = [item for item in self.visible if item.columns is not None and name in item.columns]
        if not owners:
            return self.outer.lookup((name,)) if self.outer is not None else None
        columns = owners[0].columns
        return columns.get(name) if len(owners) == 1 and columns is not None else None


@dataclass(slots=True)
class Leaf:
    """A source in the join tree."""

    source: Source


@dataclass(slots=True)
class Merged:
    """A subquery that is part of its parent: its own tree and names."""

    tree: Tree | None


@dataclass(slots=True)
class Join:
    """A join. ``facts``: what holds where its condition counts. ``kind``: inner, left (right is turned) or full."""

    kind: str
    left: Tree
    right: Tree
    facts: Facts
    location: int | None = None


Tree = Leaf | Merged | Join


@dataclass(eq=False, slots=True)
class Level:
    """One query level. ``arms``: of a set operation. ``nested``: sublinks and unmerged CTEs, not those in FROM."""

    node: Node
    names: Names
    facts: Facts
    tree: Tree | None = None
    arms: tuple[Level, ...] = ()
    nested: list[Level] = field(default_factory=list)
    outputs: dict[str, ColumnId | None] | None = None
    correlated: bool = False


@dataclass(frozen=True, slots=True)
class Cte:
    """WITH name (aliases) AS (node)."""

    name: str
    node: Node
    kind: str
    aliases: tuple[str, ...]
    recursive: bool
    environment: dict[str, Cte]
    names: Names | None
    facts: Facts | None


def relation_columns(source: Source) -> dict[str, ColumnId | None] | None:
    """Return the visible columns of a table; None when the catalog does not list them."""
    relation = source.relation
    if relation is None or not relation.columns:
        return None
    found: dict[str, ColumnId | None] = {}
    for column in relation.columns:
        plain = column.type_schema == "pg_catalog" and column.deterministic
        found[column.name] = ColumnId(source.index, column.name, family(column.type_name) if plain else None)
    return found


def renamed(columns: dict[str, ColumnId | None], aliases: tuple[str, ...]) -> dict[str, ColumnId | None]:
    """Give the first columns other names, as an alias's column list does."""
    names = [*aliases, *list(columns)[len(aliases) :]]
    found: dict[str, ColumnId | None] = {}
    for name, column in zip(names, columns.values(), strict=False):
        found[name] = None if name in found else column
    return found


def derived_columns(level: Level, *aliases: tuple[str, ...]) -> dict[str, ColumnId | None] | None:
    """Return a subquery's columns under their names outside."""
    columns = level.outputs
    for names in aliases:
        columns = None if columns is None else renamed(columns, names)
    return columns


def outputs(level: Level) -> dict[str, ColumnId | None] | None:
    """Return the output columns of a level by name, None when their names are not certain."""
    found: dict[str, ColumnId | None] = {}

    def put(name: str, column: ColumnId | None) -> None:
        found[name] = None if name in found else column

    if "valuesLists" in level.node:
        width = len(items(level.node["valuesLists"][0]))
        return {f"column{number + 1}": None for number in range(width)}
    for target in level.node.get("targetList", ()):
        body = target["ResTarget"]
        value = body.get("val", {})
        fields = strings(value.get("ColumnRef", {}).get("fields"))
        if fields[-1:] == ("*",):
            starred = star_columns(level.names, fields)
            if starred is None:
                return None
            for name, column in starred:
                put(name, column)
        elif "name" in body:
            put(body["name"], level.names.column(value))
        elif fields:
            put(fields[-1], level.names.column(value))
        else:
            put(f"?{len(found)}", None)
    return found


def star_columns(names: Names, fields: tuple[str, ...]) -> list[tuple[str, ColumnId | None]] | None:
    """Expand ``*`` or ``t.*``: names in order; None when not all are known. USING columns come first, once."""
    if len(fields) == 1:
        if any(item.columns is None for item in names.visible):
            return None
        merged = list(names.merged.items())
        rest = [pair for item in names.visible for pair in (item.columns or {}).items() if pair[0] not in names.merged]
        return [*merged, *rest]
    owners = [item for item in names.visible if item.alias == fields[-2]]
    if len(owners) != 1 or owners[0].columns is None:
        return None
    return list(owners[0].columns.items())


def positions(level: Level) -> dict[str, ColumnId | None] | None:
    """A set operation's columns are computed: only their names stay."""
    return None if level.outputs is None else dict.fromkeys(level.outputs, None)


def using(body: Node, left: list[Item], right: list[Item]) -> tuple[str, ...]:
    """Return the column names that a join's USING or NATURAL merges."""
    if not body.get("isNatural"):
        return strings(body.get("usingClause"))
    one = {name for item in left for name in item.columns or ()}
    other = {name for item in right for name in item.columns or ()}
    return tuple(sorted(one & other))


def function_name(body: Node) -> str:
    """Return the name that a function in FROM has without an alias."""
    for part in items(body.get("functions")):
        call = items(part)[0] if items(part) else {}
        return strings(call.get("FuncCall", {}).get("funcname"))[-1:][0] if "FuncCall" in call else ""
    return ""


_ONE_COLUMN = frozenset(
    {"generate_series", "unnest", "string_to_table", "regexp_split_to_table", "generate_subscripts"}
)


def function_columns(body: Node) -> dict[str, ColumnId | None] | None:
    """Return the columns of a function in FROM where they are certain: those of a few functions with one column."""
    calls = items(body.get("functions"))
    name = function_name(body)
    if len(calls) != 1 or name not in _ONE_COLUMN or body.get("coldeflist") or body.get("ordinality"):
        return None
    alias = body.get("alias", {})
    label = (strings(alias.get("colnames")) or (alias.get("aliasname", name),))[0]
    if name == "unnest":
        return None  # of composite elements: more columns
    return {label: None}
