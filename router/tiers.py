"""The tier of a plan in a word or two: the label by which statements are counted.

EXPLAIN (ROUTE) says the same at greater length (:mod:`router.route`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.plan import (
    Aggregate,
    Ddl,
    DeclareSpread,
    Empty,
    ExplainRoute,
    ExplainShards,
    Gather,
    Ordered,
    Same,
    Scatter,
    ShardByShard,
    Single,
    SplitInsert,
)
from router.plan_control import CursorControl, PreparedControl, SettingControl, TransactionControl
from router.plan_copy import CopyIn, CopyOut
from router.plan_steps import ApplyRows, CreateFrom, Filled, LockCopies, LockRows, MoveRows, OwnRows

if TYPE_CHECKING:
    from router.plan import Plan

ONE_SHARD: Final = "one shard"
SESSION: Final = "session"  # what the session answers itself, or ends: BEGIN, COMMIT, SET
_NAMES: Final[dict[type, str]] = {
    Single: ONE_SHARD,
    OwnRows: "push-down",
    Gather: "gather",
    SplitInsert: "split",
    MoveRows: "split",
    LockRows: "locks",
    LockCopies: "locks",
    ApplyRows: "every copy",
    CreateFrom: "ddl",
    Ddl: "ddl",
    ShardByShard: "ddl",
    CopyIn: "copy",
    CopyOut: "copy",
    ExplainRoute: "explain",
    ExplainShards: "explain",
    DeclareSpread: "cursor",
    CursorControl: "cursor",
    TransactionControl: SESSION,
    SettingControl: SESSION,
    PreparedControl: SESSION,
    Empty: SESSION,
}


def tier_of(plan: Plan) -> str:
    """Return the tier's name."""
    while isinstance(plan, Filled):
        plan = plan.inner.plan
    if isinstance(plan, Scatter):
        if isinstance(plan.combine, Same):
            return "every copy"
        return "merge" if isinstance(plan.combine, Ordered | Aggregate) else "push-down"
    return _NAMES.get(type(plan), "others")
