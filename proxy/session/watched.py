"""Settings that functions make over several shards.

Decides, of a statement whose functions or triggers may set something (the router can read them, and knows no more than
that), what becomes of what they have set on their shard: the shard is asked before and after. In a client's block every
other shard gets the same, for as long as the block lasts; one that is alone runs in a block of its own. When a block is
committed, its shards are asked once more: nobody can tell before what was LOCAL, and what is left is the session's from
then on. A role that is taken in a client's block is an error, as it is with code that nobody sees through
(:mod:`proxy.session.audit`): the statement is taken back, and no other runs with rights that are not the session's. So
is what several shards have set differently, and anywhere what says how the proxy's own texts are read.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.giving_way import past_cancels
from proxy.isolation import DEFAULT_SETTINGS
from proxy.session.clocks import NAMES as TIMEOUTS
from proxy.session.clocks import learn_timeouts
from proxy.session.following import all_but, learn_isolation
from proxy.session.roles import ROLE_SETTINGS, learn_role
from proxy.settings import READING, quote_literal, set_config_sql
from proxy.shards.errors import ShardError
from proxy.transaction import UNSEEN
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement

Values = dict[str, str]  # by the settings' names

_ROLES: Final = ("session_authorization", "role")  # the former takes the latter with it
_REFUSED: Final = frozenset({*READING, "client_encoding"})
_OF_BLOCKS: Final = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})


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
            found[shard] = _changes(before, await _look(session, transaction.links[shard]))
        shard, first = next(iter(found.items()))
        for setting, value in transaction.links[shard].parameters.items():
            session.on_parameter(setting, value)  # what it has set, if anything
        session.parameters_are_noted()
        # A shard has told of it, and tells when it is taken back; what is masked by something LOCAL shows at the end.
        transaction.settings_changed = True
        changed = {name for values in found.values() for name in values}
        transaction.custom_settings = transaction.custom_settings or any("." in name for name in changed)
        if not self._own_block and not changed.isdisjoint(ROLE_SETTINGS):
            raise refusal("audit-session", what="the role")
        if not changed.isdisjoint(_REFUSED if self._own_block else _REFUSED | _OF_BLOCKS):
            raise refusal("audit-session", what="settings")
        if not self._own_block:
            if any(values != first for values in found.values()):
                raise refusal("audit-session", what="settings")
            await self._bring(first, shard)
        if session.lasting is None:
            session.lasting = Lasting(session)
        session.lasting.add(self._before)

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


class Lasting:
    """What functions have set in a block that is the session's from its COMMIT on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: dict[int, Values] = {}  # by shard, the one that was watched last at the end
        self._left: Values = {}
        self._lost: ShardError | None = None

    @property
    def link(self) -> ShardLink | None:
        """The link that was watched last."""
        return self._session.transaction.links.get(next(reversed(self._before)))

    def add(self, before: dict[int, Values]) -> None:
        """Some shards have been watched, which said this before."""
        for shard, values in before.items():
            self._before[shard] = self._before.pop(shard, values)

    async def look(self) -> None:
        """The block is committed, and its links have not gone back yet: ask what is left."""
        links = self._session.transaction.links
        for shard, before in self._before.items():
            try:
                left = _changes(before, await _look(self._session, links[shard]))
            except ShardError as error:
                self._lost = error
                return
            self._left.update(left)

    async def keep(self) -> None:
        """It is the session's; raises ShardError if the shard could not be asked, which has committed nevertheless."""
        if self._lost is not None:
            raise self._lost
        async with past_cancels(self._session.transaction):
            await self._keep()

    async def _keep(self) -> None:
        session = self._session
        for name, value in self._left.items():
            if name in _REFUSED or name in _OF_BLOCKS:
                continue  # the client's own
            session.settings.touch(name)
            session.settings.set(name, set_config_sql(name, value))
            if name in DEFAULT_SETTINGS:
                await learn_isolation(session)
            if name in TIMEOUTS:
                await learn_timeouts(session, name, lasting=True)
        if not self._left.keys().isdisjoint(ROLE_SETTINGS):
            await learn_role(session, lasting=True)


def look_at_end(session: Session) -> None:
    """Before a COMMIT: have the links asked what is left of settings made in the block, before they go back."""
    transaction, lasting = session.transaction, session.lasting
    link = session.settings_link if lasting is None else lasting.link
    if link is not None and (transaction.settings_changed or UNSEEN in transaction.pins):
        transaction.at_commit = partial(_look_at_end, session, link)


async def _look_at_end(session: Session, link: ShardLink) -> None:
    if session.lasting is not None:
        await session.lasting.look()
    session.follow_parameters(link, committed=True)  # SET LOCAL ends with the transaction


def _changes(before: Values, after: Values) -> Values:
    """Return what is otherwise; what is new came with a library that was loaded, and has its default."""
    return {name: value for name, value in after.items() if before.get(name, value) != value}


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
