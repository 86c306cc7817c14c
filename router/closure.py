"""Everything that using a relation or a function sets off, followed to the end.

Decides reachability over the catalog's facts: a view's query, a trigger's function, what that function calls and
writes, the triggers of what it writes, and so on. Leaves to :mod:`router.catalog` whether what is reached is allowed
from where it is reached.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from router.cluster import TableName, Vouch
from router.relation import NOTHING, Function, FunctionName, Relation, RelationKind, Uses

if TYPE_CHECKING:
    from collections.abc import Mapping

CASCADING = frozenset("cnd")  # CASCADE, SET NULL, SET DEFAULT: a foreign key's action that writes


@dataclass(slots=True)
class Reach:
    """What was reached. ``unknown``: why it may be anything ('' = it is not).

    ``escapes``: something of it cannot be asked for afterwards, see :class:`~router.relation.Uses`.
    ``home``, ``local``: functions that are vouched for so. ``builtins``: built-in functions.
    ``sets``: a user function changes settings; ``sets_custom``: such as no DISCARD removes; ``sets_unnamed``: such
    as it names by an expression. ``keeps``: what a function
    may leave in the server's process besides, '' for nothing. ``rows`` as in :class:`~router.relation.Uses`.
    """

    reads: set[TableName] = field(default_factory=set)
    writes: set[TableName] = field(default_factory=set)
    functions: set[FunctionName] = field(default_factory=set)
    builtins: set[str] = field(default_factory=set)
    unknown: str = ""
    escapes: bool = False
    home: str = ""
    local: str = ""
    sets: bool = False
    sets_custom: bool = False
    sets_unnamed: bool = False
    keeps: str = ""
    rows: set[TableName] = field(default_factory=set)

    @property
    def tables(self) -> frozenset[TableName]:
        """All relations reached."""
        return frozenset(self.reads | self.writes)


class Closure:
    """Follows facts. Cheap to make; each walk visits each relation and function once."""

    def __init__(
        self,
        relations: Mapping[TableName, Relation],
        functions: Mapping[FunctionName, tuple[Function, ...]],
        vouched: Mapping[str, Vouch],
    ) -> None:
        self._relations = relations
        self._functions = functions
        self._vouched = vouched

    def vouch(self, name: FunctionName) -> Vouch | None:
        """Return what the configuration says of a function; a name without a schema there means ``public``."""
        found = self._vouched.get(f"{name.schema}.{name.name}")
        if found is None and name.schema == "public":
            found = self._vouched.get(name.name)
        return found

    def follow(self, uses: Uses) -> Reach:
        """Return all that a piece of SQL reaches, what it names itself included."""
        walk = _Walk(self, self._relations, self._functions)
        walk.uses(uses)
        return walk.run()

    def direct(self, relation: Relation, *, write: bool, defaults: frozenset[str] | None = None) -> Uses:
        """Return what Postgres itself does when ``relation`` is read or written, the relation itself left out.

        What reads a materialized view reads the rows that it has. REFRESH, which runs its query, is not meant here.
        ``defaults``: columns whose default may be computed; None means all. Foreign keys are left out.
        """
        uses = NOTHING if relation.kind is RelationKind.MATERIALIZED else relation.read_uses
        for rule in relation.rules:
            if write or rule.event == "select":
                uses |= rule.uses
        if not write:
            return uses
        uses |= relation.write_uses
        for column in relation.columns:
            if column.generated or defaults is None or column.name in defaults:
                uses |= column.uses
        for trigger in relation.triggers:
            uses |= replace(trigger.uses, escapes=True) if trigger.deferrable else trigger.uses
        if relation.is_view:
            uses |= Uses(writes=relation.read_uses.reads)
        return uses


class _Walk:
    """One walk: a work list of (relation, written?) and functions."""

    def __init__(
        self,
        closure: Closure,
        relations: Mapping[TableName, Relation],
        functions: Mapping[FunctionName, tuple[Function, ...]],
    ) -> None:
        self._closure = closure
        self._relations = relations
        self._functions = functions
        self._reach = Reach()
        self._pending: list[tuple[Relation, bool]] = []

    def uses(self, uses: Uses) -> None:
        """Note what a piece of SQL names, and queue what is new."""
        reach = self._reach
        reach.unknown = reach.unknown or uses.unknown
        reach.escapes = reach.escapes or uses.escapes
        reach.rows |= uses.rows
        for table in uses.writes - reach.writes:
            reach.writes.add(table)
            self._queue(table, write=True)
        for table in uses.reads - reach.reads - reach.writes:
            reach.reads.add(table)
            self._queue(table, write=False)
        for function in uses.functions:
            self._function(function)

    def _queue(self, table: TableName, *, write: bool) -> None:
        relation = self._relations.get(table)
        if relation is not None:
            self._pending.append((relation, write))

    def _function(self, name: FunctionName) -> None:
        reach = self._reach
        if name in reach.functions:
            return
        reach.functions.add(name)
        vouch = self._closure.vouch(name)
        overloads = self._functions.get(name)
        if overloads is None:
            if name.schema == "pg_catalog":
                reach.builtins.add(name.name)
            else:
                reach.unknown = reach.unknown or f"function {name} is not known"
            return
        reach.sets |= any(function.sets for function in overloads)
        reach.sets_unnamed |= any(function.sets_unnamed for function in overloads)
        reach.sets_custom |= any(function.sets_custom or function.keeps for function in overloads)
        if any(function.keeps for function in overloads):
            reach.keeps = reach.keeps or f"what {name}() leaves behind"
        if vouch is Vouch.HOME:
            reach.home = reach.home or f"function {name} is vouched for the home shard"
        elif vouch is Vouch.LOCAL:
            reach.local = reach.local or f"function {name} is vouched to stay on its shard"
        for function in overloads:
            uses = function.uses
            reach.rows |= uses.rows  # whatever it does, it is where these are
            if vouch is None:
                if uses.unknown:
                    reach.unknown = reach.unknown or f"function {name} {uses.unknown}"
                    uses = replace(uses, unknown="")
                self.uses(uses)

    def run(self) -> Reach:
        """Follow what is queued until nothing is new."""
        while self._pending:
            relation, write = self._pending.pop()
            self.uses(self._closure.direct(relation, write=write))
            related = Uses(writes=frozenset(relation.children)) if write else Uses(reads=frozenset(relation.children))
            if write:
                checked = frozenset(key.table for key in relation.foreign_keys)
                cascaded = frozenset(
                    table for table, key in relation.referenced_by if {key.on_delete, key.on_update} & CASCADING
                )
                related |= Uses(reads=checked, writes=cascaded)
            self.uses(related)
        return self._reach
