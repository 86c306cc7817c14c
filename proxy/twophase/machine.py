"""The commit machine: events in, commands out. It does no IO and knows no clock.

Theory of operation. One writer is the commit point, the other writers are participants, the rest only read.

    1. in parallel   participants:  SET CONSTRAINTS ALL IMMEDIATE; xid; PREPARE TRANSACTION '<gid>:<shard>'
                     commit point:  lock; SET CONSTRAINTS ALL IMMEDIATE; timeouts; xid
    2. commit point, one message:   SELECT pgchorus.decide(gid, xid, participants and xids); COMMIT      the decision
    3. in parallel   participants:  COMMIT PREPARED '<gid>:<shard>', then the readers' COMMIT, then the client is told

Rules.

1. Believe tags, not silence. PREPARE TRANSACTION in a failed transaction or outside one answers ROLLBACK and no error.
   Step 1 succeeds on the tag PREPARE TRANSACTION, step 2 on the tag COMMIT after status T.
2. Only the decision record commits. Before step 2 is sent nothing can commit, so everything may be rolled back; once it
   is sent, only the record's own answer, or the record itself, tells. Until then no participant is touched.
3. A lost link is not an answer. In step 1: roll back. In step 2: settle, by offering an abort record over another
   connection and reading what stands there. In step 3: another connection finishes.
4. "Does not exist" is not "finished": the participant is asked what became of the transaction's xid.
5. "canceling wait for synchronous replication" means that nobody knows what a failover would leave: in steps 1 and 2
   that is no success.
6. No cancel request is ever made; a timer closes sockets, and rule 3 holds.
7. What the client is told is true when it is told. Shards that are late in step 3 are named in a warning.
8. A shard that was given up (its link is lost, or a timer closed it) has nothing more to say; late answers are dropped.

``TRANSITIONS`` lists for each state which events it takes and to which states they may lead. A missing key is a bug,
and raises.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from proxy.twophase import record
from proxy.twophase.events import (
    Abort,
    Answered,
    Failed,
    Finish,
    Finished,
    Leave,
    Outcome,
    Result,
    Send,
    Settle,
    Settled,
    Step,
    Tell,
    TimedOut,
    Timer,
    Unfinished,
    Unsettled,
)
from proxy.twophase.messages import commit_prepared_sql, prepare_sql, ready_sql, unconfirmed
from proxy.twophase.participant import STATUS_BLOCK, STATUS_FAILED, STATUS_IDLE
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.twophase.events import Command, Event, Plan


class State(Enum):
    """Where a commit stands, and what a crash of the proxy at this point means."""

    __hash__ = object.__hash__  # members are single; Enum's own is a call of Python for each look into a table

    NEW = "new"
    """Nothing was sent. A crash closes the links, and every shard rolls back by itself."""

    PREPARING = "preparing"
    """Step 1 is out. A crash leaves prepared parts without a record: recovery records abort and rolls them back."""

    UNDOING = "undoing"
    """It will not commit: no decision was sent, or it was refused. A crash leaves what PREPARING leaves."""

    DECIDING = "deciding"
    """Step 2 is out. A crash leaves prepared parts, and the record is there or not: recovery asks by writing an abort
    record, which waits for a decision in flight and keeps out a later one. The client was told nothing."""

    SETTLING = "settling"
    """The link broke in step 2 and we ask as recovery would. A crash leaves what DECIDING leaves."""

    APPLYING = "applying"
    """Decided: the record is committed. A crash leaves prepared parts, which recovery commits."""

    ENDING = "ending"
    """Every participant has committed, or is late, or the outcome cannot be known; readers are let go. A crash leaves
    what the state before left."""

    CLEANING = "cleaning"
    """The client has its answer; parts whose rollback has to be done over other connections are still being finished.
    A crash leaves them to recovery."""

    DONE = "done"
    """Nothing is left to do here. What was left to recovery was said in a Leave command."""


TRANSITIONS: dict[tuple[State, type], frozenset[State]] = {
    (State.PREPARING, Answered): frozenset(
        {State.PREPARING, State.DECIDING, State.UNDOING, State.CLEANING, State.DONE}
    ),
    (State.PREPARING, Failed): frozenset({State.PREPARING, State.UNDOING, State.CLEANING, State.DONE}),
    (State.PREPARING, TimedOut): frozenset({State.UNDOING, State.CLEANING, State.DONE}),
    (State.DECIDING, Answered): frozenset({State.APPLYING, State.SETTLING, State.UNDOING}),
    (State.DECIDING, Failed): frozenset({State.SETTLING, State.UNDOING}),
    (State.DECIDING, TimedOut): frozenset({State.SETTLING}),
    (State.SETTLING, Settled): frozenset({State.APPLYING, State.UNDOING}),
    (State.SETTLING, Unsettled): frozenset({State.ENDING, State.DONE}),
    (State.APPLYING, Answered): frozenset({State.APPLYING, State.ENDING, State.DONE}),
    (State.APPLYING, Failed): frozenset({State.APPLYING}),
    (State.APPLYING, Finished): frozenset({State.APPLYING, State.ENDING, State.DONE}),
    (State.APPLYING, Unfinished): frozenset({State.APPLYING, State.ENDING, State.DONE}),
    (State.APPLYING, TimedOut): frozenset({State.ENDING, State.DONE}),
    (State.UNDOING, Answered): frozenset({State.UNDOING, State.CLEANING, State.DONE}),
    (State.UNDOING, Failed): frozenset({State.UNDOING, State.CLEANING, State.DONE}),
    (State.UNDOING, Finished): frozenset({State.UNDOING}),
    (State.UNDOING, Unfinished): frozenset({State.UNDOING}),
    (State.UNDOING, TimedOut): frozenset({State.CLEANING, State.DONE}),
    (State.ENDING, Answered): frozenset({State.ENDING, State.DONE}),
    (State.ENDING, Failed): frozenset({State.ENDING, State.DONE}),
    (State.ENDING, TimedOut): frozenset({State.DONE}),
    (State.CLEANING, Finished): frozenset({State.CLEANING, State.DONE}),
    (State.CLEANING, Unfinished): frozenset({State.CLEANING, State.DONE}),
    (State.CLEANING, TimedOut): frozenset({State.DONE}),
}

# An attribute of an enumeration costs ten times a global's look-up, and a commit makes a hundred of these.
_NEW, _PREPARING, _UNDOING, _DECIDING = State.NEW, State.PREPARING, State.UNDOING, State.DECIDING
_SETTLING, _APPLYING, _ENDING = State.SETTLING, State.APPLYING, State.ENDING
_CLEANING, _DONE = State.CLEANING, State.DONE
_PREPARE, _READY, _DECIDE, _COMMIT_PREPARED = Step.PREPARE, Step.READY, Step.DECIDE, Step.COMMIT_PREPARED
# Tuples made once: a union in isinstance is made anew for each event.
_FROM_LINKS = (Answered, Failed)
_FROM_ELSEWHERE = (Finished, Unfinished)
_DURABLE = (b"on", b"remote_apply")
_NO_TRANSACTION = "25P01"


class MachineError(Exception):
    """An event in a state that cannot take it: a bug in whoever drives the machine."""


class CommitMachine:
    """Commits one transaction: ``start`` once, then ``handle`` events; both return commands, to be done in order."""

    def __init__(self, plan: Plan) -> None:
        if not plan.participants or plan.commit_point in plan.participants:
            raise MachineError("a distributed commit has a commit point and other participants")
        self.plan = plan
        self.state = _NEW
        # Made here and not at the start: a plan may be made while nobody waits for it (``Coordinator.draft``).
        self._preparing = [(shard, prepare_sql(plan, shard)) for shard in plan.participants]
        self._ready = ready_sql(plan)
        self._applying = {shard: commit_prepared_sql(plan, shard) for shard in plan.participants}
        self._waiting: dict[int, Step] = {}  # messages on links
        self._finishing: set[int] = set()  # prepared parts being finished over control connections
        self._given_up: set[int] = set()
        self._prepared: dict[int, int] = {}  # participants that hold a prepared part, with xids
        self._lost_in_prepare: set[int] = set()
        self._indirect: set[int] = set()  # sessions with weaker synchronous_commit: step 3 is done elsewhere
        self._late: dict[int, str] = {}
        self._torn: dict[int, str] = {}
        self._commit_point_xid = 0
        self._statuses = dict(plan.statuses)
        self._failure: Failed | None = None
        self._unknown: ErrorFields | None = None
        self._tainted: set[int] = set()
        self._notices: list[ErrorFields] = []
        self._timer = 0
        self._told = False

    # --- in and out -------------------------------------------------------------------------------------------

    def start(self, statuses: Mapping[int, int] | None = None) -> list[Command]:
        """Send step 1, or roll back at once if some link is not inside a healthy transaction.

        ``statuses``: the links' at this moment, if the plan was made before.
        """
        if self.state is not _NEW:
            raise MachineError("started twice")
        plan = self.plan
        if statuses is not None:
            self._statuses = dict(statuses)
        for shard in (plan.commit_point, *plan.participants):
            if self._statuses[shard] != STATUS_BLOCK:
                name = plan.names[shard]
                self._fail(
                    self._own_failure(shard, "25P02", f"the transaction on shard {name} is not one that can commit")
                )
                return self._undo()
        self.state = _PREPARING
        commands: list[Command] = [self._send(shard, _PREPARE, sql) for shard, sql in self._preparing]
        commands.append(self._send(plan.commit_point, _READY, self._ready))
        commands.append(self._start_timer(plan.limits.prepare_timeout_s))
        return commands

    def handle(self, event: Event) -> list[Command]:
        """Take one event and return what is to be done."""
        if self._is_stale(event):
            return []
        allowed = TRANSITIONS.get((self.state, type(event)))
        if allowed is None:
            raise MachineError(f"{type(event).__name__} while {self.state.value}")
        if isinstance(event, _FROM_LINKS):
            if self._waiting.pop(event.shard, None) is not event.step:
                raise MachineError(f"{event.step.value} of shard {event.shard} was not asked for")
            self._statuses[event.shard] = event.status
            if isinstance(event, Failed) and event.lost:
                self._given_up.add(event.shard)
        elif isinstance(event, _FROM_ELSEWHERE):
            self._finishing.remove(event.shard)
        commands = self._dispatch(event)
        if self.state not in allowed:
            raise MachineError(f"{type(event).__name__} led to {self.state.value}")
        return commands

    def _is_stale(self, event: Event) -> bool:
        if isinstance(event, TimedOut):
            return event.serial != self._timer or self.state is _DONE
        if isinstance(event, _FROM_LINKS):
            return event.shard in self._given_up
        if isinstance(event, _FROM_ELSEWHERE):
            return event.shard not in self._finishing
        return False

    def _dispatch(self, event: Event) -> list[Command]:  # noqa: PLR0911 - one line for each state
        state = self.state
        if state is _PREPARING:
            return self._in_preparing(event)
        if state is _DECIDING:
            return self._in_deciding(event)
        if state is _APPLYING:
            return self._in_applying(event)
        if state is _SETTLING:
            return self._in_settling(event)
        if state is _UNDOING:
            return self._in_undoing(event)
        if state is _ENDING:
            return self._in_ending(event)
        return self._in_cleaning(event)

    def _send(self, shard: int, step: Step, sql: str) -> Send:
        self._waiting[shard] = step
        return Send(shard, step, sql)

    def _start_timer(self, seconds: float) -> Timer:
        """Start a timer; it goes last, since shards can begin with their messages meanwhile."""
        self._timer += 1
        return Timer(self._timer, seconds)

    def _give_up(self) -> list[Command]:
        """Close the links that have not answered; what they would say no longer counts."""
        commands: list[Command] = [Abort(shard) for shard in self._waiting]
        self._given_up.update(self._waiting)
        self._waiting.clear()
        return commands

    def _own_failure(self, shard: int, sqlstate: str, message: str, detail: str = "") -> Failed:
        fields = ErrorFields.make("ERROR", sqlstate, message, detail=detail)
        return Failed(shard, _PREPARE, fields, lost=False, status=self._statuses[shard])

    def _fail(self, failure: Failed) -> None:
        """Keep the failure that the client will be told: the first, but a shard's own word before a lost link's."""
        if self._failure is None or (self._failure.lost and not failure.lost):
            self._failure = failure

    # --- step 1 -----------------------------------------------------------------------------------------------

    def _in_preparing(self, event: Event) -> list[Command]:
        commands: list[Command] = []
        if isinstance(event, TimedOut):
            for shard, step in self._waiting.items():
                if step is _PREPARE:
                    self._lost_in_prepare.add(shard)
                self._fail(self._late_vote(shard, event.error))
            commands = self._give_up()
        elif isinstance(event, Failed):
            self._fail(event)
            if event.lost and event.step is _PREPARE:
                self._lost_in_prepare.add(event.shard)
            if self._waiting:
                commands = [self._start_timer(self.plan.limits.undo_timeout_s)]
        elif isinstance(event, Answered):
            self._notices += event.notices
            self._take_vote(event)
        if self._waiting:
            return commands
        return commands + (self._undo() if self._failure is not None else self._decide())

    def _late_vote(self, shard: int, told: ErrorFields | None) -> Failed:
        if told is not None:
            return Failed(shard, _PREPARE, told, lost=False, status=self._statuses[shard])
        name = self.plan.names[shard]
        return self._own_failure(shard, "57014", f"shard {name} did not prepare the transaction in time")

    def _take_vote(self, event: Answered) -> None:
        """Believe a vote only if everything about it is right (rule 1); note what must be undone if it is not."""
        name = self.plan.names[event.shard]
        wanted_status = STATUS_BLOCK
        if event.step is _PREPARE:
            wanted_status = STATUS_IDLE
            if event.tags[-1:] != (b"PREPARE TRANSACTION",):
                tag = event.tags[-1].decode("ascii", "replace") if event.tags else ""
                self._fail(
                    self._own_failure(
                        event.shard, "40000", f"shard {name} did not prepare the transaction", f"It said {tag}."
                    )
                )
                return
        try:
            xid = record.parse_xid(event.row[0] if event.row else None)
        except ValueError:
            xid = 0
        if event.step is _PREPARE:
            self._prepared[event.shard] = xid
            if event.row[1:2] and event.row[1] not in _DURABLE:
                self._indirect.add(event.shard)
        else:
            self._commit_point_xid = xid
        if (
            not xid
            or event.status != wanted_status
            or (event.notices and any(notice.sqlstate == _NO_TRANSACTION for notice in event.notices))
        ):
            self._fail(
                self._own_failure(event.shard, "40000", f"shard {name} had no transaction that could be prepared")
            )
        elif event.notices and unconfirmed(event.notices):
            message = f"shard {name} could not confirm on its standbys that the transaction is prepared"
            self._fail(self._own_failure(event.shard, "40000", message))

    # --- step 2 -----------------------------------------------------------------------------------------------

    def _decide(self) -> list[Command]:
        plan = self.plan
        parts = [(plan.names[shard], self._prepared[shard]) for shard in plan.participants]
        decision = record.decision(plan.gid, self._commit_point_xid, parts, plan.epoch, plan.key)
        self.state = _DECIDING
        return [
            self._send(plan.commit_point, _DECIDE, decision),
            self._start_timer(plan.limits.decide_timeout_s),
        ]

    def _in_deciding(self, event: Event) -> list[Command]:
        if isinstance(event, TimedOut):
            return self._give_up() + self._settle()
        if isinstance(event, Failed):
            if event.lost:
                return self._settle()
            # An ERROR in this message comes before COMMIT has done anything, or is COMMIT's own refusal: nothing was
            # decided.
            self._fail(self._translate(event))
            return self._undo()
        if isinstance(event, Answered):
            self._notices += event.notices
            if event.tags[-1:] == (b"ROLLBACK",):
                message = f"shard {self.plan.names[event.shard]} rolled the transaction back"
                self._fail(self._own_failure(event.shard, "40000", message))
                return self._undo()
            notices = event.notices
            doubtful = notices and (any(one.sqlstate == _NO_TRANSACTION for one in notices) or unconfirmed(notices))
            if event.tags[-1:] != (b"COMMIT",) or doubtful:
                return self._settle()
        return self._apply()

    def _translate(self, event: Failed) -> Failed:
        """Make a retry of it when an abort record of our own gid stands there: recovery was faster."""
        if event.fields.sqlstate == "23505" and event.fields.get("s") == "pgchorus":
            message = "the transaction was given up because its commit took too long"
            fields = ErrorFields.make("ERROR", "40001", message, detail=f"Transaction {self.plan.gid}.")
            return Failed(event.shard, event.step, fields, lost=False, status=event.status)
        return event

    def _settle(self) -> list[Command]:
        self.state = _SETTLING
        return [Settle(self.plan.limits.settle_timeout_s)]

    def _in_settling(self, event: Event) -> list[Command]:
        plan = self.plan
        if isinstance(event, Settled):
            if event.committed:
                return self._apply()
            message = f"the link to shard {plan.names[plan.commit_point]} was lost, and the transaction was rolled back"
            self._fail(self._own_failure(plan.commit_point, "40000", message, f"Transaction {plan.gid}."))
            return self._undo()
        reason = event.reason if isinstance(event, Unsettled) else ""
        error = ErrorFields.make(
            "ERROR",
            "08007",
            f"nobody knows yet whether transaction {plan.gid} is committed",
            detail=f"Shard {plan.names[plan.commit_point]}, which knows, could not be asked: {reason}",
            hint=f"Ask later with SHOW pgchorus.transaction '{plan.gid}'.",
        )
        self._unknown = error
        return [Leave(frozenset(plan.participants)), *self._end()]

    # --- step 3 -----------------------------------------------------------------------------------------------

    def _apply(self) -> list[Command]:
        self.state = _APPLYING
        commands: list[Command] = []
        for shard in self.plan.participants:
            if shard in self._indirect:
                commands.append(self._finish(shard, commit=True))
            else:
                commands.append(self._send(shard, _COMMIT_PREPARED, self._applying[shard]))
        commands.append(self._start_timer(self.plan.limits.apply_timeout_s))
        return commands

    def _finish(self, shard: int, *, commit: bool) -> Finish:
        self._finishing.add(shard)
        limits = self.plan.limits
        timeout = limits.apply_timeout_s if commit else limits.undo_timeout_s
        return Finish(shard, self._prepared.get(shard), commit, timeout)

    def _in_applying(self, event: Event) -> list[Command]:
        commands: list[Command] = []
        if isinstance(event, TimedOut):
            self._late.update(dict.fromkeys((*self._waiting, *self._finishing), "no answer in time"))
            commands = self._give_up()
            self._finishing.clear()
        elif isinstance(event, Failed):
            return [self._finish(event.shard, commit=True)]
        elif isinstance(event, Answered):
            self._notices += event.notices
            if event.tags[-1:] != (b"COMMIT PREPARED",):
                return [self._finish(event.shard, commit=True)]
            if event.notices and unconfirmed(event.notices):
                self._late[event.shard] = "not confirmed by its standbys"
        elif isinstance(event, Unfinished):
            (self._torn if event.torn else self._late)[event.shard] = event.reason
        if self._waiting or self._finishing:
            return commands
        if self._late or self._torn:
            commands.append(Leave(frozenset(self._late) | frozenset(self._torn)))
        return commands + self._end()

    def _end(self) -> list[Command]:
        self.state = _ENDING
        commands: list[Command] = [*self._end_readers(Step.COMMIT)]
        if not self._waiting:
            return self._tell_end()
        commands.append(self._start_timer(self.plan.limits.undo_timeout_s))
        return commands

    def _in_ending(self, event: Event) -> list[Command]:
        # What a reader's COMMIT says changes nothing any more; a link on which it failed is not used again.
        commands: list[Command] = self._after_end(event)
        return commands if self._waiting else commands + self._tell_end()

    def _after_end(self, event: Event) -> list[Command]:
        if isinstance(event, TimedOut):
            return self._give_up()
        if isinstance(event, Answered) and event.status == STATUS_IDLE:
            return []
        return [Abort(event.shard)] if isinstance(event, _FROM_LINKS) else []

    def _end_readers(self, step: Step) -> list[Command]:
        sql = "COMMIT" if step is Step.COMMIT else "ROLLBACK"
        open_statuses = (STATUS_BLOCK, STATUS_FAILED)
        return [self._send(shard, step, sql) for shard in self.plan.readers if self._statuses[shard] in open_statuses]

    def _tell_end(self) -> list[Command]:
        gid, names = self.plan.gid, self.plan.names
        self.state = _DONE
        if self._unknown is not None:
            return [self._tell(Result.UNKNOWN, error=self._unknown, shard=self.plan.commit_point)]
        if self._torn:
            shards = ", ".join(f"{names[shard]} ({reason})" for shard, reason in sorted(self._torn.items()))
            error = ErrorFields.make(
                "ERROR",
                "XX001",
                f"transaction {gid} is committed, but a shard has lost its part of it",
                detail=f"Lost on {shards}.",
                hint="The shard was restored or failed over to a server that did not have the prepared transaction.",
            )
            return [self._tell(Result.TORN, error=error)]
        for shard, reason in sorted(self._late.items()):
            message = f"transaction {gid} is committed, but shard {names[shard]} does not show it yet"
            self._notices.append(
                ErrorFields.make("WARNING", "01000", message, detail=f"Shard {names[shard]}: {reason}.")
            )
        return [self._tell(Result.COMMITTED)]

    # --- back -------------------------------------------------------------------------------------------------

    def _undo(self) -> list[Command]:
        """Roll back on every shard: no decision was sent, or it was refused, and nothing can commit any more."""
        plan = self.plan
        self.state = _UNDOING
        self._tainted.update(self._prepared)
        commands: list[Command] = [self._start_timer(plan.limits.undo_timeout_s)]
        for shard in (*plan.participants, plan.commit_point):
            if shard in self._given_up:
                continue
            if shard in self._prepared and self._statuses[shard] == STATUS_IDLE:
                gid = plan.gid.at(plan.names[shard])
                commands.append(self._send(shard, Step.ROLLBACK_PREPARED, f"ROLLBACK PREPARED '{gid}'"))
            elif shard not in self._lost_in_prepare and self._statuses[shard] in (STATUS_BLOCK, STATUS_FAILED):
                commands.append(self._send(shard, Step.ROLLBACK, "ROLLBACK"))
        commands += self._end_readers(Step.ROLLBACK)
        commands += [self._finish(shard, commit=False) for shard in sorted(self._lost_in_prepare)]
        return commands if self._waiting else commands + self._tell_aborted()

    def _in_undoing(self, event: Event) -> list[Command]:
        commands: list[Command] = []
        if isinstance(event, TimedOut):
            prepared = [shard for shard, step in self._waiting.items() if step is Step.ROLLBACK_PREPARED]
            commands = self._give_up()
            commands += [self._finish(shard, commit=False) for shard in prepared]
        elif isinstance(event, _FROM_LINKS) and event.step is Step.ROLLBACK_PREPARED:
            if isinstance(event, Failed) or event.tags[-1:] != (b"ROLLBACK PREPARED",):
                commands = [self._finish(event.shard, commit=False)]
        elif isinstance(event, Unfinished):
            commands = [Leave(frozenset({event.shard}))]
        else:
            commands = self._after_end(event)
        return commands if self._waiting else commands + self._tell_aborted()

    def _tell_aborted(self) -> list[Command]:
        failure = self._failure
        if failure is None:
            raise MachineError("undone without a reason")
        told = self._tell(Result.ABORTED, error=failure.fields, raw=failure.raw, shard=failure.shard)
        return [told, *self._clean()]

    def _in_cleaning(self, event: Event) -> list[Command]:
        commands: list[Command] = []
        if isinstance(event, Unfinished):
            commands = [Leave(frozenset({event.shard}))]
        elif isinstance(event, TimedOut):
            commands = [Leave(frozenset(self._finishing))]
            self._finishing.clear()
        return commands + self._clean()

    def _clean(self) -> list[Command]:
        """Go on until nothing is under way, with a limit."""
        if not self._finishing:
            self.state = _DONE
            return []
        if self.state is _CLEANING:
            return []
        self.state = _CLEANING
        return [self._start_timer(self.plan.limits.undo_timeout_s * 2)]

    def _tell(
        self, result: Result, *, error: ErrorFields | None = None, raw: bytes | None = None, shard: int | None = None
    ) -> Tell:
        if self._told:
            raise MachineError("told twice")
        self._told = True
        return Tell(
            Outcome(
                result,
                gid=str(self.plan.gid),
                error=error,
                raw=raw,
                shard=shard,
                notices=tuple(self._notices),
                tainted=frozenset(self._tainted),
            )
        )
