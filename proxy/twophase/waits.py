"""Who waits for whom, over all shards: the graph, its knots, and which transaction shall give way. Pure.

A transaction that waits needs every one of its blockers to let go, so a cycle is a deadlock. Postgres finds and ends
those that lie on one server; a cycle that changes from one shard to another does so inside transactions that use
several, and no shard sees it whole.

Decides what is a deadlock and whose turn it is (the youngest; one that commits only if all do), the same in every proxy
that has the same picture. Left to others: getting the picture, and ending a wait (deadlock).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_TABLE_LOCKS = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
# For each mode those that it conflicts with, by position in the line above.
# https://www.postgresql.org/docs/18/explicit-locking.html#TABLE-LOCK-COMPATIBILITY
_CONFLICTS = ({7}, {6, 7}, {4, 5, 6, 7}, {3, 4, 5, 6, 7}, {2, 3, 5, 6, 7}, {2, 3, 4, 5, 6, 7}, {1, 2, 3, 4, 5, 6, 7})


def modes_conflict(held: str, wanted: str) -> bool:
    """Whether one lock keeps another out; every name that Postgres may add does."""
    try:
        one, other = _TABLE_LOCKS.index(held), _TABLE_LOCKS.index(wanted)
    except ValueError:
        return True
    return len(_CONFLICTS) in (one, other) or other in _CONFLICTS[one]


class Node(NamedTuple):
    """A transaction: one that uses several shards, wherever it waits, or a backend's on one. ``key`` tells it apart."""

    key: str
    label: str


class Wait(NamedTuple):
    """One waits for another on a shard. Equal in two readings means that it went on from the first to the second.

    ``pid`` and ``began`` are the waiting backend's process and the start of its transaction, ``since`` of its wait;
    ``held_by`` is which backend, in which of its transactions, or which prepared part is in the way.
    """

    shard: int
    waiter: Node
    blocker: Node
    lock: str
    pid: int
    began: str
    since: str
    held_by: str = ""


class Deadlock(NamedTuple):
    """A cycle, from the transaction that shall give way back to it."""

    victim: Node
    cycle: tuple[Wait, ...]


def rank(age: int, *, committing: bool) -> int:
    """Return what to give ``find_deadlocks`` as the age of a transaction (128 bits): all that commit are older."""
    return age - (1 << 128) if committing else age


def find_deadlocks(waits: Collection[Wait], ages: Mapping[str, int]) -> list[Deadlock]:
    """Return one deadlock for each knot of the graph, with the youngest transaction that may be ended as its victim.

    ``ages`` are the transactions that may be, by key: the greater, the younger. A cycle on a single shard is left to
    Postgres, which ends it by its own rules.
    """
    found = []
    for knot in _knots(waits):
        inside = [wait for wait in waits if wait.waiter in knot and wait.blocker in knot]
        candidates = sorted((node for node in knot if node.key in ages), key=lambda node: ages[node.key], reverse=True)
        for victim in candidates:
            cycle = _shortest_cycle(victim, inside)
            if len({wait.shard for wait in cycle}) > 1:
                found.append(Deadlock(victim, cycle))
                break
    return found


def _knots(waits: Iterable[Wait]) -> list[set[Node]]:
    """Return the strongly connected components with more than one node (Kosaraju: an order of leaving, then back)."""
    ahead: dict[Node, set[Node]] = {}
    back: dict[Node, set[Node]] = {}
    for wait in waits:
        for graph, one, other in ((ahead, wait.waiter, wait.blocker), (back, wait.blocker, wait.waiter)):
            graph.setdefault(one, set()).add(other)
            graph.setdefault(other, set())
    seen: set[Node] = set()
    left: list[Node] = []
    for start in sorted(ahead):
        left += _walk(start, ahead, seen)
    seen = set()
    components = [set(_walk(start, back, seen)) for start in reversed(left)]
    return [component for component in components if len(component) > 1]


def _walk(start: Node, graph: Mapping[Node, set[Node]], seen: set[Node]) -> list[Node]:
    """Walk everything not yet seen that can be reached; return it in the order of leaving."""
    if start in seen:
        return []
    seen.add(start)
    left = []
    stack = [(start, iter(sorted(graph[start])))]
    while stack:
        node, others = stack[-1]
        for other in others:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(sorted(graph[other]))))
                break
        else:
            stack.pop()
            left.append(node)
    return left


def _shortest_cycle(start: Node, waits: Iterable[Wait]) -> tuple[Wait, ...]:
    """Return the shortest way from a node back to it."""
    by_waiter: dict[Node, list[Wait]] = {}
    for wait in sorted(waits):
        by_waiter.setdefault(wait.waiter, []).append(wait)
    reached: dict[Node, Wait] = {}
    queue = deque([start])
    while queue:
        for wait in by_waiter.get(queue.popleft(), ()):
            if wait.blocker == start:
                cycle = [wait]
                while cycle[-1].waiter != start:
                    cycle.append(reached[cycle[-1].waiter])
                return tuple(reversed(cycle))
            if wait.blocker not in reached:
                reached[wait.blocker] = wait
                queue.append(wait.blocker)
    return ()


def describe(deadlock: Deadlock, names: Mapping[int, str]) -> str:
    """Return the cycle in words, a line for each wait, as Postgres has it in DETAIL."""
    return "\n".join(
        f"{_capital(wait.waiter.label)} waits on shard {names[wait.shard]} for {wait.lock}; "
        f"blocked by {wait.blocker.label}."
        for wait in deadlock.cycle
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
