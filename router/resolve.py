"""Plan + parameter values -> concrete shards and texts, at Bind.

Decides which shard each key belongs to. A value that only Postgres can read (or that is none of the key's type) raises
UnresolvedKey: the caller asks a shard, plans again with the parameter's type, or refuses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from router.arrays import array_elements
from router.errors import Refused, refusal
from router.gathered import named_text, shard_text
from router.keys import family, tells
from router.plan import (
    Aggregate,
    AnyShard,
    AtCursor,
    AtShard,
    Concat,
    Constant,
    Ddl,
    Elements,
    EveryShard,
    Executable,
    Execution,
    Gather,
    GatherExecution,
    HomeShard,
    InOrder,
    Ordered,
    Parameter,
    Plan,
    Same,
    Scatter,
    ShardByShard,
    Single,
    SplitInsert,
    SumTags,
    Target,
    Task,
)
from router.plan_copy import CopyIn, CopyInExecution, CopyOut, CopyOutExecution
from router.plan_steps import (
    ApplyExecution,
    ApplyRows,
    CreateExecution,
    CreateFrom,
    CreateSchema,
    FillExecution,
    FillView,
    FoundExecution,
    LockCopies,
    LockCopiesExecution,
    LockExecution,
    LockRows,
    MoveExecution,
    MoveRows,
    OwnRows,
    ReadTables,
    SchemaExecution,
)
from router.sharding import (
    INTEGER_TYPES,
    KEY_TYPE_OIDS,
    PADDED,
    TEXT_TYPES,
    UnsureKey,
    assigned_key,
    decode_key,
    integer_slot,
    slot_check,
    slot_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from router.cluster import Database
    from router.plan import KeyTerm, KeyValue, Load

_UNKNOWN_OIDS = frozenset({0, 705})
_INT8_OID = 20
_LARGEST = (1 << 63) - 1


class KeyParameter(NamedTuple):
    """A parameter as it came in Bind: its bytes (None: NULL), its format (0 text, 1 binary), its type (0: open)."""

    data: bytes | None
    format: int
    oid: int


class UnresolvedKey(Exception):  # noqa: N818 - named for what the key is
    """A key whose shard cannot be told from what the client sent. ``parameter`` counts from 1; 0: a constant."""

    def __init__(self, key_type: str, reason: str, parameter: int = 0) -> None:
        super().__init__(f"{f'parameter ${parameter}' if parameter else 'a key'} of type {key_type}: {reason}")
        self.key_type = key_type
        self.parameter = parameter


class _Resolver:
    def __init__(
        self,
        database: Database,
        parameters: Sequence[KeyParameter] | Callable[[int], KeyParameter],
        recode: Callable[[bytes], bytes] | None,
    ) -> None:
        self._database = database
        self._parameters = parameters
        self._recode = recode

    def _parameter(self, number: int) -> KeyParameter:
        if callable(self._parameters):
            return KeyParameter(*self._parameters(number))
        if number > len(self._parameters):
            raise UnresolvedKey("", "no value was bound", number)
        return KeyParameter(*self._parameters[number - 1])

    def text_on(self, plan: Scatter, shard: int) -> str | None:
        """Return a shard's text."""
        return plan.text if plan.elsewhere is None or shard == self._database.home else plan.elsewhere

    def value(self, term: KeyTerm, key_type: str) -> KeyValue:
        """Return a key's value; a parameter is read as what it was sent as."""
        if isinstance(term, Constant):
            return term.value
        data, form, oid = self._parameter(term.number)
        if data is None:
            return None
        sent = KEY_TYPE_OIDS.get(oid, "") if oid not in _UNKNOWN_OIDS else key_type
        if sent == PADDED and (key_type == "text" or term.assigned is not None):
            # Compared with a text, or assigned to one, a char(n) becomes a text without its blanks. Not so beside a
            # varchar: there both are compared as char(n), and any number of blanks is equal.
            sent, data = "text", data.rstrip(b" ")
        if not tells(family(sent), family(key_type)):
            raise UnresolvedKey(key_type, f"it was sent as a value of type {oid}", term.number)
        if self._recode is not None and (sent in TEXT_TYPES or sent == PADDED):
            try:
                data = self._recode(data)
            except UnicodeError as error:
                raise UnresolvedKey(key_type, str(error), term.number) from error
        try:
            found = decode_key(sent, data, form)
        except UnsureKey as error:
            raise UnresolvedKey(key_type, error.reason, term.number) from error
        return found if term.assigned is None else assigned_key(key_type, found, term.assigned)

    def shard(self, term: KeyTerm, key_type: str) -> int:
        """Return the shard of a key."""
        try:
            slot = slot_of(key_type, self.value(term, key_type), self._database.slots)
        except UnsureKey as error:
            number = term.number if isinstance(term, Parameter) else 0
            raise UnresolvedKey(key_type, error.reason, number) from error
        return self._database.shard_of_slot(slot)

    def shards_of_rows(self, terms: Sequence[KeyTerm], key_type: str) -> list[int]:
        """Return the shard of each of many keys: most are integers from the text, which need no more than a hash."""
        if key_type not in INTEGER_TYPES:
            return [self.shard(term, key_type) for term in terms]
        slots, owner = self._database.slots, self._database.shard_of_slot
        return [
            owner(integer_slot(term.value, slots))
            if type(term) is Constant and type(term.value) is int
            else self.shard(term, key_type)
            for term in terms
        ]

    def shards(self, target: Target) -> tuple[int, ...]:
        """Return the shards of a target, in order but home first, whose word for columns counts; never none."""
        if isinstance(target, AnyShard | HomeShard):
            return (self._database.home,)
        if isinstance(target, AtCursor):
            raise refusal("where-current-of")
        if isinstance(target, AtShard):
            return (target.shard,)
        if isinstance(target, EveryShard):
            found = set(range(len(self._database.shards)))
        else:
            found = set()
            holders = len(self._database.holders)
            for term in target.terms:
                if len(found) == holders:
                    break  # the shards read the other keys
                if isinstance(term, Elements):
                    found |= self._shards_of_elements(term, target.key_type)
                else:
                    found.add(self.shard(term, target.key_type))
        home = self._database.home
        return tuple(sorted(found, key=lambda shard: (shard != home, shard))) or (home,)

    def _shards_of_elements(self, term: Elements, key_type: str) -> set[int]:
        """Return the shards of an array's elements; all of them where the array is not read here, or long."""
        found: set[int] = set()
        every = set(range(len(self._database.shards)))
        data, form, oid = self._parameter(term.number)
        if data is None:
            return found
        try:
            for sent, element in array_elements(data, form, oid, key_type):
                if not tells(family(sent), family(key_type)):
                    return every
                if self._recode is not None and (sent in TEXT_TYPES or sent == PADDED):
                    element = self._recode(element)  # noqa: PLW2901 - the same in UTF-8
                key = decode_key(sent, element, form)
                found.add(self._database.shard_of_slot(slot_of(key_type, key, self._database.slots)))
                if found == every:
                    break
        except (UnsureKey, UnicodeError):
            return every
        return found

    def own(self, shard: int, key_type: str, sql: str) -> str:
        """Return the SQL condition that a key belongs to a shard."""
        return slot_check(key_type, sql, self._database.slots, *self._database.slot_range(shard))

    def count(self, term: KeyTerm | None, word: str, sqlstate: str) -> int | None:
        """Return the value of LIMIT or OFFSET; NULL is None. Raises what Postgres raises for a negative one."""
        if term is None:
            return None
        if isinstance(term, Constant):
            value = term.value
        else:
            data, form, oid = self._parameter(term.number)
            sent = KEY_TYPE_OIDS.get(oid if oid not in _UNKNOWN_OIDS else _INT8_OID, "")
            try:
                value = decode_key(sent, data, form) if family(sent) == "int8" or data is None else data
            except UnsureKey as error:
                raise UnresolvedKey("int8", error.reason, term.number) from error
        if value is None:
            return None
        if not isinstance(value, int):
            raise UnresolvedKey("int8", f"it is the {word}", term.number if isinstance(term, Parameter) else 0)
        if value < 0:
            raise Refused(f"negative-{word.lower()}", f"{word} must not be negative", sqlstate=sqlstate)
        return value

    def limits(self, limit: KeyTerm | None, offset: KeyTerm | None) -> tuple[int | None, int]:
        """Return LIMIT (None: none) and OFFSET; together they are an int8."""
        most = self.count(limit, "LIMIT", "2201W")
        skipped = self.count(offset, "OFFSET", "2201X") or 0
        return (None if most is None else min(most, _LARGEST - skipped)), skipped


def resolve(  # noqa: PLR0911 - one for each kind of plan
    plan: Plan,
    database: Database,
    parameters: Sequence[KeyParameter] | Callable[[int], KeyParameter] = (),
    recode: Callable[[bytes], bytes] | None = None,
) -> Executable:
    """Resolve a data plan (not one about the session).

    ``recode`` turns texts among the parameters into UTF-8, raising UnicodeError; None: they are in UTF-8.

    Raises UnresolvedKey, and Refused for a negative LIMIT or OFFSET. A single shard gets the original text, whatever
    the plan would have combined.
    """
    resolver = _Resolver(database, parameters, recode)
    if isinstance(plan, CopyIn):
        owners = tuple(database.shard_of_slot(slot) for slot in range(database.slots))
        return CopyInExecution(resolver.shards(plan.target), plan, owners)
    if isinstance(plan, CopyOut):
        return CopyOutExecution(resolver.shards(plan.target), plan)
    if isinstance(plan, Gather):
        return _gather(plan, database.home, resolver)
    if isinstance(plan, MoveRows):
        shards = sorted(resolver.shards(plan.target), key=lambda shard: (shard != database.home, shard))
        return MoveExecution(plan, resolve(plan.read.plan, database, parameters, recode), tuple(shards))
    if isinstance(plan, LockCopies):
        shards = sorted(range(len(database.shards)), key=lambda shard: (shard != database.home, shard))
        return LockCopiesExecution(plan, _execution(plan.home.plan, resolver), tuple(shards))
    if isinstance(plan, ApplyRows):
        shards = sorted(range(len(database.shards)), key=lambda shard: (shard != database.home, shard))
        return ApplyExecution(plan, _execution(plan.home.plan, resolver), tuple(shards))
    if isinstance(plan, LockRows):
        return _lock(plan, resolver)
    if isinstance(plan, Ddl | CreateFrom | CreateSchema | FillView):
        return _definition(plan, database, resolver)
    return _tables(plan, resolver) if isinstance(plan, ReadTables) else _execution(plan, resolver)


def shards_of(target: Target, database: Database) -> tuple[int, ...]:
    """Return the shards of a target that no parameter has a part in; raises UnresolvedKey where one has."""
    return _Resolver(database, (), None).shards(target)


def _definition(
    plan: Ddl | CreateFrom | CreateSchema | FillView, database: Database, resolver: _Resolver
) -> Executable:
    if isinstance(plan, FillView):
        return FillExecution(plan, (database.home,))
    if isinstance(plan, CreateFrom):
        return CreateExecution(plan, resolver.shards(plan.target))
    if isinstance(plan, CreateSchema):
        return SchemaExecution(plan, resolver.shards(plan.target))
    if plan.absent:
        return FoundExecution(resolver.shards(plan.target), plan)
    return _execution(plan, resolver)


def _lock(plan: LockRows, resolver: _Resolver) -> Execution | LockExecution:
    shards = resolver.shards(plan.target)
    limit, offset = resolver.limits(plan.limit, plan.offset)
    if len(shards) == 1:
        return Execution((Task(shards[0]),), Concat(), writes=True)
    return LockExecution(plan, shards, limit, offset)


def shard_of(
    key_type: str,
    value: KeyParameter,
    database: Database,
    recode: Callable[[bytes], bytes] | None = None,
    *,
    modifier: int = -1,
) -> int:
    """Return the shard of a key as it was read from a shard, when it is assigned to the key. Raises UnresolvedKey.

    A char(n) loses the blanks at its end where it becomes a text or varchar; ``modifier`` is the key column's.
    """
    return _Resolver(database, (value,), recode).shard(Parameter(1, modifier), key_type)


def _gather(plan: Gather, home: int, resolver: _Resolver) -> Execution | GatherExecution:
    """Give each shard the loads that it has; where one shard has all that matters, the original text goes there."""
    shards = [resolver.shards(load.target) for load in plan.loads]
    needed = {
        shard for load, found in zip(plan.loads, shards, strict=True) if load.target != AnyShard() for shard in found
    }
    if len(needed) == 1:
        return Execution((Task(needed.pop()),), Concat(), writes=False)
    return GatherExecution(_parts(plan.loads, shards), plan, home)


def _parts(loads: Sequence[Load], shards: Sequence[tuple[int, ...]]) -> tuple[Task, ...]:
    """Return what each shard sends of several loads, which are on these shards."""
    parts: dict[int, list[int]] = {}
    for index, found in enumerate(shards):
        for shard in found:
            parts.setdefault(shard, []).append(index)
    return tuple(Task(shard, shard_text(loads, parts[shard])) for shard in sorted(parts))


def _tables(plan: ReadTables, resolver: _Resolver) -> Execution:
    tasks = _parts(plan.loads, [resolver.shards(load.target) for load in plan.loads])
    named = tuple(replace(task, text=named_text(plan.loads, task.text or "")) for task in tasks)
    return Execution(named, Concat(), writes=False)


def _execution(plan: Plan, resolver: _Resolver) -> Execution:
    if isinstance(plan, Single):
        shards = resolver.shards(plan.target)
        if len(shards) != 1:
            raise UnresolvedKey("", "the keys belong to several shards")
        return Execution((Task(shards[0]),), Concat(), plan.writes)
    if isinstance(plan, Scatter):
        return _scatter(plan, resolver)
    if isinstance(plan, SplitInsert):
        return _split(plan, resolver)
    if isinstance(plan, OwnRows):
        return _own_rows(plan, resolver)
    if isinstance(plan, Ddl | ShardByShard):
        if not isinstance(plan, Ddl):
            tasks = (Task(shard, plan.texts[shard] if plan.texts else None) for shard in resolver.shards(plan.target))
            return Execution(tuple(tasks), Same(), writes=True)
        tasks = (_ddl_task(plan, shard) for shard in resolver.shards(plan.target))
        return Execution(
            tuple(tasks),
            Same(home_first=plan.home_first, moment=plan.moment, defines=plan.catalog_changes),
            writes=True,
        )
    raise TypeError(f"{type(plan).__name__} is the session's own")


def _ddl_task(plan: Ddl, shard: int) -> Task:
    return Task(
        shard,
        plan.texts[shard] if plan.texts else None,
        after=plan.after[shard] if plan.after else (),
        before=plan.before[shard] if plan.before else (),
    )


def _scatter(plan: Scatter, resolver: _Resolver) -> Execution:
    shards = resolver.shards(plan.target)
    combine = plan.combine
    limit, offset = None, 0
    if isinstance(combine, Ordered | Aggregate):
        limit, offset = resolver.limits(combine.limit, combine.offset)
    if len(shards) == 1 and not isinstance(combine, Same):
        return Execution((Task(shards[0]),), Concat(), plan.writes)
    tasks = tuple(Task(shard, resolver.text_on(plan, shard)) for shard in shards)
    return Execution(tasks, combine, plan.writes, limit, offset)


def _split(plan: SplitInsert, resolver: _Resolver) -> Execution:
    rows: dict[int, list[str]] = {}
    shards = resolver.shards_of_rows(plan.keys, plan.key_type)
    for row, shard in zip(plan.rows, shards, strict=True):
        rows.setdefault(shard, []).append(row)
    if len(rows) == 1:
        return Execution((Task(next(iter(rows))),), Concat(), writes=True)
    tasks = tuple(Task(shard, plan.head + ", ".join(rows[shard]) + plan.tail) for shard in sorted(rows))
    positions = {task.shard: position for position, task in enumerate(tasks)}
    return Execution(tasks, InOrder(tuple(positions[shard] for shard in shards)), writes=True)


def _own_rows(plan: OwnRows, resolver: _Resolver) -> Execution:
    shards = resolver.shards(plan.target)
    if len(shards) == 1:
        return Execution((Task(shards[0]),), Concat(), writes=True)
    tasks = []
    for shard in shards:
        text = plan.pieces[0]
        for (key_type, sql), piece in zip(plan.keys, plan.pieces[1:], strict=True):
            text += resolver.own(shard, key_type, sql) + piece
        tasks.append(Task(shard, text))
    return Execution(tuple(tasks), SumTags(), writes=True)
