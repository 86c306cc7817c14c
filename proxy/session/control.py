"""Statements about the session itself: BEGIN and COMMIT, SET and SHOW, PREPARE and EXECUTE, cursors.

Each function returns what ends the statement for the client: a command tag, or the whole CommandComplete frame.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.executor.request import Request
from proxy.giving_way import past_cancels
from proxy.isolation import DEFAULT_SETTINGS, SHOW_DEFAULT, Modes
from proxy.session import adopting, clocks
from proxy.session.chaining import begin_block, chain
from proxy.session.changing import check_commit
from proxy.session.constraints import set_constraints
from proxy.session.encoded import check_change, check_changed
from proxy.session.executed import control_behind
from proxy.session.filling import fill_bind
from proxy.session.following import all_but, learn_isolation
from proxy.session.lost_roles import relay_setting
from proxy.session.on_link import portal_on_link, run_on_link, runs_on_link
from proxy.session.outcome import RolledBack
from proxy.session.own_settings import OWN_PREFIX, is_shown_by_shard, own_setting, reset_all, shown
from proxy.session.prepared import Portal
from proxy.session.preparing import (
    bind_and_run,
    current,
    explain_prepared,
    is_current,
    key_parameters,
    prepare,
    resolve_bind,
)
from proxy.session.relayed import relayed_shard
from proxy.session.roles import ROLE_SETTINGS, learn_role, role_outside
from proxy.session.run import MAX_PADDING, at_its_place, padded, relay
from proxy.session.warning import warn
from proxy.settings import RESET_ALL, set_config_sql, without_snapshot
from proxy.shards.errors import ShardError
from proxy.transaction import Block
from proxy.twophase.messages import alive_sql
from proxy.wire import backend
from router.errors import refusal
from router.plan_control import Control, Prepared, PreparedControl, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from router.plan import DeclareSpread, Statement
    from router.plan_control import CursorControl, SettingControl, TransactionControl

_SAVEPOINTS = 256  # after so many it is looked which of them there still are

# --- transactions ------------------------------------------------------------------------------------------------


async def transaction_control(
    session: Session, statement: Statement, plan: TransactionControl, *, executed: bool = False
) -> bytes:
    """BEGIN, COMMIT, ROLLBACK, savepoints, SET TRANSACTION; ``executed``: by EXECUTE."""
    if plan.control is Control.BEGIN:
        return await _begin(session, statement, plan)
    if plan.control is Control.COMMIT:
        return await _commit(session, plan)
    if plan.control is Control.ROLLBACK:
        return await _rollback(session, plan)
    if plan.control is Control.SET_TRANSACTION:
        return await _set_transaction(session, statement, plan, executed=executed)
    if plan.control is Control.PREPARE:
        return await _prepare(session, statement)
    return await _savepoint(session, statement, plan)


def _modes(plan: TransactionControl) -> Modes:
    return Modes(plan.isolation, plan.read_only, plan.deferrable)


async def _begin(session: Session, statement: Statement, plan: TransactionControl) -> bytes:
    transaction = session.transaction
    tag = b"START TRANSACTION" if statement.tag == "START TRANSACTION" else b"BEGIN"
    if transaction.block is Block.EXPLICIT:
        await warn(session, "25001", "there is already a transaction in progress")
        modes = _modes(plan).sql()
        if modes:  # Postgres takes them for this one all the same
            await transaction.set_modes(_modes(plan), "SET TRANSACTION" + modes)
        return tag
    if not transaction.in_block:
        transaction.check_modes(_modes(plan))
        session.begin(Block.EXPLICIT)
        transaction.begin(Block.EXPLICIT, _modes(plan))
    else:  # in the middle of a message or of a pipeline: shards have had their BEGIN
        if modes := _modes(plan).sql():
            await transaction.set_modes(_modes(plan), "SET TRANSACTION" + modes)
        session.begin(Block.EXPLICIT)
    await begin_block(session)
    return tag


async def _commit(session: Session, plan: TransactionControl) -> bytes:
    transaction = session.transaction
    if transaction.in_block and not transaction.failed:
        await check_commit(session)
    if transaction.block is not Block.EXPLICIT:
        if plan.chain:
            raise ProxyError("25P01", "COMMIT AND CHAIN can only be used in transaction blocks")
        await warn(session, "25P01", "there is no transaction in progress")
        if transaction.block is Block.IMPLICIT:
            await session.commit()
        return b"COMMIT"
    modes = transaction.modes_for_chain(rolled_back=False)
    if transaction.failed:
        await session.rollback()
        tag = b"ROLLBACK"
    else:
        try:
            await session.commit()
            tag = b"COMMIT"
        except RolledBack:
            tag = b"ROLLBACK"
    if plan.chain:
        await chain(session, modes)
    return tag


async def _rollback(session: Session, plan: TransactionControl) -> bytes:
    transaction = session.transaction
    if transaction.block is not Block.EXPLICIT:
        if plan.chain:
            raise ProxyError("25P01", "ROLLBACK AND CHAIN can only be used in transaction blocks")
        await warn(session, "25P01", "there is no transaction in progress")
        if transaction.block is Block.IMPLICIT:
            await session.rollback()
        return b"ROLLBACK"
    modes = transaction.modes_for_chain(rolled_back=True)
    await session.rollback()
    if plan.chain:
        await chain(session, modes)
    return b"ROLLBACK"


async def _prepare(session: Session, statement: Statement) -> bytes:
    """PREPARE TRANSACTION over several shards, where only what it does to a failed block is like one Postgres."""
    if session.transaction.block is Block.NONE:
        await warn(session, "25P01", "there is no transaction in progress")
        return b"ROLLBACK"
    if not session.transaction.failed:
        raise refusal("two-phase", name=statement.tag)
    return await end_failed_block(session)


async def end_failed_block(session: Session) -> bytes:
    """ROLLBACK, and PREPARE TRANSACTION too: Postgres answers it so, without an error."""
    await session.rollback()
    return b"ROLLBACK"


async def _set_transaction(
    session: Session, statement: Statement, plan: TransactionControl, *, executed: bool
) -> bytes:
    transaction = session.transaction
    if transaction.block is Block.NONE:
        if not executed:  # EXECUTE may be in a function, for all that Postgres knows there
            await warn(session, "25P01", "SET TRANSACTION can only be used in transaction blocks")
        transaction.check_modes(_modes(plan))
        return b"SET"
    await transaction.set_modes(_modes(plan), statement.text)
    return b"SET"


async def _savepoint(session: Session, statement: Statement, plan: TransactionControl) -> bytes:
    transaction = session.transaction
    words = {
        Control.SAVEPOINT: "SAVEPOINT",
        Control.RELEASE: "RELEASE SAVEPOINT",
        Control.ROLLBACK_TO: "ROLLBACK TO SAVEPOINT",
    }
    if transaction.block is not Block.EXPLICIT:
        raise ProxyError("25P01", f"{words[plan.control]} can only be used in transaction blocks")
    if plan.control is Control.SAVEPOINT:
        await transaction.savepoint(plan.savepoint, statement.text)
        _note_parameters(session)
        if session.clocks is not None:
            session.clocks.savepoint(transaction.log[-1])
        return b"SAVEPOINT"
    if plan.control is Control.RELEASE:
        await transaction.release_savepoint(plan.savepoint, statement.text)
        return b"RELEASE"
    changed = transaction.catalog_changed
    await transaction.rollback_to(plan.savepoint, statement.text)
    if transaction.gid is not None:  # the client may have asked for it since: its lock has gone with the savepoint
        shard = session.database.logical.shards.index(transaction.gid.commit_point)
        await transaction.links[shard].run(alive_sql(transaction.gid))
    await session.rolled_back_to(transaction.log[-1])
    if transaction.settings_changed:
        if session.clocks is not None:
            session.clocks.rolled_back_to(transaction.log[-1])
        session.follow_parameters(session.settings_link)
        async with past_cancels(transaction):
            await learn_isolation(session)
            if session.role_moved:
                await learn_role(session, lasting=False)
    if changed:
        await session.catalog_changed()
    return b"ROLLBACK"


def _note_parameters(session: Session) -> None:
    """Keep what the client knows of settings at a savepoint; those that are released are forgotten in a while."""
    inside = session.parameters_inside
    if len(inside) % _SAVEPOINTS == _SAVEPOINTS - 1:
        still = {id(savepoint) for savepoint in session.transaction.savepoints}
        inside[:] = [each for each in inside if id(each[0]) in still]
    last = inside[-1][1] if inside else session.parameters_at_begin
    values = last if last is not None and last == session.parameters else dict(session.parameters)
    inside.append((session.transaction.log[-1], values))


# --- settings ----------------------------------------------------------------------------------------------------


async def setting_control(
    session: Session, statement: Statement, plan: SettingControl, *, describe: bool = True
) -> bytes:
    """SET, RESET, SHOW, DISCARD: run on one link for the client to see, noted in the session, brought to the others."""
    if plan.setting is Setting.DISCARD_ALL:
        return await _discard_all(session)
    answer = await _known_here(session, statement, plan, describe=describe)
    if answer is not None:
        return answer
    transaction, encoding = session.transaction, session.encoding
    resets_all = plan.setting is Setting.RESET_ALL and "client_encoding" in session.settings.made
    if resets_all or (plan.name == "client_encoding" and plan.setting is not Setting.SHOW):
        check_change(session)
    shard = session.settings_shard if plan.elsewhere is None else session.database.logical.home
    tag, known = await relay_setting(session, statement, plan, shard)
    if plan.name == "client_encoding":
        await check_changed(session, encoding)
    session.parameters_are_noted()
    async with past_cancels(transaction):
        await _follow(session, statement, plan, known=known)
    transaction.finish_statement()
    return tag


async def _follow(session: Session, statement: Statement, plan: SettingControl, *, known: bool) -> None:
    """A statement about settings has run on one link: note it, and bring it to the others; ``known``: what it has."""
    transaction = session.transaction
    if _stays_on_the_link(session, plan):
        return
    _note_setting(session, statement, plan)
    if transaction.in_block:
        await all_but(session, session.settings_shard, statement.text)
        transaction.note_setting(RESET_ALL if plan.setting is Setting.RESET_ALL else plan.name, statement.text)
    await _back_to_startup(session, plan)
    await _follow_isolation(session, plan)
    await _follow_timeouts(session, plan)
    if plan.name in ROLE_SETTINGS:
        await learn_role(session, lasting=not plan.local)
    if known and not transaction.in_block:
        for link in transaction.links.values():
            link.settings = session.settings.applied


async def _follow_isolation(session: Session, plan: SettingControl) -> None:
    """Learn which isolation level transactions have from now on: over several shards that is for us to know."""
    if plan.name in DEFAULT_SETTINGS or plan.setting in (Setting.RESET_ALL, Setting.DISCARD_ALL):
        await learn_isolation(session)


async def _known_here(session: Session, statement: Statement, plan: SettingControl, *, describe: bool) -> bytes | None:
    """Do what is no setting of a shard's: those that no shard knows, SET CONSTRAINTS in a block; None: this is one."""
    if plan.setting is Setting.SET_CONSTRAINTS and session.transaction.in_block:
        return await set_constraints(session, statement, plan)
    if plan.name.startswith(OWN_PREFIX):
        return await own_setting(session, statement, plan, describe=describe)
    if plan.setting is Setting.SHOW and plan.name == clocks.IN_TRANSACTION and session.clocks and session.clocks.hides:
        return shown(session, plan, session.clocks.timeouts.in_transaction, describe=describe)
    return None


async def _follow_timeouts(session: Session, plan: SettingControl) -> None:
    if plan.setting in (Setting.RESET, Setting.RESET_ALL):
        if plan.name in clocks.NAMES or plan.setting is Setting.RESET_ALL:
            await clocks.timeouts_are_reset(session)
    elif plan.name in clocks.NAMES:
        await clocks.learn_timeouts(session, plan.name, lasting=not plan.local)


def _stays_on_the_link(session: Session, plan: SettingControl) -> bool:
    """Whether what a statement about settings does is not the session's to repeat on other links."""
    transaction = session.transaction
    if plan.setting in (Setting.SHOW, Setting.SET_CONSTRAINTS):
        return True
    if plan.name == "seed" and transaction.shard_count == 1:
        # It starts random() on this link anew; made again on another, it would start it anew there.
        transaction.pin("random seed", [session.settings_shard])
        return True
    return False


async def _back_to_startup(session: Session, plan: SettingControl) -> None:
    """RESET goes back to what the client started with; for a shard that is a setting like any other."""
    startup = session.settings.startup
    if plan.setting is Setting.RESET:
        names = [plan.name]
    elif plan.setting is Setting.RESET_ALL:
        names = [name for name in startup if name not in ("role", "session_authorization")]
    else:
        return
    sql = without_snapshot("; ".join(startup[name] for name in names if name in startup))
    if not sql:
        return
    for link in session.transaction.links.values():
        if not link.closed:
            await link.run(sql)
    session.follow_parameters(session.settings_link)
    if session.transaction.in_block:
        session.transaction.note_setting(plan.name, sql)


def _note_setting(session: Session, statement: Statement, plan: SettingControl) -> None:
    session.settings.touch(plan.name)
    if plan.setting is Setting.SET and not plan.local:
        # One of its two parts may be all that this says; the shard has told both.
        both = set_config_sql(plan.name, session.parameters["DateStyle"]) if plan.name == "datestyle" else None
        session.settings.set(plan.name, both or statement.text)
    elif plan.setting is Setting.SESSION_CHARACTERISTICS:
        for name, value in plan.characteristics:
            session.settings.set(name, set_config_sql(name, value))
    elif plan.setting is Setting.RESET:
        session.settings.reset(plan.name)
    elif plan.setting is Setting.RESET_ALL:
        session.settings.reset_all()
        reset_all(session)


async def _discard_all(session: Session) -> bytes:
    transaction = session.transaction
    if transaction.in_block:
        raise ProxyError("25001", "DISCARD ALL cannot run inside a transaction block")
    session.settings.discard_all()
    reset_all(session)
    role_outside(session)
    if session.clocks is not None:
        session.clocks.back()
    session.sequences.forget()
    _deallocate_all(session)
    session.cursors.clear()
    session.held_cursors.clear()
    transaction.unpin()
    # The client is told of each reported setting that went back: the shard reports them while it applies what is left.
    shard = session.database.logical.home
    links = await transaction.join([shard], writes=False, reads=False)
    answer = await links[shard].run(SHOW_DEFAULT)
    transaction.default_isolation = (answer.rows[0][0] or b"").decode()
    for name in ("is_superuser", "session_authorization"):  # these change first
        session.on_parameter(name, links[shard].parameters.get(name, ""))
    session.follow_parameters(links[shard])
    transaction.finish_statement()
    return backend.command_complete(b"DISCARD ALL")


# --- PREPARE, EXECUTE, DEALLOCATE --------------------------------------------------------------------------------


async def prepared_control(
    session: Session,
    statement: Statement,
    plan: PreparedControl,
    *,
    describe: bool = True,
    result_formats: tuple[int, ...] = (),
) -> bytes:
    """SQL-level prepared statements share their names with those of the protocol.

    ``describe`` and ``result_formats`` are for the rows of EXECUTE.
    """
    name = plan.name.encode()
    if plan.prepared is Prepared.PREPARE:
        oids = await _type_oids(session, statement, plan.type_names)
        place = statement.offset + statement.text.rfind(plan.body)
        try:
            prepared = await prepare(session, name, at_its_place(plan.body, place), oids)
        except ShardError as error:
            raise (error if place <= MAX_PADDING else _at(error, statement, place - statement.offset)) from error
        if name in session.statements:  # as in Postgres, what is wrong with the text comes first
            raise ProxyError("42P05", f'prepared statement "{plan.name}" already exists')
        source = (session.message or statement.text).encode("utf-8", "surrogateescape")
        session.statements[name] = replace(prepared, source=source)
        return backend.command_complete(b"PREPARE")
    if plan.prepared is Prepared.DEALLOCATE_ALL:
        _deallocate_all(session)
        return backend.command_complete(b"DEALLOCATE ALL")
    if plan.prepared is Prepared.DEALLOCATE:
        await adopting.look(session, name)
        _named(session, plan)
        del session.statements[name]
        return backend.command_complete(b"DEALLOCATE")
    if session.transaction.shard_count == 1:
        found = await _found(session, plan, statement)
        if runs_on_link(session, found):
            return await run_on_link(session, statement, plan, found)
    prepared, values = await executed(session, plan, statement)
    if plan.prepared is Prepared.EXPLAIN:
        if not describe:
            raise refusal("explain-execute-message")
        return await explain_prepared(session, prepared, plan, values)
    return await bind_and_run(session, prepared, values, describe=describe, result_formats=result_formats)


def _deallocate_all(session: Session) -> None:
    """The unnamed statement is the protocol's own, and stays."""
    for name in [name for name in session.statements if name]:
        del session.statements[name]


def _named(session: Session, plan: PreparedControl) -> PreparedStatement:
    found = session.statements.get(plan.name.encode())
    if found is None:
        raise ProxyError("26000", f'prepared statement "{plan.name}" does not exist')
    return found


async def _found(session: Session, plan: PreparedControl, statement: Statement | None = None) -> PreparedStatement:
    """Return the statement that EXECUTE names, as it is now; raises what is wrong with its arguments first.

    Those with a call are not looked at before the statement is: they would be evaluated twice.
    """
    await adopting.look(session, plan.name.encode())
    prepared = _named(session, plan)
    expected = prepared.description.parameter_oids
    if expected and len(expected) != plan.argument_count:  # where it has none, Postgres looks at no argument
        raise ProxyError(
            "42601",
            f'wrong number of parameters for prepared statement "{plan.name}"',
            detail=f"Expected {len(expected)} parameters but got {plan.argument_count}.",
        )
    if expected and not is_current(session, prepared) and "(" not in plan.arguments:
        await _argument_values(session, plan, expected, statement)
    return await current(session, prepared)


async def executed(
    session: Session, plan: PreparedControl, statement: Statement | None = None
) -> tuple[PreparedStatement, tuple[bytes | None, ...]]:
    """Return the statement that EXECUTE names, and the values of its arguments as text.

    ``statement``: where the arguments stand, if their places are known.
    """
    prepared = await _found(session, plan, statement)
    expected = prepared.description.parameter_oids
    return prepared, await _argument_values(session, plan, expected, statement) if expected else ()


async def executed_portal(session: Session, portal: Portal, *, limited: bool) -> Portal | None:
    """Return the portal that EXECUTE stands for; None where no rows come that could be fetched in parts.

    ``limited``: they are to be. Over one shard it is that of the shard's own EXECUTE, or EXPLAIN EXECUTE.
    """
    named = await control_behind(session, portal.prepared.statement)
    if named is not None and is_shown_by_shard(named.statement.plan):
        bind = replace(portal.bind, parameter_formats=(), parameters=())
        return Portal(portal.name, named, bind, None, session.settings_shard, deferred=True, inside=portal.inside)
    statement = portal.prepared.statement if named is None else named.statement
    plan = statement.plan
    if not isinstance(plan, PreparedControl) or plan.prepared not in (Prepared.EXECUTE, Prepared.EXPLAIN):
        return None
    if session.transaction.shard_count == 1:
        found = await _found(session, plan, statement)
        if runs_on_link(session, found):
            return portal_on_link(session, portal, statement, plan, found)
    if not limited or plan.prepared is not Prepared.EXECUTE:
        return None
    prepared, values = await executed(session, plan, statement)
    if prepared.description.fields is None:
        return None
    bind = replace(portal.bind, parameter_formats=(), parameters=values)
    prepared, bind = await fill_bind(session, prepared, bind, key_parameters(bind, prepared))
    executable = await resolve_bind(session, prepared, bind)
    shard = relayed_shard(executable, prepared.statement)
    return Portal(portal.name, prepared, bind, executable, shard, deferred=shard is not None, inside=portal.inside)


async def _ask_home(session: Session, sql: str) -> list[bytes | None]:
    """Run a query of ours that returns one row, on a link of the session; the statement's transaction goes on."""
    transaction = session.transaction
    shard = session.settings_shard
    links = await transaction.join([shard], writes=False, reads=True)
    answer = await links[shard].run(sql)
    transaction.finish_statement()
    return list(answer.rows[0])


def _at(error: ShardError, statement: Statement, offset: int) -> ShardError:
    """Return a shard's error about a part of a statement with its place in the message."""
    if error.fields.position is None:
        return error
    place = error.fields.position + offset + statement.offset
    return ShardError(error.fields.replace(P=str(place)), error.shard)


async def _type_oids(session: Session, statement: Statement, type_names: Sequence[str]) -> tuple[int, ...]:
    oids = []
    at = statement.text.find("(") if type_names else 0
    for name in type_names:
        at = statement.text.find(name, at)
        asked = "SELECT '" + name.replace("'", "''") + "'::pg_catalog.regtype::pg_catalog.oid"
        try:
            (value,) = await _ask_home(session, asked)
        except ShardError as error:
            # Its place is that of the name, not one in a text of ours.
            raise _at(ShardError(error.fields.replace(P="1"), error.shard), statement, at) from error
        oids.append(int(value or 0))
    return tuple(oids)


_serial = count(1)


async def _argument_values(
    session: Session, plan: PreparedControl, oids: Sequence[int], statement: Statement | None
) -> tuple[bytes | None, ...]:
    """Evaluate EXECUTE's arguments, which are expressions without tables, where the statement's types are known."""
    if not plan.argument_count:
        return ()
    # With NULL for the modifier it says "character" and "bit", which mean one character in a cast.
    types = await _ask_home(session, "SELECT " + ", ".join(f"pg_catalog.format_type({oid}, -1)" for oid in oids))
    names = ", ".join(session.encoding.heard(name or b"text") for name in types)
    holes = ", ".join(f"${number}" for number in range(1, len(oids) + 1))
    # Postgres's own EXECUTE: a cast would take what that refuses (text for a number), and subqueries. The name is new
    # each time, because after an error nobody can DEALLOCATE in the transaction; the link is washed of it later.
    own = f"pgchorus_arguments_{next(_serial)}"
    before = f"PREPARE {own} ({names}) AS SELECT {holes}; EXECUTE {own} ("
    try:
        return tuple(await _ask_home(session, f"{before}{plan.arguments}); DEALLOCATE {own}"))
    except ShardError as error:
        for link in session.transaction.links.values():
            link.dirty = True
        if statement is None:
            raise ShardError(error.fields.replace(P=None), error.shard) from error
        raise _at(error, statement, plan.arguments_at - len(before)) from error


# --- cursors -----------------------------------------------------------------------------------------------------


async def declare_spread(session: Session, statement: Statement, plan: DeclareSpread) -> bytes:
    """DECLARE over several shards, as a simple query."""
    if not session.transaction.in_block:  # an error; what is wrong with the query comes before that
        await session.database.descriptions.let_a_shard_speak(session, padded(statement))
    executable = session.resolve(replace(statement, plan=plan.query))
    return await session.spread_cursors.declare(session, plan, executable, Request(text=plan.text), statement.text)


async def spread_control(
    session: Session, plan: CursorControl, *, describe: bool, formats: tuple[int, ...]
) -> bytes | None:
    """FETCH, MOVE and CLOSE of a cursor over several shards; None when it is none."""
    found = session.spread_cursors.get(plan.name) if plan.name is not None else None
    if found is None or plan.name is None:
        return None
    if plan.closes:
        return await session.spread_cursors.close(session, plan.name)
    return await session.spread_cursors.fetch(session, plan, found, describe=describe, formats=formats)


async def cursor_control(session: Session, statement: Statement, plan: CursorControl, *, held: bool) -> bytes:
    """FETCH, MOVE and CLOSE go to the shard where the cursor was declared."""
    if plan.name is None:  # CLOSE ALL
        await session.spread_cursors.close_all(session)
        if session.transaction.shard_count == 1:
            session.cursors.clear()
            return await relay(session, statement, session.database.logical.home, writes=False, held=held)
        for shard in set(session.cursors.values()) | set(session.transaction.links):
            links = await session.transaction.join([shard], writes=False)
            await links[shard].run(statement.text)
        session.cursors.clear()
        return backend.command_complete(b"CLOSE CURSOR ALL")
    portal = session.portals.get(plan.name.encode())
    if plan.closes and portal is not None and portal.shard is None:
        await session.portals.pop(plan.name.encode()).close()
        return backend.command_complete(b"CLOSE CURSOR")
    tag = await relay(session, statement, session.cursor_shard(plan.name), writes=False, held=held)
    if plan.closes:
        session.cursors.pop(plan.name, None)
    return tag
