"""Filling in what a statement leaves open until it runs: values that the home shard computes, and the clock.

Decides on which link home computes: the transaction's own if it has one there (it may have made the sequence itself),
else one outside of it, so that what sequences gave is on disk before a shard stores it, and home need not take part in
the commit. A transaction's time is that of the proxy's clock when it began; outside of blocks it is the statement's.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final

from proxy.description import Description
from proxy.encodings import written
from proxy.errors import ProxyError
from proxy.executor.request import Original, Request
from proxy.session.asking import asked, nothing
from proxy.session.foreseen import foresee_text
from proxy.session.literals import check_reading
from proxy.session.own_rows import own_rows
from proxy.session.unasked import marked, with_marks
from proxy.shards.errors import ShardError
from proxy.transaction import Block, ClientTransaction
from proxy.wire import backend, frontend
from router.errors import refusal
from router.keys import family, tells
from router.plan import Execution, SplitInsert
from router.plan_steps import Asked, Computed, Filled, Moment, SessionRows
from router.resolve import KeyParameter, UnresolvedKey, resolve
from router.sharding import KEY_TYPE_OIDS, PADDED, TEXT_TYPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Executable, Statement
    from router.plan_steps import Value

_TIMESTAMPTZ: Final = 1184
_BINARY, _TEXT = 1, 0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01 in microseconds of Unix time
_FIRST_OWN_OID: Final = 16384


def alone(session: Session, statement: Statement, parameters: Sequence[KeyParameter]) -> Statement | None:
    """Return the statement as one shard runs it by itself, where that is exact; None: it must be filled in."""
    plan = statement.plan
    if not isinstance(plan, Filled) or plan.alone is None or session.transaction.in_block:
        return None
    if isinstance(plan.alone, SplitInsert):
        try:
            executable = resolve(plan.alone, session.database.logical, parameters, session.recode)
        except UnresolvedKey:
            return None
        if not isinstance(executable, Execution) or len(executable.tasks) > 1:
            return None
    return replace(statement, plan=plan.alone)


async def fill_text(session: Session, statement: Statement) -> tuple[Statement, Executable, Request]:
    """Fill in a statement of the simple protocol."""
    plan = statement.plan
    assert isinstance(plan, Filled)  # noqa: S101 - narrows the type
    if statement.parameters:
        await session.database.descriptions.let_a_shard_speak(session, statement.text)  # there is no parameter $1
    own = alone(session, statement, ())
    if own is not None:
        return own, session.resolve(own), Request(text=own.text)
    fields = None
    if any(isinstance(value, Asked | SessionRows) for row in plan.values for value in row):
        # What is wrong with it, Postgres says first; and what its columns are, which lists do not tell as tables do.
        fields = (await session.database.descriptions.ask(session, statement.text, ())).fields
    _begin_for_locks(session, plan)
    values, inner = await _values(session, plan, (), statement.text, unseen=True)
    executable = session.resolve(inner, values)
    request = Request(
        text=inner.text,
        parameter_oids=tuple(value.oid for value in values),
        parameter_formats=tuple(value.format for value in values),
        parameters=tuple(value.data for value in values),
        fields=fields,
        original=Original(statement.text, 0),
    )
    return inner, executable, request


def _begin_for_locks(session: Session, plan: Filled) -> None:
    """Open a block around what is asked and the statement itself.

    Rows that a subquery locks must stay locked until the statement is done, and REPEATABLE READ has one snapshot.
    """
    keeps = session.transaction.keeps_snapshot
    asks = any(isinstance(value, Asked) and (value.locks or keeps) for row in plan.values for value in row)
    if asks and session.transaction.block is Block.NONE:
        session.begin(Block.IMPLICIT)


async def fill_bind(
    session: Session,
    prepared: PreparedStatement,
    bind: frontend.Bind,
    parameters: Sequence[KeyParameter],
    flush: Callable[[], Awaitable[None]] | None = None,
) -> tuple[PreparedStatement, frontend.Bind]:
    """Fill in a statement of the extended protocol: it becomes another statement with more parameters."""
    plan = prepared.statement.plan
    if not isinstance(plan, Filled):
        return prepared, bind
    own = alone(session, prepared.statement, parameters)
    if own is not None:
        return replace(prepared, statement=own), bind
    if any(isinstance(value, SessionRows) for row in plan.values for value in row) and flush is not None:
        await flush()
    if any(isinstance(value, Computed | Asked) for row in plan.values for value in row):
        check_reading(session, prepared)
        if flush is not None:
            await flush()
    _begin_for_locks(session, plan)
    formats = tuple(parameter.format for parameter in parameters)
    oids = prepared.description.parameter_oids
    known = [KeyParameter(*each) for each in zip(bind.parameters, formats, oids, strict=True)]
    values, inner = await _values(session, plan, known, prepared.statement.text)
    changed = _with_values(prepared, inner, [value.oid for value in values])
    filled = frontend.Bind(
        bind.portal,
        bind.statement,
        (*formats, *(value.format for value in values)),
        (*bind.parameters, *(value.data for value in values)),
        bind.result_formats,
    )
    return changed, filled


def _with_values(prepared: PreparedStatement, inner: Statement, value_oids: Sequence[int]) -> PreparedStatement:
    """Return the statement that a shard gets, whose parameters are the client's and behind them the values."""
    oids = (*prepared.description.parameter_oids, *value_oids)
    return replace(
        prepared,
        query=inner.text.encode("utf-8", "surrogateescape"),
        oids=oids,
        statement=inner,
        description=Description(oids, prepared.description.fields),
        original=Original(prepared.statement.text, len(prepared.description.parameter_oids)),
    )


def with_moments(prepared: PreparedStatement) -> tuple[PreparedStatement, tuple[Moment, ...]] | None:
    """Return what a shard gets of a statement in a block, if nothing but the clock is filled in, and which moments."""
    plan = prepared.statement.plan
    if not isinstance(plan, Filled):
        return prepared, ()
    values = [value for row in plan.values for value in row]
    moments = tuple(value for value in values if isinstance(value, Moment))
    if len(moments) != len(values):
        return None
    return _with_values(prepared, plan.inner, [_TIMESTAMPTZ] * len(moments)), moments


def moment_values(session: Session, moments: Sequence[Moment]) -> list[bytes]:
    """Return moments as parameters in binary format."""
    return [_moment_bytes(session, moment) for moment in moments]


async def _values(
    session: Session,
    plan: Filled,
    known: Sequence[KeyParameter],
    text: str,
    *,
    unseen: bool = False,
) -> tuple[list[KeyParameter], Statement]:
    """Return the values of a plan in order, and the statement that takes them.

    ``known``: the client's parameters; ``text``: the client's statement; ``unseen``: no shard has seen it.
    """
    rows = [[value for value in row if isinstance(value, Computed)] for row in plan.values]
    texts = [tuple(value.text for value in row) for row in rows if row]
    found_values = await compute(session, texts, known) if texts else []
    shown = text if unseen else ""
    computed = iter(await _keys_assigned(session, [value for row in rows for value in row], found_values, shown))
    found: list[KeyParameter] = []
    marks: dict[int, str] = {}
    for row in plan.values:
        before = [*known, *found]  # a subquery may use what was filled in before it
        for value in row:
            if isinstance(value, SessionRows):
                found.append(await own_rows(session, value.view))
            elif isinstance(value, Asked):
                try:
                    found += await asked(session, value, before)
                except (ShardError, ProxyError) as error:
                    marks[len(known) + len(found) + 1] = marked(session, value, error)
                    await foresee_text(session, text, known)
                    found.append(await nothing(session, value, before))
            else:
                found.append(moment_parameter(session, value) if isinstance(value, Moment) else next(computed))
    inner = with_marks(session, plan.inner, marks, [*known, *found]) if marks else plan.inner
    return found, inner


async def _keys_assigned(
    session: Session, computed: Sequence[Computed], found: list[KeyParameter], shown: str
) -> list[KeyParameter]:
    """Return computed values, of which sharding keys are what their columns store."""
    odd = [
        at
        for at, (value, had) in enumerate(zip(computed, found, strict=True))
        if value.key and not becomes_key(had.oid, value.key)
    ]
    if odd and shown:
        await session.database.descriptions.let_a_shard_speak(
            session, shown
        )  # not every type is assigned to every other
    for key_type, places in groupby(odd, lambda at: computed[at].key):
        at = list(places)
        for place, value in zip(at, await assigned(session, [found[n] for n in at], key_type), strict=True):
            found[place] = value
    return found


async def computed_rows(session: Session, values: Sequence[Value], count: int) -> list[list[KeyParameter]]:
    """Return ``count`` rows of values, each computed anew."""
    texts = tuple(value.text for value in values if isinstance(value, Computed))
    computed = iter(await compute(session, [texts] * count) if texts else ())
    return [
        [moment_parameter(session, value) if isinstance(value, Moment) else next(computed) for value in values]
        for _ in range(count)
    ]


def moment_parameter(session: Session, moment: Moment) -> KeyParameter:
    """Return a moment as a parameter."""
    return KeyParameter(_moment_bytes(session, moment), _BINARY, _TIMESTAMPTZ)


def _moment_bytes(session: Session, moment: Moment) -> bytes:
    now_us = session.began_at_us
    if moment is not Moment.TRANSACTION or not session.transaction.in_block:
        now_us = time.time_ns() // 1000
    return (now_us - _EPOCH_US).to_bytes(8, "big", signed=True)


def moment_literal(session: Session, moment: Moment) -> bytes:
    """Return a moment as an expression, for a text that goes out as a simple query."""
    now_us = session.began_at_us
    if moment is not Moment.TRANSACTION or not session.transaction.in_block:
        now_us = time.time_ns() // 1000
    text = (_EPOCH + timedelta(microseconds=now_us)).isoformat(" ")
    return b"('" + text.encode() + b"'::pg_catalog.timestamptz)"  # ISO 8601 is read alike under any DateStyle


async def compute(
    session: Session, rows: Sequence[tuple[str, ...]], known: Sequence[KeyParameter] = (), result_format: int = _TEXT
) -> list[KeyParameter]:
    """Let home compute rows of expressions, in order; equal rows that follow each other are one query.

    ``known``: the parameters that they may use.
    """
    return await ask_home(session, packet_of(session, rows, known, result_format))


def becomes_key(oid: int, key_type: str) -> bool:
    """Whether a value of a type is hashed like the key that it becomes by assignment."""
    sent = KEY_TYPE_OIDS.get(oid, "")
    return tells(family(sent), family(key_type)) or (sent == PADDED and key_type in TEXT_TYPES)


async def assigned(session: Session, values: Sequence[KeyParameter], key_type: str) -> list[KeyParameter]:
    """Return what values of other types become where they are assigned to a key, by home's word.

    Requires that Postgres has seen the assignment: an explicit cast takes more than one does, and gives the same. What
    a length cuts off is left to whoever looks for the shard. Values of users' types stay as they are.
    """
    found = list(values)
    packet = b""
    at = [number for number, value in enumerate(values) if 0 < value.oid < _FIRST_OWN_OID]
    for oid, numbers in groupby(at, lambda number: values[number].oid):
        packet += frontend.Parse(b"", f"SELECT $1::pg_catalog.{key_type}".encode(), (oid,)).encode()
        packet += frontend.Describe(b"S", b"").encode()
        for number in numbers:
            packet += frontend.Bind(b"", b"", (values[number].format,), (values[number].data,), ()).encode()
            packet += frontend.Execute(b"", 0).encode()
    if packet:
        for number, value in zip(at, await ask_home(session, packet + frontend.Sync().encode()), strict=True):
            found[number] = value
    return found


async def ask_home(session: Session, packet: bytes) -> list[KeyParameter]:
    """Return the values that home's answer to a packet has: on the transaction's link if it has one, or beside it."""
    home, transaction = session.database.logical.home, session.transaction
    if home in transaction.links or (transaction.in_block and transaction.settings_changed):
        links = await transaction.join([home], writes=True)
        return await collect(links[home], packet)
    beside = ClientTransaction(session.database, session.role, session.settings, transaction.shard_count)
    try:
        links = await beside.join([home], writes=False)
        return await collect(links[home], packet)
    finally:
        beside.finish_statement()


def packet_of(
    session: Session, rows: Sequence[tuple[str, ...]], known: Sequence[KeyParameter], result_format: int
) -> bytes:
    """Return the messages that compute rows of expressions."""
    codec = session.encoding.codec
    packet = b""
    for texts, group in groupby(rows):
        count = len(list(group))
        query = "SELECT " + ", ".join(texts)
        if count > 1:
            query += f" FROM pg_catalog.generate_series(1, {count})"
        used = known if any("$" in text for text in texts) else ()
        oids, formats = tuple(value.oid for value in used), tuple(value.format for value in used)
        packet += frontend.Parse(b"", written(query, codec), oids).encode()
        packet += frontend.Bind(b"", b"", formats, tuple(value.data for value in used), (result_format,)).encode()
        packet += frontend.Describe(b"P", b"").encode() + frontend.Execute(b"", 0).encode()
    return packet + frontend.Sync().encode()


async def collect(link: ShardLink, packet: bytes) -> list[KeyParameter]:
    """Return the values that :func:`packet_of` asks for; raises the error of a shard, or of a type of users."""
    found: list[KeyParameter] = []
    oids: list[int] = []
    format_ = _TEXT
    failure: ShardError | None = None
    for kind, body in await link.collect(packet):
        if kind == backend.ERROR_RESPONSE:
            # A place in our own text means nothing to the client.
            failure = ShardError(backend.decode_error(body).replace(P=None, W=None), link.shard)
        elif kind == backend.ROW_DESCRIPTION:
            fields = backend.decode_row_description(body)
            oids, format_ = [field.type_oid for field in fields], fields[0].format
            if any(oid >= _FIRST_OWN_OID for oid in oids):
                raise refusal("computed-type")
        elif kind == backend.DATA_ROW:
            row = backend.decode_data_row(body)
            found += [KeyParameter(value, format_, oid) for value, oid in zip(row, oids, strict=True)]
    if failure is not None:
        raise failure
    return found
