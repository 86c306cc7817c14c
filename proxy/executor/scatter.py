"""The same moment of one statement on several shards: start it everywhere, wait, end it everywhere.

``Scatter`` decides what goes into each shard's packet, waits until all shards have described their rows and compares
the descriptions, and brings every link back to ReadyForQuery whatever happened. How rows become one answer is for
results.py.

All tasks use the extended protocol on the unnamed statement and portal, because only Bind can ask for binary columns
beside text ones. Usually everything goes out in one packet, ``Parse Bind Describe Execute Sync``. With a fence there
are three (see proxy/twophase/README.md)::

    Parse Flush            then ``before_bind``: the fence is taken
    Bind Describe Flush    a plain SELECT's snapshot is taken at Bind; then ``barrier``: the fence is given back
    Execute Sync

A Bind that waits for somebody's lock does not do so behind the fence: it ends without, and the second step comes again
(the unnamed portal is replaced).

Whatever fails on the way, each link is sent the Sync that it is still owed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, Final, NoReturn, ParamSpec, TypeVar

from proxy.encodings import written
from proxy.errors import INTERNAL_ERROR, ProxyError
from proxy.executor.home_alone import is_lacking, told_of
from proxy.executor.shard_stream import ShardStream
from proxy.shards.errors import ShardError
from proxy.turns import beside
from proxy.wire.frontend import Bind, Describe, Execute, Flush, Parse, Sync
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.executor.request import Fence, Frontend, Request
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from router.plan import Task
    from router.plan_steps import Bound

_MANY_PARAMETERS: Final = 2048  # of which each costs a part of a microsecond to encode, for each shard
_PARSED_FIRST = Flush().encode()
_TAIL = Execute(b"", 0).encode() + Sync().encode()
_SYNC = Sync().encode()
_TEXT = 0
_FIRST_OWN_OID = 16384  # of types that users have made


Given = ParamSpec("Given")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True, slots=True)
class Options:
    """How a scatter behaves; see ``request.Environment``.

    ``notices_from_all``: False takes them from the first shard only. (The same work everywhere gives the same notices,
    and a client of one Postgres sees them once.) ``same_columns``: False lets shards differ in what they call types.
    ``defines``: it is a definition, of which the home shard has the word, see :mod:`proxy.executor.home_alone`: that is
    the first one, if not ``home_is_over`` by now.
    ``rows_first``: rows that a shard has sent before its error go out before it, as Postgres sends those of a query.
    """

    high_water_bytes: int = 1 << 20
    cancel_others: bool = False
    client: Frontend | None = None  # who hears notices
    notices_from_all: bool = True
    same_columns: bool = True
    defines: bool = False
    home_is_over: bool = False
    rows_first: bool = False
    fence: Fence | None = None


class Scatter:
    """One statement in progress on the links of its tasks. ``streams`` are in the order of the tasks.

    Made by :meth:`start`; ended by :meth:`finish`, which is safe to call at any time and more than once.
    """

    def __init__(self, tasks: Sequence[Task], links: Mapping[int, ShardLink], options: Options) -> None:
        self.tasks = tuple(tasks)
        self.options = options
        self._wake = asyncio.Event()
        self._unsynced: set[int] = set()  # positions of streams whose exchange still waits for our Sync
        self._failure: ShardError | None = None
        self.streams = [
            ShardStream(
                links[task.shard],
                self._wake,
                high_water_bytes=options.high_water_bytes,
                client=options.client if options.notices_from_all or not position else None,
            )
            for position, task in enumerate(tasks)
        ]

    @classmethod
    async def start(
        cls,
        tasks: Sequence[Task],
        request: Request,
        formats: tuple[int, ...],
        links: Mapping[int, ShardLink],
        options: Options,
    ) -> Scatter:
        """Send the statement everywhere and return once every shard has described its rows.

        Raises ShardError (all links at ReadyForQuery again) or Refused when the descriptions differ.
        """
        self = cls(tasks, links, options)
        try:
            if options.fence is None:
                self._send_all(await _worked_out(_packets, request, formats, self.tasks))
            else:
                await self._send_in_steps(request, formats, options.fence)
            # An error behind a description comes when the rows before it have been read.
            first = options.rows_first
            await self.until(lambda: all(stream.knows_columns for stream in self.streams), rows_first=first)
            if options.same_columns:
                self._compare_descriptions()
        except BaseException:
            await self.finish()
            raise
        return self

    # --- sending ----------------------------------------------------------------------------------------------

    def _send_all(self, packets: Sequence[bytes]) -> None:
        for packet, stream in zip(packets, self.streams, strict=True):
            self._exchange(stream, packet)

    async def _send_in_steps(self, request: Request, formats: tuple[int, ...], fence: Fence) -> None:
        for position, (task, stream) in enumerate(zip(self.tasks, self.streams, strict=True)):
            self._unsynced.add(position)
            self._exchange(stream, _parse(request, task) + _PARSED_FIRST)
        await self.until(lambda: all(stream.parsed for stream in self.streams))
        bind = await _worked_out(_bind, request, formats)
        await self._bind_at_one_moment(bind + _PARSED_FIRST, fence)
        if fence.barrier is not None:
            await fence.barrier()
        for stream in self.streams:
            stream.link.write(_TAIL)
        self._unsynced.clear()

    async def _bind_at_one_moment(self, bind: bytes, fence: Fence) -> None:
        for patience_s in fence.patience():
            if fence.before_bind is not None:
                await fence.before_bind()
            for stream in self.streams:
                stream.bind_again()
                stream.link.write(bind)
            if await self._described_within(patience_s):
                return
            if fence.let_go is not None:
                await fence.let_go()
            await self._described_within(None)

    async def _described_within(self, seconds: float | None) -> bool:
        """Wait until all shards have described their rows; False when that takes longer."""
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            self._wake.set()

        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, expire)
        try:
            await self.until(lambda: expired or all(stream.described for stream in self.streams))
        finally:
            if timer is not None:
                timer.cancel()
        return all(stream.described for stream in self.streams)

    def _exchange(self, stream: ShardStream, data: bytes) -> None:
        stream.over = False
        try:
            stream.link.exchange(data, stream)
        except ShardError as error:
            stream.lost(error)
        except BaseException:
            stream.over = True
            raise

    # --- waiting ----------------------------------------------------------------------------------------------

    async def until(self, ready: Callable[[], bool], *, rows_first: bool = False) -> None:
        """Wait until ``ready``; raises the first error of any shard, after all links are back.

        ``rows_first``: not if it is ready all the same, nor while rows of that shard are at hand.
        Being cancelled closes links that are in the middle of an exchange: nobody would wait for its end.
        """
        while True:
            if rows_first and ready():
                return
            failure = self._failure
            if failure is None:
                failed = (stream for stream in self.streams if stream.error is not None)
                failure = next((stream.error for stream in failed if not (rows_first and stream.has_rows)), None)
            if failure is not None:
                await self._end_with(failure)
            if ready():
                return
            self._wake.clear()
            try:
                await self._wake.wait()
            except asyncio.CancelledError:
                self._abort()
                raise

    async def _end_with(self, failure: ShardError) -> NoReturn:
        """Bring all links back, and raise an error; of a definition, home says whether it is the client's fault."""
        defined = self.options.defines and is_lacking(failure)
        home = self.streams[0]
        try:
            while defined and not (self.options.home_is_over or home.over):
                self._wake.clear()
                await self._wake.wait()
        except asyncio.CancelledError:
            self._abort()
            raise
        if defined and not self.options.home_is_over and home.error is not None:
            failure, defined = home.error, False
        self._failure = failure
        await self.finish()
        raise told_of(failure) if defined else failure

    def _compare_descriptions(self) -> None:
        first = self.streams[0]
        for stream in self.streams[1:]:
            if not same_columns(first.fields, stream.fields):
                detail = f"{_shown(first.fields)} against {_shown(stream.fields)}."
                raise refusal("different-columns", detail=detail, one=first.link.name, other=stream.link.name)

    # --- ending -----------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether every link is back at ReadyForQuery (or gone)."""
        return all(stream.over for stream in self.streams)

    def tags(self) -> list[bytes]:
        """Return the tags of all shards; they are known when :attr:`over`, if no error came."""
        tags = []
        for stream in self.streams:
            if stream.tag is None:
                raise ProxyError(INTERNAL_ERROR, f"shard {stream.link.name} ended a statement without a command tag")
            tags.append(stream.tag)
        return tags

    async def finish(self) -> None:
        """Throw away what is left and bring every link back to ReadyForQuery.

        If the waiting is cancelled, links that are still in the middle of a message are closed: they cannot be reused.
        """
        for position in self._unsynced:
            stream = self.streams[position]
            if not stream.over and not stream.link.closed:
                stream.link.write(_SYNC)
        self._unsynced.clear()
        for stream in self.streams:
            stream.discard()
        try:
            if self.options.cancel_others and self._failure is not None:
                running = [stream.link for stream in self.streams if not stream.over]
                await asyncio.gather(*(link.cancel() for link in running))
            while not self.over:
                self._wake.clear()
                await self._wake.wait()
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        for stream in self.streams:
            if not stream.over:
                stream.link.abort()


async def _worked_out(
    encode: Callable[Concatenate[Request, tuple[int, ...], Given], Encoded],
    request: Request,
    formats: tuple[int, ...],
    *given: Given.args,
    **named: Given.kwargs,
) -> Encoded:
    """Encode messages; those of many parameters beside the loop."""
    if len(request.parameters) > _MANY_PARAMETERS:
        return await beside(encode, request, formats, *given, **named)
    return encode(request, formats, *given, **named)


def _packets(request: Request, formats: tuple[int, ...], tasks: Sequence[Task]) -> list[bytes]:
    """Return for each task all that its link is sent."""
    bind = _bind(request, formats) + _TAIL
    return [
        _parse(request, task) + (bind if task.bound is None else _bind(request, formats, task.bound) + _TAIL)
        for task in tasks
    ]


def _parse(request: Request, task: Task) -> bytes:
    text = request.text if task.text is None else task.text
    oids = request.parameter_oids if task.bound is None else task.bound.oids
    return Parse(b"", written(text, request.encoding), oids).encode()


def _bind(request: Request, formats: tuple[int, ...], bound: Bound | None = None) -> bytes:
    if bound is not None:
        bind = Bind(b"", b"", bound.formats, bound.parameters, formats)
    else:
        bind = Bind(b"", b"", request.parameter_formats, request.parameters, formats)
    return bind.encode() + Describe(b"P", b"").encode()


def same_columns(one: tuple[Field, ...] | None, other: tuple[Field, ...] | None) -> bool:
    """Compare what a client can tell apart: OIDs of tables differ between servers and do not count.

    Nor do OIDs of user-defined types in text, which has none in it: the client is told the first shard's.
    """
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        (f.name, f.type_size, f.format) == (g.name, g.type_size, g.format)
        and (f.type_oid == g.type_oid or (f.format == _TEXT and min(f.type_oid, g.type_oid) >= _FIRST_OWN_OID))
        for f, g in zip(one, other, strict=True)
    )


def _shown(fields: tuple[Field, ...] | None) -> str:
    if fields is None:
        return "No rows"
    columns = ", ".join(f"{field.name.decode('utf-8', 'replace')} (type {field.type_oid})" for field in fields)
    return f"Columns {columns}"
