"""The dispatcher: statement kind -> planner."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from router.cluster import Home
from router.errors import SyntaxFailure, refusal
from router.plan import Empty, Statement
from router.planner import (
    auditing,
    control,
    copy,
    creating,
    ddl,
    explaining,
    filling,
    hints,
    insert,
    modify,
    passthrough,
    select,
    session_views,
    set_config,
    utility,
    view_targets,
)
from router.planner.context import Context, names_own_schema
from router.planner.long_values import LongValues
from router.planner.once import runs_once
from router.planner.passthrough import one_shard_database
from router.rights import UNKNOWN_ROLE
from router.statement import parse
from router.tree import name_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.catalog import Catalog
    from router.cluster import Database
    from router.statement import Parsed

_SESSION: Final[dict[str, Callable[[Context], Statement]]] = {
    "TransactionStmt": control.transaction,
    "VariableSetStmt": control.set_variable,
    "VariableShowStmt": control.show,
    "ConstraintsSetStmt": control.constraints,
    "DiscardStmt": control.discard,
    "PrepareStmt": control.prepare,
    "ExecuteStmt": control.execute,
    "DeallocateStmt": control.deallocate,
    "FetchStmt": control.fetch,
    "ClosePortalStmt": control.close,
    "ListenStmt": control.listen,
    "UnlistenStmt": control.unlisten,
    "NotifyStmt": control.notify,
}
_DATA: Final[dict[str, Callable[[Context], Statement]]] = {
    "SelectStmt": auditing.first(select.plan),
    "InsertStmt": auditing.first(insert.plan),
    "UpdateStmt": auditing.first(modify.plan),
    "DeleteStmt": auditing.first(modify.plan),
    "MergeStmt": auditing.first(modify.plan),
    "CopyStmt": copy.plan,
    "ExplainStmt": explaining.explain,
    "DeclareCursorStmt": utility.declare,
    "LockStmt": utility.lock,
    "DoStmt": auditing.do,
    "CallStmt": auditing.first(utility.call),
    "VacuumStmt": utility.vacuum,
    "TruncateStmt": auditing.first(utility.truncate),
    "CheckPointStmt": utility.checkpoint,
    "LoadStmt": utility.load,
    **ddl.PLANNERS,
}

_EVERYWHERE: Final = frozenset({"pg_catalog", "information_schema"})
_FILLED: Final = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


class Planner:
    """Plans statements against one catalog. Immutable: a new catalog needs a new planner."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self.database = database
        self.catalog = catalog
        self._views = view_targets.ViewTargets()
        self._long = LongValues(database, catalog, self._views.context, self.plan_one)

    def plan(
        self, text: str, search_path: tuple[str, ...] = ("public",), parameter_oids: tuple[int, ...] = ()
    ) -> tuple[Statement, ...]:
        """Plan every statement of a message; raises SyntaxFailure or Refused (whose position counts in the message).

        A text without any statement gives one Empty. ``search_path``: effective, ``$user`` replaced.
        ``parameter_oids``: as far as known, 0 for open ones.
        """
        long = self._long.plan(text, search_path, parameter_oids)
        if long is not None:
            return (long,)
        found = parse(text)
        if not found:
            return (Statement(text, Empty(), ""),)
        return tuple(self.plan_one(parsed, search_path, parameter_oids) for parsed in found)

    def names_home(self, text: str, search_path: tuple[str, ...], *, temporary: bool = False) -> bool:
        """Whether a message names a relation that the home shard alone has: no other can say what it gives.

        ``temporary``: a name that nobody knows may be that of a temporary relation, which is there.
        """
        try:
            found = parse(text)
        except SyntaxFailure:
            return False
        return any(
            kind == "RangeVar" and self._at_home(name_parts(body), search_path, temporary=temporary)
            for parsed in found
            for kind, body in parsed.nodes
        )

    def _at_home(self, name: tuple[str, ...], search_path: tuple[str, ...], *, temporary: bool) -> bool:
        relation = self.catalog.resolve(name, search_path)
        if relation is None:
            return temporary
        if relation.name.schema in _EVERYWHERE:
            return False
        return isinstance(self.catalog.effective_placement(relation), Home)

    def plan_one(
        self, parsed: Parsed, search_path: tuple[str, ...] = ("public",), parameter_oids: tuple[int, ...] = ()
    ) -> Statement:
        """Plan one statement of :func:`router.statement.parse`: a message may change the catalog as it goes on."""
        try:
            return self._plan_one(Context(self.database, self.catalog, parsed, search_path, parameter_oids))
        except RecursionError as error:
            raise refusal("too-deep", sqlstate="54001") from error

    def _plan_one(self, context: Context) -> Statement:
        parsed, search_path = context.parsed, context.search_path
        kind = parsed.kind
        session = _SESSION.get(kind)
        if kind == "ExplainStmt" and "ExecuteStmt" in parsed.body.get("query", {}):
            session = control.explain
        if session is not None:
            if names_own_schema(parsed.text, kind, parsed.body):
                raise context.refuse("own-schema")
            return session(context)
        if names_own_schema(parsed.text, kind, parsed.body) or "pgchorus" in search_path:
            raise context.refuse("own-schema")
        set_config.check_own(context)
        if UNKNOWN_ROLE in search_path:
            raise context.refuse("role-unknown")
        planner = _DATA.get(kind) if context.many else one_shard_database
        context = self._views.context(context)
        if not context.many and creating.executes_prepared(context):
            planner = creating.as_on_one_shard
        if kind == "ExplainStmt" and explaining.asks_for_route(parsed.body):
            return explaining.explain(context)
        shard = hints.hinted(context) if context.many and kind != "ExplainStmt" else None
        if shard is not None:
            return hints.plan(context, shard)
        if planner is None:
            raise context.refuse("unknown-statement", name=passthrough.tag_of(parsed))
        filled = context.many and kind in _FILLED and "IntoClause" not in parsed.kinds
        planner = partial(filling.planned, planner=planner) if filled else planner
        statement = session_views.planned(context, planner)
        self._views.check(context, statement)
        return _with_traces(context, statement)


def _with_traces(context: Context, statement: Statement) -> Statement:
    """Return the statement with what it may leave on links that its own planner does not look for."""
    set_config.check_heard(context, statement)
    once = runs_once(context)
    if once:
        statement = replace(statement, once=once)
    if context.leaves_custom():
        statement = replace(statement, leaves_custom=True)
    if not statement.pins and (pins := context.pins_out_of_sight()):
        statement = replace(statement, pins=pins)
    if not statement.dirties and context.sets_out_of_sight(told=bool(statement.set_config)):
        statement = replace(statement, dirties=True)
    return set_config.watched(context, statement)
