"""A client's transaction: which shards it joined, which of them wrote, and how it ends.

Decides when BEGIN goes to a shard (lazily, in the packet of the first statement there), what a shard that joins late
must replay (savepoints, SET LOCAL), which status the client sees, and which links go back to their pools. Left to
others: how several writers commit (proxy.twophase), what a statement means (router), what is said to the client
(proxy.session).

Three kinds of block:

- *none*: one statement on its own; links join without BEGIN and go back after it;
- *implicit*: several statements of one simple query, several messages before a Sync, or one statement that writes on
  several shards. BEGIN goes to the shards, the client never sees status T;
- *explicit*: the client sent BEGIN.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.bringing import bring_up, note_settings, starting_settings
from proxy.errors import QUERY_CANCELED, ProxyError
from proxy.giving_way import READ_ONLY_SAVEPOINT, before_commit, end_wait, explained, outlive_cancels
from proxy.isolation import (
    READ_COMMITTED,
    SERIALIZABLE,
    WITHOUT_SNAPSHOT,
    Modes,
    check_change,
    check_shards,
    keeps_snapshot,
)
from proxy.links import Replay, find_savepoint, note_kept, put_begin, read_only_after, undoing, what_stays
from proxy.replica_reads import matching_link
from proxy.settings import WHEN_RUN, Applied, SessionSettings, can_become, unsure
from proxy.shards.link import end_all
from proxy.tasks import InterruptedWait, Interruptible, all_ended, spawn
from proxy.twophase.fence import FenceLostError
from proxy.twophase.messages import alive_sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence

    from proxy.links import Links
    from proxy.replica_reads import ReplicaReads
    from proxy.shards.link import ShardLink
    from proxy.twophase.coordinator import Draft, Outcome
    from proxy.twophase.deadlock import Identity
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import Participant
    from proxy.wire.fields import ErrorFields

T = TypeVar("T")

IDLE, IN_BLOCK, FAILED = b"I", b"T", b"E"
UNSEEN = "settings made out of sight"  # why a link is kept until it was asked
SNAPSHOT_ATTEMPTS = 5  # to fix the snapshots of a block on all shards behind one fence
_NO_CURSOR = "34000"
_OF_A_MARK = "22P02"  # its text is no integer
PAUSED_LOOK_S = 0.05  # between looks whether a shard is paused, for those who wait for that


class Block(Enum):
    """What kind of block the transaction is in."""

    NONE = "none"
    IMPLICIT = "implicit"
    EXPLICIT = "explicit"


@dataclass(slots=True, eq=False)
class ClientTransaction:
    """The state of one session's current transaction; reused for the next one when it has ended."""

    database: Links
    role: str
    settings: SessionSettings
    shard_count: int
    block: Block = Block.NONE
    failed: bool = False
    doomed: bool = False  # a link was lost, or not brought up: ROLLBACK TO cannot bring it back
    modes: Modes = field(default_factory=Modes)
    inherited: Modes = field(default_factory=Modes)  # from the block before this one, by AND CHAIN
    command: str = ""  # the tag of the statement that runs, for errors of ours
    default_read_only: bool = False  # the session's default_transaction_read_only when the block began
    default_isolation: str = READ_COMMITTED  # the session's default_transaction_isolation now
    isolation_at_begin: str = READ_COMMITTED  # what that was when the block began
    fenced: bool = True  # reads see one moment of all shards (pgchorus.read_consistency)
    elsewhere: ReplicaReads | None = None  # for sessions that asked for replicas
    snapshot_fixed: bool = False  # on every shard: the block keeps what it saw first
    locked_tables: bool = False  # by LOCK TABLE, which must come before the snapshot and cannot be repeated
    identity: Identity | None = None  # once it has used a second shard
    draft: Draft | None = None  # of its commit, if that was begun to be made ahead
    gid: GlobalId | None = None  # that the client has asked for
    deadlock: ErrorFields | None = None  # what the client is told instead of 57014, when a wait of it was ended
    unasked: dict[str, ErrorFields] = field(default_factory=dict)  # by their marks (proxy.session.unasked)
    marks: int = 0  # how many of these there have been
    ending_wait: asyncio.Future[None] | None = None  # a cancel of ours is on its way
    locks_released: bool = False  # on the other shards, after an error
    touched: set[int] = field(default_factory=set)  # shards where the client's own statements ran
    links: dict[int, ShardLink] = field(default_factory=dict)
    writers: set[int] = field(default_factory=set)
    must_commit: dict[int, str] = field(default_factory=dict)
    pinned: dict[int, ShardLink] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)
    unseen_names: set[str] = field(default_factory=set)  # of custom settings, in texts that may have made them
    preferred: ShardLink | None = None  # the link to join with, if it is free
    log: list[Replay] = field(default_factory=list)
    settings_at_begin: dict[str, str] = field(default_factory=dict)
    settings_changed: bool = False
    reads_otherwise: bool = False  # one of them is looked at when a statement is parsed
    custom_settings: bool = False  # one of them was not Postgres's own
    settings_sent: set[int] = field(default_factory=set)  # shards whose link got the session's settings
    cancel_requested: bool = False  # by the client, for the statement that runs
    refused: ProxyError | None = None  # to whom asks for the first link: it has waited for that in the lane
    waiting: Interruptible = field(default_factory=Interruptible)  # for the fence, which no shard's cancel ends
    catalog_changed: bool = False
    committing: bool = False
    past_cancel: bool = False  # what ran has succeeded: a cancel comes too late, whatever is to be done yet
    at_commit: Callable[[], Awaitable[None]] | None = None  # once it is committed, before its links go back
    at_undoing: Callable[[], Awaitable[None]] | None = None  # once what has failed is undone, on the same links
    abandoned: bool = False
    on_notification: Callable[[ShardLink, bytes], None] | None = None  # what a pinned link hears
    of_cursor: Callable[[ErrorFields], ErrorFields | None] | None = None  # what to tell instead: there is no cursor
    watcher: Callable[[str, float, float], None] | None = None  # hears what its links' shards answer

    # --- what the client sees ---------------------------------------------------------------------------------

    @property
    def status(self) -> bytes:
        """The status byte of ReadyForQuery."""
        if self.block is not Block.EXPLICIT:
            return IDLE
        return FAILED if self.failed else IN_BLOCK

    @property
    def in_block(self) -> bool:
        """Whether statements run inside BEGIN on the shards."""
        return self.block is not Block.NONE

    def modes_for_chain(self, *, rolled_back: bool) -> Modes:
        """What AND CHAIN passes on: a failed block has lost the modes that it chose, a ROLLBACK its savepoints'."""
        if self.failed:
            return self.inherited
        if not self.log:
            return self.modes
        # Not None: defaults that the block has changed are not for the next one yet.
        read_only = self._read_only(before_savepoints=rolled_back)
        return Modes(self.isolation, read_only, self.modes.deferrable)

    def fail(self) -> None:
        """An error was sent to the client: a block is failed until it ends or goes back to a savepoint."""
        if self.in_block:
            self.failed = True
            # Where the session's settings failed on a link, what follows would run without them.
            unlike = (link.prefix_failed and shard in self.settings_sent for shard, link in self.links.items())
            self.doomed = self.doomed or any(unlike) or any(link.closed for link in self.links.values())

    # --- joining ----------------------------------------------------------------------------------------------

    @property
    def isolation(self) -> str:
        """The isolation level of the block, or of a statement on its own."""
        return self.modes.isolation or (self.isolation_at_begin if self.in_block else self.default_isolation)

    @property
    def keeps_snapshot(self) -> bool:
        """Whether the block sees the snapshot of its first statement throughout."""
        return keeps_snapshot(self.isolation)

    def begin(self, block: Block, modes: Modes | None = None) -> None:
        """Open a block. Nothing is sent: BEGIN goes out with the first statement for a shard."""
        if self.block is Block.NONE:
            self.settings_at_begin = self.settings.snapshot()
            self.isolation_at_begin = self.default_isolation
        self.block = block
        if modes is not None:
            self.modes.merge(modes)

    async def begin_on_links(self, *, reads: bool) -> None:
        """Put BEGIN before what is next on links that joined before the block and have run nothing yet.

        ``reads``: what is next takes a snapshot.
        """
        for link in self.links.values():
            self._put_begin(link)
        if reads and self.keeps_snapshot:
            await self._fix_snapshots()

    async def join(self, shards: Sequence[int], *, writes: bool, reads: bool | None = None) -> Mapping[int, ShardLink]:
        """Return a link for each of ``shards``; settings, BEGIN and savepoints go in front of its next exchange.

        ``reads``: what follows takes a snapshot (a Parse does); None: if statements with ``command``'s tag do. Links
        are taken in shard order, whatever the statement: two sessions never wait for each other's pool crosswise within
        one statement.
        """
        if self.read_only:
            # What Postgres lets a READ ONLY transaction do needs no decision; decide() itself would be a write.
            writes = False
        if reads is None:
            reads = writes or self.command not in WITHOUT_SNAPSHOT
        if reads:
            check_shards(self.isolation, len(self.touched | set(shards)))
        if reads and self.in_block and self.keeps_snapshot:
            await self._fix_snapshots()
        await self._take_links(shards)
        self.check_cancelled()
        if writes:
            self.writers.update(shards)
        if reads:
            self.touched.update(shards)
        elif self.command == "LOCK TABLE":
            self.touched.update(shards)
            self.locked_tables = True
            if not self.read_only:
                self.writers.update(shards)  # a lock that is lost with its link must not let the rest commit
        return {shard: self.links[shard] for shard in shards}

    async def _take_links(self, shards: Collection[int]) -> None:
        if self.refused is not None:
            raise self.refused
        while not self.links and self.database.is_paused(shards):
            self.check_cancelled()
            await asyncio.sleep(PAUSED_LOOK_S)
        if self.elsewhere is not None:
            self.elsewhere.joining(self, shards)
        for shard in sorted(shards):
            link = self.links.get(shard)
            if link is None:
                self.links[shard] = link = await self._checkout(shard)
                link.watcher = self.watcher
            elif link.closed:
                raise ProxyError("08006", f"the connection to shard {link.name} was lost in this transaction")
        if self.identity is None and len(self.links.keys() | self.pinned.keys()) > 1:
            self.identity = self.database.watch(self)

    async def _fix_snapshots(self) -> None:
        """Before the first query of a REPEATABLE READ block: fix its snapshots on every shard behind one fence.

        A fence that was lost on the way may have let a decision through between two of them: all starts again.
        """
        if self.snapshot_fixed or not self.fenced or self.shard_count == 1 or self.isolation == SERIALIZABLE:
            return
        attempt = 0
        while True:
            attempt += 1
            await self._take_links(range(self.shard_count))
            # What is to be put in front goes out before the fence is taken, which holds back others' commits.
            await self.everywhere("")
            try:
                async with AsyncExitStack() as stack:
                    taking = stack.enter_async_context(self.database.all_shards_fenced())
                    held = await self.unless_cancelled(taking)
                    await self.everywhere("SELECT 1")
                    await held.release_confirmed()
            except FenceLostError:
                if attempt == SNAPSHOT_ATTEMPTS or self.locked_tables:
                    raise
                await self.everywhere("ROLLBACK")
                for link in self.links.values():
                    self._put_begin(link)
                continue
            self.snapshot_fixed = True
            return

    def cancel(self) -> None:
        """Note that the client wants the statement cancelled, and end what waits for no shard of its own."""
        self.cancel_requested = True
        self.waiting.interrupt()

    async def unless_cancelled(self, doing: Coroutine[Any, Any, T]) -> T:
        """Await something that the client's cancel ends; raises ProxyError 57014 then."""
        try:
            return await self.waiting.until_done(doing)
        except InterruptedWait:
            self.check_cancelled()
            raise

    def check_cancelled(self) -> None:
        """Raise what a cancelled statement ends with, if the client asked for it while no shard was at work."""
        if self.cancel_requested:
            raise ProxyError("57014", "canceling statement due to user request")

    async def _checkout(self, shard: int) -> ShardLink:
        link = self.pinned.get(shard)
        if link is None:
            link = await matching_link(self, shard)
        elif link.closed:  # the session ends when its message is over (proxy.session.keepers)
            if link.lost_error is not None and link.lost_error.raw is not None:
                raise link.lost_error
            raise ProxyError("08006", f"the connection to shard {link.name}, which held session state, was lost")
        elif link.unprepared:
            self.must_commit[shard] = link.unprepared
        self.bring_up(shard, link)
        return link

    def bring_up(self, shard: int, link: ShardLink, then: str = "") -> None:
        """Put the session's settings, BEGIN, savepoints and ``then`` before the first exchange of a link that joins."""
        bring_up(self, shard, link, then)

    def can_bring_up(self, link: ShardLink) -> bool:
        """Whether a link can be brought to this session's settings; one that cannot must be closed."""
        return can_become(link.settings, self.starting_settings())

    def _put_begin(self, link: ShardLink) -> None:
        put_begin(link, self.modes.sql(), self.log)

    def starting_settings(self) -> Applied:
        """Return the session's settings as they were at BEGIN; those made since are replayed inside the block."""
        return starting_settings(self)

    async def settle(self, shards: Sequence[int]) -> None:
        """Before a statement reads on ``shards``: what was decided elsewhere must be visible there (see settling.py).

        Only a block that uses several shards can tell a difference, and none whose snapshots are fixed.
        """
        if not self.in_block or self.keeps_snapshot or len(self.links.keys() | set(shards)) < 2:  # noqa: PLR2004 - several
            return
        links = await self.join(shards, writes=False)
        await all_ended([self._settle(shard, link) for shard, link in links.items()])

    async def _settle(self, shard: int, link: ShardLink) -> None:
        answer = await link.run(self.database.pending_sql)
        if answer.rows:
            await self.database.settle(shard, [str(row[0], "ascii") for row in answer.rows if row[0] is not None])

    # --- inside a block ---------------------------------------------------------------------------------------

    async def everywhere(self, sql: str) -> None:
        """Run ``sql`` on every joined link, in parallel; raises the first error after all have answered."""
        await all_ended([link.run(sql) for link in self.links.values() if not link.closed])

    async def savepoint(self, name: str, sql: str) -> None:
        """SAVEPOINT on all joined shards, and for those that join later."""
        await self.everywhere(sql)
        self.log.append(
            Replay(
                sql,
                savepoint=name,
                settings_before=self.settings.snapshot(),
                codec=self.settings.encoding.codec,
            )
        )

    @property
    def savepoints(self) -> tuple[Replay, ...]:
        """The savepoints that are open now."""
        return tuple(replay for replay in self.log if replay.savepoint is not None)

    async def release_savepoint(self, name: str, sql: str) -> None:
        """RELEASE: the savepoint and those after it are gone, settings made since stay, but for READ ONLY."""
        index = find_savepoint(self.log, name)
        await self.everywhere(sql)
        self.log = self.log[:index] + what_stays(self.log[index:])

    async def rollback_to(self, name: str, sql: str) -> None:
        """ROLLBACK TO: back to the savepoint on all shards, also out of the failed state."""
        index = find_savepoint(self.log, name)
        if self.doomed:
            raise ProxyError("25P02", "a shard was lost in this transaction; it can only be rolled back")
        await self.everywhere(sql)
        restored = self.log[index].settings_before
        if restored is not None:
            self.settings.restore(restored)
        self.log = self.log[: index + 1]
        self.failed = self.locks_released = False
        self.deadlock = None

    @property
    def read_only(self) -> bool:
        """Whether the block may not write: what was chosen last, in a savepoint that is still open or before."""
        return self._read_only(before_savepoints=False)

    def _read_only(self, *, before_savepoints: bool) -> bool:
        default = self.default_read_only if self.modes.read_only is None else self.modes.read_only
        return read_only_after(self.log, default=default, before_savepoints=before_savepoints)

    @property
    def is_unlocked_by_release(self) -> bool:
        """Whether the shards were told READ ONLY after writes, which must end before a decision is written."""
        return any(replay.unlocked for replay in self.log)

    def check_modes(self, modes: Modes) -> None:
        """Raise what Postgres says to a change of characteristics that comes too late."""
        check_change(
            modes,
            isolation=self.isolation,
            read_only=self.in_block and self.read_only,
            queried=bool(self.touched) or self.modes.queried,
            subtransaction=bool(self.savepoints),
        )

    async def set_modes(self, modes: Modes, sql: str) -> None:
        """SET TRANSACTION on the joined shards, and for those that join later; READ ONLY ends with its savepoint."""
        if self.shard_count > 1 or self.modes.queried or not self.links:  # else the only shard knows best
            self.check_modes(modes)
        unlocked = bool(modes.read_only and self.writers and self.shard_count > 1 and not self.read_only)
        if unlocked:
            # A shard told so cannot write the decision record, nor take it back, but for the end of a savepoint.
            sql = f"SAVEPOINT {READ_ONLY_SAVEPOINT}; {sql}"
        await self.everywhere(sql)
        if self.log or unlocked:
            self.modes.merge(replace(modes, read_only=None))
            codec = self.settings.encoding.codec
            self.log.append(Replay(sql, until_release=True, unlocked=unlocked, read_only=modes.read_only, codec=codec))
        else:
            self.modes.merge(modes)

    def note_setting(self, name: str, sql: str) -> None:
        """A SET ran inside the block on the joined links: later ones must see it, and links are not what they were."""
        self.settings_changed = True
        self.custom_settings = self.custom_settings or "." in name
        self.reads_otherwise = self.reads_otherwise or not ("." in name or name.lower() in WHEN_RUN)
        self.log.append(Replay(sql, codec=self.settings.encoding.codec, setting=name))

    def pin(self, reason: str, shards: Iterable[int]) -> None:
        """Keep the links of ``shards`` for the session: they hold state that cannot travel."""
        if self.elsewhere is not None and reason != UNSEEN:
            self.elsewhere.check_keeps(self, reason)
        self.pins.add(reason)
        for shard in shards:
            if shard in self.links:
                link = self.pinned[shard] = self.links[shard]
                note_kept(link, reason)
                if self.on_notification is not None:
                    link.on_notification = partial(self.on_notification, link)

    async def release_locks(self) -> None:
        """After an error: let go on the other shards of what Postgres lets go of at once.

        That is everything since the last savepoint, or since BEGIN. The client may take its time to say ROLLBACK, and
        others wait for these locks: one whose deadlock was ended by this error, for instance.
        """
        if not self.failed or self.locks_released or self.block is not Block.EXPLICIT or self.shard_count == 1:
            return
        self.locks_released = True
        await end_all(self.links.values(), undoing(self.log))
        await self._undone()

    async def transaction_id(self) -> str:
        """Return the id by which the outcome can be asked for later; '' while nothing is written, as in Postgres.

        From now on the transaction has a record, and the first shard that it wrote to is its commit point. The lock
        says there that it is alive, however long it is open.
        """
        if self.gid is None and self.in_block and self.writers:
            self.identity = self.identity or self.database.watch(self)
            shard = min(self.must_commit.keys() & self.writers or self.writers)
            self.gid = self.database.new_gid(shard, self.identity)
            await self.links[shard].run(alive_sql(self.gid))
        return "" if self.gid is None else str(self.gid)

    # --- deadlocks (proxy.twophase.deadlock.Waiter) -----------------------------------------------------------

    async def end_wait(self, shards: Iterable[int], error: ErrorFields, cancel: Callable[[], Awaitable[bool]]) -> None:
        """Have ``cancel`` end what waits on these shards; the client is told ``error`` for it."""
        await end_wait(self, shards, error, cancel)

    def explain(self, error: ErrorFields) -> ErrorFields | None:
        """Return what to tell the client instead of a shard's error, if that is our own cancel's, or has our mark."""
        if error.sqlstate == QUERY_CANCELED:
            return self.deadlock
        if error.sqlstate == _NO_CURSOR and self.of_cursor is not None:
            return self.of_cursor(error)
        if self.unasked and error.sqlstate == _OF_A_MARK:
            return next((said for mark, said in self.unasked.items() if f'"{mark}"' in error.message), None)
        return None

    # --- ending -----------------------------------------------------------------------------------------------

    async def commit(self, answered: Mapping[int, Participant] | None = None) -> Outcome | None:
        """Commit; None when no shard had joined. The caller has checked that the block has not failed.

        ``answered``: links whose COMMIT has been sent and answered already.
        """
        if not self.links:
            self._end(rolled_back=False)
            return None
        # In a task of its own: whoever waits may be cancelled, the links are the commit's until it has ended.
        self.committing = True
        return await asyncio.shield(spawn(self._commit(answered or {}), name="commit of a client's transaction"))

    async def _commit(self, answered: Mapping[int, Participant]) -> Outcome:
        struck = await before_commit(self)
        needed = self.touched | self.writers | self.must_commit.keys()
        links: dict[int, ShardLink] = {shard: link for shard, link in self.links.items() if shard in needed}
        parties: dict[int, Participant] = {**(links or self.links), **answered}
        try:
            # Shards of which the client has seen nothing take no part: with one other, COMMIT is as on one Postgres.
            outcome, _ = await asyncio.gather(
                self.database.commit(
                    parties, frozenset(self.writers), frozenset(self.must_commit), self.identity, self.gid
                ),
                end_all([link for shard, link in self.links.items() if shard not in parties], "COMMIT"),
            )
        except BaseException:
            self.committing = False
            raise
        outcome = await explained(self, outcome, struck)
        if outcome.committed:
            self.past_cancel = True
            await outlive_cancels(self)
            if self.at_commit is not None:
                await self.at_commit()
        self.committed(outcome)
        return outcome

    def committed(self, outcome: Outcome) -> None:
        """A commit has come to its outcome: the links go back."""
        self.committing = False
        for shard in outcome.tainted:
            self.links[shard].settings = unsure(self.links[shard].settings)
        self._end(rolled_back=not outcome.committed)
        if self.abandoned:
            self.abandon()

    async def rollback(self) -> None:
        """Roll back everywhere. A link that cannot is closed, which rolls back as well."""
        for link in self.links.values():
            if link.busy:
                link.abort()  # whoever waited for its answer has gone: it cannot be told anything in mid-exchange
        await end_all(self.links.values(), "ROLLBACK")
        await self._undone()
        self._end(rolled_back=True)

    async def _undone(self) -> None:
        at_undoing, self.at_undoing = self.at_undoing, None
        if at_undoing is not None:
            await at_undoing()

    def ended_by_shard(self, *, rolled_back: bool) -> None:
        """The only shard has ended the block on its own."""
        self._end(rolled_back=rolled_back)

    def finish_statement(self) -> None:
        """After a statement outside any block: links go back."""
        if self.block is Block.NONE:
            self._end(rolled_back=False)

    def _forget(self) -> None:
        """Whoever watched for deadlocks need not any more."""
        if self.identity is not None:
            self.database.forget(self)
            self.identity = self.gid = self.draft = None

    def _end(self, *, rolled_back: bool) -> None:
        self._forget()
        if self.elsewhere is not None:
            self.elsewhere.ended(self.links)
        if rolled_back and self.in_block:
            self.settings.restore(self.settings_at_begin)
            self.default_isolation = self.isolation_at_begin
        for shard, link in self.links.items():
            note_settings(self, shard, link)
            if shard not in self.pinned:
                self.database.release(link)
        self.settings_sent.clear()
        self.custom_settings = self.reads_otherwise = False
        self.block = Block.NONE
        self.failed = self.doomed = self.settings_changed = self.catalog_changed = False
        self.snapshot_fixed = self.locked_tables = self.locks_released = False
        self.deadlock = self.at_commit = self.at_undoing = None
        self.modes, self.inherited = Modes(), Modes()
        self.links.clear()
        self.writers.clear()
        self.touched.clear()
        self.must_commit.clear()
        self.log.clear()

    def unpin(self) -> None:
        """Give up pinned links (DISCARD ALL, end of session): closed, as what they hold cannot be taken off them."""
        for shard, link in self.pinned.items():
            if shard not in self.links:
                link.abort()
                self.database.release(link)
        self.pinned.clear()
        self.pins.clear()

    def abandon(self) -> None:
        """The client is gone: whatever is open ends with its links. A running commit gives its links back itself."""
        self.abandoned = True
        if self.committing:
            return
        self._forget()
        for shard, link in self.links.items():
            if self.in_block or link.status != ord(IDLE) or shard in self.pinned:  # what that keeps cannot be taken off
                link.abort()
            note_settings(self, shard, link)
            self.database.release(link)
        self.pinned = {shard: link for shard, link in self.pinned.items() if shard not in self.links}
        self.links.clear()
        self.unpin()
