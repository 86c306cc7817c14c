"""What Postgres finds wrong when it plans a statement, before it has looked at any row.

Postgres computes what is constant (``1/0``, a text too long for its column) when it plans: what is wrong with it is
told first, and also where no row comes. Statements done in several steps ask for that before the first; those that run
as they are on some shard need not, for it plans them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    bound = Bound(request.parameters[:count], formats[:count], request.parameter_oids[:count])
    await session.database.let_a_shard_speak(session, text, bound=bound)


async def foresee_text(session: Session, text: str, known: Sequence[KeyParameter]) -> None:
    """Do the same for a statement and its parameters."""
    formats, oids = tuple(each.format for each in known), tuple(each.oid for each in known)
    bound = Bound(tuple(each.data for each in known), formats, oids)
    await session.database.let_a_shard_speak(session, text, bound=bound)
