"""A checker of list-append histories, in the manner of Elle (Kingsbury and Alvaro, VLDB 2020).

Transactions append unique values to lists and read lists. A list that was read tells the order of its versions, so
which transaction came before which follows: by writes (ww), by reads of writes (wr), by writes over reads (rw). Cycles
and some plain looks at lists are anomalies, which ``check`` finds and names:

    G1a                 an aborted transaction's value was read
    G1b                 a value was read that its own transaction had already written over
    incompatible order  two reads of a list that are not prefixes of each other
    duplicate           a value that is in a list twice
    lost write          a committed value that is not in the list at the end
    internal            a transaction does not see what it has written, or (repeatable read) read before
    stale read          a read that began after a COMMIT was acknowledged does not show it
    fractured read      one snapshot shows a part of a transaction and not another
    lost update         a transaction read a list and appended to it, and another one came in between
    G0, G1c, G-single   cycles of ww; of ww and wr; the same with one rw

READ COMMITTED forbids all but lost update and G-single, and of fractured reads it forbids those of one statement; a
history may mix both levels (rw edges count from repeatable read transactions only, as in Adya's mixed histories). More
than one rw in a cycle is write skew or a long fork, which nobody forbids here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from graph import path, strongly_connected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from graph import Graph


class Told(Enum):
    """What the client knows of a transaction's end."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Append:
    key: int
    value: int


@dataclass(frozen=True, slots=True)
class Read:
    """Reads with the same ``statement`` (a number within the transaction) came in one answer."""

    key: int
    values: tuple[int, ...]
    statement: int
    began_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """``ended_s``: when the client was told COMMIT without a warning; None if it was not. ``began_s``: before BEGIN."""

    name: str
    operations: tuple[Append | Read, ...]
    told: Told
    repeatable: bool = False
    ended_s: float | None = None
    began_s: float = 0.0

    @property
    def appends(self) -> Iterator[Append]:
        return (one for one in self.operations if isinstance(one, Append))

    @property
    def reads(self) -> Iterator[Read]:
        return (one for one in self.operations if isinstance(one, Read))

    def __str__(self) -> str:
        level = "RR" if self.repeatable else "RC"
        return f"{self.name} ({level}, {self.told.value})"


@dataclass(frozen=True, slots=True)
class Anomaly:
    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"


@dataclass(slots=True)
class _History:
    """What follows from the transactions: who wrote what, in which order, who is known to have committed."""

    transactions: Sequence[Transaction]
    writer: dict[tuple[int, int], Transaction] = field(default_factory=dict)
    last_of: dict[tuple[Transaction, int], int] = field(default_factory=dict)  # last value in a list, by transaction
    order: dict[int, tuple[int, ...]] = field(default_factory=dict)
    position: dict[tuple[int, int], int] = field(default_factory=dict)
    committed: list[Transaction] = field(default_factory=list)
    found: list[Anomaly] = field(default_factory=list)

    def note(self, kind: str, words: str) -> None:
        self.found.append(Anomaly(kind, words))


def check(transactions: Sequence[Transaction], final: Mapping[int, Sequence[int]]) -> list[Anomaly]:
    """Return every anomaly of a history; ``final`` are the lists as they are at the end."""
    history = _History(transactions)
    _writers(history)
    _orders(history, final)
    _commits(history)
    for one in history.committed:
        _own_view(history, one)
        _fractured(history, one)
        _lost_update(history, one)
    _dirty(history)
    _stale(history)
    if not history.found:
        # A list that nobody can put in order has no edges that mean anything.
        _cycles(history)
    return history.found


def _writers(history: _History) -> None:
    for one in history.transactions:
        for append in one.appends:
            if (append.key, append.value) in history.writer:
                raise ValueError(f"{append} is not unique: this history cannot be judged")
            history.writer[append.key, append.value] = one
            history.last_of[one, append.key] = append.value


def _readings(history: _History, final: Mapping[int, Sequence[int]]) -> dict[int, set[tuple[int, ...]]]:
    """Return every reading of each list that can only hold what was committed when it was made."""
    seen: dict[int, set[tuple[int, ...]]] = defaultdict(set)
    for key, values in final.items():
        seen[key].add(tuple(values))
    for one in history.transactions:
        if one.told is Told.ABORTED:
            continue
        own: set[int] = set()
        for operation in one.operations:
            if isinstance(operation, Append):
                own.add(operation.key)
            elif one.told is Told.COMMITTED or operation.key not in own:
                seen[operation.key].add(operation.values)
    return seen


def _orders(history: _History, final: Mapping[int, Sequence[int]]) -> None:
    """The order of a list is that of its longest reading; all others must be prefixes."""
    for key, readings in _readings(history, final).items():
        longest = history.order[key] = max(readings, key=len)
        if len(set(longest)) != len(longest):
            history.note("duplicate", f"list {key}: {longest}")
        for values in readings:
            if longest[: len(values)] != values:
                history.note("incompatible order", f"list {key}: {values} and {longest}")
        for position, value in enumerate(longest):
            history.position[key, value] = position
            if (key, value) not in history.writer:
                history.note("duplicate", f"list {key} holds {value}, which nobody wrote")
        missing = set(longest) - set(final.get(key, ()))
        if missing:
            history.note("lost write", f"list {key} has lost {sorted(missing)}, which were read before")


def _commits(history: _History) -> None:
    """An unknown transaction has committed if somebody saw it."""
    for one in history.transactions:
        seen = [append for append in one.appends if (append.key, append.value) in history.position]
        if one.told is Told.COMMITTED:
            history.committed.append(one)
            lost = [append for append in one.appends if append not in seen]
            if lost:
                history.note("lost write", f"{one}: {lost}")
        elif one.told is Told.UNKNOWN and seen:
            history.committed.append(one)
            if len(seen) != len(list(one.appends)):
                history.note("lost write", f"{one} is there in part: {seen}")
        elif one.told is Told.ABORTED and seen:
            history.note("G1a", f"{one}: {seen}")


def _dirty(history: _History) -> None:
    """G1b, and G1a by those who read and were aborted themselves or are unknown is the same to them."""
    for one in history.committed:
        for read in one.reads:
            if not read.values:
                continue
            last = read.values[-1]
            writer = history.writer.get((read.key, last))
            if writer is not None and writer is not one and history.last_of[writer, read.key] != last:
                history.note("G1b", f"{one} read list {read.key} up to {last}, in the middle of {writer}")


def _own_view(history: _History, one: Transaction) -> None:
    own: dict[int, list[int]] = defaultdict(list)
    before: dict[int, tuple[int, ...]] = {}
    for operation in one.operations:
        key = operation.key
        if isinstance(operation, Append):
            own[key].append(operation.value)
            continue
        mine = tuple(own[key])
        if mine and operation.values[-len(mine) :] != mine:
            history.note("internal", f"{one} does not find its own {mine} in list {key}: {operation.values}")
        others = operation.values[: len(operation.values) - len(mine)]
        if one.repeatable and before.setdefault(key, others) != others:
            history.note("internal", f"{one} read list {key} as {before[key]}, then as {others}")


def _snapshots(one: Transaction) -> Iterator[dict[int, Read]]:
    """Yield what was read at one moment: all of a repeatable read transaction, or one statement."""
    groups: dict[int, dict[int, Read]] = defaultdict(dict)
    for read in one.reads:
        groups[0 if one.repeatable else read.statement].setdefault(read.key, read)
    return (reads for reads in groups.values() if len(reads) > 1)


def _fractured(history: _History, one: Transaction) -> None:
    for reads in _snapshots(one):
        for read in reads.values():
            for value in read.values:
                writer = history.writer.get((read.key, value))
                if writer is None or writer is one:
                    continue
                for append in writer.appends:
                    other = reads.get(append.key)
                    if other is not None and append.value not in other.values:
                        history.note(
                            "fractured read",
                            f"{one} read {writer} in list {read.key} ({value}), not in {append.key} ({append.value})",
                        )


def _lost_update(history: _History, one: Transaction) -> None:
    if not one.repeatable:
        return
    seen: dict[int, int] = {}
    for operation in one.operations:
        key = operation.key
        if isinstance(operation, Read):
            seen.setdefault(key, len(operation.values))
        elif key in seen:
            length = seen.pop(key)
            position = history.position.get((key, operation.value), length)
            between = [v for v in history.order[key][length:position] if history.writer.get((key, v)) is not one]
            if between:
                history.note("lost update", f"{one} read {length} values of list {key}, and wrote after {between}")


def _stale(history: _History) -> None:
    """What was acknowledged before a read began is in the read, through whichever proxy."""
    ended: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for one in history.committed:
        if one.ended_s is not None:
            for append in one.appends:
                if (append.key, append.value) in history.position:
                    ended[append.key].append((one.ended_s, history.position[append.key, append.value] + 1))
    for one in history.committed:
        for read in one.reads:
            began = one.began_s if one.repeatable else read.began_s
            needed = max((length for at, length in ended[read.key] if at < began), default=0)
            if len(read.values) < needed:
                history.note("stale read", f"{one} read {len(read.values)} of {needed} values of list {read.key}")


# --- cycles ---------------------------------------------------------------------------------------------------


def _edges(history: _History) -> tuple[Graph[Transaction], Graph[Transaction], Graph[Transaction]]:
    ww: Graph[Transaction] = defaultdict(set)
    wr: Graph[Transaction] = defaultdict(set)
    rw: Graph[Transaction] = defaultdict(set)

    def add(graph: Graph[Transaction], source: Transaction | None, target: Transaction | None) -> None:
        if source is not None and target is not None and source is not target:
            graph[source].add(target)

    for key, values in history.order.items():
        writers = [history.writer.get((key, value)) for value in values]
        for source, target in pairwise(writers):
            add(ww, source, target)
    for one in history.committed:
        for read in one.reads:
            if read.values:
                add(wr, history.writer.get((read.key, read.values[-1])), one)
            rest = history.order[read.key][len(read.values) :]
            if one.repeatable and rest:
                add(rw, one, history.writer.get((read.key, rest[0])))
    return ww, wr, rw


def _cycles(history: _History) -> None:
    ww, wr, rw = _edges(history)
    nodes = history.committed
    for group in strongly_connected(nodes, [ww]):
        history.note("G0", _names(group))
    written = {one for group in strongly_connected(nodes, [ww]) for one in group}
    for group in strongly_connected(nodes, [ww, wr]):
        if not written.issuperset(group):
            history.note("G1c", _names(group))
    for group in strongly_connected(nodes, [ww, wr, rw]):
        inside = set(group)
        for source in group:
            for target in rw[source] & inside:
                back = path(target, source, [ww, wr], inside)
                if back is not None:
                    history.note("G-single", f"{source} did not see {_names(back)}")


def _names(group: Iterable[Transaction]) -> str:
    return " -> ".join(str(one) for one in group)
