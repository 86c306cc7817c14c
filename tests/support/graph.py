"""Directed graphs as dictionaries of sets: strongly connected components (Tarjan, without recursion) and paths."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

Node = TypeVar("Node")
Graph = dict[Node, set[Node]]


def _targets(node: Node, graphs: Sequence[Mapping[Node, AbstractSet[Node]]]) -> Iterator[Node]:
    for graph in graphs:
        yield from graph.get(node, ())


def strongly_connected(  # noqa: C901 - Tarjan's algorithm, in one piece
    nodes: Iterable[Node], graphs: Sequence[Mapping[Node, AbstractSet[Node]]]
) -> Iterator[list[Node]]:
    """Yield the components of more than one node of the graphs' union."""
    index: dict[Node, int] = {}
    low: dict[Node, int] = {}
    on_stack: set[Node] = set()
    stack: list[Node] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, _targets(root, graphs))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, _targets(target, graphs)))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    component = []
                    while not component or component[-1] is not node:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    if len(component) > 1:
                        yield component


def path(
    start: Node, end: Node, graphs: Sequence[Mapping[Node, AbstractSet[Node]]], inside: AbstractSet[Node]
) -> list[Node] | None:
    """Return a shortest path within some nodes, both ends included; None if there is none."""
    came_from: dict[Node, Node | None] = {start: None}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if node is end:
            found: list[Node] = []
            step: Node | None = node
            while step is not None:
                found.append(step)
                step = came_from[step]
            return found[::-1]
        for target in _targets(node, graphs):
            if target in inside and target not in came_from:
                came_from[target] = node
                queue.append(target)
    return None
