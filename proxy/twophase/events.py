"""What goes into the commit machine and what comes out of it: values without behaviour that nobody changes.

Events are what happened (a shard answered, a link broke, time is up), commands are what is to be done. ``Outcome`` is
what the client's COMMIT came to. Those that every commit makes are not ``frozen``: each of their fields would be set by
a call of ``object.__setattr__``, a quarter of what the machine takes for a commit (docs/hot-path.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.twophase.gid import GlobalId
    from proxy.wire.fields import ErrorFields


class Step(Enum):
    """What a message to a shard is for."""

    __hash__ = object.__hash__  # members are single; Enum's own is a call of Python for each look into a table

    READY = "ready"  # step 1 at the commit point
    PREPARE = "prepare"  # step 1 at a participant
    DECIDE = "decide"  # step 2
    COMMIT_PREPARED = "commit prepared"  # step 3
    ROLLBACK_PREPARED = "rollback prepared"
    ROLLBACK = "rollback"
    COMMIT = "commit"  # of a shard that only read


class Result(Enum):
    """How a transaction ended, as far as anybody can tell."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"  # the commit point cannot be asked: 08007, the record will tell
    TORN = "torn"  # decided and committed, but a participant has lost its part: an alarm, for a person


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may take before its links are given up.

    Together they stay below recovery's grace time: recovery must not give up what its coordinator has not.
    """

    prepare_timeout_s: float = 20.0
    undo_timeout_s: float = 5.0
    decide_timeout_s: float = 30.0
    settle_timeout_s: float = 10.0
    apply_timeout_s: float = 10.0
    commit_point_idle_ms: int = 60_000


@dataclass(slots=True, unsafe_hash=True)
class Plan:
    """One transaction to be committed. Shards are indices; ``statuses`` are the links' last ReadyForQuery bytes.

    They are those at the time of the plan, and not asked for when the machine is started with later ones.

    Requires at least one participant besides the commit point: with a single writer there is nothing to coordinate.
    """

    gid: GlobalId
    commit_point: int
    participants: tuple[int, ...]
    readers: tuple[int, ...]
    names: Mapping[int, str]
    statuses: Mapping[int, int]
    key: bytes
    epoch: int
    limits: Limits


@dataclass(slots=True, unsafe_hash=True)
class Outcome:
    """What COMMIT came to.

    ``error`` is what to tell the client unless committed; ``raw`` is a shard's own ErrorResponse.
    ``notices`` are for the client either way, before the answer. ``tainted`` are shards whose links keep SETs of a
    transaction that was rolled back after PREPARE: apply settings anew before anybody uses them.
    An aborted outcome without an error is a COMMIT that a shard answered with ROLLBACK.
    """

    result: Result
    gid: str | None = None
    error: ErrorFields | None = None
    raw: bytes | None = None
    shard: int | None = None
    notices: tuple[ErrorFields, ...] = ()
    tainted: frozenset[int] = frozenset()

    @property
    def committed(self) -> bool:
        """Whether the client may be told COMMIT."""
        return self.result is Result.COMMITTED


# Events


@dataclass(slots=True, unsafe_hash=True)
class Answered:
    """A shard answered a message without an error."""

    shard: int
    step: Step
    tags: tuple[bytes, ...]
    row: tuple[bytes | None, ...]  # the first row, or ()
    notices: tuple[ErrorFields, ...]
    status: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A message ended with an error of the server, or (``lost``) the link broke and nobody knows what ran."""

    shard: int
    step: Step
    fields: ErrorFields
    lost: bool
    status: int
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The commit point's record was read on another connection, after an abort record was offered to it."""

    committed: bool


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The commit point could not be asked in time."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A prepared part was committed or rolled back over a control connection, or was seen to have been."""

    shard: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A prepared part could not be finished; ``torn``: it is gone, and not as it was decided."""

    shard: int
    reason: str
    torn: bool = False


@dataclass(slots=True, unsafe_hash=True)
class TimedOut:
    """The timer with this number has run out; in step 1 also ended before its time, for an ``error`` to be told."""

    serial: int
    error: ErrorFields | None = None


Event = Answered | Failed | Settled | Unsettled | Finished | Unfinished | TimedOut


# Commands


@dataclass(slots=True, unsafe_hash=True)
class Send:
    """Run one message on the shard's own link: gives Answered or Failed."""

    shard: int
    step: Step
    sql: str


@dataclass(frozen=True, slots=True)
class Abort:
    """Close the shard's link, which must not be used again. What it was running gives Failed."""

    shard: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Offer an abort record at the commit point, read what stands there: gives Settled or Unsettled."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Commit or roll back a prepared part over a control connection, as its owner: gives Finished or Unfinished."""

    shard: int
    xid: int | None
    commit: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Recovery shall look at these shards: something of this transaction may still be prepared there."""

    shards: frozenset[int]


@dataclass(slots=True, unsafe_hash=True)
class Timer:
    """Start a timer; it replaces the one before."""

    serial: int
    seconds: float


@dataclass(slots=True, unsafe_hash=True)
class Tell:
    """Answer the client."""

    outcome: Outcome


Command = Send | Abort | Settle | Finish | Leave | Timer | Tell
