"""How the rows of a query are spread: on one shard, the same on all, or in parts that no join crosses.

Decides whether a query equals the union of what its shards answer. A part's *keys* are the sharding keys of its
tables: in every row all of them that are not NULL belong to the shard that the row is on. Tables join inside a shard
if two of their keys are equal. Leaves to others what to do with the parts' rows (merge, aggregate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.keys import only
from router.plan import AnyShard, ByKeys, EveryShard, HomeShard, Target
from router.planner.names import Join, Leaf, Level, Merged, Place, Source, Tree
from router.tree import JSON_AGGREGATES, strings, walk

if TYPE_CHECKING:
    from router.keys import ColumnId, Facts
    from router.planner.context import Context
    from router.planner.scope import Scope
    from router.tree import Node

# Aggregates that give one value whatever the order of their input: copies of a reference table agree on them.
ORDERLESS = frozenset(
    [
        "count",
        "sum",
        "min",
        "max",
        "avg",
        "bool_and",
        "bool_or",
        "every",
        "bit_and",
        "bit_or",
        "bit_xor",
        "any_value",
        "stddev",
        "variance",
    ]
) - {"any_value", "stddev", "variance"}


@dataclass(frozen=True, slots=True)
class Part:
    """Rows in parts by ``keys``; no keys: every shard has all of them."""

    keys: tuple[ColumnId, ...] = ()


def sharded(scope: Scope) -> list[Source]:
    """Return the sharded tables of a statement."""
    return [source for source in scope.sources if source.place is Place.SHARDED]


def one_shard(scope: Scope) -> Target | None:
    """Return the target if everything is on one shard: all keys equal one value, or nothing is sharded."""
    found = sharded(scope)
    if not found:
        at_home = any(source.place is Place.HOME for source in scope.sources)
        return HomeShard() if at_home else AnyShard()
    check_no_home(scope)
    terms = set()
    for source in found:
        if source.key is None:
            return None
        term = only(source.facts.terms(source.key))
        if term is None:
            return None
        terms.add((source.key.family, term))
    if len(terms) != 1:
        return None
    return ByKeys(found[0].key_type, (terms.pop()[1],))


def check_no_home(scope: Scope) -> None:
    """Refuse tables of the home shard beside sharded ones."""
    for source in scope.sources:
        if source.place is Place.HOME and scope.context.many:
            name = source.relation.name if source.relation is not None else "an unknown table"
            raise scope.context.refuse("home-and-sharded", source.location, table=name)


def target_of(level: Level, part: Part, scope: Scope) -> Target:
    """Return the shards that rows of a level can be on."""
    choices = [(level.facts.terms(key), key) for key in part.keys]
    known = [(terms, key) for terms, key in choices if terms is not None]
    if not known:
        return EveryShard()
    terms, key = min(known, key=lambda pair: len(pair[0]))
    return ByKeys(scope.sources[key.source].key_type, terms)


class Spread:
    """Folds a level's join tree."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._context: Context = scope.context

    def level(self, level: Level) -> Part:
        """Return how the rows before grouping of a level are spread; refuses rows that would join across shards."""
        part = self.rows(level)
        for nested in level.nested:
            self.nested(nested, part)
        return part

    def rows(self, level: Level) -> Part:
        """Return how the rows of FROM are spread; its subqueries elsewhere are not looked at."""
        if level.arms:
            raise self._context.refuse("cross-shard", detail="A set operation spans shards.")
        return Part() if level.tree is None else self._fold(level.tree)

    def nested(self, level: Level, outside: Part) -> None:
        """Check a subquery: all its sharded tables are equal by key to the row outside, or it reads copies only."""
        found = self._all_sources(level)
        tables = [source for source in found if source.place is Place.SHARDED]
        node: Node = {"SelectStmt": level.node}
        for source in found:  # a WITH that is read here has one result for everybody who reads it
            if source.level is not None and self._context.effect({"SelectStmt": source.level.node}).volatile:
                raise self._context.refuse("volatile-once", source.location)
        if not tables:
            if self._context.effect(node).volatile and (
                level.tree is not None or not any(kind == "ColumnRef" for kind, _ in walk(node))
            ):
                raise self._context.refuse("volatile-once")
            self._check_copies(level)
            return
        for source in tables:
            key = source.key
            if key is None or not any(source.facts.same(key, other) for other in outside.keys):
                raise self._context.refuse("subquery", source.location)

    def _all_sources(self, level: Level) -> list[Source]:
        found: list[Source] = []
        if level.tree is not None:
            found.extend(self._tree_sources(level.tree))
        for child in (*level.nested, *level.arms):
            found.extend(self._all_sources(child))
        return found

    def _tree_sources(self, tree: Tree) -> list[Source]:
        if isinstance(tree, Join):
            return self._tree_sources(tree.left) + self._tree_sources(tree.right)
        if isinstance(tree, Merged):
            return [] if tree.tree is None else self._tree_sources(tree.tree)
        inner = self._all_sources(tree.source.level) if tree.source.level is not None else []
        return [tree.source, *inner]

    def _check_copies(self, level: Level) -> None:
        """Refuse what copies of a reference table could answer differently: a choice among rows, an order of rows."""
        if not any(source.place is Place.REFERENCE for source in self._all_sources(level)):
            return
        for kind, body in walk({"SelectStmt": level.node}):
            if kind == "SelectStmt" and (
                "limitCount" in body or "limitOffset" in body or any(body.get("distinctClause", ()))
            ):
                raise self._context.refuse("replicated-subquery")
            if kind in JSON_AGGREGATES:
                raise self._context.refuse("replicated-subquery", body.get("constructor", {}).get("location"))
            if kind != "FuncCall":
                continue
            effect = self._context.call_effect(body)
            name = strings(body.get("funcname"))[-1]
            if effect.volatile or "over" in body or (effect.aggregate and name not in ORDERLESS):
                raise self._context.refuse("replicated-subquery", body.get("location"))

    def _fold(self, tree: Tree) -> Part:
        if isinstance(tree, Leaf):
            return self._leaf(tree.source)
        if isinstance(tree, Merged):
            return Part() if tree.tree is None else self._fold(tree.tree)
        left = self._fold(tree.left)
        right = self._lateral(tree, left) or self._fold(tree.right)
        if left.keys and right.keys:
            if not _joined(left, right, tree.facts):
                source = next(iter(self._tree_sources(tree.right)), None)
                raise self._context.refuse("cross-shard", source.location if source is not None else None)
            return Part((*left.keys, *right.keys))
        if right.keys and tree.kind != "inner":
            raise self._outer(tree.left)
        if left.keys and tree.kind == "full":
            raise self._outer(tree.right)
        return left if left.keys else right

    def _outer(self, tree: Tree) -> Exception:
        for source in self._tree_sources(tree):
            name = source.relation.name if source.relation is not None else "a subquery"
            return self._context.refuse("outer-join", source.location, table=name)
        return self._context.refuse("outer-join", table="a subquery")

    def _leaf(self, source: Source) -> Part:
        if source.sampled:
            raise self._context.refuse("sample", source.location)
        if source.place is Place.RECURSIVE:
            raise self._context.refuse("recursive", source.location)
        if source.place is Place.DERIVED:
            return self._derived(source)
        if source.once:
            raise self._context.refuse("volatile-once", source.location)
        return Part((source.key,)) if source.key is not None else Part()

    def _derived(self, source: Source) -> Part:
        """A subquery in FROM: copies only, or grouped by its sharding key."""
        level = source.level
        if level is None:
            raise self._context.refuse("modifying-cte", source.location)
        inner = self._all_sources(level)
        tables = any(item.place in {Place.SHARDED, Place.REFERENCE, Place.HOME} for item in inner)
        if any(item.place is Place.RECURSIVE for item in inner) and (
            tables or self._context.effect({"SelectStmt": level.node}).volatile
        ):
            raise self._context.refuse("recursive", source.location)
        if not any(item.place is Place.SHARDED for item in inner):
            if self._context.effect({"SelectStmt": level.node}).volatile:
                raise self._context.refuse("volatile-once")
            self._check_copies(level)
            return Part()
        keys = self._whole_groups(source, level)
        if not keys:
            raise self._context.refuse("subquery", next(i.location for i in inner if i.place is Place.SHARDED))
        return Part(keys)

    def _whole_groups(self, source: Source, level: Level) -> tuple[ColumnId, ...]:
        """Return the sharding keys among the columns of a subquery whose groups stay on one shard each."""
        from router.planner.merge import Query  # noqa: PLC0415 - merge plans by what this file finds

        if level.arms or any(field in level.node for field in ("limitCount", "limitOffset", "lockingClause")):
            return ()
        query = Query(self._context, self._scope, level, self.level(level))
        if query.needs_merge():
            return ()
        found = [(outside, inside) for outside, inside in source.columns if query.is_key_column(inside)]
        if found:
            source.key_type = self._scope.sources[query.keys[0].source].key_type
        return tuple(outside for outside, _ in found)

    def _lateral(self, tree: Join, left: Part) -> Part | None:
        """A LATERAL subquery whose tables are all equal by key to the row on its left stays on that row's shard."""
        right = tree.right
        if not isinstance(right, Leaf) or right.source.level is None or not left.keys or tree.kind == "full":
            return None
        tables = [item for item in self._all_sources(right.source.level) if item.place is Place.SHARDED]
        equal = (item.key is not None and any(item.facts.same(item.key, key) for key in left.keys) for item in tables)
        return Part() if tables and all(equal) else None


def _joined(left: Part, right: Part, facts: Facts) -> bool:
    return any(facts.same(one, other) for one in left.keys for other in right.keys)
