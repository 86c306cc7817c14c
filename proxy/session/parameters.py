"""Parameters of statements that several shards run: read by one shard first, where that makes a difference.

Decides which need it. Postgres complains about a parameter at Bind, before BindComplete: values that no shard will
surely take are shown to one first. It reads ``now`` and ``today`` off its clock, once: several shards would do so at
different moments, so one does it for all (a plain ``now`` is the transaction's, as now() is). Types of which nothing is
known here are left to the shards that run the statement; what they have against a value is told behind BindComplete.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.session import planning
from proxy.session.filling import compute, moment_parameter
from proxy.turns import beside
from proxy.wire import frontend
from router import clock_words
from router.plan_steps import Moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from router.relation import UserType
    from router.resolve import KeyParameter

_TEXT: Final = 0
_INTEGER: Final = re.compile(rb"-?[0-9]{1,18}")
_BOUNDS: Final = {21: 1 << 15, 23: 1 << 31, 20: 1 << 63}
_PATTERNS: Final = {
    16: re.compile(rb"t|f|true|false|on|off|yes|no|1|0"),
    1700: re.compile(rb"-?[0-9]{1,1000}(\.[0-9]{1,1000})?|NaN|-?Infinity"),
    700: re.compile(rb"-?[0-9]{1,30}(\.[0-9]{1,30})?"),
    701: re.compile(rb"-?[0-9]{1,30}(\.[0-9]{1,30})?(e[-+]?[0-9]{1,2})?"),
    2950: re.compile(rb"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"),
}
_DATE: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([-+][0-9]{2}(:?[0-9]{2})?)?"
)
_TEXTS: Final = frozenset({25, 1042, 1043})
_WIDTHS: Final = {16: 1, 20: 8, 21: 2, 23: 4, 700: 4, 701: 8, 1082: 4, 1114: 8, 1184: 8, 2950: 16}
_MOMENTS: Final = frozenset({1114, 1184})
_DATE_OID: Final = 1082


def is_sure(value: bytes | None, form: int, oid: int) -> bool:
    """Whether a shard will take a value, or nothing is known of its type."""
    if value is None:
        return True
    return _is_sure_text(value, oid) if form == _TEXT else len(value) == _WIDTHS.get(oid, len(value))


def _is_sure_text(value: bytes, oid: int) -> bool:
    if oid in _BOUNDS:
        return _INTEGER.fullmatch(value) is not None and -_BOUNDS[oid] <= int(value) < _BOUNDS[oid]
    if oid in _TEXTS:
        return value.isascii() or _is_utf8(value)
    if oid in _PATTERNS:
        return _PATTERNS[oid].fullmatch(value) is not None
    return (oid != _DATE_OID and oid not in _MOMENTS) or _is_moment(value, oid)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_moment(value: bytes, oid: int) -> bool:
    pattern = _DATE if oid == _DATE_OID else _MOMENT
    if pattern.fullmatch(value) is None:
        return oid in _MOMENTS and _is_moment(value, _DATE_OID)
    try:
        if oid == _DATE_OID:
            date.fromisoformat(value.decode())
        else:
            datetime.fromisoformat(value[:16].decode())
            return value[17:19] < b"60"
    except ValueError:
        return False
    return True


def _are_sure(parameters: Sequence[KeyParameter]) -> bool:
    return all(is_sure(value.data, value.format, value.oid) for value in parameters)


async def read_first(
    session: Session,
    bind: frontend.Bind,
    parameters: Sequence[KeyParameter],
    read: Callable[[], Awaitable[object]],
) -> frontend.Bind:
    """Return the Bind as shards are to get it; ``read`` shows its parameters to one of them, and raises its error."""
    many = len(parameters) > planning.LONG_ROWS
    if not (await beside(_are_sure, parameters) if many else _are_sure(parameters)):
        await read()
    texts = b"\0".join([value.data for value in parameters if value.format == _TEXT and value.data])
    if not clock_words.may_hold(texts):
        return bind
    types = {kind.oid: kind for kind in session.database.catalog.types}
    places = [at for at, value in enumerate(parameters) if _reads(value, types)]
    if not places:
        return bind
    moment = f"${len(parameters) + 1}"
    read_by = tuple(_expression(parameters[at], f"${at + 1}", moment) for at in places)
    known = [*parameters, moment_parameter(session, Moment.TRANSACTION)]
    found = await compute(session, [read_by], known)
    values, formats = list(bind.parameters), [value.format for value in parameters]
    for at, value in zip(places, found, strict=True):
        values[at], formats[at] = value.data, value.format
    return frontend.Bind(bind.portal, bind.statement, tuple(formats), tuple(values), bind.result_formats)


def _reads(value: KeyParameter, types: Mapping[int, UserType]) -> bool:
    if value.format != _TEXT or value.data is None or not clock_words.oid_reads_words(value.oid, types):
        return False
    return clock_words.holds(value.data)


def _expression(value: KeyParameter, parameter: str, moment: str) -> str:
    """Return what the value is, by one clock."""
    name = clock_words.SCALARS.get(value.oid, "")
    word = (value.data or b"").decode(errors="replace")
    known = clock_words.expression(word, name, moment)
    if known is not None:
        return f"{known}::pg_catalog.{name}"
    return parameter


def check_result_formats(message: frontend.Bind, prepared: PreparedStatement) -> None:
    """Raise what Postgres says when the number of result formats is wrong."""
    given, fields = len(message.result_formats), prepared.description.fields
    if fields is not None and given > 1 and given != len(fields):
        raise ProxyError("08P01", f"bind message has {given} result formats but query has {len(fields)} columns")


def check_parameters(message: frontend.Bind, prepared: PreparedStatement) -> None:
    """Raise what Postgres says when the number of parameters is wrong."""
    expected, given = len(prepared.description.parameter_oids), len(message.parameters)
    if given != expected:
        name = prepared.name.decode(errors="replace")
        raise ProxyError(
            "08P01",
            f'bind message supplies {given} parameters, but prepared statement "{name}" requires {expected}',
        )
