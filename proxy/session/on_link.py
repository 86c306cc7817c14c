"""EXECUTE and EXPLAIN EXECUTE over one shard: it has the statement, under a name of ours, and executes it as its own.

So the arguments are Postgres's to read, errors come before any row (what EXECUTE gives is complete before its first row
goes out), and a portal of it ends with its rows and not before.

Places of errors: those in the arguments count in the client's message, those in the statement (when it is planned anew)
in the message that held its PREPARE. The statement is parsed behind as many blanks as there was text before it there
(``control.prepared_control``). Ours is behind as many blanks as the statement is long, so that a place says which of
the two it is in, and is moved to where the client's own text has the arguments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.session.altering import check_rows
from proxy.session.encoded import check_change, sets_encoding
from proxy.session.following import before_set_config, follow_set_config
from proxy.session.prepared import OnLink, Portal
from proxy.session.preparing import parsed_on
from proxy.session.relay import CLOSE_ENDS, PARSE_ENDS, Step, take_back
from proxy.session.run import MAX_PADDING, relay
from proxy.shards.errors import ShardError
from proxy.wire import backend, frontend
from proxy.wire.frames import frame
from router.plan import Execution, Same, ShardByShard, Single, Task
from router.plan_control import Prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.wire.fields import ErrorFields
    from router.plan import Statement
    from router.plan_control import PreparedControl

# For one that no link may keep under a name of its own: a moment in it, or definitions of an open block.
_NAME: Final = b"pgchorus_executed"


def runs_on_link(session: Session, prepared: PreparedStatement) -> bool:
    """Whether EXECUTE of a statement is for the only shard itself."""
    # What must be outside of a block cannot be executed at all: the shard says so.
    return session.transaction.shard_count == 1 and isinstance(prepared.statement.plan, Single | ShardByShard)


def as_written(statement: Statement, plan: PreparedControl, prepared: PreparedStatement) -> OnLink:
    """Return what the client's EXECUTE or EXPLAIN EXECUTE is for a shard."""
    if plan.prepared is Prepared.EXPLAIN:
        return OnLink(prepared, plan.body, plan.rest, statement.offset + len(statement.text) - len(plan.rest))
    if not plan.argument_count:
        return OnLink(prepared, "EXECUTE ", "", 0)
    return OnLink(prepared, "EXECUTE ", f"({plan.arguments})", statement.offset + plan.arguments_at - 1)


def portal_on_link(session: Session, portal: Portal, statement: Statement, plan: PreparedControl,
                   prepared: PreparedStatement) -> Portal:  # fmt: skip
    """Return a portal that has its Bind on the only shard, with its first Execute."""
    explains = plan.prepared is Prepared.EXPLAIN
    # What it leaves behind is the named statement's; what its rows are is EXPLAIN's own.
    bound = replace(portal.prepared, statement=prepared.statement) if explains else prepared
    made = Portal(
        portal.name, bound, replace(portal.bind, parameter_formats=(), parameters=()), _execution(prepared), 0
    )
    made.deferred = True
    made.inside, made.in_failed = portal.inside, portal.in_failed
    made.on_link = as_written(statement, plan, prepared)
    session.transaction.command = prepared.statement.tag
    return made


def _execution(prepared: PreparedStatement) -> Execution:
    plan = prepared.statement.plan
    assert isinstance(plan, Single | ShardByShard)  # noqa: S101 - runs_on_link has said so
    return Execution((Task(0),), Same(), writes=isinstance(plan, ShardByShard) or plan.writes)


async def portal_parsed_on(session: Session, link: ShardLink, portal: Portal) -> tuple[bytes, bytes, list[Step]]:
    """Return what ``parsed_on`` does, for the statement that a portal has or executes."""
    if portal.on_link is None:
        return await parsed_on(session, link, portal.prepared)
    name, frames, script = await _named_on(session, link, portal.on_link.prepared)
    text, portal.place = _text(portal.on_link, name)
    parse = frontend.Parse(b"", link.encode(text), ()).encode()
    return b"", frames + parse, [*script, Step(PARSE_ENDS, forward=False)]


async def run_on_link(
    session: Session, statement: Statement, plan: PreparedControl, prepared: PreparedStatement
) -> bytes:
    """Run EXECUTE or EXPLAIN EXECUTE by the simple protocol; returns its CommandComplete."""
    named = prepared.statement
    transaction = session.transaction
    transaction.command = named.tag
    session.running = (named,)
    await check_rows(session, prepared, 0)
    writes = _execution(prepared).writes
    link = await session.join(named, 0, writes=writes)
    name, frames, script = await _named_on(session, link, prepared)
    if frames:
        await _told(link, frames, script)
    text, place = _text(as_written(statement, plan, prepared), name)
    runs = plan.prepared is Prepared.EXECUTE or plan.runs
    if runs:
        if sets_encoding(named):
            check_change(session)
        await before_set_config(session, named)
    tag = await relay(session, named, 0, writes=writes, held=True, text=text, place=place)
    if runs:
        session.note_effects(named, [0])
        await follow_set_config(session, named, 0)
    return tag


async def _named_on(session: Session, link: ShardLink, prepared: PreparedStatement) -> tuple[bytes, bytes, list[Step]]:
    """Return what ``parsed_on`` does, always with a name."""
    name, frames, script = await parsed_on(session, link, prepared)
    if name:
        return name, frames, script
    frames = (
        frontend.Close(b"S", _NAME).encode() + frontend.Parse(_NAME, prepared.query_on(link), prepared.oids).encode()
    )
    return _NAME, frames, [Step(CLOSE_ENDS, forward=False), Step(PARSE_ENDS, forward=False)]


async def _told(link: ShardLink, frames: bytes, script: list[Step]) -> None:
    """Have a statement parsed; raises ShardError if it cannot be."""
    for kind, body in await link.collect(frames + frontend.Sync().encode()):
        if kind == backend.ERROR_RESPONSE:
            take_back(deque(script))
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))


def _text(written: OnLink, name: bytes) -> tuple[str, Callable[[ErrorFields], ErrorFields | None]]:
    """Return the text for a shard, and what puts the place of an error into the client's."""
    prepared = written.prepared
    length = len((prepared.frozen or prepared.query).decode("utf-8", "surrogateescape"))
    blanks = length if length <= MAX_PADDING else 0
    begin = f"{' ' * blanks}{written.before}{name.decode()}"
    shift = written.after_at - len(begin)

    def place(error: ErrorFields) -> ErrorFields | None:
        position = error.position
        if position is None or position <= blanks:
            return None
        return error.replace(P=str(position + shift) if blanks else None)

    return begin + written.after, place
