"""Where in the client's text an error is meant, when the text that a shard complained about was ours.

Decides nothing but the field P: what is wrong is what the shard said. The client's own text is shown to Postgres, which
finds the place itself; where it does not say the same of that, no place is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.description import ask_description
from proxy.errors import ProxyError
from proxy.session.run import at_its_place, padded
from proxy.session.scratch import lend_scratch
from proxy.shards.errors import ShardError
from router.plan import Scatter
from router.rewrite import group_end
from router.statement import parse

if TYPE_CHECKING:
    from proxy.session.session import Session
    from router.plan import Statement

# Statements that Postgres reads to their end before it runs them; others it would have nothing to say about.
_ANALYZED: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "DECLARE CURSOR", "COPY"})
# What has no place although it may have had one in a text of ours: errors of names, types and values.
_HAVE_PLACES: Final = ("22", "42")
# On that other link nothing is worth waiting for, and what the client itself has locked would never come.
_PATIENCE: Final = "SET LOCAL lock_timeout = '100ms'"


async def in_clients_text(session: Session, statement: Statement, error: ShardError) -> ShardError:
    """Return a shard's error about a statement of the simple protocol with its place in the client's message."""
    if error.lost or statement.tag not in _ANALYZED or session.transaction.shard_count == 1:
        return error
    place = error.fields.position
    if place is None and (error.raw is not None or not error.sqlstate.startswith(_HAVE_PLACES)):
        return error
    plan = statement.plan
    if isinstance(plan, Scatter) and plan.text is None and place is not None:
        return error  # it went out as it came
    text = padded(statement) if statement.tag != "COPY" else _query_of(statement)
    said = None if text is None else await _said_of(session, text)
    if said is not None and (said.sqlstate, said.message) == (error.sqlstate, error.message):
        return said
    return ShardError(error.fields.replace(P=None), error.shard)


def _query_of(statement: Statement) -> str | None:
    """Return the query of COPY (query) TO at its place: of the whole Postgres has nothing to say before it runs."""
    text = statement.text
    tokens = parse(text)[0].tokens
    end = group_end(tokens, 1) if tokens[1].name == "ASCII_40" else None
    if end is None:
        return None
    begin = tokens[1].end
    return at_its_place(text[begin : tokens[end].start], statement.offset + begin)


async def _said_of(session: Session, text: str) -> ShardError | None:
    """Let Postgres read a text on a link of its own: those of the transaction wait for its end after an error."""
    try:
        scratch = await lend_scratch(session)
        try:
            await scratch.link.run(_PATIENCE)
            await ask_description(scratch.link, text, ())
        finally:
            scratch.release()
    except ShardError as said:
        return said
    except ProxyError:
        return None  # no link is to be had, or the statement was cancelled
    return None
