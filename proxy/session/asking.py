"""Asking a subquery before its statement runs: its answer becomes a parameter.

Decides nothing about routes: the subquery has a plan of its own. That it refers to nothing outside is seen here, as
Postgres describes it alone: names inside it come first, so what has a meaning alone has the same one in its place.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from proxy.errors import SERIALIZATION_FAILURE, ProxyError
from proxy.executor.request import Request
from proxy.shards.errors import ShardError
from router import asked_types
from router.errors import refusal
from router.gathered import offsets
from router.plan import Execution
from router.plan_steps import ReadTables, Shape
from router.resolve import KeyParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.moving import Row
    from proxy.session.session import Session
    from proxy.wire.backend import Field
    from router.plan import Statement
    from router.plan_steps import Asked

_BOOL: Final = 16
_LOOKS: Final = 10  # at rows that are moved again and again
_TEXT, _BINARY = 0, 1
_TEXTS: Final = frozenset({25, 1042, 1043})
_UNDEFINED: Final = frozenset({"42703", "42P01"})


async def asked(session: Session, value: Asked, parameters: Sequence[KeyParameter]) -> list[KeyParameter]:
    """Return the answer of a subquery as parameters: one, or one for each column of its rows."""
    from proxy.session.moving import travelling_format  # noqa: PLC0415 - those fill values in, too

    read = value.read
    oids = tuple(parameter.oid for parameter in parameters)
    try:
        described = await session.database.descriptions.ask(session, read.text, oids)
    except ShardError as error:
        if error.sqlstate in _UNDEFINED:
            raise refusal("subquery") from error
        raise
    fields = described.fields or ()
    if value.shape is Shape.TABLES:
        return await _tables(session, value, parameters, fields)
    if value.shape is Shape.ROWS:
        _check_rows(value, fields)
    elif value.shape not in {Shape.EXISTS, Shape.ROW} and len(fields) != 1:
        raise ProxyError("42601", "subquery must return only one column")
    _check_collations(value, fields)
    texts = {name.encode("utf-8", "surrogateescape") for name in value.texts}
    formats = tuple(_TEXT if field.name in texts else travelling_format(field.type_oid) for field in fields)
    rows = await _rows(session, read, parameters, formats)
    if value.seen is not None:
        rows = await _all_locked(session, value, value.seen, parameters, rows)
    return _answer(value, rows, fields, formats)


def _answer(value: Asked, rows: list[Row], fields: Sequence[Field], formats: tuple[int, ...]) -> list[KeyParameter]:
    """Return rows as parameters."""
    if value.shape is Shape.ROWS:
        as_texts = [field.name.decode("utf-8", "surrogateescape") in value.texts for field in fields]
        oids = [asked_types.TEXT if text else field.type_oid for text, field in zip(as_texts, fields, strict=True)]
        return [_array([[row[at]] for row in rows], oid) for at, oid in enumerate(oids)]
    if value.shape is Shape.EXISTS:
        return [KeyParameter(bytes([bool(rows)]), 1, _BOOL)]
    if value.shape is Shape.ROW:
        if len(rows) != 1:
            raise refusal("subquery", detail="It does not have exactly one row.")
        return [KeyParameter(rows[0][at], formats[at], field.type_oid) for at, field in enumerate(fields)]
    oid, form = fields[0].type_oid, formats[0]
    if value.shape is Shape.LIST:
        return [_array(rows, oid)]
    if len(rows) > 1:
        raise ProxyError("21000", "more than one row returned by a subquery used as an expression")
    return [KeyParameter(rows[0][0] if rows else None, form, oid)]


async def nothing(session: Session, value: Asked, parameters: Sequence[KeyParameter]) -> KeyParameter:
    """Return what a subquery without an answer is, of the type that its answer would have."""
    if value.shape is Shape.EXISTS:
        return KeyParameter(None, _BINARY, _BOOL)
    described = await session.database.descriptions.ask(
        session, value.read.text, tuple(each.oid for each in parameters)
    )
    oid = (described.fields or ())[0].type_oid
    return _array([], oid) if value.shape is Shape.LIST else KeyParameter(None, _TEXT, oid)


async def _rows(
    session: Session, read: Statement, parameters: Sequence[KeyParameter], formats: tuple[int, ...]
) -> list[Row]:
    """Run a statement of our own to its end."""
    from proxy.session.moving import read_rows  # noqa: PLC0415 - those fill values in, too
    from proxy.session.run import start  # noqa: PLC0415 - the same

    request = Request(
        text=read.text,
        parameter_oids=tuple(parameter.oid for parameter in parameters),
        parameter_formats=tuple(parameter.format for parameter in parameters),
        parameters=tuple(parameter.data for parameter in parameters),
        result_formats=formats,
    )
    executable = session.resolve(read, parameters)
    if isinstance(executable, Execution) and session.own_settings["read_consistency"] == "snapshot":
        await session.transaction.settle([task.shard for task in executable.tasks])
    rows = (await read_rows(session, start, executable, request)).rows
    session.transaction.finish_statement()
    return rows


async def _all_locked(
    session: Session, value: Asked, seen: Statement, parameters: Sequence[KeyParameter], rows: list[Row]
) -> list[Row]:
    """Return the rows that are locked when a look at all shards, at one moment, finds no others.

    Locking one by one passes over a row that is moved to another shard while it is waited for.
    """
    for _ in range(_LOOKS):
        if {row[0] for row in await _rows(session, seen, parameters, (_BINARY,))} <= {row[0] for row in rows}:
            return rows
        rows += await _rows(session, value.read, parameters, (_BINARY,))
    raise ProxyError(SERIALIZATION_FAILURE, "could not serialize access due to concurrent update")


async def _tables(
    session: Session, value: Asked, parameters: Sequence[KeyParameter], fields: Sequence[Field]
) -> list[KeyParameter]:
    """Return the rows of several tables, which one statement on each shard reads: a list for each column."""
    plan = value.read.plan
    assert isinstance(plan, ReadTables)  # noqa: S101 - narrows the type
    several = len(plan.loads) > 1
    known = [field.type_oid for field in fields]
    for oid in known:
        if oid not in asked_types.LISTS and oid not in asked_types.TEXTS and oid < asked_types.FIRST_OWN:
            raise refusal("subquery", detail=f"A list of values of type {oid} cannot be filled in.")
    formats = tuple(_BINARY if oid in asked_types.LISTS else _TEXT for oid in known)
    rows = await _rows(session, value.read, parameters, formats)
    found = []
    for number, (before, own, _) in enumerate(offsets(plan.loads)):
        first = before + several
        mine = rows
        if several:
            tag = struct.pack(">h", number)
            mine = [row for row in rows if row[0] == tag]
        for at in range(first, first + own):
            oid = known[at] if known[at] in asked_types.LISTS else asked_types.TEXT
            found.append(_array([[row[at]] for row in mine], oid))
    return found


def _check_collations(value: Asked, fields: Sequence[Field]) -> None:
    """Refuse texts whose collation would be lost. Lists for IN are compared by bytes."""
    if value.shape not in {Shape.VALUE, Shape.ROWS, Shape.ROW}:
        return
    for field in fields:
        name = field.name.decode("utf-8", "surrogateescape") if value.shape is Shape.ROWS else ""
        if name in value.unsure and field.type_oid in _TEXTS:
            raise refusal("subquery", detail="A text that it computes may have a collation of its own.")


def _check_rows(value: Asked, fields: Sequence[Field]) -> None:
    """Refuse rows that arrays of their columns cannot stand for."""
    if tuple(field.name.decode("utf-8", "surrogateescape") for field in fields) != value.columns:
        raise refusal("subquery", detail="Its columns have other names: name them by AS.")
    for name, field in zip(value.columns, fields, strict=True):
        as_text = field.type_oid in asked_types.TEXTS or field.type_oid >= asked_types.FIRST_OWN
        if field.type_oid not in asked_types.LISTS and not (as_text and name in value.texts):
            detail = f"Values of type {field.type_oid} cannot be filled in: leave out its column {name}."
            raise refusal("subquery", detail=detail)


def _array(rows: Sequence[Row], element: int) -> KeyParameter:
    """Return a column as an array in its binary form."""
    array = asked_types.LISTS.get(element)
    if array is None:
        raise refusal("subquery", detail=f"A list of values of type {element} cannot be filled in.")
    parts = [struct.pack(">iii", 1 if rows else 0, any(row[0] is None for row in rows), element)]
    if rows:
        parts.append(struct.pack(">ii", len(rows), 1))
    for (value,) in rows:
        parts.append(struct.pack(">i", -1 if value is None else len(value)))
        if value is not None:
            parts.append(value)
    return KeyParameter(b"".join(parts), 1, array)
