"""Drives one commit machine: carries its commands out on links and control connections, and brings it the events.

Messages to links are callbacks from end to end: no task waits for an answer, and what the machine wants next goes out
in the turn of the loop that brought the answer it waited for. What takes long or may be repeated (settling, finishing a
part elsewhere) is a task.

Decides nothing about the commit: what to send when, and what answers mean, is ``machine``'s. What it sees to is that
events reach the machine one after the other, in the order in which they happened, and that a bug in all this leaves no
link behind that somebody else could use.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from proxy.twophase.events import (
    Abort,
    Answered,
    Failed,
    Finish,
    Finished,
    Leave,
    Send,
    Settle,
    Settled,
    Tell,
    TimedOut,
    Timer,
    Unfinished,
    Unsettled,
)
from proxy.twophase.finish import Part, finish
from proxy.twophase.machine import CommitMachine, State
from proxy.twophase.participant import ShardFailure
from proxy.twophase.points import AFTER, BEFORE, Point, pass_by
from proxy.twophase.recorded import ask_by_writing
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from proxy.twophase.events import Command, Event, Outcome, Plan
    from proxy.twophase.participant import Answer, Control, Participant
    from proxy.twophase.points import Checkpoint

_LOST_SEVERITIES = ("FATAL", "PANIC")
_UNDECIDED: Final = frozenset({State.NEW, State.PREPARING})
_PREPARING: Final = State.PREPARING
_DONE: Final = State.DONE
_log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a drive asks of its coordinator. It counts ``rounds`` of messages to shards."""

    rounds: int

    @property
    def control(self) -> Control:
        """Control connections."""
        ...

    @property
    def retention_s(self) -> float:
        """How long records are kept."""
        ...

    @property
    def checkpoint(self) -> Checkpoint:
        """To be called at every point."""
        ...

    def leave(self, shards: frozenset[int]) -> None:
        """Recovery shall look at these shards."""

    def told(self, drive: Drive, outcome: Outcome | None) -> None:
        """The commit has come to its outcome; None: a bug has ended it."""

    def ended(self, drive: Drive) -> None:
        """Nothing of it runs any more, its cleaning up included."""


def is_lost(link: Participant, error: ShardFailure) -> bool:
    """Whether nobody knows what the server did with the message that failed."""
    return error.lost or link.closed or error.fields.severity in _LOST_SEVERITIES


class Drive:
    """One commit. ``told`` is its outcome, there when the links are idle or closed; or a bug's exception.

    Before ``begin`` nothing has happened and nobody knows of it: it may be dropped.
    """

    def __init__(self, owner: Owner, plan: Plan, links: Mapping[int, Participant]) -> None:
        self._owner = owner
        self._on_told: Callable[[Outcome | None], None] | None = None
        self._checkpoint = owner.checkpoint
        self._stops = owner.checkpoint is not pass_by  # else points need not be looked up, twelve in each commit
        self._plan = plan
        self._links = links
        self._loop = asyncio.get_running_loop()
        self.told: asyncio.Future[Outcome] = self._loop.create_future()
        self.name = str(plan.gid)
        self.gid = plan.gid
        self.commit_point = plan.commit_point
        self.part_names = {shard: plan.gid.at(plan.names[shard]) for shard in plan.participants}
        self._machine = CommitMachine(plan)
        self._events: deque[Event] = deque()
        self._handling = False
        self._broken = False
        self._under_way = 0  # messages and tasks of which we have not heard yet
        self._work: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._serial = 0  # of that timer

    @property
    def may_be_decided(self) -> bool:
        """Whether step 2 has been sent, so that its effects may be seen at the commit point."""
        return self._machine.state not in _UNDECIDED

    def begin(self, on_told: Callable[[Outcome | None], None] | None = None) -> None:
        """Send step 1. ``on_told`` hears the outcome (None: a bug) in the turn of the loop that brings it."""
        self._on_told = on_told
        self._handle(None)

    def give_way(self, error: ErrorFields) -> bool:
        """End step 1 as if its time were up, and have ``error`` told; False: step 1 is over, nothing has happened.

        What waits is closed and not cancelled: a cancel could make a success of a prepare that no standby has.
        """
        if self._machine.state is not _PREPARING:
            return False
        self._happened(TimedOut(self._serial, error))
        return True

    # --- events -----------------------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        """Give an event to the machine; while another is being handled (a link was closed for it) it has to wait."""
        if not self._handling:
            self._handle(event)
        else:
            self._events.append(event)

    def _handle(self, event: Event | None) -> None:
        machine = self._machine
        self._handling = True
        try:
            while not self._broken:
                if event is None:
                    self._carry_out(machine.start({shard: link.status for shard, link in self._links.items()}))
                elif machine.state is not _DONE:
                    if self._stops and isinstance(event, (Answered, Failed)):
                        self._checkpoint(AFTER[event.step])
                    self._carry_out(machine.handle(event))
                if not self._events:
                    break
                event = self._events.popleft()
        except Exception as error:  # noqa: BLE001 - told to whoever waits, or logged
            self._break(error)
        finally:
            self._handling = False
        if machine.state is _DONE or self._broken:
            self._rest()

    def _break(self, error: Exception) -> None:
        """Whatever this is, no link of the commit may be used again; recovery does the rest."""
        self._broken = True
        self._events.clear()
        for link in self._links.values():
            link.abort()
        self._owner.leave(frozenset(self._links))
        _log.error("commit %s failed", self.name, exc_info=error)
        if not self.told.done():
            self.told.set_exception(error)
            self.told.exception()  # it is in the log, whether anybody waits for it or not
            self._pass_on(None)

    def _pass_on(self, outcome: Outcome | None) -> None:
        self._owner.told(self, outcome)
        if self._on_told is not None:
            try:
                self._on_told(outcome)
            except Exception:  # noqa: BLE001 - whoever was told has a bug; the commit has none, and goes on
                _log.exception("telling the outcome of %s failed", self.name)

    def _rest(self) -> None:
        """Nothing is left to decide."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._under_way:
            self._owner.ended(self)

    # --- commands ---------------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[Command]) -> None:  # noqa: C901 - one line for each command
        rounds = 0
        for command in commands:
            match command:
                case Send():
                    rounds = 1
                    if self._stops:
                        self._checkpoint(BEFORE[command.step])
                    self._send(command)
                case Abort():
                    self._links[command.shard].abort()
                case Timer():
                    if self._timer is not None:
                        self._timer.cancel()
                    self._serial = command.serial
                    self._timer = self._loop.call_later(command.seconds, self._happened, TimedOut(command.serial))
                case Tell():
                    if self._stops:
                        self._checkpoint(Point.TELLING)
                    if not self.told.done():
                        self.told.set_result(command.outcome)
                        self._pass_on(command.outcome)
                case Leave():
                    self._owner.leave(command.shards)
                case Settle():
                    self._checkpoint(Point.SETTLING)
                    self._start(self._settle(command))
                case Finish():
                    self._checkpoint(Point.ELSEWHERE)
                    self._start(self._finish(command))
        self._owner.rounds += rounds

    def _send(self, command: Send) -> None:
        link = self._links[command.shard]
        self._under_way += 1
        try:
            link.post(command.sql, partial(self._heard, command, link))
        except Exception as error:  # noqa: BLE001 - a bug; the machine must go on, and the log has it
            self._loop.call_soon(self._heard, command, link, error)

    def _heard(self, command: Send, link: Participant, answer: Answer | Exception) -> None:
        """A message was answered, or its link is lost."""
        self._under_way -= 1
        if isinstance(answer, Exception):
            self._happened(self._failure(command, link, answer))
            return
        rows = answer.rows
        row = tuple(rows[0]) if rows else ()
        self._happened(Answered(command.shard, command.step, answer.tags, row, answer.notices, answer.status))

    @staticmethod
    def _failure(command: Send, link: Participant, error: Exception) -> Failed:
        if isinstance(error, ShardFailure):
            lost = is_lost(link, error)
            fields, raw = error.fields, error.raw
        else:
            _log.error("running %s on shard %s", command.step.value, link.name, exc_info=error)
            lost, raw = True, None
            fields = ErrorFields.make("ERROR", "XX000", f"internal error while talking to shard {link.name}")
        if lost:
            link.abort()
        return Failed(command.shard, command.step, fields, lost=lost, status=link.status, raw=raw)

    # --- what takes longer ------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[object, object, Event]) -> None:
        async def report() -> None:
            event = await work
            self._under_way -= 1
            self._happened(event)

        self._under_way += 1
        task = asyncio.create_task(report(), name=f"twophase: {self.name}")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _settle(self, command: Settle) -> Event:
        plan, owner = self._plan, self._owner
        try:
            committed, reason = await ask_by_writing(
                owner.control, plan.commit_point, plan.gid, retention_s=owner.retention_s, timeout_s=command.timeout_s
            )
            if committed is None:
                return Unsettled(reason)
            self._checkpoint(Point.SETTLED)
            return Settled(committed=committed)
        except Exception:  # noqa: BLE001 - a bug; the machine must go on, and the log has it
            _log.exception("settling %s", self.name)
            return Unsettled("internal error")

    async def _finish(self, command: Finish) -> Event:
        part = Part(command.shard, self.part_names[command.shard], command.xid)
        try:
            result = await finish(self._owner.control, part, commit=command.commit, timeout_s=command.timeout_s)
        except Exception:  # noqa: BLE001 - a bug; the machine must go on, and the log has it
            _log.exception("finishing %s", part.name)
            return Unfinished(command.shard, "internal error")
        if result.done:
            return Finished(command.shard)
        if result.torn:
            _log.critical("transaction %s on shard %s: %s", part.name, self._plan.names[part.shard], result.reason)
        return Unfinished(command.shard, result.reason, torn=result.torn)
