"""SET CONSTRAINTS in a block: on all its links, and on those that join later.

It may fire deferred triggers. Decides that what these set is seen: the shards that were written are asked before and
after, as they are around any other statement whose triggers may set something (:mod:`proxy.session.watched`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.session.following import all_but
from proxy.session.run import relay
from proxy.session.watched import Watch

if TYPE_CHECKING:
    from proxy.session.session import Session
    from router.plan import Statement
    from router.plan_control import SettingControl


async def set_constraints(session: Session, statement: Statement, plan: SettingControl) -> bytes:
    """Run it in the open block; returns its CommandComplete. Raises Refused for what its triggers may not set."""
    transaction = session.transaction
    shard = session.settings_shard if plan.elsewhere is None else session.database.logical.home
    planner = session.planner_in_block or session.database.planner
    written = sorted(transaction.writers)
    watched = replace(statement, watched=bool(written) and planner.catalog.sets_settings)
    watch = await Watch.begin(session, watched, written, own_block=False)
    tag = await relay(session, statement, shard, writes=False, held=True)
    session.parameters_are_noted()
    text = statement.text if plan.elsewhere is None else plan.elsewhere
    if text:
        await all_but(session, shard, text)
        transaction.note_setting(plan.name, text)
    if watch is not None:
        await watch.end()
    return tag
