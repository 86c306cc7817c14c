"""Settings that functions make over several shards.

Decides, of a statement whose functions or triggers may set something (the router can read them, and knows no more than
that), what becomes of what they have set on their shard: the shard is asked before and after. In a block every other
shard gets the same, for as long as the block lasts; outside of blocks it is the session's from then on. A role that is
taken in a block is an error, as it is with code that nobody sees through (:mod:`proxy.session.audit`): the statement is
taken back, and no other runs with rights that are not the session's. So is what several shards have set differently,
and what says how the proxy's own texts are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.isolation import DEFAULT_SETTINGS
from proxy.session.clocks import NAMES as TIMEOUTS
from proxy.session.clocks import learn_timeouts
from proxy.session.following import all_but, learn_isolation
from proxy.session.roles import ROLE_SETTINGS, learn_role
from proxy.settings import READING, quote_literal, set_config_sql
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement

Values = dict[str, str]  # by the settings' names

_ROLES: Final = ("session_authorization", "role")  # the former takes the latter with it
_REFUSED: Final = frozenset(
    {*READING, "client_encoding", "transaction_isolation", "transaction_read_only", "transaction_deferrable"}
)


class Watch:
    """One statement's: made before it runs, ended when it has run and before it is committed."""

    def __init__(self, session: Session, before: dict[int, Values], *, own_block: bool) -> None:
        self._session = session
        self._before = before
        self._own_block = own_block

    @classmethod
    async def begin(
        cls, session: Session, statement: Statement, shards: Sequence[int], *, own_block: bool
    ) -> Watch | None:
        """Look before the statement, if its functions may set anything; ``own_block``: in a block of its own."""
        if not statement.watched or session.transaction.shard_count == 1:
            return None
        if statement.sets_unnamed and session.transaction.in_block and not own_block:
            raise refusal("audit-blind", reason="it sets what it names by an expression")
        links = await session.transaction.join(sorted(set(shards)), writes=False, reads=True)
        before = {shard: await _look(session, link) for shard, link in links.items()}
        return cls(session, before, own_block=own_block)

    async def end(self) -> None:
        """Look after the statement; raises Refused when it has set what only its shards would have."""
        session, transaction = self._session, self._session.transaction
        found = {}
        for shard, before in self._before.items():
            after = await _look(session, transaction.links[shard])
            found[shard] = {name: value for name, value in after.items() if before.get(name, "") != value}
        shard, first = next(iter(found.items()))
        for setting, value in transaction.links[shard].parameters.items():
            session.on_parameter(setting, value)  # what it has set, if anything
        session.parameters_are_noted()
        if not transaction.in_block:
            await self._keep(first, transaction.links[shard])
            return
        if any(not changed.keys().isdisjoint(ROLE_SETTINGS) for changed in found.values()):
            transaction.settings_changed = True  # the shard has told of it, and tells when it is taken back
            raise refusal("audit-session", what="the role")
        differ = any(changed != first for changed in found.values())
        if not self._own_block and (differ or not first.keys().isdisjoint(_REFUSED)):
            transaction.settings_changed = True
            raise refusal("audit-session", what="settings")
        if first:
            transaction.settings_changed = True
        if not self._own_block:
            await self._bring(first, shard)

    async def _keep(self, changed: Values, link: ShardLink) -> None:
        """What is set outside of any block is the session's."""
        session = self._session
        for name, value in changed.items():
            if name in _REFUSED:
                raise refusal("audit-session", what="settings")
            session.settings.touch(name)
            session.settings.set(name, set_config_sql(name, value))
            if name in DEFAULT_SETTINGS:
                await learn_isolation(session)
            if name in TIMEOUTS:
                await learn_timeouts(session, name, lasting=True)
        link.dirty = True
        if not changed.keys().isdisjoint(ROLE_SETTINGS):
            await learn_role(session, lasting=True)

    async def _bring(self, changed: Values, shard: int) -> None:
        """Bring settings of one shard to all others, also those that join later."""
        session = self._session
        for name, value in changed.items():
            session.settings.touch(name)
            sql = set_config_sql(name, value, local=True)
            await all_but(session, shard, sql)
            session.transaction.note_setting(name, sql)
            if name in TIMEOUTS:
                await learn_timeouts(session, name, lasting=False)


async def _look(session: Session, link: ShardLink) -> Values:
    """Ask for all settings that clients may make; of those with a dot in their name, for those that are known."""
    planner = session.planner_in_block or session.database.planner
    custom = sorted({*planner.catalog.custom_settings, *session.settings.custom})
    answer = await link.run(
        "SELECT pg_catalog.lower(name), setting FROM pg_catalog.pg_settings"  # noqa: S608 - quoted names
        " WHERE context OPERATOR(pg_catalog.=) ANY ('{user,superuser}'::pg_catalog.text[])"
        " UNION ALL SELECT n, pg_catalog.current_setting(n, true) FROM pg_catalog.unnest("
        f"ARRAY[{', '.join(map(quote_literal, [*custom, *_ROLES]))}]::pg_catalog.text[]) n"
    )
    heard = session.encoding.heard
    return {heard(name or b""): heard(value or b"") for name, value in answer.rows}
