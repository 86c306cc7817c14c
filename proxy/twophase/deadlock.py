"""Deadlocks over several shards: finding them, also between transactions of different proxies, and ending one wait.

Theory of operation. Postgres ends what deadlocks on one server; a cycle over several is in nobody's view. So whoever
has waited for ``timeout_s`` in a transaction that uses several shards is looked at:

    1. On every shard: who waits, since when, for whom (pg_locks, pg_blocking_pids), and when these began.
    2. Which backends on different shards are one transaction is known by its proxy; what of its own waits for long, a
       proxy writes to ``pgchorus.waiting`` on the home shard, and reads there what the others have written.
    3. A cycle in this graph is believed when a second reading shows each of its waits again: the same backend in the
       same transaction, waiting since the same moment, for the same other. Then all of them stood at once in between.
    4. The youngest transaction in the cycle gives way. Its own proxy cancels the wait, and its client is told 40P01.
       Where all are in their COMMITs the youngest one's ends, if it is still in step 1.

Why this way: a statement that does not wait pays nothing, and nothing has to be marked on the shards beforehand.

- A backend is named by process and start of its transaction, so an old row never joins two newer transactions. One
  without a transaction is in the way if its session has advisory locks: it is named by its own start, and is of the
  transaction that its session has on another shard.
- A transaction whose COMMIT has begun gives way only if all others in its cycle commit as well. One with several
  writers is never cancelled (a cancel can turn a prepare that is not replicated into a success): its links are closed
  where it waits, and the rest is rolled back, as when the time for step 1 is up. What it has prepared is known by the
  random bits of its id, which are those of the gid. With a single writer it is Postgres's own COMMIT that is cancelled
  where it waits.
- Backends of nobody's (transactions on one shard, clients that are connected directly) are nodes as well. Whether one
  is nobody's shows a look later: its proxy may only just be about to say that it waits, and it may be the youngest.
- A shard that cannot be asked shows no waits: a deadlock may be found later, but nothing is taken for one that is not.

Decides when to look and whom to end. Left to others: the graph (waits), what the client sees (proxy.transaction).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from proxy.errors import DEADLOCK_DETECTED
from proxy.twophase import record
from proxy.twophase.gid import RANDOM_BITS, parse_participant, random_of, uuid7
from proxy.twophase.participant import error_fields
from proxy.twophase.waits import Node, Wait, describe, find_deadlocks, modes_conflict, rank
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from proxy.twophase.participant import Control, ControlConnection, Row
    from proxy.twophase.waits import Deadlock

_log = logging.getLogger(__name__)

TICKS = 4  # looks at our own transactions within timeout_s
CONFIRM_PAUSE_S = 0.05
ASK_TIMEOUT_S = 2.0
# A proxy that has not written for so long may be stopped: its transactions are in the way, but it cannot end one.
SILENT_S = 3.0


class Link(Protocol):
    """A shard link, as far as waiting goes."""

    @property
    def pid(self) -> int:
        """The backend's process id."""
        ...

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        ...

    @property
    def exchanges(self) -> int:
        """How many exchanges there have been: the same number is the same exchange."""
        ...


class Waiter(Protocol):
    """A client's transaction that uses several shards, or one while its session keeps a link to another."""

    @property
    def identity(self) -> Identity | None:
        """Who it is; another object when the next transaction has begun."""
        ...

    @property
    def links(self) -> Mapping[int, Link]:
        """Its links by shard."""
        ...

    @property
    def pinned(self) -> Mapping[int, Link]:
        """Links that its session keeps: one that is none of the transaction's may hold advisory locks."""
        ...

    @property
    def committing(self) -> bool:
        """Whether its COMMIT has begun."""
        ...

    async def end_wait(self, shards: Iterable[int], error: ErrorFields, cancel: Callable[[], Awaitable[bool]]) -> None:
        """Have ``cancel`` end what waits on these shards, and the client told ``error`` for it.

        Nothing happens while a COMMIT of several writers is under way.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A transaction that uses several shards: when that began, and random bits, which its gid will have as well."""

    uuid: UUID

    @property
    def random(self) -> int:
        """The random bits."""
        return random_of(self.uuid)

    @property
    def key(self) -> str:
        """What tells it apart, from any proxy."""
        return f"{self.random:x}"


@dataclass(frozen=True, slots=True)
class _Known:
    """A transaction and its backends: (shard, pid, start of the transaction there). ``ours`` only in this proxy."""

    key: str
    uuid: str
    age: int
    committing: bool
    members: frozenset[tuple[int, int, str]]
    silent: bool = False
    ours: Waiter | None = None
    identity: Identity | None = None

    @property
    def node(self) -> Node:
        return Node(self.key, f"transaction {self.uuid}")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the shards said: waits as rows, when each backend's transaction began, and who has prepared what.

    ``lasted_s`` is how long each backend (shard, pid) has waited.
    """

    rows: Mapping[int, Sequence[tuple[int, str, str, tuple[int, ...]]]]
    began: Mapping[tuple[int, int], str]
    prepared: Mapping[tuple[int, int], tuple[str, ...]]
    lasted_s: Mapping[tuple[int, int], float]


class DeadlockDetector:
    """Watches the transactions of one logical database; ``names`` are its shards in order.

    ``on_prepared`` is told where somebody waits for a prepared transaction: its coordinator may be gone.
    ``end_commit`` has the commit with these random bits give way, with an error; False if it does not.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        control: Control,
        *,
        names: Sequence[str],
        home: int,
        timeout_s: float = 1.0,
        on_prepared: Callable[[set[int]], None] = lambda _shards: None,
        end_commit: Callable[[int, ErrorFields], bool] = lambda _random, _error: False,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self.control = control
        self.names = tuple(names)
        self.timeout_s = timeout_s
        #: How many waits were ended.
        self.ended = 0
        self._home = home
        self._on_prepared = on_prepared
        self._end_commit = end_commit
        self._clock_ms = clock_ms
        self._random_bits = random_bits
        self._proxy = f"{random_bits(64):016x}"
        self._watched: set[Waiter] = set()
        self._since: dict[tuple[Identity, int], tuple[int, float]] = {}
        self._written = False

    def add(self, name: str) -> None:
        """Look at another shard as well, the last one."""
        self.names += (name,)

    # --- what transactions call -------------------------------------------------------------------------------

    def watch(self, waiter: Waiter) -> Identity:
        """A transaction has begun to use a second shard."""
        self._watched.add(waiter)
        return Identity(uuid7(self._clock_ms(), self._random_bits(RANDOM_BITS)))

    def forget(self, waiter: Waiter) -> None:
        """It has ended."""
        self._watched.discard(waiter)

    # --- when -------------------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """Look ``TICKS`` times within the timeout, until cancelled."""
        while True:
            await asyncio.sleep(self.timeout_s / TICKS)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - shards' errors do not come here; a bug must not end all looking
                _log.exception("looking for deadlocks failed")

    async def look(self) -> None:
        """Look once; ends at most one wait for each knot."""
        waiting = self._waiting_long(asyncio.get_running_loop().time())
        if not waiting:
            if self._written:
                await self._exchange([])
            return
        first = await self._read(waiting)
        if first.prepared:
            self._on_prepared({shard for shard, _ in first.prepared})
        ours = self._ours(waiting, first)
        known = ours + await self._exchange(ours)
        waits = self._waits(first, known)
        unsettled = self._unsettled(first, known, waits)
        if all(unsettled & set(deadlock.cycle) for deadlock in find_deadlocks(waits, _ages(known))):
            return
        await asyncio.sleep(CONFIRM_PAUSE_S)
        second = await self._read(waiting)
        # Whose COMMIT has begun in between: what was seen to wait may have been the statement before it.
        began = {one.key: one.committing for one in ours}
        still = [one for one in self._ours(waiting, second) if began.get(one.key) is one.committing]
        known = still + [one for one in known if one.ours is None]
        lasting = waits & self._waits(second, known)
        for deadlock in find_deadlocks(lasting, _ages(known)):
            if not unsettled & set(deadlock.cycle):
                await self._end(deadlock, still, lasting)

    def _waiting_long(self, now: float) -> list[Waiter]:
        """Return the transactions that have been in one exchange with a shard for the timeout."""
        since: dict[tuple[Identity, int], tuple[int, float]] = {}
        found = []
        for waiter in self._watched:
            identity = waiter.identity
            if identity is None:
                continue
            long = False
            for shard, link in waiter.links.items():
                if not link.busy:
                    continue
                seen = self._since.get((identity, shard))
                if seen is None or seen[0] != link.exchanges:
                    seen = (link.exchanges, now)
                since[identity, shard] = seen
                long = long or now - seen[1] >= self.timeout_s * (TICKS - 1) / TICKS
            if long:
                found.append(waiter)
        self._since = since
        return found

    # --- the picture ------------------------------------------------------------------------------------------

    async def _read(self, waiting: Sequence[Waiter]) -> _Reading:
        rows: dict[int, Sequence[tuple[int, str, str, tuple[int, ...]]]] = {}
        began: dict[tuple[int, int], str] = {}
        prepared: dict[tuple[int, int], tuple[str, ...]] = {}
        lasted_s: dict[tuple[int, int], float] = {}

        async def read(shard: int) -> None:
            pids = {link.pid for waiter in waiting for at, link in _backends(waiter) if at == shard}
            with suppress(TimeoutError):  # a shard that does not answer has no rows here: the next look asks again
                async with asyncio.timeout(ASK_TIMEOUT_S), self.control.connection(shard) as connection:
                    listed = await connection.fetch(record.LIST_WAITS, self.timeout_s / 2)
                    found = [
                        (row["pid"], row["since"], row["lock"], tuple(sorted(set(row["blockers"])))) for row in listed
                    ]
                    blockers = {blocker for row in found for blocker in row[3]}
                    if 0 in blockers:
                        blocked = [row[0] for row in found if 0 in row[3]]
                        for pid, names in (await _prepared_blockers(connection, blocked)).items():
                            prepared[shard, pid] = names
                    # Last: what is found to have begun earlier was there when the waits were read.
                    pids |= blockers | {row[0] for row in found}
                    for row in await connection.fetch(record.TRANSACTIONS_OF, sorted(pids)):
                        began[shard, row["pid"]] = row["began"]
                    lasted_s.update(((shard, row["pid"]), row["lasted_s"]) for row in listed)
                    rows[shard] = found

        results = await asyncio.gather(*(read(shard) for shard in range(len(self.names))), return_exceptions=True)
        for shard, result in enumerate(results):
            if isinstance(result, BaseException):
                if not isinstance(result, Exception) or error_fields(result) is None:
                    raise result
                _log.info("deadlocks: shard %s cannot be asked: %s", self.names[shard], result)
        return _Reading(rows, began, prepared, lasted_s)

    def _ours(self, waiting: Sequence[Waiter], reading: _Reading) -> list[_Known]:
        """Return our transactions that wait and were there, the same, during the whole reading."""
        found = []
        for waiter in waiting:
            identity = waiter.identity
            if identity is None or not any((identity, shard) in self._since for shard in waiter.links):
                continue  # it has ended, and the next one is no concern of this reading
            members = frozenset(
                (shard, link.pid, reading.began[shard, link.pid])
                for shard, link in _backends(waiter)
                if (shard, link.pid) in reading.began
            )
            found.append(
                _Known(
                    key=identity.key,
                    uuid=str(identity.uuid),
                    age=identity.uuid.int,
                    committing=waiter.committing,
                    members=members,
                    ours=waiter,
                    identity=identity,
                )
            )
        return found

    async def _exchange(self, ours: Sequence[_Known]) -> list[_Known]:
        """Write what of ours waits, and return what other proxies have written."""
        written = json.dumps(
            [
                {
                    "id": one.key,
                    "uuid": one.uuid,
                    "committing": one.committing,
                    "members": [[self.names[shard], pid, began] for shard, pid, began in sorted(one.members)],
                }
                for one in ours
            ]
        )
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), self.control.connection(self._home) as connection:
                rows = await connection.fetch(record.EXCHANGE_WAITING, self._proxy, written)
        except TimeoutError:
            return []
        except Exception as error:
            if error_fields(error) is None:
                raise
            _log.info("deadlocks between proxies are not seen: %s", error)
            return []
        self._written = bool(ours)
        return [self._of_others(row) for row in rows]

    def _of_others(self, row: Row) -> _Known:
        shards = {name: shard for shard, name in enumerate(self.names)}
        uuid = UUID(row["uuid"])
        return _Known(
            key=row["id"],
            uuid=str(uuid),
            age=uuid.int,
            committing=row["committing"],
            members=frozenset(
                (shards[name], pid, began) for name, pid, began in json.loads(row["members"]) if name in shards
            ),
            silent=row["age_s"] > SILENT_S,
        )

    def _waits(self, reading: _Reading, known: Sequence[_Known]) -> set[Wait]:
        """Make the graph: backends of one transaction become one node."""
        nodes = {member: one.node for one in known for member in one.members}
        by_key = {one.key: one.node for one in known}
        waits = set()
        for shard, rows in reading.rows.items():
            for pid, since, lock, blockers in rows:
                began = reading.began.get((shard, pid))
                if began is None:
                    continue
                waiter = self._node(shard, pid, began, nodes)
                others = {name: _prepared_node(name, by_key) for name in reading.prepared.get((shard, pid), ())}
                for blocker in blockers:
                    blocker_began = reading.began.get((shard, blocker))
                    if blocker_began is not None:
                        node = self._node(shard, blocker, blocker_began, nodes)
                        others[f"{blocker} {blocker_began}"] = node
                for held_by, other in others.items():
                    waits.add(Wait(shard, waiter, other, lock, pid, began, since, held_by))
        return waits

    def _unsettled(self, reading: _Reading, known: Sequence[_Known], waits: Collection[Wait]) -> set[Wait]:
        """Return the waits of nobody's backends that may turn out to be somebody's at the next look.

        A transaction is known once it has waited for the timeout. A ring may be seen before that, where one backend of
        it both waits and is waited for; and who is not known cannot be the youngest.
        """
        keys = {one.key for one in known}
        ours = {(shard, link.pid) for waiter in self._watched for shard, link in _backends(waiter)}
        written_s = self.timeout_s * (TICKS + 1) / TICKS

        def may_be_written(shard: int, pid: int) -> bool:
            # Of our own we know that it will be; but nothing is put off for ever.
            return reading.lasted_s[shard, pid] < (2 * written_s if (shard, pid) in ours else written_s)

        return {wait for wait in waits if wait.waiter.key not in keys and may_be_written(wait.shard, wait.pid)}

    def _node(self, shard: int, pid: int, began: str, nodes: Mapping[tuple[int, int, str], Node]) -> Node:
        known = nodes.get((shard, pid, began))
        name = self.names[shard]
        return known or Node(f"{name} {pid} {began}", f"process {pid} of shard {name}")

    # --- ending a wait ----------------------------------------------------------------------------------------

    async def _end(self, deadlock: Deadlock, ours: Iterable[_Known], lasting: Iterable[Wait]) -> None:
        victim = next((one for one in ours if one.key == deadlock.victim.key), None)
        if victim is None or victim.ours is None or victim.ours.identity is not (identity := victim.identity):
            return  # another proxy's, which sees the same and ends it; or it has ended by itself
        if victim.ours.committing is not victim.committing:
            return
        waits = [wait for wait in deadlock.cycle if wait.waiter == deadlock.victim]
        detail = describe(deadlock, dict(enumerate(self.names)))
        error = ErrorFields.make("ERROR", DEADLOCK_DETECTED, "deadlock detected", detail=detail)
        said = f"deadlock over several shards; {deadlock.victim.label} gives way: {detail}".replace("\n", " ")
        if victim.committing and identity is not None and self._end_commit(identity.random, error):
            _log.warning(said)
            # Nobody listens to these backends any more: now a cancel can make no success of anything.
            if not await self._cancel([wait for wait in lasting if wait.waiter == deadlock.victim]):
                self.ended += 1
            return

        async def cancel() -> bool:
            _log.warning(said)
            return await self._cancel(waits)

        await victim.ours.end_wait({wait.shard for wait in waits}, error, cancel)

    async def _cancel(self, waits: Sequence[Wait]) -> bool:
        """Cancel waits that are still those that were seen; whether any was."""
        hit = False
        for wait in waits:
            try:
                async with self.control.connection(wait.shard) as connection:
                    hit = bool(await connection.fetchval(record.CANCEL_WAIT, wait.pid, wait.began, wait.since)) or hit
            except Exception as error:
                if error_fields(error) is None:
                    raise
                _log.info("deadlocks: a wait on shard %s cannot be ended: %s", self.names[wait.shard], error)
        self.ended += hit
        return hit


def _backends(waiter: Waiter) -> Iterable[tuple[int, Link]]:
    return {**waiter.pinned, **waiter.links}.items()


def _ages(known: Iterable[_Known]) -> dict[str, int]:
    return {one.key: rank(one.age, committing=one.committing) for one in known if not one.silent}


def _prepared_node(name: str, by_key: Mapping[str, Node]) -> Node:
    parsed = parse_participant(name)
    if parsed is None:
        return Node(f"prepared {name}", f"prepared transaction {name}")
    key = f"{random_of(parsed[0].uuid):x}"
    return by_key.get(key) or Node(key, f"transaction {parsed[0].uuid}")


async def _prepared_blockers(connection: ControlConnection, pids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return for each backend which prepared transactions hold what it waits for; pg_blocking_pids calls them all 0."""
    found: dict[int, set[str]] = {}
    for row in await connection.fetch(record.PREPARED_BLOCKERS, list(pids)):
        if modes_conflict(row["held"], row["wanted"]):
            found.setdefault(row["pid"], set()).add(row["gid"])
    return {pid: tuple(sorted(names)) for pid, names in found.items()}
