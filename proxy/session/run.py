"""Running one data statement for a session: relayed to one shard, or parted over several.

Decides when a statement needs a block of its own to be atomic. Left to others: what came before (planning) and what the
protocol says around it (``simple``, ``extended``).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.executor import execute
from proxy.executor.request import Fence as FenceHooks
from proxy.session.audit import Audit, errors_told
from proxy.session.copied import copied_shard
from proxy.session.copying import CopyValues
from proxy.session.creating import start_create
from proxy.session.declared import check_declared
from proxy.session.defining import at_moment, start_where_found
from proxy.session.elements import start_schema
from proxy.session.locking import start_lock
from proxy.session.locking_copies import start_lock_copies
from proxy.session.meter import rows_of_tag
from proxy.session.moving import start_apply, start_move
from proxy.session.outcome import Reported
from proxy.session.refreshing import start_fill
from proxy.session.relay import Relay
from proxy.session.watched import Watch
from proxy.shards.errors import ShardError
from proxy.transaction import Block
from proxy.twophase.fence import FenceLostError
from proxy.wire import backend, frontend
from proxy.wire.frames import HEADER_BYTES
from router.errors import refusal
from router.plan import Ddl, Execution, GatherExecution, Same, ShardByShard
from router.plan_copy import CopyInExecution
from router.plan_steps import (
    ApplyExecution,
    CreateExecution,
    FillExecution,
    FoundExecution,
    InSteps,
    LockCopiesExecution,
    LockExecution,
    MoveExecution,
    SchemaExecution,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from proxy.executor.request import Environment, Request, ResultStream
    from proxy.session.prepared import Place
    from proxy.session.session import Session
    from proxy.twophase.fence import Held
    from proxy.wire.backend import Field
    from proxy.wire.fields import ErrorFields
    from router.plan import Executable, Statement

# A statement of a longer message is padded with blanks up to its place, so that the shard's error positions are the
# message's.
MAX_PADDING = 20_000
FENCE_RETRIES = 5


def padded(statement: Statement) -> str:
    """Return the statement's text at its place in the message."""
    return at_its_place(statement.text, statement.offset)


def at_its_place(text: str, offset: int) -> str:
    """Return a text behind so many blanks."""
    return " " * offset + text if offset <= MAX_PADDING else text


def writes_of(executable: Executable) -> bool:
    """Return whether shards are written."""
    if isinstance(executable, Execution):
        return executable.writes
    return isinstance(executable, CopyInExecution | InSteps)


async def relay(  # noqa: PLR0913 - the last two go together
    session: Session,
    statement: Statement,
    shard: int,
    *,
    writes: bool,
    held: bool,
    text: str | None = None,
    place: Place | None = None,
) -> bytes:
    """Pass a simple query to one shard and its answer back; raises Reported when that was an error.

    ``text``: what it is there, if not as the client wrote it; ``place`` puts the place of an error into the client's.
    """
    check_declared(session, statement, shard)
    link = await session.join(statement, shard, writes=writes)
    explain = session.transaction.explain
    if place is not None:
        explain = partial(_explained, explain, place)
    answer = Relay(session.connection, session.on_parameter, explain=explain, anew=session.anew)
    answer.hold_tag = held
    answer.alone = statement.tag == "COPY"
    link.exchange(frontend.Query(link.encode(padded(statement) if text is None else text)).encode(), answer)
    await answer.wait(link)
    while answer.copy_in:
        await answer.pass_copy_data(link)
        await answer.wait(link)
    session.meter.rows += answer.rows
    await session.follow_shard(link, failed=answer.failed)
    if answer.failed:
        raise Reported(answer.sqlstate)
    return answer.tag


def _explained(explain: Place, place: Place, error: ErrorFields) -> ErrorFields | None:
    return explain(error) or place(error)


async def run_parted(session: Session, statement: Statement, executable: Executable, request: Request) -> bytes:
    """Run a statement that several shards answer, or whose text is ours; returns its CommandComplete.

    One that writes is a transaction of its own unless a block is open.
    """
    own_block = session.transaction.block is Block.NONE and needs_block(session, statement, executable)
    if own_block:
        session.begin(Block.IMPLICIT)
    if writes_of(executable):
        await settle_before(session, shards_of(executable))
    audit = None if statement.audit is None else await Audit.begin(session, statement, alone=own_block)
    watch = await Watch.begin(session, statement, shards_of(executable), own_block=own_block)
    copied = copied_shard(executable, statement)
    with errors_told(audit):
        if copied is not None:
            answer = await relay(session, statement, copied, writes=True, held=True)
        else:
            answer = backend.command_complete((await _sent(session, executable, request)).tag)
            session.meter.rows += rows_of_tag(answer[HEADER_BYTES:-1])
    if audit is not None:
        await audit.end()
    if watch is not None:
        await watch.end()
    session.note_effects(statement, shards_of(executable))
    if isinstance(statement.plan, Ddl | ShardByShard) and statement.plan.catalog_changes:
        await session.catalog_changed()
    if own_block:
        await session.commit()
    return answer


async def _sent(session: Session, executable: Executable, request: Request) -> ResultStream:
    """Start an execution and pass its rows to the client."""
    result = await _start_described(session, executable, request)
    try:
        while True:
            batch = await result.next_rows()
            if batch.frames:
                session.write(b"".join(batch.frames) if len(batch.frames) > 1 else batch.frames[0])
            if batch.done:
                return result
            await session.connection.drain()
    finally:
        await result.close()


async def _start_described(session: Session, executable: Executable, request: Request) -> ResultStream:
    """Start an execution, and tell what its columns are if that is wanted; also where it fails once it runs."""
    try:
        result = await start(session, executable, request)
        columns = result.row_description
    except ShardError as error:
        if request.describe_rows and error.columns is not None:
            session.write(backend.row_description(_told(request, error.columns)))
        raise
    if request.describe_rows and columns is not None:
        session.write(backend.row_description(_told(request, columns)))
    return result


def _told(request: Request, found: Sequence[Field]) -> Sequence[Field]:
    """Return the columns as the client's own statement has them, where it runs in another form: with their tables."""
    told = request.fields
    if told is None or [field.type_oid for field in told] != [field.type_oid for field in found]:
        return found
    return told


async def settle_before(session: Session, shards: list[int]) -> None:
    """See that a data statement finds on its shards what was decided before it, unless the session chose speed."""
    if session.own_settings["read_consistency"] == "snapshot":
        await session.transaction.settle(shards)


async def start(session: Session, executable: Executable, request: Request) -> ResultStream:
    """Start an execution; a read of several shards takes its snapshots behind the fence.

    A fence that was lost before it was confirmed has executed nothing: all starts again.
    """
    check_cross_shard(session, executable)
    check_once(session, executable)
    session.meter.shards = max(session.meter.shards, len(shards_of(executable)))
    request = replace(request, encoding=session.encoding.codec)
    if isinstance(executable, GatherExecution) and request.fields is None and executable.plan.copies is None:
        description = await session.database.descriptions.ask(session, request.text, request.parameter_oids)
        request = replace(request, fields=description.fields)
    in_steps = _in_steps(session, executable, request)
    if in_steps is not None:
        return await in_steps
    if isinstance(executable, Execution) and isinstance(executable.combine, Same):
        await _prepare(session, executable, executable.combine)
        executable = at_moment(session, executable)
    attempts = FENCE_RETRIES if reads_several(session, executable) else 0
    while True:
        snapshot = CommonSnapshot(session, shards_of(executable)) if attempts else None
        try:
            environment = await _environment(session, executable, snapshot)
            return await execute(executable, request, session.transaction, environment)
        except FenceLostError:
            attempts -= 1
            if attempts <= 0:
                raise
        finally:
            if snapshot is not None:
                await snapshot.end()


async def _environment(session: Session, executable: Executable, snapshot: CommonSnapshot | None) -> Environment:
    environment = session.environment(snapshot)
    if isinstance(executable, CopyInExecution) and executable.plan.fill is not None:
        values = await CopyValues.of(session, executable.plan, executable.plan.fill)
        return replace(environment, copy_values=values)
    return environment


def _in_steps(  # noqa: PLR0911 - one for each kind
    session: Session, executable: Executable, request: Request
) -> Awaitable[ResultStream] | None:
    """Return what starts an execution in steps, each of which comes back here; None for another one."""
    if isinstance(executable, FoundExecution):
        return start_where_found(session, executable, request, start)
    if isinstance(executable, CreateExecution):
        return start_create(session, executable, request, start)
    if isinstance(executable, FillExecution):
        return start_fill(session, executable, request, start)
    if isinstance(executable, SchemaExecution):
        return start_schema(session, executable, request, start)
    if isinstance(executable, MoveExecution):
        return start_move(session, executable, request, start)
    if isinstance(executable, ApplyExecution):
        return start_apply(session, executable, request, start)
    if isinstance(executable, LockCopiesExecution):
        return start_lock_copies(session, executable, request, start)
    if isinstance(executable, LockExecution):
        return start_lock(session, executable, request, start)
    return None


def check_cross_shard(session: Session, executable: Executable) -> None:
    """Do what pgchorus.cross_shard says about a statement that several shards share.

    Not meant are those that every copy or shard must run whatever the client writes: DDL, writes of reference tables.
    """
    wanted = session.own_settings["cross_shard"]
    shards = shards_of(executable)
    if wanted == "on" or len(shards) < 2:  # noqa: PLR2004 - several
        return
    if isinstance(
        executable, CreateExecution | SchemaExecution | FoundExecution | ApplyExecution | LockCopiesExecution
    ) or (isinstance(executable, Execution) and isinstance(executable.combine, Same)):
        return
    if isinstance(executable, CopyInExecution) and executable.plan.key_column is None:
        return
    names = ", ".join(session.database.logical.shards[shard] for shard in shards)
    if wanted == "off":
        raise refusal("cross-shard-off", shards=names)
    session.notice("WARNING", "01000", f"the statement runs on several shards: {names}")


def check_once(session: Session, executable: Executable) -> None:
    """Refuse a statement over several shards, or none, whose trigger fires once however many rows it writes."""
    names = [statement.once for statement in session.running if statement.once]
    if names and writes_of(executable) and len(shards_of(executable)) != 1:
        raise refusal("statement-trigger", name=names[0])


async def _prepare(session: Session, execution: Execution, same: Same) -> None:
    """Run what goes before a statement that all shards run."""
    if same.lock:
        # What was decided before the lock was had must be visible everywhere; what comes after it waits for us.
        home = session.database.logical.home
        links = await session.transaction.join([home], writes=True)
        await links[home].run(same.lock)
        await settle_before(session, shards_of(execution))
    for task in execution.tasks:
        for text in task.before:
            links = await session.transaction.join([task.shard], writes=True)
            await links[task.shard].run(text)


class CommonSnapshot:
    """One statement's use of the fence: held from before the first Bind until all shards have bound."""

    def __init__(self, session: Session, shards: list[int]) -> None:
        self._transaction = session.transaction
        self._fence = session.database.fence
        self._shards = shards
        self._stack = AsyncExitStack()
        self._held: Held | None = None

    def hooks(self) -> FenceHooks:
        """Return what the executor awaits around Bind."""
        patience_s = self._fence.limits.patience_ms / 1000
        return FenceHooks(before_bind=self._take, barrier=self._confirm, let_go=self.end, patience_s=patience_s)

    async def _take(self) -> None:
        taking = self._stack.enter_async_context(self._fence.hold(self._shards))
        self._held = await self._transaction.unless_cancelled(taking)
        self._transaction.check_cancelled()

    async def _confirm(self) -> None:
        if self._held is not None:
            await self._held.release_confirmed()

    async def end(self) -> None:
        """Give the fence up, however the statement went."""
        self._held = None
        await self._stack.aclose()


def reads_several(session: Session, executable: Executable) -> bool:
    """Whether a statement needs a common snapshot: it reads several shards, and the session did not choose speed."""
    transaction = session.transaction
    if session.own_settings["read_consistency"] == "shard" or (transaction.in_block and transaction.keeps_snapshot):
        return False
    return not writes_of(executable) and len(shards_of(executable)) > 1


def needs_block(session: Session, statement: Statement, executable: Executable) -> bool:
    """Whether a statement outside any block must commit atomically over shards, or with what is asked of them.

    One that reads several at REPEATABLE READ needs one for its snapshots: there Parse takes them, before any fence.
    """
    if isinstance(statement.plan, ShardByShard):
        return False
    several = len(shards_of(executable)) > 1
    return statement.watched or writes_of(executable) or (session.transaction.keeps_snapshot and several)


def shards_of(executable: Executable) -> list[int]:
    """Return the shards of an execution."""
    if isinstance(executable, Execution | GatherExecution):
        return [task.shard for task in executable.tasks]
    return list(executable.shards)


async def shard_by_shard(session: Session, statement: Statement, executable: Executable) -> bytes:
    """Run what Postgres refuses in a transaction on each shard in turn; if one fails, say where it was done."""
    if session.transaction.in_block:
        if isinstance(executable, Execution):  # Postgres has the words
            task = executable.tasks[0]
            links = await session.transaction.join([task.shard], writes=False)
            await links[task.shard].run(task.text or statement.text)
        raise ProxyError("25001", f"{statement.tag or 'this statement'} cannot run inside a transaction block")
    try:
        return await _in_turn(session, statement, executable)
    finally:
        if isinstance(statement.plan, ShardByShard) and statement.plan.catalog_changes:
            await session.catalog_changed()  # of what was done before a failure, too


async def _in_turn(session: Session, statement: Statement, executable: Executable) -> bytes:
    done: list[str] = []
    told: list[object] = []
    tag = b""
    shards = session.database.logical.shards
    assert isinstance(executable, Execution)  # noqa: S101 - narrows the type
    for task in executable.tasks:
        shard = task.shard
        try:
            links = await session.transaction.join([shard], writes=True)
            answer = await links[shard].run(task.text or statement.text)
        except ShardError as error:
            where = f"Shard {shards[shard]} failed" + (
                f"; done on: {', '.join(done)}." if done else "; nothing was done."
            )
            fields = error.fields.replace(D=" ".join(filter(None, [error.fields.detail, where])))
            session.write(backend.error_response(fields))
            raise Reported(fields.sqlstate) from error
        finally:
            session.transaction.finish_statement()
        for notice in answer.notices:
            # What all shards say the client hears once; that some lack an index is no news of the one that was dropped.
            if notice.fields not in told and not (done and statement.tag == "DROP INDEX"):
                told.append(notice.fields)
                session.write(backend.notice_response(notice))
        tag = answer.tags[-1]
        done.append(shards[shard])
    return backend.command_complete(tag)
