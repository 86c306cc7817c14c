"""What a session's statements cost: measured on the long road, and put where it belongs for the fast lane as well.

A *unit* is what one ReadyForQuery answers: a Query message, or all up to a Sync. Its first statement counts from the
arrival of the unit, each further one from the end of the one before; statements that went out together share the time.
Reading and planning is counted by itself as well, where a statement begins to run.

Decides what of it is worth a line in the log. Values of clients are in none of it.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from proxy.session.traced import Traced
from router.tiers import ONE_SHARD, SESSION, tier_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.admin.statements import Tally
    from proxy.session.known_binds import KnownBind
    from proxy.session.session import Session
    from proxy.twophase.coordinator import Outcome
    from router.plan import Statement
    from router.shortcut import Shortcut

log = structlog.get_logger("pgchorus.statement")
commits = structlog.get_logger("pgchorus.commit")
_commits = logging.getLogger("pgchorus.commit")  # the same: asked without the cost of a line


class Meter:
    """One session's."""

    __slots__ = (
        "_begun",
        "_counts",
        "_failed",
        "_in_block",
        "_planned",
        "_running",
        "_session",
        "_since",
        "_traced",
        "rows",
        "shards",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counts = session.database.counts
        self._begun = 0.0  # when the unit arrived; 0: none is open
        self._since = 0.0  # when the statements that run did, or those before them ended
        self._running: Sequence[Statement] = ()
        self._failed = False
        self._in_block = False
        tracing = session.database.tracing
        self._traced = None if tracing is None else Traced(session, tracing)
        self._planned = 0.0  # when the statement that runs was, for the first of a unit
        #: Of the statement that runs: rows that it returned or changed, and shards that have a part in it.
        self.rows = 0
        self.shards = 1

    # --- the long road ----------------------------------------------------------------------------------------

    def arrived(self) -> None:
        """A message is about to be handled."""
        if not self._begun:
            self._begun = self._since = monotonic()
            self._in_block = self._session.transaction.in_block
            self._failed = False

    def runs(self, statements: Sequence[Statement]) -> None:
        """Statements begin to run, the ones before them have ended."""
        now = monotonic()
        if self._running:
            self._end(now)
        elif statements and self._begun:
            self._counts.planning.add(now - self._begun)
            self._planned = now
        self._running = statements
        self.rows, self.shards = 0, 1

    def failed(self, tally: Tally | None, *, sqlstate: str, refusal: str = "") -> None:
        """The client was told of an error: by the statement that runs, or ``tally``'s on the lane.

        What an error says may hold values of clients; so the line in the log has the SQLSTATE, not the words.
        """
        if self._failed:
            return
        running, self._running = self._running, ()
        if tally is None and running:
            tally = self.tally_of(running[-1])
        self._counts.failed(tally, refused=bool(refusal))
        if self._traced is not None:
            text = running[-1].text if running else ""
            self._traced.ended(tally, text, self._since or monotonic(), self._planned, error=sqlstate)
        self._planned = 0.0
        if self._session.database.log.errors:
            more = {"refusal": refusal} if refusal else {}
            log.info("error", **self._who(), sqlstate=sqlstate, **more, statement="" if tally is None else tally.text)
        self._failed = bool(self._begun)

    def over(self) -> None:
        """The unit has been answered."""
        now = monotonic()
        if self._running:
            self._end(now)
            if not (self._in_block or self._session.transaction.in_block):
                self._counts.alone += 1
                self._counts.alone_seconds += now - self._begun
        elif self._traced is not None:
            self._traced.forget()
        self._begun = self._since = 0.0
        self._failed = False

    def _end(self, now: float) -> None:
        """What runs has ended well."""
        running, self._running = self._running, ()
        seconds = (now - self._since) / len(running)
        begun, self._since = self._since, now
        planned, self._planned = self._planned, 0.0
        for statement in running:
            tally = self.tally_of(statement)
            tally.add(seconds)
            tally.more_shards += self.shards - 1
            tally.rows += self.rows // len(running)
            if seconds > self._session.database.log.slow_s:
                self._say_slow(tally, seconds)
        if self._traced is not None:
            self._traced.ended(tally, running[0].text, begun, planned, rows=self.rows)

    def tally_of(self, statement: Statement) -> Tally:
        """Return where a statement is counted."""
        return self._counts.book.tally(statement.text, tier_of(statement.plan))

    # --- the lane ---------------------------------------------------------------------------------------------

    def tally_in_lane(self, known: Shortcut | KnownBind) -> Tally:
        """Return where a statement of the lane is counted, and note that with it."""
        tally: Tally = self._counts.book.tally(known.text, ONE_SHARD if known.control is None else SESSION)
        known.tally = tally
        return tally

    def counted(self, tally: Tally, seconds: float, *, alone: bool = False) -> None:
        """Count a statement of the lane that has ended, where a call does not matter."""
        tally.add(seconds)
        if alone:
            self._counts.alone += 1
            self._counts.alone_seconds += seconds
        if seconds > self._counts.notable_s:
            self.notable(tally, seconds)

    # --- what is worth a line ---------------------------------------------------------------------------------

    def notable(self, tally: Tally, seconds: float, shard: int = -1) -> None:
        """A statement of the lane was slow, or all are of interest for the traces. -1: it was of several shards."""
        database = self._session.database
        if self._traced is not None:
            self._traced.ended_in_lane(tally, seconds, database.logical.shards[shard] if shard >= 0 else "")
        if seconds > database.log.slow_s:
            self._say_slow(tally, seconds)

    def _say_slow(self, tally: Tally, seconds: float) -> None:
        log.warning("slow statement", **self._who(), ms=round(seconds * 1000, 1), tier=tally.tier, statement=tally.text)

    def decided(self, outcome: Outcome) -> None:
        """A COMMIT with a record has come to its outcome."""
        if outcome.gid is None:
            return
        if not outcome.committed:
            error = outcome.error
            sqlstate = "" if error is None else error.sqlstate
            of = {**self._who(), "gid": outcome.gid, "outcome": outcome.result.value, "sqlstate": sqlstate}
            commits.warning("not committed", **of)
        elif _commits.isEnabledFor(logging.DEBUG):
            commits.debug("committed", **{**self._who(), "gid": outcome.gid})

    def _who(self) -> dict[str, str]:
        session = self._session
        gid = session.transaction.gid
        found = {
            "client": session.connection.peer,
            "database": session.database.logical.name,
            "user": session.role,
        }
        return found if gid is None else {**found, "gid": str(gid)}


def rows_of_tag(tag: bytes) -> int:
    """Return how many rows the end of a command tag tells of (``INSERT 0 5``); 0 for one that tells of none."""
    number = tag.rpartition(b" ")[2]
    return int(number) if number.isdigit() else 0
