"""SQL cursors over several shards: DECLARE, FETCH, MOVE and CLOSE, forwards.

Decides what a client's names and directions mean, and when a cursor ends: with its transaction, with the savepoint in
which it was declared, by CLOSE. Cursors that one shard has are relayed (``control``); how rows are read is
proxy.executor.cursor's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from proxy.errors import ProxyError
from proxy.executor.cursor import open_cursor
from proxy.session.declared import taken
from proxy.session.own_rows import moment
from proxy.session.prepared import with_format
from proxy.session.run import FENCE_RETRIES, CommonSnapshot, reads_several, settle_before, shards_of
from proxy.twophase.fence import FenceLostError
from proxy.wire import backend
from router.errors import refusal
from router.plan import AtCursor, AtShard, Execution, Single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.executor.cursor import SpreadCursor
    from proxy.executor.request import Request
    from proxy.links import Replay
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from router.plan import DeclareSpread, Executable, Plan
    from router.plan_control import CursorControl

_BINARY_FORMAT = (1,)


@dataclass(slots=True)
class OpenCursor:
    """A cursor over several shards. ``on_shards``: its name there; ``inside``: the savepoints it was declared in.

    ``row``: the DataRow that it stands on; None before the first one and after the last.
    """

    on_shards: str
    cursor: SpreadCursor
    links: tuple[ShardLink, ...]
    fields: tuple[Field, ...] | None
    binary: bool
    inside: tuple[Replay, ...]
    no_scroll: bool
    text: str  # of the message with its DECLARE
    made_at_us: int
    done: bool = False
    row: bytes | None = None

    def shown(self, name: str) -> dict[str, Any]:
        """Return its row of pg_cursors."""
        made = moment(self.made_at_us)
        flags = {"is_holdable": False, "is_binary": self.binary, "is_scrollable": False}
        return {"name": name, "statement": self.text, "creation_time": made, **flags}

    def described(self) -> bytes:
        """Return what Describe of the portal answers."""
        if self.fields is None:
            return backend.no_data()
        code = 1 if self.binary else 0
        return backend.row_description([with_format(field, code) for field in self.fields])


def is_inside(savepoints: Sequence[Replay], rolled_back: Replay) -> bool:
    """Whether a savepoint is among these; that very one: one inside another may have its name and say the same."""
    return any(savepoint is rolled_back for savepoint in savepoints)


class OpenCursors:
    """One session's cursors over several shards, by the client's names."""

    def __init__(self) -> None:
        self._open: dict[str, OpenCursor] = {}
        self._made = 0

    def get(self, name: str) -> OpenCursor | None:
        """Return a cursor, None if there is none of this name over several shards."""
        return self._open.get(name)

    def items(self) -> Iterable[tuple[str, OpenCursor]]:
        """Return all of them with their names."""
        return self._open.items()

    def __bool__(self) -> bool:
        return bool(self._open)

    def check(self, name: str) -> None:
        """Raise what Postgres says when a new cursor or portal has the name of one of these."""
        if name in self._open:
            raise taken(name)

    async def declare(
        self, session: Session, plan: DeclareSpread, executable: Executable, request: Request, text: str
    ) -> bytes:
        """DECLARE, of which this is the text: the snapshot is taken now."""
        name = plan.name
        if name in session.cursors or name.encode() in session.portals:
            raise taken(name)
        self.check(name)
        if not session.transaction.in_block:
            raise ProxyError("25P01", "DECLARE CURSOR can only be used in transaction blocks")
        if not isinstance(executable, Execution) or executable.writes:
            raise refusal("cursor-query")
        request = replace(request, encoding=session.encoding.codec)
        if not reads_several(session, executable):
            await settle_before(session, shards_of(executable))
        self._made += 1
        on_shards = f"pgchorus_cursor_{self._made}"
        cursor = await _open(session, on_shards, executable, request)
        transaction = session.transaction
        links = tuple(transaction.links[shard] for shard in shards_of(executable))
        fields = await _fields(session, plan.text, request)
        self._open[name] = OpenCursor(
            on_shards, cursor, links, fields, plan.binary, transaction.savepoints, plan.no_scroll,
            session.message or text, time.time_ns() // 1000,
        )  # fmt: skip
        return backend.command_complete(b"DECLARE CURSOR")

    async def fetch(  # noqa: PLR0913 - what a portal is
        self,
        session: Session,
        plan: CursorControl,
        found: OpenCursor,
        *,
        describe: bool,
        formats: tuple[int, ...],
        keep: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """FETCH and MOVE, forwards; rows are written to the client, or given to ``keep``."""
        skip, count = _forwards(plan)
        if found.no_scroll and found.row is not None and not (count or plan.move):
            raise ProxyError(
                "55000",
                "cursor can only scan forward",
                hint="Declare it with SCROLL option to enable backward scan.",
            )
        write = session.write if keep is None else keep
        if describe:
            formats = _BINARY_FORMAT if found.binary else ()
        result = await found.cursor.result(formats)
        if describe and not plan.move and result.row_description is not None:
            write(backend.row_description(result.row_description))
        if not count:
            given = _again(write, plan, found)
            await found.cursor.settle()
            return backend.command_complete(b"%s %d" % (b"MOVE" if plan.move else b"FETCH", given))
        passed = 0
        wanted = skip + count
        while passed < wanted and not found.done:
            most = skip - passed if passed < skip else wanted - passed
            batch = await result.next_rows(min(most, 1 << 31))
            if not plan.move and passed >= skip:
                for frames in batch.frames:
                    write(frames)
            if batch.rows:
                found.row = _last_row(batch.frames[-1])
            passed += batch.rows
            found.done = batch.done
            await session.connection.drain()
        if passed < wanted:
            found.row = None
        await found.cursor.settle()
        given = max(passed - skip, 0)
        return backend.command_complete(b"%s %d" % (b"MOVE" if plan.move else b"FETCH", given))

    async def close(self, session: Session, name: str) -> bytes:
        """CLOSE."""
        found = self._open.pop(name)
        await _close(found.links, found.on_shards)
        session.transaction.finish_statement()
        return backend.command_complete(b"CLOSE CURSOR")

    async def close_all(self, session: Session) -> None:
        """CLOSE ALL."""
        for name in list(self._open):
            await self.close(session, name)

    def ended(self) -> None:
        """The transaction has ended, and the cursors on the shards with it."""
        self._open.clear()

    def rolled_back_to(self, savepoint: Replay) -> None:
        """What was declared inside a savepoint is gone when that is rolled back."""
        self._open = {name: found for name, found in self._open.items() if not is_inside(found.inside, savepoint)}


def located(session: Session, plan: Plan) -> Plan:
    """Return a plan with the shard of the cursor that its WHERE CURRENT OF names."""
    if not isinstance(plan, Single) or not isinstance(plan.target, AtCursor):
        return plan
    name = plan.target.name
    if session.spread_cursors.get(name) is not None:
        raise refusal("where-current-of")
    return replace(plan, target=AtShard(session.cursor_shard(name)))


async def _open(session: Session, on_shards: str, execution: Execution, request: Request) -> SpreadCursor:
    attempts = FENCE_RETRIES if reads_several(session, execution) else 0
    while True:
        snapshot = CommonSnapshot(session, shards_of(execution)) if attempts else None
        try:
            return await open_cursor(on_shards, execution, request, session.transaction, session.environment(snapshot))
        except FenceLostError:
            attempts -= 1
            if attempts <= 0:
                raise
            # Nobody has read anything: they are declared anew behind the next fence.
            links = [session.transaction.links[shard] for shard in shards_of(execution)]
            await _close(links, on_shards)
        finally:
            if snapshot is not None:
                await snapshot.end()


async def _close(links: Iterable[ShardLink], on_shards: str) -> None:
    for link in links:
        if link.closed:
            raise ProxyError("08006", f"the connection to shard {link.name} was lost in this transaction")
        await link.run(f"CLOSE {on_shards}")


async def _fields(session: Session, text: str, request: Request) -> tuple[Field, ...] | None:
    description = await session.database.descriptions.ask(session, text, request.parameter_oids)
    return description.fields


def _again(write: Callable[[bytes], None], plan: CursorControl, found: OpenCursor) -> int:
    """FETCH 0 and MOVE 0: the row that the cursor stands on, which it does not leave."""
    if found.row is None:
        return 0
    if not plan.move:
        write(found.row)
    return 1


def _last_row(rows: bytes) -> bytes:
    """Return the last one of some DataRow messages: each has its length behind its kind."""
    at = start = 0
    while at < len(rows):
        start, at = at, at + 1 + int.from_bytes(rows[at + 1 : at + 5], "big")
    return bytes(rows[start:])


def _forwards(plan: CursorControl) -> tuple[int, int]:
    """Return how many rows to skip and then how many to give (0: the current one); raises for other directions."""
    if plan.forward and plan.count >= 0:
        return 0, plan.count
    if plan.relative and not plan.count:
        return 0, 0
    if plan.relative and plan.count > 0:
        return plan.count - 1, 1
    raise refusal("cursor-direction")
