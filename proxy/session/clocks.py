"""Timeouts of a client: how long it may be idle, in a transaction and outside, and how long a transaction may be.

They end the session at once, in the words of Postgres, wherever the client is: with no shard joined, in a failed block,
in a statement over several shards. Over one shard the first two are the shard's own clocks, whose last words are passed
on (``told_by``); outside of transactions the session has no link, so that clock is always here.

Over several shards no shard knows how long the client has been idle: one has waited ever since its own last statement.
So their clocks are stopped for each block (``_STOPPED``), and only those here run. Not by 0: a function that sets that
is to be noticed, by what the shard says before and after it.

Decides when a session's time is over. What the settings are is asked with SHOW, which takes no snapshot, each time
somebody has made one of them; what they go back to at the end of a block follows from the settings that are left.
A session without timeouts has no ``Clocks`` at all.
"""

from __future__ import annotations

import asyncio
import math
import re
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.errors import IDLE_IN_TRANSACTION_SESSION_TIMEOUT, IDLE_SESSION_TIMEOUT, TRANSACTION_TIMEOUT, ProxyError
from proxy.links import Replay
from proxy.shards.errors import ShardError
from proxy.transaction import Block
from proxy.wire import backend

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.settings import SessionSettings

IN_TRANSACTION: Final = "idle_in_transaction_session_timeout"
#: In the order of ``Timeouts``.
NAMES: Final = (IN_TRANSACTION, "transaction_timeout", "idle_session_timeout")
_SINCE: Final = 170_000  # the version that has brought transaction_timeout
_UNITS: Final = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0), ("ms", 0.001))
_SECONDS: Final = dict(_UNITS)
_SHOWN: Final = re.compile(r"(\d+)(d|h|min|s|ms)")
_NEVER_MS: Final = 2_147_483_647  # the longest that there is: 24 days
_STOPPED: Final = f"SET LOCAL {IN_TRANSACTION} = {_NEVER_MS}"
_OF_A_SHARD: Final = frozenset({IDLE_IN_TRANSACTION_SESSION_TIMEOUT, TRANSACTION_TIMEOUT, IDLE_SESSION_TIMEOUT})
_WORDS: Final = {
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT: "idle-in-transaction timeout",
    TRANSACTION_TIMEOUT: "transaction timeout",
    IDLE_SESSION_TIMEOUT: "idle-session timeout",
}


class Timeouts(NamedTuple):
    """The three as SHOW shows them."""

    in_transaction: str = "0"
    transaction: str = "0"
    session: str = "0"


NONE: Final = Timeouts()


def seconds(shown: str) -> float:
    """Return what SHOW shows in seconds; 0: no timeout."""
    found = _SHOWN.fullmatch(shown)
    return int(found[1]) * _SECONDS[found[2]] if found is not None else 0.0


class Clocks:
    """The clocks of a session that has timeouts, or has had."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self.timeouts = NONE
        self._in_transaction_s = self._transaction_s = self._session_s = 0.0
        startup = tuple(item for item in session.settings.startup.items() if item[0] in NAMES)
        self._known: dict[tuple[tuple[str, str], ...], Timeouts] = {startup: NONE}  # by the settings that make them
        self._savepoints: list[tuple[Replay, Timeouts]] = []
        self._moved = False  # since BEGIN
        transaction = session.transaction
        # Whether the shards' clock for idle transactions is stopped. That of one shard runs, but for a pipeline without
        # a Sync, which is no transaction that Postgres would call idle.
        self._runs_idle = transaction.in_block and (transaction.shard_count > 1 or transaction.block is Block.IMPLICIT)
        self._limit_s = 0.0  # the client is idle, and may be for so long; 0: it is not, or may be for ever
        self._since = 0.0
        self._due = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._block_timer: asyncio.TimerHandle | None = None

    # --- what they are set to -------------------------------------------------------------------------------------

    def use(self, timeouts: Timeouts, *, lasting: bool, made: str = "") -> None:
        """Go by these from now on; ``lasting``: they are what the session's settings say; ``made``: which was set."""
        session, before = self._session, self.timeouts
        if lasting:
            self._known[_made_by(session.settings)] = timeouts
        self._moved = self._moved or session.transaction.in_block
        self.timeouts = timeouts
        self._in_transaction_s, self._transaction_s, self._session_s = map(seconds, timeouts)
        session.settings.idle_limit_s = self._session_s or math.inf
        if session.transaction.in_block and (made == NAMES[1] or timeouts.transaction != before.transaction):
            if not self._transaction_s:
                self._stop_block()
            elif self._block_timer is None:  # one that runs goes on, as in Postgres
                self._start_block()

    def back(self) -> None:
        """RESET and the like: what the settings that are left mean is known."""
        self.use(self._known.get(_made_by(self._session.settings), self.timeouts), lasting=False)

    def savepoint(self, savepoint: Replay) -> None:
        """A savepoint was made."""
        self._savepoints.append((savepoint, self.timeouts))

    def rolled_back_to(self, savepoint: Replay) -> None:
        """What was set since a savepoint is gone."""
        # One that was made before there were clocks: there was no timeout.
        self.use(next((timeouts for made, timeouts in self._savepoints if made is savepoint), NONE), lasting=False)

    @property
    def hides(self) -> bool:
        """Whether the shards' clock for idle transactions is stopped, and SHOW there would say so."""
        return bool(self._in_transaction_s) and self._runs_idle

    @property
    def stopped(self) -> str:
        """What stops the shards' clock in a block; '' where it is theirs to run."""
        return _STOPPED if self.hides else ""

    # --- the client ------------------------------------------------------------------------------------------------

    def rested(self, *, in_block: bool) -> None:
        """ReadyForQuery went out. Most often nothing is to be done but to note when."""
        if not in_block:
            limit = self._session_s
        elif not self._runs_idle or self._in_transaction_s >= self._transaction_s > 0.0:
            limit = 0.0  # of two that are set Postgres starts the shorter one alone
        else:
            limit = self._in_transaction_s
        self._limit_s = limit
        if not limit:
            return
        self._since = monotonic()
        if self._idle_timer is not None:
            if self._due <= self._since + limit:
                return
            self._idle_timer.cancel()
        self._start_idle(limit)

    def woken(self) -> None:
        """A message has come."""
        self._limit_s = 0.0

    def _start_idle(self, wait_s: float) -> None:
        self._due = monotonic() + wait_s
        self._idle_timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        self._idle_timer = None
        session = self._session
        if not self._limit_s or session.in_query or session.connection.inbox:
            return  # it starts again with the next ReadyForQuery
        left = self._since + self._limit_s - monotonic()
        if left > 0.0:
            self._start_idle(left)
            return
        in_block = session.transaction.in_block
        _end(session, _error(IDLE_IN_TRANSACTION_SESSION_TIMEOUT if in_block else IDLE_SESSION_TIMEOUT))

    # --- the block -------------------------------------------------------------------------------------------------

    def begun(self, block: Block) -> None:
        """A block is begun. Over several shards nothing but this clock knows when."""
        transaction = self._session.transaction
        self._moved = False
        self._runs_idle = transaction.shard_count > 1 or block is Block.IMPLICIT
        if self.hides:
            transaction.log.append(Replay(_STOPPED))
        if self._transaction_s:
            self._start_block()

    def ended(self) -> None:
        """The block has ended."""
        self._stop_block()
        self._runs_idle = False
        self._savepoints.clear()
        if self._moved:
            self.back()
            self._moved = False

    def failed(self) -> None:
        """An error was told: with any Postgres stops the clock of the transaction, and ROLLBACK TO starts none."""
        self._stop_block()

    def _start_block(self) -> None:
        if self._session.transaction.shard_count > 1:
            self._block_timer = self._loop.call_later(self._transaction_s, self._too_long)

    def _stop_block(self) -> None:
        if self._block_timer is not None:
            self._block_timer.cancel()
            self._block_timer = None

    def _too_long(self) -> None:
        self._block_timer = None
        if not self._session.transaction.committing:
            _end(self._session, _error(TRANSACTION_TIMEOUT))

    def stop(self) -> None:
        """The session ends: so do its clocks."""
        self._limit_s = 0.0
        self._stop_block()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


def begin_with(session: Session, timeouts: Timeouts) -> None:
    """A session begins with these."""
    if timeouts != NONE:
        session.clocks = Clocks(session)
        session.clocks.use(timeouts, lasting=True)
        session.clocks.rested(in_block=False)


async def learn_timeouts(session: Session, name: str, *, lasting: bool) -> None:
    """One of the settings was made, on all of the block's links, inside a block or not."""
    transaction = session.transaction
    shard = session.settings_shard
    links = await transaction.join([shard], writes=False, reads=False)
    shown = {}
    for one in NAMES:
        if one != NAMES[1] or session.database.catalog.server_version >= _SINCE:
            shown[one] = ((await links[shard].run(f"SHOW {one}")).rows[0][0] or b"0").decode()
    clocks = session.clocks
    if clocks is not None and clocks.hides and name != IN_TRANSACTION:
        shown[IN_TRANSACTION] = clocks.timeouts.in_transaction
    found = Timeouts(*(shown.get(one, "0") for one in NAMES))
    if clocks is None:
        clocks = session.clocks = Clocks(session)
    clocks.use(found, lasting=lasting, made=name)
    await _stop_shards(session, clocks)


async def timeouts_are_reset(session: Session) -> None:
    """RESET of one of the settings, or of all."""
    if session.clocks is not None:
        session.clocks.back()
        await _stop_shards(session, session.clocks)


async def _stop_shards(session: Session, clocks: Clocks) -> None:
    if clocks.stopped:
        await session.transaction.everywhere(clocks.stopped)
        session.transaction.log.append(Replay(clocks.stopped))


def is_of_a_clock(error: ShardError) -> bool:
    """Whether a server has ended a link because of one of its clocks."""
    return error.lost and error.sqlstate in _OF_A_SHARD


def told_by(session: Session, error: Exception) -> bool:
    """End the session if these are a shard's last words to it: what one server's would be to the client."""
    if not isinstance(error, ShardError) or not is_of_a_clock(error):
        return False
    # Over several shards a link may have been idle while the client was not; a transaction's time is the same.
    if session.transaction.shard_count > 1 and error.sqlstate != TRANSACTION_TIMEOUT:
        return False
    _end(session, error)
    return True


def _end(session: Session, error: ShardError | ProxyError) -> None:
    raw = error.raw if isinstance(error, ShardError) else None
    fields = error.fields if isinstance(error, ShardError) else error.fields()
    session.database.told(error.sqlstate, read_only=session.transaction.read_only)
    session.kill(raw or backend.error_response(fields))


def _made_by(settings: SessionSettings) -> tuple[tuple[str, str], ...]:
    return tuple(item for item in settings.applied.statements if item[0] in NAMES)


def _error(sqlstate: str) -> ProxyError:
    words = f"terminating connection due to {_WORDS[sqlstate]}"
    return ProxyError(sqlstate, words, severity="FATAL", routine="ProcessInterrupts")
