"""The extended query protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync.

Theory of operation. Messages for one shard are collected in a *batch*: frames for the link, and a script that says
which of the answers the client gets (proxy.session.relay). The batch goes out in one packet when the client syncs or
flushes, or when a message needs another shard; until then nothing waits. What the session answers itself
(ParseComplete, a portal over several shards) stands in the script behind the message before it, so the order of answers
is the order of messages.

A lone Execute before Sync is a transaction of its own on its shard. Everything else between two Syncs is one implicit
transaction, begun with BEGIN on each shard that it touches, and committed at Sync: atomically, however many they are.

Rules that Postgres sets: an error skips to Sync; Sync ends an implicit transaction and drops its portals; a named
statement must be closed before its name is used again, the unnamed ones are replaced.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.errors import ProxyError, definitions_changed
from proxy.isolation import WITHOUT_SNAPSHOT, parses_with_snapshot
from proxy.session import simple
from proxy.session.ahead import calls_alone, describe_ahead
from proxy.session.altering import note_altering
from proxy.session.batch import Batch, begins_itself, ends_pipeline, needs_block_before
from proxy.session.calling import call_function
from proxy.session.declared import check_declared, check_taken, taken
from proxy.session.encoded import check_change, may_read_otherwise, read_message, read_text, sets_encoding, with_names
from proxy.session.executing import drop_portals, execute_on_shards, run_control, sync_is_next, unfold
from proxy.session.fetching import execute_spread, fetch_in_portions
from proxy.session.filling import fill_bind
from proxy.session.following import before_set_config, follow_set_config, learn_settings
from proxy.session.left import fails_with, note_portal, take_off_link, without_statement
from proxy.session.literals import before_bind
from proxy.session.moments import at_sync
from proxy.session.named import cursor_shard, find_portal, find_statement
from proxy.session.on_link import portal_parsed_on
from proxy.session.outcome import Reported
from proxy.session.own_portals import find_cursor
from proxy.session.own_settings import is_shown_by_shard
from proxy.session.parameters import check_parameters, check_result_formats
from proxy.session.parse_locks import ParseLocks
from proxy.session.prepared import Portal, PreparedStatement
from proxy.session.preparing import (
    as_bound,
    check_executed,
    current,
    described_rows,
    parameters_of,
    prepare,
    read_parameters,
    request_of,
    resolve_bind,
)
from proxy.session.relay import BIND_ENDS, CLOSE_ENDS, DESCRIBE_ENDS, Relay, take_back
from proxy.session.relayed import relayed_shard, writes_on_shard
from proxy.session.run import settle_before
from proxy.session.telling import CLIENT_ERRORS, raise_if_fatal
from proxy.session.unnamed import Unnamed
from proxy.transaction import Block
from proxy.wire import backend, frontend
from proxy.wire.errors import desynchronized
from router.plan import Ddl, DeclareSpread, Empty, ExplainRoute, ExplainShards, ShardByShard, Statement
from router.plan_control import CursorControl, PreparedControl, SettingControl, TransactionControl
from router.plan_steps import Filled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.session.session import Session

_SYNC_FRAME = frontend.Sync().encode()
_SYNC, _FUNCTION_CALL, _PASSWORD = ord("S"), ord("F"), ord("p")
_BEGINNINGS = frozenset(b"PBE")
# A batch that has grown to this goes out though nobody asked for it yet.
BATCH_BYTES = 1 << 16
_CONTROL_PLANS = (
    TransactionControl,
    SettingControl,
    PreparedControl,
    CursorControl,
    Empty,
    ExplainRoute,
    ExplainShards,
)


class ExtendedProtocol:
    """Handles the messages of one session between two Syncs."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.batch: Batch | None = None
        self.skipping = False
        self._executed = False  # something, since the last Sync or COMMIT: Postgres has a block from then on
        self.unnamed = Unnamed(session)
        self._locks = ParseLocks(session)
        self._handlers: dict[int, Callable[[Any], Awaitable[None]]] = {
            ord("P"): self._parse,
            ord("B"): self._bind,
            ord("D"): self._describe,
            ord("E"): self._execute,
            ord("C"): self._close,
            ord("H"): self._flush,
            ord("S"): self._sync,
        }

    def planned_ahead(self) -> list[Statement]:
        """Return the statements that are bound and not run."""
        portals = [portal.prepared.statement for portal in self.session.portals.values() if portal.result is None]
        return [*portals, *(self.batch.bound if self.batch is not None else ())]

    def _drop_outdated(self) -> None:
        """What has been bound, and not been sent, must not run by the definitions that there are now."""
        self.session.outdated = False
        if self.skipping or not self.planned_ahead():
            return
        batch, self.batch = self.batch, None
        if batch is not None:
            take_back(batch.script)
        raise definitions_changed()

    def forget(self) -> None:
        """Nothing has been said since the last Sync."""
        self.batch, self.skipping, self._executed = None, False, False
        self._locks.ended()

    @property
    def under_way(self) -> bool:
        """Whether messages wait for a Sync, or are skipped up to it."""
        return self.skipping or self.batch is not None

    async def handle(self, kind: int, body: bytes) -> None:
        """Handle one message; after an error everything up to Sync is skipped."""
        if self.skipping and kind != _SYNC:
            if kind == _PASSWORD:
                raise desynchronized(f"invalid frontend message type {kind}")
            return
        handler = self._handlers.get(kind)
        if handler is None:
            await self._no_handler(kind, body)
            return
        try:
            message = await read_message(kind, body)
            if kind in _BEGINNINGS:
                await self.session.may_begin()
            if self.session.outdated:
                self._drop_outdated()
            if not body.isascii():
                message = await with_names(self.session, message, self._send_batch)
            await handler(message)
        except Reported as error:
            self.session.count_error(error)
            self._skip()
        except CLIENT_ERRORS as error:
            raise_if_fatal(error)
            self.session.anew.raise_if_outrun(error)
            await self._fail_in_order(error)
            if kind == _SYNC:  # with a body that it should not have: nothing is left to skip to
                self.skipping = False
                await simple.after_error(self.session)
                self.session.ready()

    async def _no_handler(self, kind: int, body: bytes) -> None:
        """A message that is no message here is fatal; a FunctionCall is one, with a ReadyForQuery of its own."""
        if kind != _FUNCTION_CALL:
            frontend.decode(kind, body)  # raises for a type that does not exist
            raise desynchronized(f"invalid frontend message type {kind}")
        if await self.run_unsynced():
            await call_function(self.session, body)

    async def _fail_in_order(self, error: Exception) -> None:
        """Report an error of the session's own behind the answers to what came before it."""
        try:
            await self._send_batch()
        except Reported as reported:
            self.session.count_error(reported)
            self._skip()
        except CLIENT_ERRORS as earlier:
            self._fail(earlier)
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.session.report_error(error)
        self._skip()

    def _skip(self) -> None:
        self.batch = None
        self.skipping = True

    async def ready_for_simple_query(self) -> bool:
        """Run what a Query finds unsynced before it; False when that failed."""
        outside = self._outside
        if not await self.run_unsynced():
            return False
        self.unnamed.query_begins(outside=outside)
        return True

    async def run_unsynced(self) -> bool:
        """Run what a Query or a FunctionCall finds unsynced before it, as Postgres does.

        False when that failed: then all up to Sync is skipped, the Query too.
        """
        try:
            await self._send_batch()
        except Reported as error:
            self.session.count_error(error)
            self._skip()
            return False
        except CLIENT_ERRORS as error:
            raise_if_fatal(error)
            self._fail(error)
            return False
        self._executed = False
        return True

    def _reply(self, frame: bytes) -> None:
        """Send an answer of the session's own, behind those of the shard that are still to come."""
        if self.batch is not None and self.batch.script and not self.session.anew.owes:
            self.batch.script[-1].after += frame
        else:
            self.session.anew.reply(frame)

    def _set_statement(self, name: bytes, prepared: PreparedStatement | None) -> None:
        """Note a Parse or a Close (None); if what goes before it to the shard fails, Postgres would have skipped it."""
        statements = self.session.statements
        before = statements.get(name)
        if prepared is not None:
            statements[name] = prepared
        elif before is not None:
            del statements[name]
        if self.batch is not None and self.batch.script:
            undo = (
                partial(statements.pop, name, None) if before is None else partial(statements.__setitem__, name, before)
            )
            self.batch.script[-1].undo_after.append(undo)

    # --- batches ----------------------------------------------------------------------------------------------

    async def _batch_for(
        self, shard: int, *, writes: bool, reads: bool | None = None, bound: Statement | None = None
    ) -> Batch:
        """Return the open batch for ``shard``, joining it; a batch for another shard goes out first.

        ``bound``: the statement that a Bind is for. Whether the batch needs a block is seen when it goes out.
        """
        session = self.session
        if self.batch is not None and self.batch.shard != shard:
            await self._send_batch()
        if bound is not None:
            link = await session.join(bound, shard, writes=writes, reads=bound.tag not in WITHOUT_SNAPSHOT)
        else:
            link = (await session.transaction.join([shard], writes=writes, reads=reads))[shard]
        if self.batch is None:
            self.batch = Batch(link, shard)
        return self.batch

    async def _send_batch(self, *, last: bool = False) -> None:
        """Send the batch with a Sync of ours (inside a block that commits nothing) and pass the answers on.

        ``last``: the client's Sync is next. A single Execute before it is a transaction of its own; whatever else is in
        a pipeline could have to be taken back by what follows, and needs a block (but see proxy.session.ahead).
        """
        batch, self.batch = self.batch, None
        if batch is None or not batch.frames:
            return
        session = self.session
        try:
            answer = await self._exchange(batch, last=last)
        finally:
            take_back(batch.script)  # what was not reached: nothing when all went well
        session.meter.rows += answer.rows
        await session.follow_shard(batch.link, failed=answer.failed)
        if answer.failed:
            raise Reported(answer.sqlstate)
        for statement in batch.statements:
            session.note_effects(statement, [batch.shard])
            await follow_set_config(session, statement, batch.shard)
            if isinstance(statement.plan, CursorControl) and statement.plan.closes:
                session.cursors.pop(statement.plan.name or "", None)
            if isinstance(statement.plan, Ddl | ShardByShard) and statement.plan.catalog_changes:
                await session.catalog_changed()
                take_off_link(session, statement)

    async def _exchange(self, batch: Batch, *, last: bool) -> Relay:
        """Send a batch, in a block where it needs one, and pass the answers on."""
        session = self.session
        session.running = tuple(batch.bound)
        if batch.statements:
            session.meter.runs(batch.statements)
            note_altering(session, batch.statements)
        alone = batch.is_alone(last=last)
        if any(simple.changes_definitions(session, statement) for statement in batch.statements):
            alone = False  # others must not run by the new definitions before they are read
        if not session.transaction.in_block and not alone:
            session.begin(Block.IMPLICIT)
            await session.transaction.begin_on_links(reads=batch.reads)
        if batch.reads:
            await settle_before(session, [batch.shard])
        explain, anew = session.transaction.explain, session.anew
        answer = Relay(session.connection, session.on_parameter, batch.script, explain, anew)
        batch.link.exchange(bytes(batch.frames) + _SYNC_FRAME, answer)
        await answer.wait(batch.link)
        while answer.copy_in:
            await answer.pass_copy_data(batch.link)
            await answer.wait(batch.link)
        return answer

    async def _send_declared(self, name: bytes) -> None:
        """Before a message for a portal: it may be the cursor of a DECLARE that waits in the batch."""
        if self.batch is not None and self.batch.declares(name):
            await self._send_batch()

    # --- messages ---------------------------------------------------------------------------------------------

    async def _parse(self, message: frontend.Parse) -> None:
        session = self.session
        name = message.statement
        if not name:
            self._set_statement(name, None)  # gone, whatever becomes of this one
        session.database.counts.client_parses += 1
        if self.batch is not None and may_read_otherwise(session, message.query, self.batch.statements):
            await self._send_batch()
        text = await read_text(session, message.query, self._send_batch)
        if self.batch is not None and self.batch.ends_transactions:
            await describe_ahead(session, self.batch.link, text, message.parameter_oids)
        prepared = await prepare(session, name, text, message.parameter_oids, self._send_batch)
        if name and name in session.statements:  # as in Postgres, what is wrong with the text comes first
            raise ProxyError("42P05", f'prepared statement "{name.decode(errors="replace")}" already exists')
        self._set_statement(name, prepared)
        self._locks.parsed(prepared)
        session.transaction.modes.queried |= parses_with_snapshot(prepared.statement)
        self._reply(backend.parse_complete())

    async def _bind(self, message: frontend.Bind) -> None:
        session = self.session
        prepared = find_statement(self.session, message.statement)
        check_parameters(message, prepared)
        simple.check_bind(session, prepared.statement, values=bool(message.parameters))
        session.database.counts.binds += 1
        await self._send_declared(message.portal)
        if message.portal and message.portal in session.portals:
            raise taken(message.portal.decode(errors="replace"))
        session.spread_cursors.check(message.portal.decode(errors="replace"))
        replaced = note_portal(session, self.batch, message.portal, without_statement(session, message.portal))
        self.unnamed.is_bound(message.portal)
        if replaced is not None:
            await replaced.close()
        prepared = as_bound(session, await current(session, prepared, self._send_batch, told=self._locks.told(message)))
        session.running = (prepared.statement,)
        told = isinstance(prepared.statement.plan, Filled)
        if told:
            parameters = await parameters_of(message, prepared)
            prepared, message = await fill_bind(session, prepared, message, parameters, self._send_batch)
        portal = Portal(message.portal, prepared, message, None, told=told, inside=session.transaction.savepoints)
        portal.in_failed = session.transaction.failed
        await self._resolve(portal)
        portal.deferred = begins_itself(prepared.statement) and session.transaction.block is not Block.EXPLICIT
        check_taken(session, portal)
        session.portals[message.portal] = portal
        if portal.shard is None or portal.deferred:
            check_result_formats(message, prepared)
            self._reply(backend.bind_complete())
        else:
            await self._bind_on_link(portal, portal.shard, forward=session.anew.is_news(backend.bind_complete()))

    async def _resolve(self, portal: Portal) -> None:
        """Find out where a portal lives; parameters that no link will see are read now."""
        session, prepared = self.session, portal.prepared
        plan = prepared.statement.plan
        if isinstance(plan, CursorControl):
            await find_cursor(session, portal, plan, self._send_batch)
        elif isinstance(plan, DeclareSpread):
            query = replace(prepared, statement=replace(prepared.statement, plan=plan.query))
            portal.executable = await resolve_bind(session, query, portal.bind, self._send_batch)
            return
        elif is_shown_by_shard(plan):
            portal.shard = session.settings_shard
        elif not isinstance(plan, _CONTROL_PLANS) and not simple.ends_failed_block(session, prepared.statement):
            portal.executable = await resolve_bind(session, prepared, portal.bind, self._send_batch)
            portal.shard = relayed_shard(portal.executable, prepared.statement)
        if portal.shard is None:
            portal.bind = await read_parameters(session, portal, self._send_batch)

    async def _bind_on_link(self, portal: Portal, shard: int, *, forward: bool) -> None:
        session = self.session
        await before_bind(session, portal, shard, self._send_batch, told=self._locks.told(portal.bind))
        batch = await self._batch_for(shard, writes=writes_on_shard(portal), bound=portal.prepared.statement)
        name, frames, script = batch.unless_parsed(portal, *await portal_parsed_on(session, batch.link, portal))
        batch.reads = batch.reads or portal.executable is not None
        batch.bound.append(portal.prepared.statement)
        self._locks.bound(portal.bind.statement)
        session.database.counts.server_parses += bool(frames)
        batch.frames += frames
        batch.script.extend(script)
        bind = portal.bind
        renamed = frontend.Bind(bind.portal, name, bind.parameter_formats, bind.parameters, bind.result_formats)
        batch.add(renamed.encode(), BIND_ENDS, forward=forward)
        fails_with(session, batch, portal)

    async def _describe(self, message: frontend.Describe) -> None:
        if message.kind == b"S":
            prepared = find_statement(self.session, message.name)
            if prepared.description.fields is not None:
                self.session.check_not_failed()
            self._reply(backend.parameter_description(prepared.description.parameter_oids))
            prepared = await self._locks.describes(prepared, self._send_batch)
            self._reply(await described_rows(self.session, prepared, self._send_batch))
            return
        await self._send_declared(message.name)
        if self.unnamed.is_on_link(message.name):
            (await self._batch_for(0, writes=False, reads=False)).add(message.encode(), DESCRIBE_ENDS, forward=True)
            return
        shard = cursor_shard(self.session, message.name)
        spread = self.session.spread_cursors.get(message.name.decode(errors="replace"))
        if spread is not None or shard is not None:
            self.session.check_not_failed()
        if spread is not None:
            self._reply(spread.described())
            return
        if shard is None:
            portal = find_portal(self.session, message.name)
            if portal.prepared.description.fields is not None:
                self.session.check_not_failed()
                await check_executed(self.session, portal.prepared, self._send_batch)
            shard = portal.shard
            if shard is None or portal.deferred or portal.told or self.session.anew.owes:
                self._reply(portal.described())
                return
        batch = await self._batch_for(shard, writes=False, reads=False)
        batch.add(message.encode(), DESCRIBE_ENDS, forward=True)

    async def _execute(self, message: frontend.Execute) -> None:
        session = self.session
        if self.unnamed.is_on_link(message.portal):
            (await self._batch_for(0, writes=False, reads=False)).execute(message.encode(), None)
            return
        if await self._execute_cursor(message):
            return
        portal = find_portal(self.session, message.portal)
        statement = portal.prepared.statement
        simple.check_block(session, statement)
        if not portal.in_failed and not isinstance(statement.plan, Empty):
            session.check_not_failed()
        alone = begins_itself(statement) and self._outside
        if alone:
            await self._send_batch()
            await simple.end_what_is_bound(session)
        elif portal.on_link is None and (needs_block_before(statement) or not statement.transaction_block):
            self._be_in_block(statement)
        session.transaction.command = statement.tag
        if portal.shard is not None:
            await self._execute_on_link(portal, portal.shard, message, alone=alone)
        else:
            await self._send_batch()
            await self._execute_here(portal, statement, message)
        goes_on = not ends_pipeline(statement, alone=alone)
        if alone:
            await drop_portals(session)
            session.transaction.finish_statement()  # what follows in the pipeline begins anew
            if goes_on:  # in a transaction that it has begun itself, with its portal, which has run
                portal.shard, portal.ended = None, statement.tag.encode()
                session.portals[portal.name] = portal
        if not isinstance(statement.plan, Empty):
            self._executed = goes_on

    async def _execute_cursor(self, message: frontend.Execute) -> bool:
        """Run the portal of a cursor that DECLARE made; False: it is none."""
        await self._send_declared(message.portal)
        session, shard = self.session, cursor_shard(self.session, message.portal)
        spread = session.spread_cursors.get(message.portal.decode(errors="replace"))
        if shard is None and spread is None:
            return False
        session.check_not_failed()
        self._executed = True
        if shard is not None:
            batch = await self._batch_for(shard, writes=False, reads=False)
            batch.execute(message.encode(), None)
        elif spread is not None:
            await self._send_batch()
            await execute_spread(session, message, spread)
        return True

    async def _execute_here(self, portal: Portal, statement: Statement, message: frontend.Execute) -> None:
        session = self.session
        if portal.ended is not None:
            session.write(portal.again())
            return
        if isinstance(statement.plan, DeclareSpread) and portal.executable is not None:
            request = replace(request_of(portal), text=statement.plan.text)
            declared = session.spread_cursors.declare(
                session, statement.plan, portal.executable, request, statement.text
            )
            answer = await declared
            portal.answered(answer)
            session.write(answer)
            return
        if await fetch_in_portions(session, portal, message.row_limit):
            return
        if await unfold(session, portal, limited=message.row_limit > 0):
            await self._execute(message)
        elif not await run_control(session, portal, statement, outside=self._outside):
            await execute_on_shards(session, portal, statement, message.row_limit)

    @property
    def _outside(self) -> bool:
        """Whether Postgres has no block: its own begins behind the first Execute, ours with a Bind that goes out."""
        executed = self._executed or (self.batch is not None and self.batch.executes > 0)
        return not executed and self.session.transaction.block is not Block.EXPLICIT

    def _be_in_block(self, statement: Statement) -> None:
        """Have a block where Postgres has one, or raise what it says where there is none."""
        if self._outside:
            raise ProxyError("25P01", f"{statement.tag} can only be used in transaction blocks")
        if self.session.transaction.in_block:
            return
        if self.batch is None:
            self.session.begin(Block.IMPLICIT)
        else:
            self.batch.in_block = True

    async def _execute_on_link(self, portal: Portal, shard: int, message: frontend.Execute, *, alone: bool) -> None:
        session, statement = self.session, portal.prepared.statement
        if portal.deferred:
            await self._bind_on_link(portal, shard, forward=False)
            portal.deferred = False
        check_declared(session, statement, shard)
        new_encoding = sets_encoding(statement)
        if new_encoding:
            check_change(session)
        await before_set_config(session, statement, self._send_batch)
        batch = await self._batch_for(shard, writes=writes_on_shard(portal))
        batch.ends_transactions |= self._outside and calls_alone(session, statement)
        batch.execute(message.encode(), statement, portal.place)
        # Behind COPY the client sends data; and nobody keeps a pipeline of any length in memory.
        if statement.tag == "COPY" or new_encoding or alone or len(batch.frames) > BATCH_BYTES:
            await self._send_batch(last=sync_is_next(self.session))

    async def _close(self, message: frontend.Close) -> None:
        session = self.session
        if message.kind == b"S":
            self._set_statement(message.name, None)
            self._reply(backend.close_complete())
            return
        await self._send_declared(message.name)
        name = message.name.decode(errors="replace")
        if session.spread_cursors.get(name) is not None and not session.transaction.failed:
            await self._send_batch()
            await session.spread_cursors.close(session, name)
            self._reply(backend.close_complete())
            return
        self.unnamed.is_bound(message.name)
        portal = note_portal(session, self.batch, message.name, None)
        shard = portal.shard if portal is not None else cursor_shard(self.session, message.name)
        if shard is not None and (portal is None or shard in session.transaction.links):
            session.cursors.pop(message.name.decode("utf-8", "surrogateescape"), None)
            batch = await self._batch_for(shard, writes=False, reads=False)
            batch.add(message.encode(), CLOSE_ENDS, forward=True)
            return
        if portal is not None:
            await portal.close()
        self._reply(backend.close_complete())

    async def _flush(self, message: frontend.Flush) -> None:  # noqa: ARG002 - it carries nothing
        await self._send_batch()
        await self._locks.take()

    async def _sync(self, message: frontend.Sync) -> None:  # noqa: ARG002 - it carries nothing
        session = self.session
        try:
            if not self.skipping:
                await self._send_batch(last=True)
                if session.transaction.block is Block.EXPLICIT:
                    await self._locks.take()
            if session.transaction.block is Block.IMPLICIT:
                if session.transaction.failed or self.skipping:
                    await session.rollback()
                else:
                    await session.commit()
        except Reported as error:
            session.count_error(error)
            await simple.after_error(session)
        except CLIENT_ERRORS as error:
            session.report_error(error)
            await simple.after_error(session)
        self.forget()
        await session.transaction.release_locks()
        at_sync(session)
        if not session.transaction.in_block:
            await drop_portals(session)
            session.transaction.finish_statement()
        await learn_settings(session)
        session.ready()
