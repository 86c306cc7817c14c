"""Named points in the life of a commit, of recovery and of a fence, at which tests stop, kill or stall a proxy.

Whoever makes a coordinator, a recovery or a fence may give it something to call at each point; the command line gives
``pass_by``, and nothing else can be given from outside: no setting, no environment, no client. Decides the names and
what a crash at each one leaves; what happens there is the tests'.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from proxy.twophase.events import Step


class Point(Enum):
    """Where a process may be. The words say what a crash there leaves."""

    BEFORE_PREPARE = "before prepare"
    """Nothing."""
    AFTER_PREPARE = "after prepare"
    """Prepared parts without a record."""
    BEFORE_READY = "before ready"
    """Nothing, or prepared parts without a record."""
    AFTER_READY = "after ready"
    """Prepared parts without a record; the commit point's lock says that its transaction is alive until it is gone."""
    BEFORE_DECIDE = "before decide"
    """All participants prepared, no record."""
    AFTER_DECIDE = "after decide"
    """All participants prepared, decided; the client was told nothing."""
    BEFORE_APPLY = "before commit prepared"
    """The same."""
    AFTER_APPLY = "after commit prepared"
    """Decided, some participants still prepared."""
    BEFORE_UNDO = "before rollback prepared"
    """Prepared parts of what will not be decided."""
    AFTER_UNDO = "after rollback prepared"
    """Maybe more of them."""
    BEFORE_ROLLBACK = "before rollback"
    """Maybe prepared parts on other shards."""
    AFTER_ROLLBACK = "after rollback"
    """The same."""
    BEFORE_READERS = "before commit"
    """Everything is applied, readers are open, the client was told nothing."""
    AFTER_READERS = "after commit"
    """The same, some readers are closed."""
    SETTLING = "settling"
    """The link was lost in step 2: prepared parts, decided or not."""
    SETTLED = "settled"
    """The record says which, and may be an abort that we wrote."""
    ELSEWHERE = "finishing elsewhere"
    """A part whose link was lost is still prepared; the record stands, or there is none and there will be none."""
    TELLING = "telling"
    """All is done but for the client's answer, which is lost."""
    PLAINLY = "committing one writer"
    """Nothing: the shard rolls back by itself."""
    PLAINLY_DONE = "committed one writer"
    """It is committed; the client was told nothing."""
    LISTED = "recovery: listed"
    """What was found; nothing was changed."""
    ABANDONING = "recovery: before the abort record"
    """The same."""
    ABANDONED = "recovery: after the abort record"
    """The record says abort, parts are prepared."""
    FINISHING = "recovery: before finishing"
    """The record stands, parts are prepared."""
    FINISHED = "recovery: after finishing"
    """The record stands, some parts may be prepared."""
    FENCE_LOCKED = "fence: locked"
    """Locks that hold decisions back until the shards notice that their owner is gone."""
    FENCE_SETTLED = "fence: settled"
    """The same."""
    FENCE_BOUND = "fence: bound"
    """The same, and open reading transactions."""


Checkpoint = Callable[[Point], None]

BEFORE = {
    Step.PREPARE: Point.BEFORE_PREPARE,
    Step.READY: Point.BEFORE_READY,
    Step.DECIDE: Point.BEFORE_DECIDE,
    Step.COMMIT_PREPARED: Point.BEFORE_APPLY,
    Step.ROLLBACK_PREPARED: Point.BEFORE_UNDO,
    Step.ROLLBACK: Point.BEFORE_ROLLBACK,
    Step.COMMIT: Point.BEFORE_READERS,
}
AFTER = {
    Step.PREPARE: Point.AFTER_PREPARE,
    Step.READY: Point.AFTER_READY,
    Step.DECIDE: Point.AFTER_DECIDE,
    Step.COMMIT_PREPARED: Point.AFTER_APPLY,
    Step.ROLLBACK_PREPARED: Point.AFTER_UNDO,
    Step.ROLLBACK: Point.AFTER_ROLLBACK,
    Step.COMMIT: Point.AFTER_READERS,
}


def pass_by(point: Point) -> None:
    """Do nothing: what a proxy does that serves people."""
