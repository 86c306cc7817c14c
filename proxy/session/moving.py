"""Writes in two steps: rows are read or changed in one place, and then written in others.

Decides how many statements it takes and what their parameters are; where the rows belong was planned. All rows are in
memory between the steps, up to a limit: the second step writes on the links that the first one read from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.errors import CONFIGURATION_LIMIT_EXCEEDED, INTERNAL_ERROR, ProxyError
from proxy.executor import tags
from proxy.executor.request import Request
from proxy.executor.results import ListResult
from proxy.session.filling import assigned, becomes_key, computed_rows
from proxy.session.foreseen import foresee
from proxy.wire import backend
from router.errors import refusal
from router.plan import Execution, HomeShard, InOrder, Same, SumTags, Task
from router.plan_steps import Bound
from router.resolve import KeyParameter, UnresolvedKey, shard_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from proxy.executor.request import ResultStream
    from proxy.session.session import Session
    from proxy.wire.backend import Field
    from router.plan import Executable
    from router.plan_steps import ApplyExecution, MoveExecution, MoveRows

    Start = Callable[[Session, Executable, Request], Awaitable[ResultStream]]

Row = list[bytes | None]

MAX_PARAMETERS: Final = 65_535
_FIRST_OWN_OID: Final = 16384  # types of users: their OIDs differ from shard to shard
#: regproc, regclass and their like, whose binary form is a number of one server's own; and lists of them.
_OBJECTS: Final = frozenset({24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191})
_OBJECT_LISTS: Final = frozenset({1008, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192})
_NO_BINARY: Final = _OBJECTS | _OBJECT_LISTS | {1033, 1034, 3642}  # aclitem, gtsvector
_TEXTS: Final = frozenset({18, 19, 25, 1042, 1043, 1002, 1003, 1009, 1014, 1015})  # and lists of them
_HEADER: Final = 5


class _Rows:
    """What a first step gave: rows in the formats that suit sending them on."""

    def __init__(self, fields: Sequence[Field], tag: bytes) -> None:
        self.fields = tuple(fields)
        self.tag = tag
        self.rows: list[Row] = []

    def oids(self) -> list[int]:
        return [field.type_oid if field.type_oid < _FIRST_OWN_OID else 0 for field in self.fields]

    def formats(self) -> list[int]:
        return [field.format for field in self.fields]


def travelling_format(type_oid: int) -> int:
    """Return the format in which values of a type go from shard to shard: binary is exact under any setting."""
    return 0 if type_oid >= _FIRST_OWN_OID or type_oid in _NO_BINARY else 1


async def read_rows(session: Session, start: Start, executable: Executable, request: Request) -> _Rows:
    """Run a first step to its end. Raises 53400 for more than ``merge.max_parked_bytes``."""
    limit = session.database.merge_limits.max_parked_bytes
    result = await start(session, executable, request)
    size = 0
    rows: list[Row] = []
    try:
        while True:
            batch = await result.next_rows()
            for frames in batch.frames:
                size += len(frames)
                rows += _decoded(frames)
            if size > limit:
                raise ProxyError(
                    CONFIGURATION_LIMIT_EXCEEDED,
                    "the statement would move too many rows between shards",
                    detail=f"They take more than {limit} bytes.",
                    hint="Move fewer rows at a time, or raise merge.max_parked_bytes.",
                )
            if batch.done:
                break
    finally:
        await result.close()
    found = _Rows(result.row_description or (), result.tag)
    found.rows = rows
    return found


def _decoded(frames: bytes) -> list[Row]:
    """Take a run of DataRow messages apart."""
    found: list[Row] = []
    at = 0
    while at < len(frames):
        end = at + 1 + int.from_bytes(frames[at + 1 : at + _HEADER], "big")
        found.append(backend.decode_data_row(frames[at + _HEADER : end]))
        at = end
    return found


# --- rows read, then inserted ----------------------------------------------------------------------------------------


async def start_move(session: Session, execution: MoveExecution, request: Request, start: Start) -> ResultStream:
    """Read the rows, place them, insert them."""
    plan = execution.plan
    if plan.verb == "UPDATE" and session.own_settings["allow_key_update"] != "on":
        raise refusal("key-update-off")
    await foresee(session, request)
    described = await session.database.descriptions.ask(session, plan.read.text, request.parameter_oids)
    await _check_objects(session, plan, described.fields or ())
    formats = tuple(travelling_format(field.type_oid) for field in described.fields or ())
    if isinstance(execution.read, Execution) and session.own_settings["read_consistency"] == "snapshot":
        await session.transaction.settle([task.shard for task in execution.read.tasks])
    # What the client was told of the whole statement (fields) says nothing of what is read for it.
    reading = replace(
        request, text=plan.read.text, result_formats=formats, describe_rows=False, fields=described.fields
    )
    read = await read_rows(session, start, execution.read, reading)
    writer = _Writer(session, execution, request, read)
    await writer.compute_extra()
    await writer.read_keys()
    try:
        rounds = writer.rounds()
    except UnresolvedKey as error:
        await session.database.descriptions.let_a_shard_speak(session, request.text, request.parameter_oids)
        raise refusal("key-cast", reason=str(error), type=plan.key_type) from error
    if len(rounds) == 1 and not plan.verb:
        return await start(session, rounds[0], request)
    results = [await _whole(session, one, request, start) for one in rounds]
    tag = tags.add([result.tag for result in results])
    if plan.verb:
        tag = plan.verb.encode() + b" " + tag.rpartition(b" ")[2]
    frames = iter([piece for result in results for piece in result.frames])
    return ListResult(frames, results[0].fields, tag)


async def _check_objects(session: Session, plan: MoveRows, fields: Sequence[Field]) -> None:
    """Refuse objects of a server for columns that would store their numbers: they come as names, and go to many."""
    at = [number for number, field in enumerate(fields) if field.type_oid in _OBJECTS | _OBJECT_LISTS]
    if not at or isinstance(plan.target, HomeShard):
        return
    values = ", ".join(f"${number}" for number in range(1, len(fields) + len(plan.extra) + 1))
    columns = (await session.database.descriptions.ask(session, f"{plan.into}VALUES ({values})", ())).parameter_oids
    if any(columns[number] not in _OBJECTS | _OBJECT_LISTS | _TEXTS for number in at):
        raise refusal("function-home", detail="The number of an object is each server's own.")


class _Whole:
    """One round's answer."""

    def __init__(self, frames: list[bytes], fields: tuple[Field, ...] | None, tag: bytes) -> None:
        self.frames = frames
        self.fields = fields
        self.tag = tag


async def _whole(session: Session, execution: Execution, request: Request, start: Start) -> _Whole:
    result = await start(session, execution, request)
    frames: list[bytes] = []
    try:
        while True:
            batch = await result.next_rows(1)
            frames += batch.frames
            if batch.done:
                return _Whole(frames, result.row_description, result.tag)
    finally:
        await result.close()


class _Writer:
    """The second step of MoveRows."""

    def __init__(self, session: Session, execution: MoveExecution, request: Request, read: _Rows) -> None:
        self._session = session
        self._execution = execution
        self._plan = execution.plan
        self._request = request
        self._rows = read.rows
        self._keys: list[KeyParameter] = []  # of the rows, where they are other than those that were read
        self._formats = read.formats()
        self._oids = read.oids()
        self._types = [field.type_oid for field in read.fields]  # the shards' own, where they are a user's too

    async def compute_extra(self) -> None:
        """Compute the columns that the rows do not give, once for each row."""
        extra = self._plan.extra
        if not extra or not self._rows:
            self._formats += [0] * len(extra)
            self._oids += [0] * len(extra)
            return
        values = await computed_rows(self._session, extra, len(self._rows))
        for row, added in zip(self._rows, values, strict=True):
            row.extend(value.data for value in added)
        self._formats += [value.format for value in values[0]]
        self._oids += [value.oid for value in values[0]]
        self._types += [value.oid for value in values[0]]

    async def read_keys(self) -> None:
        """See what the keys become, where their type is not the column's."""
        at, key_type, session = self._plan.key_column, self._plan.key_type, self._session
        if at is None or not self._rows or becomes_key(self._types[at], key_type):
            return
        await session.database.descriptions.let_a_shard_speak(session, self._request.text, self._request.parameter_oids)
        sent = [KeyParameter(row[at], self._formats[at], self._types[at]) for row in self._rows]
        self._keys = await assigned(session, sent, key_type)

    def rounds(self) -> list[Execution]:
        """Return the statements: one for each shard in each round, with as many rows as a statement can take."""
        shards = self._execution.shards
        own = len(self._request.parameters)
        width = max(len(self._oids), 1)
        most = (MAX_PARAMETERS - own) // width
        if not self._rows:
            return [Execution((self._task(shards[0], []),), SumTags(), writes=True)]
        placed: dict[int, list[int]] = {}
        for number, row in enumerate(self._rows):
            for shard in self._shards(number, row):
                placed.setdefault(shard, []).append(number)
        longest = max(map(len, placed.values()))
        if longest > most and self._plan.at_once:
            raise ProxyError(
                CONFIGURATION_LIMIT_EXCEEDED,
                "INSERT ... ON CONFLICT DO UPDATE would move too many rows at once",
                detail=f"One statement takes {most} rows of this table on a shard.",
                hint="Insert fewer rows at a time.",
            )
        found = []
        for first in range(0, longest, most):
            parts = {shard: placed[shard][first : first + most] for shard in shards if placed.get(shard, ())[first:]}
            tasks = tuple(self._task(shard, [self._rows[number] for number in rows]) for shard, rows in parts.items())
            found.append(Execution(tasks, self._combine(parts), writes=True))
        return found

    def _combine(self, parts: dict[int, list[int]]) -> SumTags | InOrder | Same:
        if self._plan.key_column is None:
            return Same(home_first=True)
        positions = {number: at for at, rows in enumerate(parts.values()) for number in rows}
        return InOrder(tuple(positions[number] for number in sorted(positions)))

    def _shards(self, number: int, row: Row) -> tuple[int, ...]:
        """Return where a row belongs."""
        at = self._plan.key_column
        if at is None:
            return self._execution.shards
        value = self._keys[number] if self._keys else KeyParameter(row[at], self._formats[at], self._types[at])
        plan, session = self._plan, self._session
        return (shard_of(plan.key_type, value, session.database.logical, session.recode, modifier=plan.key_modifier),)

    def _task(self, shard: int, rows: Sequence[Row]) -> Task:
        request, plan = self._request, self._plan
        first, width = len(request.parameters) + 1, len(self._oids)
        if rows:
            groups = (
                "(" + ", ".join(f"${number}" for number in range(start, start + width)) + ")"
                for start in range(first, first + width * len(rows), width)
            )
            text = f"{plan.into}VALUES {', '.join(groups)}{plan.tail}"
        else:
            values = ", ".join(f"${number}" for number in range(first, first + width))
            text = f"{plan.into}SELECT {values} WHERE false{plan.tail}"
        count = max(len(rows), 1)
        formats = request.parameter_formats
        if len(formats) != len(request.parameters):
            formats = (formats or (0,)) * len(request.parameters)
        oids = request.parameter_oids + (0,) * (len(request.parameters) - len(request.parameter_oids))
        flat = tuple(value for row in rows for value in row) or (None,) * width
        bound = Bound((*request.parameters, *flat), (*formats, *self._formats * count), (*oids, *self._oids * count))
        return Task(shard, text, bound=bound)


# --- reference tables by row -----------------------------------------------------------------------------------------


async def start_apply(session: Session, execution: ApplyExecution, request: Request, start: Start) -> ResultStream:
    """Change the home shard's copy, then apply the rows that it changed to the others."""
    plan = execution.plan
    hidden = plan.keys + len(plan.types)
    described = await session.database.descriptions.ask(session, plan.home.text, request.parameter_oids)
    fields = described.fields or ()
    visible = len(fields) - hidden
    asked = request.result_formats
    shown = asked if len(asked) > 1 else (asked or (0,)) * visible
    formats = (*shown, *(travelling_format(field.type_oid) for field in fields[visible:]))
    changing = replace(request, text=plan.home.text, result_formats=formats, describe_rows=False)
    changed = await read_rows(session, start, execution.home, changing)
    others = execution.shards[1:]
    if changed.rows and others:
        await session.transaction.settle(list(others))
        for statement in _applied(execution, changed, visible):
            await _check_applied(session, statement, start)
    frames = iter([backend.data_row(row[:visible]) for row in changed.rows] if visible else [])
    return ListResult(frames, changed.fields[:visible] if visible else None, changed.tag)


class _Applied:
    """One statement for all other shards, and how many rows it must change there."""

    def __init__(self, execution: Execution, rows: int) -> None:
        self.execution = execution
        self.rows = rows


def _applied(execution: ApplyExecution, changed: _Rows, visible: int) -> list[_Applied]:
    """Return the statements that make the same of the other copies: deletes first, inserts last."""
    plan, keys = execution.plan, execution.plan.keys
    old, new, values = visible, visible + keys, visible + 2 * keys
    deleted, updated, inserted = [], [], []
    columns = range(values, len(changed.fields))
    for row in changed.rows:
        if row[new] is None:
            deleted.append(row)
        elif row[old] is None:
            inserted.append(row)
        else:
            updated.append(row)
    key_columns = range(old, old + keys)
    formats = changed.formats()
    found = []
    for rows, wanted, text in (
        (deleted, list(key_columns), plan.delete),
        (updated, [*key_columns, *(columns[at] for at in plan.updated)], plan.update),
        (inserted, list(columns), plan.insert),
    ):
        types = [plan.types[at - old if at < new else at - values + keys] for at in wanted]
        most = MAX_PARAMETERS // max(len(wanted), 1)
        for first in range(0, len(rows), most):
            part = rows[first : first + most]
            bound = Bound(
                tuple(row[at] for row in part for at in wanted),
                tuple(formats[at] for at in wanted) * len(part),
                (),
            )
            statement = f"{text[0]}VALUES {_groups(types, len(part))}{text[1]}"
            tasks = tuple(Task(shard, statement, bound=bound) for shard in execution.shards[1:])
            found.append(_Applied(Execution(tasks, Same(), writes=True), len(part)))
    return found


def _groups(types: Sequence[str], rows: int) -> str:
    width = len(types)
    casts = list(enumerate(types, start=1))
    found = ([f"${row * width + at}::{name}" for at, name in casts] for row in range(rows))
    return ", ".join(f"({', '.join(group)})" for group in found)


async def _check_applied(session: Session, applied: _Applied, start: Start) -> None:
    """Apply rows; every one must be found, or the copies are not what they should be."""
    result = await start(session, applied.execution, Request(text=""))
    try:
        while not (await result.next_rows()).done:
            pass
    finally:
        await result.close()
    count = int(result.tag.rpartition(b" ")[2] or b"0")
    if count != applied.rows:
        raise ProxyError(
            INTERNAL_ERROR,
            "the copies of a reference table differ",
            detail=f"{applied.rows} rows changed on the home shard, {count} elsewhere.",
            hint="See pgchorus doctor.",
        )
