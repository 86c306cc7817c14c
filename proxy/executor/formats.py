"""Which format each column of a rewritten statement is asked for in, and what of it the client is shown.

The client's Bind names formats for the columns that it knows. Columns that a rewrite appended are asked for in binary,
and those that stand for a visible one in the client's format for that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.executor.failure import CombineFailure
from router.plan import AggregateKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.plan import Aggregate, Ordered

TEXT, BINARY = 0, 1

PAIRED = frozenset({AggregateKind.GROUP, AggregateKind.MIN, AggregateKind.MAX})


def expand(formats: Sequence[int], columns: int) -> tuple[int, ...]:
    """Spell the formats of a Bind out for each of ``columns`` columns; raises as Postgres does when they cannot fit."""
    if len(formats) == columns:
        return tuple(formats)
    if not formats:
        return (TEXT,) * columns
    if len(formats) == 1:
        return (formats[0],) * columns
    raise CombineFailure("08P01", f"bind message has {len(formats)} result formats but query has {columns} columns")


def ordered_formats(formats: Sequence[int], node: Ordered) -> tuple[int, ...]:
    """Return the Bind formats for a statement whose sort keys were appended to ``node.visible`` columns."""
    if any(key.column < node.visible for key in node.keys):
        raise CombineFailure("XX000", "a sort key is not an appended column")
    total = max((key.column + 1 for key in node.keys), default=node.visible)
    return expand(formats, node.visible) + (BINARY,) * (total - node.visible)


def aggregate_formats(formats: Sequence[int], node: Aggregate) -> tuple[int, ...]:
    """Return the Bind formats for the partial columns of ``node``."""
    wanted = expand(formats, node.visible)
    used = [index for column in node.columns for index in column.inputs]
    result = [BINARY] * (max([*used, *node.group], default=-1) + 1)
    for column, chosen in zip(node.columns, wanted, strict=False):
        if column.kind in PAIRED and len(column.inputs) > 1:
            result[column.inputs[1]] = chosen
    return tuple(result)
