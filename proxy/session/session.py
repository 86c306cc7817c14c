"""One client's session: its state, its message loop, and the one border where exceptions become ErrorResponse.

Decides the order of things: a message is handled to its end before the next one is looked at; after an error in the
extended protocol everything up to Sync is skipped; ReadyForQuery is always the session's own. The handling itself is in
the rooms beside this one: ``simple`` (Query), ``extended`` (Parse, Bind, Execute ...), ``control`` (BEGIN, SET, PREPARE
...).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from proxy.encodings import by_name
from proxy.errors import QUERY_CANCELED, ProxyError, definitions_changed
from proxy.executor.request import Environment
from proxy.fields import SessionFields
from proxy.giving_way import cancel_commit, cancel_on, deaf_behind
from proxy.session import keepers, names, own_settings
from proxy.session.anew import Anew
from proxy.session.changing import changing
from proxy.session.clocks import told_by
from proxy.session.cursors import OpenCursors, is_inside, located
from proxy.session.effects import note_effects, note_failure, note_joined
from proxy.session.encoded import sets_encoding
from proxy.session.following import learn_settings
from proxy.session.heard import Heard
from proxy.session.meter import Meter
from proxy.session.outcome import Fate, RolledBack
from proxy.session.roles import made_by, role_outside
from proxy.session.scratch import lend_scratch
from proxy.session.sequences import SequenceValues
from proxy.session.telling import error_frame, sqlstate_of
from proxy.session.temporary import check_names, compare_names, keep_temporary
from proxy.session.watched import look_at_end
from proxy.shards.errors import ShardError
from proxy.transaction import IDLE, Block, ClientTransaction
from proxy.wire import backend
from proxy.wire.fields import ErrorFields
from router.errors import Refused, refusal
from router.plan import SequenceUse, Single
from router.resolve import UnresolvedKey, resolve
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.admin.statements import Tally
    from proxy.connection import ClientConnection
    from proxy.database import LogicalDatabase
    from proxy.encodings import Encoding
    from proxy.links import Replay
    from proxy.session.clocks import Clocks
    from proxy.session.prepared import Portal, PreparedStatement
    from proxy.session.run import CommonSnapshot
    from proxy.session.watched import Lasting
    from proxy.settings import SessionSettings
    from proxy.shards.link import ShardLink
    from proxy.twophase.coordinator import Outcome
    from proxy.twophase.participant import Participant
    from router.plan import Executable, Statement
    from router.planner import Planner
    from router.resolve import KeyParameter
    from router.statement import Parsed

log = structlog.get_logger("pgchorus.session")

KILL_GRACE_S = 1.0
FAILED_BLOCK = "current transaction is aborted, commands ignored until end of transaction block"

_TERMINATED = ProxyError("57P01", "terminating connection due to administrator command")
_TERMINATION = backend.error_response(ErrorFields.make("FATAL", _TERMINATED.sqlstate, _TERMINATED.message))


class Session(SessionFields):
    """The state of one logged-in client. ``parameters`` are the ParameterStatus values that it was told."""

    def __init__(
        self,
        connection: ClientConnection,
        database: LogicalDatabase,
        role: str,
        settings: SessionSettings,
        parameters: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.connection = connection
        self.database = database
        self.role = role
        self.acting = role  # as whom: what SET ROLE has made of it
        self.roles = {made_by(settings): role}  # by the settings that lead to them
        self.role_moved = False  # in the open block
        self.lasting: Lasting | None = None  # what functions have set in it
        self.settings = settings
        self.parameters = dict(parameters)
        self._told = dict(parameters)
        self._changed_parameters: dict[str, None] = {}
        self.changed_by_data: set[str] = set()  # of those: by a statement that is no SET
        self.parameters_at_begin: dict[str, str] | None = None
        self.parameters_inside: list[tuple[Replay, dict[str, str]]] = []  # at the savepoints of the block
        self._changed_in_block: dict[str, None] = {}  # since then, in the order of the first changes
        self.transaction = ClientTransaction(
            database=database, role=role, settings=settings, shard_count=len(database.logical.shards)
        )
        self.heard = Heard(self)
        self.transaction.on_notification = self.heard.add
        self.pid = 0  # in BackendKeyData
        self.statements: dict[bytes, PreparedStatement] = {}
        self.portals: dict[bytes, Portal] = {}
        self.cursors: dict[str, int] = {}  # DECLARE'd name -> shard
        self.held_cursors: set[str] = set()  # those of them WITH HOLD
        self.cursors_inside: dict[str, tuple[Replay, ...]] = {}  # the savepoints in which they were declared
        self.cursors_at_begin: frozenset[str] = frozenset()
        self.spread_cursors = OpenCursors()
        self.planner_in_block: Planner | None = None  # sees this transaction's own DDL
        self.version_in_block = 0  # of the catalog, without that DDL, when this was made
        self.known_in_block = 0  # and the proxy's own count of catalogs
        self.hiding: frozenset[str] = frozenset()  # names of its temporary relations that others have lasting ones of
        self.names_compared = 0  # with which catalog, by the proxy's own count
        self._links_inside: tuple[ShardLink, ...] = ()  # that go by the types which it sees
        self.own_settings: dict[str, str] = {}
        self.sequences = SequenceValues()
        self.began_at_us = 0  # what now() is in the open block, in Unix time
        self.scratches: set[ShardLink] = set()  # links of gathered statements that run
        self.meter = Meter(self)
        self.clocks: Clocks | None = None  # of a session with timeouts
        self.killed = False
        self.begun_at = 0.0  # when the open block was begun, by time.monotonic
        self.message = ""  # the text of the Query under way
        self.fate = Fate()  # of that
        self.waits = False  # for definitions that change: what it was sent has not begun
        self.in_lane: Callable[[], Statement | None] = lambda: None  # what the fast lane runs
        self.planned_ahead: Callable[[], list[Statement]] = list  # what a pipeline has bound and not run
        self.outdated = self.outrun = False  # that; the statement under way is ended: because definitions change
        self.anew = Anew(self)
        own_settings.reset_all(self)

    @property
    def encoding(self) -> Encoding:
        """What the client speaks now."""
        return self.settings.encoding

    # --- what the router needs to know ------------------------------------------------------------------------

    @property
    def search_path(self) -> tuple[str, ...]:
        """The schemas of the session's search_path in which names are found, "$user" replaced."""
        planner = self.planner_in_block
        catalog = self.database.catalog if planner is None else planner.catalog
        text = self.parameters.get("search_path", '"$user", public')
        found = catalog.paths.get((text, self.acting))
        return names.effective_path(catalog, text, self.acting) if found is None else found

    def plan(self, text: str, parameter_oids: tuple[int, ...] = ()) -> tuple[Statement, ...]:
        """Parse and plan a message; raises SyntaxFailure or Refused."""
        if self.hiding:
            check_names(self, parse(text))
        if self.planner_in_block is not None:
            return self.planner_in_block.plan(text, self.search_path, parameter_oids)
        return self.database.plan(text, self.search_path, parameter_oids)

    def plan_one(self, parsed: Parsed) -> Statement:
        """Plan one statement of a message, with the catalog as it is at this point of the transaction."""
        if self.database.misplaced and self.planner_in_block is None:
            return self.database.plan_ends((parsed,), self.search_path)[0]
        if self.hiding:
            check_names(self, [parsed])
        planner = self.planner_in_block or self.database.planner
        return planner.plan_one(parsed, self.search_path)

    def check_settings(self, statement: Statement) -> None:
        """Refuse what would change settings behind our back, or the encoding in which we read texts."""
        if statement.tag == "UPDATE" and "pg_settings" in statement.text.lower():
            raise refusal("settings-update")
        if sets_encoding(statement) and not isinstance(statement.plan, Single):
            raise refusal("encoding-config")
        path = self.parameters.get("search_path", "")
        if not path.isascii() and not self.encoding.is_utf8 and self.transaction.shard_count > 1:
            raise refusal("encoding-path", encoding=self.encoding.name)

    @property
    def under_way(self) -> tuple[Statement, ...]:
        """The statements that shards may be asked for now."""
        if not self.in_query:
            return ()
        in_lane = self.in_lane()
        return self.running if in_lane is None else (in_lane,)

    async def may_begin(self) -> None:
        """Return when a statement may begin: not while definitions are about to change."""
        if self.database.definitions.changing:
            await self.database.definitions.begins(self)
        await compare_names(self)

    def resolve(self, statement: Statement, parameters: Sequence[KeyParameter] = ()) -> Executable:
        """Find the shards of a data statement; raises Refused for a key that only Postgres could read."""
        self.check_settings(statement)
        try:
            return resolve(located(self, statement.plan), self.database.logical, parameters, self.recode)
        except UnresolvedKey as error:
            raise refusal("key-form", reason=str(error)) from error

    @property
    def recode(self) -> Callable[[bytes], bytes] | None:
        """What turns a text key of the client's into UTF-8, in which keys are hashed; None: it is that."""
        return None if self.encoding.is_utf8 else self.encoding.to_utf8

    def client_lost(self) -> None:
        """Stop what runs for a client that hung up, unless it is a commit, or the client had said more behind it."""
        if not self.connection.inbox:
            self.stop()

    async def close(self) -> None:
        """End the session: roll back, give links back, close the socket."""
        try:
            for portal in list(self.portals.values()):
                await portal.close()
            if self.transaction.in_block and not self.transaction.committing:
                await self.transaction.rollback()
        except (ProxyError, ShardError) as error:
            log.info("session ended badly", client=self.connection.peer, error=str(error))
        finally:
            self.sequences.forget()
            self._plan_outside()
            self.transaction.abandon()
            self.connection.close()

    def shut_down_if_idle(self) -> None:
        """The server drains: a session outside any transaction is told to go."""
        if not self.in_query and not self.transaction.in_block and not self.connection.gone:
            self._end(_TERMINATED)

    def kill(self, last_words: bytes = _TERMINATION) -> None:
        """An administrator or a clock ends the session: what runs is cancelled (not a COMMIT), the client is told."""
        if self.killed:
            return
        self.killed = True
        self.stop()
        self.write(last_words)
        self.connection.close()
        # Closing waits for a client that does not read.
        asyncio.get_running_loop().call_later(KILL_GRACE_S, self.connection.abort)

    def _end(self, why: Refused | ProxyError) -> None:
        """Tell the client why, and close; whoever receives hears that it has gone."""
        self.write(backend.error_response(ErrorFields.make("FATAL", why.sqlstate, why.message)))
        self.connection.close()

    def cancel(self) -> list[asyncio.Task[None]]:
        """The client wants what runs cancelled: as ``stop``, and a COMMIT where that is the shard's own."""
        self.anew.unwanted = True
        return cancel_commit(self.transaction) if self.transaction.committing else self.stop()

    def stop(self) -> list[asyncio.Task[None]]:
        """Ask the shards to cancel what they run for this session; not once its COMMIT has begun.

        Returns tasks that are done when they have sent the signal, or cannot be reached.
        """
        if not self.in_query or self.transaction.committing or self.transaction.past_cancel:
            return []
        self.transaction.cancel()
        return [cancel_on(link) for link in (*self.transaction.links.values(), *self.scratches)]

    # --- answers ----------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self.connection.write(data)

    def ready(self) -> None:
        """Tell the client that it may go on, and which of the settings that it knows have changed."""
        self.outrun = False
        self.heard.pass_on()
        if self._changed_parameters:
            for name in reversed(self._changed_parameters):
                if self._told.get(name) != self.parameters[name]:
                    self._told[name] = self.parameters[name]
                    self.write(backend.parameter_status(name, self.parameters[name]))
            self._changed_parameters.clear()
        if by_name(self.parameters.get("client_encoding", "UTF8")) is not self.encoding:
            # A function has done it, who knows when: what the client has sent since may have been read wrong.
            self._end(refusal("encoding-changed"))
            return
        if self.transaction.shard_count > 1 and self.parameters.get("standard_conforming_strings") == "off":
            # Likewise: what Postgres reads as one string would be a sharding key to the router.
            self._end(refusal("strings-changed"))
            return
        keepers.look(self)
        self.write(backend.ready_for_query(self.transaction.status))
        if self.database.definitions.altering and not self.transaction.in_block:
            self.database.definitions.altering.discard(self)
        if self.clocks is not None:
            self.clocks.rested(in_block=self.transaction.block is Block.EXPLICIT)

    def notice(self, severity: str, sqlstate: str, message: str) -> None:
        """Send a notice of the proxy's own."""
        self.write(backend.notice_response(ErrorFields.make(severity, sqlstate, self.encoding.shown(message))))

    @property
    def has_changed_parameters(self) -> bool:
        """Whether the client is to be told of settings with the next ReadyForQuery."""
        return bool(self._changed_parameters)

    def on_parameter(self, name: str, value: str) -> None:
        """A shard reported a setting; like Postgres we pass that on with ReadyForQuery, if it has not changed back."""
        if self.parameters.get(name) != value:
            self.parameters[name] = value
            self._changed_parameters[name] = None
            self._changed_in_block.setdefault(name)
            self.changed_by_data.add(name)

    def parameters_are_noted(self) -> None:
        """What has changed came from SET and the like: whoever ran that has noted it, and how long it is to last."""
        self.changed_by_data.clear()
        self.settings.encoding = by_name(self.parameters.get("client_encoding", "UTF8")) or self.encoding
        for link in self.transaction.links.values():
            link.codec = self.encoding.codec

    def follow_parameters(self, link: ShardLink | None, *, committed: bool = False) -> None:
        """A link of the session was told something that may have changed settings (and its answer was swallowed).

        ``committed``: that was a COMMIT, behind which it may have been closed.
        """
        if link is not None and (committed or not link.closed):
            # Postgres takes back the last one first, and reports the last change first.
            for name in [*reversed(self._changed_in_block), *link.parameters]:
                self.on_parameter(name, link.parameters.get(name, self.parameters.get(name, "")))
            self.parameters_are_noted()

    def report_error(self, error: Exception, tally: Tally | None = None) -> None:
        """Write an exception as ErrorResponse and fail the block; raises it again if it is not one for clients.

        ``tally``: where the statement is counted, if it was the lane's.
        """
        if told_by(self, error) or keepers.tells(self, error):
            self.transaction.fail()
            return
        if isinstance(error, ShardError | ProxyError):
            fields = error.fields if isinstance(error, ShardError) else error.fields()
            instead = self.transaction.explain(fields)
            if instead is None and self.outrun and fields.sqlstate == QUERY_CANCELED:
                instead = definitions_changed().fields()  # its transaction has ended, and forgotten why
            if instead is not None:
                error = ShardError(instead, self.database.logical.home)
        self.write(error_frame(error, self.encoding))
        self.count_error(error, tally)

    def count_error(self, error: Exception, tally: Tally | None = None) -> None:
        """The client has been told of an error: count it, and fail the block."""
        if isinstance(error, Refused):
            self.database.metrics.refusals[error.refusal] += 1
        self.database.told(sqlstate_of(error), read_only=self.transaction.read_only)
        refused = error.refusal if isinstance(error, Refused) else ""
        self.meter.failed(tally, sqlstate=sqlstate_of(error), refusal=refused)
        note_failure(self)
        self.transaction.fail()
        self._settings_failed()
        if self.clocks is not None:
            self.clocks.failed()

    def environment(self, snapshot: CommonSnapshot | None) -> Environment:
        """Return what surrounds an execution of this session."""
        return Environment(
            client=self.connection,
            limits=self.database.merge_limits,
            cancel_others=True,
            fence=snapshot.hooks() if snapshot is not None else None,
            server_version=self.database.catalog.server_version // 10_000,
            scratch=partial(lend_scratch, self),
            gather_max_bytes=self.database.limits.gather_max_bytes,
        )

    # --- ends of transactions ---------------------------------------------------------------------------------

    def begin(self, block: Block) -> None:
        """Open a block if none is open."""
        if self.transaction.block is Block.NONE:
            self.parameters_at_begin = dict(self.parameters)
            self.parameters_inside.clear()
            self._changed_in_block.clear()
            self.cursors_at_begin = frozenset(self.cursors)
            self.began_at_us = time.time_ns() // 1000
            self.begun_at = time.monotonic()
            self.transaction.default_read_only = self.parameters.get("default_transaction_read_only") == "on"
            if self.clocks is not None:
                self.clocks.begun(block)
        self.transaction.begin(block)

    @property
    def ends_simply(self) -> bool:
        """Whether nothing of the session's has to be closed at the end of the block."""
        open_ = self.cursors or self.spread_cursors
        return not open_ and all(portal.result is None for portal in self.portals.values())

    def ended_simply(self) -> None:
        """A block that ``ends_simply`` has been committed: as ``commit`` leaves things."""
        if self.clocks is not None:
            self.clocks.ended()
        self.database.counts.block_ended(self.begun_at)
        self._plan_outside()
        self.portals.clear()
        self.parameters_at_begin = None

    async def commit(self, answered: Mapping[int, Participant] | None = None) -> None:
        """Commit the open block; raises what made it fail, after everything was rolled back."""
        if not self.transaction.catalog_changed:
            await self._commit(answered)
            return
        if self.transaction.shard_count == 1:  # the shard plans anew
            await self._commit(answered)
            await self.database.catalog_has_changed()
            return
        self.running = ()  # it has run: who changes something else at the same time need not end it
        async with changing(self):
            await self._commit(answered)
        await self.database.catalog_has_changed()

    async def _commit(self, answered: Mapping[int, Participant] | None) -> None:
        explicit, lasting, committed = self.transaction.block is Block.EXPLICIT, self.lasting, False
        look_at_end(self)
        with deaf_behind(self.transaction):
            try:
                outcome = await self.transaction.commit(answered)
                committed = outcome is None or outcome.committed
            finally:
                await self._after_block(committed=committed)
            if outcome is not None:
                self.meter.decided(outcome)
                self._tell(outcome, explicit=explicit)
            if lasting is not None:
                await lasting.keep()

    async def committed(self, outcome: Outcome) -> None:
        """A commit that the lane began has come to this, and the transaction has ended: go on as ``commit`` does."""
        await self._after_block(committed=outcome.committed)
        self._tell(outcome, explicit=True)

    def _tell(self, outcome: Outcome, *, explicit: bool) -> None:
        for notice in outcome.notices:
            self.write(backend.notice_response(notice))
        if outcome.committed:
            self.parameters_at_begin = None
            return
        self._restore_parameters()
        if outcome.error is None and explicit:
            raise RolledBack
        if outcome.error is None:
            raise ProxyError("40000", "the transaction was rolled back")
        raise ShardError(
            outcome.error, self.database.logical.home if outcome.shard is None else outcome.shard, outcome.raw
        )

    async def rollback(self) -> None:
        """Roll the open block back everywhere."""
        await self.transaction.rollback()
        self._restore_parameters()
        await self._after_block(committed=False)

    async def follow_shard(self, link: ShardLink, *, failed: bool) -> None:
        """Over one shard PREPARE TRANSACTION is the client's own affair, and ends the block without a COMMIT."""
        transaction = self.transaction
        if transaction.shard_count == 1 and transaction.block is Block.EXPLICIT and link.status == ord(IDLE):
            transaction.ended_by_shard(rolled_back=failed)
            await self._after_block(committed=not failed)

    def _plan_outside(self) -> None:
        """What the block has done to the catalog is everybody's now, or nobody's."""
        self.planner_in_block = None
        if self._links_inside:
            self.database.types_outside(self._links_inside)
            self._links_inside = ()

    async def _after_block(self, *, committed: bool) -> None:
        self.database.counts.block_ended(self.begun_at)
        if self.clocks is not None:
            self.clocks.ended()
        self._plan_outside()
        self.lasting = None
        if self.role_moved:
            role_outside(self)
        # What was declared WITH HOLD outlives its commit; what a rollback took back does not.
        staying = self.held_cursors if committed else self.held_cursors & self.cursors_at_begin
        self.cursors = {name: shard for name, shard in self.cursors.items() if name in staying}
        self.held_cursors &= self.cursors.keys()
        self.cursors_inside.clear()  # there are no savepoints any more
        self.spread_cursors.ended()
        for name, portal in list(self.portals.items()):
            await portal.close()
            del self.portals[name]
        await learn_settings(self)  # what comes next may stand in the same message

    async def rolled_back_to(self, savepoint: Replay) -> None:
        """Cursors and portals that were made inside a savepoint are gone when that is rolled back."""
        self.spread_cursors.rolled_back_to(savepoint)
        for cursor in [name for name, inside in self.cursors_inside.items() if is_inside(inside, savepoint)]:
            self.cursors.pop(cursor, None)
            self.held_cursors.discard(cursor)
            del self.cursors_inside[cursor]
        for name, portal in list(self.portals.items()):
            if is_inside(portal.inside, savepoint):
                del self.portals[name]
                await portal.close()

    def _restore_parameters(self) -> None:
        """Tell the client which reported settings a rollback took back."""
        if self.parameters_at_begin is not None:
            self._take_back(self.parameters_at_begin)
            self.parameters_at_begin = None

    def _take_back(self, values: Mapping[str, str]) -> None:
        for name in list(reversed(self._changed_in_block)):
            self.on_parameter(name, values.get(name, self.parameters[name]))
        self.parameters_are_noted()

    def _settings_failed(self) -> None:
        """An error takes settings back at once, as far as the ROLLBACK will that the client has to say."""
        transaction = self.transaction
        if self.parameters_at_begin is None or not (transaction.failed and transaction.settings_changed):
            return
        known = [values for savepoint, values in self.parameters_inside if is_inside(transaction.savepoints, savepoint)]
        self._take_back(known[-1] if known else self.parameters_at_begin)

    async def look_inside(self, link: ShardLink) -> None:
        """Plan by what the open transaction sees on home."""
        self.known_in_block = self.database.catalog_version
        self.planner_in_block = await self.database.planner_inside(link)

    async def catalog_changed(self) -> None:
        """DDL ran: inside a block its own planner must see it; outside everybody's."""
        if self.transaction.in_block:
            self.transaction.catalog_changed = True
            link = self.transaction.links.get(self.database.logical.home)
            if link is not None:
                self.version_in_block = await self.database.versions.read()
                await self.look_inside(link)
                keep_temporary(self)
                self._links_inside = tuple(self.transaction.links.values())
                await self.database.types_inside(self.transaction.links)
        else:
            await self.database.catalog_has_changed()

    # --- shared by the simple and the extended protocol -------------------------------------------------------

    def check_not_failed(self) -> None:
        """In a failed block only its end is listened to."""
        if self.transaction.failed:
            raise ProxyError("25P02", FAILED_BLOCK)

    def cursor_shard(self, name: str) -> int:
        """Return where a cursor was declared; a portal of the protocol is one as well, and functions open others."""
        portal = self.portals.get(name.encode())
        shard = self.cursors.get(name, portal.shard if portal is not None else None)
        if shard is not None:
            return shard
        if portal is not None and portal.executable is not None:
            raise refusal("cursor-fetch", name=name)
        home = self.database.logical.home
        if self.transaction.shard_count == 1 or home in self.transaction.links:
            return home  # a function may have opened it; Postgres knows
        raise ProxyError("34000", f'cursor "{name}" does not exist')

    @property
    def settings_shard(self) -> int:
        """Where settings are shown and set first: a shard that has joined already, else home."""
        return next(iter(self.transaction.links), self.database.logical.home)

    @property
    def settings_link(self) -> ShardLink | None:
        """The link of that shard, if it has joined."""
        return self.transaction.links.get(self.settings_shard)

    async def join(self, statement: Statement, shard: int, *, writes: bool, reads: bool | None = None) -> ShardLink:
        """Return the link for a statement that one shard runs; ``writes``, ``reads`` as in the transaction's join."""
        if statement.sequences is not SequenceUse.NONE:
            return await self.sequences.join(self, statement, shard, writes=writes)
        if not self.transaction.links:
            self.transaction.command = statement.tag  # by which it is chosen where it reads
        link = (await self.transaction.join([shard], writes=writes, reads=reads))[shard]
        note_joined(self, statement, link)
        return link

    def note_effects(self, statement: Statement, shards: Sequence[int]) -> None:
        """Remember what a statement leaves on its links."""
        note_effects(self, statement, shards)
