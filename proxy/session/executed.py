"""What EXECUTE runs where the statement that it names is itself about the session: another EXECUTE, BEGIN, SET, FETCH.

SQL's PREPARE makes none of these, the protocol's Parse does, and EXECUTE finds what that has made. Postgres then runs
it as if it had been written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.session import adopting
from router.plan import Empty, ExplainRoute, ExplainShards, Statement
from router.plan_control import (
    CursorControl,
    Prepared,
    PreparedControl,
    Setting,
    SettingControl,
    TransactionControl,
)

if TYPE_CHECKING:
    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session

#: Plans of statements about the session itself.
CONTROL: Final = (
    TransactionControl,
    SettingControl,
    PreparedControl,
    CursorControl,
    Empty,
    ExplainRoute,
    ExplainShards,
)
#: Statements that name each other; Postgres's limit is its stack.
_DEEPEST: Final = 1000


async def behind_execute(session: Session, statement: Statement) -> Statement:
    """Return what is to be run for a statement: for EXECUTE of what is about the session that, else itself."""
    found = await control_behind(session, statement)
    return statement if found is None else found.statement


async def control_behind(session: Session, statement: Statement) -> PreparedStatement | None:
    """Return what EXECUTE names, if that is about the session; None for all else.

    Of EXECUTEs that name each other it is the last one. Raises ProxyError: those that name themselves end as in
    Postgres (54001), and DISCARD ALL is none that EXECUTE could run (25001).
    """
    found: PreparedStatement | None = None
    for _ in range(_DEEPEST):
        plan = statement.plan
        if not (isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE):
            return found
        await adopting.look(session, plan.name.encode())
        named = session.statements.get(plan.name.encode())
        if named is None or not isinstance(named.statement.plan, CONTROL):
            return found
        found, statement = named, named.statement
        if isinstance(statement.plan, SettingControl) and statement.plan.setting is Setting.DISCARD_ALL:
            in_block = session.transaction.in_block
            where = "run inside a transaction block" if in_block else "be executed from a function"
            raise ProxyError("25001", f"DISCARD ALL cannot {where}")
    raise ProxyError("54001", "stack depth limit exceeded")
