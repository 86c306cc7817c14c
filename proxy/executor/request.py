"""The words that the session and the executor have in common.

``Request`` is what the client asked for at Bind, ``Links`` where shard links come from, ``Frontend`` where rows go,
``Limits`` what an execution may hold in memory, ``ResultStream`` the rows of one statement as they come out of all its
shards. ``send`` writes a result out with back-pressure.

Nothing here writes ReadyForQuery, ParseComplete, BindComplete or ErrorResponse: those are the session's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from proxy.errors import ProxyError
from proxy.executor.tags import counted
from proxy.wire import backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from proxy.executor.copy_fill import Values
    from proxy.executor.failure import CombineFailure
    from proxy.executor.scratch import Scratch
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field


MORE_PATIENCE = 3  # tries under the fence before one waits as long as the fence lets it


class Frontend(Protocol):
    """The client's side of the wire."""

    def write(self, data: bytes) -> None:
        """Queue whole messages for the client."""

    async def drain(self) -> None:
        """Return when the client's buffer is below its mark; raises when the client is gone."""

    @property
    def writable(self) -> bool:
        """Whether ``drain`` would return at once."""

    def when_writable(self, then: Callable[[], None]) -> None:
        """Call ``then`` once when the client reads again, or is gone; only where it is not writable."""


class Client(Frontend, Protocol):
    """The client's connection as COPY FROM STDIN needs it: it reads from it as well."""

    async def receive_many(self) -> list[tuple[int, bytes]]:
        """Return the messages that have arrived, at least one: (type byte, body). Being cancelled loses none."""

    def push_back(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Return messages that belong to somebody else, to the front."""


class Links(Protocol):
    """Where the links of a statement come from: the client's transaction."""

    async def join(self, shards: Sequence[int], *, writes: bool) -> Mapping[int, ShardLink]:
        """Return a link for each shard, brought into the transaction by what is prefixed to its next exchange."""


@dataclass(frozen=True, slots=True)
class Original:
    """A statement as the client wrote it, where values were filled in; its parameters are the first so many."""

    text: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Request:
    """A statement as the client bound it.

    ``text`` is the original text, used where a task has none of its own. The parameter fields are the client's Bind,
    unchanged; ``parameter_oids`` are explicit types (0: the shard infers it). ``result_formats`` counts as in Bind:
    none is all text, one is for all columns. ``describe_rows``: RowDescription goes to the client before the rows
    (simple protocol). ``encoding`` is the Python codec of the client's ``client_encoding``, in which texts go to the
    shards; ``extra_float_digits`` is the session's setting, for floats whose text is made here. ``fields`` are the
    columns as a shard describes them for ``text``: only gathered statements need them. ``original``: None where
    nothing was filled in.
    """

    text: str
    parameter_oids: tuple[int, ...] = ()
    parameter_formats: tuple[int, ...] = ()
    parameters: tuple[bytes | None, ...] = ()
    result_formats: tuple[int, ...] = ()
    describe_rows: bool = True
    encoding: str = "utf-8"
    extra_float_digits: int = 1
    fields: tuple[Field, ...] | None = None
    original: Original | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may hold. Named in the configuration as ``merge.<field>``."""

    max_rows: int = 1_000_000  # groups of an aggregate held at once
    max_bytes: int = 256 << 20  # their values
    max_buffer_bytes: int = 1 << 20  # answers read ahead from one link before it is paused
    max_parked_bytes: int = 64 << 20  # rows of suspended portals kept so that their links are free


@dataclass(frozen=True, slots=True)
class Fence:
    """What surrounds the snapshot of a multi-shard read (proxy.twophase.fence); nothing is executed if either raises.

    ``before_bind`` is awaited between Parse and Bind on all shards (takes the fence), ``barrier`` between Bind and
    Execute (gives it back, or finds that it was lost).

    A Bind may wait for locks that Parse does not take (partitions, indexes, the tables of inlined functions), behind
    DDL whose own commit waits for the fence. So whoever has not bound within ``patience_s`` awaits ``let_go``, waits
    without the fence, and then, having its locks, takes a new fence and binds again, with more patience each time.
    """

    before_bind: Callable[[], Awaitable[None]] | None = None
    barrier: Callable[[], Awaitable[None]] | None = None
    let_go: Callable[[], Awaitable[None]] | None = None
    patience_s: float = 0.05

    def patience(self) -> Iterator[float | None]:
        """Yield how long to wait for the snapshots, try by try; None: until the fence itself ends it."""
        if self.let_go is not None:
            yield from (self.patience_s * 4**attempt for attempt in range(MORE_PATIENCE))
        while True:
            yield None


@dataclass(frozen=True, slots=True)
class Environment:
    """What surrounds an execution.

    ``client`` gets the notices of shards as well, which wait for it as rows do. ``cancel_others``: when one shard
    fails, the others are cancelled instead of waited for; their part of the transaction fails as well.
    ``server_version`` is the major version of the shards (for what COPY's formats mean). ``scratch`` lends a link for
    gathered statements, and ``gather_max_bytes`` bounds the rows that are loaded for one of them. ``copy_values`` is
    where a COPY's values for columns that the client leaves out come from.
    """

    client: Client
    limits: Limits = Limits()
    fence: Fence | None = None
    cancel_others: bool = False
    server_version: int = 18
    scratch: Callable[[], Awaitable[Scratch]] | None = None
    gather_max_bytes: int = 256 << 20
    copy_values: Values | None = None


class RowBatch(NamedTuple):
    """Some rows: ``frames`` are encoded DataRow messages, one or more in each item, ``rows`` of them in all.

    ``done``: these were the last rows and ``tag`` is known. A batch that is not done has at least one row. Of a result
    that is read without a limit from its beginning on, ``rows`` may be 0 until the last batch, which has all of them.
    """

    frames: list[bytes]
    rows: int
    done: bool


class ResultStream(Protocol):
    """One statement's answer, pulled by its reader. The statement is over when a batch says ``done``.

    Whoever holds a result reads it to the end or calls ``close``; until then its links are in the middle of an
    exchange.
    """

    @property
    def row_description(self) -> tuple[Field, ...] | None:
        """The visible columns with the client's formats; None when the statement returns no rows."""

    @property
    def tag(self) -> bytes:
        """The command tag, once a batch was ``done``; its row count is that of the whole statement."""

    async def next_rows(self, max_rows: int = 0) -> RowBatch:
        """Return at most ``max_rows`` rows (0: no limit), as many as are at hand, waiting until there is one.

        Raises ShardError when a shard failed (after all links are back at ReadyForQuery), ProxyError when answers do
        not fit.
        """

    async def park(self) -> None:
        """Read what is left into memory, so that the links are free for other statements.

        ProxyError 53400 if too much.
        """

    async def close(self) -> None:
        """Give up what is left: drains the links. Harmless when the result is done or closed already."""


async def send(result: ResultStream, frontend: Frontend, *, max_rows: int = 0) -> bool:
    """Write rows and then CommandComplete (returns True) or, after ``max_rows`` of them, PortalSuspended (False).

    What is suspended is parked: another statement may want the shards.
    RowDescription is not written here. As in Postgres a portal is suspended when the limit was reached, also when no
    row is left, and the tag counts the rows of this Execute alone. Errors close the result first.
    """
    sent = 0
    try:
        while True:
            batch = await result.next_rows(max_rows - sent if max_rows else 0)
            sent += batch.rows
            if batch.frames:
                frontend.write(b"".join(batch.frames) if len(batch.frames) > 1 else batch.frames[0])
            if max_rows and sent == max_rows:
                await result.park()  # may find an error, behind which nothing is suspended
                frontend.write(backend.portal_suspended())
                return False
            if batch.done:
                tag = result.tag if result.row_description is None else counted(result.tag, sent)
                frontend.write(backend.command_complete(tag))
                return True
            await frontend.drain()
    except BaseException:
        await result.close()
        raise


def proxy_error(failure: CombineFailure) -> ProxyError:
    """Translate a failure of the pure parts."""
    return ProxyError(
        failure.sqlstate, failure.message, detail=failure.detail, hint=failure.hint, context=failure.context
    )
