"""Finds the primary among several servers of a shard, at the start, when it is in doubt, and now and then.

A connection of its own to each server is kept, so that a look costs one question. All are asked at the same time; once
one is there that can be the primary, those that have not answered get ``GRACE_S`` more: a machine without power answers
nobody, and the others wait for its successor. No command here is ever cancelled: who does not answer loses the
connection.

Decides when a look is over. Left to others: who is the primary by the answers (hosts.py), what happens when it is
another one (``on_move``), and when to look.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from proxy.errors import CANNOT_CONNECT_NOW, SHARD_DOWN, UNABLE_TO_ESTABLISH_CONNECTION
from proxy.shards import lending
from proxy.shards.errors import FOREIGN_ERRORS, ShardError, translate
from proxy.shards.hosts import NoPrimaryError, Progress, Said, choose, newest_timeline, report
from proxy.tasks import spawn
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.hosts import HostAddress

_log = logging.getLogger(__name__)

GRACE_S: Final = 0.5
# pg_control_checkpoint() is late after a promotion, so a primary's timeline comes from the name of its WAL file.
_QUESTION: Final = """
    SELECT r AS in_recovery,
        pg_catalog.current_setting('transaction_read_only') = 'on' AND NOT r AS read_only,
        CASE WHEN r THEN greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), follows)
            ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)
                )::bit(32)::int8 END AS timeline,
        (SELECT system_identifier FROM pg_catalog.pg_control_system()) AS system,
        (CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END
            - '0/0'::pg_lsn)::int8 AS lsn,
        coalesce(follows, 0) AS follows
    FROM pg_catalog.pg_is_in_recovery() r
        LEFT JOIN (SELECT received_tli AS follows FROM pg_catalog.pg_stat_get_wal_receiver() w
            WHERE w.status = 'streaming') AS receiver ON true"""


class Finder:
    """Looks at the servers of one shard and keeps its ``Place``."""

    def __init__(self, endpoint: ShardEndpoint, *, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.on_move: Callable[[], None] | None = None
        #: Called with a system identifier and a timeline that is higher than any seen here before.
        self.on_timeline: Callable[[int, int], None] = lambda _system, _timeline: None
        #: What was said at the last look, and when it began, by the loop's clock.
        self.said: dict[HostAddress, Said] = {}
        self.looked_at = 0.0
        self.progress = Progress()
        self._timeout_s = timeout_s
        self._connections: dict[HostAddress, Any] = {}
        self._look: asyncio.Task[ShardError | None] | None = None
        self._complaint = ""

    async def find(self) -> None:
        """See where the primary is; ``endpoint.place`` says so afterwards. Raises ShardError when there is none."""
        if self._look is None or self._look.done():
            self._look = spawn(self._find(), f"look for the primary of {self.endpoint.name}")
        error = await asyncio.shield(self._look)
        if error is not None:
            raise error

    def close(self) -> None:
        """Close the connections."""
        if self._look is not None:
            self._look.cancel()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.terminate()

    async def _find(self) -> ShardError | None:
        """Look; an error is returned, because nobody may be waiting any more."""
        self.looked_at = asyncio.get_running_loop().time()
        said, silent = await self._ask_all()
        self.said = said
        place = self.endpoint.place
        try:
            address = choose(said, place)
        except NoPrimaryError as error:
            self._remember(said)
            self._leave_old_primary(said)
            return self._none(str(error), said, silent)
        self._complain("")
        place.system = said[address].system
        self._remember(said)
        moved = place.last is not None and place.last != address
        if moved:
            _log.warning(
                "the primary of shard %s is %s now, on timeline %d; it was %s",
                self.endpoint.name,
                address,
                place.timeline,
                place.last,
            )
            place.moves += 1
            self.progress.clear()
        place.last = place.address = address
        self.progress.note(self.looked_at, address, said)
        if moved and self.on_move is not None:
            self.on_move()
        return None

    def _leave_old_primary(self, said: Mapping[HostAddress, Said]) -> None:
        """Have the links to where the primary was taken to be closed, if that is an old one."""
        place = self.endpoint.place
        if place.address is None or place.address not in said:
            return
        ours = {address: one for address, one in said.items() if one.system == place.system}
        if said[place.address].timeline >= newest_timeline(ours, place):
            return
        place.address = None
        place.moves += 1
        self.progress.clear()
        if self.on_move is not None:
            self.on_move()

    def _remember(self, said: Mapping[HostAddress, Said]) -> None:
        """Remember the highest timeline, unless it cannot be told whose servers these are."""
        place = self.endpoint.place
        systems = {place.system} if place.system else {one.system for one in said.values()}
        if len(systems) == 1:
            (system,) = systems
            highest = max((one.timeline for one in said.values() if one.system == system), default=0)
            if highest > place.timeline:
                place.timeline = highest
                self.on_timeline(system, highest)

    def _none(self, why: str, said: Mapping[HostAddress, Said], silent: Mapping[HostAddress, ShardError]) -> ShardError:
        words = {address: error.message for address, error in silent.items()}
        detail = report(said, words, self.endpoint.addresses)
        if said:
            self._complain(f"{why} ({detail})")
        for error in silent.values():
            if error.sqlstate not in SHARD_DOWN:
                return error  # a server that has no place, or does not let us in, is not down
        sqlstate = CANNOT_CONNECT_NOW if said else UNABLE_TO_ESTABLISH_CONNECTION
        message = f'no primary of shard "{self.endpoint.name}" was found'
        fields = ErrorFields.make("ERROR", sqlstate, message, detail=f"{why}. {detail}" if said else detail)
        return ShardError(fields, self.endpoint.index, lost=True)

    def _complain(self, what: str) -> None:
        """Say once what keeps a shard from having a primary although servers answer."""
        if what and what != self._complaint:
            _log.critical("shard %s has no primary: %s", self.endpoint.name, what)
        self._complaint = what

    async def _ask_all(self) -> tuple[dict[HostAddress, Said], dict[HostAddress, ShardError]]:
        tasks = {
            spawn(self._ask(address), f"look at {address} for shard {self.endpoint.name}"): address
            for address in self.endpoint.addresses
        }
        said: dict[HostAddress, Said] = {}
        silent: dict[HostAddress, ShardError] = {}
        waiting = set(tasks)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            while waiting:
                left = deadline - asyncio.get_running_loop().time()
                ended, waiting = await asyncio.wait(
                    waiting, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                for task in ended:
                    outcome = task.result()
                    if isinstance(outcome, Said):
                        said[tasks[task]] = outcome
                        if not outcome.in_recovery and not outcome.read_only:
                            deadline = min(deadline, asyncio.get_running_loop().time() + GRACE_S)
                    else:
                        silent[tasks[task]] = outcome
                if not ended:
                    break
        finally:
            for task in waiting:
                task.cancel()
        for task in waiting:
            silent[tasks[task]] = self._failure(TimeoutError())
        return said, silent

    async def _ask(self, address: HostAddress) -> Said | ShardError:
        connection = self._connections.pop(address, None)
        try:
            if connection is None or connection.is_closed():
                self.progress.forget(address)
                connection = await lending.connect_to(self.endpoint, address, connect_timeout_s=self._timeout_s)
            outcome = await asyncio.shield(spawn(self._question(connection), f"question to {address}"))
        except FOREIGN_ERRORS as error:
            return self._failure(error)
        except asyncio.CancelledError:
            if connection is not None:
                connection.terminate()
            raise
        if isinstance(outcome, Said):
            self._connections[address] = connection
        else:
            connection.terminate()
        return outcome

    async def _question(self, connection: Any) -> Said | ShardError:
        try:
            return Said(*await connection.fetchrow(_QUESTION))
        except FOREIGN_ERRORS as error:
            return self._failure(error)
        except AttributeError as error:
            return self._failure(OSError(str(error)))  # asyncpg, when it is terminated in mid-command

    def _failure(self, error: BaseException) -> ShardError:
        return translate(error, self.endpoint.index, self.endpoint.name, connecting=True)
