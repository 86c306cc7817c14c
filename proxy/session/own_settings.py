"""Settings of the proxy's own, ``pgchorus.<name>``: no shard hears of them, and no rollback takes them back."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.replica_reads import ReplicaReads
from proxy.wire import backend
from router.plan import Statement
from router.plan_control import Setting, SettingControl

if TYPE_CHECKING:
    from proxy.session.session import Session
    from router.plan import Plan

OWN_PREFIX = "pgchorus."
DEFAULTS = {
    "read_consistency": "snapshot",
    "cross_shard": "on",
    "allow_key_update": "off",
    "read_from": "primary",  # or what the configuration says of the database
    "read_your_writes": "off",
}
CHOICES = {
    "read_from": ("primary", "prefer_replica", "replica"),
    "read_your_writes": ("on", "off"),
    "read_consistency": ("snapshot", "shard"),
    "cross_shard": ("on", "warn", "off"),
    "allow_key_update": ("on", "off"),
}
TRANSACTION_ID = "transaction_id"  # of the open transaction; cannot be set
TRANSACTION = "transaction"  # asked for with an id behind it
_TEXT_OID = 25
_OUTCOME = backend.Field(TRANSACTION.encode(), 0, 0, _TEXT_OID, -1, -1, 0)
# Not SQL, so no parser reads it: SHOW takes a name and nothing else.
_SHOW_TRANSACTION = re.compile(r"\s*show\s+pgchorus\.transaction\s+'(?P<gid>[^']*)'\s*;?\s*", re.IGNORECASE | re.ASCII)
_ASSIGNMENT = re.compile(r"\s*=\s*|\s+to\s+", re.IGNORECASE)


def asks_for_transaction(text: str) -> Statement | None:
    """Return ``SHOW pgchorus.transaction 'gid'`` as a statement; None when the text is something else."""
    if _SHOW_TRANSACTION.fullmatch(text) is None:
        return None
    return Statement(text, SettingControl(Setting.SHOW, OWN_PREFIX + TRANSACTION), tag="SHOW", returns_rows=True)


async def show_transaction(session: Session, text: str) -> bool:
    """Answer ``SHOW pgchorus.transaction 'gid'`` (simple protocol); False when the text is something else.

    The answer is one row: ``committed``, ``aborted`` or ``in doubt``. Raises ProxyError for what is no gid of this
    cluster, ShardError when the commit point cannot be asked.
    """
    asked = _SHOW_TRANSACTION.fullmatch(text)
    if asked is None:
        return False
    session.check_not_failed()
    outcome = await session.database.transaction_outcome(asked["gid"])
    row = backend.data_row([outcome.encode()])
    session.write(backend.row_description([_OUTCOME]) + row + backend.command_complete(b"SHOW"))
    return True


def described(plan: SettingControl) -> tuple[backend.Field, ...] | None:
    """Return the columns of SHOW, None for the others."""
    if plan.setting is not Setting.SHOW:
        return None
    if plan.name == OWN_PREFIX + TRANSACTION:
        return (_OUTCOME,)
    return (backend.Field(plan.name.encode(), 0, 0, _TEXT_OID, -1, -1, 0),)


async def own_setting(session: Session, statement: Statement, plan: SettingControl, *, describe: bool) -> bytes:
    """Do SET, SHOW and RESET; ``describe``: a row comes with its description (simple protocol)."""
    name = plan.name.removeprefix(OWN_PREFIX)
    asked = _SHOW_TRANSACTION.fullmatch(statement.text) if name == TRANSACTION else None
    if asked is not None:
        outcome = await session.database.transaction_outcome(asked["gid"])
        return shown(session, plan, outcome, describe=describe)
    if name == TRANSACTION_ID:
        if plan.setting is not Setting.SHOW:
            raise ProxyError("55P02", f'parameter "{plan.name}" cannot be changed')
        return shown(session, plan, await session.transaction.transaction_id(), describe=describe)
    if name not in DEFAULTS or plan.local:
        known = ", ".join(OWN_PREFIX + one for one in DEFAULTS)
        raise ProxyError(
            "42704", f'unrecognized configuration parameter "{plan.name}"', hint=f"Known (without LOCAL): {known}."
        )
    if plan.setting is Setting.SHOW:
        return shown(session, plan, session.own_settings[name], describe=describe)
    if plan.setting is Setting.RESET:
        _set(session, name, _defaults(session)[name])
        return backend.command_complete(b"RESET")
    value = _ASSIGNMENT.split(statement.text.rstrip("; \n"), maxsplit=1)[-1].strip("'\" ")
    _check(name, value.lower())
    _set(session, name, value.lower())
    return backend.command_complete(b"SET")


def is_shown_by_shard(plan: Plan) -> bool:
    """Whether a plan is SHOW of what a shard knows."""
    return isinstance(plan, SettingControl) and plan.setting is Setting.SHOW and not plan.name.startswith(OWN_PREFIX)


def shown(session: Session, plan: SettingControl, value: str, *, describe: bool) -> bytes:
    """Answer SHOW with a value; returns what ends it."""
    fields = described(plan)
    if describe and fields is not None:
        session.write(backend.row_description(fields))
    session.write(backend.data_row([value.encode()]))
    return backend.command_complete(b"SHOW")


def reset_all(session: Session) -> None:
    """RESET ALL and DISCARD ALL take the proxy's own settings back, too; a session begins with them.

    Raises ProxyError for what was wrong in its start-up parameters.
    """
    for name, value in session.settings.own.items():
        if name not in DEFAULTS:
            raise ProxyError("42704", f'unrecognized configuration parameter "{OWN_PREFIX}{name}"')
        _check(name, value)
    session.own_settings.update(_defaults(session))
    _follow(session)


def _defaults(session: Session) -> dict[str, str]:
    return {**DEFAULTS, "read_from": session.database.read_from, **session.settings.own}


def _check(name: str, value: str) -> None:
    if value not in CHOICES[name]:
        raise ProxyError(
            "22023",
            f'invalid value for parameter "{OWN_PREFIX}{name}": "{value}"',
            hint=f"Available values: {', '.join(CHOICES[name])}.",
        )


def _set(session: Session, name: str, value: str) -> None:
    if name == "read_from" and session.transaction.links:
        raise ProxyError("25001", "pgchorus.read_from cannot be changed inside a transaction that has used a shard")
    session.own_settings[name] = value
    _follow(session)


def _follow(session: Session) -> None:
    """Tell the transaction what concerns it."""
    settings, transaction = session.own_settings, session.transaction
    transaction.fenced = settings["read_consistency"] == "snapshot"
    if settings["read_from"] == "primary":
        transaction.elsewhere = None
        return
    if transaction.elsewhere is None:
        transaction.elsewhere = ReplicaReads(session.database, strict=False, reads_only=partial(_reads_only, session))
    transaction.elsewhere.strict = settings["read_from"] == "replica"
    transaction.elsewhere.own_writes = settings["read_your_writes"] == "on"


def _reads_only(session: Session) -> bool:
    return session.parameters.get("default_transaction_read_only") == "on"
