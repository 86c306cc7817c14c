"""What a statement leaves on the links that ran it, and with its session, when it has succeeded and when it has failed.

Decides which links are reset or closed before their next user, what pins a link, and which settings are the session's
from then on because a shard has reported them. Left to others: settings that are made by name (control, following).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.session.roles import ROLE_SETTINGS, note_role
from proxy.settings import Applied, Unsure, set_config_sql, unsure
from proxy.transaction import UNSEEN
from router.functions import custom_settings_in
from router.plan_control import Setting, SettingControl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement

# Why a link is kept: what such a statement makes is gone when it fails.
_ROLLED_BACK: Final = ("temporary", "LISTEN", "WITH HOLD")
# Reported, and set by nobody: a change of role changes the first.
_READ_ONLY_PARAMETERS: Final = frozenset(
    {"is_superuser", "in_hot_standby", "integer_datetimes", "server_encoding", "server_version"}
)


def note_joined(session: Session, statement: Statement, link: ShardLink) -> None:
    """Before a statement runs on a link: be ready for what it leaves, whatever keeps the session from noting it."""
    if statement.pins and link.on_notification is None:  # it may hear something before it is pinned
        link.on_notification = partial(session.heard.add, link)
    plan = statement.plan
    names = [name for name, _, _ in statement.set_config]
    if isinstance(plan, SettingControl) and plan.setting is not Setting.SHOW:
        names.append(plan.name)
    if names:
        made_up = tuple((name, "") for name in names if "." in name)  # whatever becomes of it, it is NULL no more
        link.settings = Unsure(Applied(made_up)) if made_up else unsure(link.settings)


def note_effects(session: Session, statement: Statement, shards: Sequence[int]) -> None:
    """Remember what a statement leaves on its links."""
    transaction = session.transaction
    if statement.declares:
        session.cursors[statement.declares] = shards[0]
        session.cursors_inside[statement.declares] = transaction.savepoints
        if statement.pins:
            session.held_cursors.add(statement.declares)
    if statement.must_commit:
        transaction.must_commit.update((shard, statement.must_commit) for shard in shards)
    if statement.pins:
        transaction.pin(statement.pins, shards)
    if (statement.dirties or statement.leaves_custom) and transaction.shard_count == 1:
        transaction.pin(UNSEEN, shards)  # until it has told what is set now
        transaction.unseen_names.update(name.lower() for name in custom_settings_in(statement.text))
    for shard in shards:
        if shard in transaction.links:
            _note_on_link(session, statement, transaction.links[shard])
    _note_parameters(session, statement)


def note_failure(session: Session) -> None:
    """A statement has failed, after it may have left what no rollback takes back.

    A custom setting of its making is '' and not NULL, as it was before. Advisory locks of the session stay.
    """
    transaction = session.transaction
    shards = [shard for shard, link in transaction.links.items() if not link.closed]
    for one in session.running:
        if one.leaves_custom:
            for link in transaction.links.values():
                link.resettable = False
        if one.pins and not one.pins.startswith(_ROLLED_BACK) and transaction.elsewhere is None:
            transaction.pin(one.pins, shards)
        if one.dirties:
            if transaction.shard_count == 1:
                transaction.pin(UNSEEN, shards)
            for shard in shards:
                transaction.links[shard].dirty = True


def _note_on_link(session: Session, statement: Statement, link: ShardLink) -> None:
    if statement.dirties:
        link.dirty = True
    if statement.leaves_custom:
        link.resettable = False
    if statement.tag != "SELECT" and session.database.catalog.functions:
        # A trigger may have called a function that sets something: the next user's settings are made anew.
        link.settings = unsure(link.settings)


def _note_parameters(session: Session, statement: Statement) -> None:
    """A function has set what a shard reports: other links follow, or names would mean other tables there."""
    transaction = session.transaction
    if "is_superuser" in session.changed_by_data and transaction.in_block:
        transaction.settings_changed = True  # a role, which no shard reports: what ends it tells of this again
    noted = {name.lower() for name, _, _ in statement.set_config}  # with how long each is to last
    for name in sorted(session.changed_by_data - _READ_ONLY_PARAMETERS):
        if name.lower() not in noted:
            value = session.encoding.heard(session.parameters[name].encode("utf-8", "surrogateescape"))
            session.settings.set(name.lower(), set_config_sql(name, value))
            if name in ROLE_SETTINGS:  # that of the session: there is no other then
                note_role(session, value, lasting=True)
            transaction.settings_changed = transaction.settings_changed or transaction.in_block
    session.changed_by_data.clear()
