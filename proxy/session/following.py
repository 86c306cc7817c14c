"""Settings that statements make which are no SET: the session has them from then on, whatever links it gets.

Decides how a session learns what functions have set: of a set_config that can be read in the statement, what it says;
of anything else, over one shard, by asking the link afterwards (``learn_settings``), which is kept until then. Settings
with a dot in their name are in no list of Postgres's: asked for are those that the catalog's functions name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.giving_way import past_cancels
from proxy.isolation import DEFAULT_SETTINGS, SHOW_DEFAULT, Modes
from proxy.session import adopting
from proxy.session.clocks import NAMES as TIMEOUTS
from proxy.session.clocks import learn_timeouts
from proxy.session.encoded import check_changed, sets_encoding
from proxy.session.roles import ROLE_SETTINGS, learn_role, may_have_role
from proxy.settings import quote_literal, set_config_sql
from proxy.shards.errors import ShardError
from proxy.transaction import UNSEEN
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement

# Of the transaction alone, reported by others, or (client_encoding) the end of the session.
_NOT_LEARNED: Final = frozenset(
    {"transaction_isolation", "transaction_read_only", "transaction_deferrable", "client_encoding", "is_superuser"}
)
_READ_ONLY: Final = "transaction_read_only"
_IS_ON: Final = re.compile("1|on|t(r(ue?)?)?|y(es?)?")


async def learn_isolation(session: Session) -> None:
    """Ask a link of the session, whose settings are the session's."""
    shard = session.settings_shard
    links = await session.transaction.join([shard], writes=False, reads=False)
    answer = await links[shard].run(SHOW_DEFAULT)
    session.transaction.default_isolation = (answer.rows[0][0] or b"").decode()


async def all_but(session: Session, shard: int, sql: str) -> None:
    """Run a text about settings on the transaction's links but one."""
    for other, link in session.transaction.links.items():
        if other != shard and not link.closed:
            await link.run(sql)


async def before_set_config(
    session: Session, statement: Statement, flush: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Before a SELECT that calls set_config: to make a block READ ONLY is what SET TRANSACTION does, on every shard.

    A shard that was told so by the SELECT alone could not write the decision of what the block has written before.
    """
    transaction = session.transaction
    values = [value for name, value, _ in statement.set_config if name == _READ_ONLY]
    if not values or not transaction.in_block or transaction.shard_count == 1:
        return
    if flush is not None:
        await flush()
    for value in values:
        if value is None:
            raise refusal("setting", name=_READ_ONLY, value="an expression")
        if _IS_ON.fullmatch(value.strip().lower()):
            await transaction.set_modes(Modes(read_only=True), "SET TRANSACTION READ ONLY")


async def follow_set_config(session: Session, statement: Statement, shard: int) -> None:
    """A SELECT called set_config on a shard: the session has that setting from now on."""
    transaction = session.transaction
    link = transaction.links.get(shard)
    if link is None or not statement.set_config:
        return
    if sets_encoding(statement):
        await check_changed(session, session.encoding)
        session.parameters_are_noted()
    async with past_cancels(transaction):
        for call in statement.set_config:
            await _follow(session, link, call)
    if not transaction.in_block:
        link.settings = session.settings.applied


async def _follow(session: Session, link: ShardLink, call: tuple[str, str | None, bool]) -> None:
    """One call; its value None: a parameter or an expression, or it may not have been called."""
    name, value, local = call
    value = session.parameters["DateStyle"] if name.lower() == "datestyle" else value  # it has two parts
    transaction = session.transaction
    if name == _READ_ONLY and transaction.shard_count > 1:
        return  # of the block alone, which knows it
    if value is None:  # what is so is what it is now
        answer = await link.run(f"SELECT pg_catalog.current_setting({quote_literal(name)}, true)")
        now = answer.rows[0][0]
        if now is None:
            return
        value = session.encoding.heard(now)
    session.settings.touch(name)
    if link.dirty and "." in name:
        link.resettable = False  # no DISCARD makes it NULL again
    if not local:
        session.settings.set(name, set_config_sql(name, value))
        if name.lower() in DEFAULT_SETTINGS:
            await learn_isolation(session)
    if transaction.in_block:
        sql = set_config_sql(name, value, local=local)
        await all_but(session, link.shard, sql)
        transaction.note_setting(name, sql)
    if name in ROLE_SETTINGS:
        await learn_role(session, lasting=not local)
    if name.lower() in TIMEOUTS:
        await learn_timeouts(session, name.lower(), lasting=not local)


async def learn_settings(session: Session) -> None:
    """Outside of blocks: ask the link, on which something was run that may set anything, what is set now."""
    transaction = session.transaction
    if UNSEEN not in transaction.pins or transaction.in_block:
        return
    async with past_cancels(transaction):
        await _learn_settings(session)


async def _learn_settings(session: Session) -> None:
    transaction = session.transaction
    shard = session.database.logical.home
    link = transaction.pinned.get(shard)
    if link is None or link.closed:  # the next statement hears that it is lost
        transaction.pins.discard(UNSEEN)
        return
    settings = session.settings
    made = [name for name in settings.made if "." not in name]
    custom = {*session.database.catalog.custom_settings, *settings.custom, *transaction.unseen_names}
    try:
        answer = await link.run(_asked(made, custom))
    except ShardError:  # a statement_timeout of no length, say: the link is kept, and asked next time
        return
    transaction.unseen_names.clear()
    left = [row for row in answer.rows if row[2] in adopting.KINDS]
    _learn(session, [row for row in answer.rows if row[2] not in adopting.KINDS])
    if left:
        await adopting.adopt(session, left)
    if not settings.made.keys().isdisjoint(DEFAULT_SETTINGS):
        answer = await link.run(SHOW_DEFAULT)
        transaction.default_isolation = (answer.rows[0][0] or b"").decode()
    if session.clocks is not None or not settings.made.keys().isdisjoint(TIMEOUTS):
        try:
            await learn_timeouts(session, "", lasting=True)
        except ShardError:  # likewise
            return
        finally:
            transaction.finish_statement()  # that has joined the link: it goes back below, and once
    link.settings = settings.applied
    transaction.pins.discard(UNSEEN)
    if not transaction.pins:
        del transaction.pinned[shard]
        link.on_notification = None
        transaction.database.release(link)


def _asked(made: Iterable[str], custom: Iterable[str]) -> str:
    return (
        "SELECT pg_catalog.lower(name), setting, source FROM pg_catalog.pg_settings "  # noqa: S608 - quoted names
        f"WHERE source = 'session' OR pg_catalog.lower(name) = ANY ({_array(made)}) UNION ALL "
        f"SELECT n, pg_catalog.current_setting(n, true), 'session' FROM pg_catalog.unnest({_array(custom)}) n "
        # Postgres lists it nowhere, and does not say where it comes from.
        f"UNION ALL SELECT 'role', pg_catalog.current_setting('role'), 'session' UNION ALL {adopting.LEFT}"
    )


def _learn(session: Session, rows: Iterable[Sequence[bytes | None]]) -> None:
    """Make the session's settings what a link says that it has."""
    settings = session.settings
    for name_, value, source in rows:
        name = (name_ or b"").decode()
        if value is None or name in _NOT_LEARNED:
            continue
        if source != b"session":
            settings.reset(name)
            continue
        if name == "role" and value == b"none" and not may_have_role(session):
            continue
        settings.touch(name)
        if not value and name in settings.custom and name not in settings.startup:
            settings.reset(name)
            continue
        sql = set_config_sql(name, session.encoding.heard(value))
        if (settings.made.get(name) or settings.startup.get(name)) != sql:
            settings.set(name, sql)


def _array(names: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(quote_literal(name) for name in sorted(names))}]::pg_catalog.text[]"
