"""Calls of set_config that stand in a statement's text: whether the session hears what they set.

Decides which statements may call it over several shards: those that one shard runs as they came, after which the
session follows the call (:meth:`~router.planner.context.Context.set_config`). Anywhere else - in a COPY's or a cursor's
query, in a table that is made from one, in rows that are dealt to shards - the setting would be that link's alone. What
functions set out of sight is left to others, and so are the links.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from router.plan import Single
from router.plan_steps import Filled, Moment
from router.planner.passthrough import analyzes
from router.tree import constant, strings

if TYPE_CHECKING:
    from router.plan import Statement
    from router.planner.context import Context
    from router.tree import Node

_OWN: Final = "pgchorus."
_CALLING: Final = frozenset(
    {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt", "DeclareCursorStmt",
     "CreateTableAsStmt", "ExplainStmt"}
)  # fmt: skip
"""What calls a function when it runs: a view, a default or a body of SQL only names it."""


_RUNNING: Final = frozenset(
    {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CallStmt", "TruncateStmt", "AlterTableStmt"}
)
_UNWATCHED: Final = frozenset({"DeclareCursorStmt", "CreateTableAsStmt", "RefreshMatViewStmt"})


def check_own(context: Context) -> None:
    """Refuse set_config of the proxy's own settings: SET alone reaches them."""
    for call in _calls(context):
        arguments = call.get("args", [{}])
        literal = constant(arguments[0].get("TypeCast", {}).get("arg", arguments[0]))
        if literal is not None and str(literal[1]).lower().startswith(_OWN):
            raise context.refuse("own-setting", call.get("location"), name=literal[1])


def check_heard(context: Context, statement: Statement) -> None:
    """Refuse calls over several shards that nobody would follow."""
    if not context.many or (context.parsed.kind == "ExplainStmt" and not analyzes(context.body)):
        return
    if statement.set_config and statement.audit is None and _goes_as_it_came(statement):
        return
    for call in _calls(context):
        raise context.refuse("setting-unheard", call.get("location"))


def watched(context: Context, statement: Statement) -> Statement:
    """Return the statement, marked where functions of it may set something that its text does not tell of.

    Refuses one whose functions run later, or where nobody looks.
    """
    if not (context.many and statement.dirties and statement.audit is None):
        return statement
    kind, body = context.parsed.kind, context.body
    if kind == "ExplainStmt" and not analyzes(body):
        # The planner calls those that are STABLE or IMMUTABLE.
        return replace(statement, watched=True) if isinstance(statement.plan, Single) else statement
    runs = kind in _RUNNING and "IntoClause" not in context.parsed.kinds
    if (runs or (kind == "CopyStmt" and body.get("is_from"))) and not statement.set_config:
        return replace(statement, watched=True, sets_unnamed=context.sets_unnamed())
    if runs or kind in _UNWATCHED or kind in _CALLING:
        raise context.refuse("setting-hidden")
    return statement


def _calls(context: Context) -> list[Node]:
    if "FuncCall" not in context.parsed.kinds or context.parsed.kind not in _CALLING:
        return []
    found = [body for kind, body in context.parsed.nodes if kind == "FuncCall"]
    return [body for body in found if strings(body.get("funcname"))[-1:] == ("set_config",)]


def _goes_as_it_came(statement: Statement) -> bool:
    plan = statement.plan
    if isinstance(plan, Filled):
        clocks = all(isinstance(value, Moment) for row in plan.values for value in row)
        return clocks and isinstance(plan.inner.plan, Single)
    return isinstance(plan, Single)
