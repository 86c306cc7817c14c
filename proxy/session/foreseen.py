"""What Postgres finds wrong when it plans a statement, before it has looked at any row.

Postgres computes what is constant (``1/0``, a text too long for its column) when it plans: what is wrong with it is
told first, and also where no row comes. Statements done in several steps ask for that before the first; those that run
as they are on some shard need not, for it plans them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.description import ask_plan
from proxy.shards.errors import ShardError
from router.errors import refusal
from router.plan_steps import Bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.executor.request import Request
    from proxy.session.session import Session
    from router.resolve import KeyParameter


async def foresee(session: Session, request: Request) -> None:
    """Let a shard plan the client's own statement, with the client's own values; raises what is wrong with it.

    Values that were filled in are left out: for Postgres they are none while it plans.
    """
    original = request.original
    text, count = request.text, len(request.parameters)
    if original is not None:
        text, count = original.text, original.parameters
    formats = request.parameter_formats
    if len(formats) == 1:
        formats *= len(request.parameters)
    await _plan(session, text, Bound(request.parameters[:count], formats[:count], request.parameter_oids[:count]))


async def foresee_text(session: Session, text: str, known: Sequence[KeyParameter]) -> None:
    """Do the same for a statement and its parameters."""
    formats, oids = tuple(each.format for each in known), tuple(each.oid for each in known)
    await _plan(session, text, Bound(tuple(each.data for each in known), formats, oids))


async def _plan(session: Session, text: str, bound: Bound) -> None:
    transaction, database = session.transaction, session.database
    shard = database.descriptions.knowing_shard(session, text)
    links = await transaction.join([shard], writes=False, reads=True)
    try:
        await ask_plan(links[shard], text, bound)
    except ShardError as error:
        if error.sqlstate == "23514" and database.catalog.checks_by_parts():
            raise refusal("domain-check") from error  # it may have been read off a part of the rows
        raise
    transaction.finish_statement()
