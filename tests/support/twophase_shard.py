"""One server of the model, with Postgres's real answers: the silent ROLLBACK of a PREPARE that prepared nothing, too.

Knows one transaction only. What may happen to it, and in which order, is ``twophase_model``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.twophase.events import Answered, Step
from proxy.wire.fields import ErrorFields
from twophase_steps import ABSENT

if TYPE_CHECKING:
    from twophase_steps import Ask

UNCONFIRMED = ErrorFields.make("WARNING", "01000", "canceling wait for synchronous replication due to user request")
CONSTRAINT = ErrorFields.make("ERROR", "23503", "deferred constraint failed")
WRITER, READER = "writer", "reader"


@dataclass(slots=True)
class FakeShard:
    """What one server knows of the transaction. ``status``: of the session, None when it is gone."""

    name: str
    role: str
    xid: int
    status: str | None = "T"
    prepared: bool = False
    outcome: str = "in progress"  # pg_xact_status
    decision: str | None = None

    def key(self) -> tuple[object, ...]:
        return (self.status, self.prepared, self.outcome, self.decision)

    def _abort(self) -> None:
        if self.outcome == "in progress":
            self.outcome = "aborted"

    def lose_session(self) -> None:
        if self.status is not None and self.status != "I" and not self.prepared:
            self._abort()
        self.status = None

    @property
    def may_still_decide(self) -> bool:
        """Whether a transaction is open here that could run decide()."""
        return self.status in {"T", "E"}

    def abandon(self) -> str:
        self.decision = self.decision or "abort"
        return self.decision

    def finish(self, *, commit: bool) -> bool:
        """COMMIT PREPARED or ROLLBACK PREPARED; False is 42704."""
        if not self.prepared:
            return False
        self.prepared = False
        self.outcome = "committed" if commit else "aborted"
        return True

    def answer(self, ask: Ask) -> object:
        """Run one statement of a recovery."""
        match ask.kind:
            case "list":
                return self.xid if self.prepared else None
            case "read":
                return self.decision
            case "abandon":
                return self.abandon()
            case "status":
                return self.outcome
            case verb:
                return verb if self.finish(commit=verb == "COMMIT PREPARED") else ABSENT

    def run(self, step: Step, behaviour: str) -> Answered | ErrorFields:
        """Execute one of the machine's messages as Postgres would; an ErrorFields is an ErrorResponse."""
        if step in (Step.PREPARE, Step.READY, Step.DECIDE) and behaviour == "error":
            self._abort()
            self.status = "I" if step is Step.PREPARE else "E"
            return CONSTRAINT
        match step:
            case Step.READY:
                tags = (b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1")
            case Step.PREPARE:
                tags = self._prepare(silently_not=behaviour == "silent rollback")
            case Step.DECIDE:
                refusal = self.refuse_to_decide()
                if refusal is not None:
                    return refusal
                tags = self._decide(silently_not=behaviour == "silent rollback")
            case Step.COMMIT_PREPARED | Step.ROLLBACK_PREPARED:
                if not self.finish(commit=step is Step.COMMIT_PREPARED):
                    return ErrorFields.make("ERROR", "42704", "does not exist")
                tags = (step.value.upper().encode(),)
            case Step.ROLLBACK:
                self._abort()
                self.status, tags = "I", (b"ROLLBACK",)
            case _:
                self.status, tags = "I", (b"COMMIT",)
        row = (str(self.xid).encode(), b"on") if step in (Step.READY, Step.PREPARE) else ()
        notices = (UNCONFIRMED,) if behaviour == "unconfirmed" else ()
        return Answered(int(self.name[1:]), step, tags, row, notices, ord(self.status or "I"))

    def _prepare(self, *, silently_not: bool) -> tuple[bytes, ...]:
        self.status = "I"
        if silently_not:
            self._abort()
            return (b"ROLLBACK",)
        self.prepared = True
        return (b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")

    def _decide(self, *, silently_not: bool) -> tuple[bytes, ...]:
        self.status = "I"
        if silently_not:
            self._abort()
            return (b"ROLLBACK",)
        self.outcome, self.decision = "committed", "commit"
        return (b"SELECT 1", b"COMMIT")

    def refuse_to_decide(self) -> ErrorFields | None:
        """What decide() raises: a record stands there already, or this is not the transaction that was asked."""
        if self.status != "T":
            self._abort()
            return ErrorFields.make("ERROR", "PGC01", "this is not its transaction")
        if self.decision is None:
            return None
        self._abort()
        self.status = "E"
        return ErrorFields.make("ERROR", "23505", "duplicate key").replace(s="pgchorus")
