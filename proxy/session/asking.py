"""Asking a subquery before its statement runs: its answer becomes a parameter.

Decides nothing about routes: the subquery has a plan of its own. That it refers to nothing outside is seen here, as
Postgres describes it alone: names inside it come first, so what has a meaning alone has the same one in its place.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.executor.request import Request
from proxy.shards.errors import ShardError
from router.errors import refusal
from router.plan import Execution
from router.plan_steps import Shape
from router.resolve import KeyParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.moving import Row
    from proxy.session.session import Session
    from proxy.wire.backend import Field
    from router.plan_steps import Asked

_BOOL: Final = 16
_UNDEFINED: Final = frozenset({"42703", "42P01"})
_ARRAYS: Final = {
    16: 1000, 17: 1001, 18: 1002, 19: 1003, 20: 1016, 21: 1005, 23: 1007, 25: 1009, 26: 1028, 700: 1021, 701: 1022,
    790: 791, 869: 1041, 1042: 1014, 1043: 1015, 1082: 1182, 1083: 1183, 1114: 1115, 1184: 1185, 1186: 1187, 1266: 1270,
    1700: 1231, 2950: 2951, 3802: 3807,
}  # fmt: skip


async def asked(session: Session, value: Asked, parameters: Sequence[KeyParameter]) -> list[KeyParameter]:
    """Return the answer of a subquery as parameters: one, or one for each column of its rows."""
    from proxy.session.moving import read_rows, travelling_format  # noqa: PLC0415 - those fill values in, too
    from proxy.session.run import start  # noqa: PLC0415 - the same

    read = value.read
    oids = tuple(parameter.oid for parameter in parameters)
    try:
        described = await session.database.describe(session, read.text, oids)
    except ShardError as error:
        if error.sqlstate in _UNDEFINED:
            raise refusal("subquery") from error
        raise
    fields = described.fields or ()
    if value.shape is Shape.ROWS:
        _check_rows(value, fields)
    elif value.shape is not Shape.EXISTS and len(fields) != 1:
        raise ProxyError("42601", "subquery must return only one column")
    request = Request(
        text=read.text,
        parameter_oids=oids,
        parameter_formats=tuple(parameter.format for parameter in parameters),
        parameters=tuple(parameter.data for parameter in parameters),
        result_formats=tuple(travelling_format(field.type_oid) for field in fields),
    )
    executable = session.resolve(read, parameters)
    if isinstance(executable, Execution) and session.own_settings["read_consistency"] == "snapshot":
        await session.transaction.settle([task.shard for task in executable.tasks])
    rows = (await read_rows(session, start, executable, request)).rows
    session.transaction.finish_statement()
    if value.shape is Shape.ROWS:
        return [_array([[row[at]] for row in rows], field.type_oid) for at, field in enumerate(fields)]
    if value.shape is Shape.EXISTS:
        return [KeyParameter(bytes([bool(rows)]), 1, _BOOL)]
    oid, form = fields[0].type_oid, request.result_formats[0]
    if value.shape is Shape.LIST:
        return [_array(rows, oid)]
    if len(rows) > 1:
        raise ProxyError("21000", "more than one row returned by a subquery used as an expression")
    return [KeyParameter(rows[0][0] if rows else None, form, oid)]


def _check_rows(value: Asked, fields: Sequence[Field]) -> None:
    """Refuse rows that arrays of their columns cannot stand for."""
    if tuple(field.name.decode("utf-8", "surrogateescape") for field in fields) != value.columns:
        raise refusal("subquery", detail="Its columns have other names: name them by AS.")
    if value.shown and any(field.table_oid or field.type_modifier != -1 for field in fields):
        raise refusal("subquery", detail="RETURNING may show a column of it, which would be described in another way.")
    for field in fields:
        if field.type_oid not in _ARRAYS:
            raise refusal("subquery", detail=f"A list of values of type {field.type_oid} cannot be filled in.")


def _array(rows: Sequence[Row], element: int) -> KeyParameter:
    """Return a column as an array in its binary form."""
    array = _ARRAYS.get(element)
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
