"""The ways out of a role that a session has set, and that it may not take any more: it was revoked, or dropped.

One Postgres goes on with such a role until it is reset. A link is brought to it anew, by SET ROLE or SET SESSION
AUTHORIZATION, which fails: so does whatever the session runs, for nothing may run with other rights. Decides which
statements go to a link without the role, because they say what it is to be from then on, or have nothing to do with
it; and that a link which has run RESET ALL so is known to nobody as one with the session's settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.bringing import leave_links
from proxy.session.run import relay
from proxy.settings import unsure
from proxy.shards.errors import ShardError
from router.plan_control import Setting

if TYPE_CHECKING:
    from collections.abc import Collection

    from proxy.session.session import Session
    from proxy.transaction import ClientTransaction
    from router.plan import Statement
    from router.plan_control import SettingControl

_LOST: Final = frozenset({"42501", "22023", "42704"})  # not allowed, and no such role
_BOTH: Final = frozenset({"role", "session_authorization"})


def is_of_lost_role(transaction: ClientTransaction, error: Exception) -> bool:
    """Whether links could not be brought to the session's role: nothing has run on them."""
    return (
        isinstance(error, ShardError)
        and error.sqlstate in _LOST
        and transaction.starting_settings().names_role
        and any(link.prefix_failed for link in transaction.links.values())
    )


async def relay_setting(session: Session, statement: Statement, plan: SettingControl, shard: int) -> tuple[bytes, bool]:
    """Run a statement about settings on a shard, without a role that is lost if that need not be.

    Returns its tag, and whether the link has the session's settings, with what the statement has set.
    """
    transaction, settings = session.transaction, session.settings
    joined = bool(transaction.links)
    try:
        return await relay(session, statement, shard, writes=False, held=True), True
    except ShardError as error:
        without = _unneeded(plan, transaction)
        if joined or not without or not is_of_lost_role(transaction, error):
            raise
    await leave_links(transaction)
    made = settings.snapshot()
    settings.restore({name: sql for name, sql in made.items() if name not in without})
    try:
        tag = await relay(session, statement, shard, writes=False, held=True)
    finally:
        settings.restore(made)
        for link in transaction.links.values():
            link.settings = unsure(link.settings)
    if plan.setting is Setting.RESET_ALL:
        return tag, False
    ran = session.settings_link
    if ran is not None:  # which has had no role before the statement, and so reports nothing of it
        for name in ("is_superuser", "session_authorization"):  # of these the last one is told first
            session.on_parameter(name, ran.parameters.get(name, ""))
        session.follow_parameters(ran)
    return tag, True


def _unneeded(plan: SettingControl, transaction: ClientTransaction) -> Collection[str]:
    """Return which of the settings that make the role a statement can do without.

    In a block the link would go on without them after ROLLBACK TO a savepoint, and after RESET ALL.
    """
    if plan.setting is Setting.SHOW or transaction.log:
        return ()
    if plan.setting is Setting.RESET_ALL:
        return () if transaction.in_block else _BOTH
    if plan.name == "session_authorization":
        return _BOTH
    return {"role"} if plan.name == "role" else ()
