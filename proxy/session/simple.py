"""The simple query protocol: one message, any number of statements, one implicit transaction.

Postgres's rules: all statements are parsed before the first one runs; those outside BEGIN and COMMIT form one
transaction; the first error ends the message; the last statement's CommandComplete comes only when its transaction is
committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.executor.request import Request
from proxy.isolation import runs_with_snapshot
from proxy.session import control, explaining, following, planning
from proxy.session.altering import note_altering
from proxy.session.batch import is_transaction, minds_block
from proxy.session.cursors import located
from proxy.session.defining import has_news
from proxy.session.encoded import check_change, read_text, sets_encoding
from proxy.session.executed import CONTROL, behind_execute
from proxy.session.filling import fill_text
from proxy.session.outcome import Reported
from proxy.session.own_portals import cursor_control
from proxy.session.own_settings import show_transaction
from proxy.session.places import in_clients_text
from proxy.session.relayed import relayed_shard
from proxy.session.run import (
    at_its_place,
    padded,
    relay,
    run_parted,
    settle_before,
    shard_by_shard,
    shards_of,
    writes_of,
)
from proxy.session.session import FAILED_BLOCK
from proxy.session.telling import CLIENT_ERRORS, raise_if_fatal
from proxy.session.temporary import compare_names
from proxy.session.unbound import check_no_parameters
from proxy.shards.errors import ShardError
from proxy.transaction import Block
from proxy.turns import Turn, beside
from proxy.wire import backend, frontend
from router.errors import Refused, SyntaxFailure, refusal
from router.plan import (
    Ddl,
    DeclareSpread,
    Empty,
    ExplainRoute,
    ExplainShards,
    HomeShard,
    SequenceUse,
    ShardByShard,
    Single,
    Statement,
)
from router.plan_control import (
    Control,
    CursorControl,
    PreparedControl,
    SettingControl,
    TransactionControl,
)
from router.plan_steps import Filled
from router.resolve import UnresolvedKey
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.session import Session
    from router.plan import Executable
    from router.statement import Parsed

_TURN_STATEMENTS = 64  # of a message are looked at before one looks at the clock
_UNTYPED_PARAMETER = "42P18"
_ALLOWED_IN_FAILED_BLOCK = frozenset({Control.COMMIT, Control.ROLLBACK, Control.ROLLBACK_TO})


async def simple_query(session: Session, body: bytes) -> None:
    """Handle a Query message."""
    try:
        message = frontend.decode(ord("Q"), body)
        if isinstance(message, frontend.Query):
            await run_text(session, await read_text(session, message.text))
    except Reported as error:
        session.fate.reported = True
        session.count_error(error)
        await after_error(session)
    except CLIENT_ERRORS as error:
        raise_if_fatal(error)
        session.anew.raise_if_outrun(error)
        session.fate.unplanned = not isinstance(error, ProxyError)
        session.report_error(error)
        await after_error(session)
    session.message = ""
    await following.learn_settings(session)
    session.ready()


async def end_what_is_bound(session: Session) -> None:
    """Before a statement that must find no block: one of ours, of what has only been bound, ends with nothing done."""
    if session.transaction.block is Block.IMPLICIT:
        await session.rollback()


async def after_error(session: Session) -> None:
    """An implicit block ends with the message that failed; an explicit one waits for ROLLBACK."""
    if session.transaction.block is Block.IMPLICIT:
        await session.rollback()
    session.transaction.finish_statement()
    await session.transaction.release_locks()


async def run_text(session: Session, text: str) -> None:
    """Run all statements of a message."""
    session.message = text
    await compare_names(session)
    message = await _Message.read(session, text)
    if session.database.definitions.changing and not message.ends_only:
        await session.may_begin()
        message = await _Message.read(session, text)
    if message.count > 1 and message.planned and await _relay_whole(session, text, message.planned):
        return
    last = message.count - 1
    for number in range(message.count):
        if session.database.definitions.changing and not message.ends_only:
            await session.may_begin()
        session.fate.number = number
        session.fate.control = None
        statement = await message.plan(number)
        check_block(session, statement)
        if await has_news(session, statement):
            statement = await message.plan(number)
        alone = isinstance(statement.plan, Empty) or is_transaction(statement.plan)
        if last > 0 and not alone and session.transaction.block is Block.NONE:
            session.begin(Block.IMPLICIT)
        await _about_to_run(session, statement, only=last <= 0)
        try:
            tag = await run_statement(session, statement, held=number == last)
        except ShardError as error:
            raise await in_clients_text(session, statement, error) from error
        if number == last and session.transaction.block is Block.IMPLICIT:
            await session.commit()
        if tag:
            session.write(tag)
        session.transaction.finish_statement()
        await session.connection.drain()


async def _about_to_run(session: Session, statement: Statement, *, only: bool) -> None:
    """Note what runs. ``only``: the message has no other; it must find no block where Postgres has none."""
    session.fate.control = statement if isinstance(statement.plan, CONTROL) else None
    if only and session.fate.outside and minds_block(statement):
        await end_what_is_bound(session)


class _Message:
    """The statements of a message: planned together if that can be, else one by one: each may change the catalog."""

    def __init__(
        self, session: Session, text: str, parsed: Sequence[Parsed], planned: Sequence[Statement], version: int
    ) -> None:
        self._text = text
        self._session = session
        self._parsed = parsed
        self.planned = planned
        self.count = len(planned) or len(parsed)
        self._version = version  # of the catalog that it was planned by
        self._search_path = session.search_path

    @classmethod
    async def read(cls, session: Session, text: str) -> _Message:
        """Parse a message; raises SyntaxFailure when no shard can say it better."""
        version = session.database.catalog_version  # a long text is planned while others run
        try:
            return cls(session, text, (), await planning.plan(session, text), version)
        except SyntaxFailure:
            if await show_transaction(session, text):
                return cls(session, text, (), (), version)
            await session.database.descriptions.let_a_shard_speak(session, text)
            raise
        except Refused:
            long = planning.is_long(text)
            return cls(session, text, await beside(parse, text) if long else parse(text), (), version)

    @property
    def ends_only(self) -> bool:
        """Whether it says nothing but COMMIT and the like, in a block: others may wait for what that lets go of."""
        in_block = self._session.transaction.in_block
        return in_block and bool(self.planned) and all(isinstance(one.plan, TransactionControl) for one in self.planned)

    async def plan(self, number: int) -> Statement:
        """Return a statement as the catalog is now; raises Refused when a shard would not object itself."""
        session = self._session
        await compare_names(session)
        unchanged = (
            session.planner_in_block is None
            and session.database.catalog_version == self._version
            and session.search_path == self._search_path
        )
        if self.planned and unchanged:
            return self.planned[number]
        if not self._parsed:
            self._parsed = parse(self._text)
        if not self._parsed:
            return self.planned[number]  # which says nothing
        parsed = self._parsed[number]
        try:
            return session.plan_one(parsed)
        except Refused:
            if session.transaction.failed:
                raise ProxyError("25P02", FAILED_BLOCK) from None
            try:
                await session.database.descriptions.let_a_shard_speak(session, at_its_place(parsed.text, parsed.offset))
            except ShardError as error:
                if error.sqlstate == _UNTYPED_PARAMETER:  # it was shown as if it might have some
                    check_no_parameters(parsed)
                raise
            if parsed.parameters:
                check_no_parameters(parsed)
            raise


async def _relay_whole(session: Session, text: str, statements: Sequence[Statement]) -> bool:
    """Send a message of several statements as it is, when one shard has them all: Postgres knows its own rules best."""
    transaction = session.transaction
    if (
        transaction.failed
        or transaction.block is Block.IMPLICIT
        or (transaction.in_block and transaction.keeps_snapshot)
    ):
        return False
    transaction.command = ""  # of several statements
    shards: set[int | None] = set()
    writes = False
    turn, waited, version = Turn(), False, session.database.catalog_version
    for number, statement in enumerate(statements, 1):
        if not isinstance(statement.plan, Single) or statement.set_config or not statement.transaction_block:
            return False
        if statement.parameters:
            return False
        shard = relayed_shard(session.resolve(statement), statement)
        shards.add(shard)
        writes = writes or statement.plan.writes
        if shard is None or len(shards) > 1:
            return False
        if not number % _TURN_STATEMENTS:
            waited = await turn.give_way() or waited
    if waited and (session.database.catalog_version != version or session.database.definitions.changing):
        return False  # then each is looked at again
    (shard,) = shards
    assert shard is not None  # noqa: S101 - narrows the type
    uses = [statement.sequences for statement in statements]
    sequences = next((use for use in (SequenceUse.ASKS, SequenceUse.ADVANCES) if use in uses), SequenceUse.NONE)
    session.running = tuple(statements)
    session.fate.number = len(statements) - 1  # whichever fails
    session.meter.runs(statements)
    pins = next((one.pins for one in statements if one.pins), "")
    whole = Statement(text=text, plan=statements[0].plan, tag="", sequences=sequences, pins=pins)
    await settle_before(session, [shard])
    await relay(session, whole, shard, writes=writes, held=False)
    for statement in statements:
        session.note_effects(statement, [shard])
    if not transaction.in_block:  # what it has declared has ended with it
        session.cursors = {name: at for name, at in session.cursors.items() if name in session.held_cursors}
    session.transaction.finish_statement()
    return True


def check_block(session: Session, statement: Statement) -> None:
    """In a failed block only its end and the way back to a savepoint are listened to."""
    plan = statement.plan
    if not session.transaction.failed or isinstance(plan, Empty) or ends_failed_block(session, statement):
        return
    if not (isinstance(plan, TransactionControl) and plan.control in _ALLOWED_IN_FAILED_BLOCK):
        raise ProxyError("25P02", FAILED_BLOCK)


def check_bind(session: Session, statement: Statement, *, values: bool) -> None:
    """What a failed block listens to can be bound, if it has no parameters; an empty statement cannot."""
    if session.transaction.failed and (values or isinstance(statement.plan, Empty)):
        raise ProxyError("25P02", FAILED_BLOCK)
    check_block(session, statement)


def ends_failed_block(session: Session, statement: Statement) -> bool:
    """Whether this is a PREPARE TRANSACTION that does what ROLLBACK does."""
    return session.transaction.failed and statement.tag == "PREPARE TRANSACTION"


async def run_statement(session: Session, statement: Statement, *, held: bool) -> bytes:
    """Run one statement; return its CommandComplete when ``held``, to be sent after a commit."""
    session.running = (statement,)
    if statement.parameters and not (isinstance(statement.plan, Single) and statement.plan.target == HomeShard()):
        check_no_parameters(*parse(statement.text), offset=statement.offset)
    tag = await run_control(session, statement, held=held)
    if tag is not None:
        return tag
    request = Request(text=padded(statement))
    if isinstance(statement.plan, Filled):
        statement, executable, request = await fill_text(session, statement)
    else:
        executable = await resolved_text(session, statement)
    plan = statement.plan
    if isinstance(plan, ShardByShard) and len(shards_of(executable)) > 1:
        return await shard_by_shard(session, statement, executable)
    shard = relayed_shard(executable, statement)
    if shard is None or request.parameters:
        return await run_parted(session, statement, executable, request)
    await settle_before(session, [shard])
    if changes_definitions(session, statement) and session.transaction.block is Block.NONE:
        session.begin(Block.IMPLICIT)  # others must not run by the new definitions before they are read
    if sets_encoding(statement):
        check_change(session)
    await following.before_set_config(session, statement)
    note_altering(session, [statement])
    tag = await relay(session, statement, shard, writes=writes_of(executable), held=held)
    session.note_effects(statement, [shard])
    await following.follow_set_config(session, statement, shard)
    if isinstance(plan, Ddl | ShardByShard) and plan.catalog_changes:
        await session.catalog_changed()
    return tag


async def resolved_text(session: Session, statement: Statement) -> Executable:
    """Find the shards of a statement without parameters; raises Refused for a key that only Postgres could read."""
    session.check_settings(statement)
    try:
        return await planning.resolved(session, located(session, statement.plan))
    except UnresolvedKey as error:
        raise refusal("key-form", reason=str(error)) from error


def changes_definitions(session: Session, statement: Statement) -> bool:
    """Whether this is DDL by which other statements are planned, and that may be in a block."""
    plan = statement.plan
    return (
        isinstance(plan, Ddl)
        and plan.catalog_changes
        and statement.transaction_block
        and session.transaction.shard_count > 1
    )


async def run_control(  # noqa: PLR0911 - one for each kind of statement
    session: Session,
    statement: Statement,
    *,
    held: bool,
    describe: bool = True,
    result_formats: tuple[int, ...] = (),
) -> bytes | None:
    """Run a statement about the session itself; None when it is none. ``describe``: rows come with RowDescription."""
    session.meter.runs((statement,))
    written = statement
    statement = await behind_execute(session, written)
    plan = statement.plan
    session.transaction.command = statement.tag
    session.transaction.modes.queried |= runs_with_snapshot(written)
    if isinstance(plan, Empty):
        return backend.empty_query_response() if statement is written else backend.command_complete(b"EXECUTE")
    if ends_failed_block(session, statement):
        return backend.command_complete(await control.end_failed_block(session))
    if isinstance(plan, TransactionControl):
        return backend.command_complete(
            await control.transaction_control(session, statement, plan, executed=statement is not written)
        )
    if isinstance(plan, SettingControl):
        if plan.local and statement is not written and not session.transaction.in_block:
            session.begin(Block.IMPLICIT)  # where Postgres warns, it does not of what is executed
        return await control.setting_control(session, statement, plan, describe=describe)
    if isinstance(plan, PreparedControl):
        return await control.prepared_control(
            session, statement, plan, describe=describe, result_formats=result_formats
        )
    if isinstance(plan, DeclareSpread):
        return await control.declare_spread(session, statement, plan)
    if isinstance(plan, CursorControl):
        spread = await control.spread_control(session, plan, describe=describe, formats=result_formats)
        return spread or await cursor_control(session, statement, plan, held=held)
    if isinstance(plan, ExplainRoute | ExplainShards):
        return await explaining.explain(session, plan, describe=describe)
    return None
