"""Values as SQL has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

_BATCH = 150


def quoted(value: object) -> str:
    """Return a value as SQL has it."""
    if value is None:
        return "null"
    if isinstance(value, bool | int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def inserts(table: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Return INSERTs of some rows each."""
    made = ["(" + ", ".join(map(quoted, row)) + ")" for row in rows]
    return [f"insert into {table} values " + ", ".join(made[n : n + _BATCH]) for n in range(0, len(made), _BATCH)]


def maybe(chance: random.Random, value: Any, odds: float = 0.12) -> Any:
    """Return the value, or NULL now and then."""
    return None if chance.random() < odds else value
