"""From a text to a prepared statement, and from EXECUTE's values to an answer.

Shared by the protocol's Parse and by SQL's PREPARE.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.description import Description
from proxy.errors import ProxyError
from proxy.executor.request import Request
from proxy.isolation import WITHOUT_SNAPSHOT
from proxy.session import explaining, fetching, own_settings, planning
from proxy.session.altering import changed_rows, check_rows
from proxy.session.cursors import located
from proxy.session.defining import has_news
from proxy.session.encoded import check_change, sets_encoding
from proxy.session.executed import CONTROL
from proxy.session.filling import fill_bind
from proxy.session.following import before_set_config, follow_set_config
from proxy.session.literals import check_reading, has_changed, parse_as_then, reading
from proxy.session.moments import as_then, note_moment
from proxy.session.named import find_statement
from proxy.session.outcome import Reported
from proxy.session.own_settings import OWN_PREFIX
from proxy.session.parameters import read_first
from proxy.session.parse_locks import keep_open, locks, rests
from proxy.session.prepared import UNCOMMITTED, Portal, PreparedStatement, ensure_parsed, in_encoding, same_rows
from proxy.session.relay import BIND_ENDS, DESCRIBE_ENDS, EXECUTE_ENDS, Relay, Step
from proxy.session.relayed import relayed_shard
from proxy.session.run import run_parted, settle_before, writes_of
from proxy.session.session import FAILED_BLOCK
from proxy.shards.errors import ShardError
from proxy.turns import beside
from proxy.wire import backend, frontend
from proxy.wire.frames import frame
from router.errors import Refused, SyntaxFailure, refusal
from router.plan import Empty, ExplainRoute, ExplainShards, Statement
from router.plan_control import (
    Control,
    CursorControl,
    Prepared,
    PreparedControl,
    Setting,
    SettingControl,
    TransactionControl,
)
from router.plan_steps import Filled
from router.resolve import KeyParameter, UnresolvedKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Executable

_UNKNOWN_OID = 705
_NOT_ANALYZED = (TransactionControl, SettingControl, PreparedControl, CursorControl, Empty)
_ENDS_FAILURE = frozenset({Control.COMMIT, Control.ROLLBACK, Control.ROLLBACK_TO})


def key_parameters(bind: frontend.Bind, prepared: PreparedStatement) -> list[KeyParameter]:
    """Return (value, format, type OID) of each parameter."""
    formats = bind.parameter_formats
    count = len(bind.parameters)
    if not formats:
        formats = (0,) * count
    elif len(formats) == 1:
        formats = formats * count
    oids = prepared.description.parameter_oids
    return list(map(KeyParameter._make, zip(bind.parameters, formats, oids, strict=True)))


async def parameters_of(bind: frontend.Bind, prepared: PreparedStatement) -> list[KeyParameter]:
    """Return the same, of many parameters computed beside the loop."""
    if len(bind.parameters) > planning.LONG_PARAMETERS:
        return await beside(key_parameters, bind, prepared)
    return key_parameters(bind, prepared)


async def resolve_bind(
    session: Session,
    prepared: PreparedStatement,
    bind: frontend.Bind,
    flush: Callable[[], Awaitable[None]] | None = None,
) -> Executable:
    """Find the shards of a Bind; a key that only Postgres can read is read by a shard, which may complain about it."""
    parameters = await parameters_of(bind, prepared)
    session.check_settings(prepared.statement)
    executable = await _resolved(session, prepared, bind, parameters, flush)
    if relayed_shard(executable, prepared.statement) is None:
        check_reading(session, prepared)
    return executable


async def _resolved(
    session: Session,
    prepared: PreparedStatement,
    bind: frontend.Bind,
    parameters: Sequence[KeyParameter],
    flush: Callable[[], Awaitable[None]] | None,
) -> Executable:
    try:
        plan = located(session, prepared.statement.plan)
        return await planning.resolved(session, plan, parameters)
    except UnresolvedKey as error:
        if not error.parameter:
            return session.resolve(prepared.statement, parameters)
    if flush is not None:
        await flush()
    return session.resolve(prepared.statement, await _read_by_a_shard(session, prepared, bind))


async def _read_by_a_shard(session: Session, prepared: PreparedStatement, bind: frontend.Bind) -> list[KeyParameter]:
    """Return the parameters in the form that Postgres writes them in; raises its error for those it cannot read."""
    oids = prepared.description.parameter_oids
    query = "SELECT " + ", ".join(f"${number}" for number in range(1, len(oids) + 1))
    packet = (
        frontend.Parse(b"", query.encode(), oids).encode()
        + frontend.Bind(b"", b"", bind.parameter_formats, bind.parameters, ()).encode()
        + frontend.Execute(b"", 0).encode()
        + frontend.Sync().encode()
    )
    shard = session.settings_shard
    links = await session.transaction.join([shard], writes=False, reads=True)
    values: list[bytes | None] = []
    for kind, body in await links[shard].collect(packet):
        if kind == backend.ERROR_RESPONSE:
            raise _of_portal(ShardError(backend.decode_error(body), shard, frame(b"E", body)), bind)
        if kind == backend.DATA_ROW:
            values = backend.decode_data_row(body)
    session.transaction.finish_statement()
    return [KeyParameter(value, 0, oid) for value, oid in zip(values, oids, strict=True)]


def _of_portal(error: ShardError, bind: frontend.Bind) -> ShardError:
    """Return what a shard says of a parameter with the client's portal in its CONTEXT."""
    where = error.fields.get("W")
    if not bind.portal or not where.startswith("unnamed portal"):
        return error
    name = bind.portal.decode("utf-8", "surrogateescape")
    return ShardError(error.fields.replace(W=f'portal "{name}"{where.removeprefix("unnamed portal")}'), error.shard)


async def read_parameters(
    session: Session, portal: Portal, flush: Callable[[], Awaitable[None]] | None = None
) -> frontend.Bind:
    """Return the Bind of a statement that several shards run, as they are to get it; raises what one says to it."""
    bind, prepared = portal.bind, portal.prepared
    if not bind.parameters:
        return bind

    async def read() -> None:
        if flush is not None:
            await flush()
        await _read_by_a_shard(session, prepared, bind)

    return await read_first(session, bind, await parameters_of(bind, prepared), read)


def request_of(portal: Portal) -> Request:
    """Return the executor's view of a Bind."""
    bind, prepared = portal.bind, portal.prepared
    return Request(
        text=prepared.statement.text,
        parameter_oids=prepared.description.parameter_oids,
        parameter_formats=bind.parameter_formats,
        parameters=bind.parameters,
        result_formats=bind.result_formats,
        describe_rows=False,
        fields=prepared.description.fields,
        original=prepared.original,
    )


async def prepare(
    session: Session,
    name: bytes,
    text: str,
    oids: Sequence[int],
    flush: Callable[[], Awaitable[None]] | None = None,
) -> PreparedStatement:
    """Plan one statement and let a shard describe it; raises what Postgres would raise at Parse."""
    # Describing may wait for somebody who changes it. What a block has changed may be taken back: planned anew then.
    version = session.database.catalog_version if session.planner_in_block is None else UNCOMMITTED
    try:
        statements = await planning.plan(session, text, tuple(oids))
    except Refused:
        if session.transaction.failed:
            raise ProxyError("25P02", FAILED_BLOCK) from None
        await _let_a_shard_speak(session, text, oids, flush)
        raise
    except SyntaxFailure:
        asked = own_settings.asks_for_transaction(text)
        if asked is None:
            await _let_a_shard_speak(session, text, oids, flush)
            raise
        statements = (asked,)
    if len(statements) > 1:
        raise ProxyError("42601", "cannot insert multiple commands into a prepared statement")
    statement = statements[0] if statements else Statement(text=text, plan=Empty(), tag="")
    if await has_news(session, statement):
        (statement,) = await planning.plan(session, text, tuple(oids))
    plan = statement.plan
    if session.transaction.failed and not (
        isinstance(plan, Empty)
        or (isinstance(plan, TransactionControl) and plan.control in _ENDS_FAILURE)
        or statement.tag == "PREPARE TRANSACTION"
    ):
        raise ProxyError("25P02", FAILED_BLOCK)
    description, locked = await _described(session, text, statement, tuple(oids), flush)
    if description.parameter_oids and description.parameter_oids != tuple(oids):
        statement = (await planning.plan(session, text, description.parameter_oids))[0]
    prepared = PreparedStatement(
        name,
        text.encode("utf-8", "surrogateescape"),
        tuple(oids),
        statement,
        description,
        version,
        session.search_path,
        reading(session),
        time.time_ns() // 1000,
        codec=session.settings.encoding.codec,
        locked=locked,
    )
    return await note_moment(session, prepared, flush)


async def _described(
    session: Session,
    text: str,
    statement: Statement,
    oids: tuple[int, ...],
    flush: Callable[[], Awaitable[None]] | None,
) -> tuple[Description, bool]:
    """Find out a statement's parameters and columns, and whether what it reads has been locked for that."""
    if not locks(session, statement) or not (session.transaction.in_block if flush is None else rests(session)):
        return await _description(session, text, statement, oids, flush), False
    if flush is not None:
        await flush()
    keep_open(session)
    return await session.database.descriptions.ask(session, text, oids, locks=True), True


async def _description(  # noqa: PLR0911 - one for each kind of statement
    session: Session,
    text: str,
    statement: Statement,
    oids: tuple[int, ...],
    flush: Callable[[], Awaitable[None]] | None,
) -> Description:
    """Find out a statement's parameters and columns; ``flush`` is awaited before a shard is asked."""
    plan = statement.plan
    if isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE:
        named = session.statements.get(plan.name.encode())
        return Description(_declared(oids), None if named is None else named.description.fields)
    if isinstance(plan, Empty):
        return Description(oids, None)
    if isinstance(plan, TransactionControl) or (
        isinstance(plan, PreparedControl) and plan.prepared is not Prepared.EXPLAIN
    ):
        return Description(_declared(oids), None)
    if isinstance(plan, ExplainRoute | ExplainShards):
        declared = dict(enumerate(oids))
        types = tuple(declared.get(number) or _UNKNOWN_OID for number in range(statement.parameters))
        return Description(types, explaining.described(plan))
    if isinstance(plan, SettingControl) and (plan.name.startswith(OWN_PREFIX) or plan.setting is not Setting.SHOW):
        return Description(_declared(oids), own_settings.described(plan))
    if isinstance(plan, CursorControl):
        return await fetching.described(session, plan, text, _declared(oids), flush)
    if flush is not None and session.database.descriptions.must_ask(session, text, oids):
        await flush()
    return await session.database.descriptions.ask(session, text, oids, reads=statement.tag not in WITHOUT_SNAPSHOT)


def _declared(oids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the types of parameters that nothing but their declaration says anything about."""
    for number, oid in enumerate(oids, 1):
        if oid in (0, _UNKNOWN_OID):
            raise ProxyError("42P18", f"could not determine data type of parameter ${number}")
    return oids


async def _let_a_shard_speak(
    session: Session, text: str, oids: Sequence[int], flush: Callable[[], Awaitable[None]] | None
) -> None:
    if flush is not None:
        await flush()
    await session.database.descriptions.let_a_shard_speak(session, text, tuple(oids))


def is_current(session: Session, prepared: PreparedStatement) -> bool:
    """Whether a statement means what it meant at its Parse; one that Postgres does not analyze always does."""
    if isinstance(prepared.statement.plan, _NOT_ANALYZED):
        return True
    return (
        prepared.catalog_version == session.database.catalog_version
        and prepared.search_path == session.search_path
        and session.planner_in_block is None
    )


async def current(
    session: Session,
    prepared: PreparedStatement,
    flush: Callable[[], Awaitable[None]] | None = None,
    *,
    told: bool = True,
) -> PreparedStatement:
    """Plan a statement anew when the catalog or the search_path is not what it was, as Postgres does.

    Raises 0A000 where its rows are others, and the client may have been ``told`` of them.
    """
    if is_current(session, prepared):
        return await as_then(session, prepared, flush) if prepared.of_before else prepared
    prepared = in_encoding(session, prepared)
    oids = prepared.description.parameter_oids or prepared.oids  # found once, they stay
    text = prepared.query.decode("utf-8", "surrogateescape")
    renewed = await prepare(session, prepared.name, text, oids, flush)
    if prepared.search_path == renewed.search_path:
        # Postgres reads it anew if what has changed concerns it, which nobody knows here.
        check_reading(session, prepared)
    if told and not same_rows(prepared.description.fields, renewed.description.fields):
        raise changed_rows()
    renewed = replace(renewed, made_at_us=prepared.made_at_us, source=prepared.source, of_before=prepared.of_before)
    if prepared.search_path == renewed.search_path:
        renewed = replace(renewed, frozen=prepared.frozen)
    session.statements[prepared.name] = renewed
    return renewed


async def described_rows(
    session: Session, prepared: PreparedStatement, flush: Callable[[], Awaitable[None]] | None
) -> bytes:
    """Return RowDescription, or NoData; raises what Postgres says where rows are not what they were at Parse."""
    if prepared.description.fields is None:
        return backend.no_data()
    await check_executed(session, prepared, flush)
    prepared = in_encoding(session, prepared)
    fields = (await current(session, prepared, flush)).description.fields
    return backend.no_data() if fields is None else backend.row_description(fields)


def as_bound(session: Session, prepared: PreparedStatement) -> PreparedStatement:
    """Return an EXECUTE with the columns of the statement that there is when it is bound; any other as it is."""
    plan = prepared.statement.plan
    if not (isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE):
        return prepared
    named = session.statements.get(plan.name.encode())
    fields = None if named is None else named.description.fields
    return replace(prepared, description=Description(prepared.description.parameter_oids, fields))


async def check_executed(
    session: Session, prepared: PreparedStatement, flush: Callable[[], Awaitable[None]] | None
) -> None:
    """Raise what Describe of an EXECUTE with rows says where the statement that it names is broken, or gone."""
    plan = prepared.statement.plan
    seen = set()
    while isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE and plan.name not in seen:
        seen.add(plan.name)
        plan = (await current(session, find_statement(session, plan.name.encode()), flush)).statement.plan


async def bind_and_run(
    session: Session,
    prepared: PreparedStatement,
    values: tuple[bytes | None, ...],
    *,
    describe: bool,
    result_formats: tuple[int, ...],
) -> bytes:
    """EXECUTE: run a prepared statement with text parameters, answered as the protocol that it came by does."""
    bind = frontend.Bind(b"", b"", (), values, result_formats)
    prepared = in_encoding(session, prepared) if describe else prepared
    statement = prepared.statement
    session.transaction.command = statement.tag
    session.running = (statement,)
    told = isinstance(statement.plan, Filled)
    prepared, bind = await fill_bind(session, prepared, bind, key_parameters(bind, prepared))
    statement = prepared.statement
    executable = await resolve_bind(session, prepared, bind)
    shard = relayed_shard(executable, statement)
    portal = Portal(b"", prepared, bind, executable, shard)
    if shard is None or told:
        portal.bind = await read_parameters(session, portal)
        request = request_of(portal)
        request = replace(request, result_formats=result_formats, describe_rows=describe)
        return await run_parted(session, statement, executable, request)
    return await _run_on_link(session, portal, executable, shard, describe=describe)


async def explain_prepared(
    session: Session, prepared: PreparedStatement, plan: PreparedControl, values: tuple[bytes | None, ...]
) -> bytes:
    """EXPLAIN EXECUTE: on the one shard that would run it, under the name that the statement has there."""
    bind = frontend.Bind(b"", b"", (), values, ())
    statement = prepared.statement
    if isinstance(statement.plan, (Filled, *CONTROL)):
        raise refusal("explain-execute")
    executable = await resolve_bind(session, prepared, bind)
    shard = relayed_shard(executable, statement)
    if shard is None:
        raise refusal("explain-execute")
    check_reading(session, prepared)
    link = await session.join(statement, shard, writes=plan.runs and writes_of(executable))
    await settle_before(session, [shard])
    await _told(link, frontend.Parse(b"pgchorus_explained", prepared.query_on(link), prepared.oids).encode())
    try:
        answer = Relay(session.connection, session.on_parameter)
        answer.hold_tag = True
        text = f"{plan.body}pgchorus_explained{plan.rest}"
        link.exchange(frontend.Query(link.encode(text)).encode(), answer)
        await answer.wait(link)
    finally:
        if not link.closed and not link.busy:
            await _told(link, frontend.Close(b"S", b"pgchorus_explained").encode())
    if answer.failed:
        raise Reported(answer.sqlstate)
    if plan.runs:
        session.note_effects(statement, [shard])
    return answer.tag


async def _told(link: ShardLink, frames: bytes) -> None:
    """Send messages whose answers nobody needs; raises ShardError if one is an error."""
    for kind, body in await link.collect(frames + frontend.Sync().encode()):
        if kind == backend.ERROR_RESPONSE:
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))


async def parsed_on(session: Session, link: ShardLink, prepared: PreparedStatement) -> tuple[bytes, bytes, list[Step]]:
    """Return what ``ensure_parsed`` does; a statement that would mean something else by now has been parsed already."""
    if has_changed(session, prepared):
        await settle_before(session, [link.shard])
        return await parse_as_then(session, link, prepared), b"", []
    limit = session.database.limits.statements_per_link
    shared = session.planner_in_block is None and not session.transaction.reads_otherwise
    return ensure_parsed(link, prepared, session.settings.applied, limit=limit, shared=shared)


async def _run_on_link(
    session: Session, portal: Portal, executable: Executable, shard: int, *, describe: bool
) -> bytes:
    tag = await relay_on_link(session, portal, executable, shard, describe=describe)
    session.note_effects(portal.prepared.statement, [shard])
    await follow_set_config(session, portal.prepared.statement, shard)
    return tag


async def relay_on_link(
    session: Session, portal: Portal, executable: Executable, shard: int, *, describe: bool
) -> bytes:
    """Run what a portal has bound on one shard and pass its answer on; returns its CommandComplete."""
    await check_rows(session, portal.prepared, shard)
    link = await session.join(portal.prepared.statement, shard, writes=writes_of(executable))
    await settle_before(session, [shard])
    name, frames, steps = await parsed_on(session, link, portal.prepared)
    script = deque(steps)
    script.append(Step(BIND_ENDS, forward=False))
    script.append(
        Step(frozenset(b"T"), forward=True)
        if describe and portal.prepared.description.fields is not None
        else Step(DESCRIBE_ENDS, forward=False)
    )
    script.append(Step(EXECUTE_ENDS, forward=True))
    bind = portal.bind
    packet = (
        frames
        + frontend.Bind(b"", name, bind.parameter_formats, bind.parameters, bind.result_formats).encode()
        + frontend.Describe(b"P", b"").encode()
        + frontend.Execute(b"", 0).encode()
        + frontend.Sync().encode()
    )
    if sets_encoding(portal.prepared.statement):
        check_change(session)
    await before_set_config(session, portal.prepared.statement)
    answer = Relay(session.connection, session.on_parameter, script, session.transaction.explain, session.anew)
    answer.hold_tag = True
    link.exchange(packet, answer)
    await answer.wait(link)
    while answer.copy_in:
        await answer.pass_copy_data(link)
        await answer.wait(link)
    if answer.failed:
        raise Reported(answer.sqlstate)
    return answer.tag
